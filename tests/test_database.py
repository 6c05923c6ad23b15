"""What no client can see: the guards of the schema, the plans of the queries, the connections."""

import re
import sqlite3
import threading
from contextlib import closing

import pytest
from peewee import IntegrityError
from webtest import TestApp

import models
from document import BODIES
from models import (
    Member,
    Message,
    Room,
    User,
    database,
    open_database,
    turns,
    writing,
)
from roomapp import app
from turns import Turns


@pytest.fixture
def statements(database_file):
    """Every statement that is run, with its parameters."""
    seen = []

    def see(event):
        seen.append((event.sql, event.params))

    database.query_hooks.append(see)
    yield seen
    database.query_hooks.remove(see)


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
    reads = [(sql, params) for sql, params in statements if re.match("SELECT|UPDATE|DELETE", sql)]
    assert reads
    for sql, params in reads:
        plan = [row[3] for row in database.execute_sql(f"EXPLAIN QUERY PLAN {sql}", params)]
        # What a subquery made is scanned, but it is no table.
        made = {line.split()[1] for line in plan if line.startswith(("CO-ROUTINE", "MATERIALIZE"))}
        tables = [line for line in plan if "VIRTUAL TABLE INDEX" not in line]
        scanned = {line.split()[1] for line in tables if line.startswith("SCAN")}
        assert scanned <= made | {"CONSTANT"}, (sql, plan)
        if not re.search(r"json_each|LIMIT :limit\) AS \S+ ORDER BY", sql):  # the rows of one page
            assert not any("TEMP B-TREE" in line for line in plan), (sql, plan)


@pytest.mark.parametrize(
    ("url", "queries"),
    [("/usr/roomlist1", 1), ("/usr/roomlist2", 1), ("/room/section", 1), ("/search", 5)],
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
        (User, {"openid": "x", "sex": 1, "preference": ["x", ""]}),
        (User, {"openid": "x", "sex": 1, "preference": ["x", "x" * 31]}),
        (User, {"openid": "x", "sex": 1, "preference": ["x", 1]}),
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
        (Message, {"room": 1, "message_id": 1, "openid": "x", "message": ""}),
        (Message, {"room": 1, "message_id": 1, "openid": "x", "message": "x" * 2001}),
        (Message, {"room": 2, "message_id": 1, "openid": "x", "message": "x"}),
    ],
)
def test_the_schema_guards_what_the_code_guards(room, kept, table, row):
    if table is Room:
        fine = {"name": "x", "section": "x", "description": "", "room_owner_id": "x"}
        row = {"folded_name": "x", "folded_section": "x", "folded_description": "", **fine, **row}
    before = kept()
    with pytest.raises(IntegrityError), writing():
        table.create(**row)
    assert kept() == before


def test_the_schema_guards_how_many_are_in_a_room(room, kept):
    with writing():
        guests = [{"room": room, "openid": f"guest{n}", "joined": n} for n in range(498)]
        Member.insert_many(guests).execute()
    before = kept()
    with pytest.raises(IntegrityError, match="room_full"), writing():
        Member.create(room=room, openid="late", joined=1000)
    assert kept() == before


def test_a_change_that_fails_leaves_nothing_behind(room, kept):
    before = kept()
    with pytest.raises(ZeroDivisionError), writing():
        Room.numbered(room).admit("gang")
        Room.numbered(room).post("gang", "嗨")
        raise ZeroDivisionError
    assert kept() == before


def test_connections_are_set_up_as_promised(client):
    assert database.journal_mode == "wal"
    assert database.synchronous == 2, "FULL: every commit is synced"
    assert database.foreign_keys == 1
    assert database.pragma("busy_timeout") == 5000 == models.BUSY_SECONDS * 1000


def test_an_answer_shows_one_moment(post, room, database_file):
    """The room is deleted between the queries of one answer."""
    post("/room/send_message", room_id=room, openid="ming", message="嗨")
    hooks = []

    def delete(event):
        if "SELECT" in event.sql and hooks:
            database.query_hooks.remove(hooks.pop())
            with closing(sqlite3.connect(database_file)) as other:
                other.executescript("PRAGMA foreign_keys = on; DELETE FROM room")

    hooks.append(delete)
    database.query_hooks.append(delete)
    messages = post("/room/get_message", room_id=room).json["messages"]
    assert [each["message"] for each in messages] == ["嗨"]
    assert post("/room/get_message", room_id=room).json["error"] == "room_not_found"


def test_writers_take_turns_in_the_order_of_asking():
    turns = Turns()
    order = []

    def ask(number):
        turns.acquire(timeout=10)
        order.append(number)
        turns.release()

    turns.acquire(timeout=10)
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for number, thread in enumerate(threads, start=1):
        thread.start()
        while len(turns.queue) <= number:
            pass
    turns.release()
    for thread in threads:
        thread.join()
    assert order == list(range(8))


def test_who_waits_too_long_for_a_turn_is_told_so_and_nobody_else(
    post, room, kept, refused, monkeypatch
):
    monkeypatch.setattr(models, "BUSY_SECONDS", 0.05)
    before = kept()
    turns.acquire(timeout=10)
    refused(post("/usr/join", room_id=room, openid="gang"), 503, "database_busy")
    assert kept() == before
    turns.release()
    assert post("/usr/join", room_id=room, openid="gang").json["response_code"] == 1


def test_a_first_request_opens_the_database_that_the_environment_names(
    tmp_path, monkeypatch, refused
):
    """As under another WSGI server, here while another program holds the file."""
    file = tmp_path / "environment.db"
    monkeypatch.setenv("ROOMAPP_DATABASE", str(file))
    monkeypatch.setattr(models, "BUSY_SECONDS", 0.05)
    open_database(file)
    database.init(None)
    client = TestApp(app)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = exclusive")
        other.execute("BEGIN EXCLUSIVE")
        refused(client.get("/time", expect_errors=True), 503, "database_busy")
        refused(client.get("/nowhere", expect_errors=True), 404, "not_found")
    assert client.get("/time").json["response_code"] == 1
    database.close()
    database.init(None)


def test_a_thread_keeps_its_connection(post, room):
    def connection_of_a_thread():
        post("/usr/join", room_id=room, openid="gang")
        first = database.connection()
        post("/room/kick", room_id=room, openid="gang")
        connections.append((first, database.connection()))
        database.close()

    connections = []
    for _ in range(2):
        thread = threading.Thread(target=connection_of_a_thread)
        thread.start()
        thread.join()
    (first, first_again), (second, second_again) = connections
    assert first is first_again
    assert second is second_again
    assert first is not second


def test_writers_of_many_threads_lose_nothing(post, room, seen):
    def join_and_talk(number):
        for join in range(5):
            openid = f"guest{number}-{join}"
            assert post("/usr/join", room_id=room, openid=openid).json["response_code"] == 1
            sent = post("/room/send_message", room_id=room, openid=openid, message=openid)
            message_ids.append(sent.json["message_id"])
        database.close()

    message_ids = []
    threads = [threading.Thread(target=join_and_talk, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen(room)["users_id"])) == 42
    messages = post("/room/get_message", room_id=room).json["messages"]
    assert [each["message_id"] for each in messages] == sorted(message_ids)
    assert len(set(message_ids)) == 40
