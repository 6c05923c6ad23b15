"""A campus to look at: people, rooms and what is said in them, for an empty database."""

import json
import sqlite3
import sys
from pathlib import Path

from peewee import DatabaseError

from models import Refused, Room, Token, Unusable, User, close_database, open_database, writing

CAMPUS = Path(__file__).with_name("data") / "demo.json"


def fill(path):
    """Fill the empty database at `path`, made when it is missing, with all of it or nothing."""
    campus = json.loads(CAMPUS.read_text(encoding="utf-8"))
    open_database(path)
    try:
        with writing():
            if any(table.select().exists() for table in (User, Room, Token)):
                raise Unusable(f"{path} is not empty; the demo fills only an empty database")
            settle(**campus)
    except (Refused, DatabaseError, sqlite3.DatabaseError) as error:
        raise Unusable(f"cannot fill {path}: {error}") from None
    finally:
        close_database()
    print(f"{path} holds {len(campus['users'])} users and {len(campus['rooms'])} rooms to look at")


def settle(users, rooms):
    for user in users:
        User.complete(**user)
    for number, room in enumerate(rooms, start=1):
        live(**room)
        print(f"{number} of {len(rooms)}: {room['section']} {room['name']}", file=sys.stderr)


def live(members, messages, **opened):
    """The life of a room: it is opened, others join, and they talk."""
    room = Room.open(**opened)
    for openid in members:
        room.admit(openid)
    for message in messages:
        room.post(**message)
