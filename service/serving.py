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
from urllib.parse import quote

from waitress import create_server, wasyncore
from waitress.task import ThreadedTaskDispatcher

from service.database import SetupError

STOP_WITHIN = 30  # seconds
# Threads for the requests that may wait for the write lock or for WeChat.
WAITING_THREADS = 32
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
    logging.getLogger("waitress").setLevel(logging.WARNING)  # that a client left is no news,
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # nor that one waits for a thread
    server = create_server(
        app,
        map=wasyncore.socket_map,
        sockets=[listener],
        _dispatcher=Dispatcher(threads, waiting_urls),
        trusted_proxy=trusted_proxy or None,
        trusted_proxy_headers=trusted_proxy and "x-forwarded-for x-forwarded-proto",
        outbuf_high_watermark=sys.maxsize,  # so that no thread waits for a client
        connection_limit=connection_limit(),
        max_request_body_size=REQUEST_AT_MOST,
        max_request_header_size=32 * 1024,
        inbuf_overflow=REQUEST_IN_MEMORY,
        log_socket_errors=False,  # phones come and go
    )
    stopping = threading.Event()

    def stop(*_):
        stopping.set()
        server.pull_trigger()  # wakes the loop

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return server, stopping


def serve(server, stopping):
    """Answer until the event, and then what was received, for at most STOP_WITHIN.

    waitress's own way to stop would drop the requests that wait for a thread.
    """
    turn = partial(wasyncore.loop, timeout=1, use_poll=True, count=1)
    while not stopping.is_set():
        turn()
    deadline = monotonic() + STOP_WITHIN
    accept_last(server)
    while server.active_channels and monotonic() < deadline:
        for channel in list(server.active_channels.values()):
            end_of_input(channel)
        turn()
    server.task_dispatcher.stop(deadline)


class Dispatcher(ThreadedTaskDispatcher):
    """Requests that may wait have threads of their own, so that the others never do."""

    def __init__(self, threads, waiting_urls):
        super().__init__()
        self.set_thread_count(threads)
        self.waiting = ThreadedTaskDispatcher()
        self.waiting.set_thread_count(WAITING_THREADS)
        self.waiting_urls = waiting_urls

    def add_task(self, channel):
        path = getattr(channel.requests[0], "path", "")  # what is no HTTP request has none
        if path.rstrip("/") in self.waiting_urls:
            self.waiting.add_task(channel)
        else:
            super().add_task(channel)

    def stop(self, deadline):
        for dispatcher in (self, self.waiting):
            dispatcher.shutdown(timeout=deadline - monotonic())
        for thread in threading.enumerate():
            if thread.name.startswith("waitress-"):  # each has the database open
                thread.join(max(0, deadline - monotonic()))


def accept_last(server):
    """Accept the connections that have reached this machine, and no more."""
    connections = -1
    while connections != len(server.active_channels):
        connections = len(server.active_channels)
        server.handle_accept()
    wasyncore.dispatcher.close(server)  # but not the trigger that wakes the loop


def end_of_input(channel):
    """Let waitress find the end of input behind what was received, and so close when it is done."""
    with suppress(OSError):  # where the client has left
        channel.socket.shutdown(socket.SHUT_RD)


def connection_limit():
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
