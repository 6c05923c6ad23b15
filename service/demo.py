"""A campus to look at: people, rooms and messages for an empty database."""

import json
import sqlite3
from pathlib import Path

from peewee import DatabaseError

from models import Room, User
from service.database import Refused, SetupError, change, close_database
from service.login import Token
from service.schema import open_database

CAMPUS = Path(__file__).parent.parent / "data" / "demo.json"


def fill(path):
    """Fill the empty database at `path`, made when it is missing, with all of it or nothing."""
    campus = json.loads(CAMPUS.read_text(encoding="utf-8"))
    open_database(path)
    try:
        with change():
            if any(table.select().exists() for table in (User, Room, Token)):
                raise SetupError(f"{path} is not empty; the demo fills only an empty database")
            for user in campus["users"]:
                User.complete(**user)
            for room in campus["rooms"]:
                add_room(**room)
    except (Refused, DatabaseError, sqlite3.DatabaseError) as error:
        raise SetupError(f"cannot fill {path}: {error}") from None
    finally:
        close_database()
    print(f"{path} holds {len(campus['users'])} users and {len(campus['rooms'])} rooms to look at")


def add_room(members, messages, **fields):
    room = Room.by_id(Room.open(**fields))
    for openid in members:
        room.admit(openid)
    for message in messages:
        room.post(**message)
