"""三、2 最新时间: when anything last changed that a client can see."""

import re
import time
from datetime import datetime, timedelta, timezone

import pytest

import models

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def test_a_new_database_has_the_time_it_was_made(last_time):
    made = datetime.fromisoformat(last_time().replace("Z", "+00:00"))
    assert timedelta(0) <= datetime.now(timezone.utc) - made < timedelta(minutes=1)


def test_times_are_rfc3339_in_utc_with_milliseconds(post, room, last_time):
    sent = post("/room/send_message", room_id=room, openid="hong", message="几点了").json
    assert RFC3339.fullmatch(sent["time"])
    assert RFC3339.fullmatch(last_time())


def test_it_grows_with_every_change(post, message, last_time):
    times = [last_time()]
    for url, fields in [
        ("/usr/complete", {"openid": "ming", "sex": 1, "preference": []}),
        ("/usr/complete", {"openid": "ming", "sex": "1", "preference": []}),
        ("/usr/complete", {"openid": "ming", "sex": "1", "preference": ["篮球"]}),
        (
            "/room/add",
            {"name": "一", "section": "二", "description": "", "room_owner_id": "ming"},
        ),
        ("/usr/join", {"room_id": 1, "openid": "gang"}),
        ("/room/send_message", {"room_id": 1, "openid": "hong", "message": "嗨"}),
        ("/room/send_message", {"room_id": 1, "openid": "hong", "message": "嗨"}),
        ("/usr/complete", {"openid": "ming", "sex": 1, "preference": [], "nickname": "小明"}),
        ("/room/complete", {"room_id": 1, "openid": "ming", "name": "三"}),
        ("/room/complete", {"room_id": 1, "openid": "ming", "capacity": 3}),
        ("/room/delete_message", {"room_id": 1, "openid": "ming", "message_id": message}),
        ("/room/kick", {"room_id": 1, "openid": "gang"}),
        ("/room/delete", {"room_id": 1, "openid": "ming"}),
    ]:
        assert post(url, **fields).json["response_code"] == 1
        times.append(last_time())
    assert times == sorted(set(times))


def test_it_stands_still_when_nothing_changed(post, room, last_time):
    post("/usr/complete", openid="ming", sex=1, preference=["篮球"])
    before = last_time()
    for url, fields in [
        ("/usr/complete", {"openid": "ming", "sex": 1, "preference": ["篮球"]}),
        ("/usr/info", {"openid": "ming"}),
        ("/usr/roomlist1", {"openid": "ming"}),
        ("/usr/roomlist2", {"openid": "hong"}),
        ("/usr/join", {"room_id": room, "openid": "hong"}),
        ("/room/section", {"section": "学习"}),
        ("/room/get_message", {"room_id": room}),
        ("/search", {"key": "自习"}),
        ("/room/complete", {"room_id": room, "openid": "ming", "name": "一起自习"}),
        ("/room/complete", {"room_id": room, "openid": "hong", "name": "二"}),
        ("/room/delete_message", {"room_id": room, "openid": "ming", "message_id": 9}),
        ("/room/kick", {"room_id": room, "openid": "gang"}),
        ("/room/kick", {"room_id": room, "openid": "ming"}),
        ("/room/delete", {"room_id": room, "openid": "hong"}),
        ("/room/send_message", {"room_id": room, "openid": "gang", "message": "嗨"}),
    ]:
        post(url, **fields)
        assert last_time() == before, url


def test_it_grows_within_one_millisecond(post, room, last_time, monkeypatch):
    standing = time.time_ns() + 60_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: standing)
    times = [last_time()]
    for _ in range(5):
        post("/room/send_message", room_id=room, openid="hong", message="嗨")
        times.append(last_time())
    assert times == sorted(set(times))


def test_it_grows_over_a_clock_set_back_and_messages_keep_what_the_clock_shows(
    post, room, last_time, monkeypatch
):
    hour_ago = time.time_ns() - 3_600_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: hour_ago)
    before = last_time()
    sent = post("/room/send_message", room_id=room, openid="hong", message="嗨").json
    assert sent["time"] < before < last_time()
    (message,) = post("/room/get_message", room_id=room).json["messages"]
    assert message["time"] == sent["time"]


def test_a_write_under_a_clock_a_year_ahead_spoils_no_later_time(
    post, room, last_time, monkeypatch
):
    now = time.time_ns()
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time_ns", lambda: now + 365 * 86_400 * 10**9)
        post("/room/send_message", room_id=room, openid="hong", message="早")
    wrong = last_time()
    today = datetime.now(timezone.utc).date().isoformat()
    for _ in range(3):
        sent = post("/room/send_message", room_id=room, openid="hong", message="嗨").json
        assert sent["time"].startswith(today[:7])
    assert last_time() > wrong
    messages = post("/room/get_message", room_id=room).json["messages"]
    assert [message["message"] for message in messages] == ["早", "嗨", "嗨", "嗨"]


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1795422480123, "2026-11-23T08:28:00.123Z"),
        (1795422480999, "2026-11-23T08:28:00.999Z"),
    ],
)
def test_milliseconds_are_exact(database_file, milliseconds, text):
    ((shown,),) = models.database.execute(models.Clock.select(models.rfc3339(milliseconds)))
    assert shown == text
