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


def test_it_grows_with_every_change(post, last_time):
    times = [last_time()]
    for url, fields in [
        ("/usr/complete", {"openid": "ming", "sex": 1, "preference": []}),
        ("/usr/complete", {"openid": "ming", "sex": "1", "preference": []}),
        ("/usr/complete", {"openid": "ming", "sex": "1", "preference": ["篮球"]}),
        (
            "/room/add",
            {"name": "一", "section": "二", "description": "", "room_owner_id": "ming"},
        ),
        ("/usr/join", {"room_id": 1, "openid": "hong"}),
        ("/room/send_message", {"room_id": 1, "openid": "hong", "message": "嗨"}),
        ("/room/send_message", {"room_id": 1, "openid": "hong", "message": "嗨"}),
        ("/room/kick", {"room_id": 1, "openid": "hong"}),
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
        ("/room/kick", {"room_id": room, "openid": "gang"}),
        ("/room/kick", {"room_id": room, "openid": "ming"}),
        ("/room/delete", {"room_id": room, "openid": "hong"}),
        ("/room/send_message", {"room_id": room, "openid": "gang", "message": "嗨"}),
    ]:
        post(url, **fields)
        assert last_time() == before, url


def test_it_grows_within_one_millisecond(post, room, last_time, monkeypatch):
    """The system's clock stands still, as it does between two changes of one millisecond."""
    standing = time.time_ns() + 60_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: standing)
    times = []
    for _ in range(5):
        sent = post("/room/send_message", room_id=room, openid="hong", message="嗨").json
        times.append(sent["time"])
        assert last_time() == sent["time"]
    assert times == sorted(set(times))


def test_it_grows_over_a_clock_set_back(post, room, last_time, monkeypatch):
    before = last_time()
    hour_ago = time.time_ns() - 3_600_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: hour_ago)
    sent = post("/room/send_message", room_id=room, openid="hong", message="嗨").json
    assert before < sent["time"] <= last_time()


@pytest.mark.parametrize(
    ("milliseconds", "written"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1795422480123, "2026-11-23T08:28:00.123Z"),
        (1795422480999, "2026-11-23T08:28:00.999Z"),
    ],
)
def test_milliseconds_are_written_exactly(milliseconds, written):
    assert models.rfc3339(milliseconds) == written
