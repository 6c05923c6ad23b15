"""Sent twice: with a request_id what is sent again is not done again."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from document import BODIES, CHANGING
from service.database import close_database, now
from service.memory import Memory
from service.schema import open_database

DAY_MS = 24 * 60 * 60 * 1000  # milliseconds


@pytest.fixture
def send(post, room):
    """Send a message with a request_id."""

    def send(request_id, openid="hong", **fields):
        fields = {"room_id": room, "message": "嗨", **fields}
        return post("/room/send_message", openid=openid, request_id=request_id, **fields).json

    return send


@pytest.fixture
def texts(post, room):
    """The texts of the room's messages."""
    return lambda: [
        each["message"] for each in post("/room/get_message", room_id=room).json["messages"]
    ]


def test_a_message_sent_twice_is_there_once_and_the_first_answer_is_given_again(
    send, texts, last_time
):
    first = send("a")
    before = last_time()
    assert send("a") == first
    assert last_time() == before
    assert texts() == ["嗨"]


def test_a_room_opened_twice_is_there_once(post):
    room = {"name": "一", "section": "二", "description": "", "room_owner_id": "ming"}
    answers = [post("/room/add", **room, request_id="a").json for _ in range(2)]
    assert answers == [{"response_code": 1, "room_id": 1}] * 2
    assert len(post("/room/section", section="二").json["rooms"]) == 1


@pytest.mark.parametrize("url", CHANGING)
def test_whatever_changes_something_is_done_once(post, room, message, dump, url):
    """Also when what it was done to is another by then, or gone."""
    fields = {**BODIES[url], "request_id": "a"}
    first = post(url, **fields).json
    assert first["response_code"] == 1
    post("/usr/complete", openid="gang", sex=2, preference=[])
    post("/room/delete", room_id=room, openid="ming")
    before = dump()
    assert post(url, **fields).json == first
    assert dump() == before


def test_an_edited_message_is_another_request(send, texts):
    assert send("a") != send("a", message="你好")
    assert send("a", message="你好")["response_code"] == 1
    assert texts() == ["嗨", "你好"]


def test_fields_that_stand_for_the_same_are_the_same(send, texts, room):
    assert send("a") == send("a", room_id=f"0{room}")
    assert texts() == ["嗨"]


def test_those_that_arrive_at_once_are_done_once(post, room):
    fields = {"room_id": room, "openid": "hong", "request_id": "a"}
    with ThreadPoolExecutor(8) as phones:
        answers = list(phones.map(lambda _: post("/room/kick", **fields).json, range(8)))
    assert answers == [{"response_code": 1}] * 8
    assert post("/room/kick", **fields | {"request_id": "b"}).json["error"] == "member_not_found"


def test_without_a_request_id_each_is_done(send, texts):
    send(None)
    send(None)
    assert texts() == ["嗨", "嗨"]


def test_each_person_has_their_own_and_each_endpoint_too(post, send, texts):
    send("a")
    send("a", openid="ming")
    send("A")
    assert len(texts()) == 3
    room = {"name": "一", "section": "二", "description": "", "room_owner_id": "hong"}
    assert post("/room/add", **room, request_id="a").json == {"response_code": 1, "room_id": 2}


def test_the_first_answer_is_given_even_when_the_room_is_gone(post, room, send):
    first = send("a", openid="ming")
    post("/room/delete", room_id=room, openid="ming")
    assert send("a", openid="ming") == first
    assert send("b", openid="ming")["error"] == "room_not_found"


def test_what_was_refused_may_be_done_later(post, room, send, texts):
    assert send("a", openid="gang")["error"] == "not_member"
    post("/usr/join", room_id=room, openid="gang")
    assert send("a", openid="gang")["response_code"] == 1
    assert texts() == ["嗨"]


def test_fields_are_looked_at_first(send):
    send("a")
    assert send("a", message="")["error"] == "invalid_field"


def test_it_is_known_across_a_restart(send, texts, database_file):
    first = send("a")
    close_database()
    open_database(database_file)
    assert send("a") == first
    assert texts() == ["嗨"]


@pytest.mark.parametrize(
    ("later", "times"),
    [(-DAY_MS + 1, 1), (-1, 1), (DAY_MS - 1, 1), (DAY_MS + 1, 2), (-DAY_MS - 1, 2)],
)
def test_it_is_known_for_a_day_also_when_the_clock_was_set_back(
    send, texts, monkeypatch, later, times
):
    sent = now()
    monkeypatch.setattr("time.time_ns", lambda: (sent) * 1_000_000)
    send("a")
    monkeypatch.setattr("time.time_ns", lambda: (sent + later) * 1_000_000)
    send("a")
    send("a")
    assert len(texts()) == times


@pytest.mark.parametrize("later", [DAY_MS + 1000, -DAY_MS - 1000])
def test_what_is_older_is_forgotten_in_passing(send, monkeypatch, later):
    for number in range(10):
        send(str(number))
    then = now() + later
    monkeypatch.setattr("time.time_ns", lambda: (then) * 1_000_000)
    for number in range(5):
        send(f"later{number}")
    assert Memory.select().count() == 5
