"""Serving with waitress, until the last request that was received is answered."""

import ipaddress
import logging
import signal
import socket
import sys
import threading
from contextlib import suppress
from functools import partial
from time import monotonic, perf_counter
from urllib.parse import quote, unquote

from waitress import create_server, wasyncore
from waitress.buffers import OverflowableBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.task import ThreadedTaskDispatcher

from service.database import SetupError

STOP_WITHIN = 30  # seconds
# Threads for the requests that may wait: more than WeChat and searches may hold up.
WAITING_THREADS = 80
CONNECTIONS_AT_MOST = 5000
# What is read of a request, in bytes: far more than the application takes, so that a photograph
# sent by mistake has its answer too.
REQUEST_AT_MOST = 16 * 1024 * 1024
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
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    if not (address.is_loopback or is_verified):
        log.warning("whoever reaches this port can act as anyone: an openid is believed as sent")
    link = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    sys.stdout.reconfigure(errors="backslashreplace")  # a path need not be of the console's letters
    print(f"roomapp is at {link} and keeps its data in {database.absolute()}", flush=True)


def start_server(app, listener, threads, waiting_urls, trusted_proxy):
    """A waitress server, and an event that SIGTERM and Ctrl-C set from now on."""
    # Not when a client leaves, waits for a thread, or is one too many.
    logging.getLogger("waitress").setLevel(logging.ERROR)
    descriptors = raise_descriptor_limit()
    waiting_threads = min(WAITING_THREADS, descriptors // 8)
    # Each thread opens two files, and a third while it waits for WeChat.
    files = 3 * (threads + waiting_threads) + 16
    server = create_server(
        app,
        map=wasyncore.socket_map,
        sockets=[listener],
        _dispatcher=Dispatcher(threads, waiting_threads, waiting_urls),
        trusted_proxy=trusted_proxy or None,
        trusted_proxy_headers=trusted_proxy and "x-forwarded-for x-forwarded-proto",
        outbuf_high_watermark=sys.maxsize,  # so that no thread waits for a client,
        outbuf_overflow=sys.maxsize,  # and no answer for a file
        connection_limit=min(CONNECTIONS_AT_MOST, max(10, descriptors - files)),
        max_request_body_size=REQUEST_AT_MOST,
        max_request_header_size=32 * 1024,
        log_socket_errors=False,  # phones come and go
    )
    # A shorter answer leaves in one piece. With two, threads and loop would hold up each other.
    server.adj.send_bytes = 18_000
    server.channel_class = Channel
    server.maintenance = partial(close_inactive, server)
    stopping = threading.Event()

    def stop(*_):
        stopping.set()
        server.pull_trigger()  # wakes the loop

    for name in ("SIGTERM", "SIGINT", "SIGHUP"):  # Windows has no SIGHUP
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)
    return server, stopping


def serve(server, stopping):
    """Answer until the event, and then what was received, for at most STOP_WITHIN.

    waitress's own way to stop would drop the requests that wait for a thread.
    """
    turn = partial(wasyncore.loop, timeout=1, use_poll=True, count=1)
    while not stopping.is_set():
        turn()
        make_room(server)
    deadline = monotonic() + STOP_WITHIN
    accept_last(server)
    while server.active_channels and monotonic() < deadline:
        for channel in list(server.active_channels.values()):
            end_of_input(channel)
        turn()
    server.task_dispatcher.stop(deadline)


class Channel(HTTPChannel):
    """A connection whose next request waits until the answer before it is sent."""

    is_waiting = False

    def must_wait(self):
        with self.outbuf_lock:
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


class Dispatcher(ThreadedTaskDispatcher):
    """Requests that may wait have threads of their own, so that the others never do."""

    def __init__(self, threads, waiting_threads, waiting_urls):
        super().__init__()
        self.set_thread_count(threads)
        self.waiting = ThreadedTaskDispatcher()
        self.waiting.set_thread_count(waiting_threads)
        self.waiting_urls = waiting_urls

    def add_task(self, channel):
        if channel.must_wait():
            return
        path = getattr(channel.requests[0], "path", "")  # what is no HTTP request has none
        if "/" + unquote(path).strip("/") in self.waiting_urls:
            self.waiting.add_task(channel)
        else:
            super().add_task(channel)

    def stop(self, deadline):
        # Each has the database open until it is joined; one that ends is soon listed no more.
        threads = [each for each in threading.enumerate() if each.name.startswith("waitress-")]
        for dispatcher in (self, self.waiting):
            dispatcher.shutdown(timeout=deadline - monotonic())
        for thread in threads:
            thread.join(max(0, deadline - monotonic()))


def close_inactive(server, now):
    """Close who has neither sent nor read for a while; waitress would wait until they read."""
    for channel in idle_channels(server):
        if channel.last_activity < now - server.adj.channel_timeout:
            channel.handle_close()


def make_room(server):
    """At the limit of connections, close the one that was idle longest."""
    if len(wasyncore.socket_map) >= server.adj.connection_limit:
        longest = min(
            idle_channels(server), key=lambda channel: channel.last_activity, default=None
        )
        if longest:
            longest.handle_close()


def idle_channels(server):
    """Those for which no thread works."""
    channels = list(server.active_channels.values())
    return [channel for channel in channels if channel.is_waiting or not channel.requests]


def accept_last(server):
    """Accept the connections that have reached this machine, and no more."""
    connections = -1
    while connections != len(server.active_channels):
        connections = len(server.active_channels)
        server.handle_accept()
    wasyncore.dispatcher.close(server)  # but not the trigger that wakes the loop


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
    """Log each request in a line, but not its query or body: openids and messages stay private."""

    def logging_app(environ, start_response):
        started = perf_counter()
        path = quote(environ["PATH_INFO"][:200], encoding="latin-1")
        line = f"{environ['REQUEST_METHOD'][:20]} {path}"

        def start_and_log(status, headers, exc_info=None):
            log.info("%s %s %.1f ms", line, status[:3], (perf_counter() - started) * 1000)
            return start_response(status, headers, exc_info)

        return app(environ, start_and_log)

    return logging_app
