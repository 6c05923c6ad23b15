"""The rooms of a campus: the tables that keep them and the rules that they live by."""

import json
import logging
import os
import sqlite3
import threading
import time
import unicodedata
from collections import deque
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

from peewee import (
    BigIntegerField,
    Check,
    CompositeKey,
    DatabaseError,
    ForeignKeyField,
    IntegerField,
    JSONField,
    Model,
    OperationalError,
    Select,
    SqliteDatabase,
    TextField,
    fn,
)
from playhouse.sqlite_ext import AutoIncrementField

# Lengths are in characters (Unicode code points).
OPENID_AT_MOST = 64
SEX_AT_MOST = 16
PREFERENCE_AT_MOST = 30
PREFERENCES_AT_MOST = 50
NAME_AT_MOST = 60
SECTION_AT_MOST = 30
DESCRIPTION_AT_MOST = 1000
MESSAGE_AT_MOST = 2000
MEMBERS_AT_MOST = 500
ID_AT_MOST = 2**63 - 1  # the largest integer that SQLite keeps

BUSY_SECONDS = 5
APPLICATION_ID = 0x726F6F6D  # "room": tells our files from those of other programs
UPGRADES = []  # functions that bring the schema up by one version, the first from 1 to 2

# What an operator can do about a fault that SQLite tells in these words.
ADVICE = {
    "is locked": "another program holds the file; end it if it does not by itself",
    "disk is full": "free some space on its disk",
    "disk I/O error": "see whether its disk is full or failing",
    "readonly": "let the user of this service write the file and its folder, or bring them back",
    "unable to open": "let the user of this service read and write the file and its folder",
    "malformed": "stop this service and restore a backup",
    "not a database": "stop this service and restore a backup",
}

log = logging.getLogger("roomapp")


class Refused(Exception):
    """A request that cannot be done, and why: a key of the table of errors.

    `more` is what the answer says beyond that key.
    """

    def __init__(self, error, **more):
        super().__init__(error)
        self.error = error
        self.more = more


class Unusable(Exception):
    """What the service was told to run with and cannot, and why."""


class Turns:
    """A lock that is given in the order of asking, which threading.Lock does not promise."""

    def __init__(self):
        self.guard = threading.Lock()
        self.queue = deque()  # a closed lock for each who asked; the first has the turn

    def acquire(self, timeout):
        mine = threading.Lock()
        mine.acquire()
        with self.guard:
            self.queue.append(mine)
            if self.queue[0] is mine:
                return True
        if mine.acquire(timeout=timeout):
            return True
        with self.guard:
            late = self.queue[0] is not mine
            if late:
                self.queue.remove(mine)
        return not late

    def release(self):
        with self.guard:
            self.queue.popleft()
            if self.queue:
                self.queue[0].release()


class Database(SqliteDatabase):
    def _connect(self):
        """Refuse a file that is missing or cannot be written, where SQLite would make another or
        open it only for reading, and not see that the fault is gone."""
        if not os.access(self.database, os.W_OK):
            raise OperationalError("the file is missing or readonly")
        return super()._connect()

    def rollback(self):
        """Undo, unless SQLite has done so by itself, as it does when the disk is full."""
        if self.connection().in_transaction:
            super().rollback()


database = Database(None)
turns_to_write = Turns()


@contextmanager
def writing():
    """Do what is inside as one change, or not at all.

    The writers of this process take turns here rather than in SQLite, which lets them sleep and
    try again, the unlucky for seconds. It also keeps two threads from writing and checkpointing at
    once, which can damage the file before SQLite 3.51.3 (sqlite.org/wal.html#walresetbug).
    """
    if not turns_to_write.acquire(timeout=BUSY_SECONDS):
        raise Refused("database_busy")
    try:
        with database.atomic("IMMEDIATE"):
            yield
    finally:
        turns_to_write.release()


def reading():
    """Let every query inside see the same moment."""
    return database.atomic("DEFERRED")


def is_busy(error):
    """Whether an error means that another program held the file for too long."""
    return "is locked" in str(error)  # Python 3.10 gives no error code


def fault(error):
    """What a fault of the file is to a client, once the log has told the operator what to do.

    What is no such fault is raised again.
    """
    advice = next((advice for words, advice in ADVICE.items() if words in str(error)), None)
    if advice is None:
        raise error
    log.error("%s: %s", error, advice)
    return "database_busy" if is_busy(error) else "server_error"


def fold(text):
    """The form in which texts are compared: NFKC, case-folded, any run of blanks as one."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def length(column, at_least, at_most):
    return Check(f"length({column}) BETWEEN {at_least} AND {at_most}")


class Table(Model):
    class Meta:
        database = database
        legacy_table_names = False


class Clock(Table):
    """When anything last changed that a client can see, in milliseconds since 1970: one row.

    It strictly grows, so that its ticks also number the messages and order the members.
    """

    id = IntegerField(primary_key=True, constraints=[Check("id = 1")])
    last_time = BigIntegerField()

    @classmethod
    def read(cls):
        return cls.get_by_id(1).last_time

    @classmethod
    def tick(cls):
        """Move on, also within one millisecond and when the system's clock was set back."""
        last_time = max(now(), cls.read() + 1)
        cls.update(last_time=last_time).where(cls.id == 1).execute()
        return last_time


class User(Table):
    openid = TextField(primary_key=True, constraints=[length("openid", 1, OPENID_AT_MOST)])
    sex = JSONField(
        constraints=[
            Check(
                "sex IN ('0', '1', '2') OR json_type(sex) = 'text' AND "
                f"length(json_extract(sex, '$')) BETWEEN 1 AND {SEX_AT_MOST}"
            )
        ]
    )
    preference = JSONField(
        constraints=[
            Check(
                "json_type(preference) = 'array' AND "
                f"json_array_length(preference) <= {PREFERENCES_AT_MOST}"
            )
        ]
    )

    @classmethod
    def known_as(cls, openid):
        user = cls.get_or_none(cls.openid == openid)
        if user is None:
            raise Refused("user_not_found")
        return user

    @classmethod
    def complete(cls, openid, sex, preference):
        """Create the profile or replace it; the same again changes nothing."""
        user = cls.get_or_none(cls.openid == openid)
        if user is None or (user.sex, user.preference) != (sex, preference):
            cls.replace(openid=openid, sex=sex, preference=preference).execute()
            Clock.tick()


class Room(Table):
    room_id = AutoIncrementField()
    name = TextField(constraints=[length("name", 1, NAME_AT_MOST)])
    section = TextField(constraints=[length("section", 1, SECTION_AT_MOST)])
    description = TextField(constraints=[length("description", 0, DESCRIPTION_AT_MOST)])
    room_owner_id = TextField(index=True, constraints=[length("room_owner_id", 1, OPENID_AT_MOST)])
    folded_name = TextField()
    folded_section = TextField(index=True)
    folded_description = TextField()

    @classmethod
    def listed(cls):
        """Every room, newest first, each with its users_id: one query, however many they are."""
        joined = (
            Member.select(Member.openid).where(Member.room == cls.room_id).order_by(Member.joined)
        )
        users_id = Select([joined], [fn.json_group_array(joined.c.openid)])
        return cls.select(cls, users_id.alias("users_id")).order_by(cls.room_id.desc())

    @classmethod
    def owned_by(cls, openid):
        return cls.listed().where(cls.room_owner_id == openid)

    @classmethod
    def joined_by(cls, openid):
        rooms = Member.select(Member.room).where(Member.openid == openid)
        return cls.listed().where(cls.room_id.in_(rooms), cls.room_owner_id != openid)

    @classmethod
    def in_section(cls, section):
        return cls.listed().where(cls.folded_section == fold(section))

    @classmethod
    def numbered(cls, room_id):
        room = cls.get_or_none(cls.room_id == room_id)
        if room is None:
            raise Refused("room_not_found")
        return room

    @classmethod
    def open(cls, name, section, description, room_owner_id):
        room = cls.create(
            name=name,
            section=section,
            description=description,
            room_owner_id=room_owner_id,
            folded_name=fold(name),
            folded_section=fold(section),
            folded_description=fold(description),
        )
        room.admit(room_owner_id)
        return room

    def admit(self, openid):
        """Let openid in; to join twice is to join once."""
        if self.has(openid):
            return
        if self.members.count() >= MEMBERS_AT_MOST:
            raise Refused("room_full")
        Member.create(room=self, openid=openid, joined=Clock.tick())

    def remove(self, openid):
        """Take openid out; what they said stays."""
        if not self.has(openid):
            raise Refused("member_not_found")
        if openid == self.room_owner_id:
            raise Refused("owner_cannot_leave")
        Member.delete().where(Member.room == self, Member.openid == openid).execute()
        Clock.tick()

    def close(self, openid):
        """Delete the room at the wish of openid, its owner; members and messages go with it."""
        if openid != self.room_owner_id:
            raise Refused("not_owner")
        self.delete_instance()
        Clock.tick()

    def post(self, openid, message):
        """Leave a message in the name of openid, a member."""
        if not self.has(openid):
            raise Refused("not_member")
        return Message.create(room=self, message_id=Clock.tick(), openid=openid, message=message)

    def said(self, before=None, after=None):
        """The messages, newest first; those newer than `after` are oldest first."""
        if after is not None:
            newer = self.messages.where(Message.message_id > after)
            return newer.order_by(Message.message_id)
        older = (
            self.messages if before is None else self.messages.where(Message.message_id < before)
        )
        return older.order_by(Message.message_id.desc())

    def has(self, openid):
        return self.members.where(Member.openid == openid).exists()

    def shown(self):
        """The seven fields of the document, of a room that was `listed`."""
        users_id = json.loads(self.users_id)
        return {
            "room_id": self.room_id,
            "name": self.name,
            "section": self.section,
            "description": self.description,
            "room_owner_id": self.room_owner_id,
            "users_id": users_id,
            "state": int(len(users_id) > 1),
        }


class Member(Table):
    """Somebody in a room, the owner too; `joined` is the clock's tick at which they came."""

    room = ForeignKeyField(Room, backref="members", on_delete="CASCADE", index=False)
    joined = BigIntegerField()
    openid = TextField(constraints=[length("openid", 1, OPENID_AT_MOST)])

    class Meta:
        # Clustered by room in the order of joining: a page of rooms reads its members in a row.
        # The key's columns stand first, since the integrity check of SQLite 3.40 takes any that
        # stand between them for NULL.
        primary_key = CompositeKey("room", "joined")
        without_rowid = True
        indexes = ((("openid", "room"), True),)


class Message(Table):
    """What a member said; `message_id` is the clock's tick at which they said it."""

    room = ForeignKeyField(Room, backref="messages", on_delete="CASCADE", index=False)
    message_id = BigIntegerField()
    openid = TextField(constraints=[length("openid", 1, OPENID_AT_MOST)])
    message = TextField(constraints=[length("message", 1, MESSAGE_AT_MOST)])

    class Meta:
        primary_key = CompositeKey("room", "message_id")
        without_rowid = True

    @property
    def time(self):
        return rfc3339(self.message_id)

    def shown(self):
        """The three fields of the document and the message_id."""
        return {
            "openid": self.openid,
            "message": self.message,
            "time": self.time,
            "message_id": self.message_id,
        }


def open_database(path):
    """Open the SQLite file at `path` for every thread, and make it when it is missing.

    Raises Unusable, and leaves the file as it is, when that cannot be or is not ours. This
    thread's connection stays open: by it others see that the file is in use.
    """
    database.init(
        str(path),
        timeout=BUSY_SECONDS,
        pragmas={"synchronous": "full", "foreign_keys": "on"},
    )
    try:
        if not has_ours(path):
            path.touch()
            create_schema()
        file = path.stat().st_ino
        keep_write_ahead_log()
        if database.user_version < schema_version():
            upgrade(path)
        Clock.read()
        if path.stat().st_ino != file:
            raise Unusable(f"{path} was replaced while it was opened")
    except (DatabaseError, sqlite3.DatabaseError, OSError, Unusable) as problem:
        database.close()
        database.init(None)
        if isinstance(problem, Unusable):
            raise
        raise Unusable(f"cannot open the database {path}: {problem}") from None


def has_ours(path):
    """Whether a file holds a database of ours rather than nothing; Unusable if anything else.

    It is told by the file's header (sqlite.org/fileformat.html): SQLite would merge the log of
    another program into its file merely by looking.
    """
    if not path.exists():
        return False
    with path.open("rb") as file:
        header = file.read(100)
    if header and not header.startswith(b"SQLite format 3\0"):
        raise Unusable(f"{path} is not an SQLite database")
    if header and int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise Unusable(f"{path} belongs to another program")
    if int.from_bytes(header[60:64], "big") > schema_version():
        raise Unusable(f"{path} was made by a newer version of roomapp")
    return bool(header)


def schema_version():
    return 1 + len(UPGRADES)


def create_schema():
    with writing():
        database.create_tables([Clock, User, Room, Member, Message])
        for guard in GUARDS:
            database.execute_sql(guard)
        Clock.insert(id=1, last_time=now()).on_conflict_ignore().execute()
        database.application_id = APPLICATION_ID
        database.user_version = schema_version()


# The limits that a CHECK of one row's columns cannot express.
GUARDS = (
    f"""
    CREATE TRIGGER IF NOT EXISTS room_full BEFORE INSERT ON member
    WHEN (SELECT count(*) FROM member WHERE room_id = new.room_id) >= {MEMBERS_AT_MOST}
    BEGIN SELECT RAISE(ABORT, 'room_full'); END
    """,
    f"""
    CREATE TRIGGER IF NOT EXISTS bad_preference BEFORE INSERT ON user
    WHEN EXISTS (
        SELECT 1 FROM json_each(new.preference)
        WHERE type != 'text' OR length(value) NOT BETWEEN 1 AND {PREFERENCE_AT_MOST}
    )
    BEGIN SELECT RAISE(ABORT, 'bad_preference'); END
    """,
)


def keep_write_ahead_log():
    """Have commits synced to a log; SQLite by itself does not wait for others to change to it."""
    patience = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            mode = database.pragma("journal_mode", "wal")
            break
        except OperationalError as error:
            if not is_busy(error) or time.monotonic() > patience:
                raise
            time.sleep(0.01)
    if mode != "wal":
        raise Unusable(f"SQLite cannot keep a write-ahead log beside {database.database}")


def upgrade(path):
    """Bring an older schema up to ours in one transaction, after a copy beside it."""
    old = dated(path, f"version-{database.user_version}")
    copy(database.connection(), old)
    database.foreign_keys = 0  # or a table that is made anew would take along what refers to it
    try:
        with writing():
            for step in UPGRADES[database.user_version - 1 :]:
                step()
            verify(database.connection())
            database.user_version = schema_version()
    except BaseException:
        old.unlink()
        raise
    database.foreign_keys = 1


def copy(source, file, progress=None):
    """Copy the database of an sqlite3 connection, as it is at this moment, to a new file.

    Once this returns the copy is checked and on the disk. `progress` is called as
    sqlite3.Connection.backup does. Raises FileExistsError, and Unusable if the copy is damaged.
    """
    if file.exists():
        raise FileExistsError(f"{file} exists already")
    arriving = dated(file, "arriving")
    try:
        os.close(os.open(arriving, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with closing(sqlite3.connect(arriving, isolation_level=None)) as target:
            source.execute("BEGIN")
            try:
                # Having read, the source keeps to its moment while others write on.
                source.execute("SELECT count(*) FROM sqlite_master").fetchone()
                source.backup(target, pages=1000, progress=progress)
            finally:
                source.execute("ROLLBACK")
            target.execute("PRAGMA journal_mode = delete")  # so that it is a single file
            verify(target)
        sync(arriving)
        os.link(arriving, file)  # which goes over no file, as a renaming may
    finally:
        arriving.unlink(missing_ok=True)
        beside(arriving, "-journal").unlink(missing_ok=True)
    sync(file)


def verify(connection):
    """Raise Unusable when SQLite finds a database damaged."""
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict == "ok" and connection.execute("PRAGMA foreign_key_check").fetchone():
        verdict = "there are members or messages without a room"
    if verdict != "ok":
        raise Unusable(f"the database is damaged: {verdict}")


def sync(file):
    """Have the disk keep a file and its name."""
    with open(file, "rb+") as opened:
        os.fsync(opened.fileno())
    if os.name != "nt":  # Windows opens no folders
        folder = os.open(file.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def dated(path, label):
    """A name beside `path` that tells why and when, to the microsecond in UTC."""
    return beside(path, f".{label}-{datetime.now(timezone.utc):%Y%m%dT%H%M%S.%f}Z")


def beside(path, ending):
    return Path(f"{path}{ending}")


def now():
    return time.time_ns() // 1_000_000


def rfc3339(milliseconds):
    """The moment so long after 1970 in UTC, as `2026-11-23T08:28:00.123Z`."""
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=milliseconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{milliseconds % 1000:03}Z"
