"""The rooms of a campus: the tables that keep them and the rules of the domain."""

import json
import secrets
import time
import unicodedata
from hashlib import sha256

from peewee import (
    EXCLUDED,
    SQL,
    BigIntegerField,
    BooleanField,
    Check,
    CompositeKey,
    ForeignKeyField,
    IntegerField,
    JSONField,
    Model,
    Select,
    TextField,
    Tuple,
    fn,
)
from playhouse.sqlite_ext import AutoIncrementField, FTS5Model, SearchField

from service.database import (
    Refused,
    database,
    erase_traces,
    prepared,
    prepared_page,
    write_lock,
)

# Lengths are in characters (Unicode code points). The schema of a file has them, too: to change one
# takes a new version of the schema.
OPENID_AT_MOST = 64
SEX_AT_MOST = 16
PREFERENCE_AT_MOST = 30
PREFERENCES_AT_MOST = 50
NAME_AT_MOST = 60
SECTION_AT_MOST = 30
DESCRIPTION_AT_MOST = 1000
MESSAGE_AT_MOST = 2000
NICKNAME_AT_MOST = 20
CAPACITY_AT_LEAST = 2
MEMBERS_AT_MOST = 500
KEY_AT_MOST = 60
CODE_AT_MOST = 128  # WeChat's have 32
REQUEST_ID_AT_MOST = 64
REASON_AT_MOST = 200
LIMIT_AT_MOST = 500  # rows on a page
ID_AT_MOST = 2**63 - 1  # the largest integer that SQLite keeps

TOKEN_SECONDS = 7 * 24 * 60 * 60
DAY = 24 * 60 * 60 * 1000  # milliseconds
REPORT_DAYS = 180
STEP = 100  # messages that are changed under one write lock

# What shows nothing: Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt) and the
# empty Braille pattern.
INVISIBLE = (
    "00AD 034F 061C 115F-1160 17B4-17B5 180B-180F 200B-200F 202A-202E 2060-206F 2800 3164 "
    "FE00-FE0F FEFF FFA0 FFF0-FFF8 1BCA0-1BCA3 1D173-1D17A E0000-E0FFF"
)
# Unicode's White_Space. str.strip() by itself would also cut off the controls U+001C to U+001F.
WHITE_SPACE = "0009-000D 0020 0085 00A0 1680 2000-200A 2028-2029 202F 205F 3000"


def characters(ranges):
    pairs = (each.partition("-")[::2] for each in ranges.split())
    return "".join(
        chr(code)
        for first, last in pairs
        for code in range(int(first, 16), int(last or first, 16) + 1)
    )


BLANKS = characters(f"{WHITE_SPACE} {INVISIBLE}")
WITHOUT_INVISIBLE = dict.fromkeys(map(ord, characters(INVISIBLE)))


def fold(text):
    """The form in which texts are compared.

    NFKC, case-folded, without the characters that show nothing, any run of blanks as one.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.translate(WITHOUT_INVISIBLE).split())


# Who may


class Caller:
    """Somebody whose identity is verified."""

    def __init__(self, openid):
        self.openid = openid

    def may_act_as(self, openid):
        return openid == self.openid

    def may_see_profile_of(self, openid):
        return openid == self.openid or Member.share_room(openid, self.openid)

    def may_remove(self, openid, room):
        return self.openid in (openid, room.room_owner_id)

    def may_read(self, room_id):
        return Member.exists(room_id, self.openid)


class Anyone(Caller):
    """Somebody in the open mode, in which each may do everything."""

    def __init__(self):
        super().__init__(openid=None)

    def may(self, *_):
        return True

    may_act_as = may_see_profile_of = may_remove = may_read = may


# The tables


def now():
    """Milliseconds since 1970, as the machine's clock has it."""
    return time.time_ns() // 1_000_000


def rfc3339(milliseconds):
    """The expression of a moment as `2026-11-23T08:28:00.123Z`."""
    return fn.strftime("%Y-%m-%dT%H:%M:%fZ", milliseconds / SQL("1000.0"), "unixepoch")


def length(column, at_least, at_most):
    return Check(f"length({column}) BETWEEN {at_least} AND {at_most}")


class Table(Model):
    class Meta:
        database = database
        legacy_table_names = False


class Clock(Table):
    """When anything last changed that a client can see: one row, milliseconds since 1970.

    It strictly grows, so its ticks also number the messages and order the members.
    """

    id = IntegerField(primary_key=True, constraints=[Check("id = 1")])
    last_time = BigIntegerField()

    @classmethod
    def read(cls):
        ((last_time,),) = cls.select_time()
        return last_time

    @classmethod
    def tick(cls):
        """Move on, also within one millisecond and when the machine's clock was set back."""
        return cls.tick_at(now())

    @classmethod
    def tick_at(cls, moment):
        ((last_time,),) = cls.move(moment)
        return last_time

    @prepared
    def select_time():
        return Clock.select(rfc3339(Clock.last_time)).where(Clock.id == 1)

    @prepared
    def move(moment):
        later = fn.max(moment, Clock.last_time + 1)
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
    nickname = TextField(constraints=[length("nickname", 0, NICKNAME_AT_MOST)])

    class Meta:
        without_rowid = True  # a page looks up many nicknames

    @classmethod
    def complete(cls, openid, sex, preference, nickname=None):
        """Create the profile or replace it; the same again changes nothing.

        Without a nickname the one there was stays.
        """
        if cls.replace_profile(openid, json.dumps(sex), json.dumps(preference), nickname):
            Clock.tick()

    @classmethod
    def by_openid(cls, openid, caller):
        if not caller.may_see_profile_of(openid):
            raise Refused("identity_mismatch")
        for sex, preference, nickname in cls.select_profile(openid):
            return cls(sex=json.loads(sex), preference=json.loads(preference), nickname=nickname)
        raise Refused("user_not_found")

    @classmethod
    def exists(cls, openid):
        return bool(cls.select_profile(openid))

    @classmethod
    def forget(cls, openid):
        """Delete the profile; the rows that there were."""
        if gone := cls.delete_profile(openid):
            Clock.tick()
        return gone

    @prepared
    def delete_profile(openid):
        return User.delete().where(User.openid == openid).returning(User.openid)

    @prepared
    def select_profile(openid):
        profile = User.select(User.sex, User.preference, User.nickname)
        return profile.where(User.openid == openid)

    @prepared
    def replace_profile(openid, sex, preference, nickname):
        user = User.insert(
            openid=openid,
            sex=fn.json(sex),
            preference=fn.json(preference),
            nickname=fn.coalesce(nickname, ""),
        )
        kept_or_new = fn.coalesce(nickname, User.nickname)
        return user.on_conflict(
            conflict_target=[User.openid],
            preserve=[User.sex, User.preference],
            update={User.nickname: kept_or_new},
            where=(User.sex != EXCLUDED.sex)
            | (User.preference != EXCLUDED.preference)
            | (User.nickname != kept_or_new),
        ).returning(User.openid)


class Room(Table):
    room_id = AutoIncrementField()
    name = TextField(constraints=[length("name", 1, NAME_AT_MOST)])
    section = TextField(constraints=[length("section", 1, SECTION_AT_MOST)])
    description = TextField(constraints=[length("description", 0, DESCRIPTION_AT_MOST)])
    room_owner_id = TextField(index=True, constraints=[length("room_owner_id", 1, OPENID_AT_MOST)])
    folded_name = TextField(index=True)
    folded_section = TextField(index=True)
    capacity = IntegerField(
        constraints=[
            SQL(f"DEFAULT {MEMBERS_AT_MOST}"),
            Check(f"capacity BETWEEN {CAPACITY_AT_LEAST} AND {MEMBERS_AT_MOST}"),
        ]
    )

    @prepared_page("rooms")
    def owned_by(openid, limit, before):
        owned = newest_rooms(before).where(Room.room_owner_id == openid)
        return rooms_page(owned, limit, last_message_id=last_message_id)

    @prepared_page("rooms")
    def joined_by(openid, limit, before):
        guest = (Member.openid == openid) & ~Member.is_owner & (Member.room < or_end(before))
        joined = Room.select().join(Member).where(guest).order_by(Member.room.desc())
        return rooms_page(joined, limit, last_message_id=last_message_id)

    @prepared_page("rooms")
    def in_section(folded_section, limit, before):
        return rooms_page(newest_rooms(before).where(Room.folded_section == folded_section), limit)

    @prepared_page("rooms")
    def with_id(room_id, limit):
        """The one room, with the nicknames of all its members."""
        members = Member.select(Member.openid).where(Member.room == room_id)
        return rooms_page(Room.select().where(Room.room_id == room_id), limit, members)

    @prepared_page("rooms")
    def in_order(room_ids, limit):
        """The rooms of a JSON array of room_ids."""
        given = fn.json_each(room_ids).alias("given")
        rooms = Room.select().from_(given, Room).where(Room.room_id == given.c.value)
        return rooms_page(rooms.order_by(given.c.key), limit)

    @prepared
    def named(folded_name, limit):
        """The room_ids alone, newest first."""
        rooms = newest_rooms().where(Room.folded_name == folded_name)
        return rooms.select(Room.room_id).limit(limit)

    @classmethod
    def by_id(cls, room_id):
        for room_owner_id, capacity in cls.select_room(room_id):
            return cls(room_id=room_id, room_owner_id=room_owner_id, capacity=capacity)
        raise Refused("room_not_found")

    @classmethod
    def exists(cls, room_id):
        return bool(cls.select_room(room_id))

    @classmethod
    def texts(cls, room_id):
        """What a room says of itself, a dict; an empty one of a room that does not exist."""
        columns = cls.select(cls.name, cls.section, cls.description)
        return columns.where(cls.room_id == room_id).dicts().get_or_none() or {}

    @classmethod
    def open(cls, name, section, description, room_owner_id, capacity=MEMBERS_AT_MOST):
        ((room_id,),) = cls.insert_room(
            name, section, description, room_owner_id, fold(name), fold(section), capacity
        )
        RoomIndex.add(room_id, name, section, description)
        Member.insert_member(room_id, Clock.tick(), room_owner_id, True)
        return cls(room_id=room_id, room_owner_id=room_owner_id, capacity=capacity)

    def admit(self, openid):
        """Let openid in; to join twice is to join once."""
        if self.has_member(openid):
            return
        if Memory.find("kick", openid, self.room_id):
            raise Refused("kicked")
        if Member.count(self.room_id) >= self.capacity:
            raise Refused("room_full")
        Member.insert_member(self.room_id, Clock.tick(), openid, False)

    def remove(self, openid, caller):
        """Take openid out; what they said stays. Whom the owner takes out stays out for a day."""
        if not self.has_member(openid):
            raise Refused("member_not_found")
        if not caller.may_remove(openid, self):
            raise Refused("not_owner")
        if openid == self.room_owner_id:
            raise Refused("owner_cannot_leave")
        Member.delete_member(self.room_id, openid)
        if caller.openid == self.room_owner_id:
            Memory.keep(1, "kick", openid, self.room_id)
        Clock.tick()

    def close(self, openid):
        """Delete the room for openid, its owner; members and messages go with it."""
        if openid != self.room_owner_id:
            raise Refused("not_owner")
        Room.delete_room(self.room_id)
        RoomIndex.remove(self.room_id)
        Clock.tick()

    def edit(self, openid, **changes):
        """Change these fields of the room for openid, its owner, but for those that are None.

        The same again changes nothing.
        """
        if openid != self.room_owner_id:
            raise Refused("not_owner")
        changes = {name: value for name, value in changes.items() if value is not None}
        if "capacity" in changes and changes["capacity"] < Member.count(self.room_id):
            raise Refused("capacity_too_small")
        room = Room.get_by_id(self.room_id)
        if all(getattr(room, name) == value for name, value in changes.items()):
            return
        for name, value in changes.items():
            setattr(room, name, value)
        room.folded_name, room.folded_section = fold(room.name), fold(room.section)
        room.save()
        if changes.keys() != {"capacity"}:
            RoomIndex.remove(room.room_id)
            RoomIndex.add(room.room_id, room.name, room.section, room.description)
        Clock.tick()

    def post(self, openid, message):
        """Leave a message of openid, a member; returns its message_id and its time."""
        if not self.has_member(openid):
            raise Refused("not_member")
        sent = now()
        message_id = Clock.tick_at(sent)
        ((time,),) = Message.insert_message(self.room_id, message_id, openid, message, sent)
        return message_id, time

    def delete_message(self, message_id, openid):
        """Delete the text of a message for its sender or the room's owner; its place stays."""
        sender, _ = Message.by_id(self.room_id, message_id)
        if openid not in (sender, self.room_owner_id):
            raise Refused("not_owner")
        self.remove_message(message_id)

    def remove_message(self, message_id):
        if Message.delete_text(self.room_id, message_id):
            database.must_empty_log = True
            Clock.tick()

    def report(self, openid, reason, message_id):
        """Keep for the operator what openid reports: a message or, if that is None, the room."""
        if message_id is None:
            about, text = self.room_owner_id, "\n".join(Room.texts(self.room_id).values())
        else:
            about, text = Message.by_id(self.room_id, message_id)
            if not text:
                raise Refused("message_not_found")
        Report.add(openid, about, self.room_id, message_id or 0, text, reason)

    @classmethod
    def forget(cls, openid):
        """Take openid out of some rooms, for good; the rooms that there were.

        A room that they own goes to the member who joined first. One without other members is
        deleted, after its messages.
        """
        rooms = Member.select_some_rooms(openid)
        for room_id, is_owner in rooms:
            Clock.tick()
            successor = Member.select_first_guest(room_id) if is_owner else ()
            if is_owner and not successor:
                if Message.delete_some(room_id):
                    break
                Room.delete_room(room_id)
                RoomIndex.remove(room_id)
            else:
                Member.delete_member(room_id, openid)
            for (heir,) in successor:
                Room.change_owner(room_id, heir)
                Member.make_owner(room_id, heir)
        return rooms

    def has_member(self, openid):
        return Member.exists(self.room_id, openid)

    @prepared
    def select_room(room_id):
        return Room.select(Room.room_owner_id, Room.capacity).where(Room.room_id == room_id)

    @prepared
    def insert_room(
        name, section, description, room_owner_id, folded_name, folded_section, capacity
    ):
        room = Room.insert(
            name=name,
            section=section,
            description=description,
            room_owner_id=room_owner_id,
            folded_name=folded_name,
            folded_section=folded_section,
            capacity=capacity,
        )
        return room.returning(Room.room_id)

    @prepared
    def change_owner(room_id, openid):
        return Room.update(room_owner_id=openid).where(Room.room_id == room_id)

    @prepared
    def delete_room(room_id):
        return Room.delete().where(Room.room_id == room_id)


class Member(Table):
    """Somebody in a room, the owner too; `joined` is the clock's tick at which they came."""

    room = ForeignKeyField(Room, on_delete="CASCADE", index=False)
    joined = BigIntegerField()
    openid = TextField(constraints=[length("openid", 1, OPENID_AT_MOST)])
    is_owner = BooleanField(constraints=[SQL("DEFAULT 0")])

    class Meta:
        # Clustered by room in the order of joining: a page of rooms reads its members in a row.
        # The key's columns stand first, since the integrity check of SQLite 3.40 takes any that
        # stand between them for NULL.
        primary_key = CompositeKey("room", "joined")
        without_rowid = True
        indexes = ((("openid", "room"), True),)

    @classmethod
    def exists(cls, room_id, openid):
        return bool(cls.select_member(room_id, openid))

    @classmethod
    def share_room(cls, openid, other):
        return bool(cls.select_common_room(openid, other))

    @classmethod
    def count(cls, room_id):
        ((members,),) = cls.select_count(room_id)
        return members

    @prepared
    def select_member(room_id, openid):
        return Member.select(Member.joined).where(Member.room == room_id, Member.openid == openid)

    @prepared
    def select_common_room(openid, other):
        others = Member.alias()
        both = Member.select(Member.room).join(others, on=(others.room == Member.room))
        return both.where(Member.openid == openid, others.openid == other).limit(1)

    @prepared
    def select_count(room_id):
        return Member.select(fn.count()).where(Member.room == room_id)

    @prepared
    def insert_member(room_id, joined, openid, is_owner):
        return Member.insert(room=room_id, joined=joined, openid=openid, is_owner=is_owner)

    @prepared
    def delete_member(room_id, openid):
        return Member.delete().where(Member.room == room_id, Member.openid == openid)

    @prepared
    def select_some_rooms(openid):
        return Member.select(Member.room, Member.is_owner).where(Member.openid == openid).limit(10)

    @prepared
    def select_first_guest(room_id):
        guests = Member.select(Member.openid).where(Member.room == room_id, ~Member.is_owner)
        return guests.order_by(Member.joined).limit(1)

    @prepared
    def make_owner(room_id, openid):
        member = (Member.room == room_id) & (Member.openid == openid)
        return Member.update(is_owner=True).where(member)


# Whoever owns thousands of rooms finds the few that they joined.
Member.add_index(Member.openid, Member.room, where=~Member.is_owner, name="member_guest")


class Message(Table):
    """What a member said: without a text once it was deleted, without an openid once they left.

    `message_id` is the clock's tick, which keeps the order; `time` is what the machine's clock
    showed, which may have been wrong for a while.
    """

    room = ForeignKeyField(Room, on_delete="CASCADE", index=False)
    message_id = BigIntegerField()
    openid = TextField(index=True, constraints=[length("openid", 0, OPENID_AT_MOST)])
    message = TextField(constraints=[length("message", 0, MESSAGE_AT_MOST)])
    time = BigIntegerField()

    class Meta:
        primary_key = CompositeKey("room", "message_id")
        without_rowid = True

    @classmethod
    def in_room(cls, room_id, limit, before, after, caller):
        """The newest page before `before` or, where there is an `after`, the oldest after it."""
        if after is None:
            page = cls.select_older(room_id, limit, before or ID_AT_MOST)
        else:
            page = cls.select_newer(room_id, limit, after)
        if page is None:
            raise Refused("room_not_found")
        if not caller.may_read(room_id):
            raise Refused("not_member")
        return page

    @classmethod
    def by_id(cls, room_id, message_id):
        """Who sent a message, and its text."""
        for openid, message in cls.select_message(room_id, message_id):
            return openid, message
        raise Refused("message_not_found")

    @classmethod
    def forget(cls, openid):
        """Delete the texts and the sender of some messages of openid; the rows that there were."""
        if gone := cls.forget_some(openid):
            Clock.tick()
        return gone

    @prepared_page("messages", newest_last=True)
    def select_older(room_id, limit, before):
        older = Message.select().where(Message.room == room_id, Message.message_id < before)
        return messages_page(room_id, older.order_by(Message.message_id.desc()), limit)

    @prepared_page("messages")
    def select_newer(room_id, limit, after):
        newer = Message.select().where(Message.room == room_id, Message.message_id > after)
        return messages_page(room_id, newer.order_by(Message.message_id), limit)

    @prepared
    def insert_message(room_id, message_id, openid, message, time):
        row = Message.insert(
            room=room_id, message_id=message_id, openid=openid, message=message, time=time
        )
        return row.returning(rfc3339(Message.time))

    @prepared
    def select_message(room_id, message_id):
        messages = Message.select(Message.openid, Message.message)
        return messages.where(Message.room == room_id, Message.message_id == message_id)

    @prepared
    def delete_text(room_id, message_id):
        """One row, or none when there was no text."""
        the_one = (Message.room == room_id) & (Message.message_id == message_id)
        has_text = Message.message != ""
        return Message.update(message="").where(the_one & has_text).returning(Message.message_id)

    @prepared
    def forget_some(openid):
        some = Message.select(Message.room, Message.message_id).where(Message.openid == openid)
        theirs = Tuple(Message.room, Message.message_id).in_(some.limit(STEP))
        return Message.update(openid="", message="").where(theirs).returning(Message.message_id)

    @prepared
    def delete_some(room_id):
        some = Message.select(Message.message_id).where(Message.room == room_id).limit(STEP)
        theirs = (Message.room == room_id) & Message.message_id.in_(some)
        return Message.delete().where(theirs).returning(Message.message_id)


class Memory(Table):
    """What is kept for a day: first answers to request_ids, and who was taken out of which room.

    `kept` is in milliseconds since 1970. Only who knows a key recognizes its digest.
    """

    digest = TextField(primary_key=True)
    value = TextField()
    kept = BigIntegerField(index=True)

    class Meta:
        without_rowid = True

    @classmethod
    def find(cls, *key):
        """The value of a key, or None."""
        for (value,) in cls.select_value(key_digest(key), now() - DAY, now() + DAY):
            return json.loads(value)
        return None

    @classmethod
    def keep(cls, value, *key):
        cls.delete_old(now() - DAY, now() + DAY)
        cls.insert_value(key_digest(key), json.dumps(value), now())

    @prepared
    def select_value(digest, earliest, latest):
        valid = Memory.kept.between(earliest, latest)
        return Memory.select(Memory.value).where(Memory.digest == digest, valid)

    @prepared
    def insert_value(digest, value, kept):
        return Memory.replace(digest=digest, value=value, kept=kept)

    @prepared
    def delete_old(earliest, latest):
        return delete_two_invalid(Memory, (Memory.kept < earliest) | (Memory.kept > latest))


def key_digest(key):
    return digest(json.dumps(key))


class Report(Table):
    """What somebody reported to the operator, with a copy of it; nobody else sees it.

    `openid` said it. `reporter` is empty where WeChat was in doubt. A `message_id` of 0 is the
    room itself, a `room_id` of 0 a profile. `time` is in milliseconds since 1970.
    """

    reporter = TextField()
    openid = TextField(index=True)
    room_id = BigIntegerField()
    message_id = BigIntegerField()
    text = TextField()
    reason = TextField()
    time = BigIntegerField(index=True)
    is_open = BooleanField()

    class Meta:
        indexes = ((("room_id", "message_id"), False),)

    @classmethod
    def add(cls, reporter, openid, room_id, message_id, text, reason):
        """Keep a report, once for each person and target."""
        earliest = now() - REPORT_DAYS * DAY
        cls.delete_old(earliest)
        cls.insert_report(reporter, openid, room_id, message_id, text, reason, now())

    @classmethod
    def add_doubtful(cls, text, openid, room_id=0, message_id=0):
        """Report a text that WeChat leaves to the operator, once while that report is open."""
        same = {"openid": openid, "room_id": room_id, "message_id": message_id, "text": text}
        if not cls.select().filter(reporter="", is_open=True, **same).exists():
            cls.add("", openid, room_id, message_id, text, "微信建议人工审核")

    @classmethod
    def close(cls, which):
        """Close open reports; how many there were."""
        return cls.update(is_open=False).where(which, cls.is_open).execute()

    @prepared
    def insert_report(reporter, openid, room_id, message_id, text, reason, time):
        report = Report.insert(
            reporter=reporter,
            openid=openid,
            room_id=room_id,
            message_id=message_id,
            text=text,
            reason=reason,
            time=time,
            is_open=True,
        )
        return report.on_conflict_ignore()

    @prepared
    def delete_old(earliest):
        return delete_two_invalid(Report, Report.time < earliest)


Report.add_index(
    Report.reporter,
    Report.room_id,
    Report.message_id,
    unique=True,
    where=Report.reporter != "",
    name="report_once",
)


class Ban(Table):
    """openid may not log in nor change anything."""

    openid = TextField(primary_key=True, constraints=[length("openid", 1, OPENID_AT_MOST)])

    class Meta:
        without_rowid = True

    @classmethod
    def exists(cls, openid):
        return bool(cls.select_ban(openid))

    @prepared
    def select_ban(openid):
        return Ban.select(Ban.openid).where(Ban.openid == openid)


class Token(Table):
    """openid has logged in, until `expires`, in milliseconds since 1970.

    Only the token's SHA-256 is stored, so the time of a lookup tells an attacker nothing about the
    token.
    """

    digest = TextField(primary_key=True)
    openid = TextField(index=True, constraints=[length("openid", 1, OPENID_AT_MOST)])
    expires = BigIntegerField(index=True)

    class Meta:
        without_rowid = True

    @classmethod
    def issue(cls, openid):
        """A new token for openid, 32 random bytes as text; two that are invalid are deleted."""
        if Ban.exists(openid):
            raise Refused("banned")
        token = secrets.token_urlsafe(32)
        expires = now() + TOKEN_SECONDS * 1000
        cls.delete_invalid(now(), expires)
        cls.insert_token(digest(token), openid, expires)
        return token

    @classmethod
    def caller(cls, token, changes):
        """Whose token it is; a ban ends it, and says so to a request that changes something."""
        for openid, is_banned in cls.select_holder(
            digest(token), now(), now() + TOKEN_SECONDS * 1000
        ):
            if is_banned:
                raise Refused("banned" if changes else "login_required")
            return Caller(openid)
        raise Refused("login_required")

    @prepared
    def select_holder(digest, now, latest):
        valid = (Token.expires > now) & (Token.expires <= latest)
        bans = Ban.select().where(Ban.openid == Token.openid)
        return Token.select(Token.openid, fn.EXISTS(bans)).where(Token.digest == digest, valid)

    @prepared
    def forget(openid):
        return Token.delete().where(Token.openid == openid).returning(Token.openid)

    @prepared
    def insert_token(digest, openid, expires):
        return Token.insert(digest=digest, openid=openid, expires=expires)

    @prepared
    def delete_invalid(now, latest):
        return delete_two_invalid(Token, (Token.expires <= now) | (Token.expires > latest))


def digest(text):
    return sha256(text.encode()).hexdigest()


def delete_two_invalid(table, invalid):
    """Delete no more, or one request under a wrong clock would delete all."""
    key = table._meta.primary_key
    return table.delete().where(key.in_(table.select(key).where(invalid).limit(2)))


def leave(openid):
    """Delete what there is of openid but a ban and reports; whether there was anything.

    It takes the write lock for a few rows at a time, since there may be many.
    """
    found = [forget_all(table, openid) for table in (Token, User, Room, Message)]
    erase_traces()
    return any(found)


def forget_all(table, openid):
    found = False
    while True:
        with write_lock():
            if not table.forget(openid):
                return found
            # Or SQLite would write a thousand pages from all over the file under one lock.
            database.must_empty_log = True
        found = True


class RoomIndex(FTS5Model):
    """The texts of the rooms, in which SQLite answers LIKE from an index of trigrams.

    The rowid is minus the room_id: the newest rooms come first in the index itself.
    """

    text = SearchField()

    class Meta:
        database = database
        table_name = "room_index"
        options = {"tokenize": "trigram", "detail": "none", "columnsize": 0}  # noqa: RUF012

    @classmethod
    def create(cls):
        cls.create_table()
        # SQLite merges its index once it is in four pieces instead of sixteen: a search looks each
        # trigram up in all of them.
        cls._fts_cmd("crisismerge", rank=4)

    @classmethod
    def add(cls, room_id, name, section, description):
        cls.insert_text(-room_id, indexed_text(fold(name), fold(section), fold(description)))

    @classmethod
    def remove(cls, room_id):
        cls.delete_text(-room_id)

    @prepared
    def insert_text(rowid, text):
        return RoomIndex.insert(rowid=rowid, text=text)

    @prepared
    def delete_text(rowid):
        return RoomIndex.delete().where(RoomIndex.rowid == rowid)


# A trigram has three characters, and a key may have one. So a separator stands before and after
# each character, as in ⇥开⇥黑⇥, and LIKE '%⇥黑⇥%' finds it by a trigram. Names are written twice,
# with a separator for all texts and one for names alone. No folded text has a tab or a line break,
# nor the full-width signs, which stand for the wild cards of LIKE.
IN_NAME, IN_TEXT = "\n", "\t"


def indexed_text(*folded):
    """The text of a room's folded name, section and description."""
    name, *_ = folded
    return "".join(
        f"{separator}{separate(text, separator)}{separator}"
        for text, separator in ((name, IN_NAME), (" ".join(folded), IN_TEXT))
    )


def separate(folded, separator):
    return separator.join(folded.translate({ord("%"): "％", ord("_"): "＿"}))


# Pages


def newest_rooms(before=None):
    return Room.select().where(Room.room_id < or_end(before)).order_by(Room.room_id.desc())


def or_end(before):
    """The expression of an id, or of one beyond all where there is none."""
    return fn.coalesce(before, ID_AT_MOST)


SHOWN_OF_ROOMS = (
    Room.room_id,
    Room.name,
    Room.section,
    Room.description,
    Room.room_owner_id,
    Room.capacity,
)


def rooms_page(rooms, limit, people=None, **more):
    """A page of rooms with the seven fields of the document, `capacity` and `more`.

    `more` are functions of a room_id. The nicknames are those of `people`, a query of openids, or
    of the owners.
    """
    page = rooms.select(*SHOWN_OF_ROOMS).limit(limit).cte("page")
    room = page.c
    somebody = Member.alias()
    members = somebody.select(somebody.openid).where(somebody.room == room.room_id)
    in_order = members.order_by(somebody.joined)
    array = json_array(
        page,
        room_id=room.room_id,
        name=room.name,
        section=room.section,
        description=room.description,
        room_owner_id=room.room_owner_id,
        users_id=Select([in_order], [fn.json_group_array(in_order.c.openid)]),
        state=has_more(members, 1),
        capacity=room.capacity,
        **{name: value(room.room_id) for name, value in more.items()},
    )
    owners = Select([page], [room.room_owner_id])
    names = nicknames(owners if people is None else people)
    more_rooms = has_more(rooms.select(Room.room_id), limit)
    return Select(columns=[array, more_rooms, names]).with_cte(page)


def last_message_id(room_id):
    newest = Message.select(fn.max(Message.message_id)).where(Message.room == room_id)
    return fn.coalesce(newest, 0)


def messages_page(room_id, messages, limit):
    """A page of messages with the document's three fields and message_id; no row without a room."""
    page = messages.limit(limit)
    message = page.c
    columns = message.openid, message.message, message.time, message.message_id
    in_order = Select([page], columns).order_by(message.message_id)
    message = in_order.c
    array = json_array(
        in_order,
        openid=message.openid,
        message=message.message,
        time=rfc3339(message.time),
        message_id=message.message_id,
    )
    names = nicknames(messages.select(Message.openid).limit(limit))
    return Room.select(array, has_more(messages, limit), names).where(Room.room_id == room_id)


def nicknames(people):
    """One JSON object from openid to nickname, of those of a query of openids who have one."""
    named = User.openid.in_(people), User.nickname != ""
    return User.select(fn.json_group_object(User.openid, User.nickname)).where(*named)


def json_array(rows, **fields):
    """One JSON array of objects, made by SQLite.

    The sqlite3 module releases the interpreter for every row that it fetches. While other threads
    are busy, it then waits for each row.
    """
    names_and_values = [part for field in fields.items() for part in field]
    return Select([rows], [fn.json_group_array(fn.json_object(*names_and_values))])


def has_more(rows, limit):
    return fn.EXISTS(rows.limit(1).offset(limit))
