"""The operator's commands: reports, remove, ban, unban and forget, beside a running service."""

import json
import re
import sqlite3
import subprocess
import threading
import unicodedata
from contextlib import closing

import pytest

from processes import command, environment, make_database, signals, start_error
from service.database import change, now
from service.moderation import Report


@pytest.fixture
def report(post):
    def report(room_id, openid="hong", reason="广告", **message):
        answer = post("/room/report", room_id=room_id, openid=openid, reason=reason, **message)
        assert answer.json == {"response_code": 1}

    return report


@pytest.fixture
def is_open():
    """Whether each report is open, the oldest first."""

    def is_open():
        return [each for (each,) in Report.select(Report.is_open).order_by(Report.id).tuples()]

    return is_open


def store(**fields):
    """A report as it can only come from elsewhere than the interface."""
    report = {
        "reporter": "hong",
        "openid": "ming",
        "room_id": 1,
        "message_id": Report.select().count() + 1,
        "text": "有人吗",
        "reason": "广告",
        "time": now(),
        "is_open": True,
    }
    with change():
        Report.create(**report | fields)


# Words


@pytest.mark.parametrize("name", ["reports", "remove", "ban", "unban", "forget"])
def test_each_command_explains_itself(operate, name):
    first, *_ = said = operate(name, "--help")
    assert first.startswith(f"usage: roomapp.py {name}")
    assert any("--database" in line for line in said)


@pytest.mark.parametrize(
    "words",
    [
        ["reports", "1"],
        ["remove"],
        ["remove", "0"],
        ["remove", "-1"],
        ["remove", "x"],
        ["remove", "1", "0"],
        ["remove", "1", "2", "3"],
        ["remove", str(2**63)],
        ["ban"],
        ["ban", ""],
        ["ban", "a b"],
        ["ban", "a\u202eb"],
        ["ban", "x" * 65],
        ["unban", "a", "b"],
        ["forget"],
        ["forget", " "],
    ],
    ids=str,
)
def test_wrong_words_are_one_line_and_2(tmp_path, words):
    make_database(tmp_path / "roomapp.db")
    start_error(*words, "--database", tmp_path / "roomapp.db")


@pytest.mark.parametrize(
    "words", [["reports"], ["remove", 1], ["ban", "ming"], ["unban", "ming"], ["forget", "ming"]]
)
def test_without_a_database_there_is_nothing_to_do(tmp_path, words):
    file = tmp_path / "missing.db"
    assert str(file) in start_error(*words, "--database", file)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["reports"], "there are no open reports"),
        (["reports", "--all"], "there are no reports"),
        (["remove", 1], "nothing removed: room not found"),
        (["remove", 1, 1], "nothing removed: room not found"),
        (["unban", "ming"], "ming is not banned"),
        (["forget", "ming"], "nothing of ming"),
    ],
)
def test_where_there_is_nothing_of_that_kind_one_line_says_so(
    database_file, dump, operate, words, line
):
    before = dump()
    assert operate(*words, status=1) == [line]
    assert dump() == before


# Reports


def shown_width(text):
    """How wide a terminal shows a text."""
    return sum(
        0
        if unicodedata.category(each) in ("Mn", "Me", "Cf")
        else 2
        if unicodedata.east_asian_width(each) in "WF"
        else 1
        for each in text
    )


def blocks(lines):
    """The reports that were shown: their facts by name, reason and text without the indent."""
    found = []
    for line in lines:
        if line.startswith("    ") or not line:
            if line:
                name = list(found[-1])[-1]
                found[-1][name] += [line.removeprefix("    ")]
        elif line.startswith("report "):
            number, moment, *state = line.removeprefix("report ").split(", ")
            found.append({"number": number, "time": moment, "state": "".join(state)})
        else:
            name, _, fact = line.partition(":")
            found[-1][name] = fact.strip() or []
    return found


def test_reports_are_shown_with_what_was_said_by_whom(room, message, report, operate):
    report(room, openid="gang", reason="假的")
    report(room, message_id=message, reason="骂人\n了")
    one, two = blocks(operate("reports"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}", one.pop("time"))
    assert one == {
        "number": "1",
        "state": "",
        "where": f"room {room}",
        "said by": "ming",
        "reported by": "gang",
        "reason": ["假的"],
        "text": ["一起自习", "学习", "图书馆"],
    }
    assert two["where"] == f"room {room}, message {message}"
    assert two["reported by"] == "hong"
    assert (two["reason"], two["text"]) == (["骂人", "了"], ["有人吗"])


def test_the_newest_report_is_the_last(open_room, report, operate):
    rooms = [open_room() for _ in range(12)]
    for room_id in rooms:
        report(room_id)
    shown = [each["where"] for each in blocks(operate("reports"))]
    assert shown == [f"room {room_id}" for room_id in rooms]


def test_all_shows_the_settled_ones_too(open_room, report, operate):
    rooms = [open_room() for _ in range(2)]
    for room_id in rooms:
        report(room_id)
    operate("remove", rooms[0])

    def shown(*words):
        return [(each["where"], each["state"]) for each in blocks(operate("reports", *words))]

    one, two = (f"room {room_id}" for room_id in rooms)
    assert shown() == [(two, "")]
    assert shown("--all") == [(one, "settled"), (two, "open")]
    operate("remove", rooms[1])
    assert operate("reports", status=1) == ["there are no open reports"]
    assert shown("--all") == [(one, "settled"), (two, "settled")]


TEXTS = [
    "今天晚上八点在宿舍楼下见，还缺两个人，速来" * 40,
    "a" * 1000,
    "ａｂｃ，全角 and half, mixed 混排" * 20,
    "é e\u0301 ㍿ ｶﾅ 한글 🎮🏀",
    "一\t二\n\n三",
    "",
]


def test_openids_are_whole_and_texts_are_no_wider_than_80_columns(database_file, operate):
    people = ["o6_bmjrPTlm6_2sgVt7hMZOPfL2M", "明" * 30, "x" * 64]
    for number, text in enumerate(TEXTS):
        store(text=text, openid=people[number % 3], reporter=people[0], room_id=10**number)
    lines = operate("reports")
    assert max(map(shown_width, lines)) <= 80
    for number, each in enumerate(blocks(lines)):
        assert each["where"].startswith(f"room {10**number}, message ")
        assert (each["said by"], each["reported by"]) == (people[number % 3], people[0])
        assert "".join("".join(each["text"]).split()) == "".join(TEXTS[number].split())


@pytest.mark.parametrize(
    ("character", "shown"),
    [
        ("\u202e", "<U+202E>"),
        ("\u2066", "<U+2066>"),
        ("\u200f", "<U+200F>"),
        ("\u061c", "<U+061C>"),
        ("\u200b", "<U+200B>"),
        ("\ufeff", "<U+FEFF>"),
    ],
)
def test_what_would_turn_or_hide_a_text_is_shown_as_its_number(
    post, room, operate, character, shown
):
    text = f"好{character}人"
    post("/room/send_message", room_id=room, openid="ming", message=text)
    post("/room/complete", room_id=room, openid="ming", name=text)
    post("/room/report", room_id=room, openid="hong", reason=text)
    lines = operate("reports")
    assert not any(character in line for line in lines)
    assert lines.count(f"    好{shown}人") == 2, "in the reason and in the name"


def test_what_commands_a_terminal_is_shown_as_its_number(database_file, operate):
    for text in ("\x1b[2J\x1b]0;root\x07", "a\rb", "\x9b2J", "a\x08\x08b", "\x00", "\u2028一"):
        store(text=text, reason=text)
    lines = operate("reports")
    assert all(
        unicodedata.category(each) not in ("Cc", "Zl", "Zp") for line in lines for each in line
    )
    assert any("<U+001B>[2J<U+001B>]0;root<U+0007>" in line for line in lines)


def test_an_emoji_of_several_is_shown_as_it_is(database_file, operate):
    store(text="👨‍👩‍👧 ❤️")
    assert any(line.endswith("👨‍👩‍👧 ❤️") for line in operate("reports"))


def test_a_text_cannot_look_like_another_report(database_file, operate):
    store(text="嗨\n\nreport 2, 2026-11-25 10:00:00 +0800\nwhere: room 5\nsaid by: hong\n三")
    store(room_id=7)
    assert [each["number"] for each in blocks(operate("reports"))] == ["1", "2"]


def test_reports_are_shown_where_the_terminal_does_not_know_a_character(room, report, operate):
    report(room, reason="骂人 🎮")
    lines = operate("reports", PYTHONIOENCODING="ascii")
    assert any("\\U0001f3ae" in line for line in lines)


def test_what_wechat_doubts_is_said_to_be_reported_by_it(database_file, operate):
    store(reporter="")
    (each,) = blocks(operate("reports"))
    assert each["reported by"] == "WeChat"


@signals
def test_reports_can_be_cut_off_by_whoever_reads_them(database_file):
    for _ in range(30):
        store(text="长" * 2000)
    reports = subprocess.Popen(
        command("reports", "--database", database_file),
        env=environment(PYTHONIOENCODING="utf-8"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with reports:
        assert reports.stdout.readline()
        reports.stdout.close()
        assert reports.stderr.read() == b""


# Removing


def test_a_removed_room_is_gone_at_once(post, room, message, operate, last_time, assert_refused):
    before = last_time()
    assert operate("remove", room) == [f"removed room {room}"]
    assert_refused(post("/room/get_message", room_id=room), 404, "room_not_found")
    assert post("/search", key=room).json["rooms"] == []
    assert last_time() > before
    assert operate("remove", room, status=1) == ["nothing removed: room not found"]


def test_a_removed_message_has_no_text_and_keeps_its_place(
    post, room, message, operate, last_time, files_with
):
    post("/room/send_message", room_id=room, openid="hong", message="加我微信领奖")
    (_, spam) = post("/room/get_message", room_id=room).json["messages"]
    assert files_with("加我微信领奖")
    before = last_time()
    said = operate("remove", room, spam["message_id"])
    assert said == [f"removed message {spam['message_id']} of room {room}"]
    shown = post("/room/get_message", room_id=room).json["messages"]
    assert shown[1] == {**spam, "message": ""}
    assert shown[0]["message"] == "有人吗"
    assert last_time() > before
    assert files_with("加我微信领奖") == []


def test_what_is_not_in_that_room_is_not_removed(room, message, open_room, operate, dump):
    other = open_room()
    before = dump()
    for room_id, message_id in ((other, message), (room, 99)):
        said = operate("remove", room_id, message_id, status=1)
        assert said == ["nothing removed: message not found"]
    assert operate("remove", 2**63 - 1, status=1) == ["nothing removed: room not found"]
    assert dump() == before


def test_removing_closes_the_reports_of_what_is_gone_and_no_others(
    room, message, open_room, report, operate, is_open
):
    other = open_room(room_owner_id="hong")
    report(room)
    report(room, message_id=message)
    report(room, message_id=message, openid="gang")
    report(other)
    said = operate("remove", room, message)
    assert said == [f"removed message {message} of room {room}; closed 2 reports"]
    assert is_open() == [True, False, False, True]
    assert operate("remove", room) == [f"removed room {room}; closed 1 report"]
    assert is_open() == [False, False, False, True]


def test_the_reports_of_a_room_that_is_gone_already_can_be_closed(
    post, room, report, operate, is_open
):
    report(room)
    post("/room/delete", room_id=room, openid="ming")
    assert operate("remove", room, status=1) == ["nothing removed: room not found; closed 1 report"]
    assert is_open() == [False]


# Banning


@pytest.fixture
def phones(log_in):
    """ming and hong, as they call; ming's room 1 has both of them."""
    ming, hong = log_in("ming"), log_in("hong")
    ming("/room/add", name="一", section="二", description="", room_owner_id="ming")
    hong("/usr/join", room_id=1, openid="hong")
    return ming, hong


def test_a_ban_is_effective_at_once(client, phones, operate, assert_refused):
    ming, hong = phones
    assert operate("ban", "ming") == ["banned ming"]
    message = {"room_id": 1, "message": "嗨"}
    assert_refused(ming("/room/send_message", openid="ming", **message), 403, "banned")
    assert_refused(ming("/room/get_message", room_id=1), 401, "login_required")
    answer = client.post_json("/usr/login", {"code": "code-ming"}, expect_errors=True)
    assert_refused(answer, 403, "banned")
    assert hong("/room/send_message", openid="hong", **message).json["response_code"] == 1
    assert operate("ban", "ming") == ["banned ming"], "twice is once"


def test_after_a_ban_old_tokens_stay_ended_and_a_login_works(
    phones, log_in, operate, assert_refused
):
    ming, _ = phones
    operate("ban", "ming")
    assert operate("unban", "ming") == ["ming is no longer banned"]
    for url in ("/usr/roomlist1", "/usr/delete"):
        assert_refused(ming(url, openid="ming"), 401, "login_required")
    ming = log_in("ming")
    assert ming("/usr/roomlist1", openid="ming").json["rooms"][0]["room_id"] == 1
    fields = {"room_id": 1, "openid": "ming", "message": "嗨"}
    assert ming("/room/send_message", **fields).json["response_code"] == 1
    assert operate("unban", "ming", status=1) == ["ming is not banned"]


def test_to_unban_whoever_is_not_banned_ends_no_tokens(phones, operate):
    ming, _ = phones
    assert operate("unban", "ming", status=1) == ["ming is not banned"]
    assert ming("/usr/roomlist1", openid="ming").json["response_code"] == 1


def test_a_ban_does_not_move_the_time(post, room, operate, last_time):
    before = last_time()
    operate("ban", "ming")
    operate("unban", "ming")
    assert last_time() == before


def test_in_the_open_mode_a_ban_holds_for_the_openid(post, room, operate, assert_refused):
    operate("ban", "hong")
    fields = {"room_id": room, "openid": "hong", "message": "嗨"}
    assert_refused(post("/room/send_message", **fields), 403, "banned")
    assert_refused(post("/usr/join", room_id=99, openid="hong"), 403, "banned")
    assert post("/usr/roomlist2", openid="hong").json["response_code"] == 1
    operate("unban", "hong")
    assert post("/room/send_message", **fields).json["response_code"] == 1


def test_a_ban_closes_the_reports_of_what_that_person_said(
    post, room, message, open_room, report, operate, is_open
):
    post("/usr/complete", openid="ming", sex=1, preference=[])
    report(room)
    report(room, message_id=message, openid="gang")
    report(open_room(room_owner_id="hong"), openid="ming")
    assert operate("ban", "ming") == ["banned ming; closed 2 reports"]
    assert is_open() == [False, False, True], "what the banned one reported stays open"


# Forgetting


def test_to_forget_is_to_leave(post, room, message, operate, last_time):
    post("/usr/complete", openid="ming", sex=1, preference=[], nickname="小明")
    before = last_time()
    assert operate("forget", "ming") == ["forgot ming"]
    assert last_time() > before
    assert post("/usr/info", openid="ming").json["error"] == "user_not_found"
    (found,) = post("/search", key=room).json["rooms"]
    assert (found["room_owner_id"], found["users_id"]) == ("hong", ["hong"])
    (gone,) = post("/room/get_message", room_id=room).json["messages"]
    assert (gone["openid"], gone["message"]) == ("", "")
    after = last_time()
    assert operate("forget", "ming", status=1) == ["nothing of ming"]
    assert last_time() == after


def test_to_forget_ends_tokens_and_leaves_a_ban(client, phones, operate, assert_refused):
    ming, _ = phones
    operate("ban", "ming")
    assert operate("forget", "ming") == ["forgot ming"]
    for url in ("/usr/roomlist1", "/usr/delete"):
        assert_refused(ming(url, openid="ming"), 401, "login_required")
    answer = client.post_json("/usr/login", {"code": "code-ming"}, expect_errors=True)
    assert_refused(answer, 403, "banned")
    assert operate("unban", "ming") == ["ming is no longer banned"]


def test_to_forget_closes_the_reports_of_what_is_gone_and_no_others(
    room, message, open_room, report, operate, is_open
):
    report(room, message_id=message)
    report(open_room())
    report(open_room(room_owner_id="hong"), openid="ming")
    report(room)
    assert operate("forget", "ming") == ["forgot ming; closed 2 reports"]
    assert is_open() == [False, False, True, True], "what hong has from ming has its texts still"


# Beside a server, and without one


def test_what_was_done_without_a_service_holds_once_it_runs(operate, start, tmp_path):
    make_database(tmp_path / "roomapp.db")
    operate("ban", "ming")
    room = {"name": "一", "section": "二", "description": "", "room_owner_id": "ming"}
    server = start()
    assert server.post("/room/add", **room)["error"] == "banned"


def test_all_commands_work_beside_a_server(start, operate, tmp_path):
    server = start()
    room_id = server.open_room()
    server.post("/usr/join", room_id=room_id, openid="hong")
    message = {"room_id": room_id, "openid": "hong", "message": "加我"}
    message_id = server.post("/room/send_message", **message)["message_id"]
    fields = {"room_id": room_id, "openid": "ming", "message_id": message_id, "reason": "广告"}
    server.post("/room/report", **fields)
    assert any("加我" in line for line in operate("reports"))
    operate("remove", room_id, message_id)
    (shown,) = server.post("/room/get_message", room_id=room_id)["messages"]
    assert shown["message"] == ""
    operate("ban", "hong")
    assert server.post("/room/send_message", **message)["error"] == "banned"
    operate("unban", "hong")
    assert server.post("/room/send_message", **message)["response_code"] == 1
    operate("forget", "hong")
    assert server.post("/room/send_message", **message)["error"] == "not_member"
    operate("remove", room_id)
    assert server.post("/search", key=room_id)["rooms"] == []
    assert server.stop() == 0


def test_after_forget_beside_a_server_the_openid_is_in_no_file(start, operate, files_with):
    openid = "o6_bmjrPTlm6_2sgVt7hMZOPfL2M"
    server = start("--quiet")
    rooms = [server.open_room() for _ in range(5)]
    for number in range(20):
        room_id = rooms[number % 5]
        for sender in (openid, f"{openid[:-4]}{number % 7}"):
            server.post("/usr/join", room_id=room_id, openid=sender)
            fields = {
                "room_id": room_id,
                "openid": sender,
                "message": "嗨" * (number % 10 * 99 + 1),
            }
            assert server.post("/room/send_message", **fields)["response_code"] == 1
    assert files_with(openid)
    operate("forget", openid)
    assert files_with(openid) == []
    for room_id in rooms:
        server.post("/room/send_message", room_id=room_id, openid="ming", message="还在吗")
    assert files_with(openid) == []


def test_forget_waits_for_a_reader_in_the_way_and_finishes_what_was_interrupted(
    start, operate, files_with, other_program, monkeypatch
):
    monkeypatch.setattr("service.schema.BUSY_SECONDS", 0.2)
    openid = "o6_bmjrPTlm6_2sgVt7hMZOPfL2M"
    room = {"name": "一", "section": "二", "description": "", "room_owner_id": openid}
    start("--quiet").post("/room/add", **room)
    other_program.execute("BEGIN")
    other_program.execute("SELECT * FROM clock").fetchone()
    forgot, told = operate("forget", openid)
    assert "a reader is in the way" in told
    assert forgot == f"forgot {openid}"
    assert files_with(openid)
    other_program.execute("COMMIT")
    operate("forget", openid, status=1)
    assert files_with(openid) == []


@pytest.fixture(params=["open", "verified"])
def busy_server(request, start):
    """A server, and the headers with which ming asks it."""
    if request.param == "open":
        return start("--quiet"), {}
    variables = request.getfixturevalue("variables")
    server = start("--quiet", ROOMAPP_CHECK_TEXT="0", **variables)
    token = server.post("/usr/login", code="code-ming")["token"]
    return server, {"Authorization": f"Bearer {token}"}


@pytest.mark.slow
def test_once_the_ban_command_has_ended_nothing_more_is_stored(busy_server, operate, tmp_path):
    server, headers = busy_server
    started = threading.Barrier(9)
    done, errors = [], []

    def ask(connection, url, **fields):
        connection.request("POST", url, json.dumps(fields), headers)
        return json.loads(connection.getresponse().read())

    def act(number):
        with closing(server.connect()) as connection:
            for _ in range(1000):
                if len(errors) >= 80:
                    break
                profile = {"openid": "ming", "sex": 1, "preference": [f"{number}-{len(done)}"]}
                answer = ask(connection, "/usr/complete", **profile)
                (done if answer["response_code"] else errors).append(answer.get("error"))
                if len(done) == 20 and not started.broken:
                    started.abort()

    def stored():
        with closing(sqlite3.connect(tmp_path / "roomapp.db")) as connection:
            return connection.execute("SELECT preference FROM user").fetchall()

    actors = [threading.Thread(target=act, args=(number,)) for number in range(8)]
    for actor in actors:
        actor.start()
    with pytest.raises(threading.BrokenBarrierError):
        started.wait(30)
    operate("ban", "ming")
    before = stored()
    for actor in actors:
        actor.join()
    assert len(done) >= 20
    assert set(errors) == {"banned"}
    assert stored() == before
