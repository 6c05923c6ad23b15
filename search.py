"""What a key finds: a number looks a room up, a text is matched with LIKE."""

import re
import sqlite3
from contextlib import contextmanager
from functools import cache
from threading import BoundedSemaphore, Lock

from peewee import SQL

from models import ID_AT_MOST, Room
from service.database import (
    Refused,
    compiled,
    execute,
    is_beside_loop,
    is_busy,
    leave_loop,
    read_apart,
    read_at_once,
)
from service.text import IN_NAME, IN_TEXT, RoomIndex, fold, separate

DIGITS = re.compile("[0-9０-９]+")
SECONDS_AT_ONCE = 0.005  # for which a search may hold up others
SECONDS_AT_MOST = 1

# Few long ones at a time, and one of each person.
long_searches = BoundedSemaphore(2)
searchers = set()
searchers_lock = Lock()


def find(key, limit, person):
    """The page of rooms that a key finds, for a person or, where nobody is known, an address."""
    if DIGITS.fullmatch(key):
        room_id = min(int(key), ID_AT_MOST)
        if Room.exists(room_id):
            return Room.with_id(room_id)
    folded = fold(key)
    if not is_beside_loop() and person not in searchers:
        try:
            with read_at_once(SECONDS_AT_ONCE):
                return match(folded, limit)
        except sqlite3.DatabaseError as error:
            if not is_busy(error):
                raise
    leave_loop()
    with one_long_search(person), read_apart(SECONDS_AT_MOST):
        return match(folded, limit)


@contextmanager
def one_long_search(person):
    with searchers_lock:
        if person in searchers or not long_searches.acquire(blocking=False):
            raise Refused("database_busy")
        searchers.add(person)
    try:
        yield
    finally:
        searchers.discard(person)
        long_searches.release()


def match(key, limit):
    """The rooms in whose name, section or description every part of a folded key occurs.

    First those whose name is the key, then those with every part in the name, then the rest;
    newest first within each.
    """
    parts = set(key.split())
    most = limit + 1  # one more tells that there are more
    found = dict.fromkeys(Room.select_named(key, most))
    for where in (IN_NAME, IN_TEXT):
        if len(found) < most:
            found |= dict.fromkeys(matching([like_pattern(part, where) for part in parts], most))
    return Room.page(list(found)[:most], limit)


def like_pattern(folded, separator):
    """A single character with both its separators; two or more make trigrams without the outer."""
    return f"%{separate(folded, separator).center(3, separator)}%"


def matching(patterns, limit):
    """The room_ids whose indexed text matches all of these patterns, newest first."""
    return execute(like_query(len(patterns)), [*patterns, limit])


@cache
def like_query(patterns):
    # Peewee writes LIKE as **, without the ESCAPE that would keep SQLite from using the index.
    like = (RoomIndex.text ** SQL("?") for _ in range(patterns))
    rooms = RoomIndex.select(RoomIndex.rowid * -1).where(*like)
    return compiled(rooms.order_by(RoomIndex.rowid).limit(SQL("?")))
