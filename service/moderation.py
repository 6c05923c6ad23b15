"""What the operator does beside a running service: read reports, remove, ban, forget."""

import shutil
import signal
import sys
import unicodedata
from contextlib import contextmanager
from datetime import datetime
from itertools import zip_longest
from time import monotonic

from models import Ban, Message, Report, Room, Token, forget_all, leave
from service.database import (
    BUSY_SECONDS,
    Refused,
    SetupError,
    apply,
    close_database,
    database,
)
from service.schema import open_database

COLUMNS = {"NO": 4, "TIME": 10, "ROOM": 6, "MESSAGE": 13, "SAID BY": 14, "REPORTED BY": 14}
REST = {"REASON AND TEXT": 40}  # as wide as the terminal allows, but no less than this


def reports(path, show_all):
    """Show the open reports, or all of them, the oldest first."""
    with opened(path):
        chosen = Report.select() if show_all else Report.select().where(Report.is_open)
        found = list(chosen.order_by(Report.id))
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # when it is piped into `head`
    sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal knows every character
    if not found:
        finish("there are no reports" if show_all else "there are no open reports", found=False)
    used = sum(COLUMNS.values()) + 2 * len(COLUMNS)
    widest = shutil.get_terminal_size().columns - used
    widths = [*COLUMNS.values(), max(widest, *REST.values())]
    print_row([*COLUMNS, *REST], widths)
    for each in found:
        print_row(cells(each), widths)


def remove(path, room_id, message_id):
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

    with opened(path):
        outcome, closed = apply(act)
    finish(f"{outcome}{and_closed(closed)}", found=outcome.startswith("removed"))


def ban(path, openid):
    """End somebody's tokens; what they change or log in to is refused from now on."""

    def act():
        Ban.insert(openid=openid).on_conflict_ignore().execute()
        return Report.close(Report.openid == openid)

    with opened(path):
        closed = apply(act)
    finish(f"banned {openid}{and_closed(closed)}")


def unban(path, openid):
    """Let somebody log in again; earlier tokens stay ended."""

    def act():
        return Ban.delete().where(Ban.openid == openid).execute()

    with opened(path):
        if Ban.exists(openid):
            forget_all(Token, openid)
        found = apply(act)
    finish(f"{openid} is {'no longer' if found else 'not'} banned", found)


def forget(path, openid):
    """Delete what there is of somebody, as /usr/delete does."""
    is_room = (Report.message_id == 0) & Report.room_id.in_(Room.select(Room.room_id))
    with opened(path):
        found = leave(openid)
        # A room that went to somebody else still has its texts.
        closed = apply(lambda: Report.close((Report.openid == openid) & ~is_room))
    finish(f"{'forgot' if found else 'nothing of'} {openid}{and_closed(closed)}", found)


@contextmanager
def opened(path):
    if not path.exists():
        raise SetupError(f"there is no database {path}")
    open_database(path)
    try:
        yield
        deadline = monotonic() + BUSY_SECONDS
        while database.must_empty_wal and monotonic() < deadline:
            apply(lambda: None)  # its batch empties it, once no reader is in the way
        if database.must_empty_wal:
            print("a reader is in the way of the log: what was deleted is in it until it ends")
    finally:
        close_database()


def finish(line, found=True):
    print(line)
    sys.exit(0 if found else 1)


def and_closed(closed):
    return f"; closed {closed} report{'s' * (closed > 1)}" if closed else ""


# A table whose cells are as wide as a terminal shows them


def cells(report):
    moment = datetime.fromtimestamp(report.time / 1000)
    return [
        f"{report.id}",
        f"{moment:%Y-%m-%d %H:%M}",
        f"{report.room_id or ''}",
        f"{report.message_id or ''}",
        report.openid,
        report.reporter or "WeChat",
        f"[{report.reason}]\n{report.text}",
    ]


def print_row(cells, widths):
    columns = [wrap(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for parts in zip_longest(*columns, fillvalue=""):
        padded = (
            part + " " * (width - shown_width(part))
            for part, width in zip(parts, widths, strict=True)
        )
        print("  ".join(padded).rstrip())


def wrap(text, width):
    lines = []
    for paragraph in visible(text.expandtabs(4)).splitlines():
        lines.append("")
        for character in paragraph:
            if shown_width(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines


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
