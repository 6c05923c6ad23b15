"""A campus's mix of requests over HTTP, and what it costs the processes that answer them."""

import json
import os
import random
import selectors
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, sleep

import psutil

PROJECT = Path(__file__).parent.parent
CONNECTIONS = 16
START_WITHIN = 30  # seconds

# How many of a hundred requests, by the names of the benchmark's cases.
MIX = {
    "time": 60,
    "get_message, after": 20,
    "get_message, page": 8,
    "section": 4,
    "search, text": 3,
    "roomlist1": 1,
    "roomlist2": 1,
    "send_message": 2,
    "join": 1,
}


def mix(cases):
    """Requests as bytes, without end."""
    bodies = {name: (url, body) for name, url, body in cases}
    draw = random.Random(2)
    while True:
        (name,) = draw.choices(list(MIX), MIX.values())
        url, body = bodies[name]
        yield encode(url, body())


def encode(url, body):
    content = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
    method = "GET" if body is None else "POST"
    head = f"{method} {url} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


class Client:
    """A kept connection with one request on its way."""

    def __init__(self, port, request):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.send(request)

    def send(self, request):
        self.answer = b""
        self.sent = perf_counter()
        self.socket.sendall(request)

    def receive(self):
        """The seconds that the answer took, once it is whole, and None before."""
        arrived = self.socket.recv(1 << 20)
        if not arrived:
            raise ConnectionError("closed without an answer")
        self.answer += arrived
        head, ended, body = self.answer.partition(b"\r\n\r\n")
        if not ended:
            return None
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return None
        if not body.startswith(b'{"response_code":1'):
            raise ValueError(self.answer)
        return perf_counter() - self.sent


def send(port, requests, amount):
    """Send so many requests: the seconds for all, and those for each."""
    took = []
    with selectors.DefaultSelector() as waiting:
        started = perf_counter()
        for _ in range(min(CONNECTIONS, amount)):
            client = Client(port, next(requests))
            waiting.register(client.socket, selectors.EVENT_READ, client)
        left = amount - len(waiting.get_map())
        while len(took) < amount:
            for key, _ in waiting.select():
                seconds = key.data.receive()
                if seconds is not None:
                    took.append(seconds)
                    if left:
                        left -= 1
                        key.data.send(next(requests))
        elapsed = perf_counter() - started
        for key in list(waiting.get_map().values()):
            key.fileobj.close()
    return elapsed, took


@contextmanager
def run_server(command, core=None, **variables):
    """A server process, its port, and the seconds from its start to its first answer."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    paths = os.pathsep.join(map(str, (PROJECT, PROJECT / "tests")))
    environment = {**os.environ, "PYTHONPATH": paths, **variables}
    started = perf_counter()
    with on(core):  # whose choice a child inherits
        process = psutil.Popen(
            [word.format(port=port) for word in command],
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    try:
        while not answers(port):
            if process.poll() is not None or perf_counter() > started + START_WITHIN:
                raise ConnectionError(f"{command} does not answer")
            sleep(0.002)
        yield process, port, perf_counter() - started
    finally:
        process.terminate()
        process.wait()


def answers(port):
    try:
        send(port, iter([encode("/time", None)]), 1)
    except OSError:
        return False
    return True


@contextmanager
def on(core):
    """Work on one core alone, where the system can."""
    here = psutil.Process()
    if core is None or not hasattr(here, "cpu_affinity"):
        yield
        return
    before = here.cpu_affinity()
    here.cpu_affinity([core])
    try:
        yield
    finally:
        here.cpu_affinity(before)


def family(process):
    return [process, *process.children(recursive=True)]


def cpu_seconds(process):
    """Seconds of CPU time that a process and its children have used."""
    return sum(sum(each.cpu_times()[:2]) for each in family(process))


def memory(process):
    """MiB of memory of the largest among a process and its children."""
    return max(each.memory_info().rss for each in family(process)) / 2**20
