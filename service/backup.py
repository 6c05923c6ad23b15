"""Keeping the data: a copy while the service runs, the way back, and a check."""

import os
import sqlite3
import sys
import time
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from service.database import (
    SCHEMA_VERSION,
    SetupError,
    has_database,
    open_folder,
    process_lock,
)

# Older ones can damage a file that several processes write (sqlite.org/wal.html#walresetbug).
SAFE_SQLITE = (3, 51, 3)
NOTE = """\
note       SQLite before 3.51.3 can damage a file that two programs write at the same moment. The
           service and its commands lock it, so they are safe (on Windows, stop the service before a
           command). Let nothing else write it, not even the sqlite3 shell: look at a `backup`."""


def backup(path, file):
    """Copy the database at `path`, in use or not, to a new file."""
    with connection_to(path) as connection:
        copy(connection, file)
    print(f"{file} is a copy of {path}, checked and on the disk")


def restore(path, file):
    """Put a copy of `file` in the place of the database at `path`, which is kept beside it."""
    new, old = dated(path, "restoring"), dated(path, "replaced")
    with connection_to(file) as connection:
        copy(connection, new)
        try:
            with process_lock(open_folder(path)):
                fold_wal(path)
                give_to_owner(path, new)
                put_aside(path, old)
                os.replace(new, path)
                sync(path)
        finally:
            new.unlink(missing_ok=True)
    kept = f"what was there is kept as {old}" if old.exists() else "nothing was there"
    print(f"{path} is a copy of {file}; {kept}")


def check(path):
    """Show how the database at `path` is, and exit with 1 when it is damaged."""
    with connection_to(path) as connection:

        def ask(sql):
            return connection.execute(sql).fetchone()[0]

        print(f"database   {path}, {path.stat().st_size} bytes")
        print(f"SQLite     {sqlite3.sqlite_version}")
        try:
            wal = Path(f"{path}-wal")
            wal_size = wal.stat().st_size if wal.exists() else 0
            print(f"journal    {ask('PRAGMA journal_mode')}, {wal_size} bytes")
            print(f"schema     {ask('PRAGMA user_version')}, of {SCHEMA_VERSION} known")
            verify(connection)
            for table in ("user", "room", "member", "message"):
                print(f"{table:10} {ask(f'SELECT count(*) FROM {table}')} rows")
            print(f"last_time  {ask(LAST_TIME)}")
        except (sqlite3.DatabaseError, SetupError) as damage:
            print(f"integrity  {damage}")
            sys.exit(1)
    print("integrity  ok")
    if sqlite3.sqlite_version_info < SAFE_SQLITE:
        print(NOTE)


LAST_TIME = "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', last_time / 1000.0, 'unixepoch') FROM clock"


@contextmanager
def connection_to(path):
    """A connection to a database of ours, which is not made when it is missing.

    Whatever goes wrong with files inside becomes SetupError.
    """
    try:
        if not has_database(path):
            raise SetupError(f"there is no database at {path}")
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            yield connection
    except sqlite3.DatabaseError as error:
        raise SetupError(f"{path}: {error}") from None
    except OSError as error:
        raise SetupError(str(error)) from None


def copy(connection, file):
    """Copy the database of an sqlite3 connection, as it is at this moment, to a new file.

    Once this returns the copy is checked and on the disk. Raises FileExistsError, and SetupError
    if the copy is damaged.
    """
    if file.exists():
        raise FileExistsError(f"{file} exists already")
    unfinished = dated(file, "unfinished")
    delete_unfinished(file.parent)
    try:
        unfinished.touch(0o600)
        connection.set_progress_handler(lambda: None, 10_000)  # lets Ctrl-C in
        connection.execute("VACUUM INTO ?", [str(unfinished)])
        with closing(sqlite3.connect(unfinished)) as finished:
            verify(finished)
        sync(unfinished)
        link_or_rename(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)
    sync(file)


def link_or_rename(file, name):
    """Give a file a new name that nothing has; it may lose the old one."""
    try:
        os.link(file, name)
    except FileExistsError:
        raise
    except OSError:  # exFAT and some shares have no links
        os.rename(file, name)


def delete_unfinished(folder):
    """Delete the copies at which a process was killed, an hour ago or longer."""
    for left in (*folder.glob("*.unfinished-*Z"), *folder.glob("*.restoring-*Z")):
        if left.stat().st_mtime < time.time() - 3600:
            left.unlink()


def verify(connection):
    """Raise SetupError when SQLite finds a database damaged."""
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict == "ok" and connection.execute("PRAGMA foreign_key_check").fetchone():
        verdict = "there are members or messages without a room"
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if verdict == "ok" and version >= 6 and connection.execute(ORPHANS).fetchone():
        verdict = "there are messages without a room"
    if verdict != "ok":
        raise SetupError(f"the database is damaged: {verdict}")


ORPHANS = """
    SELECT 1 FROM message WHERE room_id NOT IN (
        SELECT room_id FROM room UNION ALL SELECT room_id FROM closed_room) LIMIT 1
"""


def fold_wal(path):
    """Leave nothing of a sound database outside its file; SetupError when it is in use.

    SQLite gives up a write-ahead log only for the last who has the database open.
    """
    try:
        if has_database(path):
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode = delete")
    except sqlite3.OperationalError as error:
        raise SetupError(f"{path} is in use ({error}); stop the service first") from None
    except (sqlite3.DatabaseError, SetupError):
        pass  # it is damaged, or none of ours, and put aside as it is


def put_aside(path, old):
    """Keep what is there of a database, its log and its journal under another name.

    Where the database is damaged or gone, SQLite would take these for the next one's.
    """
    for ending in ("-wal", "-journal"):
        if Path(f"{path}{ending}").exists():
            os.replace(f"{path}{ending}", f"{old}{ending}")
    Path(f"{path}-shm").unlink(missing_ok=True)
    if path.exists():
        link_or_rename(path, old)  # a link, so that there is a database at `path` at any moment


def give_to_owner(path, new):
    """Let a new file belong to the user of the one it replaces: the service's, not who restores."""
    if path.exists():
        owner = path.stat()
        new.chmod(owner.st_mode)
        if hasattr(os, "chown"):
            os.chown(new, owner.st_uid, owner.st_gid)


def sync(file):
    """Flush a file and its folder entry to disk, as far as the system can."""
    with open(file, "rb+") as opened:
        os.fsync(opened.fileno())
    with suppress(OSError):  # Windows opens no folders, and some shares sync none
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def dated(path, label):
    """A name beside `path` that says why and when, to the microsecond in UTC."""
    return Path(f"{path}.{label}-{datetime.now(timezone.utc):%Y%m%dT%H%M%S.%f}Z")
