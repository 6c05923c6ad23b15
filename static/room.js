/** One room: its members, its messages, and what the user can do in it. */

import { call, callOnce, Failure } from "./api.js";
import { pollNow } from "./clock.js";
import {
  askConfirmation,
  attempt,
  avatar,
  byId,
  clearProblem,
  closeDialog,
  fill,
  isVisible,
  make,
  nameOf,
  onSubmit,
  openDialog,
  showToast,
  userText,
} from "./dom.js";
import { badge, currentSection, headCount, markRead } from "./lists.js";
import { myOpenid, requireOpenid } from "./me.js";

const PAGE = 30;
const REFRESH_PAGE = 100;
const END = 80; // pixels: who is this near to the end is reading the newest message

// What is known of a room since the user opened it: room_id as in the url, room, messages, and the
// nicknames of members and senders.
// An answer for an earlier visit than the current one is too late and is dropped.
let current = {};

export async function open(room_id) {
  if (room_id !== current.room_id) byId("room-form").reset();
  const visit = (current = { room_id, nicknames: new Map() });
  show();
  visit.opening = load(visit).catch((error) => showFailure(visit, error));
  await visit.opening;
}

async function load(visit, options) {
  const [room, { messages, has_more }] = await Promise.all([
    fetchRoom(visit, options),
    fetchMessages(visit, { limit: PAGE }, options),
  ]);
  if (visit !== current) return;
  Object.assign(visit, { room, messages });
  byId("older").hidden = !has_more;
  announceMessages(false);
  show();
  scrollToEnd();
}

/** The room, or undefined: a search for the number of no room finds rooms with it in their text. */
async function fetchRoom({ room_id, nicknames }, options) {
  const answer = await call("/search", { key: room_id }, options);
  addNicknames(nicknames, answer);
  return answer.rooms.find((room) => room.room_id === Number(room_id));
}

async function fetchMessages({ room_id, nicknames }, fields, options) {
  const answer = await call("/room/get_message", { room_id, ...fields }, options);
  addNicknames(nicknames, answer);
  return answer;
}

function addNicknames(nicknames, answer) {
  for (const [openid, name] of Object.entries(answer.nicknames)) nicknames.set(openid, name);
}

/** Load what has changed. */
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
  await refreshMessages(visit);
  const room = await fetchRoom(visit, { isAutomatic: true });
  if (visit !== current || !room) return; // the next refresh reports a deleted room
  visit.room = room;
  show();
}

/** Load the newer messages, and those that are shown again: some may be deleted. */
async function refreshMessages(visit) {
  let after = visit.messages.length ? visit.messages[0].message_id - 1 : 0;
  for (let has_more = true; has_more && visit === current; ) {
    const fields = { after, limit: REFRESH_PAGE };
    const page = await fetchMessages(visit, fields, { isAutomatic: true });
    if (visit === current) merge(page.messages);
    has_more = page.has_more;
    after = page.messages.slice(-1)[0]?.message_id;
  }
}

function merge(messages) {
  const log = byId("log");
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight <= END;
  const known = current.messages;
  const all = new Map([...known, ...messages].map((message) => [message.message_id, message]));
  current.messages = [...all.values()];
  if (all.size === known.length) return;
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
    const before = visit.messages[0].message_id;
    const page = await fetchMessages(visit, { before, limit: PAGE });
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
  byId("members-count").textContent = headCount(room);
  const members = users_id.map((member) => ({
    openid: member,
    name: nameOf(member, current.nicknames),
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
  byId("edit").hidden = !isOwner;
  byId("report").hidden = isOwner;
  byId("leave").hidden = !isMember || isOwner;
  byId("close").hidden = !isOwner;
  showMessages();
}

function drawMember({ openid, name, isOwner, isMe, isRemovable }, li) {
  li.replaceChildren(avatar(openid, name), nameText(openid, name));
  if (isOwner) li.append(make("span", { className: "tag" }, "房主"));
  if (isMe) li.append(make("span", { className: "tag" }, "我"));
  if (!isRemovable) return;
  li.append(linkButton("移出", `移出 ${name}`, () => remove(openid)));
}

function nameText(openid, name) {
  return userText(name, "span", { className: "name", title: openid });
}

function linkButton(text, label, action) {
  const button = make("button", { type: "button", className: "link", "aria-label": label }, text);
  button.addEventListener("click", action);
  return button;
}

function showMessages() {
  const openid = myOpenid();
  const { room, messages, nicknames } = current;
  const items = messages.map((message) => ({
    ...message,
    name: nameOf(message.openid, nicknames),
    isMine: message.openid === openid,
    isDeletable: message.message !== "" && [message.openid, room.room_owner_id].includes(openid),
    isReportable: message.message !== "" && message.openid !== openid,
  }));
  fill(byId("messages"), items, ({ message_id }) => message_id, drawMessage);
  byId("no-messages").hidden = messages.length > 0;
  const [newest] = messages.slice(-1);
  if (newest && isVisible("room")) markRead(room.room_id, newest.message_id);
}

function drawMessage(item, li) {
  const { message_id, openid, name, message, time, isMine, isDeletable, isReportable } = item;
  li.className = isMine ? "mine" : "";
  const sender = [
    nameText(openid, name),
    make("time", { dateTime: time }, timeText(new Date(time))),
  ];
  if (isReportable) {
    const label = `举报 ${name} 的留言`;
    sender.push(linkButton("举报", label, () => openReport(label, openid, message_id)));
  }
  if (isDeletable) {
    sender.push(linkButton("删除", `删除 ${name} 的留言`, () => deleteMessage(message_id)));
  }
  li.replaceChildren(
    avatar(openid, name),
    make(
      "div",
      { className: "message" },
      make("div", { className: "sender" }, sender),
      message
        ? userText(message, "p", { className: "bubble" })
        : make("p", { className: "deleted" }, "已删除"),
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
  const member = nameOf(openid, current.nicknames);
  const question = isMe ? `离开“${name}”？你说过的话会留下。` : `把 ${member} 移出“${name}”？`;
  if (!(await askConfirmation(question, isMe ? "离开" : "移出"))) return;
  await change(async () => {
    await call("/room/kick", { room_id, openid });
    showToast(isMe ? "已离开" : "已移出");
    byId("room-name").focus();
  });
}

async function deleteMessage(message_id) {
  const { room_id } = current;
  if (!(await askConfirmation("删除这条留言？大家都不会再看到它。", "删除"))) return;
  await change(async () => {
    await call("/room/delete_message", { room_id, openid: myOpenid(), message_id });
    showToast("已删除");
    byId("log").focus({ preventScroll: true });
  });
}

let reported; // the fields of the room or the message that the report dialog is about

/** Ask why the user reports something that `author` wrote. */
async function openReport(title, author, message_id) {
  const { room_id } = current;
  const openid = await requireOpenid();
  if (!openid || openid === author) return;
  reported = { room_id, message_id };
  byId("report-title").textContent = title;
  byId("report-form").reset();
  clearProblem(byId("report-form"));
  openDialog(byId("report-dialog"));
}

function reportRoom() {
  const { name, room_owner_id } = current.room;
  return openReport(`举报房间“${name}”`, room_owner_id);
}

function openEditor() {
  const form = byId("edit-form");
  for (const name of ["name", "section", "description", "capacity"]) {
    form.elements[name].value = current.room[name];
  }
  clearProblem(form);
  openDialog(byId("edit-dialog"));
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
  byId("edit").addEventListener("click", openEditor);
  byId("edit-cancel").addEventListener("click", () => closeDialog(byId("edit-dialog")));
  byId("report").addEventListener("click", reportRoom);
  byId("report-cancel").addEventListener("click", () => closeDialog(byId("report-dialog")));
  byId("leave").addEventListener("click", () => remove(myOpenid()));
  byId("close").addEventListener("click", () => change(close));
  byId("older").addEventListener("click", () => attempt(fetchOlder));
  byId("to-end").addEventListener("click", scrollToEnd);
  onSubmit(byId("room-form"), async ({ message }) => {
    const { room_id } = current;
    const { value } = message;
    await callOnce("/room/send_message", { room_id, openid: myOpenid(), message: value });
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
  onSubmit(byId("edit-form"), async ({ name, section, description, capacity }) => {
    await call("/room/complete", {
      room_id: current.room_id,
      openid: myOpenid(),
      name: name.value,
      section: section.value,
      description: description.value,
      capacity: capacity.value,
    });
    closeDialog(byId("edit-dialog"));
    showToast("已保存");
    pollNow();
  });
  onSubmit(byId("report-form"), async ({ reason }) => {
    await call("/room/report", { ...reported, openid: myOpenid(), reason: reason.value });
    closeDialog(byId("report-dialog"));
    showToast("举报已收到");
  });
  onSubmit(byId("new-form"), async ({ name, section, description, capacity }) => {
    const openid = await requireOpenid();
    if (!openid) return;
    const { room_id } = await callOnce("/room/add", {
      name: name.value,
      section: section.value,
      description: description.value,
      room_owner_id: openid,
      capacity: capacity.value || undefined,
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
