"""The schema: creating the tables of a new file, and upgrading those of an older one."""

from models import (
    PREFERENCE_AT_MOST,
    Ban,
    Clock,
    ClosedRoom,
    Member,
    Memory,
    Message,
    Report,
    Room,
    RoomIndex,
    Token,
    User,
    fold,
    now,
)
from service import database as file
from service.database import compiled, database

SCHEMA_VERSION = 6


def open_database(path):
    """Open the file at `path` with these tables; see service.database.open_database."""
    file.open_database(path, SCHEMA_VERSION, create_tables, upgrade_tables)


def create_tables():
    database.create_tables(
        [Clock, User, Room, ClosedRoom, Member, Message, Memory, Report, Ban, Token]
    )
    RoomIndex.create()
    create_guards()
    Clock.insert(id=1, last_time=now()).execute()


def create_guards():
    for guard in GUARDS:
        database.execute_sql(guard)


# The limits that a CHECK of one row's columns cannot express.
GUARDS = (
    """
    CREATE TRIGGER room_full BEFORE INSERT ON member
    WHEN (SELECT count(*) FROM member WHERE room_id = new.room_id)
        >= (SELECT capacity FROM room WHERE room_id = new.room_id)
    BEGIN SELECT RAISE(ABORT, 'room_full'); END
    """,
    """
    CREATE TRIGGER capacity_too_small BEFORE UPDATE OF capacity ON room
    WHEN (SELECT count(*) FROM member WHERE room_id = new.room_id) > new.capacity
    BEGIN SELECT RAISE(ABORT, 'capacity_too_small'); END
    """,
    f"""
    CREATE TRIGGER bad_preference BEFORE INSERT ON user
    WHEN EXISTS (
        SELECT 1 FROM json_each(new.preference)
        WHERE type != 'text' OR length(value) NOT BETWEEN 1 AND {PREFERENCE_AT_MOST}
    )
    BEGIN SELECT RAISE(ABORT, 'bad_preference'); END
    """,
)


def upgrade_tables(version):
    """Bring the tables of an older version up to date."""
    run = database.execute_sql
    if version < 5:
        run("DROP TRIGGER room_full")
        run("DROP TRIGGER bad_preference")
        add_column(Room.capacity)
        if version < 4:
            upgrade_rooms(version)
        database.create_tables([Member, Memory, Report, Ban, Token])
        rebuild(User, "openid, sex, preference, ''")
        create_guards()
    # A room is deleted before its messages.
    database.create_tables([ClosedRoom])
    time = "time" if version >= 4 else "message_id"
    rebuild(Message, f"room_id, message_id, openid, message, {time}")


def upgrade_rooms(version):
    """Bring what is kept of rooms from version 1, 2 or 3 to version 4."""
    run = database.execute_sql
    if version < 2:
        run('CREATE INDEX "room_folded_name" ON "room" ("folded_name")')
    else:
        run("DROP TABLE room_index")
    add_column(Member.is_owner)
    run(
        "UPDATE member SET is_owner = 1 "
        "WHERE openid = (SELECT room_owner_id FROM room WHERE room.room_id = member.room_id)"
    )
    run("ALTER TABLE room DROP COLUMN folded_description")
    RoomIndex.create()
    rooms = Room.select(Room.room_id, Room.name, Room.section, Room.description)
    for room_id, name, section, description in rooms.order_by(-Room.room_id).tuples().iterator():
        folded = {"folded_name": fold(name), "folded_section": fold(section)}
        Room.update(folded).where(Room.room_id == room_id).execute()
        RoomIndex.add(room_id, name, section, description)


def add_column(field):
    ddl = compiled(field.ddl(database.get_sql_context()))
    database.execute_sql(f"ALTER TABLE {field.model._meta.table_name} ADD COLUMN {ddl}")


def rebuild(table, columns):
    """Create a table anew, with these columns of the old one in it."""
    name = table._meta.table_name
    database.execute_sql(f'ALTER TABLE "{name}" RENAME TO old')
    database.create_tables([table])
    database.execute_sql(f'INSERT INTO "{name}" SELECT {columns} FROM old')
    database.execute_sql("DROP TABLE old")
