"""Real server processes, and talking to them over HTTP."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

import roomapp

PROJECT = Path(roomapp.__file__).parent
ONE_SHOT = {"timeout": 30, "capture_output": True, "text": True, "encoding": "utf-8"}

signals = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows has no signals that a process can be sent to stop"
)
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at it as only Linux allows")


def command(*options):
    return [sys.executable, str(PROJECT / "roomapp.py"), *map(str, options)]


def environment(**variables):
    others = {name: value for name, value in os.environ.items() if not name.startswith("ROOMAPP_")}
    return {**others, "PYTHONUNBUFFERED": "1", **variables}


class Server:
    """A server process, once it says where it is."""

    def __init__(self, process, log, announcement):
        self.process = process
        self.log = log
        self.announcement = announcement
        self.port = int(re.search(r"http://[\d.]+:(\d+)", announcement)[1])

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=40)

    def request(self, method, url, body=None):
        with closing(self.connect()) as connection:
            connection.request(method, url, body)
            return read_answer(connection)

    def post(self, url, **fields):
        return self.request("POST", url, json.dumps(fields))[1]

    def send(self, url, **fields):
        """Send a request whole, and leave the answer to be read from the connection."""
        connection = self.connect()
        connection.request("POST", url, json.dumps(fields))
        return connection

    def open_room(self):
        room = {"name": "一", "section": "二", "description": "长" * 1000, "room_owner_id": "ming"}
        return self.post("/room/add", **room)["room_id"]

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(40)


def read_answer(connection):
    response = connection.getresponse()
    assert response.getheader("Content-Type") == "application/json"
    return response.status, json.loads(response.read())


@contextmanager
def servers(folder):
    """What starts servers on free ports, with a database in a folder, until the end."""
    with ExitStack() as started:

        def start(*options, arguments=None, preexec_fn=None, **variables):
            number = len(list(folder.glob("*.log")))
            log = folder / f"{number}.log"
            defaults = ["--port", 0, "--database", folder / "roomapp.db"]
            with log.open("wb") as stderr:
                process = subprocess.Popen(
                    arguments or command(*defaults, *options),
                    cwd=PROJECT,
                    env=environment(**variables),
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    preexec_fn=preexec_fn,
                )
            started.callback(process.stdout.close)
            started.callback(end, process)
            announcement = process.stdout.readline().decode()
            assert announcement, log.read_text()
            return Server(process, log, announcement)

        yield start


def end(process):
    """End a server, whatever state it is in."""
    process.kill()
    process.wait()


def make_database(file):
    """A database as the service makes it."""
    script = """if True:
        import pathlib, sys
        from service import schema
        from service.database import close_database
        schema.open_database(pathlib.Path(sys.argv[1]))
        close_database()"""
    subprocess.run([sys.executable, "-c", script, str(file)], cwd=PROJECT, check=True)


def start_error(*options, before=(), **variables):
    """The one line that a server says which cannot start."""
    words = [*before, *command(*options)]
    done = subprocess.run(words, cwd=PROJECT, env=environment(**variables), **ONE_SHOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1
    return done.stderr
