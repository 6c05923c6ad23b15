/** Which of the user's rooms have messages that are new to the user. */

import { call, Failure } from "./api.js";
import { byId } from "./dom.js";
import { myOpenid, readKey } from "./me.js";
import { recall, remember } from "./storage.js";

const NEWEST = 30; // how many messages of a room are looked at
const CHECK_AGAIN = 30_000; // milliseconds: what was new may be deleted

let checks = new Map(); // room_id: its last_message_id, whether it has new ones, and since when

/** Look again at the user's rooms, each with its last_message_id. */
export async function checkRooms(rooms) {
  const openid = myOpenid();
  const found = await Promise.all(rooms.map(async (room) => [room.room_id, await check(room)]));
  if (openid !== myOpenid()) return;
  checks = new Map(found);
  markNavigation();
}

function markNavigation() {
  byId("unread").hidden = ![...checks.keys()].some(isUnread);
}

async function check({ room_id, last_message_id }) {
  const known = checks.get(room_id);
  const isKnown = known?.last_message_id === last_message_id;
  const at = Date.now();
  if (last_message_id <= lastRead(room_id)) return { last_message_id, hasNew: false, at };
  if (isKnown && (!known.hasNew || at - known.at < CHECK_AGAIN)) return known;
  try {
    const fields = { room_id, limit: NEWEST };
    const { messages } = await call("/room/get_message", fields, { isAutomatic: true });
    const first = firstNew(messages, readUpTo(room_id, messages));
    return { last_message_id, hasNew: first !== undefined, at };
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    return { ...known, at: 0 };
  }
}

export function isUnread(room_id) {
  const { hasNew, last_message_id } = checks.get(room_id) ?? {};
  return Boolean(hasNew) && last_message_id > lastRead(room_id);
}

/** Up to which message the user has read. Who says something has read what was there before. */
export function readUpTo(room_id, messages) {
  const own = messages.filter(({ openid }) => openid === myOpenid());
  return Math.max(lastRead(room_id), ...own.map(({ message_id }) => message_id));
}

/** The first message after that one which others sent, and which is not deleted. */
export function firstNew(messages, after) {
  const openid = myOpenid();
  return messages.find((each) => each.message_id > after && each.message && each.openid !== openid);
}

/** The last message that the user was shown in a room. */
function lastRead(room_id) {
  return recall("localStorage", readKey())?.[room_id] ?? 0;
}

/** Keep what the user was shown; answers whether it is more than before. */
export function markRead(room_id, message_id) {
  if (lastRead(room_id) >= message_id) return false;
  const read = recall("localStorage", readKey());
  remember("localStorage", readKey(), { ...read, [room_id]: message_id });
  markNavigation();
  return true;
}
