"""What people report, and what the operator does beside a running service."""

import sys
import unicodedata
from datetime import datetime

from peewee import BigIntegerField, BooleanField, TextField

from models import Message, Room
from service.database import DAY_MS, Refused, Table, apply, now, prepared
from service.login import Ban, Token, forget_all
from service.login import forget as forget_person
from service.memory import delete_two_invalid

REPORT_DAYS = 180
WIDTH = 80  # columns of a terminal


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
    def about(cls, room_id, message_id, openid, reason):
        """Keep what openid reports: a message or, where message_id is None, a room."""
        room = Room.by_id(room_id)
        if message_id is None:
            said_by, text = room.room_owner_id, "\n".join(Room.texts(room_id).values())
        else:
            said_by, text = Message.by_id(room_id, message_id)
            if not text:
                raise Refused("message_not_found")
        cls.add(openid, said_by, room_id, message_id or 0, text, reason)

    @classmethod
    def add(cls, reporter, openid, room_id, message_id, text, reason):
        """Keep a report, once for each person and target."""
        earliest = now() - REPORT_DAYS * DAY_MS
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


# The commands. Each says in a line what it did, and exits with 1 when there was nothing to do.


def reports(show_all):
    """Show the open reports, or all of them, the oldest first."""
    chosen = Report.select() if show_all else Report.select().where(Report.is_open)
    found = list(chosen.order_by(Report.id))
    if not found:
        finish("there are no reports" if show_all else "there are no open reports", found=False)
    for each in found:
        print(block(each, show_all))


def remove(room_id, message_id):
    """Delete a room or, with a message_id, the text of one of its messages."""
    reported = Report.room_id == room_id
    what = f"room {room_id}"
    if message_id is not None:
        reported &= Report.message_id == message_id
        what = f"message {message_id} of {what}"

    def act():
        closed = Report.close(reported)
        try:
            room = Room.by_id(room_id)
            if message_id is None:
                room.close(room.room_owner_id)
            else:
                Message.by_id(room_id, message_id)
                room.remove_message(message_id)
            return f"removed {what}", closed
        except Refused as refusal:  # it may be gone already, but not its reports
            return f"nothing removed: {refusal.error.replace('_', ' ')}", closed

    outcome, closed = apply(act)
    finish(f"{outcome}{and_closed(closed)}", found=outcome.startswith("removed"))


def ban(openid):
    """End somebody's tokens; what they change or log in to is refused from now on."""

    def act():
        Ban.insert(openid=openid).on_conflict_ignore().execute()
        return Report.close(Report.openid == openid)

    finish(f"banned {openid}{and_closed(apply(act))}")


def unban(openid):
    """Let somebody log in again; earlier tokens stay ended."""
    if Ban.exists(openid):
        forget_all(Token, openid)
    found = apply(lambda: Ban.delete().where(Ban.openid == openid).execute())
    finish(f"{openid} is {'no longer' if found else 'not'} banned", found)


def forget(openid):
    """Delete what there is of somebody, as /usr/delete does."""
    is_room = (Report.message_id == 0) & Report.room_id.in_(Room.select(Room.room_id))
    found = forget_person(openid)
    # A room that went to somebody else still has its texts.
    closed = apply(lambda: Report.close((Report.openid == openid) & ~is_room))
    finish(f"{'forgot' if found else 'nothing of'} {openid}{and_closed(closed)}", found)


def finish(line, found=True):
    print(line)
    sys.exit(0 if found else 1)


def and_closed(closed):
    return f"; closed {closed} report{'s' * (closed > 1)}" if closed else ""


# Showing a report


def block(report, with_state):
    """A report in lines of WIDTH columns; openids are whole, to be copied."""
    moment = datetime.fromtimestamp(report.time / 1000).astimezone()
    state = ", open" if report.is_open else ", settled"
    message = f", message {report.message_id}" if report.message_id else ""
    lines = [
        f"report {report.id}, {moment:%Y-%m-%d %H:%M:%S %z}{state if with_state else ''}",
        f"where: room {report.room_id}{message}" if report.room_id else "where: a profile",
        f"said by: {report.openid}",
        f"reported by: {report.reporter or 'WeChat'}",
        "reason:",
        *wrap(report.reason),
        "text:",
        *wrap(report.text),
    ]
    return "\n".join(lines) + "\n"


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
    return "".join(
        f"<U+{ord(each):04X}>"
        if unicodedata.category(each) in ("Cc", "Cf", "Zl", "Zp") and each not in "\n\u200d"
        else each
        for each in text
    )


def shown_width(text):
    return sum(
        0
        if unicodedata.combining(each) or unicodedata.category(each) in ("Mn", "Me", "Cf")
        else 2
        if unicodedata.east_asian_width(each) in "WF"
        else 1
        for each in text
    )
