"""The operator's commands, beside a running service."""

import json
import os
import re
import sqlite3
import subprocess
import threading
import unicodedata
from contextlib import closing

import pytest

from models import STEP, Ban
from processes import command, environment, make_database, signals, start_error
from service.database import change, now
from service.moderation import Report
from service.options import BESIDE_THE_SERVICE


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


@pytest.mark.parametrize("name", BESIDE_THE_SERVICE)
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
        ["dismiss"],
        ["dismiss", "0"],
        ["dismiss", "one"],
        ["show"],
        ["show", "0"],
        ["show", "a b"],
        ["bans", "ming"],
        ["clear-nickname", ""],
        ["export"],
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
    "words",
    [
        ["reports"],
        ["dismiss", 1],
        ["show", 1],
        ["remove", 1],
        ["ban", "ming"],
        ["unban", "ming"],
        ["bans"],
        ["clear-nickname", "ming"],
        ["forget", "ming"],
        ["export", "ming"],
    ],
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
        (["dismiss", 1], "no report 1 is open"),
        (["show", 1], "there is no 1 here"),
        (["show", "ming"], "there is no ming here"),
        (["ban", "ming"], "nobody here is ming"),
        (["unban", "ming"], "ming is not banned"),
        (["bans"], "nobody is banned"),
        (["clear-nickname", "ming"], "ming has no nickname"),
        (["export", "ming"], "nobody here is ming"),
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
    assert operate("remove", room) == [f"removed room {room}, 一起自习"]
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
    assert operate("remove", room) == [f"removed room {room}, 一起自习; closed 1 report"]
    assert is_open() == [False, False, False, True]


def test_the_reports_of_a_room_that_is_gone_already_can_be_closed(
    post, room, report, operate, is_open
):
    report(room)
    post("/room/delete", room_id=room, openid="ming")
    assert operate("remove", room) == ["nothing removed: room not found; closed 1 report"]
    assert is_open() == [False]
    assert operate("remove", room, status=1) == ["nothing removed: room not found"]


# Settling


def test_a_report_whose_text_may_stay_is_dismissed(post, room, message, report, operate, is_open):
    report(room)
    report(room, message_id=message)
    assert operate("dismiss", 2) == ["dismissed report 2"]
    assert is_open() == [True, False]
    assert [each["number"] for each in blocks(operate("reports"))] == ["1"]
    assert operate("dismiss", 2, status=1) == ["no report 2 is open"]
    assert len(post("/room/get_message", room_id=room).json["messages"]) == 1
    report(room, message_id=message)
    report(room, message_id=message)
    assert is_open() == [True, False, True], "what was settled can be reported again, once"


# Showing


def facts(lines):
    """What is shown, as (kind, {name: value})."""
    found = []
    for line in lines:
        if not line.startswith(" "):
            found.append((line, {}))
        elif line.startswith(" " * 8):
            name = list(found[-1][1])[-1]
            found[-1][1][name] += "\n" + line[8:]
        else:
            name, _, value = line.strip().partition(": ")
            found[-1][1][name] = value
    return found


def test_a_room_is_shown_with_its_members_and_newest_messages(post, room, operate):
    post("/usr/complete", openid="hong", sex=1, preference=[], nickname="小红")
    for number in range(21):
        post("/room/send_message", room_id=room, openid="hong", message=f"第 {number} 条")
    (kind, fields), ming, hong, *messages = facts(operate("show", room))
    assert (kind, fields["name"], fields["section"]) == ("room", "一起自习", "学习")
    assert (fields["description"], fields["room_owner_id"]) == ("图书馆", "ming")
    assert ming[0] == hong[0] == "member"
    assert ming[1]["openid"] == "ming"
    assert (hong[1]["openid"], hong[1]["nickname"]) == ("hong", "小红")
    assert {kind for kind, _ in messages} == {"message"}
    assert [each["message"] for _, each in messages] == [f"第 {n} 条" for n in range(20, 0, -1)]
    page = post("/room/get_message", room_id=room, limit=1).json["messages"]
    newest = messages[0][1]
    assert newest == {name: str(value) for name, value in page[0].items()}


def test_a_person_is_shown_with_profile_rooms_and_newest_messages(post, room, open_room, operate):
    profile = {"sex": "女", "preference": ["桌游"], "nickname": "小红"}
    post("/usr/complete", openid="hong", **profile)
    own = open_room(room_owner_id="hong", name="桌游")
    for room_id, openid, text in (
        (room, "hong", "嗨\n在吗"),
        (own, "hong", "来"),
        (room, "ming", "好"),
    ):
        post("/room/send_message", room_id=room_id, openid=openid, message=text)
    operate("ban", "hong")
    found = facts(operate("show", "hong"))
    assert [kind for kind, _ in found] == [
        "profile",
        "owned room",
        "membership",
        "message",
        "message",
        "ban",
    ]
    assert (found[0][1]["nickname"], found[0][1]["sex"]) == ("小红", "女")
    assert "桌游" in found[0][1]["preference"]
    assert (found[1][1]["room_id"], found[1][1]["name"]) == (str(own), "桌游")
    assert [each["message"] for kind, each in found if kind == "message"] == ["来", "嗨\n在吗"]
    assert [each["room_id"] for kind, each in found if kind == "message"] == [str(own), str(room)]


@pytest.mark.parametrize("text", TEXTS[:-1], ids=len)
def test_what_is_shown_is_no_wider_than_80_columns(post, room, operate, text):
    post("/room/send_message", room_id=room, openid="ming", message=text)
    for target in (room, "ming"):
        assert max(map(shown_width, operate("show", target))) <= 80


def test_a_text_cannot_look_like_another_fact(post, room, operate):
    text = "嗨\nopenid: hong\nmessage\n    openid: hong\u202e\x1b".rstrip("\x1b")
    post("/room/send_message", room_id=room, openid="ming", message=text)
    lines = operate("show", room)
    assert lines.count("message") == 1
    assert not any("\u202e" in line for line in lines)
    assert sum(line.startswith("    openid: hong") for line in lines) == 1, "as a member alone"


# Nicknames


def test_a_nickname_is_cleared_at_once(post, room, operate, last_time):
    post("/usr/complete", openid="ming", sex="男", preference=["桌游"], nickname="加微信")
    before = last_time()
    assert operate("clear-nickname", "ming") == ["cleared the nickname of ming"]
    info = post("/usr/info", openid="ming").json
    assert (info["nickname"], info["sex"], info["preference"]) == ("", "男", ["桌游"])
    assert post("/search", key=room).json["nicknames"] == {}
    assert last_time() > before
    assert operate("clear-nickname", "ming", status=1) == ["ming has no nickname"]


def test_clearing_a_nickname_closes_the_reports_of_it_and_no_others(post, room, operate, is_open):
    post("/usr/complete", openid="ming", sex=1, preference=[], nickname="可疑")
    profile = {"room_id": 0, "message_id": 0, "reporter": ""}
    store(**profile, text="可疑")
    store(**profile, text="另一个")
    store(**profile, text="可疑", openid="hong")
    store(text="可疑", message_id=9)
    said = operate("clear-nickname", "ming")
    assert said == ["cleared the nickname of ming; closed 1 report"]
    assert is_open() == [False, True, True, True]


# A copy for the person


def test_a_person_gets_all_that_is_kept_of_them_and_nothing_of_others(
    phones, send, operate, client
):
    ming, hong = phones
    hong("/usr/complete", openid="hong", sex=2, preference=["桌游"], nickname="小红🎮")
    hong("/room/add", name="二", section="三", description="四\n五", room_owner_id="hong")
    of_hong = hong("/room/send_message", room_id=1, openid="hong", message="我的留言").json
    of_ming = ming("/room/send_message", room_id=1, openid="ming", message="别人的留言").json
    target = {"room_id": 1, "openid": "hong", "message_id": of_ming["message_id"]}
    hong("/room/report", **target, reason="广告")
    target = {"room_id": 1, "openid": "ming", "message_id": of_hong["message_id"]}
    ming("/room/report", **target, reason="举报小红")
    operate("ban", "hong")
    operate("unban", "hong")
    hong = json.loads("\n".join(operate("export", "hong")))
    assert hong.pop("openid") == "hong"
    assert hong["profile"] == [{"sex": 2, "preference": ["桌游"], "nickname": "小红🎮"}]
    (room,) = hong["owned room"]
    texts = {"name": "二", "section": "三", "description": "四\n五"}
    assert room.items() >= {"room_id": 2, "capacity": 500, **texts}.items()
    assert [each["room"] for each in hong["membership"]] == [2], "the ban took it out of the other"
    (message,) = hong["message"]
    assert message == {
        **{name: of_hong[name] for name in ("message_id", "time")},
        "room_id": 1,
        "message": "我的留言",
    }
    (report,) = hong["own report"]
    assert (report["room_id"], report["message_id"]) == (1, of_ming["message_id"])
    assert report["reason"] == "广告"
    assert (hong["ban"], hong["login"]) == ([], [])
    for others in ("ming", "别人的留言", "举报小红"):
        assert others not in json.dumps(hong, ensure_ascii=False)


def test_a_copy_tells_of_a_ban_and_until_when_one_is_logged_in(phones, operate):
    operate("ban", "hong")
    hong = json.loads("\n".join(operate("export", "hong")))
    (ban,), (login,) = hong["ban"], hong["login"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]{12}Z", ban["since"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]{12}Z", login["expires"])
    assert ban.keys() == {"since"}
    assert login.keys() == {"expires"}, "not the digest"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "gbk", "utf-8", "utf-16"])
def test_a_copy_is_json_in_utf_8_whatever_the_console_is(post, room, database_file, encoding):
    post("/usr/complete", openid="ming", sex=1, preference=["é"], nickname="明\u202e🎮")
    words = command("export", "ming", "--database", database_file)
    done = subprocess.run(words, env=environment(PYTHONIOENCODING=encoding), capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    (profile,) = json.loads(done.stdout)["profile"]
    assert (profile["nickname"], profile["preference"]) == ("明\u202e🎮", ["é"])


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
    post("/usr/join", room_id=room, openid="hong")
    assert post("/room/send_message", **fields).json["response_code"] == 1


def test_a_ban_closes_no_reports(room, message, report, operate, is_open):
    report(room)
    report(room, message_id=message, openid="gang")
    assert operate("ban", "ming") == ["banned ming"]
    assert is_open() == [True, True], "everybody still reads the texts"


KNOWN_BY = {
    "profile": lambda post: post("/usr/complete", openid="li", sex=1, preference=[]),
    "member": lambda post: post("/usr/join", room_id=1, openid="li"),
    "report": lambda post: post("/room/report", room_id=1, openid="li", reason="广告"),
    "reported": lambda post: store(openid="li"),
}


@pytest.mark.parametrize("known_by", KNOWN_BY.values(), ids=KNOWN_BY)
def test_whoever_left_something_here_can_be_banned(post, room, operate, known_by):
    assert operate("ban", "li", status=1) == ["nobody here is li"]
    known_by(post)
    assert operate("ban", "li") == ["banned li"]


def test_whoever_said_something_or_is_logged_in_can_be_banned(phones, log_in, operate):
    _, hong = phones
    hong("/room/send_message", room_id=1, openid="hong", message="嗨")
    hong("/room/kick", room_id=1, openid="hong")
    log_in("gang")
    for openid in ("hong", "gang"):
        assert operate("ban", openid) == [f"banned {openid}"]


def test_half_an_openid_is_not_banned(phones, dump, operate):
    before = dump()
    assert operate("ban", "hon", status=1) == ["nobody here is hon"]
    assert dump() == before


def test_who_is_banned_leaves_the_rooms_of_others_and_keeps_their_own(
    post, open_room, operate, find_room, last_time
):
    rooms = [open_room() for _ in range(STEP + 1)]
    own = open_room(room_owner_id="hong")
    for room_id in rooms:
        post("/usr/join", room_id=room_id, openid="hong")
    before = last_time()
    operate("ban", "hong")
    assert post("/usr/roomlist2", openid="hong").json["rooms"] == []
    assert find_room(rooms[0])["users_id"] == ["ming"]
    assert find_room(own)["users_id"] == ["hong"]
    assert last_time() > before


def test_who_is_banned_inherits_no_room(post, room, operate, find_room):
    for openid in ("gang", "li"):
        post("/usr/join", room_id=room, openid=openid)
    operate("ban", "hong")
    post("/usr/delete", openid="ming")
    assert find_room(room)["users_id"] == ["gang", "li"]
    with change():  # as it is in the middle of a ban
        Ban.create(openid="li", since=0)
    post("/usr/delete", openid="gang")
    assert find_room(room) is None


def test_who_is_banned_is_listed_with_since_when(room, report, operate):
    with change():
        Ban.create(openid="gang", since=0)
    operate("ban", "ming")
    earlier, ming = operate("bans")
    assert earlier.split() == ["?", "gang"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4} ming", ming)
    operate("ban", "ming")
    assert operate("bans") == [earlier, ming], "twice is once"
    operate("unban", "gang")
    operate("unban", "ming")
    assert operate("bans", status=1) == ["nobody is banned"]


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


def test_to_forget_closes_the_reports_of_all_that_went_with_a_room(
    post, open_room, report, operate, is_open
):
    with_hong, alone, deleted = open_room(), open_room(), open_room()
    post("/usr/join", room_id=with_hong, openid="gang")
    for room_id in (with_hong, alone, deleted):
        post("/usr/join", room_id=room_id, openid="hong")
        fields = {"room_id": room_id, "openid": "hong", "message": "嗨"}
        message_id = post("/room/send_message", **fields).json["message_id"]
        report(room_id, openid="li", message_id=message_id)
        post("/room/kick", room_id=room_id, openid="hong")
    post("/room/delete", room_id=deleted, openid="ming")
    assert operate("forget", "ming") == ["forgot ming; closed 1 report"]
    assert is_open() == [True, False, True], "what went earlier, the operator has not seen yet"


# Printing


CONSOLES = ["cp1252", "gbk", "ascii"]


@pytest.mark.slow
@pytest.mark.parametrize("encoding", CONSOLES)
def test_no_command_ends_in_a_traceback_for_what_it_prints(
    post, room, report, database_file, encoding
):
    console = environment(PYTHONIOENCODING=encoding)
    name = "é明🎮\u0301"
    post("/room/complete", room_id=room, openid="ming", name=name)
    post("/usr/complete", openid="明🎮", sex=1, preference=[name], nickname=name)
    report(room, openid="明🎮", reason=name)
    for words in (
        ["reports"],
        ["show", room],
        ["show", "明🎮"],
        ["ban", "明🎮"],
        ["bans"],
        ["export", "明🎮"],
        ["remove", room],
        ["--help"],
    ):
        words = command(*words, "--database", database_file)
        done = subprocess.run(words, env=console, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b""), words


@signals
@pytest.mark.parametrize(
    "words", [["ban", "ming"], ["export", "ming"], ["show", "1"], ["bans"], ["reports"], ["--help"]]
)
def test_a_pipe_that_is_closed_ends_no_command_in_a_traceback(room, database_file, words):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command(*words, "--database", database_file),
        env=environment(PYTHONUNBUFFERED=""),  # so that it is written at the very end
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


# Beside a server, and without one


def test_what_was_done_without_a_service_holds_once_it_runs(operate, start, tmp_path):
    room = {"name": "一", "section": "二", "description": "", "room_owner_id": "ming"}
    server = start()
    server.post("/room/add", **room)
    server.stop()
    operate("ban", "ming")
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
    assert any("hong" in line for line in operate("bans"))
    operate("unban", "hong")
    server.post("/usr/join", room_id=room_id, openid="hong")
    assert server.post("/room/send_message", **message)["response_code"] == 1
    assert any("加我" in line for line in operate("show", room_id))
    assert any("加我" in line for line in operate("show", "hong"))
    assert any("加我" in line for line in operate("export", "hong"))
    server.post("/room/report", room_id=room_id, openid="hong", reason="广告")
    assert operate("dismiss", 2) == ["dismissed report 2"]
    server.post("/usr/complete", openid="hong", sex=1, preference=[], nickname="小红")
    operate("clear-nickname", "hong")
    assert server.post("/usr/info", openid="hong")["nickname"] == ""
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
