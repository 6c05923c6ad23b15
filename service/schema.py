"""The schema: making the tables of a new file, and upgrading those of an older one."""

import logging
from functools import partial
from pathlib import Path
from time import monotonic

from peewee import OperationalError

from models import Ban, Clock, ClosedRoom, Member, Message, Room, User
from service.backup import copy, verify
from service.database import (
    APPLICATION_ID,
    BUSY_SECONDS,
    SCHEMA_VERSION,
    SetupError,
    apply,
    check_version,
    close_database,
    database,
    now,
    open_file,
)
from service.login import Token
from service.memory import Memory
from service.moderation import Report
from service.text import RoomIndex

TABLES = [Clock, User, Room, ClosedRoom, Member, Message, Memory, Report, Ban, Token]

log = logging.getLogger("roomapp")


def open_database(path, may_upgrade=False):
    """Open the file at `path`, which is made where it is missing; see open_file for errors.

    Only the service may upgrade one of an older version.
    """
    open_file(path, partial(make_tables, may_upgrade=may_upgrade))


def run_beside_service(run, path, **arguments):
    """Run a command on a database that is there, which may be in use."""
    if not path.exists():
        raise SetupError(f"there is no database {path}")
    open_database(path)
    try:
        run(**arguments)
    finally:
        deadline = monotonic() + BUSY_SECONDS
        while database.must_empty_wal and monotonic() < deadline:
            apply(lambda: None)  # its batch empties it, once no reader is in the way
        if database.must_empty_wal:
            print("a reader is in the way of the log: what was deleted is in it until it ends")
        close_database()


def make_tables(path, may_upgrade):
    if not database.get_tables():
        with database.atomic("IMMEDIATE"):
            create_tables()
            database.application_id = APPLICATION_ID
            database.user_version = SCHEMA_VERSION
    version = database.user_version  # as the log has it, not yet the header
    check_version(path, version)
    if version == SCHEMA_VERSION:
        return
    if not may_upgrade:
        raise SetupError(f"{path} has an older schema: restart the service first, to upgrade it")
    upgrade(path, version)


def create_tables():
    database.create_tables(TABLES)
    RoomIndex.create()
    Clock.insert(id=1, last_time=now()).execute()


def upgrade(path, version):
    """Bring an older schema up to date in one transaction, after a copy beside it."""
    try:
        # SQLite gives up its log only for the last who has the file open.
        database.pragma("journal_mode", "delete")
    except OperationalError:
        raise SetupError(f"{path} is in use: stop what has it open, to upgrade it") from None
    # Named by the last change, so that an upgrade that is tried again finds its copy; without the
    # colons, which Windows has in no name.
    old = Path(f"{path}.version-{version}-{Clock.read().replace(':', '')}")
    log.warning("%s has an older schema and is upgraded, after a copy to %s", path, old)
    if not old.exists():
        copy(database.connection(), old)
    database.foreign_keys = 0  # or dropping a table would delete the rows that refer to it
    with database.atomic("IMMEDIATE"):
        for step in range(version + 1, SCHEMA_VERSION + 1):
            UPGRADES[step]()
        verify(database.connection())
        database.user_version = SCHEMA_VERSION
    database.foreign_keys = 1


def upgrade_to_6():
    """In SQL alone, as the models may change after it."""
    for sql in (
        "DROP TRIGGER room_full",
        "DROP TRIGGER capacity_too_small",
        "DROP TRIGGER bad_preference",
        "ALTER TABLE message RENAME TO old",
        "DROP INDEX message_openid",
        "DROP INDEX report_once",
        'ALTER TABLE ban ADD COLUMN "since" INTEGER NOT NULL DEFAULT 0',
        'CREATE TABLE "closed_room" ("room_id" INTEGER NOT NULL PRIMARY KEY)',
        'CREATE TABLE "message" ("room_id" INTEGER NOT NULL, "message_id" INTEGER NOT NULL, '
        '"openid" TEXT NOT NULL CHECK (length(openid) BETWEEN 0 AND 64), '
        '"message" TEXT NOT NULL CHECK (length(message) BETWEEN 0 AND 2000), '
        '"time" INTEGER NOT NULL, PRIMARY KEY ("room_id", "message_id")) WITHOUT ROWID',
        'CREATE INDEX "message_openid" ON "message" ("openid")',
        'CREATE UNIQUE INDEX "report_once" ON "report" '
        '("reporter", "room_id", "message_id", "text") '
        """WHERE (("reporter" != '') AND "is_open")""",
        "INSERT INTO message SELECT room_id, message_id, openid, message, time FROM old",
        "DROP TABLE old",
        "DELETE FROM member WHERE NOT is_owner AND openid IN (SELECT openid FROM ban)",
        "UPDATE clock SET last_time = last_time + 1 WHERE changes() > 0",
    ):
        database.execute_sql(sql)


# version: what makes a file of the version before into one of this
UPGRADES = {6: upgrade_to_6}
