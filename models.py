"""The campus: its clock, users, rooms, members and messages, their tables and their rules."""

import json

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
    TextField,
    Tuple,
    fn,
)
from playhouse.sqlite_ext import AutoIncrementField

from service.database import (
    Refused,
    Table,
    database,
    length,
    now,
    prepared,
    prepared_test,
    prepared_value,
)
from service.memory import Memory
from service.pages import NEWER, OLDER, ROOMS_TO_READ, page_of_messages, page_of_rooms
from service.text import RoomIndex, fold

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
ID_AT_MOST = 2**63 - 1  # the largest integer that SQLite keeps

STEP = 100  # rows that one of many changes takes at the most


def rfc3339(milliseconds):
    """The expression of a moment as `2026-11-23T08:28:00.123Z`."""
    return fn.strftime("%Y-%m-%dT%H:%M:%fZ", milliseconds / SQL("1000.0"), "unixepoch")


class Clock(Table):
    """When anything last changed that a client can see: one row, milliseconds since 1970.

    It strictly grows, so its ticks also number the messages and order the members.
    """

    id = IntegerField(primary_key=True, constraints=[Check("id = 1")])
    last_time = BigIntegerField()

    @classmethod
    def tick(cls):
        """Move on, also within one millisecond and when the machine's clock was set back."""
        return cls.tick_at(now())

    @prepared_value
    def read():
        return Clock.select(rfc3339(Clock.last_time)).where(Clock.id == 1)

    @prepared_value
    def tick_at(moment):
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
    def forget(cls, openid):
        """Delete the profile; the rows that there were."""
        if gone := cls.delete_profile(openid):
            Clock.tick()
        return gone

    @prepared
    def delete_profile(openid):
        return User.delete().where(User.openid == openid).returning(User.openid)

    @prepared_test
    def exists(openid):
        return User.select(User.openid).where(User.openid == openid)

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

    @classmethod
    def owned_by(cls, openid, limit, before):
        return page_of_rooms(cls.select_owned(openid, limit + 1, before), limit, ROOMS_TO_READ)

    @classmethod
    def joined_by(cls, openid, limit, before):
        return page_of_rooms(cls.select_joined(openid, limit + 1, before), limit, ROOMS_TO_READ)

    @classmethod
    def in_section(cls, folded_section, limit, before):
        return page_of_rooms(cls.select_in_section(folded_section, limit + 1, before), limit)

    @classmethod
    def by_id(cls, room_id):
        for room_owner_id, capacity in cls.select_room(room_id):
            return cls(room_id=room_id, room_owner_id=room_owner_id, capacity=capacity)
        raise Refused("room_not_found")

    @classmethod
    def texts(cls, room_id):
        """What a room says of itself, a dict; an empty one of a room that does not exist."""
        for row in cls.select_texts(room_id):
            return dict(zip(("name", "section", "description"), row, strict=True))
        return {}

    @classmethod
    def open(cls, name, section, description, room_owner_id, capacity=MEMBERS_AT_MOST):
        """Open a room; returns its room_id."""
        folded = fold(name), fold(section)
        texts = name, section, description
        room_id = cls.insert_room(*texts, room_owner_id, *folded, capacity)
        RoomIndex.add(room_id, *texts)
        Member.insert_member(room_id, Clock.tick(), room_owner_id, True)
        return room_id

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
        """Delete the room for openid, its owner, and its members; later also its messages."""
        if openid != self.room_owner_id:
            raise Refused("not_owner")
        Room.delete_room(self.room_id)
        RoomIndex.remove(self.room_id)
        ClosedRoom.insert_room(self.room_id)
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
        if changes.keys() & {"name", "section", "description"}:
            RoomIndex.remove(room.room_id)
            RoomIndex.add(room.room_id, room.name, room.section, room.description)
        Clock.tick()

    def post(self, openid, message):
        """Leave a message of openid, a member; returns its message_id and its time."""
        if not self.has_member(openid):
            raise Refused("not_member")
        sent = now()
        message_id = Clock.tick_at(sent)
        time = Message.insert_message(self.room_id, message_id, openid, message, sent)
        return message_id, time

    def delete_message(self, message_id, openid, caller):
        """Delete the text of a message for its sender or the room's owner; its place stays."""
        # Who may not read the messages does not learn whether there is one.
        missing = "message_not_found" if caller.may_read(self.room_id) else "not_owner"
        sender, _ = Message.by_id(self.room_id, message_id, missing)
        if openid not in (sender, self.room_owner_id):
            raise Refused("not_owner")
        self.remove_message(message_id)

    def remove_message(self, message_id):
        if Message.delete_text(self.room_id, message_id):
            database.must_empty_wal = True
            Clock.tick()

    @classmethod
    def forget(cls, openid):
        """Take openid out of some rooms, for good; the rooms that there were.

        A room that they own goes to the member who joined first and is not banned. One without
        such a member is deleted.
        """
        rooms = Member.select_some_rooms(openid)
        for room_id, is_owner in rooms:
            successor = Member.select_first_guest(room_id) if is_owner else ()
            if is_owner and not successor:
                cls(room_id=room_id, room_owner_id=openid).close(openid)
                continue
            Clock.tick()
            Member.delete_member(room_id, openid)
            for (heir,) in successor:
                Room.change_owner(room_id, heir)
                Member.make_owner(room_id, heir)
        return rooms

    def has_member(self, openid):
        return Member.exists(self.room_id, openid)

    @prepared
    def select_owned(openid, limit, before):
        return newest_rooms(limit, before).where(Room.room_owner_id == openid)

    @prepared
    def select_joined(openid, limit, before):
        guest = (Member.openid == openid) & ~Member.is_owner & (Member.room < or_end(before))
        return Member.select(Member.room).where(guest).order_by(Member.room.desc()).limit(limit)

    @prepared
    def select_in_section(folded_section, limit, before):
        return newest_rooms(limit, before).where(Room.folded_section == folded_section)

    @prepared
    def select_named(folded_name, limit):
        return newest_rooms(limit).where(Room.folded_name == folded_name)

    @prepared
    def select_room(room_id):
        return Room.select(Room.room_owner_id, Room.capacity).where(Room.room_id == room_id)

    @prepared_test
    def exists(room_id):
        return Room.select(Room.room_id).where(Room.room_id == room_id)

    @prepared
    def select_texts(room_id):
        return Room.select(Room.name, Room.section, Room.description).where(Room.room_id == room_id)

    @prepared_value
    def insert_room(
        name, section, description, room_owner_id, folded_name, folded_section, capacity
    ):
        return Room.insert(
            name=name,
            section=section,
            description=description,
            room_owner_id=room_owner_id,
            folded_name=folded_name,
            folded_section=folded_section,
            capacity=capacity,
        ).returning(Room.room_id)

    @prepared
    def change_owner(room_id, openid):
        return Room.update(room_owner_id=openid).where(Room.room_id == room_id)

    @prepared
    def delete_room(room_id):
        return Room.delete().where(Room.room_id == room_id)


def newest_rooms(limit, before=None):
    rooms = Room.select(Room.room_id).where(Room.room_id < or_end(before))
    return rooms.order_by(Room.room_id.desc()).limit(limit)


def or_end(before):
    """The expression of an id, or of one beyond all where there is none."""
    return fn.coalesce(before, ID_AT_MOST)


class ClosedRoom(Table):
    """A room that was deleted, as long as messages of it are left."""

    room_id = IntegerField(primary_key=True)

    @classmethod
    def clean_up(cls):
        """Delete some messages of a room that was deleted; whether there may be more."""
        room_id = cls.first()
        if room_id and len(Message.delete_some(room_id)) < STEP:
            cls.delete_room(room_id)
        return bool(room_id)

    @prepared_value
    def first():
        return ClosedRoom.select(fn.min(ClosedRoom.room_id))

    @prepared
    def delete_room(room_id):
        return ClosedRoom.delete().where(ClosedRoom.room_id == room_id)

    @prepared
    def insert_room(room_id):
        return ClosedRoom.insert(room_id=room_id)


class Ban(Table):
    """openid may not log in nor change anything; `since` is 0 where nobody knows since when."""

    openid = TextField(primary_key=True, constraints=[length("openid", 1, OPENID_AT_MOST)])
    since = BigIntegerField(constraints=[SQL("DEFAULT 0")])

    class Meta:
        without_rowid = True

    @prepared_test
    def exists(openid):
        return Ban.select(Ban.openid).where(Ban.openid == openid)


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
    def leave(cls, openid):
        """Take openid out of some rooms that others own; how many there were."""
        some = cls.select(cls.room).where(cls.openid == openid, ~cls.is_owner).limit(STEP)
        if left := cls.delete().where(cls.openid == openid, cls.room.in_(some)).execute():
            Clock.tick()
        return left

    @prepared_test
    def exists(room_id, openid):
        return Member.select(Member.joined).where(Member.room == room_id, Member.openid == openid)

    @prepared_test
    def share_room(openid, other):
        others = Member.alias()
        both = Member.select(Member.room).join(others, on=(others.room == Member.room))
        return both.where(Member.openid == openid, others.openid == other).limit(1)

    @prepared_value
    def count(room_id):
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
        bans = Ban.select().where(Ban.openid == Member.openid)
        return guests.where(~fn.EXISTS(bans)).order_by(Member.joined).limit(1)

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

    room_id = BigIntegerField()  # not a foreign key: the messages of a deleted room go later
    message_id = BigIntegerField()
    openid = TextField(index=True, constraints=[length("openid", 0, OPENID_AT_MOST)])
    message = TextField(constraints=[length("message", 0, MESSAGE_AT_MOST)])
    time = BigIntegerField()

    class Meta:
        primary_key = CompositeKey("room_id", "message_id")
        without_rowid = True

    @classmethod
    def in_room(cls, room_id, limit, before, after, caller):
        """The newest page before `before` or, where there is an `after`, the oldest after it."""
        if not Room.exists(room_id):
            raise Refused("room_not_found")
        if not caller.may_read(room_id):
            raise Refused("not_member")
        if after is not None:
            return page_of_messages(NEWER, room_id, after, limit)
        return page_of_messages(OLDER, room_id, before or ID_AT_MOST, limit)

    @classmethod
    def by_id(cls, room_id, message_id, missing="message_not_found"):
        """Who sent a message, and its text; Refused(missing) where there is none."""
        for openid, message in cls.select_message(room_id, message_id):
            return openid, message
        raise Refused(missing)

    @classmethod
    def forget(cls, openid):
        """Delete the texts and the sender of some messages of openid; the rows that there were."""
        if gone := cls.forget_some(openid):
            Clock.tick()
        return gone

    @prepared_value
    def insert_message(room_id, message_id, openid, message, time):
        row = Message.insert(
            room_id=room_id, message_id=message_id, openid=openid, message=message, time=time
        )
        return row.returning(rfc3339(Message.time))

    @prepared
    def select_message(room_id, message_id):
        messages = Message.select(Message.openid, Message.message)
        return messages.where(Message.room_id == room_id, Message.message_id == message_id)

    @prepared
    def delete_text(room_id, message_id):
        """One row, or none when there was no text."""
        the_one = (Message.room_id == room_id) & (Message.message_id == message_id)
        has_text = Message.message != ""
        return Message.update(message="").where(the_one & has_text).returning(Message.message_id)

    @prepared
    def forget_some(openid):
        some = Message.select(Message.room_id, Message.message_id).where(Message.openid == openid)
        theirs = Tuple(Message.room_id, Message.message_id).in_(some.limit(STEP))
        return Message.update(openid="", message="").where(theirs).returning(Message.message_id)

    @prepared
    def delete_some(room_id):
        some = Message.select(Message.message_id).where(Message.room_id == room_id).limit(STEP)
        theirs = (Message.room_id == room_id) & Message.message_id.in_(some)
        return Message.delete().where(theirs).returning(Message.message_id)
