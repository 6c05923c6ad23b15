"""One loop: what it answers together is committed together, and nothing leaves before."""

import json
import os
import signal
import socket
import sqlite3
import sys
import threading
from contextlib import ExitStack, closing, nullcontext, suppress
from functools import partial
from pathlib import Path
from textwrap import dedent

import pytest

import models
import search
from models import ClosedRoom, Message
from processes import linux, read_answer, signals
from roomapp import clean_up
from service import database as file
from service.database import Refused, apply, batch, change, database
from service.limits import RateLimit

LATE_COMMITS = """
    import time
    from service import database
    commit = database.commit

    def commit_late():
        if database.database.connection().in_transaction:
            time.sleep(0.5)
        commit()

    database.commit = commit_late
"""


@pytest.fixture
def start_with(start, tmp_path):
    """Start a server after a script, as no option can make it."""

    def start_with(script, **variables):
        words = f"{dedent(script)}\nimport roomapp\nroomapp.main()"
        options = ["--port=0", "--quiet", f"--database={tmp_path / 'roomapp.db'}"]
        return start(arguments=[sys.executable, "-c", words, *options], **variables)

    return start_with


@pytest.fixture
def count_messages(tmp_path):
    """How many messages are committed, as another program sees it."""

    def count_messages():
        with closing(sqlite3.connect(tmp_path / "roomapp.db")) as connection:
            ((count,),) = connection.execute("SELECT count(*) FROM message")
            return count

    return count_messages


@pytest.fixture
def together(tmp_path):
    """Send requests so that a server finds all of them at once; their connections."""
    with ExitStack() as stack:

        def together(server, *requests):
            connections = [stack.enter_context(closing(server.connect())) for _ in requests]
            for connection in connections:
                connection.request("GET", "/time")
                read_answer(connection)
            stop(server)
            for connection, (url, fields) in zip(connections, requests, strict=True):
                connection.request("POST", url, json.dumps(fields))
            server.process.send_signal(signal.SIGCONT)
            return connections

        yield together


def stop(server):
    server.process.send_signal(signal.SIGSTOP)
    os.waitpid(server.process.pid, os.WUNTRACED)


def message(room_id, text="嗨"):
    return "/room/send_message", {"room_id": room_id, "openid": "ming", "message": text}


def as_bytes(url, fields, headers="", length=None):
    body = json.dumps(fields).encode()
    head = f"POST {url} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


# Nothing leaves before its commit


@signals
def test_whoever_reads_along_a_change_waits_for_its_commit(
    start, start_with, together, count_messages
):
    server = start()
    room_id = server.open_room()
    for _ in range(60):
        server.post("/room/send_message", **message(room_id, "长" * 2000)[1])
    server.stop()
    server = start_with(LATE_COMMITS)
    page = "/room/get_message", {"room_id": room_id}
    _, reader, other = together(server, message(room_id), page, ("/search", {"key": room_id}))
    other.sock.recv(1)
    assert count_messages() == 61, "whatever is answered together is committed by then"
    _, answer = read_answer(reader)
    assert len(answer["messages"]) == 61


@signals
def test_an_invitation_to_continue_waits_for_the_commit_before_it(start_with, count_messages):
    server = start_with(LATE_COMMITS)
    room_id = server.open_room()
    url, fields = message(room_id)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        second = as_bytes(url, fields, headers="Expect: 100-continue\r\n")
        head, _, body = second.partition(b"\r\n\r\n")
        connection.sendall(as_bytes(url, fields) + head + b"\r\n\r\n")
        received = connection.recv(1)
        assert count_messages() == 1
        while b"100 Continue" not in received:
            received += connection.recv(65536)
        assert received.index(b'"response_code":1') < received.index(b"100 Continue")
        connection.sendall(body)
        assert b'"response_code":1' in connection.recv(65536)
    assert count_messages() == 2


@signals
def test_pipelined_requests_are_each_answered_after_their_own_commit(start_with, count_messages):
    server = start_with(LATE_COMMITS)
    room_id = server.open_room()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(as_bytes(*message(room_id)) * 3)
        received = b""
        for count in (1, 2, 3):
            while received.count(b'"message_id"') < count:
                received += connection.recv(65536)
            assert count_messages() >= count


# A commit that fails


def limit_files(server, size):
    """Let the server write no file beyond a size, as on a full disk."""
    import resource

    _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size or hard, hard))


@linux
def test_a_commit_that_fails_is_a_server_error_for_all_of_its_batch(
    start_with, together, count_messages, tmp_path
):
    server = start_with("from service import serving; serving.BATCH_SECONDS = 10")
    room_id = server.open_room()
    writers = [message(room_id, f"{number}" + "长" * 1000) for number in range(16)]
    reader = "/room/get_message", {"room_id": room_id}
    limit_files(server, (tmp_path / "roomapp.db-wal").stat().st_size)
    for connection in together(server, reader, *writers, reader):
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert (response.status, answer["error"]) == (500, "server_error")
        assert answer.keys() == {"response_code", "error", "detail"}
        assert response.getheader("Connection") == "close"
        assert response.getheader("Content-Type") == "application/json"
    assert count_messages() == 0
    assert "disk I/O error" in server.log.read_text()
    limit_files(server, None)
    answers = [read_answer(connection)[1] for connection in together(server, *writers)]
    assert [answer["response_code"] for answer in answers] == [1] * 16
    assert count_messages() == 16
    assert server.stop() == 0


@pytest.mark.parametrize("inside", [change, nullcontext], ids=["a change", "a read"])
def test_once_sqlite_has_undone_a_batch_nothing_more_begins_in_it(room, dump, inside):
    before = dump()
    with pytest.raises(file.OperationalError, match="undone"), batch():
        apply(lambda: models.Room.by_id(room).admit("gang"))
        with inside():
            database.execute_sql("ROLLBACK")  # as SQLite does by itself when the disk is full
        with pytest.raises(file.OperationalError):
            apply(lambda: models.Room.by_id(room).admit("late"))
    assert dump() == before
    apply(lambda: models.Room.by_id(room).admit("gang"))
    assert dump() != before


@pytest.mark.parametrize("inside", [change, nullcontext], ids=["a change", "a read"])
def test_what_sqlite_has_undone_is_not_answered_as_done(room, inside):
    with pytest.raises(file.OperationalError, match="undone"), batch():
        apply(lambda: models.Room.by_id(room).admit("gang"))
        with inside():
            database.execute_sql("ROLLBACK")


def test_a_change_that_fails_costs_the_others_of_its_batch_nothing(post, room, find_room):
    with batch():
        post("/usr/join", room_id=room, openid="gang")
        with pytest.raises(ZeroDivisionError), change():
            models.Room.by_id(room).admit("late")
            raise ZeroDivisionError
        assert post("/usr/join", room_id=99, openid="late").json["error"] == "room_not_found"
        post("/room/kick", room_id=room, openid="hong")
    assert find_room(room)["users_id"] == ["ming", "gang"]


@signals
def test_who_leaves_in_the_middle_of_a_batch_costs_the_others_nothing(start, together):
    server = start()
    room_id = server.open_room()
    joins = [("/usr/join", {"room_id": room_id, "openid": f"g{number}"}) for number in range(12)]
    stays = []
    for number, connection in enumerate(together(server, *joins)):
        if number % 3 == 0:
            connection.close()
        else:
            stays.append(connection)
    assert [read_answer(each) for each in stays] == [(200, {"response_code": 1})] * 8


@signals
def test_many_new_connections_share_a_commit(start_with, tmp_path):
    server = start_with(
        f"""
        from service import database
        commit = database.commit

        def count_commit():
            if database.database.connection().in_transaction:
                with open({str(tmp_path / "commits")!r}, "a") as commits:
                    commits.write(".")
            commit()

        database.commit = count_commit
        """
    )
    url, fields = message(server.open_room())
    stop(server)
    with ExitStack() as stack:
        sent = [stack.enter_context(closing(server.send(url, **fields))) for _ in range(32)]
        server.process.send_signal(signal.SIGCONT)
        assert [read_answer(each)[0] for each in sent] == [200] * 32
    assert len((tmp_path / "commits").read_text()) < 16


@pytest.mark.slow
@signals
def test_it_stops_while_somebody_leaves_in_many_steps(start_with, tmp_path):
    server = start_with(LATE_COMMITS + "    from service import serving; serving.STOP_WITHIN = 1")
    with closing(sqlite3.connect(tmp_path / "roomapp.db")) as connection:
        rows = ((1, number, "ming", "嗨", number) for number in range(1, 2001))
        connection.executemany("INSERT INTO message VALUES (?, ?, ?, ?, ?)", rows)
        connection.commit()
    with closing(server.send("/usr/delete", openid="ming")):
        assert server.request("GET", "/time")[0] == 200
        assert server.stop() == 0


@pytest.mark.slow
@signals
def test_what_nobody_reads_is_not_kept_without_bound(start_with):
    server = start_with("from service import serving; serving.UNSENT_AT_MOST = 3 * 2**20")
    room_id = server.open_room()
    for _ in range(130):
        server.post("/room/send_message", **message(room_id, "🎮" * 2000)[1])
    page = as_bytes("/room/get_message", {"room_id": room_id, "limit": 500})
    with ExitStack() as stack:
        silent = []
        for _ in range(8):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            silent.append(stack.enter_context(connection))
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(page)
        assert server.request("GET", "/time")[0] == 200
        received = []
        for connection in silent:
            with suppress(ConnectionError):
                received.append(len(b"".join(iter(partial(receive, connection), b""))))
    assert min([*received, 0]) < 2**20, "the first ones were closed"


def receive(connection):
    connection.settimeout(0.3)
    try:
        return connection.recv(65536)
    except TimeoutError:
        return b""


# What waits


def test_a_long_search_begins_anew_in_a_thread(start_with, start):
    server = start_with("import search; search.SECONDS_AT_ONCE = 0")
    rooms = [server.open_room() for _ in range(3)]
    found = [server.post("/search", key="二")["rooms"] for _ in range(3)]
    assert [[room["room_id"] for room in each] for each in found] == [rooms[::-1]] * 3
    assert server.post("/search", key="%")["rooms"] == []


def test_a_person_has_one_long_search_at_a_time():
    with search.one_long_search("hong"), search.one_long_search("ming"):
        again = search.one_long_search("ming")
        with pytest.raises(Refused, match="database_busy"):
            again.__enter__()
    with search.one_long_search("ming"):
        pass


@signals
def test_a_change_of_a_thread_joins_a_batch_of_the_loop(start, together):
    """Leaving is done in steps, by a thread."""
    server = start()
    room_id = server.open_room()
    for openid in ("hong", "gang"):
        server.post("/usr/join", room_id=room_id, openid=openid)
        server.post("/room/send_message", room_id=room_id, openid=openid, message="嗨")
    leaving = [("/usr/delete", {"openid": openid}) for openid in ("hong", "gang")]
    assert [read_answer(each)[0] for each in together(server, *leaving)] == [200, 200]
    messages = server.post("/room/get_message", room_id=room_id)["messages"]
    assert [(each["openid"], each["message"]) for each in messages] == [("", "")] * 2


# Deleted rooms


@pytest.fixture
def long_room(post, room):
    """A room with 250 messages."""
    with change():
        rows = [
            {"room_id": room, "message_id": n, "openid": "ming", "message": "嗨", "time": n}
            for n in range(1, 251)
        ]
        Message.insert_many(rows).execute()
    return room


def test_a_deleted_room_is_gone_at_once_and_its_messages_with_later_changes(
    post, long_room, open_room, assert_refused
):
    fields = {"room_id": long_room, "openid": "ming"}
    assert post("/room/delete", **fields).json == {"response_code": 1}
    assert Message.select().count() >= 150, "few of them at a time"
    for url, more in [
        ("/room/get_message", {}),
        ("/room/send_message", {"message": "嗨"}),
        ("/usr/join", {}),
        ("/room/delete", {}),
        ("/room/delete_message", {"message_id": 200}),
        ("/room/report", {"message_id": 200, "reason": "广告"}),
    ]:
        assert_refused(post(url, **fields, **more), 404, "room_not_found")
    assert post("/usr/roomlist1", openid="ming").json["rooms"] == []
    for _ in range(3):
        assert open_room() > long_room
    assert Message.select().count() == 0
    assert ClosedRoom.select().count() == 0


def test_cleaning_up_goes_on_when_nothing_else_is_to_do(post, long_room, last_time):
    post("/room/delete", room_id=long_room, openid="ming")
    before = last_time()
    while clean_up():
        pass
    assert Message.select().count() == 0
    assert last_time() == before, "nobody can see it"


def test_a_killed_server_cleans_up_when_it_runs_again(start, count_messages):
    server = start()
    room_id = server.open_room()
    for _ in range(210):
        server.post("/room/send_message", **message(room_id)[1])
    server.send("/room/delete", room_id=room_id, openid="ming").close()
    server.process.kill()
    server.process.wait()
    server = start()
    server.post("/room/delete", room_id=room_id, openid="ming")  # if it was killed before that
    alive = threading.Event()
    for _ in range(100):
        if not count_messages():
            break
        alive.wait(0.1)
    assert not count_messages()


# Connections


@pytest.mark.slow
@signals
def test_a_new_connection_is_not_reset_when_idle_ones_are_closed(start_with):
    """Their descriptors may be used again at once."""
    server = start_with(
        """
        from waitress.adjustments import Adjustments
        Adjustments.channel_timeout = Adjustments.cleanup_interval = 1
        """
    )
    for _ in range(5):
        with ExitStack() as stack:
            idle = [stack.enter_context(closing(server.connect())) for _ in range(20)]
            for connection in idle:
                connection.request("GET", "/time")
                assert read_answer(connection)[0] == 200
            stop(server)
            threading.Event().wait(2.1)  # beyond both limits
            fresh = [
                stack.enter_context(closing(server.send("/search", key="1"))) for _ in range(20)
            ]
            server.process.send_signal(signal.SIGCONT)
            assert [read_answer(connection)[0] for connection in fresh] == [200] * 20


def test_a_limit_keeps_no_more_people_than_count():
    limit = RateLimit(at_once=2, per_second=10**6)
    for number in range(10_000):
        limit.count(f"guest{number}")
    assert len(limit.used_until) < 10


# Deleted texts


def test_who_is_nobody_here_empties_no_log(post, room, database_file):
    size = Path(f"{database_file}-wal").stat().st_size
    assert size > 0
    assert post("/usr/delete", openid="nobody").json == {"response_code": 1}
    assert Path(f"{database_file}-wal").stat().st_size >= size


def test_a_log_that_a_reader_held_up_is_emptied_without_another_change(
    post, room, database_file, files_with
):
    sent = post("/room/send_message", room_id=room, openid="ming", message="SECRET").json
    with closing(sqlite3.connect(database_file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM clock").fetchone()
        fields = {"room_id": room, "openid": "ming", "message_id": sent["message_id"]}
        assert post("/room/delete_message", **fields).json == {"response_code": 1}
        assert files_with("SECRET")
    clean_up()
    assert files_with("SECRET") == []
