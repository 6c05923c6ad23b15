"""What people report, and what the operator does beside a running service."""

import json
import sys
import unicodedata
from datetime import datetime

from peewee import BigIntegerField, BooleanField, TextField, fn

from models import Ban, Member, Message, Room, User, rfc3339
from service.database import DAY_MS, Refused, Table, apply, now
from service.login import Token, forget_all
from service.login import forget as forget_person
from service.memory import delete_two_invalid

REPORT_DAYS = 180
WIDTH = 80  # columns of a terminal
MESSAGES_SHOWN = 20
TIMES = ("time", "joined", "since", "expires")  # columns, in milliseconds since 1970


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
    def about(cls, room_id, message_id, openid, reason, caller):
        """Keep what openid reports: a message or, where message_id is None, a room."""
        room = Room.by_id(room_id)
        report = {"reporter": openid, "room_id": room_id, "reason": reason}
        if message_id is None:
            text = "\n".join(Room.texts(room_id).values())
            return cls.add(openid=room.room_owner_id, message_id=0, text=text, **report)
        for said_by, text in Message.select_message(room_id, message_id):
            if text:
                return cls.add(openid=said_by, message_id=message_id, text=text, **report)
        if caller.may_read(room_id):  # nobody else learns whether there is one
            raise Refused("message_not_found")

    @classmethod
    def add_doubtful(cls, **report):
        """Report a text that WeChat leaves to the operator, once while that report is open."""
        if not cls.select().filter(reporter="", is_open=True, **report).exists():
            cls.add(reporter="", reason="微信建议人工审核", **report)

    @classmethod
    def add(cls, **report):
        """Keep a report, once for each person, target and text while that report is open."""
        delete_two_invalid(cls, cls.time < now() - REPORT_DAYS * DAY_MS).execute()
        cls.insert(**report, time=now(), is_open=True).on_conflict_ignore().execute()

    @classmethod
    def close(cls, which):
        """Close open reports; how many there were."""
        return cls.update(is_open=False).where(which, cls.is_open).execute()


Report.add_index(
    Report.reporter,
    Report.room_id,
    Report.message_id,
    Report.text,
    unique=True,
    where=(Report.reporter != "") & Report.is_open,
    name="report_once",
)


# The commands. Each says in a line what it did, and exits with 1 when there was nothing to do.


def reports(show_all):
    """Show the open reports, or all of them, the oldest first."""
    chosen = Report.select() if show_all else Report.select().where(Report.is_open)
    found = [block(each, show_all) for each in chosen.order_by(Report.id)]
    nothing = "there are no reports" if show_all else "there are no open reports"
    finish("\n".join(found), nothing)


def dismiss(number):
    """Close a report whose text may stay."""
    closed = apply(lambda: Report.close(Report.id == number))
    finish(closed and f"dismissed report {number}", f"no report {number} is open")


def show(target):
    """Show a room, by its number, or a person; of the messages the newest."""
    facts = facts_of_room(target) if isinstance(target, int) else facts_of(target)
    facts["message"] = facts["message"].order_by(Message.message_id.desc()).limit(MESSAGES_SHOWN)
    found = []
    for kind, row in ((kind, row) for kind, rows in facts.items() for row in rows):
        found.append(kind)
        for name, value in row.items():
            first, *more = wrap(f"{name}: {value}", indent=" " * 8)
            found += [first[4:], *more]  # so that no text looks like another fact
    finish("\n".join(found), f"there is no {target} here")


def remove(room_id, message_id):
    """Delete a room or, with a message_id, the text of one of its messages."""
    reported = Report.room_id == room_id
    if message_id is not None:
        reported &= Report.message_id == message_id
    # It may be gone already, but not its reports.
    outcome, closed = apply(lambda: (delete(room_id, message_id), Report.close(reported)))
    finish((outcome.startswith("removed") or closed) and outcome, outcome, closed)


def delete(room_id, message_id):
    """Delete a room or a text; what was done, in words."""
    try:
        room = Room.by_id(room_id)
        if message_id is None:
            name = visible(Room.texts(room_id)["name"])
            room.close(room.room_owner_id)
            return f"removed room {room_id}, {name}"
        Message.by_id(room_id, message_id)
        room.remove_message(message_id)
        return f"removed message {message_id} of room {room_id}"
    except Refused as refusal:
        return f"nothing removed: {refusal.error.replace('_', ' ')}"


def ban(openid):
    """End somebody's tokens; what they change or log in to is refused from now on."""
    check_known(openid)
    apply(lambda: Ban.insert(openid=openid, since=now()).on_conflict_ignore().execute())
    while apply(lambda: Member.leave(openid)):
        pass
    finish(f"banned {openid}")


def unban(openid):
    """Let somebody log in again; earlier tokens stay ended."""
    if Ban.exists(openid):
        forget_all(Token, openid)
    found = apply(lambda: Ban.delete().where(Ban.openid == openid).execute())
    finish(found and f"{openid} is no longer banned", f"{openid} is not banned")


def bans():
    """Show who is banned, and since when."""
    found = [
        f"{moment(each.since) if each.since else '?':25} {each.openid}"
        for each in Ban.select().order_by(Ban.since, Ban.openid)
    ]
    finish("\n".join(found), "nobody is banned")


def clear_nickname(openid):
    """Take somebody's nickname away."""

    def act():
        for user in User.select().where(User.openid == openid, User.nickname != ""):
            User.complete(openid, user.sex, user.preference, nickname="")
            is_profile = (Report.openid == openid) & (Report.room_id == 0)
            closed = Report.close(is_profile & (Report.text == user.nickname))
            return f"cleared the nickname of {openid}", closed
        return "", 0

    done, closed = apply(act)
    finish(done, f"{openid} has no nickname", closed)


def forget(openid):
    """Delete what there is of somebody, as /usr/delete does."""
    no_room = Report.room_id.not_in(Room.select(Room.room_id))
    owned = Report.room_id.in_(Room.select(Room.room_id).where(Room.room_owner_id == openid))
    reported = [each.room_id for each in Report.select().where(Report.is_open, owned)]
    found = forget_person(openid)
    # A room that went to somebody else still has its texts; with any other all went that it had.
    is_gone = (Report.openid == openid) & ((Report.message_id != 0) | no_room)
    closed = apply(lambda: Report.close(is_gone | Report.room_id.in_(reported) & no_room))
    finish(found and f"forgot {openid}", f"nothing of {openid}", closed)


def export(openid):
    """Write all that is kept of somebody as JSON, but nothing that others said."""
    check_known(openid)
    sys.stdout.reconfigure(encoding="utf-8")  # as JSON is, whatever the console is
    facts = {kind: list(rows) for kind, rows in facts_of(openid).items()}
    print(json.dumps({"openid": openid, **facts}, ensure_ascii=False, indent=2))


def check_known(openid):
    """End with 1 where there is nothing of openid, which may be half of one."""
    places = [rows(Report.openid, openid), *facts_of(openid).values()]
    if not any(place.exists() for place in places):
        finish("", f"nobody here is {openid}")


def finish(done, nothing="", closed=0):
    """Print what was done or found, and the reports closed; or that there was nothing: then 1."""
    print((done or nothing) + (f"; closed {closed} report{'s' * (closed > 1)}" if closed else ""))
    sys.exit(0 if done else 1)


# What there is, by its kind


def facts_of(openid):
    """What is kept of somebody, without what others said."""
    return {
        "profile": rows(User.openid, openid),
        "owned room": rows(Room.room_owner_id, openid),
        "membership": rows(Member.openid, openid),
        "message": rows(Message.openid, openid),
        "own report": rows(Report.reporter, openid, "openid", "text"),
        "ban": rows(Ban.openid, openid),
        "login": rows(Token.openid, openid),
    }


def facts_of_room(room_id):
    members = Member.select(Member.openid, User.nickname).where(Member.room == room_id)
    return {
        "room": rows(Room.room_id, room_id),
        "member": members.left_outer_join(User, on=User.openid == Member.openid).dicts(),
        "message": rows(Message.room_id, room_id),
    }


def rows(place, value, *hidden):
    """The rows that have a value in one place, as dicts without what means nothing to people."""
    hidden = {place.name, "folded_name", "folded_section", "digest", *hidden}
    columns = [
        rfc3339(fn.nullif(each, 0)).alias(each.name) if each.name in TIMES else each
        for each in place.model._meta.sorted_fields
        if each.name not in hidden
    ]
    return place.model.select(*columns).where(place == value).dicts()


# In lines of a terminal


def block(report, with_state):
    """A report in lines of WIDTH columns; openids are whole, to be copied."""
    state = ", open" if report.is_open else ", settled"
    message = f", message {report.message_id}" if report.message_id else ""
    lines = [
        f"report {report.id}, {moment(report.time)}{state if with_state else ''}",
        f"where: room {report.room_id}{message}" if report.room_id else "where: a profile",
        f"said by: {report.openid}",
        f"reported by: {report.reporter or 'WeChat'}",
        "reason:",
        *wrap(report.reason),
        "text:",
        *wrap(report.text),
    ]
    return "\n".join(lines) + "\n"


def moment(milliseconds):
    return f"{datetime.fromtimestamp(milliseconds / 1000).astimezone():%Y-%m-%d %H:%M:%S %z}"


def wrap(text, indent="    "):
    for paragraph in visible(text.expandtabs(4)).splitlines():
        line = indent
        for character in paragraph:
            if shown_width(line + character) > WIDTH:
                yield line
                line = indent
            line += character
        yield line.rstrip()


def visible(text):
    """The text with its number for a character that hides, turns others round or is a command."""
    for each in {*text} - {"\n", "\u200d"}:
        if unicodedata.category(each) in ("Cc", "Cf", "Zl", "Zp"):
            text = text.replace(each, f"<U+{ord(each):04X}>")
    return text


def shown_width(text):
    return sum(
        1 + (unicodedata.east_asian_width(each) in "WF")
        for each in text
        if unicodedata.category(each) not in ("Mn", "Me", "Cf")
    )
