"""The queue of those who write: the threads of a process, and the processes on a database."""

import os
import threading
import time
from collections import deque
from contextlib import contextmanager

try:
    import fcntl
except ImportError:  # Windows, where processes have no queue but SQLite's own locks
    fcntl = None

DOOR, TURN = 0, 1  # the bytes of the file that are locked
LOOK_EVERY = 0.0002  # seconds


class Turns:
    """A lock that is given in the order of asking, which threading.Lock does not promise."""

    def __init__(self):
        self.guard = threading.Lock()
        self.queue = deque()  # a closed lock for each who asked; the first has the turn

    @contextmanager
    def taken(self, file, timeout):
        """Have the turn among the threads and, by a lock on `file`, among the processes.

        Raises TimeoutError after so many seconds.
        """
        deadline = time.monotonic() + timeout
        self.acquire(timeout)
        try:
            with locked(file, deadline):
                yield
        finally:
            self.release()

    def acquire(self, timeout):
        mine = threading.Lock()
        mine.acquire()
        with self.guard:
            self.queue.append(mine)
            if self.queue[0] is mine:
                return
        if mine.acquire(timeout=timeout):
            return
        with self.guard:
            if self.queue[0] is not mine:
                self.queue.remove(mine)
                raise TimeoutError

    def release(self):
        with self.guard:
            self.queue.popleft()
            if self.queue:
                self.queue[0].release()


@contextmanager
def locked(file, deadline):
    """Hold the lock on a file, which is made if it is missing; or TimeoutError.

    The system lets go of it when the process dies.
    """
    if fcntl is None:
        yield
        return
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # Who is next waits in the door, and so goes before who has just had the turn.
            wait(descriptor, DOOR, deadline)
            wait(descriptor, TURN, deadline)
            fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, DOOR)
            if is_still(file, descriptor):
                yield
                return
        finally:
            os.close(descriptor)


def wait(descriptor, byte, deadline):
    """Lock a byte; the system's own way of waiting knows no deadline."""
    while True:
        try:
            return fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):
            if time.monotonic() > deadline:
                raise TimeoutError from None
        time.sleep(LOOK_EVERY)


def is_still(file, descriptor):
    """Whether nobody has discarded the file while we waited for it."""
    try:
        return os.path.samestat(os.stat(file), os.fstat(descriptor))
    except FileNotFoundError:
        return False
