"""What a key finds: a number looks a room up, a text is matched."""

from functools import reduce
from operator import and_, or_

from peewee import Case

from models import Room, fold


def find(key):
    """The rooms that `key`, a number or a text, finds: best first, newest first among equals."""
    if isinstance(key, int):
        return Room.listed().where(Room.room_id == key)
    return matching(fold(key))


def matching(key):
    """The rooms in whose name, section or description every part of a folded key occurs.

    First those whose name is the key, then those with every part in the name, then those with
    every part in the name or the section.
    """
    parts = set(key.split())
    name, section, description = Room.folded_name, Room.folded_section, Room.folded_description
    rank = Case(
        None,
        (
            (name == key, 0),
            (every(parts, name), 1),
            (every(parts, name, section), 2),
        ),
        3,
    )
    found = Room.listed().where(every(parts, name, section, description))
    return found.order_by(rank, Room.room_id.desc())


def every(parts, *fields):
    """Whether each part occurs in one of the fields."""
    return reduce(and_, (reduce(or_, (f.contains(part) for f in fields)) for part in parts))
