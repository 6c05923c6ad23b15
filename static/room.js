/** One room: who is in it, what they said, and what one can do in it. */

import { call, Failed } from "./api.js";
import { wake } from "./clock.js";
import { agreed, attempt, avatar, byId, fill, make, onSubmit, say, written } from "./dom.js";
import { badge, chosenSection } from "./lists.js";
import { somebody, whoami } from "./me.js";

const PAGE = 30;
const CATCH_UP = 100;
const AT_THE_END = 80; // pixels that still count as reading the newest

// A visit is what is known of a room since it was opened: room_id as in the url, room, messages.
// What is answered to an earlier one than is shown comes too late.
let shown = {};

/** Show a room from the beginning. */
export async function open(room_id) {
  if (room_id !== shown.room_id) byId("room-form").reset();
  const visit = (shown = { room_id });
  show();
  visit.opening = load(visit).catch((error) => lose(visit, error));
  await visit.opening;
}

async function load(visit, options) {
  const { room_id } = visit;
  const [{ rooms }, { messages, has_more }] = await Promise.all([
    call("/search", { key: room_id }, options),
    call("/room/get_message", { room_id, limit: PAGE }, options),
  ]);
  if (visit !== shown) return;
  [visit.room] = rooms;
  visit.messages = messages;
  byId("older").hidden = !has_more;
  readOut(false);
  show();
  toTheEnd();
}

/** Fetch what has changed, and of the messages only the new ones. */
export async function refresh() {
  const visit = shown;
  await visit.opening;
  if (visit !== shown || !visit.room_id) return;
  try {
    await (visit.room ? update(visit) : load(visit, { automatic: true }));
  } catch (error) {
    if (error.passing) throw error;
    lose(visit, error);
  }
}

async function update(visit) {
  await fetchNewer(visit);
  const { rooms } = await call("/search", { key: visit.room_id }, { automatic: true });
  if (visit !== shown || !rooms.length) return; // one that is gone is told at the next look
  [visit.room] = rooms;
  show();
}

async function fetchNewer(visit) {
  for (let has_more = true; has_more && visit === shown; ) {
    const after = visit.messages.at(-1)?.message_id ?? 0;
    const fields = { room_id: visit.room_id, after, limit: CATCH_UP };
    const page = await call("/room/get_message", fields, { automatic: true });
    if (visit === shown) append(page.messages);
    has_more = page.has_more;
  }
}

function append(newer) {
  if (!newer.length) return;
  const log = byId("log");
  const reading = log.scrollHeight - log.scrollTop - log.clientHeight > AT_THE_END;
  shown.messages.push(...newer);
  readOut(true);
  showMessages();
  if (reading) byId("to-end").hidden = false;
  else toTheEnd();
}

async function fetchOlder() {
  const visit = shown;
  if (visit.asksOlder) return;
  visit.asksOlder = true;
  try {
    const { room_id, messages } = visit;
    const before = messages[0].message_id;
    const page = await call("/room/get_message", { room_id, before, limit: PAGE });
    if (visit === shown) prepend(page);
  } finally {
    visit.asksOlder = false;
  }
}

function prepend({ messages, has_more }) {
  const log = byId("log");
  const below = log.scrollHeight - log.scrollTop;
  shown.messages.unshift(...messages);
  byId("older").hidden = !has_more;
  readOut(false);
  showMessages();
  log.scrollTop = log.scrollHeight - below;
}

/** Whether a screen reader says what comes next: what was said before one came need not be. */
function readOut(does) {
  byId("log").setAttribute("aria-live", does ? "polite" : "off");
}

function toTheEnd() {
  byId("log").scrollTop = byId("log").scrollHeight;
  byId("to-end").hidden = true;
}

function lose(visit, error) {
  if (!(error instanceof Failed)) throw error;
  if (visit !== shown) return;
  shown.room = undefined;
  if (!error.passing) shown.room_id = undefined; // for ever: ids are not used again
  if (byId("room-body").contains(document.activeElement)) byId("room-name").focus();
  show(error.message);
}

function show(problem) {
  const { room_id, room } = shown;
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
  const openid = whoami();
  const inside = users_id.includes(openid);
  byId("room-name").replaceChildren(written(name));
  byId("room-facts").replaceChildren(
    badge(state),
    written(section, "span", { className: "section" }),
    `房间号 ${room_id}`,
  );
  byId("room-description").replaceChildren(written(description || "（没有描述）", "p"));
  byId("members-count").textContent = users_id.length;
  const members = users_id.map((each) => ({
    openid: each,
    owner: each === room_owner_id,
    me: each === openid,
    removable: openid === room_owner_id && each !== openid,
  }));
  fill(byId("members"), members, (member) => member.openid, drawMember);
  if (!inside && byId("room-form").contains(document.activeElement)) {
    say("你已不在这个房间");
    byId("room-name").focus();
  }
  byId("room-form").hidden = !inside;
  byId("join").hidden = inside;
  byId("leave").hidden = !inside || openid === room_owner_id;
  byId("close").hidden = openid !== room_owner_id;
  showMessages();
}

function drawMember({ openid, owner, me, removable }, li) {
  li.replaceChildren(avatar(openid), written(openid, "span", { className: "openid" }));
  if (owner) li.append(make("span", { className: "tag" }, "房主"));
  if (me) li.append(make("span", { className: "tag" }, "我"));
  if (!removable) return;
  const button = make("button", { type: "button", className: "link" }, "移出");
  button.setAttribute("aria-label", `移出 ${openid}`);
  button.addEventListener("click", () => remove(openid));
  li.append(button);
}

function showMessages() {
  const openid = whoami();
  const { messages } = shown;
  const items = messages.map((each) => ({ ...each, mine: each.openid === openid }));
  fill(byId("messages"), items, (each) => each.message_id, drawMessage);
  byId("no-messages").hidden = messages.length > 0;
}

function drawMessage({ openid, message, time, mine }, li) {
  li.className = mine ? "mine" : "";
  li.replaceChildren(
    avatar(openid),
    make(
      "div",
      { className: "said" },
      make(
        "div",
        { className: "by" },
        written(openid, "span", { className: "openid" }),
        make("time", { dateTime: time }, moment(new Date(time))),
      ),
      written(message, "p", { className: "bubble" }),
    ),
  );
}

function moment(date) {
  const today = date.toDateString() === new Date().toDateString();
  const day = today ? {} : { month: "numeric", day: "numeric" };
  return date.toLocaleString("zh-CN", { ...day, hour: "2-digit", minute: "2-digit" });
}

/** Do something that changes the room, and look at once what came of it. */
async function change(act) {
  await attempt(act);
  wake();
}

async function join() {
  const { room_id } = shown;
  const openid = await somebody();
  if (!openid) return;
  await call("/usr/join", { room_id, openid });
  say("已加入");
  byId("room-name").focus();
}

async function remove(openid) {
  const { room_id, name } = shown.room;
  const me = openid === whoami();
  const question = me ? `离开“${name}”？你说过的话会留下。` : `把 ${openid} 移出“${name}”？`;
  if (!(await agreed(question, me ? "离开" : "移出"))) return;
  await change(async () => {
    await call("/room/kick", { room_id, openid });
    say(me ? "已离开" : "已移出");
    byId("room-name").focus();
  });
}

async function close() {
  const visit = shown;
  const { room_id, name } = visit.room;
  if (!(await agreed(`关闭“${name}”？成员和留言都会一起删除。`, "关闭房间"))) return;
  await call("/room/delete", { room_id, openid: whoami() });
  say("房间已关闭");
  if (visit !== shown) return;
  shown = {};
  delete document.body.dataset.detail; // nothing is open any more
  location.hash = "#/mine";
}

export function start() {
  byId("join").addEventListener("click", () => change(join));
  byId("leave").addEventListener("click", () => remove(whoami()));
  byId("close").addEventListener("click", () => change(close));
  byId("older").addEventListener("click", () => attempt(fetchOlder));
  byId("to-end").addEventListener("click", toTheEnd);
  onSubmit(byId("room-form"), async ({ message }) => {
    const { room_id } = shown;
    const { value } = message;
    await call("/room/send_message", { room_id, openid: whoami(), message: value });
    if (message.value === value) message.value = ""; // or somebody has written on
    toTheEnd();
    wake();
  });
  byId("message").addEventListener("keydown", (event) => {
    // Safari's Enter that ends a composition comes after it, and is known by its code alone.
    const composes = event.isComposing || event.keyCode === 229;
    const ends = event.key === "Enter" && !event.shiftKey && !composes;
    if (!ends || !matchMedia("(pointer: fine)").matches) return; // a phone's breaks the line
    event.preventDefault();
    event.target.form.requestSubmit();
  });
  onSubmit(byId("new-form"), async ({ name, section, description }) => {
    const openid = await somebody();
    if (!openid) return;
    const opened = await call("/room/add", {
      name: name.value,
      section: section.value,
      description: description.value,
      room_owner_id: openid,
    });
    byId("new-form").reset();
    location.hash = `#/room/${opened.room_id}`;
    wake();
  });
}

/** The form for a new room, in the section that one was looking at. */
export function prepareNew() {
  const { section } = byId("new-form").elements;
  section.value ||= chosenSection();
}
