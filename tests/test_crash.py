"""What was answered with 1 is there after any crash."""

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import threading
from contextlib import closing
from http.client import HTTPException
from pathlib import Path

import pytest

from processes import PROJECT, Server, command, environment, linux

KILLS = 20


@pytest.fixture
def tmp_path():
    """On a disk."""
    with tempfile.TemporaryDirectory(prefix="roomapp-") as folder:
        yield Path(folder)


def ask(connection, *request):
    """The answer to a request, or None when the server is gone."""
    try:
        connection.request(*request)
        return json.loads(connection.getresponse().read())
    except (OSError, HTTPException):
        return None


class Life:
    """One client that changes rooms of its own and remembers what was answered with 1.

    What it was doing when the server died may or may not have been done.
    """

    def __init__(self, number, is_beside_another):
        self.is_beside_another = is_beside_another  # server, which may hold the file for long
        self.random = random.Random(number)
        self.openid = f"owner{number}"
        self.profile = None
        self.rooms = {}  # room_id: (guests in order, message texts in order)
        self.pending = None
        self.answered = 0
        self.last_time = ""

    def live(self, server):
        """Change things until the server is gone."""
        with closing(server.connect()) as connection:
            while True:
                url, fields, changed = self.choose()
                self.pending = url, fields, changed
                answer = ask(connection, "POST", url, json.dumps(fields))
                if answer is None:
                    return
                if not (self.is_beside_another and answer.get("error") == "database_busy"):
                    assert answer["response_code"] == 1, (url, fields, answer)
                    self.note(url, fields, changed, answer)
                self.pending = None
                self.watch(connection)

    def watch(self, connection):
        answer = ask(connection, "GET", "/time") or {"last_time": ""}
        self.last_time = max(self.last_time, answer["last_time"])

    def choose(self):
        """What to do next: the request, and what it is about."""
        room_id = self.random.choice(list(self.rooms) or [None])
        guests, _ = self.rooms.get(room_id, ([], []))
        kind = self.random.choices(
            ["add", "join", "kick", "send", "complete", "delete"], [3, 5, 2, 8, 1, 1]
        )[0]
        if room_id is None or (kind == "add" and len(self.rooms) < 20):
            name = f"{self.openid} {self.random.random()}"
            fields = {"name": name, "section": "s", "description": ""}
            return "/room/add", {**fields, "room_owner_id": self.openid}, name
        if kind == "kick" and guests:
            guest = self.random.choice(guests)
            return "/room/kick", {"room_id": room_id, "openid": guest}, guest
        if kind == "delete" and len(self.rooms) > 5:
            return "/room/delete", {"room_id": room_id, "openid": self.openid}, None
        if kind == "complete":
            profile = [str(self.random.random())]
            fields = {"openid": self.openid, "sex": 1, "preference": profile}
            return "/usr/complete", fields, profile
        if kind == "join" and len(guests) < 50:
            guest = f"guest{self.random.random()}"
            return "/usr/join", {"room_id": room_id, "openid": guest}, guest
        text = f"{self.random.random()} " + "长" * self.random.randrange(500)
        fields = {"room_id": room_id, "openid": self.openid, "message": text}
        return "/room/send_message", fields, text

    def note(self, url, fields, changed, answer):
        self.answered += 1
        self.last_time = max(self.last_time, answer.get("time", ""))
        if url == "/room/add":
            self.rooms[answer["room_id"]] = ([], [])
        else:
            self.change(url, fields, changed)

    def change(self, url, fields, changed):
        guests, messages = self.rooms.get(fields.get("room_id"), (None, None))
        if url == "/room/delete":
            del self.rooms[fields["room_id"]]
        elif url == "/usr/complete":
            self.profile = changed
        elif url == "/usr/join":
            guests.append(changed)
        elif url == "/room/kick":
            guests.remove(changed)
        else:
            messages.append(changed)

    def check(self, server):
        """Compare with what the server has; what was pending may have been done."""
        state = self.read_state(server)
        if state != (self.profile, self.rooms) and self.pending:
            url, fields, changed = self.pending
            if url == "/room/add":
                (room_id,) = state[1].keys() - self.rooms.keys()
                self.rooms[room_id] = ([], [])
            else:
                self.change(url, fields, changed)
        assert state == (self.profile, self.rooms)
        self.pending = None

    def read_state(self, server):
        info = server.post("/usr/info", openid=self.openid)
        rooms = {}
        for room in server.post("/usr/roomlist1", openid=self.openid, limit=500)["rooms"]:
            owner, *guests = room["users_id"]
            assert owner == self.openid == room["room_owner_id"]
            assert room["state"] == int(bool(guests))
            rooms[room["room_id"]] = (guests, self.messages(server, room["room_id"]))
        return info.get("preference"), rooms

    def messages(self, server, room_id):
        texts, after, has_more = [], 0, True
        while has_more:
            answer = server.post("/room/get_message", room_id=room_id, after=after, limit=500)
            texts += [message["message"] for message in answer["messages"]]
            times = [message["time"] for message in answer["messages"]]
            self.last_time = max([self.last_time, *times])
            has_more = answer["has_more"]
            after = answer["messages"][-1]["message_id"] if answer["messages"] else after
        return texts


def storm(lives, servers, seconds):
    """Let all live, spread over the servers, which are killed in the middle of it."""
    threads = [
        threading.Thread(target=life.live, args=(servers[number % len(servers)],))
        for number, life in enumerate(lives)
    ]
    for thread in threads:
        thread.start()
    threads[0].join(seconds)
    for server in servers:
        server.process.send_signal(signal.SIGKILL)
    for server in servers:
        server.process.wait()
    for thread in threads:
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2], ids=["one server", "two servers on one file"])
def test_what_was_answered_survives_kill_9(start, tmp_path, count):
    lives = [Life(number, count > 1) for number in range(8)]
    for kill in range(KILLS):
        storm(lives, [start("--quiet") for _ in range(count)], 0.3 + kill % 5 / 10)
        server = start("--quiet")
        for life in lives:
            life.check(server)
            named = server.post("/search", key=life.openid, limit=500)["rooms"]
            assert {room["room_id"] for room in named} == life.rooms.keys()
        assert server.request("GET", "/time")[1]["last_time"] >= max(x.last_time for x in lives)
        assert server.stop() == 0
        with closing(sqlite3.connect(tmp_path / "roomapp.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
            connection.execute("INSERT INTO room_index(room_index) VALUES('integrity-check')")
    answered = sum(life.answered for life in lives)
    print(f"{KILLS} kills of {count}, {answered} writes answered with 1, all there")
    assert answered > KILLS * 8


class Disk:
    """What files may hold after a power cut, by the system calls that a server made.

    Of each file: what was synced, and what was written since, of which a disk may have kept
    anything or nothing, whole or in part.
    """

    SECTOR = 512

    def __init__(self):
        self.synced = {}
        self.since = {}

    def write(self, name, offset, content):
        self.since.setdefault(name, []).append((offset, content))

    def truncate(self, name, length):
        self.since.setdefault(name, []).append((length, None))

    def sync(self, name):
        self.synced[name] = self.after_cut(name, lambda change: [change])
        self.since[name] = []

    def unlink(self, name):
        self.synced.pop(name, None)
        self.since.pop(name, None)

    def after_cut(self, name, pieces_kept):
        content = bytearray(self.synced.get(name, b""))
        for change in self.since.get(name, []):
            for offset, piece in pieces_kept(change):
                if piece is None:
                    del content[offset:]
                    content.extend(bytes(max(0, offset - len(content))))
                else:
                    content.extend(bytes(max(0, offset - len(content))))
                    content[offset : offset + len(piece)] = piece
        return bytes(content)

    def keep_some_sectors(self, luck):
        """Keep each sector that was not synced by luck."""

        def pieces_kept(change):
            offset, content = change
            if content is None:
                return [change] if luck.random() < 0.5 else []
            return [
                (offset + start, content[start : start + self.SECTOR])
                for start in range(0, len(content), self.SECTOR)
                if luck.random() < 0.5
            ]

        return pieces_kept


CALL = re.compile(
    r'\d+ +(\w+)\((?:\d+<([^>]*)>(?:, )?)?(?:"((?:\\x..)*)"(?:\.\.\.)?)?(.*)\) += (\d+)'
)


def calls(trace):
    """The successful calls of a trace in order: name, file, bytes, last number before the end."""
    unfinished = {}
    for line in trace.read_text().splitlines():
        process = line.split(maxsplit=1)[0]
        if line.endswith("<unfinished ...>"):
            unfinished[process] = line.removesuffix(" <unfinished ...>")
            continue
        if "resumed>" in line:
            line = unfinished.pop(process) + line.partition("resumed>")[2]
        called = CALL.match(line)
        if called:
            name, file, content, rest, _ = called.groups()
            content = plain(content)
            numbers = re.findall(r"\b\d+\b", rest)
            yield name, plain(file).decode(), content, int(numbers[-1]) if numbers else None


def plain(text):
    return bytes.fromhex((text or "").replace("\\x", ""))


@pytest.mark.slow
@linux
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace to see what is synced")
def test_what_was_answered_survives_a_power_cut(tmp_path):
    """At any moment the disk holds every message that was answered with 1 by then.

    It replays what the server asked the system to write and sync, leaves out what was not synced
    yet, or keeps some sectors of it, and lets SQLite recover. So it proves that nothing is
    answered before it is synced, and that SQLite copes with whatever else is left. It cannot
    prove that the system and the disk keep what they say is synced, nor does it leave out the
    names of files in their folder, which SQLite syncs too.
    """
    trace = tmp_path / "trace"
    file = tmp_path / "roomapp.db"
    traced = "trace=pwrite64,fdatasync,fsync,ftruncate,unlink,sendto"
    strace = ["strace", "-f", "-y", "-xx", "-s", "100000", "-e", traced, "-o", trace]
    process = subprocess.Popen(
        [*strace, *command("--port=0", f"--database={file}", "--quiet")],
        cwd=PROJECT,
        env=environment(),
        stdout=subprocess.PIPE,
    )
    with process:
        server = Server(process, None, process.stdout.readline().decode())
        room_id = server.open_room()
        for number in range(250):  # enough for the log to be folded into the file on the way
            text = f"{number} " + "长" * 1900
            server.post("/room/send_message", room_id=room_id, openid="ming", message=text)
        # Once this is answered, so are the calls before in the trace.
        server.request("GET", "/time")
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)

    disk = Disk()
    luck = random.Random(1)
    answered = set()
    cuts = folded = 0
    for name, target, content, number in calls(trace):
        name_of_file = target.rpartition("/")[2]
        ours = name_of_file in ("roomapp.db", "roomapp.db-wal", "roomapp.db-journal")
        if name == "sendto":
            sent = re.search(rb'"response_code":1,"message_id":(\d+)', content)
            answered |= {int(sent[1])} if sent else set()
        elif name == "unlink":
            disk.unlink(bytes(content).decode().rpartition("/")[2])
        elif ours and name == "pwrite64":
            disk.write(name_of_file, number, content)
            folded += name_of_file == "roomapp.db" and bool(answered)
        elif ours and name == "ftruncate":
            disk.truncate(name_of_file, number)
        elif ours:
            disk.sync(name_of_file)
        if answered and luck.random() < (0.2 if name == "sendto" else 0.02):
            for pieces_kept in (
                lambda _: [],
                lambda change: [change],
                disk.keep_some_sectors(luck),
            ):
                cuts += 1
                cut = tmp_path / f"cut{cuts}"
                cut.mkdir()
                for each in {*disk.synced, *disk.since}:
                    (cut / each).write_bytes(disk.after_cut(each, pieces_kept))
                with closing(sqlite3.connect(cut / "roomapp.db")) as connection:
                    found = {row[0] for row in connection.execute("SELECT message_id FROM message")}
                    (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
                assert answered <= found
                assert verdict == "ok"
                shutil.rmtree(cut)
    print(f"{cuts} states of the disk, {len(answered)} messages, {folded} pages folded in")
    assert len(answered) == 250
    assert folded > 100, "the log was folded into the file under way"


@pytest.mark.slow
def test_the_log_stays_short_under_a_minute_s_worth_of_writes(start, tmp_path):
    server = start("--quiet")
    room_id = server.open_room()
    writes = iter(range(3000))  # 50 a second
    longest = 0

    def talk():
        nonlocal longest
        with closing(server.connect()) as connection:
            for number in writes:
                for url, fields in [
                    (
                        "/room/send_message",
                        {"openid": "ming", "message": f"{number}" + "长" * 1500},
                    ),
                    ("/room/get_message", {"limit": 20}),
                ]:
                    connection.request("POST", url, json.dumps({"room_id": room_id, **fields}))
                    assert json.loads(connection.getresponse().read())["response_code"] == 1
                longest = max(longest, (tmp_path / "roomapp.db-wal").stat().st_size)

    talkers = [threading.Thread(target=talk) for _ in range(8)]
    for talker in talkers:
        talker.start()
    for talker in talkers:
        talker.join()
    print(f"the log was {longest / 2**20:.1f} MiB at its longest")
    assert longest < 16 * 2**20
    assert server.stop() == 0
    assert [each.name for each in tmp_path.glob("roomapp.db*")] == ["roomapp.db"]
