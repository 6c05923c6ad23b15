"""Keeping the data: a copy while the service runs, the way back, and a look at its health."""

import os
import sqlite3
import sys
from contextlib import closing, contextmanager
from time import monotonic

import models
from models import Clock, Unusable, beside, rfc3339

try:
    import fcntl
except ImportError:  # Windows, which by itself refuses to rename a file that is open
    fcntl = None

# What a connection to a database with a write-ahead log keeps locked as long as it is open:
# SHARED_FIRST and SHARED_SIZE of SQLite (sqlite.org/src/file/src/os.h).
SHARED_FIRST, SHARED_SIZE = 0x40000002, 510

# Older ones can damage a file that several processes write (sqlite.org/wal.html#walresetbug).
WITHOUT_RESET_RACE = (3, 51, 3)


def backup(path, file):
    """Copy the database at `path`, in use or not, to a new file."""
    with connected(path) as source:
        models.copy(source, file, progress())
    print(f"{file} is a copy of {path}, checked and on the disk")


def restore(path, file):
    """Put a copy of `file` in the place of the database at `path`, which is kept beside it."""
    arriving, replaced = models.dated(path, "arriving"), models.dated(path, "replaced")
    with connected(file) as source:
        models.copy(source, arriving, progress())
        try:
            fold_log(path)
            with alone(path):
                if path.exists():
                    belong_as(path, arriving)
                put_aside(path, replaced)
                os.replace(arriving, path)
                models.sync(path)
        finally:
            arriving.unlink(missing_ok=True)
    kept = f"what was there is kept as {replaced}" if replaced.exists() else "nothing was there"
    print(f"{path} is a copy of {file}; {kept}")


def check(path):
    """Tell how the database at `path` is, and exit with 1 when it is damaged."""
    with connected(path) as connection:

        def ask(sql, values=()):
            return connection.execute(sql, values).fetchone()[0]

        print(f"database   {path}, {path.stat().st_size} bytes")
        print(f"SQLite     {sqlite3.sqlite_version}")
        try:
            log = beside(path, "-wal")
            log_size = log.stat().st_size if log.exists() else 0
            print(f"journal    {ask('PRAGMA journal_mode')}, {log_size} bytes")
            print(f"schema     {ask('PRAGMA user_version')}, of {models.schema_version()} known")
            models.verify(connection)
            for table in ("user", "room", "member", "message"):
                print(f"{table:10} {ask(f'SELECT count(*) FROM {table}')} rows")
            print(f"last_time  {ask(*Clock.select(rfc3339(Clock.last_time)).sql())}")
        except (sqlite3.DatabaseError, Unusable) as damage:
            print(f"integrity  {damage}")
            sys.exit(1)
    print("integrity  ok")
    if sqlite3.sqlite_version_info < WITHOUT_RESET_RACE:
        print(
            "warning: this SQLite can damage a file that several processes write at once; servers "
            "of roomapp take turns, except on Windows, but let no other program write it, or "
            "install SQLite 3.51.3",
            file=sys.stderr,
        )


@contextmanager
def connected(path):
    """A connection to a database of ours, which is not made if it is missing.

    Whatever goes wrong with files inside becomes Unusable.
    """
    try:
        if not models.has_ours(path):
            raise Unusable(f"there is no database at {path}")
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            yield connection
    except sqlite3.DatabaseError as error:
        raise Unusable(f"{path}: {error}") from None
    except OSError as error:
        raise Unusable(str(error)) from None


def fold_log(path):
    """Leave nothing of a database outside its file, unless it is damaged."""
    try:
        if models.has_ours(path):
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode = delete")
    except (sqlite3.DatabaseError, Unusable) as error:
        if models.is_busy(error):
            raise in_use(path) from None


def in_use(path):
    return Unusable(f"a server is using {path}; stop it first")


@contextmanager
def alone(path):
    """Keep everybody else from the database at `path`; Unusable when somebody is at it."""
    if fcntl is None or not path.exists():
        yield
        return
    with path.open("rb+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, SHARED_SIZE, SHARED_FIRST)
        except OSError:
            raise in_use(path) from None
        yield


def put_aside(path, replaced):
    """Keep under another name what is there of a database, its log and its journal.

    Those are left where it is damaged or gone, and SQLite would take them for the next one's.
    """
    for ending in ("-wal", "-journal"):
        if beside(path, ending).exists():
            beside(path, ending).rename(beside(replaced, ending))
    beside(path, "-shm").unlink(missing_ok=True)
    if path.exists():
        os.link(path, replaced)  # so that there is a database at `path` at any moment


def belong_as(old, new):
    """Let a new file belong to the user of the old one: the service's, not who restores."""
    of_old = old.stat()
    new.chmod(of_old.st_mode)
    if hasattr(os, "chown"):
        os.chown(new, of_old.st_uid, of_old.st_gid)


def progress():
    """What to call while copying: it tells how far it is, every second."""
    told = monotonic()

    def tell(_, remaining, total):
        nonlocal told
        if monotonic() - told >= 1:
            told = monotonic()
            print(f"{100 * (total - remaining) // total} %", file=sys.stderr, flush=True)

    return tell
