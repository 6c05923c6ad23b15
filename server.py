"""Serving with waitress: in one process or several, to the last request that was received."""

import logging
import os
import select
import signal
import socket
import threading
from functools import partial
from time import monotonic, perf_counter, sleep
from time import time as now
from urllib.parse import quote

from waitress import create_server, wasyncore
from waitress.task import ThreadedTaskDispatcher

from models import Unusable

STOP_WITHIN = 30  # seconds
STUCK_AFTER = 30  # seconds
# What waitress reads of a request, in bytes: far more than the application takes, so that a
# photograph sent by mistake has its answer too.
REQUEST_AT_MOST = 16 * 1024 * 1024
REQUEST_IN_MEMORY = 64 * 1024  # what is larger waits for its refusal in a file

log = logging.getLogger("roomapp")


def listen(host, port):
    """A socket on the first address that `host` stands for, IPv4 before IPv6."""
    try:
        family, _, _, _, address = min(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        return socket.create_server(address, family=family)
    except (OSError, UnicodeError) as error:
        raise Unusable(f"cannot listen on host {host}, port {port}: {error}") from None


def supervise(listener, work, workers, ready):
    """Keep processes at work, replace those that die, and stop them all when told to."""
    watched = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGALRM}
    signal.signal(signal.SIGCHLD, lambda *_: None)  # or it would not be kept until it is waited for
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    try:
        running = {fork(work) for _ in range(workers)}
    except OSError as error:
        raise Unusable(f"cannot start {workers} workers: {error}") from None
    ready()
    while signal.sigwait(watched) in (signal.SIGCHLD, signal.SIGALRM):
        for pid in ended(running):
            log.error("worker %d ended and is replaced", pid)
            sleep(1)  # or one that cannot even start would be replaced without pause
        try:
            while len(running) < workers:
                running.add(fork(work))
        except OSError as error:
            log.error("no worker can be started: %s", error)
            signal.alarm(1)
    listener.close()
    for pid in running:
        os.kill(pid, signal.SIGTERM)
    for pid in running:
        os.waitpid(pid, 0)


def fork(work):
    """Start a process that works, and return its process id.

    Signals wait until it can heed them, so that it does not leave its database open.
    """
    supervisor = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    heed_signals = partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, signal.valid_signals())
    try:
        work(ready=heed_signals, supervisor=supervisor)
        status = 0
    except Unusable as problem:
        log.error("%s", problem)
    except BaseException:
        log.exception("a worker cannot go on")
    os._exit(status)


def ended(running):
    for pid in list(running):
        if os.waitpid(pid, os.WNOHANG)[0]:
            running.remove(pid)
            yield pid


def serve(app, listener, threads, login_threads, trusted_proxy, ready, supervisor=None):
    """Answer until this process is told to stop, or its supervisor is no more.

    Then it answers every request that was received whole, for STOP_WITHIN: waitress's own way to
    stop would drop those that wait for a thread.
    """
    server = serving(app, listener, Dispatcher(threads, login_threads), trusted_proxy)
    stopping = stop_at_signals(server)
    ready()
    turn = partial(wasyncore.loop, use_poll=True, count=1)
    look_again = monotonic()
    while not stopping.is_set() and supervisor in (None, os.getppid()):
        turn(timeout=1)
        if monotonic() > look_again:
            drop_the_stuck(server)
            look_again = monotonic() + 1
    finish(server, turn, deadline=monotonic() + STOP_WITHIN)


def serving(app, listener, dispatcher, trusted_proxy):
    logging.getLogger("waitress").setLevel(logging.WARNING)  # that a client left is no news,
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # nor that one waits for a thread
    return create_server(
        app,
        map=wasyncore.socket_map,
        sockets=[listener],
        _dispatcher=dispatcher,
        trusted_proxy=trusted_proxy,
        trusted_proxy_headers=trusted_proxy and "x-forwarded-for x-forwarded-proto",
        send_bytes=18_000,  # an answer of fewer leaves in one piece
        connection_limit=connections(),
        max_request_body_size=REQUEST_AT_MOST,
        max_request_header_size=32 * 1024,
        inbuf_overflow=REQUEST_IN_MEMORY,
        log_socket_errors=False,  # phones come and go
    )


class Dispatcher(ThreadedTaskDispatcher):
    """Logins wait for WeChat in threads of their own, so that nobody else has to."""

    def __init__(self, threads, login_threads):
        super().__init__()
        self.set_thread_count(threads)
        self.logins = ThreadedTaskDispatcher()
        self.logins.set_thread_count(login_threads)

    def add_task(self, channel):
        path = getattr(channel.requests[0], "path", "")  # what is no HTTP request has none
        if self.logins.threads and path.endswith("/usr/login"):
            self.logins.add_task(channel)
        else:
            super().add_task(channel)


def connections():
    """How many clients may stay connected, once the limit of open files is raised for them."""
    try:
        import resource
    except ImportError:  # Windows, whose select() watches 512 sockets
        return 400
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors = 10_240  # as many as macOS allows
    if hard != resource.RLIM_INFINITY:
        descriptors = min(descriptors, hard)
    if soft != resource.RLIM_INFINITY and soft < descriptors:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))
    return descriptors // 2  # a large body takes a second one, for its temporary file


def stop_at_signals(server):
    """An event that SIGTERM and Ctrl-C set."""
    stopping = threading.Event()

    def stop(*_):
        stopping.set()
        server.pull_trigger()  # wakes the loop

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return stopping


def drop_the_stuck(server):
    """Close connections whose clients take nothing of a long answer, on which threads wait."""
    for channel in list(server.active_channels.values()):
        if channel.total_outbufs_len and channel.last_activity < now() - STUCK_AFTER:
            channel.handle_close()


def finish(server, turn, deadline):
    take_in_the_last(server)
    while server.active_channels and monotonic() < deadline:
        for channel in list(server.active_channels.values()):
            say_goodbye(channel)
        turn(timeout=0.1)
    for dispatcher in (server.task_dispatcher, server.task_dispatcher.logins):
        dispatcher.shutdown(timeout=deadline - monotonic())
    for thread in threading.enumerate():
        if thread.name.startswith("waitress-"):  # each has the database open
            thread.join(max(0, deadline - monotonic()))


def take_in_the_last(server):
    """Accept and read what has reached this machine, and close the door."""
    for _ in range(server.adj.backlog):
        if not select.select([server.socket], [], [], 0)[0]:
            break
        server.handle_accept()
    wasyncore.dispatcher.close(server)  # but not the trigger that wakes the loop
    for channel in list(server.active_channels.values()):
        for _ in range(REQUEST_AT_MOST // server.adj.recv_bytes):
            if not more_came(channel.socket):
                break
            channel.handle_read()


def more_came(connection):
    """Whether something has come that was not read, other than the end."""
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


def say_goodbye(channel):
    """Let a connection end with the answer to its last request, and tell the client so."""
    with channel.requests_lock:
        if channel.requests:
            channel.requests[-1].headers["CONNECTION"] = "close"
        else:
            channel.close_when_flushed = True


def logged(app):
    """Log each request in a line, but not its query or body: openids and messages stay private."""

    def logging_app(environ, start_response):
        started = perf_counter()
        path = quote(environ["PATH_INFO"][:200], encoding="latin-1")
        asked = f"{environ['REQUEST_METHOD'][:20]} {path}"

        def start_and_log(status, headers, exc_info=None):
            log.info("%s %s %.1f ms", asked, status[:3], (perf_counter() - started) * 1000)
            return start_response(status, headers, exc_info)

        return app(environ, start_and_log)

    return logging_app
