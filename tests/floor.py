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

from search import like_pattern
from service.text import IN_NAME, IN_TEXT, fold, indexed_text

app = Bottle()
local = threading.local()
lock = threading.Lock()


def connection():
    if not hasattr(local, "connection"):
        local.connection = sqlite3.connect(os.environ["FLOOR_DATABASE"], isolation_level=None)
        local.connection.execute("PRAGMA synchronous = full")
        local.connection.execute("PRAGMA foreign_keys = on")
    return local.connection


def close():
    connection().close()
    del local.connection


NICKNAMES = """(
    SELECT json_group_object(openid, nickname) FROM user WHERE nickname != '' AND openid IN ({})
)"""
OWNERS = NICKNAMES.format("SELECT room_owner_id FROM page")
MEMBERS = NICKNAMES.format("SELECT openid FROM member WHERE room_id = :key")
NEWEST = """, 'last_message_id', coalesce(
    (SELECT max(message_id) FROM message WHERE message.room_id = page.room_id), 0
)"""


def page(rooms, more="", nicknames=OWNERS):
    """The SQL of a page of rooms, given that of which and in what order."""
    return f"""
    WITH page AS (SELECT room.* FROM {rooms} LIMIT :limit)
    SELECT (
        SELECT json_group_array(json_object(
            'room_id', room_id, 'name', name, 'section', section, 'description', description,
            'room_owner_id', room_owner_id, 'users_id', (
                SELECT json_group_array(openid) FROM (
                    SELECT openid FROM member WHERE member.room_id = page.room_id ORDER BY joined
                )
            ), 'state', EXISTS (
                SELECT 1 FROM member WHERE member.room_id = page.room_id LIMIT 1 OFFSET 1
            ), 'capacity', capacity {more}
        )) FROM page
    ), {nicknames}, EXISTS (SELECT 1 FROM {rooms} LIMIT 1 OFFSET :limit)
    """


OWNED = page(
    "room WHERE room_owner_id = :openid AND room_id < :before ORDER BY room_id DESC", NEWEST
)
JOINED = page(
    "member AS mine JOIN room USING (room_id) WHERE mine.openid = :openid"
    " AND mine.room_id < :before AND NOT is_owner ORDER BY mine.room_id DESC",
    NEWEST,
)
IN_SECTION = page(
    "room WHERE folded_section = :section AND room_id < :before ORDER BY room_id DESC"
)
NUMBERED = page("room WHERE room_id = :key", nicknames=MEMBERS)
GIVEN = page("json_each(:room_ids) JOIN room ON room_id = value ORDER BY key")
NAMED = "SELECT room_id FROM room WHERE folded_name = ? ORDER BY room_id DESC LIMIT ?"
INDEXED = "SELECT -rowid FROM room_index WHERE {} ORDER BY rowid LIMIT ?"


def messages(which):
    """The SQL of a page of a room's messages, given that of which and in what order."""
    page = f"FROM message WHERE room_id = :room_id AND {which} LIMIT :limit"
    return f"""
    SELECT json_group_array(json_object(
        'openid', openid, 'message', message,
        'time', strftime('%Y-%m-%dT%H:%M:%fZ', time / 1000.0, 'unixepoch'),
        'message_id', message_id
    )), {NICKNAMES.format(f"SELECT openid {page}")},
    EXISTS (SELECT 1 FROM message WHERE room_id = :room_id AND {which} LIMIT 1 OFFSET :limit)
    FROM (SELECT * FROM (SELECT * {page}) ORDER BY message_id)
    """


OLDER = messages("message_id < :before ORDER BY message_id DESC")
NEWER = messages("message_id > :after ORDER BY message_id")


@app.post("/usr/complete")
def complete():
    sent = sent_object()
    values = sent["openid"], json.dumps(sent["sex"]), json.dumps(sent["preference"])
    with write_transaction() as run:
        run(
            "INSERT INTO user VALUES (?, json(?), json(?), '')"
            " ON CONFLICT DO UPDATE SET sex = excluded.sex, preference = excluded.preference",
            values,
        )
        tick(run)
    return done()


@app.post("/usr/info")
def info():
    found = connection().execute(
        "SELECT sex, preference, nickname FROM user WHERE openid = :openid", sent_object()
    )
    sex, preference, nickname = found.fetchone()
    return done(sex=json.loads(sex), preference=json.loads(preference), nickname=nickname)


@app.post("/usr/roomlist1")
def roomlist1():
    return answer_list("rooms", OWNED, sent_object())


@app.post("/usr/roomlist2")
def roomlist2():
    return answer_list("rooms", JOINED, sent_object())


@app.post("/usr/join")
def join():
    sent = sent_object()
    with write_transaction() as run:
        guest = sent["room_id"], tick(run), sent["openid"]
        run("INSERT INTO member VALUES (?, ?, ?, 0)", guest)
    return done()


@app.post("/room/section")
def section():
    sent = sent_object()
    return answer_list("rooms", IN_SECTION, {**sent, "section": fold(sent["section"])})


@app.post("/room/add")
def add():
    sent = sent_object()
    name, section, description = sent["name"], sent["section"], sent["description"]
    folded = fold(name), fold(section), fold(description)
    owner = sent["room_owner_id"]
    with write_transaction() as run:
        values = name, section, description, owner, *folded[:2]
        room_id = run("INSERT INTO room VALUES (NULL, ?, ?, ?, ?, ?, ?, 500)", values).lastrowid
        text = indexed_text(*folded)
        run("INSERT INTO room_index (rowid, text) VALUES (?, ?)", (-room_id, text))
        run("INSERT INTO member VALUES (?, ?, ?, 1)", (room_id, tick(run), owner))
    return done(room_id=room_id)


@app.post("/room/kick")
def kick():
    with write_transaction() as run:
        run("DELETE FROM member WHERE room_id = :room_id AND openid = :openid", sent_object())
        tick(run)
    return done()


@app.post("/room/delete")
def delete():
    sent = sent_object()
    with write_transaction() as run:
        run("DELETE FROM room WHERE room_id = :room_id", sent)
        run("DELETE FROM room_index WHERE rowid = -:room_id", sent)
        tick(run)
    return done()


@app.post("/room/get_message")
def get_message():
    sent = sent_object()
    return answer_list("messages", NEWER if "after" in sent else OLDER, sent)


@app.post("/room/send_message")
def send_message():
    sent = sent_object()
    with write_transaction() as run:
        message_id = tick(run)
        values = sent["room_id"], message_id, sent["openid"], sent["message"], message_id
        run("INSERT INTO message VALUES (?, ?, ?, ?, ?)", values)
    return done(message_id=message_id, time=rfc3339(message_id))


@app.post("/search")
def search():
    sent = sent_object()
    if isinstance(sent["key"], int):
        return answer_list("rooms", NUMBERED, sent)
    run = connection().execute
    key, limit = fold(sent["key"]), sent["limit"] + 1
    found = dict.fromkeys(run(NAMED, (key, limit)))
    for where in (IN_NAME, IN_TEXT):
        if len(found) < limit:
            patterns = [like_pattern(part, where) for part in set(key.split())]
            like = " AND ".join(["text LIKE ?"] * len(patterns))
            found |= dict.fromkeys(run(INDEXED.format(like), (*patterns, limit)))
    room_ids = [room_id for (room_id,) in found]
    return answer_list("rooms", GIVEN, {**sent, "room_ids": json.dumps(room_ids[:limit])})


@app.get("/time")
def last_time():
    (last_time,) = connection().execute("SELECT last_time FROM clock").fetchone()
    return done(last_time=rfc3339(last_time))


def sent_object():
    return {"limit": 100, "before": 2**63 - 1, **json.loads(request.body.read())}


@contextmanager
def write_transaction():
    run = connection().execute
    with lock:
        run("BEGIN IMMEDIATE")
        yield run
        run("COMMIT")


def tick(run):
    move = "UPDATE clock SET last_time = max(?, last_time + 1) RETURNING last_time"
    ((last_time,),) = run(move, (time.time_ns() // 1_000_000,))
    return last_time


def rfc3339(milliseconds):
    seconds, rest = divmod(milliseconds, 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:03}Z"


def answer_list(name, sql, values):
    array, nicknames, more = connection().execute(sql, values).fetchone()
    has_more = "true" if more else "false"
    return answer(
        f'{{"response_code":1,"{name}":{array},"nicknames":{nicknames},"has_more":{has_more}}}'
    )


def done(**fields):
    return answer(json.dumps({"response_code": 1, **fields}, separators=(",", ":")))


def answer(body):
    response.content_type = "application/json"
    return body
