"""A fresh database for each test, and a client that speaks HTTP to the service in process."""

import os
import sqlite3
import subprocess
from collections import OrderedDict
from contextlib import closing
from itertools import chain
from pathlib import Path

import pytest
from webtest import TestApp

import roomapp
from document import RATES
from models import Message
from processes import ONE_SHOT, command, environment, servers
from service import options, wechat
from service.database import change, close_database, database
from service.schema import open_database
from wechat_server import APPID, SECRET, stand_in

# Most tests need no disk, and are faster without.
if Path("/dev/shm").is_dir():
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/dev/shm")


@pytest.fixture
def database_file(tmp_path):
    file = tmp_path / "roomapp.db"
    open_database(file)
    yield file
    close_database()


@pytest.fixture
def client(database_file):
    return TestApp(roomapp.app)


@pytest.fixture
def post(client):
    """Send fields as JSON; the answer is a webtest response whatever its status."""

    def post(url, **fields):
        return client.post_json(url, fields, expect_errors=True)

    return post


@pytest.fixture
def last_time(client):
    return lambda: client.get("/time").json["last_time"]


@pytest.fixture
def dump(database_file):
    """Everything in the database, row by row, to be compared."""

    def dump():
        with closing(sqlite3.connect(database_file)) as connection:
            # Without the places in the file, which change when it is written anew.
            columns = "type, name, sql"
            schema = connection.execute(
                f"SELECT {columns} FROM sqlite_master ORDER BY name"
            ).fetchall()
            tables = [name for kind, name, sql in schema if kind == "table" and "USING" not in sql]
            rows = [connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables]
        return [str(row) for row in chain(schema, *rows)]

    return dump


@pytest.fixture
def open_room(post):
    """Open a room and answer with its room_id."""

    def open_room(room_owner_id="ming", name="一起自习", section="学习", description="图书馆"):
        answer = post(
            "/room/add",
            name=name,
            section=section,
            description=description,
            room_owner_id=room_owner_id,
        )
        assert answer.json["response_code"] == 1, answer.json
        return answer.json["room_id"]

    return open_room


@pytest.fixture
def room(open_room, post):
    """A room that ming opened and hong joined."""
    room_id = open_room()
    post("/usr/join", room_id=room_id, openid="hong")
    return room_id


@pytest.fixture
def message(room):
    """What ming said in the room; the first there ever was, so its message_id is 1."""
    with change():
        Message.insert_message(room, 1, "ming", "有人吗", 1)
    return 1


@pytest.fixture
def find_room(post):
    """A room as clients see it, or None when it is gone."""

    def find_room(room_id):
        rooms = post("/search", key=room_id).json["rooms"]
        return rooms[0] if rooms else None

    return find_room


@pytest.fixture
def assert_refused():
    """Check that an answer is a refusal of the one form there is."""

    def assert_refused(answer, status, error, field=None):
        assert answer.status_int == status, answer.text
        assert answer.content_type == "application/json"
        assert answer.json["response_code"] == 0
        assert answer.json["error"] == error
        assert any("\u4e00" <= character <= "\u9fff" for character in answer.json["detail"])
        assert answer.json.get("field") == field
        assert answer.json.keys() <= {"response_code", "error", "detail", "field"}

    return assert_refused


# The verified mode


@pytest.fixture
def wechat_server(tmp_path):
    with stand_in(database=tmp_path / "roomapp.db") as wechat:
        yield wechat


@pytest.fixture
def configure(monkeypatch):
    """Set variables of the environment for the application in this process."""

    def configure(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        options.setting.cache_clear()

    for limit in RATES:
        monkeypatch.setattr(limit, "used_until", OrderedDict())
    wechat.account.cache_clear()
    yield configure
    options.setting.cache_clear()


@pytest.fixture
def variables(wechat_server):
    return {
        "ROOMAPP_WECHAT_APPID": APPID,
        "ROOMAPP_WECHAT_SECRET": SECRET,
        "ROOMAPP_WECHAT_API": wechat_server.api,
    }


@pytest.fixture
def verified_mode(configure, variables):
    configure(**variables)


@pytest.fixture
def login(verified_mode, post):
    """Log in as somebody, and answer with the headers that their calls have from then on."""

    def login(openid):
        answer = post("/usr/login", code=f"code-{openid}").json
        assert answer["response_code"] == 1, answer
        return {"Authorization": f"Bearer {answer['token']}"}

    return login


@pytest.fixture
def send(client):
    """Send fields as JSON with some headers; the answer is as that of `post`."""

    def send(url, headers, **fields):
        return client.post_json(url, fields, headers=headers, expect_errors=True)

    return send


@pytest.fixture
def log_in(configure, login, send):
    """Log somebody in; answers with a `post` of theirs. Texts are not checked."""
    configure(ROOMAPP_CHECK_TEXT="0")

    def log_in(openid):
        headers = login(openid)

        def post(url, **fields):
            return send(url, headers, **fields)

        return post

    return log_in


@pytest.fixture
def short_timeout(monkeypatch):
    """Not to wait for the eight seconds."""
    assert wechat.ANSWER_WITHIN == 8
    monkeypatch.setattr(wechat, "ANSWER_WITHIN", 0.3)


# Real servers


@pytest.fixture
def start(tmp_path):
    """Start a server on a free port with a database of this test."""
    with servers(tmp_path) as start:
        yield start


@pytest.fixture
def other_program(tmp_path):
    """Another program's connection to the database; a test locks it with BEGIN IMMEDIATE."""
    with closing(sqlite3.connect(tmp_path / "roomapp.db", isolation_level=None)) as other:
        yield other


@pytest.fixture
def operate(tmp_path, capsys):
    """Run a command of the operator's beside what is running; what it says, as lines."""
    file = tmp_path / "roomapp.db"

    def operate(*words, status=0, **variables):
        words = [*map(str, words), "--database", str(file)]
        if variables:
            done = subprocess.run(command(*words), env=environment(**variables), **ONE_SHOT)
            said = done.returncode, done.stdout, done.stderr
        else:
            said = call_main(words)
        assert (said[0], said[2]) == (status, ""), said
        return said[1].splitlines()

    def call_main(words):
        is_open = not database.deferred  # by this test, as if it were the service
        if is_open:
            close_database()
        capsys.readouterr()
        code = 0
        try:
            roomapp.main(words)
        except SystemExit as end:
            code = end.code
        if is_open:
            open_database(file)
        return code, *capsys.readouterr()

    return operate


@pytest.fixture
def files_with(tmp_path):
    """The names of the database's files that have a text in any of their bytes."""

    def files_with(text):
        files = sorted(tmp_path.glob("roomapp.db*"))
        return [file.name for file in files if text.encode() in file.read_bytes()]

    return files_with
