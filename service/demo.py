"""A campus to look at: people, rooms and messages for an empty database."""

import json
import sqlite3
from pathlib import Path

from peewee import DatabaseError, fn

from models import Message, Room, User
from service.database import SetupError, apply, close_database
from service.login import Anyone, Token
from service.moderation import Report
from service.schema import open_database

CAMPUS = Path(__file__).parent.parent / "data" / "demo.json"


def fill(path):
    """Fill the empty database at `path`, made when it is missing, with all of it or nothing."""
    campus = json.loads(CAMPUS.read_text(encoding="utf-8"))
    open_database(path)
    try:
        apply(lambda: fill_tables(path, **campus))
    except (DatabaseError, sqlite3.DatabaseError) as error:
        raise SetupError(f"cannot fill {path}: {error}") from None
    finally:
        close_database()
    print(
        f"{path} holds {len(campus['users'])} users and {len(campus['rooms'])} rooms to look at;"
        f" on the page, be {campus['rooms'][0]['room_owner_id']}"
    )


def fill_tables(path, users, rooms):
    if any(table.select().exists() for table in (User, Room, Token)):
        raise SetupError(f"{path} is not empty; the demo fills only an empty database")
    for user in users:
        User.complete(**user)
    for room in rooms:
        add_room(**room)
    spread_messages()


def add_room(members, messages, report=None, **fields):
    """`report` is of the room's last message."""
    room = Room.by_id(Room.open(**fields))
    for openid in members:
        room.admit(openid)
    for message in messages:
        message_id, _ = room.post(**message)
    if report:
        Report.about(room.room_id, message_id, caller=Anyone(), **report)


def spread_messages():
    """Let each conversation have taken an evening, at its own pace, instead of a moment."""
    later = Message.alias()
    count = later.select(fn.COUNT(later.message_id)).where(
        later.room_id == Message.room_id, later.message_id > Message.message_id
    )
    minutes = count * (2 + Message.room_id % 5) + Message.room_id
    Message.update(time=Message.time - 60_000 * minutes).execute()
