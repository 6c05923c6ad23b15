"""The demo: a campus to look at, as a newcomer meets it."""

import json
import subprocess
from datetime import datetime, timedelta, timezone
from itertools import chain, pairwise

import pytest
from webtest import TestApp

import roomapp
from processes import ONE_SHOT, command, environment, start_error
from service import demo
from service.database import Refused, close_database
from service.fields import FIELDS
from service.login import Token
from service.moderation import Report
from service.schema import open_database

CAMPUS = json.loads(demo.CAMPUS.read_text(encoding="utf-8"))


def run_demo(file):
    done = subprocess.run(command("demo", "--database", file), env=environment(), **ONE_SHOT)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def campus_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("demo") / "roomapp.db"
    run_demo(file)
    return file


@pytest.fixture
def ask(campus_file):
    """Read from a service that has the demo in its database."""
    open_database(campus_file)
    client = TestApp(roomapp.app)
    yield lambda url, **fields: client.post_json(url, fields).json
    close_database()


def test_everybody_has_a_profile(ask):
    for user in CAMPUS["users"]:
        profile = ask("/usr/info", openid=user["openid"])
        shown = {field: user.get(field, "") for field in ("sex", "preference", "nickname")}
        assert profile == {"response_code": 1, **shown}


def test_every_room_is_in_its_section_with_its_members(ask):
    for section in {room["section"] for room in CAMPUS["rooms"]}:
        shown = ask("/room/section", section=section)["rooms"]
        told = [room for room in CAMPUS["rooms"] if room["section"] == section]
        assert [room["name"] for room in reversed(shown)] == [room["name"] for room in told]
        for room, wanted in zip(reversed(shown), told, strict=True):
            assert room["users_id"] == [wanted["room_owner_id"], *wanted["members"]]
            assert room["state"] == bool(wanted["members"])
            assert room["capacity"] == wanted.get("capacity", 500)


def test_conversations_read_as_they_were_written(ask):
    for room in CAMPUS["rooms"]:
        (found,) = ask("/search", key=room["name"], limit=1)["rooms"]
        answer = ask("/room/get_message", room_id=found["room_id"])["messages"]
        shown = [{"openid": each["openid"], "message": each["message"]} for each in answer]
        assert shown == room["messages"], room["name"]


def test_conversations_took_an_evening(ask):
    for room in CAMPUS["rooms"]:
        (found,) = ask("/search", key=room["name"], limit=1)["rooms"]
        messages = ask("/room/get_message", room_id=found["room_id"])["messages"]
        times = [datetime.fromisoformat(each["time"].replace("Z", "+00:00")) for each in messages]
        between = [later - earlier for earlier, later in pairwise(times)]
        assert all(timedelta(minutes=1) < each < timedelta(minutes=10) for each in between)
        assert all(datetime.now(timezone.utc) - each < timedelta(hours=4) for each in times)


def test_laozhou_has_not_read_one_room_and_one_message_was_reported(ask, campus_file):
    lists = [ask(url, openid="laozhou")["rooms"] for url in ("/usr/roomlist1", "/usr/roomlist2")]
    last = {}
    for room in chain(*lists):
        messages = ask("/room/get_message", room_id=room["room_id"])["messages"]
        last[room["name"]] = messages[-1]["openid"]
    assert len(last) > 3
    (unread,) = [name for name, openid in last.items() if openid != "laozhou"]
    (reported,) = [room for room in CAMPUS["rooms"] if "report" in room]
    assert unread == reported["name"]
    (report,) = Report.select()
    assert report.is_open
    assert report.text == reported["messages"][-1]["message"]


def test_there_are_rooms_of_few_and_of_many_full_ones_and_others():
    rooms = [room for room in CAMPUS["rooms"] if "capacity" in room]
    assert {2, 4, 5, 12} <= {room["capacity"] for room in rooms}
    assert {1 + len(room["members"]) == room["capacity"] for room in rooms} == {True, False}


def test_clients_could_have_sent_all_of_it():
    def fields():
        for user in CAMPUS["users"]:
            yield from user.items()
        for room in CAMPUS["rooms"]:
            yield from ((field, room[field]) for field in FIELDS.keys() & room.keys())
            yield from (("openid", openid) for openid in room["members"])
            for message in [*room["messages"], room.get("report", {})]:
                yield from message.items()

    for field, value in fields():
        assert FIELDS[field].read(value) == value


def test_it_shows_what_there_is_to_see(tmp_path):
    done = run_demo(tmp_path / "roomapp.db")
    rooms = len(CAMPUS["rooms"])
    assert str(tmp_path / "roomapp.db") in done.stdout
    assert f"{len(CAMPUS['users'])} users and {rooms} rooms" in done.stdout
    assert done.stdout.endswith("; on the page, be laozhou\n")


def test_a_running_server_shows_it_at_once(start, tmp_path):
    server = start()
    before = server.request("GET", "/time")
    run_demo(tmp_path / "roomapp.db")
    assert server.request("GET", "/time") != before
    assert server.post("/search", key=1)["rooms"][0]["name"] == CAMPUS["rooms"][0]["name"]


def profile(post):
    post("/usr/complete", openid="ming", sex=1, preference=[])


def room(post):
    post("/room/add", name="一", section="二", description="", room_owner_id="ming")


def login(post):
    Token.issue("ming")


@pytest.mark.parametrize("something", [profile, room, login])
def test_a_database_that_holds_something_is_left_as_it_is(database_file, post, dump, something):
    something(post)
    before = dump()
    assert str(database_file) in start_error("demo", "--database", database_file)
    assert dump() == before


def test_it_is_there_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "roomapp.db"
    stranger = {"openid": "nobody", "message": "嗨"}
    last = CAMPUS["rooms"][-1]
    broken = [*CAMPUS["rooms"][:-1], last | {"messages": [*last["messages"], stranger]}]
    monkeypatch.setattr(demo, "CAMPUS", tmp_path / "demo.json")
    demo.CAMPUS.write_text(json.dumps(CAMPUS | {"rooms": broken}), encoding="utf-8")
    with pytest.raises(Refused, match="not_member"):
        demo.fill(file)
    run_demo(file)  # which it would refuse if anything were there


@pytest.mark.slow
def test_a_database_that_another_program_holds_is_one_line(start, other_program, tmp_path):
    start()
    other_program.execute("BEGIN IMMEDIATE")
    assert "another program is writing" in start_error(
        "demo", "--database", tmp_path / "roomapp.db"
    )
