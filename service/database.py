"""The SQLite file: changes and their batches, reading, and opening it."""

import logging
import os
import sqlite3
import threading
import time
from contextlib import closing, contextmanager, suppress
from functools import cache, partial
from inspect import signature
from pathlib import Path
from time import monotonic, sleep

from peewee import (
    SQL,
    Check,
    DatabaseError,
    Model,
    OperationalError,
    SqliteDatabase,
    ValueLiterals,
)

try:
    import fcntl
except ImportError:  # Windows: there only SQLite's own locks keep processes apart
    fcntl = None

BUSY_SECONDS = 5  # how long a command, or a thread, waits for another program
LOOP_BUSY_SECONDS = 0.1  # how long the loop, and everybody with it, waits for another program
RETRY_SECONDS = 0.0005
WAL_AT_MOST = 16 * 1024 * 1024  # bytes that the write-ahead log keeps, once a reader held it up
PRAGMAS = {
    "synchronous": "full",
    "foreign_keys": "on",
    "secure_delete": "on",  # what is deleted is overwritten
    "cache_size": -8_000,  # KiB: what a campus of a million rooms asks for at any one time
    "journal_size_limit": WAL_AT_MOST,
}
APPLICATION_ID = 0x726F6F6D  # "room": tells our files from those of other programs
SCHEMA_VERSION = 6
OLDEST_VERSION = 5  # that is upgraded
DAY_MS = 24 * 60 * 60 * 1000

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


class MustLeaveLoop(BaseException):
    """The request would hold up the loop: it begins anew in a thread.

    A BaseException, since Bottle and waitress answer any Exception.
    """


class Database(SqliteDatabase):
    """One connection, for whoever holds `lock`.

    The loop holds it from the first request of a batch to the commit: others see only what is
    committed.
    """

    def __init__(self):
        super().__init__(None, thread_safe=False)
        self.lock = threading.RLock()
        self.loop = None  # while there is one, it calls the changes of other threads
        self.in_batch = False
        self.has_begun = False  # the transaction of the batch
        self.busy_until = 0  # until when nobody waits for another program
        self.must_empty_wal = False  # since it has something that was deleted
        self.folder = None  # the descriptor that carries the lock between processes
        self.files = {}  # those in use, path: os.stat()

    def check_files(self):
        """Raise OperationalError where others have been put in the place of the files in use."""
        for path, used in self.files.items():
            if not is_same(path, used):
                raise OperationalError(f"{path} was moved or replaced: put it back, or restart")


database = Database()


class Table(Model):
    class Meta:
        database = database
        legacy_table_names = False


def length(column, at_least, at_most):
    return Check(f"length({column}) BETWEEN {at_least} AND {at_most}")


def now():
    """Milliseconds since 1970, as the machine's clock has it."""
    return time.time_ns() // 1_000_000


# Changing


def apply(function):
    """Call function as one change, and return what it returns.

    In the loop it joins the batch that runs: it is on the disk before anybody is answered. A
    thread beside the loop joins its next batch, and waits for the commit. Refused when another
    program keeps holding the file: for 0.1 s in the loop, for BUSY_SECONDS elsewhere.
    """

    def act():
        with change():
            return function()

    if in_loop():
        return act()
    deadline = monotonic() + BUSY_SECONDS
    while True:
        try:
            return database.loop.call(act) if database.loop else act()
        except Refused as refusal:
            if refusal.error != "database_busy" or monotonic() > deadline:
                raise
        sleep(LOOP_BUSY_SECONDS)


def in_loop():
    return database.loop is not None and database.loop.thread == threading.get_ident()


def is_beside_loop():
    return database.loop is not None and not in_loop()


def leave_loop():
    """Where a request is about to wait: in the loop, have it begin anew in a thread."""
    if in_loop():
        raise MustLeaveLoop


@contextmanager
def change():
    """Do what is inside wholly or not at all; it is committed with the batch around it."""
    with batch():
        begin()
        connection = database.connection()
        connection.execute("SAVEPOINT change")
        try:
            yield
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK TO change")
            raise
        finally:
            if connection.in_transaction:
                connection.execute("RELEASE change")


@contextmanager
def batch():
    """Commit the changes inside all together when the outermost batch ends.

    Raises DatabaseError or sqlite3.DatabaseError, and nothing is done, when that fails.
    """
    with database.lock:
        if database.in_batch:
            yield
            return
        database.in_batch = True
        try:
            yield
            commit()
        finally:
            end_batch()


def begin():
    """Begin the transaction of a batch, once; Refused while another program holds the file."""
    connection = database.connection()
    if database.has_begun:
        check_transaction(connection)
        return
    seconds = 0 if monotonic() < database.busy_until else LOOP_BUSY_SECONDS
    try:
        wait_for(partial(try_to_begin, connection), seconds)
    except Refused:
        if seconds:
            database.busy_until = monotonic() + 1
        raise
    database.has_begun = True


def try_to_begin(connection):
    """Whether it was possible."""
    if not lock_file(database.folder):
        return False
    database.check_files()
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if is_busy(error):
            return False
        raise
    return True


def wait_for(try_it, seconds):
    """Try until it succeeds; Refused after so many seconds."""
    deadline = monotonic() + seconds
    while not try_it():
        if monotonic() >= deadline:
            raise Refused("database_busy")
        sleep(RETRY_SECONDS)


def check_transaction(connection):
    """Raise OperationalError where an error, also of a read, made SQLite roll back everything.

    A savepoint would begin a transaction of its own then.
    """
    if not connection.in_transaction:
        raise OperationalError("SQLite has undone this batch")


def commit():
    connection = database.connection()
    if database.has_begun:
        check_transaction(connection)
        connection.execute("COMMIT")
        if database.must_empty_wal:
            empty_wal(connection)


def end_batch():
    try:
        connection = database.connection()
        if connection.in_transaction:  # since something failed
            connection.execute("ROLLBACK")
    finally:
        unlock_file(database.folder)
        database.in_batch = database.has_begun = False


def empty_wal(connection):
    """Write the log into the file and empty it; if a reader is in the way, the next batch does."""
    try:
        is_held, *_ = connection.execute("PRAGMA wal_checkpoint(truncate)").fetchone()
        database.must_empty_wal = bool(is_held)
    except sqlite3.DatabaseError:  # the changes themselves are on the disk
        log.exception("the write-ahead log was not emptied")


@contextmanager
def process_lock(folder):
    """Be the only process that writes files of ours in a folder; Refused after BUSY_SECONDS."""
    wait_for(partial(lock_file, folder), BUSY_SECONDS)
    try:
        yield
    finally:
        unlock_file(folder)


def lock_file(folder):
    """Take the advisory lock on a folder, by its descriptor; whether no other process has it.

    SQLite before 3.51.3 can damage a file that two processes write at once
    (sqlite.org/wal.html#walresetbug).
    """
    if folder is not None:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def unlock_file(folder):
    if folder is not None:
        fcntl.flock(folder, fcntl.LOCK_UN)


# Reading


class Reader(threading.local):
    """The connection of a thread that reads on one of its own."""

    connection = None


reader = Reader()


def execute(sql, values=()):
    """The rows of a statement."""
    if reader.connection:
        return reader.connection.execute(sql, values).fetchall()
    with database.lock:
        return database.connection().execute(sql, values).fetchall()


@contextmanager
def read_apart(seconds):
    """Read what is committed on a connection of this thread's own, so that others go on."""
    uri = f"{Path(database.database).as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        connection.execute("BEGIN")  # all that is read is of one moment
        reader.connection = connection
        try:
            with time_limit(seconds, connection):
                yield
        finally:
            reader.connection = None


@contextmanager
def read_at_once(seconds):
    """Read on everybody's connection, and not for long."""
    with database.lock, time_limit(seconds, database.connection()):
        yield


@contextmanager
def time_limit(seconds, connection):
    """Interrupt what takes longer inside; is_busy knows the error."""
    deadline = monotonic() + seconds
    connection.set_progress_handler(lambda: monotonic() > deadline, 1000)
    try:
        yield
    finally:
        connection.set_progress_handler(None, 0)


def is_busy(error):
    """Whether an error means that another program held the file, or a search took too long."""
    error = error.__cause__ or error
    error = getattr(error, "orig", error)
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # Python 3.10 passes on SQLite's words alone
        return str(error) in ("database is locked", "interrupted")
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_INTERRUPT)


def prepared(build, result=list):
    """Turn a function that builds a query into one that runs it and returns its rows.

    The query is built once, with placeholders for the arguments, so it must not depend on their
    values: building takes Peewee some 100 µs, many times what SQLite takes to run it.
    """
    names = tuple(signature(build).parameters)

    @cache
    def sql():
        return compiled(build(*(SQL(f":{name}") for name in names)))

    def run(*values):
        return result(execute(sql(), dict(zip(names, values, strict=True))))

    return staticmethod(run)


# Whether there is a row, and the one value of the one row.
prepared_test = partial(prepared, result=bool)
prepared_value = partial(prepared, result=lambda rows: rows[0][0])


def compiled(query):
    return database.get_sql_context().parse(ValueLiterals(query))[0]


# The file


def open_file(path, make_tables):
    """Open the file at `path`, and have its tables made where they are missing or older.

    Raises SetupError, and leaves the file as it is, when it cannot be opened or is not ours; and
    Refused when another program is writing it.
    """
    path = path.absolute()
    # Whoever has the lock uses the connection, whatever the thread.
    database.init(str(path), timeout=BUSY_SECONDS, check_same_thread=False, pragmas=PRAGMAS)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        database.folder = open_folder(path)
        with process_lock(database.folder):
            make_ready(path, make_tables)
        database.files = {each: os.stat(each) for each in (str(path), f"{path}-wal")}
        database.pragma("busy_timeout", 0)  # begin() waits
    except (SetupError, Refused):
        close_database()
        raise
    except (DatabaseError, sqlite3.DatabaseError, OSError) as error:
        close_database()
        raise SetupError(f"cannot open the database {path}: {error}") from error


def make_ready(path, make_tables):
    if not has_database(path):
        path.touch(0o600)
    if not os.access(path, os.W_OK):  # SQLite would silently open it for reading
        raise SetupError(f"{path} cannot be written")
    make_tables(path)
    if database.pragma("journal_mode", "wal") != "wal":
        raise SetupError(f"SQLite cannot keep a write-ahead log beside {path}")
    database.execute_sql("SELECT 1 FROM clock")  # SQLite makes its log at the first look


def close_database():
    """Close the connection, so that SQLite empties its log into the file."""
    with suppress(Refused), process_lock(database.folder):
        database.close()
    database.files = {}
    if database.folder is not None:
        os.close(database.folder)
        database.folder = None
    database.init(None)


def open_folder(path):
    """A descriptor of the folder of a file, for process_lock; None on Windows."""
    return fcntl and os.open(path.parent, os.O_RDONLY)


def is_same(path, used):
    """Whether the file at a path is the one of this os.stat()."""
    try:
        return os.path.samestat(os.stat(path), used)
    except FileNotFoundError:
        return False


def has_database(path):
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
    check_version(path, int.from_bytes(header[60:64], "big") if header else SCHEMA_VERSION)
    return bool(header)


def check_version(path, version):
    if version > SCHEMA_VERSION:
        raise SetupError(f"{path} was made by a newer version of roomapp")
    if version < OLDEST_VERSION:
        raise SetupError(f"{path} was made by a version of roomapp that was never released")
