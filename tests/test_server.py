"""The real server: how it starts, what it logs, how it stops, how many it serves."""

import ipaddress
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from urllib.request import urlopen

import pytest

import roomapp
from processes import (
    ONE_SHOT,
    PROJECT,
    Server,
    command,
    environment,
    linux,
    make_database,
    read_answer,
    signals,
    start_error,
)
from service import options, serving, wechat


def test_it_says_in_one_line_where_it_is_and_where_the_data_is(start, tmp_path):
    server = start()
    assert str(tmp_path / "roomapp.db") in server.announcement
    link = re.search(r"http://\S+", server.announcement)[0]
    with urlopen(link) as page:
        assert "<title>校园房间</title>" in page.read().decode()
    assert (tmp_path / "roomapp.db").exists()


def test_options_come_from_flags_before_the_environment(start, tmp_path):
    variables = {
        "ROOMAPP_DATABASE": str(tmp_path / "environment.db"),
        "ROOMAPP_PORT": "0",
        "ROOMAPP_THREADS": "many",  # of an earlier version, and ignored
        "ROOMAPP_HOST": "",  # counts as not set
    }
    server = start(arguments=command(), **variables)
    assert "environment.db" in server.announcement
    server = start(arguments=command("--database", tmp_path / "flag.db"), **variables)
    assert "flag.db" in server.announcement


def test_help_and_version():
    helped = subprocess.run(command("--help"), env=environment(), **ONE_SHOT)
    assert helped.returncode == 0
    for name, option in options.OPTIONS.items():
        assert f"ROOMAPP_{name.upper()}" in helped.stdout
        assert (f"--{name}" in helped.stdout) == option.has_flag
    version = subprocess.run(command("--version"), env=environment(), **ONE_SHOT)
    assert (version.returncode, version.stdout) == (0, f"roomapp {roomapp.__version__}\n")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("port", "http"),
        ("port", "65536"),
        ("port", "-1"),
        ("port", "9" * 5000),
        ("host", "not a host"),
        ("host", "x" * 300),
    ],
)
def test_a_bad_value_is_one_line(tmp_path, option, value):
    file = tmp_path / "roomapp.db"
    line = start_error(f"--{option}={value}", f"--database={file}")
    assert option in line
    assert not file.exists()


def test_a_bad_value_in_the_environment_is_the_same_line():
    line = start_error("--port=http")
    assert start_error(ROOMAPP_PORT="http") == line
    assert "ROOMAPP_PORT" in line


@pytest.mark.parametrize("option", ["--host=", "--database=", "--colour", "--por=1", "x"])
def test_a_bad_option_is_one_line(option):
    assert start_error("--port=0", option)


def test_a_port_in_use_is_one_line(tmp_path):
    file = tmp_path / "roomapp.db"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert str(port) in start_error(f"--port={port}", f"--database={file}")
    assert not file.exists()


def garbage(file):
    file.write_bytes(os.urandom(100_000))


def foreign_database(file):
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE notes (text)")


def newer_version(file):
    make_database(file)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 99")


def damage(file):
    make_database(file)
    file.write_bytes(file.read_bytes()[:10_000])


def leave_log(make):
    """As `make` makes it, and then left by a program that died while writing to it."""

    def left(file):
        make(file)
        script = """
            import os, sqlite3, sys
            connection = sqlite3.connect(sys.argv[1])
            connection.execute("PRAGMA journal_mode = wal")
            connection.execute("CREATE TABLE more (text)")
            connection.commit()
            os._exit(0)
        """
        subprocess.run([sys.executable, "-c", dedent(script), str(file)], check=True)
        assert Path(f"{file}-wal").stat().st_size > 0

    return left


@pytest.mark.parametrize(
    "make",
    [
        garbage,
        foreign_database,
        newer_version,
        damage,
        leave_log(foreign_database),
        leave_log(newer_version),
    ],
)
def test_what_is_no_database_of_ours_is_one_line_and_left_as_it_is(tmp_path, make):
    file = tmp_path / "room.db"
    make(file)
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}
    assert str(file) in start_error("--port=0", f"--database={file}")
    assert {each: each.read_bytes() for each in tmp_path.iterdir()} == before


@pytest.mark.parametrize("place", [".", "nowhere/deeper/roomapp.db", os.devnull])
def test_a_database_that_cannot_be_opened_is_one_line(tmp_path, place):
    file = tmp_path / place
    assert str(file) in start_error("--port=0", f"--database={file}")


def test_the_folder_of_the_database_is_made(start, tmp_path):
    start("--database", tmp_path / "data" / "roomapp.db")
    assert (tmp_path / "data" / "roomapp.db").exists()


@pytest.mark.parametrize("name", [":memory:", "file:roomapp.db?mode=memory"])
def test_a_name_that_sqlite_reads_specially_is_the_name_of_a_file(tmp_path, name):
    words = command("demo", "--database", name)
    subprocess.run(words, cwd=tmp_path, env=environment(), check=True, **ONE_SHOT)
    assert (tmp_path / name).stat().st_size > 4096


@linux
def test_only_its_user_can_read_what_it_makes(start, tmp_path):
    before = os.umask(0o022)
    try:
        server = start("--database", tmp_path / "data" / "roomapp.db")
        server.open_room()
        copy = tmp_path / "data" / "copy.db"
        words = command("--database", tmp_path / "data" / "roomapp.db", "backup", copy)
        subprocess.run(words, env=environment(), check=True, **ONE_SHOT)
    finally:
        os.umask(before)
    modes = {each.name: each.stat().st_mode & 0o777 for each in copy.parent.iterdir()}
    assert modes == dict.fromkeys(
        ["roomapp.db", "roomapp.db-wal", "roomapp.db-shm", "copy.db"], 0o600
    )
    assert copy.parent.stat().st_mode & 0o777 == 0o700


def test_nothing_deprecated_is_used(start):
    server = start(PYTHONWARNINGS="error")
    assert server.request("GET", "/time")[0] == 200


def test_a_path_that_the_console_cannot_show_is_shown_escaped(start, tmp_path):
    server = start("--database", tmp_path / "中.db", PYTHONIOENCODING="ascii")
    assert r"\u4e2d.db" in server.announcement
    assert (tmp_path / "中.db").exists()


@linux
def test_the_host_is_the_only_address(start):
    server = start("--host", "127.0.0.2")
    assert "http://127.0.0.2:" in server.announcement
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))


@linux
def test_who_does_not_wait_needs_no_other_thread(start):
    server = start()
    room_id = server.open_room()
    assert server.post("/search", key="一")["rooms"][0]["room_id"] == room_id
    assert len(list(Path(f"/proc/{server.process.pid}/task").iterdir())) == 1


@signals
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_it_answers_what_was_received_whole_before_it_stops(start, name):
    server = start()
    room_id = server.open_room()
    with ExitStack() as stack:
        idle = stack.enter_context(closing(server.connect()))
        idle.connect()
        half = stack.enter_context(closing(server.connect()))
        half.putrequest("POST", "/usr/join")
        half.putheader("Content-Length", "100")
        half.endheaders(b'{"room_id"')
        server.process.send_signal(signal.SIGSTOP)  # so that it reads none of what comes now
        count = 90
        waiting = [
            stack.enter_context(closing(server.send("/usr/join", room_id=room_id, openid=f"g{n}")))
            for n in range(count)
        ]
        server.process.send_signal(getattr(signal, name))
        server.process.send_signal(signal.SIGCONT)
        assert idle.sock.recv(1) == b"", "who has asked nothing is let go at once"
        assert half.sock.recv(1) == b""
        assert [read_answer(each) for each in waiting] == [(200, {"response_code": 1})] * count
    assert server.process.wait(40) == 0
    server = start()
    assert len(server.post("/search", key=room_id)["rooms"][0]["users_id"]) == count + 1


@signals
def test_it_answers_who_waits_in_threads_before_it_stops(start, variables, wechat_server):
    server = start(**variables)
    wechat_server.may_answer.clear()
    count = wechat.WAITING_AT_MOST
    with ExitStack() as stack:
        waiting = [
            stack.enter_context(closing(server.send("/usr/login", code=f"code-p{number}")))
            for number in range(count)
        ]
        with wechat_server.changed:
            assert wechat_server.changed.wait_for(lambda: len(wechat_server.queries) == count, 10)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionError):
            while True:  # until it has noticed
                socket.create_connection(("127.0.0.1", server.port)).close()
        assert server.process.poll() is None
        wechat_server.may_answer.set()
        assert [read_answer(each)[1]["openid"] for each in waiting] == [
            f"p{number}" for number in range(count)
        ]
    assert server.process.wait(40) == 0


@signals
def test_a_request_that_came_behind_another_is_answered_before_it_stops(start):
    server = start()
    server.open_room()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        server.process.send_signal(signal.SIGSTOP)
        for openid in ("hong", "gang"):
            body = f'{{"room_id": 1, "openid": "{openid}"}}'
            head = f"POST /usr/join HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(f"{head}{body}".encode())
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGCONT)
        answers = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answers.count(b'{"response_code":1}') == 2
    assert server.process.wait(40) == 0


@signals
def test_a_start_while_another_program_writes_is_one_line(tmp_path):
    import fcntl

    script = "import roomapp; from service import database; database.BUSY_SECONDS = 0.1"
    words = [sys.executable, "-c", f"{script}; roomapp.main()", "--port=0"]
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    database = ["--database", str(tmp_path / "roomapp.db")]
    done = subprocess.run([*words, *database], cwd=PROJECT, env=environment(), **ONE_SHOT)
    os.close(folder)
    assert done.returncode == 2
    assert done.stderr == "roomapp: another program is writing the database; try again\n"


@signals
def test_it_does_not_wait_for_ever_before_it_stops(start, tmp_path):
    assert serving.STOP_WITHIN == 30
    hasty = "import roomapp; from service import serving; serving.STOP_WITHIN = 0.5; roomapp.main()"
    database = ["--database", str(tmp_path / "roomapp.db")]
    server = start(arguments=[sys.executable, "-c", hasty, "--port=0", *database])
    room_id = server.open_room()
    for _ in range(130):
        server.post("/room/send_message", room_id=room_id, openid="ming", message="🎮" * 2000)
    with closing(server.connect()) as deaf:  # which takes in less than it asks for
        asked = json.dumps({"room_id": room_id, "limit": 500})
        head = f"POST /room/get_message HTTP/1.1\r\nHost: x\r\nContent-Length: {len(asked)}\r\n\r\n"
        deaf.connect()
        deaf.sock.sendall(f"{head}{asked}".encode() * 12)
        assert server.stop() == 0
        answers = b"".join(iter(lambda: deaf.sock.recv(65536), b""))
    assert answers.count(b'"has_more":true') < 12


@signals
def test_a_large_answer_to_a_slow_reader_is_sent_whole(start):
    server = start()
    for _ in range(100):
        server.open_room()
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", server.port))
        body = b'{"section": "\xe4\xba\x8c"}'
        head = f"POST /room/section HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
        slow.sendall(head.encode() + body)
        server.process.send_signal(signal.SIGTERM)
        answer = b"".join(iter(lambda: slow.recv(65536), b""))
    rooms = json.loads(answer.partition(b"\r\n\r\n")[2])["rooms"]
    assert len(rooms) == 100
    assert server.process.wait(40) == 0


@signals
def test_a_clean_stop_says_nothing_leaves_a_single_file_and_exits_with_0(start, tmp_path):
    server = start("--quiet")
    server.open_room()
    assert server.stop() == 0
    assert server.log.read_text() == ""
    assert [each.name for each in tmp_path.glob("roomapp.db*")] == ["roomapp.db"]


def test_requests_are_logged_without_what_is_private(start):
    server = start()
    server.post("/usr/join", room_id=7, openid="oSECRET")
    server.post("/room/send_message", room_id=7, openid="oSECRET", message="SECRET")
    server.request("GET", "/time?openid=oSECRET")
    server.request("GET", "/a%0Ab%1B[31m/%E6%88%BF")
    lines = server.log.read_text().splitlines()
    logged = [re.fullmatch(r"[\d-]+ [\d:,]+ (.*) \d+\.\d ms", line)[1] for line in lines]
    assert logged == [
        "POST /usr/join 404",
        "POST /room/send_message 404",
        "GET /time 200",
        "GET /a%0Ab%1B%5B31m/%E6%88%BF 404",
    ]


def test_quiet_logs_no_requests(start):
    server = start("--quiet")
    server.request("GET", "/time")
    assert server.log.read_text() == ""


@pytest.mark.parametrize("size", [65 * 1024, 1024 * 1024, 10 * 1024 * 1024])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_has_our_answer(start, size, chunked):
    server = start()
    with closing(server.connect()) as connection:
        body = iter([b"x" * size]) if chunked else b"x" * size
        connection.request("POST", "/usr/join", body, encode_chunked=chunked)
        status, answer = read_answer(connection)
    assert (status, answer["error"]) == (413, "too_large")


def test_neither_bodies_nor_answers_need_a_temporary_folder(start):
    server = start(TMPDIR="/nowhere")
    message = {"openid": "ming", "message": "🎮" * 2000, "room_id": server.open_room()}
    for _ in range(140):
        assert server.post("/room/send_message", **message)["response_code"] == 1
    assert len(server.post("/room/get_message", room_id=message["room_id"])["messages"]) == 100
    refusal = server.post("/room/send_message", **message | {"message": "x" * 10**6})
    assert refusal["error"] == "too_large"


def test_a_chunked_body_is_read(start):
    server = start()
    with closing(server.connect()) as connection:
        chunks = iter([b'{"key"', b': "lol"}'])
        connection.request("POST", "/search", chunks, encode_chunked=True)
        assert read_answer(connection) == (
            200,
            {"response_code": 1, "rooms": [], "nicknames": {}, "has_more": False},
        )


@pytest.fixture
def few_descriptors():
    """A limit of open files such as a server is started with; ours is raised afterwards."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    yield lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@signals
def test_at_the_limit_the_connection_that_was_idle_longest_makes_room(start):
    import resource

    limit = (64, 64)
    server = start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit))
    with ExitStack() as stack:
        idle = [stack.enter_context(closing(server.connect())) for _ in range(120)]
        for connection in idle:
            connection.request("GET", "/time")
            assert read_answer(connection)[0] == 200
        room_id = server.open_room()
        assert server.post("/search", key=room_id)["rooms"]
        assert idle[0].sock.recv(1) == b"", "it was closed"
        idle[-1].request("GET", "/time")
        assert read_answer(idle[-1])[0] == 200
    assert server.stop() == 0


@pytest.mark.slow
def test_a_thousand_idle_connections_keep_nobody_out(few_descriptors, start):
    server = start()
    few_descriptors()
    with ExitStack() as stack:
        for _ in range(1000):
            idle = stack.enter_context(closing(server.connect()))
            idle.request("GET", "/time")
            assert read_answer(idle)[0] == 200
            assert idle.sock, "it stays open"
        assert server.request("GET", "/time")[0] == 200
        assert server.stop() == 0


def test_two_servers_share_a_database(start):
    one, other = start(), start()
    room_id = one.open_room()
    assert other.post("/usr/join", room_id=room_id, openid="hong") == {"response_code": 1}
    for number in range(10):
        server = (one, other)[number % 2]
        server.post("/room/send_message", room_id=room_id, openid="hong", message=str(number))
    messages = one.post("/room/get_message", room_id=room_id)["messages"]
    assert [each["message"] for each in messages] == [str(number) for number in range(10)]
    assert one.request("GET", "/time") == other.request("GET", "/time")


def test_servers_can_make_the_database_together(tmp_path):
    file = tmp_path / "roomapp.db"
    script = "import pathlib, sys, service.schema as s; s.open_database(pathlib.Path(sys.argv[1]))"
    makers = [
        subprocess.Popen([sys.executable, "-c", script, str(file)], cwd=PROJECT) for _ in range(6)
    ]
    assert [maker.wait(30) for maker in makers] == [0] * 6


def test_it_is_an_application_for_other_servers(start, tmp_path):
    file = tmp_path / "environment.db"
    process = subprocess.Popen(
        [sys.executable, "-m", "waitress", "--listen=127.0.0.1:0", "roomapp:app"],
        cwd=PROJECT,
        env=environment(ROOMAPP_DATABASE=str(file), ROOMAPP_PORT="not for this server"),
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            said = process.stderr.readline().decode()
            assert not file.exists(), "importing opens nothing"
            server = Server(process, None, said)
            assert server.post("/usr/join", room_id=1, openid="x")["error"] == "room_not_found"
            assert file.exists()
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("host", "link", "warned"),
    [
        ("127.0.0.1", "http://127.0.0.1:80/", False),
        ("::1", "http://[::1]:80/", False),
        ("0.0.0.0", "http://127.0.0.1:80/", True),
        ("::", "http://[::1]:80/", True),
        ("192.0.2.7", "http://192.0.2.7:80/", True),
    ],
)
def test_it_warns_when_others_can_reach_it(capsys, caplog, host, link, warned):
    listener = SimpleNamespace(getsockname=lambda: (host, 80))
    serving.announce(listener, Path("x.db"), is_verified=False)
    assert f" {link} " in capsys.readouterr().out
    assert bool(caplog.records) == warned


@pytest.mark.parametrize(("host", "version"), [("0.0.0.0", 4), ("::", 6)])
def test_it_says_what_a_phone_in_the_same_network_opens(capsys, monkeypatch, host, version):
    own = {4: "192.0.2.9", 6: "2001:db8::9"}[version]

    class Network(socket.socket):
        def connect(self, address):
            assert ipaddress.ip_address(address[0]).version == version
            assert self.type == socket.SOCK_DGRAM, "which sends nothing"

        def getsockname(self):
            return own, 12345

    monkeypatch.setattr(socket, "socket", Network)
    listener = SimpleNamespace(getsockname=lambda: (host, 80))
    serving.announce(listener, Path("x.db"), is_verified=True)
    said = capsys.readouterr().out
    assert f" and for others at http://{f'[{own}]' if version == 6 else own}:80/ and keeps " in said
    assert said.count("\n") == 1


def test_without_a_network_it_names_loopback_alone(capsys, monkeypatch):
    def refuse(*_):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    listener = SimpleNamespace(getsockname=lambda: ("0.0.0.0", 80))
    serving.announce(listener, Path("x.db"), is_verified=True)
    assert "is at http://127.0.0.1:80/ and keeps" in capsys.readouterr().out
