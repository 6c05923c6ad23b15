"""What a key finds: a number looks a room up, a text is matched."""

import json

from models import ANYWHERE, NAME, NAME_OR_SECTION, Room, RoomIndex, fold, reading, words


def find(key, limit):
    """The rooms that `key`, a number or a text, finds, as the finders of Room give them."""
    if isinstance(key, int):
        return Room.with_number(key, limit)
    with reading():
        return Room.in_order(json.dumps(matching(fold(key), limit + 1)), limit)


def matching(key, limit):
    """The room_ids in whose name, section or description every part of a folded key occurs.

    First those whose name is the key, then those with every part in the name, then those with
    every part in the name or the section; newest first among equals.
    """
    parts = set(key.split())

    def matches(reach):
        ((room_ids,),) = RoomIndex.matching(every(parts, reach), limit)
        return json.loads(room_ids)

    anywhere = matches(ANYWHERE)
    if len(anywhere) < 2:
        return anywhere  # there is no order to be found out
    ((named,),) = Room.named(key, limit)
    found = dict.fromkeys(json.loads(named))
    for reach in (NAME, NAME_OR_SECTION):
        if len(found) < limit:
            found |= dict.fromkeys(matches(reach))
    return list(found | dict.fromkeys(anywhere))[:limit]


def every(parts, reach):
    """That each part occurs within a reach, in the syntax of FTS5."""
    return " AND ".join(phrase(reach, part) for part in parts)


def phrase(reach, part):
    *pairs, last = words(reach, part)
    return " + ".join(pairs) or f"{last}*"
