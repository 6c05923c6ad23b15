"""The floor under the service: the same answers from bare Bottle routes and handwritten SQL.

Nothing is checked and nobody is refused. It works on a database that the service has made, whose
path is in FLOOR_DATABASE.
"""

import json
import os
import sqlite3
import threading
import time
from contextlib import contextmanager

from bottle import Bottle, request, response

from models import ANYWHERE, NAME, NAME_OR_SECTION, fold, written
from search import every

app = Bottle()
opened = threading.local()
turn = threading.Lock()


def connection():
    if not hasattr(opened, "connection"):
        opened.connection = sqlite3.connect(os.environ["FLOOR_DATABASE"], isolation_level=None)
        opened.connection.execute("PRAGMA synchronous = full")
        opened.connection.execute("PRAGMA foreign_keys = on")
    return opened.connection


def close():
    connection().close()
    del opened.connection


def page(rooms):
    """The SQL of a page of rooms, given that of which and in what order."""
    return f"""
    SELECT (
        SELECT json_group_array(json_object(
            'room_id', room_id, 'name', name, 'section', section, 'description', description,
            'room_owner_id', room_owner_id, 'users_id', json(users_id),
            'state', json_array_length(users_id) > 1
        )) FROM (
            SELECT room.*, (
                SELECT json_group_array(openid) FROM (
                    SELECT openid FROM member WHERE member.room_id = room.room_id ORDER BY joined
                )
            ) AS users_id FROM {rooms} LIMIT :limit
        )
    ), EXISTS (SELECT 1 FROM {rooms} LIMIT 1 OFFSET :limit)
    """


OWNED = page("room WHERE room_owner_id = :openid AND room_id < :before ORDER BY room_id DESC")
JOINED = page(
    "member AS mine JOIN room USING (room_id) WHERE mine.openid = :openid"
    " AND mine.room_id < :before AND room_owner_id != :openid ORDER BY mine.room_id DESC"
)
IN_SECTION = page(
    "room WHERE folded_section = :section AND room_id < :before ORDER BY room_id DESC"
)
NUMBERED = page("room WHERE room_id = :key")
GIVEN = page("json_each(:room_ids) JOIN room ON room_id = value ORDER BY key")
NAMED = "SELECT room_id FROM room WHERE folded_name = ? ORDER BY room_id DESC LIMIT ?"
INDEXED = "SELECT -rowid FROM room_index WHERE words MATCH ? ORDER BY rowid LIMIT ?"


def messages(which):
    """The SQL of a page of a room's messages, given that of which and in what order."""
    return f"""
    SELECT json_group_array(json_object(
        'openid', openid, 'message', message,
        'time', strftime('%Y-%m-%dT%H:%M:%fZ', message_id / 1000.0, 'unixepoch'),
        'message_id', message_id
    )), EXISTS (SELECT 1 FROM message WHERE room_id = :room_id AND {which} LIMIT 1 OFFSET :limit)
    FROM (
        SELECT * FROM (SELECT * FROM message WHERE room_id = :room_id AND {which} LIMIT :limit)
        ORDER BY message_id
    )
    """


OLDER = messages("message_id < :before ORDER BY message_id DESC")
NEWER = messages("message_id > :after ORDER BY message_id")


@app.post("/usr/complete")
def complete():
    sent = received()
    values = sent["openid"], json.dumps(sent["sex"]), json.dumps(sent["preference"])
    with writing() as run:
        run("INSERT OR REPLACE INTO user VALUES (?, json(?), json(?))", values)
        tick(run)
    return done()


@app.post("/usr/info")
def info():
    found = connection().execute(
        "SELECT sex, preference FROM user WHERE openid = :openid", received()
    )
    sex, preference = found.fetchone()
    return done(sex=json.loads(sex), preference=json.loads(preference))


@app.post("/usr/roomlist1")
def roomlist1():
    return listed("rooms", OWNED, received())


@app.post("/usr/roomlist2")
def roomlist2():
    return listed("rooms", JOINED, received())


@app.post("/usr/join")
def join():
    sent = received()
    with writing() as run:
        run("INSERT INTO member VALUES (?, ?, ?)", (sent["room_id"], tick(run), sent["openid"]))
    return done()


@app.post("/room/section")
def section():
    sent = received()
    return listed("rooms", IN_SECTION, {**sent, "section": fold(sent["section"])})


@app.post("/room/add")
def add():
    sent = received()
    name, section, description = sent["name"], sent["section"], sent["description"]
    folded = fold(name), fold(section), fold(description)
    owner = sent["room_owner_id"]
    with writing() as run:
        values = name, section, description, owner, *folded
        room_id = run("INSERT INTO room VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", values).lastrowid
        run("INSERT INTO room_index (rowid, words) VALUES (?, ?)", (-room_id, written(*folded)))
        run("INSERT INTO member VALUES (?, ?, ?)", (room_id, tick(run), owner))
    return done(room_id=room_id)


@app.post("/room/kick")
def kick():
    with writing() as run:
        run("DELETE FROM member WHERE room_id = :room_id AND openid = :openid", received())
        tick(run)
    return done()


@app.post("/room/delete")
def delete():
    sent = received()
    removed = """DELETE FROM room WHERE room_id = :room_id
        RETURNING folded_name, folded_section, folded_description"""
    with writing() as run:
        (folded,) = run(removed, sent)
        values = -sent["room_id"], written(*folded)
        run("INSERT INTO room_index (room_index, rowid, words) VALUES ('delete', ?, ?)", values)
        tick(run)
    return done()


@app.post("/room/get_message")
def get_message():
    sent = received()
    return listed("messages", NEWER if "after" in sent else OLDER, sent)


@app.post("/room/send_message")
def send_message():
    sent = received()
    with writing() as run:
        message_id = tick(run)
        values = sent["room_id"], message_id, sent["openid"], sent["message"]
        run("INSERT INTO message VALUES (?, ?, ?, ?)", values)
    return done(message_id=message_id, time=rfc3339(message_id))


@app.post("/search")
def search():
    sent = received()
    if isinstance(sent["key"], int):
        return listed("rooms", NUMBERED, sent)
    run = connection().execute
    key, limit = fold(sent["key"]), sent["limit"] + 1
    anywhere = run(INDEXED, (every(key.split(), ANYWHERE), limit)).fetchall()
    found = {}
    if len(anywhere) > 1:
        found = dict.fromkeys(run(NAMED, (key, limit)))
        for reach in (NAME, NAME_OR_SECTION):
            if len(found) < limit:
                found |= dict.fromkeys(run(INDEXED, (every(key.split(), reach), limit)))
    room_ids = [room_id for (room_id,) in found | dict.fromkeys(anywhere)]
    return listed("rooms", GIVEN, {**sent, "room_ids": json.dumps(room_ids[:limit])})


@app.get("/time")
def last_time():
    (last_time,) = connection().execute("SELECT last_time FROM clock").fetchone()
    return done(last_time=rfc3339(last_time))


def received():
    return {"limit": 100, "before": 2**63 - 1, **json.loads(request.body.read())}


@contextmanager
def writing():
    run = connection().execute
    with turn:
        run("BEGIN IMMEDIATE")
        yield run
        run("COMMIT")


def tick(run):
    moved = "UPDATE clock SET last_time = max(?, last_time + 1) RETURNING last_time"
    ((last_time,),) = run(moved, (time.time_ns() // 1_000_000,))
    return last_time


def rfc3339(milliseconds):
    seconds, rest = divmod(milliseconds, 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:03}Z"


def listed(name, sql, values):
    array, more = connection().execute(sql, values).fetchone()
    has_more = "true" if more else "false"
    return answer(f'{{"response_code":1,"{name}":{array},"has_more":{has_more}}}')


def done(**fields):
    return answer(json.dumps({"response_code": 1, **fields}, separators=(",", ":")))


def answer(body):
    response.content_type = "application/json"
    return body
