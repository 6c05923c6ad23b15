/** Lists of rooms: of a section, of what a key finds, and one's own. */

import { call, Failed } from "./api.js";
import {
  avatar,
  byId,
  fill,
  loading,
  make,
  markCurrent,
  nothing,
  onSubmit,
  problem,
  written,
} from "./dom.js";
import { showCard, whoami } from "./me.js";
import { recall, remember } from "./storage.js";

const PAGE = 20;
const PAGE_AT_MOST = 500;
const TYPING = 250; // milliseconds
const SECTIONS_AT_MOST = 24;

// No endpoint lists the sections: these are common on a campus, more come as rooms are seen.
const COMMON = ["学习", "运动", "游戏", "社团", "桌游", "美食", "拼车", "音乐"];

/** A list on the page, which shows the answers to one question at a time. */
class RoomList {
  constructor(place) {
    this.turn = 0;
    this.list = make("ul", { className: "rooms" });
    this.note = make("div", { className: "note", role: "status" });
    this.button = make("button", { type: "button", className: "more" }, "更多房间");
    this.button.hidden = true;
    this.button.addEventListener("click", () => this.more());
    place.append(this.list, this.note, this.button);
  }

  /** A question: url, fields, whether it `pages` with before, what to say when it finds nothing. */
  ask(question) {
    this.question = question;
    this.rooms = [];
    this.wanted = PAGE;
    this.list.replaceChildren();
    this.button.hidden = true;
    this.note.replaceChildren(loading());
    return this.load({ limit: PAGE });
  }

  more() {
    this.wanted = Math.min(this.rooms.length + PAGE, PAGE_AT_MOST);
    const last = this.rooms.at(-1).room_id;
    return this.question.pages
      ? this.load({ limit: PAGE, before: last }, { behind: this.rooms })
      : this.load({ limit: this.wanted });
  }

  async refresh() {
    if (this.question) await this.load({ limit: this.wanted }, { automatic: true });
  }

  async load(page, { behind = [], automatic = false } = {}) {
    const { url, fields } = this.question;
    const turn = ++this.turn;
    try {
      const { rooms, has_more } = await call(url, { ...fields, ...page }, { automatic });
      if (turn !== this.turn) return; // something else has been asked since
      this.rooms = [...behind, ...rooms];
      this.show(has_more);
      [fields, ...rooms].forEach(({ section }) => section && seeSection(section));
    } catch (error) {
      if (!(error instanceof Failed) || (automatic && error.passing)) throw error;
      if (turn === this.turn) this.fail(error);
    }
  }

  show(has_more) {
    const openid = whoami();
    const items = this.rooms.map((room) => ({ ...room, inside: room.users_id.includes(openid) }));
    fill(this.list, items, ({ room_id }) => room_id, drawRoom);
    this.tell(items.length ? found(items.length, has_more) : this.question.nothing());
    this.button.hidden = !has_more || this.rooms.length >= PAGE_AT_MOST;
  }

  /** Say what came of it beneath what is there; the same is not said again. */
  tell(note) {
    if (this.note.textContent !== note.textContent) this.note.replaceChildren(note);
  }

  fail(error) {
    const isEmpty = this.rooms.length === 0; // otherwise the button for more is still there
    this.tell(isEmpty ? problem(error, () => this.ask(this.question)) : nothing(error.message));
  }
}

/** For those who do not see the rooms come. */
function found(number, has_more) {
  const text = `找到 ${number} 个房间${has_more ? "，还有更多" : ""}`;
  return make("span", { className: "unseen" }, text);
}

function drawRoom(room, li) {
  const { room_id, name, section, description, room_owner_id, users_id, state, inside } = room;
  const link = li.firstElementChild ?? li.appendChild(make("a"));
  link.href = `#/room/${room_id}`;
  markCurrent(link);
  link.replaceChildren(
    avatar(room_owner_id),
    make("span", { className: "title" }, written(name, "strong"), badge(state)),
    written(description, "span", { className: "description" }),
    make(
      "span",
      { className: "facts" },
      written(section, "span", { className: "section" }),
      `${users_id.length} 人`,
      inside ? make("span", { className: "inside" }, "我在里面") : "",
      make("span", { className: "number" }, `#${room_id}`),
    ),
  );
}

export function badge(state) {
  return make("span", { className: `badge state${state}` }, state ? "已激活" : "未激活");
}

let section = recall("sessionStorage", "section") ?? COMMON[0];
let key = "";
const sections = new Set([...COMMON, ...(recall("localStorage", "sections") ?? [])]);
let discovered, owned, joined;

export function start() {
  discovered = new RoomList(byId("discovered"));
  owned = new RoomList(byId("owned"));
  joined = new RoomList(byId("joined"));
  const search = byId("key");
  let typing;
  search.addEventListener("input", ({ isComposing }) => {
    if (!isComposing) typed();
  });
  search.addEventListener("compositionend", typed);
  search.form.addEventListener("submit", (event) => event.preventDefault());
  function typed() {
    clearTimeout(typing);
    typing = setTimeout(() => {
      key = search.value.trim();
      discover();
    }, TYPING);
  }
  onSubmit(byId("section-form"), ({ section: other }) => {
    choose(other.value.trim() || section);
    other.value = "";
  });
}

/** Show the rooms that the key finds, or else those of the section. */
export function discover() {
  drawSections();
  const title = key ? [written(key), " 的搜索结果"] : [written(section), " 的房间"];
  byId("discovered-title").replaceChildren(...title);
  return discovered.ask(key ? finding(key) : inSection(section));
}

function finding(key) {
  return {
    url: "/search",
    fields: { key },
    nothing: () => nothing("没有找到房间，换个词或房间号试试"),
  };
}

function inSection(section) {
  return {
    url: "/room/section",
    fields: { section },
    pages: true,
    nothing: () => nothing("这个分区还没有房间", newRoomLink()),
  };
}

function newRoomLink() {
  return make("a", { href: "#/new", className: "button small" }, "创建第一个房间");
}

export function chosenSection() {
  return section;
}

function choose(name) {
  section = name;
  key = byId("key").value = "";
  remember("sessionStorage", "section", name);
  return discover();
}

function seeSection(name) {
  const known = [...sections].some((each) => each.toLowerCase() === name.toLowerCase());
  if (known || sections.size >= SECTIONS_AT_MOST) return;
  sections.add(name);
  remember("localStorage", "sections", [...sections].slice(COMMON.length));
  drawSections();
}

function drawSections() {
  const items = [...sections].map((name) => ({ name, chosen: !key && name === section }));
  fill(byId("sections"), items, ({ name }) => name, drawSection);
  const options = [...sections].map((value) => make("option", { value }));
  byId("section-names").replaceChildren(...options);
}

function drawSection({ name, chosen }, li) {
  if (!li.firstElementChild) {
    const button = make("button", { type: "button", className: "chip" }, written(name));
    button.addEventListener("click", () => choose(name));
    li.append(button);
  }
  li.firstElementChild.setAttribute("aria-pressed", chosen);
}

/** Show one's profile and the rooms that one opened and joined. */
export async function showMine() {
  const openid = whoami();
  if (!openid) return;
  await Promise.all([
    showCard(),
    owned.ask({
      url: "/usr/roomlist1",
      fields: { openid },
      pages: true,
      nothing: () => nothing("你还没有发起过房间", newRoomLink()),
    }),
    joined.ask({
      url: "/usr/roomlist2",
      fields: { openid },
      pages: true,
      nothing: () => nothing("你还没有参与别人的房间"),
    }),
  ]);
}

export const refreshDiscovered = () => discovered.refresh();

export async function refreshMine() {
  if (!whoami()) return;
  await Promise.all([showCard({ automatic: true }), owned.refresh(), joined.refresh()]);
}
