"""The SQLite file: opening, upgrading, copying and checking it, and who may write it."""

import logging
import os
import sqlite3
import threading
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timezone
from functools import cache
from inspect import signature
from pathlib import Path
from time import monotonic, sleep, time
from typing import NamedTuple
from weakref import WeakSet

from peewee import SQL, DatabaseError, OperationalError, SqliteDatabase, ValueLiterals

try:
    import fcntl
except ImportError:  # Windows: there only SQLite's own locks keep processes apart
    fcntl = None

BUSY_SECONDS = 5
LOG_AT_MOST = 16 * 1024 * 1024  # bytes that the write-ahead log keeps, once a reader held it up
RETRY_SECONDS = 0.0005
REWRITE_AT_MOST = 8 * 1024 * 1024  # bytes of a file, written anew in some tenths of a second
PAGE_AT_MOST = 1024 * 1024  # bytes
APPLICATION_ID = 0x726F6F6D  # "room": tells our files from those of other programs

log = logging.getLogger("roomapp")


class Refused(Exception):
    """A request that is refused; `error` is a key of the table of errors.

    `fields` go into the answer beside it.
    """

    def __init__(self, error, **fields):
        super().__init__(error)
        self.error = error
        self.fields = fields


class SetupError(Exception):
    """The service or a command cannot run as it is set up; the text says why in one line."""


class Connection(sqlite3.Connection):
    """One that a WeakSet can hold."""


class Database(SqliteDatabase):
    """A connection for each thread, opened when the thread first asks."""

    def __init__(self):
        super().__init__(None, lock_type="IMMEDIATE")
        self.connections = WeakSet()  # of all threads, to be closed at the end
        self.folder = None  # the descriptor that carries the lock between processes
        self.files = {}  # those in use, path: os.stat()
        self.must_empty_log = False  # since it has something that was deleted

    def _connect(self):
        # SQLite would create a missing file, and silently open a read-only one.
        if not os.access(self.database, os.W_OK):
            raise OperationalError(f"{self.database} is missing or cannot be written")
        connection = super()._connect()
        self.connections.add(connection)
        return connection

    def check_files(self):
        """Raise OperationalError where others have been put in the place of the files in use."""
        for path, used in self.files.items():
            if not is_same(path, used):
                raise OperationalError(f"{path} was moved or replaced: put it back, or restart")


database = Database()
writers = threading.Lock()


def open_database(path, version, create_tables, upgrade_tables):
    """Open the file at `path` for every thread; it is created or upgraded as needed.

    Raises SetupError, and leaves the file as it is, when it cannot be opened or is not ours; and
    Refused when another program is writing it.
    """
    path = path.absolute()
    database.init(
        str(path),
        timeout=BUSY_SECONDS,
        factory=Connection,
        check_same_thread=False,  # one thread closes the connections of all
        # The cache, in KiB, holds what a campus of a million rooms asks for at any one time.
        pragmas={
            "synchronous": "full",
            "foreign_keys": "on",
            "secure_delete": "on",  # what is deleted is overwritten
            "cache_size": -8_000,
            "journal_size_limit": LOG_AT_MOST,
        },
    )
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        database.folder = open_folder(path)
        with file_lock():
            if not has_database(path, version):
                path.touch(0o600)
                with database.atomic():
                    create_tables()
                    database.application_id = APPLICATION_ID
                    database.user_version = version
            if database.pragma("journal_mode", "wal") != "wal":
                raise SetupError(f"SQLite cannot keep a write-ahead log beside {path}")
            if database.user_version > version:  # as the log has it, not yet the header
                raise SetupError(f"{path} was made by a newer version of roomapp")
            if database.user_version < version:
                upgrade(path, version, upgrade_tables)
            database.files = {each: os.stat(each) for each in (str(path), f"{path}-wal")}
    except (SetupError, Refused):
        close_database()
        raise
    except (DatabaseError, sqlite3.DatabaseError, OSError) as error:
        close_database()
        raise SetupError(f"cannot open the database {path}: {error}") from error


def close_database():
    """Close the connections of all threads, so that SQLite empties its log into the file.

    Where a writer is still waiting, the end of the process closes them.
    """
    with suppress(Refused), file_lock(seconds=1):
        database.close()
        for connection in database.connections:
            connection.close()
    database.connections.clear()
    database.files = {}
    if database.folder is not None:
        os.close(database.folder)
        database.folder = None
    database.init(None)


# Writing


def apply(function):
    """Call function as one change."""
    with write_lock():
        return function()


def leave_loop():
    """Here a request may wait."""


@contextmanager
def write_lock():
    """Do what is inside as one change, or not at all. Readers never wait for it."""
    with file_lock():
        database.check_files()
        connection = database.connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:  # not when SQLite itself has rolled back: a full disk
                connection.execute("ROLLBACK")
        if database.must_empty_log:
            empty_log(connection)


def erase_traces():
    """Leave nothing of what was deleted in the file nor, as far as readers let it, in its log.

    SQLite overwrites deleted rows, but not a copy that it left behind when it moved a row to
    another page. So a small file is written anew. A large one would hold up writers for too long.
    """
    with file_lock():
        database.check_files()
        connection = database.connection()
        if os.stat(database.database).st_size <= REWRITE_AT_MOST:
            connection.execute("VACUUM")
        empty_log(connection)


def empty_log(connection):
    """Write the log into the file and empty it; if a reader is in the way, the next write does."""
    connection.execute("PRAGMA busy_timeout = 20")
    try:
        is_busy, *_ = connection.execute("PRAGMA wal_checkpoint(truncate)").fetchone()
        database.must_empty_log = bool(is_busy)
    except sqlite3.DatabaseError:  # the change itself is on the disk
        log.exception("the log was not emptied")
    finally:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")


@contextmanager
def file_lock(seconds=None):
    """Be the only writer of all processes; Refused after `seconds`, by default BUSY_SECONDS."""
    seconds = BUSY_SECONDS if seconds is None else seconds
    deadline = monotonic() + seconds
    if not writers.acquire(timeout=seconds):
        raise Refused("database_busy")
    try:
        with process_lock(database.folder, deadline):
            yield
    finally:
        writers.release()


@contextmanager
def process_lock(folder, deadline):
    """Hold the advisory lock on a folder, by its descriptor; Refused after the deadline.

    SQLite before 3.51.3 can damage a file that two processes write at once
    (sqlite.org/wal.html#walresetbug).
    """
    if folder is None:
        yield
        return
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if monotonic() > deadline:
                raise Refused("database_busy") from None
        sleep(RETRY_SECONDS)
    try:
        yield
    finally:
        fcntl.flock(folder, fcntl.LOCK_UN)


def open_folder(path):
    """A descriptor of the folder of a file, for process_lock; None on Windows."""
    return fcntl and os.open(path.parent, os.O_RDONLY)


def is_same(path, used):
    """Whether the file at a path is the one of this os.stat()."""
    try:
        return os.path.samestat(os.stat(path), used)
    except FileNotFoundError:
        return False


def is_busy(error):
    """Whether an error means that another program held the file, or a search took too long."""
    error = error.__cause__ or error
    error = getattr(error, "orig", error)
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # Python 3.10 passes on SQLite's words alone
        return str(error) in ("database is locked", "interrupted")
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_INTERRUPT)


# Reading


@contextmanager
def time_limit(seconds):
    """Interrupt what takes longer inside; is_busy knows the error."""
    deadline = monotonic() + seconds
    connection = database.connection()
    connection.set_progress_handler(lambda: monotonic() > deadline, 10_000)
    try:
        yield
    finally:
        connection.set_progress_handler(None, 0)


def prepared(build):
    """Turn a function that builds a query into one that runs it and returns its rows.

    The query is built once, with placeholders for the arguments, so it must not depend on their
    values: building takes Peewee some 100 µs, many times what SQLite takes to run it.
    """
    names = tuple(signature(build).parameters)

    @cache
    def sql():
        return compiled(build(*(SQL(f":{name}") for name in names)))

    def run(*values):
        return database.execute_sql(sql(), dict(zip(names, values, strict=True))).fetchall()

    return staticmethod(run)


class Page(NamedTuple):
    """Some rows as JSON, as SQLite encoded them: a list and, beside it, the nicknames."""

    name: str  # of the list
    array: str
    nicknames: str
    has_more: bool


def prepared_page(name, newest_last=False):
    """Prepare a finder of many: it returns a page, or None where its query has no row."""

    def prepare(build):
        find = prepared(build)

        def find_page(*values):
            for array, has_more, nicknames in find(*values):
                array, has_more = shorten(array, has_more, newest_last)
                return Page(name, array, nicknames, bool(has_more))
            return None

        return staticmethod(find_page)

    return prepare


def shorten(array, has_more, newest_last):
    """End a page at PAGE_AT_MOST, as if no more had been asked for."""
    content = array.encode()
    if len(content) <= PAGE_AT_MOST:
        return array, has_more
    between = b'},{"'  # two objects; inside a text JSON writes the quotation mark as \\"
    if newest_last:
        start = content.find(between, len(content) - PAGE_AT_MOST)
        return "[" + content[start + 2 :].decode(), True
    end = content.rfind(between, 0, PAGE_AT_MOST)
    return content[: end + 1].decode() + "]", True


def compiled(query):
    return database.get_sql_context().parse(ValueLiterals(query))[0]


# The file


def has_database(path, newest):
    """Whether a file holds a database of ours rather than nothing; SetupError for anything else.

    The file's header tells (sqlite.org/fileformat.html): SQLite would fold the log of another
    program into its file merely by looking.
    """
    if not path.exists():
        return False
    with path.open("rb") as file:
        header = file.read(100)
    if header and not header.startswith(b"SQLite format 3\0"):
        raise SetupError(f"{path} is not an SQLite database")
    if header and int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise SetupError(f"{path} belongs to another program")
    if int.from_bytes(header[60:64], "big") > newest:
        raise SetupError(f"{path} was made by a newer version of roomapp")
    return bool(header)


def upgrade(path, version, upgrade_tables):
    """Bring an older schema up to date in one transaction, after a copy beside it."""
    old = dated(path, f"version-{database.user_version}")
    log.warning("%s has an older schema and is upgraded, after a copy to %s", path, old)
    copy(database.connection(), old)
    database.foreign_keys = 0  # or dropping a table would delete the rows that refer to it
    try:
        with database.atomic():
            upgrade_tables(database.user_version)
            verify(database.connection())
            database.user_version = version
    except BaseException:
        old.unlink()
        raise
    database.foreign_keys = 1


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
        os.link(unfinished, file)  # a rename would replace an existing file
    finally:
        unfinished.unlink(missing_ok=True)
    sync(file)


def delete_unfinished(folder):
    """Delete the copies at which a process was killed, an hour ago or longer."""
    for label in ("unfinished", "restoring"):
        for left in folder.glob(f"*.{label}-*Z"):
            if left.stat().st_mtime < time() - 3600:
                left.unlink()


def verify(connection):
    """Raise SetupError when SQLite finds a database damaged."""
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict == "ok" and connection.execute("PRAGMA foreign_key_check").fetchone():
        verdict = "there are members or messages without a room"
    if verdict != "ok":
        raise SetupError(f"the database is damaged: {verdict}")


def sync(file):
    """Flush a file and its folder entry to disk."""
    with open(file, "rb+") as opened:
        os.fsync(opened.fileno())
    if os.name != "nt":  # Windows opens no folders
        folder = os.open(file.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def dated(path, label):
    """A name beside `path` that says why and when, to the microsecond in UTC."""
    return Path(f"{path}.{label}-{datetime.now(timezone.utc):%Y%m%dT%H%M%S.%f}Z")
