/** One room: its members, its messages, and what the user can do in it. */

import { call, Failure } from "./api.js";
import { pollNow } from "./clock.js";
import {
  askConfirmation,
  attempt,
  avatar,
  byId,
  fill,
  make,
  onSubmit,
  showToast,
  userText,
} from "./dom.js";
import { badge, currentSection } from "./lists.js";
import { myOpenid, requireOpenid } from "./me.js";

const PAGE = 30;
const NEWER_PAGE = 100;
const END = 80; // pixels: who is this near to the end is reading the newest message

// What is known of a room since the user opened it: room_id as in the url, room, messages.
// An answer for an earlier visit than the current one is too late and is dropped.
let current = {};

export async function open(room_id) {
  if (room_id !== current.room_id) byId("room-form").reset();
  const visit = (current = { room_id });
  show();
  visit.opening = load(visit).catch((error) => showFailure(visit, error));
  await visit.opening;
}

async function load(visit, options) {
  const { room_id } = visit;
  const [room, { messages, has_more }] = await Promise.all([
    fetchRoom(room_id, options),
    call("/room/get_message", { room_id, limit: PAGE }, options),
  ]);
  if (visit !== current) return;
  Object.assign(visit, { room, messages });
  byId("older").hidden = !has_more;
  announceMessages(false);
  show();
  scrollToEnd();
}

/** The room, or undefined: a search for the number of no room finds rooms with it in their text. */
async function fetchRoom(room_id, options) {
  const { rooms } = await call("/search", { key: room_id }, options);
  return rooms.find((room) => room.room_id === Number(room_id));
}

/** Load what has changed, and only the new ones of the messages. */
export async function refresh() {
  const visit = current;
  await visit.opening;
  if (visit !== current || !visit.room_id) return;
  try {
    await (visit.room ? update(visit) : load(visit, { isAutomatic: true }));
  } catch (error) {
    if (error.isTemporary) throw error;
    showFailure(visit, error);
  }
}

async function update(visit) {
  await fetchNewer(visit);
  const room = await fetchRoom(visit.room_id, { isAutomatic: true });
  if (visit !== current || !room) return; // the next refresh reports a deleted room
  visit.room = room;
  show();
}

async function fetchNewer(visit) {
  for (let has_more = true; has_more && visit === current; ) {
    const [newest] = visit.messages.slice(-1);
    const after = newest?.message_id ?? 0;
    const fields = { room_id: visit.room_id, after, limit: NEWER_PAGE };
    const page = await call("/room/get_message", fields, { isAutomatic: true });
    if (visit === current) append(page.messages);
    has_more = page.has_more;
  }
}

function append(newer) {
  if (!newer.length) return;
  const log = byId("log");
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight <= END;
  current.messages.push(...newer);
  announceMessages(true);
  showMessages();
  if (isAtEnd) scrollToEnd();
  else byId("to-end").hidden = false;
}

async function fetchOlder() {
  const visit = current;
  if (visit.isFetchingOlder) return;
  visit.isFetchingOlder = true;
  try {
    const { room_id, messages } = visit;
    const before = messages[0].message_id;
    const page = await call("/room/get_message", { room_id, before, limit: PAGE });
    if (visit === current) prepend(page);
  } finally {
    visit.isFetchingOlder = false;
  }
}

function prepend({ messages, has_more }) {
  const log = byId("log");
  const below = log.scrollHeight - log.scrollTop;
  current.messages.unshift(...messages);
  byId("older").hidden = !has_more;
  announceMessages(false);
  showMessages();
  log.scrollTop = log.scrollHeight - below;
}

/** Let a screen reader read the messages that come next, or not: old ones it should not. */
function announceMessages(isOn) {
  byId("log").setAttribute("aria-live", isOn ? "polite" : "off");
}

function scrollToEnd() {
  byId("log").scrollTop = byId("log").scrollHeight;
  byId("to-end").hidden = true;
}

function showFailure(visit, error) {
  if (!(error instanceof Failure)) throw error;
  if (visit !== current) return;
  current.room = undefined;
  if (!error.isTemporary) current.room_id = undefined; // never ask again: ids are not reused
  if (byId("room-body").contains(document.activeElement)) byId("room-name").focus();
  show(error.message);
}

function show(problem) {
  const { room_id, room } = current;
  byId("room").classList.toggle("loading", !room && !problem);
  byId("room-body").hidden = !room;
  byId("room-problem").hidden = !problem;
  byId("room-problem-text").textContent = problem ?? "";
  if (!room) {
    byId("room-name").textContent = problem ? "房间" : "正在加载…";
    byId("room-facts").replaceChildren();
    return;
  }
  const { name, section, description, room_owner_id, users_id, state } = room;
  const openid = myOpenid();
  const isMember = users_id.includes(openid);
  const isOwner = openid === room_owner_id;
  byId("room-name").replaceChildren(userText(name));
  byId("room-facts").replaceChildren(badge(state), userText(section), `房间号 ${room_id}`);
  byId("room-description").replaceChildren(userText(description || "（没有描述）", "p"));
  byId("members-count").textContent = users_id.length;
  const members = users_id.map((member) => ({
    openid: member,
    isOwner: member === room_owner_id,
    isMe: member === openid,
    isRemovable: isOwner && member !== openid,
  }));
  fill(byId("members"), members, (member) => member.openid, drawMember);
  if (!isMember && byId("room-form").contains(document.activeElement)) {
    showToast("你已不在这个房间");
    byId("room-name").focus();
  }
  byId("room-form").hidden = !isMember;
  byId("join").hidden = isMember;
  byId("leave").hidden = !isMember || isOwner;
  byId("close").hidden = !isOwner;
  showMessages();
}

function drawMember({ openid, isOwner, isMe, isRemovable }, li) {
  li.replaceChildren(avatar(openid), userText(openid, "span", { className: "openid" }));
  if (isOwner) li.append(make("span", { className: "tag" }, "房主"));
  if (isMe) li.append(make("span", { className: "tag" }, "我"));
  if (!isRemovable) return;
  const label = { "aria-label": `移出 ${openid}` };
  const button = make("button", { type: "button", className: "link", ...label }, "移出");
  button.addEventListener("click", () => remove(openid));
  li.append(button);
}

function showMessages() {
  const openid = myOpenid();
  const { messages } = current;
  const items = messages.map((message) => ({ ...message, isMine: message.openid === openid }));
  fill(byId("messages"), items, ({ message_id }) => message_id, drawMessage);
  byId("no-messages").hidden = messages.length > 0;
}

function drawMessage({ openid, message, time, isMine }, li) {
  li.className = isMine ? "mine" : "";
  const sender = [
    userText(openid, "span", { className: "openid" }),
    make("time", { dateTime: time }, timeText(new Date(time))),
  ];
  li.replaceChildren(
    avatar(openid),
    make(
      "div",
      { className: "message" },
      make("div", { className: "sender" }, sender),
      userText(message, "p", { className: "bubble" }),
    ),
  );
}

function timeText(date) {
  const isToday = date.toDateString() === new Date().toDateString();
  const day = isToday ? {} : { month: "numeric", day: "numeric" };
  return date.toLocaleString("zh-CN", { ...day, hour: "2-digit", minute: "2-digit" });
}

/** Run an action that changes the room, and load the result at once. */
async function change(action) {
  await attempt(action);
  pollNow();
}

async function join() {
  const { room_id } = current;
  const openid = await requireOpenid();
  if (!openid) return;
  await call("/usr/join", { room_id, openid });
  showToast("已加入");
  byId("room-name").focus();
}

async function remove(openid) {
  const { room_id, name } = current.room;
  const isMe = openid === myOpenid();
  const question = isMe ? `离开“${name}”？你说过的话会留下。` : `把 ${openid} 移出“${name}”？`;
  if (!(await askConfirmation(question, isMe ? "离开" : "移出"))) return;
  await change(async () => {
    await call("/room/kick", { room_id, openid });
    showToast(isMe ? "已离开" : "已移出");
    byId("room-name").focus();
  });
}

async function close() {
  const visit = current;
  const { room_id, name } = visit.room;
  const question = `关闭“${name}”？成员和留言都会一起删除。`;
  if (!(await askConfirmation(question, "关闭房间"))) return;
  await call("/room/delete", { room_id, openid: myOpenid() });
  showToast("房间已关闭");
  if (visit !== current) return;
  current = {};
  delete document.body.dataset.detail;
  location.hash = "#/mine";
}

export function start() {
  byId("join").addEventListener("click", () => change(join));
  byId("leave").addEventListener("click", () => remove(myOpenid()));
  byId("close").addEventListener("click", () => change(close));
  byId("older").addEventListener("click", () => attempt(fetchOlder));
  byId("to-end").addEventListener("click", scrollToEnd);
  onSubmit(byId("room-form"), async ({ message }) => {
    const { room_id } = current;
    const { value } = message;
    await call("/room/send_message", { room_id, openid: myOpenid(), message: value });
    if (message.value === value) message.value = ""; // else the user has typed on
    scrollToEnd();
    pollNow();
  });
  byId("message").addEventListener("keydown", (event) => {
    // In Safari the Enter that ends a composition comes after it, with this keyCode.
    const isComposing = event.isComposing || event.keyCode === 229;
    if (event.key !== "Enter" || event.shiftKey || isComposing) return;
    if (!matchMedia("(pointer: fine)").matches) return; // on a phone Enter is a line break
    event.preventDefault();
    event.target.form.querySelector(".primary").click();
  });
  onSubmit(byId("new-form"), async ({ name, section, description }) => {
    const openid = await requireOpenid();
    if (!openid) return;
    const { room_id } = await call("/room/add", {
      name: name.value,
      section: section.value,
      description: description.value,
      room_owner_id: openid,
    });
    byId("new-form").reset();
    location.hash = `#/room/${room_id}`;
    pollNow();
  });
}

/** Suggest the section that the user was looking at. */
export function prepareNew() {
  byId("new-form").elements.section.value ||= currentSection();
}
