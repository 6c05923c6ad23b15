/** One room: its members, its messages, and what the user can do in it. */

import { call, callOnce, Failure, newRequestId } from "./api.js";
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
  linkedText,
  make,
  nameOf,
  onSubmit,
  openDialog,
  showProblem,
  showToast,
  userText,
} from "./dom.js";
import { badge, currentSection, headCount, showRooms } from "./lists.js";
import { myOpenid, requireOpenid } from "./me.js";
import { firstNew, markRead, readUpTo } from "./unread.js";

const PAGE = 30;
const REFRESH_PAGE = 100;
const END = 80; // pixels: who is this near to the end is reading the newest message
const PAUSE = 300_000; // milliseconds: messages of one person with less between them are a group

// What is known of a room since the user opened it: room_id as in the url, room, messages, the
// nicknames of members and senders, up to which message the user had read, and who was a member.
// An answer for an earlier visit than the current one is too late and is dropped.
let current = {};

let outbox = []; // messages that are not sent yet; those with a problem wait for the user
let lastDelivery; // they are sent one after the other, in their order
let isAtEnd = true; // whether the newest message is in view

export async function open(room_id) {
  if (room_id !== current.room_id) {
    byId("room-form").reset();
    clearProblem(byId("room-form"));
  }
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
  Object.assign(visit, { room, messages, readUpTo: readUpTo(Number(visit.room_id), messages) });
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
  const known = current.messages;
  const all = new Map([...known, ...messages].map((message) => [message.message_id, message]));
  current.messages = [...all.values()].sort((a, b) => a.message_id - b.message_id);
  const isReadingNewest = isAtEnd;
  if (all.size > known.length) announceMessages(true);
  showMessages();
  if (all.size === known.length) return;
  if (isReadingNewest) scrollToEnd();
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
  isAtEnd = true;
  byId("log").scrollTop = byId("log").scrollHeight;
  byId("to-end").hidden = true;
}

/** Keep the newest message in view when the log gets another height: by a keyboard, for example. */
function watchLog() {
  const log = byId("log");
  let height;
  log.addEventListener("scroll", () => {
    if (log.clientHeight !== height) return; // not the user: see below
    isAtEnd = log.scrollHeight - log.scrollTop - height <= END;
    if (isAtEnd) byId("to-end").hidden = true;
  });
  new ResizeObserver(() => {
    height = log.clientHeight;
    if (isAtEnd) scrollToEnd();
  }).observe(log);
  // What is in the messages is no stop of the Tab key: the log is, and arrows go on from there.
  log.addEventListener("keydown", ({ key }) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (!step) return;
    const stops = [...byId("messages").querySelectorAll("a, button")];
    const index = stops.indexOf(document.activeElement);
    stops[index < 0 && step < 0 ? stops.length - 1 : index + step]?.focus();
  });
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
  byId("room").setAttribute("aria-busy", !room && !problem);
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
  const isFull = users_id.length >= room.capacity;
  if (isMember) current.member = openid;
  const wasMember = !isMember && current.member === openid;
  byId("room-name").replaceChildren(userText(name));
  const mark = badge(state);
  byId("room-facts").replaceChildren(mark, mark.title, userText(section), `房间号 ${room_id}`);
  byId("room-description").replaceChildren(linkedText(description || "（没有描述）", "p"));
  byId("members-count").textContent = headCount(room);
  const members = users_id.map((member) => ({
    openid: member,
    name: nameOf(member, current.nicknames),
    isOwner: member === room_owner_id,
    isMe: member === openid,
    isRemovable: isOwner && member !== openid,
  }));
  fill(byId("members"), members, (member) => member.openid, drawMember);
  const notes = [wasMember && "你已不在这个房间", isFull && !isMember && "房间已满"];
  byId("join-note").textContent = notes.filter(Boolean).join("，");
  const focused = document.activeElement;
  byId("room-form").hidden = !isMember;
  byId("message").placeholder = `${nameOf(openid ?? "", current.nicknames)}：说点什么`;
  byId("join").hidden = isMember || isFull;
  byId("edit").hidden = !isOwner;
  byId("report").hidden = isOwner;
  byId("leave").hidden = !isMember || isOwner;
  byId("close").hidden = !isOwner;
  if (isVisible("room") && !focused.getClientRects().length) byId("room-name").focus();
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
  const { room, room_id, messages, nicknames } = current;
  const isMine = (message) => message.openid === openid;
  const unsent = outbox.filter((message) => message.room_id === room_id && isMine(message));
  const fresh = current.member && firstNew(messages, current.readUpTo);
  let previous = {};
  const items = [...messages, ...unsent].map((message) => {
    const day = dayText(message.time);
    const isOfNewDay = day !== previous.day;
    const line = [isOfNewDay && day, message === fresh && "以下是新留言"].filter(Boolean).join(" · ");
    const isSameSender = message.openid && message.openid === previous.openid;
    const isSoon = Date.parse(message.time) - Date.parse(previous.time) < PAUSE;
    previous = { ...message, day };
    return {
      ...message,
      line,
      isContinued: !line && isSameSender && isSoon,
      name: nameOf(message.openid, nicknames),
      isMine: isMine(message),
      isDeletable: message.message !== "" && (isMine(message) || openid === room.room_owner_id),
      isReportable: message.message !== "" && !isMine(message),
    };
  });
  fill(byId("messages"), items, (item) => item.message_id ?? item.request_id, drawMessage);
  byId("no-messages").hidden = items.length > 0;
  for (const stop of byId("messages").querySelectorAll("a, button")) stop.tabIndex = -1;
  const [newest] = messages.slice(-1);
  if (newest && isVisible("room") && markRead(room.room_id, newest.message_id)) showRooms();
}

function drawMessage(item, li) {
  const { openid, name, message, time, line, isContinued, isMine } = item;
  li.className = `${isMine ? "mine" : ""} ${isContinued ? "continued" : ""}`;
  const at = new Date(time).toLocaleTimeString("zh-CN", { hour: "2-digit", minute: "2-digit" });
  const sender = [nameText(openid, name), make("time", { dateTime: time }, at)];
  const text = message
    ? linkedText(message, "p", { className: "bubble", title: at })
    : make("p", { className: "deleted" }, "已删除");
  li.replaceChildren(
    line ? make("p", { className: "line" }, line) : "",
    avatar(openid, name),
    make(
      "div",
      { className: "message" },
      make("div", { className: "sender" }, sender),
      make("div", { className: "content" }, text, item.request_id ? "" : messageButtons(item)),
      item.request_id ? deliveryState(item) : "",
    ),
  );
}

function messageButtons({ message_id, openid, name, isDeletable, isReportable }) {
  const buttons = [];
  if (isReportable) {
    const label = `举报 ${name} 的留言`;
    buttons.push(linkButton("举报", label, () => openReport(label, openid, message_id)));
  }
  if (isDeletable) {
    buttons.push(linkButton("删除", `删除 ${name} 的留言`, () => deleteMessage(message_id)));
  }
  return buttons;
}

/** Whether a message that the service does not have yet is on its way, and if not, what to do. */
function deliveryState({ request_id, problem }) {
  if (!problem) return make("p", { className: "delivery" }, "正在发送…");
  const entry = outbox.find((each) => each.request_id === request_id);
  return make(
    "p",
    { className: "delivery", role: "alert" },
    `发送失败：${problem}`,
    linkButton("再发一次", "再发一次这条留言", () => deliver(entry)),
    linkButton("取回", "取回这条留言，放进输入框", () => takeBack(entry)),
  );
}

function dayText(time) {
  const date = new Date(time);
  const days = [0, 1].map((ago) => new Date(Date.now() - ago * 86_400_000).toDateString());
  const name = ["今天", "昨天"][days.indexOf(date.toDateString())];
  const isThisYear = date.getFullYear() === new Date().getFullYear();
  const year = isThisYear ? {} : { year: "numeric" };
  const options = { ...year, month: "long", day: "numeric", weekday: "short" };
  return name ?? date.toLocaleDateString("zh-CN", options);
}

/** Show the message at once, and send it. */
function post(message) {
  const { room_id } = current;
  const time = new Date().toISOString();
  const entry = { request_id: newRequestId(), room_id, openid: myOpenid(), message, time };
  outbox.push(entry);
  deliver(entry);
}

function deliver(entry) {
  delete entry.problem;
  announceMessages(false);
  showMessages();
  scrollToEnd();
  const next = () => sendEntry(entry);
  lastDelivery = lastDelivery ? lastDelivery.then(next, next) : next();
}

async function sendEntry(entry) {
  const { request_id, room_id, openid, message } = entry;
  const fields = { room_id, openid, message, request_id };
  try {
    const { message_id, time } = await callOnce("/room/send_message", fields);
    outbox = outbox.filter((each) => each !== entry);
    if (isShown(entry)) merge([{ message_id, openid, message, time }]);
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    entry.problem = error.message;
    if (!isShown(entry)) return;
    if (error.field === "message") takeBack(entry, error); // as it is it is refused again
    else showMessages();
  }
  pollNow();
}

function isShown({ room_id, openid }) {
  return room_id === current.room_id && openid === myOpenid() && current.room;
}

/** Put the text of a message that was not sent back into the form. */
function takeBack(entry, failure) {
  const field = byId("message");
  outbox = outbox.filter((each) => each !== entry);
  showMessages();
  field.value = [entry.message, field.value].filter(Boolean).join("\n");
  field.focus();
  if (failure) showProblem(field.form, failure);
}

/** Run an action that changes the room, and load the result at once. */
async function change(action) {
  await attempt(action);
  pollNow();
}

async function join() {
  const visit = current;
  const openid = await requireOpenid();
  if (!openid) return;
  await call("/usr/join", { room_id: visit.room_id, openid });
  showToast("已加入");
  if (visit !== current || !visit.room) return;
  visit.room.users_id = [...new Set([...visit.room.users_id, openid])];
  show();
  byId("message").focus();
}

async function remove(openid) {
  const { room_id, name } = current.room;
  const isMe = openid === myOpenid();
  const member = nameOf(openid, current.nicknames);
  const question = isMe ? `离开“${name}”？你说过的话会留下。` : `把 ${member} 移出“${name}”？`;
  if (!(await askConfirmation(question, isMe ? "离开" : "移出"))) return;
  await change(async () => {
    await call("/room/kick", { room_id, openid });
    if (isMe) current.member = undefined; // or the user is told again
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
  if (visit !== current) return;
  current = {};
  delete document.body.dataset.detail;
  location.hash = "#/mine";
  showToast("房间已关闭");
}

export function start() {
  watchLog();
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
    if (message.value.trim()) post(message.value);
    message.value = "";
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
