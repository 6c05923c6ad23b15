/** Lists of rooms: those of a section, search results, and the user's own. */

import { call, Failure } from "./api.js";
import {
  avatar,
  byId,
  emptyNote,
  failureNote,
  fill,
  loadingNote,
  make,
  markCurrent,
  nameOf,
  onSubmit,
  userText,
} from "./dom.js";
import { myOpenid, showCard } from "./me.js";
import { recall, remember } from "./storage.js";
import { checkRooms, isUnread } from "./unread.js";

const PAGE = 20;
const OWN_PAGE = 100; // of the user's own rooms all should be known, because of unread messages
const ROOMS_AT_MOST = 500; // the largest limit that the API takes
const TYPING_PAUSE = 250; // milliseconds
const SECTIONS_AT_MOST = 24;
const CAPACITY_AT_MOST = 500; // what a room holds when its owner sets no limit

// No endpoint lists the sections. These are common; those of rooms that were shown are added.
const COMMON_SECTIONS = ["学习", "运动", "游戏", "社团", "桌游", "美食", "拼车", "音乐"];

/** The answer to one query at a time. A query is a url, its fields, and a note for no rooms. */
class RoomList {
  constructor(place) {
    this.loads = 0;
    this.rooms = [];
    this.list = make("ul", { className: "rooms" });
    this.note = make("div", { className: "note", role: "status" });
    this.button = make("button", { type: "button", className: "more" }, "更多房间");
    this.button.hidden = true;
    this.button.addEventListener("click", () => this.more());
    place.append(this.list, this.note, this.button);
  }

  open(query, options) {
    this.query = query;
    this.rooms = [];
    this.limit = query.page ?? PAGE;
    this.list.replaceChildren();
    this.button.hidden = true;
    this.note.replaceChildren(loadingNote());
    return this.load(options);
  }

  more() {
    this.limit = Math.min(this.rooms.length + PAGE, ROOMS_AT_MOST);
    return this.load();
  }

  async refresh() {
    if (this.query) await this.load({ isAutomatic: true });
  }

  async load({ isAutomatic = false } = {}) {
    const { url, fields } = this.query;
    const load = ++this.loads;
    try {
      const answer = await call(url, { ...fields, limit: this.limit }, { isAutomatic });
      if (load !== this.loads) return; // another one has started since
      this.show(answer);
      for (const { section } of [fields, ...answer.rooms]) if (section) addSection(section);
    } catch (error) {
      const isShown = !this.note.querySelector(".loading");
      if (!(error instanceof Failure) || (isAutomatic && isShown && error.isTemporary)) throw error;
      if (load === this.loads) this.showFailure(error);
    }
  }

  show({ rooms, nicknames, has_more }) {
    this.rooms = rooms;
    this.nicknames = new Map(Object.entries(nicknames));
    this.showRooms();
    this.showNote(rooms.length ? countNote(rooms.length, has_more) : this.query.emptyNote());
    this.button.hidden = !has_more || rooms.length >= ROOMS_AT_MOST;
  }

  showRooms() {
    const openid = myOpenid();
    const items = this.rooms.map((room) => ({
      ...room,
      owner: nameOf(room.room_owner_id, this.nicknames),
      isMember: room.users_id.includes(openid),
      isUnread: isUnread(room.room_id),
    }));
    fill(this.list, items, ({ room_id }) => room_id, drawRoom);
  }

  showFailure(error) {
    if (this.rooms.length) this.showNote(emptyNote(error.message)); // the button for more is there
    else this.showNote(failureNote(error, () => this.open(this.query)));
  }

  /** A screen reader reads each new note, so the same note is not set again. */
  showNote(note) {
    if (this.note.textContent !== note.textContent) this.note.replaceChildren(note);
  }
}

/** For screen readers only. */
function countNote(count, has_more) {
  const text = `找到 ${count} 个房间${has_more ? "，还有更多" : ""}`;
  return make("span", { className: "visually-hidden" }, text);
}

function drawRoom(room, li) {
  const { room_id, name, section, description, room_owner_id, owner, state } = room;
  const link = li.firstElementChild ?? li.appendChild(make("a"));
  link.href = `#/room/${room_id}`;
  markCurrent(link);
  link.replaceChildren(
    avatar(room_owner_id, owner),
    room.isUnread ? make("span", { className: "unread", role: "img", "aria-label": "有新留言" }) : "",
    make("span", { className: "title" }, userText(name, "strong"), badge(state)),
    userText(description, "span", { className: "description" }),
    make(
      "span",
      { className: "facts" },
      userText(section),
      userText(owner),
      headCount(room),
      room.isMember ? make("span", { className: "is-member" }, "我在里面") : "",
      make("span", { className: "number" }, `#${room_id}`),
    ),
  );
}

export function badge(state) {
  const [name, title] = state ? ["已激活", "有人加入"] : ["未激活", "只有房主一人"];
  return make("span", { className: `badge state${state}`, title }, name);
}

/** How many are in a room, and of how many if its owner set a limit: 3/5 人. */
export function headCount({ users_id, capacity }) {
  const limit = capacity < CAPACITY_AT_MOST ? `/${capacity}` : "";
  return `${users_id.length}${limit} 人`;
}

const sections = new Set([...COMMON_SECTIONS, ...(recall("localStorage", "sections") ?? [])]);
let section = recall("sessionStorage", "section") ?? COMMON_SECTIONS[0];
let key = "";
let discoverList, ownedList, joinedList;

export function start() {
  discoverList = new RoomList(byId("discover-rooms"));
  ownedList = new RoomList(byId("owned-rooms"));
  joinedList = new RoomList(byId("joined-rooms"));
  const search = byId("key");
  let timer;
  const searchSoon = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      key = search.value.trim();
      discover();
    }, TYPING_PAUSE);
  };
  search.addEventListener("input", ({ isComposing }) => {
    if (!isComposing) searchSoon();
  });
  search.addEventListener("compositionend", searchSoon);
  search.form.addEventListener("submit", (event) => event.preventDefault());
  onSubmit(byId("section-form"), ({ section: other }) => {
    chooseSection(other.value.trim() || section);
    other.value = "";
  });
}

/** Show the rooms that match the key, or without a key those of the section. */
export function discover() {
  drawSections();
  const title = key ? [userText(key), " 的搜索结果"] : [userText(section), " 的房间"];
  byId("discover-rooms-title").replaceChildren(...title);
  return discoverList.open(key ? searchQuery(key) : sectionQuery(section));
}

function searchQuery(key) {
  return {
    url: "/search",
    fields: { key: searchKey(key) },
    emptyNote: () => emptyNote("没有找到房间，换个词或房间号试试"),
  };
}

function searchKey(text) {
  return text.replace(/^(?:房间号)?\s*[#＃]?\s*([0-9０-９]+)\s*号?$/, "$1");
}

function sectionQuery(section) {
  return {
    url: "/room/section",
    fields: { section },
    emptyNote: () => emptyNote("这个分区还没有房间", newRoomLink()),
  };
}

function newRoomLink() {
  return make("a", { href: "#/new", className: "button small" }, "创建第一个房间");
}

export function currentSection() {
  return section;
}

function chooseSection(name) {
  section = name;
  key = byId("key").value = "";
  remember("sessionStorage", "section", name);
  return discover();
}

function addSection(name) {
  const isKnown = [...sections].some((each) => each.toLowerCase() === name.toLowerCase());
  if (isKnown || sections.size >= SECTIONS_AT_MOST) return;
  sections.add(name);
  remember("localStorage", "sections", [...sections].slice(COMMON_SECTIONS.length));
  drawSections();
}

function drawSections() {
  const items = [...sections].map((name) => ({ name, isCurrent: !key && name === section }));
  fill(byId("sections"), items, ({ name }) => name, drawSection);
  const options = [...sections].map((value) => make("option", { value }));
  byId("section-names").replaceChildren(...options);
}

function drawSection({ name, isCurrent }, li) {
  if (!li.firstElementChild) {
    const button = make("button", { type: "button", className: "chip" }, userText(name));
    button.addEventListener("click", () => chooseSection(name));
    li.append(button);
  }
  li.firstElementChild.setAttribute("aria-pressed", isCurrent);
}

/** Show the user's profile, and the rooms that the user owns and joined. */
export async function showMine() {
  if (myOpenid()) await Promise.all([showCard(), openOwnRooms()]);
}

async function openOwnRooms(options) {
  const openid = myOpenid();
  const own = (url, note) => ({ url, fields: { openid }, page: OWN_PAGE, emptyNote: note });
  const noneOwned = () => emptyNote("你还没有发起过房间", newRoomLink());
  const noneJoined = () => emptyNote("你还没有参与别人的房间");
  await Promise.all([
    ownedList.open(own("/usr/roomlist1", noneOwned), options),
    joinedList.open(own("/usr/roomlist2", noneJoined), options),
  ]);
  await showUnread();
}

async function showUnread(rooms = [...ownedList.rooms, ...joinedList.rooms]) {
  await checkRooms(rooms);
  showRooms();
}

/** Show the rooms again, when one of them was read. */
export function showRooms() {
  for (const list of [discoverList, ownedList, joinedList]) list.showRooms();
}

export function refreshDiscover() {
  return discoverList.refresh();
}

export async function refreshMine() {
  if (myOpenid()) await showCard({ isAutomatic: true });
}

/** On every view, because the navigation shows whether something is unread. */
export async function refreshOwnRooms() {
  const openid = myOpenid();
  if (!openid) return showUnread([]);
  if (openid !== ownedList.query?.fields.openid) return openOwnRooms({ isAutomatic: true });
  await Promise.all([ownedList.refresh(), joinedList.refresh()]);
  await showUnread();
}
