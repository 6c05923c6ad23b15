"""What a key finds: a number looks a room up, a text is matched with LIKE."""

import json
import re
from functools import cache
from threading import BoundedSemaphore

from peewee import SQL

from models import ID_AT_MOST, IN_NAME, IN_TEXT, Room, RoomIndex, fold, separate
from service.database import Refused, compiled, database, time_limit

DIGITS = re.compile("[0-9０-９]+")
SECONDS_AT_MOST = 1

# Few at a time, so that those made to take long leave the machine to others.
searches = BoundedSemaphore(4)


def find(key, limit):
    """The page of rooms that a key finds, as the finders of Room return it."""
    if DIGITS.fullmatch(key):
        room_id = min(int(key), ID_AT_MOST)
        if Room.exists(room_id):
            return Room.with_id(room_id, limit)
    if not searches.acquire(timeout=0.2):
        raise Refused("database_busy")
    try:
        with time_limit(SECONDS_AT_MOST):
            return match(fold(key), limit)
    finally:
        searches.release()


def match(key, limit):
    """The rooms in whose name, section or description every part of a folded key occurs.

    First those whose name is the key, then those with every part in the name, then the rest;
    newest first within each.
    """
    parts = set(key.split())
    most = limit + 1  # one more tells that there are more
    found = dict.fromkeys(Room.named(key, most))
    for where in (IN_NAME, IN_TEXT):
        if len(found) < most:
            found |= dict.fromkeys(matching([like_pattern(part, where) for part in parts], most))
    room_ids = [room_id for (room_id,) in found]
    return Room.in_order(json.dumps(room_ids[:most]), limit)


def like_pattern(folded, separator):
    """A single character with both its separators; two or more make trigrams without the outer."""
    return f"%{separate(folded, separator).center(3, separator)}%"


def matching(patterns, limit):
    """The room_ids whose indexed text matches all of these patterns, newest first."""
    return database.execute_sql(like_query(len(patterns)), [*patterns, limit]).fetchall()


@cache
def like_query(patterns):
    # Peewee writes LIKE as **, without the ESCAPE that would keep SQLite from using the index.
    like = (RoomIndex.text ** SQL("?") for _ in range(patterns))
    rooms = RoomIndex.select(RoomIndex.rowid * -1).where(*like)
    return compiled(rooms.order_by(RoomIndex.rowid).limit(SQL("?")))
