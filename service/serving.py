"""Serving with waitress, until the last request that was received is answered."""

import ipaddress
import logging
import signal
import socket
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from operator import attrgetter
from time import monotonic, perf_counter
from urllib.parse import quote

from waitress import create_server, wasyncore
from waitress.buffers import OverflowableBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser

from service.database import MustLeaveLoop, SetupError, batch, database

STOP_WITHIN = 30  # seconds
BATCH_SECONDS = 0.02  # for how long requests are answered before their changes are committed,
BATCH_AT_MOST = 4 * 1024 * 1024  # and up to how many bytes of answers
CONNECTIONS_AT_MOST = 5000
UNSENT_AT_MOST = 128 * 1024 * 1024  # bytes that clients have not read
# What is read of a request, in bytes: far more than the application takes, so that a photograph
# sent by mistake has its answer too.
REQUEST_AT_MOST = 16 * 1024 * 1024
ADJUSTMENTS = {
    "outbuf_high_watermark": sys.maxsize,  # so that nobody waits for a client,
    "outbuf_overflow": sys.maxsize,  # and no answer for a file
    "max_request_body_size": REQUEST_AT_MOST,
    "max_request_header_size": 32 * 1024,
    "log_socket_errors": False,  # phones come and go
}
BODY_KEPT = 64 * 1024  # and no more than a piece of the network's beyond

log = logging.getLogger("roomapp")


def listen(host, port):
    """A socket on the first address that `host` stands for, IPv4 before IPv6."""
    try:
        family, _, _, _, address = min(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        return socket.create_server(address, family=family)
    except (OSError, UnicodeError) as error:
        raise SetupError(f"cannot listen on host {host}, port {port}: {error}") from None


def announce(listener, database, is_verified):
    """Print where the service is and where its data is; warn where strangers are believed."""
    host, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(host)
    hosts = own_addresses(address.version) if address.is_unspecified else [host]
    if not (address.is_loopback or is_verified):
        log.warning("whoever reaches this port can act as anyone: an openid is believed as sent")
    links = [f"http://{f'[{each}]' if ':' in each else each}:{port}/" for each in hosts]
    where = " and for others at ".join(links)
    print(f"roomapp is at {where} and keeps its data in {database.absolute()}", flush=True)


def own_addresses(version):
    """Loopback and, where there is a network, the address for others in it; nothing is sent."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    loopback, elsewhere = ("127.0.0.1", "192.0.2.1") if version == 4 else ("::1", "2001:db8::1")
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as unused:
        unused.connect((elsewhere, 9))
        return [loopback, unused.getsockname()[0]]
    return [loopback]


def start_loop(app, listener, threads, clean_up, undone, trusted_proxy):
    """A loop that SIGTERM and Ctrl-C stop from now on.

    `clean_up` does a little when nothing else is to do, and returns whether there is more.
    `undone` is the JSON that answers requests whose changes could not be committed.
    """
    # Not when a client leaves, or is one too many.
    logging.getLogger("waitress").setLevel(logging.ERROR)
    # Each thread opens a connection, for WeChat, or the three files of a database, for a search.
    files = 3 * threads + 16
    loop = Loop(threads, clean_up)
    server = loop.server = create_server(
        app,
        map=wasyncore.socket_map,
        sockets=[listener],
        _dispatcher=loop,
        trusted_proxy=trusted_proxy or None,
        trusted_proxy_headers=trusted_proxy and "x-forwarded-for x-forwarded-proto",
        connection_limit=min(CONNECTIONS_AT_MOST, max(10, raise_descriptor_limit() - files)),
        **ADJUSTMENTS,
    )
    server.channel_class = Channel
    server.answer_undone = failure(undone.encode())
    server.pull_trigger = loop.wake
    server.handle_accept = partial(accept_all, server)
    server.maintenance = lambda now: None  # in the middle of a poll, where nothing may be closed
    loop.stop_on_signals()
    return loop


def failure(content):
    """A whole answer of 500, after which the connection is closed."""
    head = (
        "HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\nCache-Control: no-store\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


class Loop:
    """The one thread that reads the sockets and has the database.

    Each time around it answers the requests that are there, commits once, and only then sends.
    """

    def __init__(self, threads, clean_up):
        self.thread = threading.get_ident()
        self.server = None
        self.ready = deque()  # channels with a request, and the calls of other threads
        self.threads = ThreadPoolExecutor(threads)  # for the requests that wait
        self.clean_up = clean_up
        self.has_more = False  # to clean up
        self.look_at_idle = 0  # when next, in seconds of monotonic()
        self.stopping = threading.Event()
        self.has_ended = False

    def stop_on_signals(self):
        for name in ("SIGTERM", "SIGINT", "SIGHUP"):  # Windows has no SIGHUP
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self.stop)

    def stop(self, *_):
        """Stop, in a signal handler: once every request that was received is answered."""
        self.stopping.set()
        self.server.trigger.pull_trigger()

    def run(self):
        """Answer until stop(), and then what was received, for at most STOP_WITHIN."""
        database.loop = self
        while not self.stopping.is_set():
            self.turn()
        deadline = monotonic() + STOP_WITHIN
        accept_all(self.server)
        wasyncore.dispatcher.close(self.server)  # but not the trigger that wakes the loop
        while self.server.active_channels and monotonic() < deadline:
            for channel in list(self.server.active_channels.values()):
                end_of_input(channel)
            self.turn()
        self.has_ended = True
        for each in self.ready:
            if isinstance(each, Call):
                each.cancel()
        self.threads.shutdown(wait=False, cancel_futures=True)

    def turn(self):
        timeout = 0 if self.ready or self.has_more else 1
        wasyncore.loop(timeout, use_poll=True, count=1)
        if self.ready:
            self.answer_ready()
        else:
            self.clean_up_some()
        if is_full(self.server) or monotonic() >= self.look_at_idle:
            self.look_at_idle = monotonic() + 1  # since there may be thousands
            close_idle(self.server)

    def clean_up_some(self):
        try:
            self.has_more = self.clean_up()
        except Exception as problem:
            log.warning("cannot clean up: %r", problem)
            self.has_more = False

    def answer_ready(self):
        answered = []
        try:
            with batch():
                self.service_some(answered)
        except Exception as error:
            log.exception("a batch was rolled back: %d answers are server_error", len(answered))
            for each in answered:
                each.undo(error)
        for each in answered:
            each.release()

    def service_some(self, answered):
        deadline = monotonic() + BATCH_SECONDS
        size = 0
        while self.ready and size < BATCH_AT_MOST and monotonic() < deadline:
            task = self.ready.popleft()
            try:
                task.service()
            except MustLeaveLoop:
                self.threads.submit(task.service_apart)
            else:
                answered.append(task)
                size += task.total_outbufs_len

    def add_task(self, channel):
        """Called by waitress and by handle_write, when a channel has a next request."""
        if not channel.waits_for_client():
            self.ready.append(channel)

    def call(self, function):
        """Called by other threads: what function() returns in the next batch, once committed.

        Raises CancelledError when the loop has ended.
        """
        call = Call(function)
        self.ready.append(call)
        self.wake()
        if self.has_ended:
            call.cancel()
        return call.result()

    def wake(self):
        if threading.get_ident() != self.thread:
            self.server.trigger.pull_trigger()


class Call(Future):
    """What another thread wants done in the loop's next batch; it waits for the commit, too."""

    total_outbufs_len = 0  # nothing is sent to a client

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.outcome = None

    def service(self):
        try:
            self.outcome = partial(self.set_result, self.function())
        except Exception as error:
            self.undo(error)

    def undo(self, error):
        self.outcome = partial(self.set_exception, error)

    def release(self):
        self.outcome()


class Channel(HTTPChannel):
    """A connection: an answer is held until its batch, or all that its thread did, is on the disk.

    Its next request waits until that answer is sent.
    """

    is_held = False
    is_waiting = False

    def service(self):
        self.is_held = True  # also where MustLeaveLoop ends this: service_apart goes on
        super().service()

    def service_apart(self):
        """Answer in another thread, from the beginning; what changes joins the loop's batches."""
        self.requests[0].get_body_stream().seek(0)
        super().service()
        self.is_held = False
        self.server.pull_trigger()  # the loop sends it: writable() says yes from here on

    def release(self):
        self.is_held = False
        if self.connected:
            self.handle_write()

    def undo(self, _):
        """Put server_error in the place of what was answered, since that was not done."""
        if self.connected:
            self.outbufs, self.total_outbufs_len = [OverflowableBuffer(sys.maxsize)], 0
            self.write_soon(self.server.answer_undone)
            self.requests = []
            self.close_when_flushed = True

    def _flush_some(self, do_close=True):
        # Whatever leaves comes by here, also a long answer before it is whole.
        return not self.is_held and super()._flush_some(do_close)

    def writable(self):
        return not self.is_held and super().writable()

    def waits_for_client(self):
        """Whether the answer before is not sent yet; handle_write goes on then."""
        self.is_waiting = bool(self.total_outbufs_len)
        return self.is_waiting

    def handle_write(self):
        if self.is_waiting:
            self._flush_exception(self._flush_some)
        super().handle_write()
        if self.is_waiting and self.connected and not self.total_outbufs_len:
            self.is_waiting = False
            self.server.add_task(self)


class RequestParser(HTTPRequestParser):
    def parse_header(self, header_plus):
        super().parse_header(header_plus)
        if self.body_rcv:
            self.body_rcv.buf = BodyBuffer(sys.maxsize)
        # Whoever stands in front may have gone by the length, and take the rest for a request.
        if self.chunked and "CONTENT_LENGTH" in self.headers:
            self.headers["CONNECTION"] = "close"


class BodyBuffer(OverflowableBuffer):
    """A body in memory, without what makes it too large."""

    def append(self, content):
        if len(self) <= BODY_KEPT:
            super().append(content)


Channel.parser_class = RequestParser


def close_idle(server):
    """Close who has neither sent nor read for two minutes.

    At the limit of connections, or of what nobody reads, also those that were idle longest.
    """
    since = time.time() - server.adj.channel_timeout
    is_too_much = is_full(server) or unsent(server) > UNSENT_AT_MOST
    for channel in sorted(idle_channels(server), key=attrgetter("last_activity")):
        if not is_too_much and channel.last_activity >= since:
            break
        channel.handle_close()
        is_too_much = is_full(server) or unsent(server) > UNSENT_AT_MOST


def is_full(server):
    return len(wasyncore.socket_map) >= server.adj.connection_limit


def unsent(server):
    """Bytes of answers that clients have not read."""
    return sum(channel.total_outbufs_len for channel in server.active_channels.values())


def idle_channels(server):
    """Those without a request that is being answered."""
    channels = list(server.active_channels.values())
    return [channel for channel in channels if channel.is_waiting or not channel.requests]


def accept_all(server):
    """Accept all connections that have reached this machine; waitress takes one a poll."""
    before = -1
    while before < len(server.active_channels) and not is_full(server):
        before = len(server.active_channels)
        type(server).handle_accept(server)


def end_of_input(channel):
    """Stop reading from a client: waitress closes the connection after its last answer.

    On Linux, what has arrived already can still be read.
    """
    with suppress(OSError):  # where the client has left
        channel.socket.shutdown(socket.SHUT_RD)


def raise_descriptor_limit():
    """Raise this process's limit of open files, and return it."""
    try:
        import resource
    except ImportError:  # Windows, whose select() watches 512 sockets
        return 512
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors = 10_240  # as many as macOS allows
    if hard != resource.RLIM_INFINITY:
        descriptors = min(descriptors, hard)
    if soft != resource.RLIM_INFINITY and soft < descriptors:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))
    return descriptors


def log_requests(app):
    """Log each request in a line, but not its query or body: openids and messages stay private.

    The status and the time are the handler's: the answer may still wait for its commit.
    """

    def logging_app(environ, start_response):
        started = perf_counter()
        path = quote(environ["PATH_INFO"][:200], encoding="latin-1")
        line = f"{environ['REQUEST_METHOD'][:20]} {path}"

        def start_and_log(status, headers, exc_info=None):
            log.info("%s %s %.1f ms", line, status[:3], (perf_counter() - started) * 1000)
            return start_response(status, headers, exc_info)

        return app(environ, start_and_log)

    return logging_app
