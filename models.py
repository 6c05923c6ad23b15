"""The rooms of a campus: the tables that keep them and the rules that they live by.

Where nobody's identity is verified, who asks is None, to whom everything is allowed.
"""

import gc
import json
import logging
import os
import re
import secrets
import sqlite3
import time
import unicodedata
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timezone
from functools import cache
from hashlib import sha256
from inspect import signature
from itertools import chain
from pathlib import Path

from peewee import (
    EXCLUDED,
    SQL,
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
    ValueLiterals,
    fn,
)
from playhouse.sqlite_ext import AutoIncrementField, FTS5Model, SearchField

from turns import Turns

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
KEY_AT_MOST = 60
CODE_AT_MOST = 128  # WeChat's have 32
ID_AT_MOST = 2**63 - 1  # the largest integer that SQLite keeps

LIMIT_AT_MOST = 500  # rows on a page
LIMIT_BY_DEFAULT = 100

# Unicode's white space. str.strip() by itself would also cut off the controls U+001C to U+001F.
BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
CONTROLS_BUT_BREAKS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

TOKEN_SECONDS = 7 * 24 * 60 * 60
BUSY_SECONDS = 5
APPLICATION_ID = 0x726F6F6D  # "room": tells our files from those of other programs

# What an operator can do about a fault that SQLite tells in these words.
ADVICE = {
    "No space left": "free some space on its disk",
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
turns = Turns()


@contextmanager
def writing():
    """Do what is inside as one change, or not at all.

    Writers take turns here rather than in SQLite, which lets them sleep and try again, the unlucky
    for seconds. It also keeps two from writing and checkpointing at once, which can damage the
    file before SQLite 3.51.3 (sqlite.org/wal.html#walresetbug).
    """
    try:
        with turns.taken(queue(), BUSY_SECONDS), database.atomic("IMMEDIATE"):
            yield
    except TimeoutError:
        raise Refused("database_busy") from None
    except OSError as error:
        raise OperationalError(f"unable to open the queue of writers: {error}") from None


def queue():
    return f"{database.database}-turns"


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


def compiled(build):
    """Turn a function that builds a Peewee query into one that runs it and returns its rows.

    It is built once, with SQL's named parameters for arguments, which each call binds: that takes
    Peewee some 100 µs, many times what SQLite needs to run the query.
    """
    names = tuple(signature(build).parameters)

    @cache
    def sql():
        query = build(*(SQL(f":{name}") for name in names))
        return database.get_sql_context().parse(ValueLiterals(query))[0]

    def run(*values):
        return database.execute_sql(sql(), dict(zip(names, values, strict=True))).fetchall()

    return staticmethod(run)


def array(rows, **fields):
    """One JSON array of objects, made of rows by SQLite.

    sqlite3 lets go of the interpreter at every row that it fetches, and gets it back late when
    other threads want it.
    """
    written = chain.from_iterable(fields.items())
    return Select([rows], [fn.json_group_array(fn.json_object(*written))])


def more(rows, limit):
    """Whether there are more rows than `limit`."""
    return fn.EXISTS(rows.limit(1).offset(limit))


def rfc3339(milliseconds):
    """The expression of the moment so long after 1970 in UTC, as `2026-11-23T08:28:00.123Z`."""
    return fn.strftime("%Y-%m-%dT%H:%M:%fZ", milliseconds / SQL("1000.0"), "unixepoch")


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
        ((last_time,),) = cls.shown()
        return last_time

    @classmethod
    def tick(cls):
        """Move on, also within one millisecond and when the system's clock was set back."""
        ((last_time,),) = cls.moved(now())
        return last_time

    @compiled
    def shown():
        return Clock.select(rfc3339(Clock.last_time)).where(Clock.id == 1)

    @compiled
    def moved(now):
        later = fn.max(now, Clock.last_time + 1)
        return Clock.update(last_time=later).where(Clock.id == 1).returning(Clock.last_time)


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
    def known_as(cls, openid, reader):
        """The profile of openid, for themself, for somebody in a common room, or for None."""
        for sex, preference in cls.profile(openid):
            if reader not in (None, openid) and not Member.met(openid, reader):
                raise Refused("identity_mismatch")
            return cls(openid=openid, sex=json.loads(sex), preference=json.loads(preference))
        raise Refused("user_not_found")

    @classmethod
    def complete(cls, openid, sex, preference):
        """Create the profile or replace it; the same again changes nothing."""
        if cls.replaced(openid, json.dumps(sex), json.dumps(preference)):
            Clock.tick()

    @classmethod
    def exists(cls, openid):
        return bool(cls.profile(openid))

    @compiled
    def profile(openid):
        return User.select(User.sex, User.preference).where(User.openid == openid)

    @compiled
    def replaced(openid, sex, preference):
        user = User.insert(openid=openid, sex=fn.json(sex), preference=fn.json(preference))
        return user.on_conflict(
            conflict_target=[User.openid],
            preserve=[User.sex, User.preference],
            where=(User.sex != EXCLUDED.sex) | (User.preference != EXCLUDED.preference),
        ).returning(User.openid)


class Room(Table):
    room_id = AutoIncrementField()
    name = TextField(constraints=[length("name", 1, NAME_AT_MOST)])
    section = TextField(constraints=[length("section", 1, SECTION_AT_MOST)])
    description = TextField(constraints=[length("description", 0, DESCRIPTION_AT_MOST)])
    room_owner_id = TextField(index=True, constraints=[length("room_owner_id", 1, OPENID_AT_MOST)])
    folded_name = TextField(index=True)
    folded_section = TextField(index=True)
    folded_description = TextField()

    # The finders of many have one row: the rooms as JSON, and whether there are more.

    @compiled
    def owned_by(openid, limit, before):
        return listed(newest(before).where(Room.room_owner_id == openid), limit)

    @compiled
    def joined_by(openid, limit, before):
        joined = Room.select().join(Member).where(Member.openid == openid, Member.room < before)
        others = joined.where(Room.room_owner_id != openid)
        return listed(others.order_by(Member.room.desc()), limit)

    @compiled
    def in_section(folded_section, limit, before):
        return listed(newest(before).where(Room.folded_section == folded_section), limit)

    @compiled
    def with_number(room_id, limit):
        return listed(Room.select().where(Room.room_id == room_id), limit)

    @compiled
    def in_order(room_ids, limit):
        """The rooms of a JSON array of room_ids."""
        given = fn.json_each(room_ids).alias("given")
        rooms = Room.select().from_(given, Room).where(Room.room_id == given.c.value)
        return listed(rooms.order_by(given.c.key), limit)

    @compiled
    def named(folded_name, limit):
        """A JSON array of room_ids, newest first."""
        rooms = newest(ID_AT_MOST).where(Room.folded_name == folded_name).limit(limit)
        return Select([rooms], [fn.json_group_array(rooms.c.room_id)])

    @classmethod
    def numbered(cls, room_id):
        for (room_owner_id,) in cls.owner(room_id):
            return cls(room_id=room_id, room_owner_id=room_owner_id)
        raise Refused("room_not_found")

    @classmethod
    def open(cls, name, section, description, room_owner_id):
        folded = fold(name), fold(section), fold(description)
        ((room_id,),) = cls.added(name, section, description, room_owner_id, *folded)
        RoomIndex.add(room_id, *folded)
        room = cls(room_id=room_id, room_owner_id=room_owner_id)
        room.admit(room_owner_id)
        return room

    def admit(self, openid):
        """Let openid in; to join twice is to join once."""
        if self.has(openid):
            return
        ((members,),) = Member.counted(self.room_id)
        if members >= MEMBERS_AT_MOST:
            raise Refused("room_full")
        Member.added(self.room_id, Clock.tick(), openid)

    def remove(self, openid, by):
        """Take openid out at the wish of the owner, of openid, or of None; what they said stays."""
        if not self.has(openid):
            raise Refused("member_not_found")
        if by not in (None, openid, self.room_owner_id):
            raise Refused("not_owner")
        if openid == self.room_owner_id:
            raise Refused("owner_cannot_leave")
        Member.removed(self.room_id, openid)
        Clock.tick()

    def close(self, openid):
        """Delete the room at the wish of openid, its owner; members and messages go with it."""
        if openid != self.room_owner_id:
            raise Refused("not_owner")
        (folded,) = Room.removed(self.room_id)
        RoomIndex.remove(self.room_id, *folded)
        Clock.tick()

    def post(self, openid, message):
        """Leave a message in the name of openid, a member; it has a message_id and a time."""
        if not self.has(openid):
            raise Refused("not_member")
        message_id = Clock.tick()
        ((sent,),) = Message.added(self.room_id, message_id, openid, message)
        return message_id, sent

    def has(self, openid):
        return bool(Member.found(self.room_id, openid))

    @compiled
    def owner(room_id):
        return Room.select(Room.room_owner_id).where(Room.room_id == room_id)

    @compiled
    def added(name, section, description, owner, folded_name, folded_section, folded_description):
        room = Room.insert(
            name=name,
            section=section,
            description=description,
            room_owner_id=owner,
            folded_name=folded_name,
            folded_section=folded_section,
            folded_description=folded_description,
        )
        return room.returning(Room.room_id)

    @compiled
    def removed(room_id):
        room = Room.delete().where(Room.room_id == room_id)
        return room.returning(Room.folded_name, Room.folded_section, Room.folded_description)


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

    @compiled
    def found(room_id, openid):
        return Member.select(Member.joined).where(Member.room == room_id, Member.openid == openid)

    @compiled
    def met(openid, other):
        """The rooms, one at most, in which both are."""
        others = Member.alias()
        both = Member.select(Member.room).join(others, on=(others.room == Member.room))
        return both.where(Member.openid == openid, others.openid == other).limit(1)

    @compiled
    def counted(room_id):
        return Member.select(fn.count()).where(Member.room == room_id)

    @compiled
    def added(room_id, joined, openid):
        return Member.insert(room=room_id, joined=joined, openid=openid)

    @compiled
    def removed(room_id, openid):
        return Member.delete().where(Member.room == room_id, Member.openid == openid)


class Message(Table):
    """What a member said; `message_id` is the clock's tick at which they said it."""

    room = ForeignKeyField(Room, backref="messages", on_delete="CASCADE", index=False)
    message_id = BigIntegerField()
    openid = TextField(constraints=[length("openid", 1, OPENID_AT_MOST)])
    message = TextField(constraints=[length("message", 1, MESSAGE_AT_MOST)])

    class Meta:
        primary_key = CompositeKey("room", "message_id")
        without_rowid = True

    @classmethod
    def in_room(cls, room_id, limit, before, after, reader):
        """The newest page before `before`, or, if there is an `after`, the oldest after it.

        The reader is a member, or None.
        """
        found = (
            cls.older(room_id, limit, before) if after is None else cls.newer(room_id, limit, after)
        )
        if not found:
            raise Refused("room_not_found")
        if reader is not None and not Member.found(room_id, reader):
            raise Refused("not_member")
        return found

    @compiled
    def older(room_id, limit, before):
        older = Message.select().where(Message.room == room_id, Message.message_id < before)
        return said(room_id, older.order_by(Message.message_id.desc()), limit)

    @compiled
    def newer(room_id, limit, after):
        newer = Message.select().where(Message.room == room_id, Message.message_id > after)
        return said(room_id, newer.order_by(Message.message_id), limit)

    @compiled
    def added(room_id, message_id, openid, message):
        message = Message.insert(
            room=room_id, message_id=message_id, openid=openid, message=message
        )
        return message.returning(rfc3339(Message.message_id))


class Token(Table):
    """That openid has logged in, until `expires`, in milliseconds since 1970.

    Of the token only its SHA-256 is kept. It is found by that, in a time that tells nothing of the
    token: who guesses cannot choose how much of it a guess has in common with another.
    """

    digest = TextField(primary_key=True)
    openid = TextField(constraints=[length("openid", 1, OPENID_AT_MOST)])
    expires = BigIntegerField(index=True)

    class Meta:
        without_rowid = True

    @classmethod
    def issue(cls, openid):
        """A new token for openid, 32 random bytes as text; expired ones are forgotten."""
        token = secrets.token_urlsafe(32)
        cls.forgotten(now())
        cls.added(digest(token), openid, now() + TOKEN_SECONDS * 1000)
        return token

    @classmethod
    def holder(cls, token):
        """The openid to whom a token was issued."""
        for (openid,) in cls.found(digest(token), now()):
            return openid
        raise Refused("login_required")

    @compiled
    def found(digest, now):
        return Token.select(Token.openid).where(Token.digest == digest, Token.expires > now)

    @compiled
    def added(digest, openid, expires):
        return Token.insert(digest=digest, openid=openid, expires=expires)

    @compiled
    def forgotten(now):
        return Token.delete().where(Token.expires <= now)


def digest(token):
    return sha256(token.encode()).hexdigest()


class RoomIndex(FTS5Model):
    """The words by which search finds rooms; the rowid is minus the room_id.

    So the newest come first in the index itself. FTS5 would have to read it backwards otherwise,
    which takes it several times as long.
    """

    words = SearchField()

    class Meta:
        database = database
        table_name = "room_index"
        # The words themselves are not kept. A single character is a beginning of 7 letters.
        options = {"content": "", "columnsize": 0, "tokenize": "ascii", "prefix": 7}  # noqa: RUF012

    @classmethod
    def add(cls, room_id, *folded):
        cls.added(-room_id, written(*folded))

    @classmethod
    def remove(cls, room_id, *folded):
        cls.delete_command(-room_id, words=written(*folded))

    @compiled
    def added(rowid, words):
        return RoomIndex.insert(rowid=rowid, words=words)

    @compiled
    def matching(words, limit):
        """A JSON array of the newest room_ids with some words, in the syntax of FTS5."""
        rooms = RoomIndex.select(RoomIndex.rowid).where(RoomIndex.match(words))
        newest = rooms.order_by(RoomIndex.rowid).limit(limit)
        return Select([newest], [fn.json_group_array(newest.c.rowid * -1)])


# How far a search reaches, each further than the one before.
NAME, NAME_OR_SECTION, ANYWHERE = "nsa"


def written(name, section, description):
    """The words of a room's folded texts."""
    reached = (
        (NAME, [name]),
        (NAME_OR_SECTION, [name, section]),
        (ANYWHERE, [name, section, description]),
    )
    return " ".join(
        word for reach, texts in reached for text in texts for word in words(reach, text)
    )


def words(reach, text):
    """A folded text as words: each of its characters with the one after it, if that is no blank.

    So a text holds what is looked for where all but the last of its words follow each other. A word
    begins with the letter of its reach, since FTS5 tells its own columns apart only by reading the
    rooms; then come six hexadecimal digits a character, so that any may be one.
    """
    for part in text.split():
        codes = [f"{ord(character):06x}" for character in part]
        for code, following in zip(codes, [*codes[1:], ""], strict=True):
            yield reach + code + following


def newest(before):
    return Room.select(Room.room_id).where(Room.room_id < before).order_by(Room.room_id.desc())


def listed(rooms, limit):
    """A page of rooms with the seven fields of the document."""
    somebody = Member.alias()
    joined = somebody.select(somebody.openid).where(somebody.room == Room.room_id)
    members = joined.order_by(somebody.joined)
    users_id = Select([members], [fn.json_group_array(members.c.openid)]).alias("users_id")
    rows = rooms.select(
        Room.room_id, Room.name, Room.section, Room.description, Room.room_owner_id, users_id
    )

    first = rows.limit(limit)
    room = first.c
    shown = array(
        first,
        room_id=room.room_id,
        name=room.name,
        section=room.section,
        description=room.description,
        room_owner_id=room.room_owner_id,
        users_id=fn.json(room.users_id),
        state=fn.json_array_length(room.users_id) > 1,
    )
    return Select(columns=[shown, more(rows, limit)])


def said(room_id, messages, limit):
    """A page of messages with the three fields of the document and their message_id."""
    first = messages.limit(limit)
    message = first.c
    in_order = Select([first], [message.openid, message.message, message.message_id])
    in_order = in_order.order_by(message.message_id)
    message = in_order.c
    shown = array(
        in_order,
        openid=message.openid,
        message=message.message,
        time=rfc3339(message.message_id),
        message_id=message.message_id,
    )
    return Room.select(shown, more(messages, limit)).where(Room.room_id == room_id)


def open_database(path):
    """Open the SQLite file at `path` for every thread, and make it when it is missing.

    Raises Unusable, and leaves the file as it is, when that cannot be or is not ours. This
    thread's connection stays open: by it others see that the file is in use.
    """
    database.init(
        str(path),
        timeout=BUSY_SECONDS,
        # The cache, in KiB, holds what a campus of a million rooms asks for at any one time.
        pragmas={"synchronous": "full", "foreign_keys": "on", "cache_size": -16_000},
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
        close_database()
        if isinstance(problem, Unusable):
            raise
        raise Unusable(f"cannot open the database {path}: {problem}") from None


def close_database():
    """Close the connections of this thread and of those that have ended.

    The last to do so leaves nothing beside the file; if two did it at once, each would leave the
    log to the other.
    """
    with suppress(OSError), turns.taken(queue(), BUSY_SECONDS):
        gc.collect()  # a connection is part of a cycle
        database.close()
        Path(queue()).unlink(missing_ok=True)
    database.close()
    database.init(None)


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
        database.create_tables(TABLES)
        for guard in GUARDS:
            database.execute_sql(guard)
        Clock.insert(id=1, last_time=now()).on_conflict_ignore().execute()
        database.application_id = APPLICATION_ID
        database.user_version = schema_version()


TABLES = [Clock, User, Room, Member, Message, RoomIndex, Token]

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


def index_rooms():
    """Let the rooms be found by their words and their whole names."""
    database.create_tables([Room, RoomIndex])
    folded = Room.folded_name, Room.folded_section, Room.folded_description
    for room_id, *texts in Room.select(Room.room_id, *folded).tuples().iterator():
        RoomIndex.add(room_id, *texts)


def keep_tokens():
    database.create_tables([Token])


# What brings the schema up by one version, the first from 1 to 2.
UPGRADES = [index_rooms, keep_tokens]


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
    log.warning("%s is of an older version and is upgraded, after a copy to %s", path, old)
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
