"""Keeping the data: a copy while the service runs, the way back, and a check."""

import os
import sqlite3
import sys
from contextlib import closing, contextmanager
from pathlib import Path

from models import Clock, rfc3339
from service.database import (
    SetupError,
    copy,
    dated,
    has_database,
    open_folder,
    process_lock,
    sync,
    verify,
)
from service.schema import SCHEMA_VERSION

# Older ones can damage a file that several processes write (sqlite.org/wal.html#walresetbug).
SAFE_SQLITE = (3, 51, 3)


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
                fold_log(path)
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

        def ask(sql, values=()):
            return connection.execute(sql, values).fetchone()[0]

        print(f"database   {path}, {path.stat().st_size} bytes")
        print(f"SQLite     {sqlite3.sqlite_version}")
        try:
            log = Path(f"{path}-wal")
            log_size = log.stat().st_size if log.exists() else 0
            print(f"journal    {ask('PRAGMA journal_mode')}, {log_size} bytes")
            print(f"schema     {ask('PRAGMA user_version')}, of {SCHEMA_VERSION} known")
            verify(connection)
            for table in ("user", "room", "member", "message"):
                print(f"{table:10} {ask(f'SELECT count(*) FROM {table}')} rows")
            print(f"last_time  {ask(*Clock.select(rfc3339(Clock.last_time)).sql())}")
        except (sqlite3.DatabaseError, SetupError) as damage:
            print(f"integrity  {damage}")
            sys.exit(1)
    print("integrity  ok")
    if sqlite3.sqlite_version_info < SAFE_SQLITE:
        print(
            "warning: this SQLite can damage a file that several processes write at once; roomapp "
            "locks it, except on Windows, but let no other program write it, or install "
            f"SQLite {'.'.join(map(str, SAFE_SQLITE))}",
            file=sys.stderr,
        )


@contextmanager
def connection_to(path):
    """A connection to a database of ours, which is not made when it is missing.

    Whatever goes wrong with files inside becomes SetupError.
    """
    try:
        if not has_database(path, SCHEMA_VERSION):
            raise SetupError(f"there is no database at {path}")
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            yield connection
    except sqlite3.DatabaseError as error:
        raise SetupError(f"{path}: {error}") from None
    except OSError as error:
        raise SetupError(str(error)) from None


def fold_log(path):
    """Leave nothing of a sound database outside its file; SetupError when it is in use.

    SQLite gives up a write-ahead log only for the last who has the database open.
    """
    try:
        if has_database(path, SCHEMA_VERSION):
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
        os.link(path, old)  # so that there is a database at `path` at any moment


def give_to_owner(path, new):
    """Let a new file belong to the user of the one it replaces: the service's, not who restores."""
    if path.exists():
        owner = path.stat()
        new.chmod(owner.st_mode)
        if hasattr(os, "chown"):
            os.chown(new, owner.st_uid, owner.st_gid)
