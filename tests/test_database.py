"""What no client can see: the guards of the schema, the plans of the queries, the connections."""

import re
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from peewee import IntegrityError
from webtest import TestApp

import search
from document import BODIES
from models import Ban, Member, Message, Room, User
from processes import PROJECT
from roomapp import app
from service import database as file
from service import options
from service import pages as shown
from service.database import change, close_database, database, execute
from service.schema import open_database


@pytest.fixture
def statements(database_file, monkeypatch):
    """Every statement of a model or a search that is run, with its parameters."""
    queries = []

    def see(sql, values=()):
        queries.append((sql, values))
        return execute(sql, values)

    for module in (file, shown, search):
        monkeypatch.setattr(module, "execute", see)
    return queries


def pages(url):
    """The bodies that an endpoint can be asked with, paging included."""
    yield BODIES[url]
    yield {**BODIES[url], "limit": 2, "before": 10**15}
    yield {**BODIES[url], "after": 0} if url == "/room/get_message" else BODIES[url]
    yield {"key": 1} if url == "/search" else BODIES[url]


@pytest.mark.parametrize("url", BODIES)
def test_no_query_scans_a_table_or_sorts_rows(post, client, room, statements, url):
    statements.clear()
    for body in pages(url):
        post(url, **body)
    client.get("/time")
    reads = [
        (sql, params) for sql, params in statements if re.match("WITH|SELECT|UPDATE|DELETE", sql)
    ]
    assert reads
    for sql, params in reads:
        plan = [row[3] for row in database.execute_sql(f"EXPLAIN QUERY PLAN {sql}", params)]
        # What a subquery made is scanned, but it is no table.
        materialized = {
            line.split()[1] for line in plan if line.startswith(("CO-ROUTINE", "MATERIALIZE"))
        }
        tables = [line for line in plan if "VIRTUAL TABLE INDEX" not in line]
        scanned = {line.split()[1] for line in tables if line.startswith("SCAN")}
        assert scanned <= materialized | {"CONSTANT"}, (sql, plan)
        if not re.search(r"json_each|LIMIT :limit\) AS \S+ ORDER BY", sql):  # the rows of one page
            assert not any("TEMP B-TREE" in line for line in plan), (sql, plan)


def test_the_log_is_short_again_after_a_reader_that_stayed_long(
    tmp_path, monkeypatch, database_file, post, open_room
):
    monkeypatch.setitem(file.PRAGMAS, "journal_size_limit", 100_000)
    close_database()
    open_database(database_file)
    log = Path(f"{database_file}-wal")
    with closing(sqlite3.connect(database_file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM clock").fetchone()
        for _ in range(400):
            open_room()
        assert log.stat().st_size > 5_000_000
    for _ in range(3):
        open_room()
    assert log.stat().st_size < 1_000_000


@pytest.mark.parametrize(
    ("url", "queries"),
    [("/usr/roomlist1", 3), ("/usr/roomlist2", 3), ("/room/section", 3), ("/search", 5)],
)
def test_a_page_takes_as_many_queries_whatever_its_length(
    post, open_room, statements, url, queries
):
    for count in (2, 20):
        for _ in range(count):
            room_id = open_room("ming")
            post("/usr/join", room_id=room_id, openid="hong")
        statements.clear()
        assert len(post(url, **BODIES[url]).json["rooms"]) >= count
        assert len(statements) == queries


@pytest.mark.parametrize(
    ("table", "row"),
    [
        (User, {"openid": "", "sex": 1, "preference": []}),
        (User, {"openid": "x" * 65, "sex": 1, "preference": []}),
        (User, {"openid": "x", "sex": 3, "preference": []}),
        (User, {"openid": "x", "sex": "", "preference": []}),
        (User, {"openid": "x", "sex": "x" * 17, "preference": []}),
        (User, {"openid": "x", "sex": 1, "preference": ["x"] * 51}),
        (User, {"openid": "x", "sex": 1, "preference": "x"}),
        (User, {"openid": "x", "sex": 1, "preference": [], "nickname": "x" * 21}),
        (Room, {"capacity": 1}),
        (Room, {"capacity": 501}),
        (Room, {"name": ""}),
        (Room, {"name": "x" * 61}),
        (Room, {"section": ""}),
        (Room, {"section": "x" * 31}),
        (Room, {"description": "x" * 1001}),
        (Room, {"room_owner_id": ""}),
        (Room, {"room_owner_id": "x" * 65}),
        (Member, {"room": 1, "openid": "", "joined": 1}),
        (Member, {"room": 1, "openid": "x" * 65, "joined": 1}),
        (Member, {"room": 1, "openid": "hong", "joined": 1}),
        (Member, {"room": 2, "openid": "x", "joined": 1}),
        (Message, {"room_id": 1, "message_id": 1, "openid": "x" * 65, "message": "x", "time": 1}),
        (Ban, {"openid": ""}),
        (Ban, {"openid": "x" * 65}),
        (Message, {"room_id": 1, "message_id": 1, "openid": "x", "message": "x" * 2001, "time": 1}),
    ],
)
def test_the_schema_guards_what_the_code_guards(room, dump, table, row):
    if table is Room:
        fine = {"name": "x", "section": "x", "description": "", "room_owner_id": "x"}
        row = {"folded_name": "x", "folded_section": "x", "capacity": 500, **fine, **row}
    if table is User:
        row = {"nickname": "", **row}
    before = dump()
    with pytest.raises(IntegrityError), change():
        table.create(**row)
    assert dump() == before


def test_a_change_that_fails_leaves_nothing_behind(room, dump):
    before = dump()
    with pytest.raises(ZeroDivisionError), change():
        Room.by_id(room).admit("gang")
        Room.by_id(room).post("gang", "嗨")
        raise ZeroDivisionError
    assert dump() == before


def test_connections_are_set_up_as_promised(client):
    assert database.journal_mode == "wal"
    assert database.synchronous == 2, "FULL: every commit is synced"
    assert database.foreign_keys == 1
    assert database.pragma("secure_delete") == 1


def test_a_writer_waits_for_the_writer_of_another_process(
    post, room, database_file, assert_refused, monkeypatch
):
    monkeypatch.setattr(file, "BUSY_SECONDS", 0.05)
    writes = """if True:
        import pathlib, sys
        from service import schema
        from service.database import database, process_lock
        schema.open_database(pathlib.Path(sys.argv[1]))
        with process_lock(database.folder):
            print("locked", flush=True)
            sys.stdin.read()"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    other = subprocess.Popen([sys.executable, "-c", writes, database_file], cwd=PROJECT, **pipes)
    with other:
        assert other.stdout.readline() == b"locked\n"
        assert_refused(post("/usr/join", room_id=room, openid="gang"), 503, "database_busy")
        assert post("/search", key=room).json["rooms"], "who reads does not wait"
        other.kill()  # which frees the lock
    assert post("/usr/join", room_id=room, openid="gang").json["response_code"] == 1


def test_a_first_request_opens_the_database_that_the_environment_names(
    tmp_path, monkeypatch, assert_refused
):
    """As under another WSGI server, here while another program holds the file."""
    path = tmp_path / "environment.db"
    monkeypatch.setenv("ROOMAPP_DATABASE", str(path))
    monkeypatch.setattr(file, "BUSY_SECONDS", 0.05)
    options.setting.cache_clear()
    open_database(path)
    close_database()
    client = TestApp(app)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = exclusive")
        other.execute("BEGIN EXCLUSIVE")
        assert_refused(client.get("/time", expect_errors=True), 503, "database_busy")
        assert_refused(client.get("/nowhere", expect_errors=True), 404, "not_found")
    assert client.get("/time").json["response_code"] == 1
    close_database()
    options.setting.cache_clear()


def test_writers_of_many_threads_lose_nothing(post, room, find_room):
    def join_and_talk(number):
        for join in range(5):
            openid = f"guest{number}-{join}"
            assert post("/usr/join", room_id=room, openid=openid).json["response_code"] == 1
            sent = post("/room/send_message", room_id=room, openid=openid, message=openid)
            message_ids.append(sent.json["message_id"])

    message_ids = []
    threads = [threading.Thread(target=join_and_talk, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(find_room(room)["users_id"])) == 42
    messages = post("/room/get_message", room_id=room).json["messages"]
    assert [each["message_id"] for each in messages] == sorted(message_ids)
    assert len(set(message_ids)) == 40
