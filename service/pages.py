"""Pages of rooms and messages, as JSON that SQLite makes: here the SQL is the point."""

import json
from typing import NamedTuple

from service.database import execute

PAGE_AT_MOST = 1024 * 1024  # bytes, about
CHUNK = 50  # rooms, of which each may have 500 members, that are read at once
SEPARATOR = ",\n"  # of objects; inside of one it would be written as \\n


class Page(NamedTuple):
    """A page of rooms or messages; `array` and `nicknames` are JSON."""

    name: str
    array: str
    nicknames: str
    has_more: bool


def page_of_rooms(rows, limit, sql=None):
    """A page of the first `limit` rows of a room_id, in their order, with the owners' nicknames."""
    room_ids = [room_id for (room_id,) in rows]
    parts, owners = [], []
    for start in range(0, min(limit, len(room_ids)), CHUNK):
        some = room_ids[start : min(start + CHUNK, limit)]
        ((objects, openids),) = execute(sql or ROOMS, {"room_ids": json.dumps(some)})
        if objects:  # under another server all of them may have gone in the meantime
            parts.append(objects)
            owners += openids.split(" ")
        if sum(map(len, parts)) > PAGE_AT_MOST:
            break
    objects, owners = fit(SEPARATOR.join(parts), owners, limit)
    return Page("rooms", f"[{objects}]", nicknames(owners), len(room_ids) > len(owners))


def page_of_room(room_id):
    """A page of one room, with the nicknames of all its members."""
    ((room, _),) = execute(ROOMS, {"room_ids": f"[{room_id}]"})
    members = execute("SELECT openid FROM member WHERE room_id = ?", [room_id])
    return Page("rooms", f"[{room or ''}]", nicknames([openid for (openid,) in members]), False)


def page_of_messages(sql, room_id, place, limit):
    """A page of the messages of a room on one side of a place, with their senders' nicknames."""
    # One more than asked for tells whether there are more.
    values = {"room_id": room_id, "place": place, "limit": limit + 1}
    ((found, openids),) = execute(sql, values)
    if not found:
        return Page("messages", "[]", "{}", has_more=False)
    openids = openids.split(" ")
    messages, senders = fit(found, openids, limit, from_end=sql is OLDER)
    return Page("messages", f"[{messages}]", nicknames(senders), len(openids) > len(senders))


def fit(objects, openids, limit, from_end=False):
    """At most `limit` of some objects, as one text, or as many as PAGE_AT_MOST bytes hold.

    Returns them, and the openids that belong to them, of which there is one for each.
    """
    if len(openids) <= limit and len(objects) * 4 <= PAGE_AT_MOST:  # no character has more bytes
        return objects, openids
    step = -1 if from_end else 1
    kept, size = [], 0
    for each in objects.split(SEPARATOR)[::step][:limit]:
        size += len(each.encode())
        if size > PAGE_AT_MOST:
            break
        kept.append(each)
    return SEPARATOR.join(kept[::step]), openids[::step][: len(kept)]


def nicknames(openids):
    """A JSON object from openid to nickname, of those of them who have one."""
    ((names,),) = execute(NICKNAMES, [json.dumps([*{*openids}])])
    return names


# The rooms of a JSON array of room_ids, in its order, and their owners.
ROOMS_AND_MORE = """
    SELECT
        group_concat(json_object(
            'room_id', room.room_id,
            'name', name,
            'section', section,
            'description', description,
            'room_owner_id', room_owner_id,
            'users_id', (
                SELECT json_group_array(openid) FROM (
                    SELECT openid FROM member WHERE member.room_id = room.room_id
                    ORDER BY joined)),
            'state', EXISTS (
                SELECT 1 FROM member WHERE member.room_id = room.room_id LIMIT 1 OFFSET 1),
            'capacity', capacity
            {more}), ',' || char(10)),
        group_concat(room_owner_id, ' ')
    FROM json_each(:room_ids) CROSS JOIN room ON room.room_id = value
"""
ROOMS = ROOMS_AND_MORE.format(more="")
ROOMS_TO_READ = ROOMS_AND_MORE.format(
    more=""", 'last_message_id', coalesce((
                SELECT max(message_id) FROM message WHERE message.room_id = room.room_id), 0)"""
)
# The messages of a room on one side of a place, those nearest to it, and who sent them.
MESSAGES = """
    SELECT
        group_concat(json_object(
            'openid', openid,
            'message', message,
            'time', strftime('%Y-%m-%dT%H:%M:%fZ', time / 1000.0, 'unixepoch'),
            'message_id', message_id), ',' || char(10)),
        group_concat(openid, ' ')
    FROM (
        SELECT * FROM (
            SELECT * FROM message WHERE room_id = :room_id AND message_id {nearest_first}
            LIMIT :limit)
        ORDER BY message_id)
"""
OLDER = MESSAGES.format(nearest_first="< :place ORDER BY message_id DESC")
NEWER = MESSAGES.format(nearest_first="> :place ORDER BY message_id")
NICKNAMES = """
    SELECT json_group_object(openid, nickname) FROM user
    WHERE openid IN (SELECT value FROM json_each(?)) AND nickname != ''
"""
