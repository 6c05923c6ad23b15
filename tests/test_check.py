"""Texts are checked: what WeChat says of them, and how much one person may do."""

import json
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from statistics import median
from time import perf_counter
from urllib.request import Request, urlopen

import pytest
from peewee import OperationalError

import roomapp
from document import RATES
from models import Ban, Room
from processes import read_answer
from service import limits, wechat
from service.database import Refused, change
from service.endpoint import Endpoint
from service.fields import FIELDS
from service.moderation import Report
from wechat_server import CHECK, SECRET, TOKEN, reply, stand_in

PROFILE, COMMENT, ROOM = 1, 2, 3

COMPLETE = {"openid": "ming", "sex": 1, "preference": []}
ADD = {"room_owner_id": "ming", "name": "开黑", "section": "LOL", "description": "今晚八点"}
EDIT = {"room_id": 1, "openid": "ming"}
SEND = {"room_id": 1, "openid": "ming", "message": "有人吗"}

# What changes a text that others see: url, fields, scene, the texts, the first one's field.
CHECKED = [
    ("/usr/complete", {**COMPLETE, "nickname": "小明"}, PROFILE, ["小明"], "nickname"),
    ("/usr/complete", {**COMPLETE, "sex": "男孩"}, PROFILE, ["男孩"], "sex"),
    (
        "/usr/complete",
        {**COMPLETE, "preference": ["篮球", "桌游"]},
        PROFILE,
        ["篮球", "桌游"],
        "preference",
    ),
    (
        "/usr/complete",
        {**COMPLETE, "nickname": "小明", "sex": "男孩", "preference": ["篮球"]},
        PROFILE,
        ["小明", "男孩", "篮球"],
        "nickname",
    ),
    ("/room/add", ADD, ROOM, ["开黑", "LOL", "今晚八点"], "name"),
    ("/room/add", {**ADD, "section": 3, "description": ""}, ROOM, ["开黑", "3"], "name"),
    ("/room/complete", {**EDIT, "name": "狼人杀"}, ROOM, ["狼人杀", "学习"], "name"),
    ("/room/complete", {**EDIT, "section": "桌游"}, ROOM, ["桌游", "自习"], "section"),
    (
        "/room/complete",
        {**EDIT, "description": "缺两人"},
        ROOM,
        ["缺两人", "自习", "学习"],
        "description",
    ),
    (
        "/room/complete",
        {**EDIT, "section": "桌游", "description": "缺两人", "capacity": 9},
        ROOM,
        ["桌游", "缺两人", "自习"],
        "section",
    ),
    ("/room/send_message", SEND, COMMENT, ["有人吗"], "message"),
]
each_text = pytest.mark.parametrize(("url", "fields", "scene", "texts", "field"), CHECKED)
# One of each kind.
SOME = [(url, fields) for url, fields, *_ in (CHECKED[3], CHECKED[4], CHECKED[6], CHECKED[-1])]
each_kind = pytest.mark.parametrize(("url", "fields"), SOME, ids=[url for url, _ in SOME])


def say(**answer):
    """What answers this as JSON."""
    return reply(json.dumps(answer, ensure_ascii=False).encode())


def suggest(suggest):
    return say(errcode=0, errmsg="ok", result={"suggest": suggest, "label": 100})


@pytest.fixture
def ming(login, send, wechat_server):
    """The headers of ming, who opened room 1; WeChat has given a token, and is asked anew."""
    ming = login("ming")
    room = {"name": "自习", "section": "学习", "description": "", "room_owner_id": "ming"}
    assert send("/room/add", ming, **room).json["room_id"] == 1
    wechat_server.checks.clear()
    wechat_server.queries.clear()
    return ming


@pytest.fixture
def write(ming, send):
    """Send a message of ming."""

    def write(message, **fields):
        return send("/room/send_message", ming, **{**SEND, "message": message, **fields})

    return write


@pytest.fixture
def clock(ming, monkeypatch):
    """A clock that stands still, by which nobody has used up anything yet; [seconds]."""
    clock = [100.0]
    monkeypatch.setattr(limits, "monotonic", lambda: clock[0])
    for limit in RATES:
        monkeypatch.setattr(limit, "used_until", OrderedDict())
    return clock


# What is asked


@each_text
def test_a_text_is_checked_with_its_scene_and_its_author_before_it_is_stored(
    send, ming, wechat_server, dump, url, fields, scene, texts, field
):
    before, seen = dump(), []

    def look_and_pass(out):
        seen.append(dump())
        suggest("pass")(out)

    wechat_server.replies[CHECK] = look_and_pass
    assert send(url, ming, **fields).json["response_code"] == 1
    assert seen == [before]
    assert dump() != before
    [asked] = wechat_server.checks
    assert (asked["openid"], asked["scene"]) == ("ming", scene)
    assert asked["content"].split() == texts


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        ("/usr/complete", {**COMPLETE, "sex": 0}),
        ("/usr/complete", {**COMPLETE, "sex": 1}),
        ("/usr/complete", {**COMPLETE, "sex": 2, "nickname": None}),
        ("/room/complete", {**EDIT, "capacity": 9}),
        ("/room/complete", {**EDIT, "description": ""}),
        ("/room/complete", {**EDIT, "description": "\u3000\n"}),
        ("/room/complete", EDIT),
        ("/usr/join", {"room_id": 1, "openid": "ming"}),
        ("/room/report", {"room_id": 1, "openid": "ming", "reason": "违规"}),
        ("/search", {"key": "违规"}),
        ("/room/section", {"section": "违规"}),
    ],
)
def test_where_there_are_no_words_for_others_nobody_is_asked(
    send, ming, wechat_server, url, fields
):
    assert send(url, ming, **fields).json["response_code"] == 1
    assert wechat_server.queries == []


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        (
            "/usr/complete",
            {
                "openid": "ming",
                "nickname": "明" * 20,
                "sex": "男" * 16,
                "preference": ["篮" * 30] * 50,
            },
        ),
        (
            "/room/add",
            {**ADD, "name": "开" * 60, "section": "黑" * 30, "description": "今\n" * 500},
        ),
        ("/room/send_message", {**SEND, "message": "🎮" * 2000}),
        (
            "/room/send_message",
            {**SEND, "message": 'a "\\u4e00" 中\t文\\\\n\n\u2028\U0001f469\u200d🎓'},
        ),
    ],
    ids=["profile", "room", "message", "escapes"],
)
def test_whatever_a_text_may_be_wechat_can_read_it(send, ming, wechat_server, url, fields):
    assert send(url, ming, **fields).json["response_code"] == 1
    [asked] = wechat_server.checks
    if "message" in fields:
        assert asked["content"] == fields["message"].replace("\u200d", "")


@pytest.mark.parametrize("hidden", ["\u200b", "\u2060", "\ufeff", "\u00ad", "\ufe0f", "\U000e0041"])
def test_wechat_gets_what_people_see(write, send, ming, wechat_server, assert_refused, hidden):
    assert_refused(write(f"来点违{hidden}规的"), 400, "risky_content", "message")
    text = f"加{hidden}微信"
    message_id = write(text).json["message_id"]
    assert [asked["content"] for asked in wechat_server.checks] == ["来点违规的", "加微信"]
    page = send("/room/get_message", ming, room_id=1).json
    assert [each["message"] for each in page["messages"]] == [text], "it is kept as it was sent"
    wechat_server.replies[CHECK] = suggest("review")
    write(f"再加{hidden}微信")
    assert [report.text for report in Report.select()] == [f"再加{hidden}微信"]
    assert message_id


def test_a_text_that_is_sent_again_is_not_checked_again(write, wechat_server):
    assert write("嗨").json["response_code"] == 1
    assert write("嗨").json["response_code"] == 1
    assert write("违规").json["error"] == "risky_content"
    assert write("违规").json["error"] == "risky_content"
    assert [asked["content"] for asked in wechat_server.checks] == ["嗨", "违规"]


def test_each_author_and_each_scene_is_checked(write, send, login, wechat_server):
    write("嗨")
    hong = login("hong")
    send("/usr/join", hong, room_id=1, openid="hong")
    send("/room/send_message", hong, room_id=1, openid="hong", message="嗨")
    send("/usr/complete", hong, openid="hong", sex=1, preference=["嗨"])
    asked = [(asked["openid"], asked["scene"]) for asked in wechat_server.checks]
    assert asked == [("ming", COMMENT), ("hong", COMMENT), ("hong", PROFILE)]


@each_kind
def test_an_operator_can_do_without_the_check(
    send, ming, configure, wechat_server, dump, url, fields
):
    configure(ROOMAPP_CHECK_TEXT="0")
    before = dump()
    assert send(url, ming, **fields).json["response_code"] == 1
    assert dump() != before
    assert wechat_server.queries == []


def test_in_the_open_mode_nobody_is_asked(post, configure, wechat_server):
    configure(ROOMAPP_WECHAT_API=wechat_server.api, ROOMAPP_CHECK_TEXT="1")
    texts = {"room_owner_id": "ming", "name": "违规", "section": "违规", "description": "违规"}
    assert post("/room/add", **texts).json["response_code"] == 1
    for url, fields in SOME:
        assert post(url, **fields).json["response_code"] == 1
    assert wechat_server.queries == []


# What WeChat suggests


@each_text
def test_what_is_risky_is_refused_and_not_stored(
    send, ming, wechat_server, dump, assert_refused, url, fields, scene, texts, field
):
    before = dump()
    wechat_server.replies[CHECK] = suggest("risky")
    assert_refused(send(url, ming, **fields), 400, "risky_content", field)
    assert dump() == before


@each_text
def test_what_is_to_be_reviewed_is_stored_and_reported_with_a_copy(
    send, ming, wechat_server, dump, url, fields, scene, texts, field
):
    wechat_server.replies[CHECK] = suggest("review")
    answer = send(url, ming, **fields).json
    assert answer["response_code"] == 1
    [report] = Report.select()
    assert (report.reporter, report.openid, report.is_open) == ("", "ming", True)
    assert report.text.split() == texts
    assert report.room_id == (0 if scene == PROFILE else answer.get("room_id", 1))
    assert report.message_id == answer.get("message_id", 0)
    wechat_server.replies[CHECK] = suggest("pass")
    send("/room/send_message", ming, **{**SEND, "message": "没问题"})
    assert Report.select().count() == 1


def test_what_is_reviewed_is_reported_for_each_place_where_it_stands(write, wechat_server):
    ids = [write("可疑").json["message_id"] for _ in range(2)]
    assert [report.message_id for report in Report.select()] == ids
    assert len(wechat_server.checks) == 1


@pytest.mark.parametrize(
    ("url", "fields", "field"),
    [
        ("/room/add", {**ADD, "name": "违规"}, "name"),
        ("/room/add", {**ADD, "section": "违规"}, "section"),
        ("/room/add", {**ADD, "description": "来点违规的"}, "description"),
        ("/room/add", {**ADD, "section": "违规", "description": "违规"}, "section"),
        ("/room/complete", {**EDIT, "name": "桌游", "description": "违规"}, "description"),
        ("/usr/complete", {**COMPLETE, "preference": ["篮球", "违规"]}, "preference"),
        ("/usr/complete", {**COMPLETE, "nickname": "", "sex": "违规"}, "sex"),
        (
            "/usr/complete",
            {**COMPLETE, "nickname": "小明", "sex": "男孩", "preference": ["违规"]},
            "preference",
        ),
    ],
)
def test_of_several_texts_the_one_at_fault_is_named(
    send, ming, wechat_server, dump, assert_refused, url, fields, field
):
    before = dump()
    assert_refused(send(url, ming, **fields), 400, "risky_content", field)
    assert dump() == before
    together, *by_themselves = [asked["content"] for asked in wechat_server.checks]
    assert "违规" in together
    assert len(by_themselves) <= 3


def test_where_texts_are_risky_only_together_the_first_is_named(
    send, ming, wechat_server, assert_refused
):
    answer = send("/room/add", ming, **{**ADD, "name": "违", "section": "规"})
    assert answer.json["response_code"] == 1

    def judge_together(out):
        content = wechat_server.checks[-1]["content"]
        suggest("risky" if content.split() == ["微", "信", "号"] else "pass")(out)

    wechat_server.replies[CHECK] = judge_together
    answer = send("/room/add", ming, **{**ADD, "name": "微", "section": "信", "description": "号"})
    assert_refused(answer, 400, "risky_content", "name")


def test_where_wechat_no_longer_answers_the_refusal_stands(
    send, ming, wechat_server, assert_refused
):
    def judge_once(out):
        wechat_server.replies[CHECK] = say(errcode=-1)
        suggest("risky")(out)

    wechat_server.replies[CHECK] = judge_once
    answer = send("/room/add", ming, **{**ADD, "description": "违规"})
    assert_refused(answer, 400, "risky_content", "name")


def test_texts_that_pass_together_are_asked_once(send, ming, wechat_server):
    assert send("/room/add", ming, **ADD).json["response_code"] == 1
    assert len(wechat_server.checks) == 1


def test_the_errcode_of_the_first_version_is_risky_too(write, wechat_server, dump, assert_refused):
    before = dump()
    wechat_server.replies[CHECK] = say(errcode=87014, errmsg="risky content")
    assert_refused(write("嗨"), 400, "risky_content", "message")
    assert dump() == before


def test_what_is_reviewed_is_reported_once_as_long_as_that_is_open(send, ming, wechat_server):
    wechat_server.replies[CHECK] = suggest("review")
    profile = {**COMPLETE, "nickname": "可疑"}
    for reports in (1, 1):
        assert send("/usr/complete", ming, **profile).json["response_code"] == 1
        assert Report.select().count() == reports
    assert (
        send("/usr/complete", ming, **{**profile, "nickname": "更可疑"}).json["response_code"] == 1
    )
    assert Report.select().count() == 2
    with change():
        Report.close(Report.openid == "ming")
    assert send("/usr/complete", ming, **profile).json["response_code"] == 1
    assert Report.select().where(Report.is_open).count() == 1


# What changes while WeChat is asked


@pytest.mark.parametrize(("suggestion", "name"), [("pass", "狼人杀"), ("risky", "自习")])
def test_a_room_that_was_edited_while_wechat_was_asked_is_checked_anew(
    send, ming, wechat_server, suggestion, name
):
    def edit_and_pass(out):
        with change():
            Room.by_id(1).edit("ming", description="今晚")
        wechat_server.replies[CHECK] = suggest(suggestion)
        suggest("pass")(out)

    wechat_server.replies[CHECK] = edit_and_pass
    answer = send("/room/complete", ming, **EDIT, name="狼人杀")
    assert answer.json.get("error") == (None if suggestion == "pass" else "risky_content")
    asked = [check["content"].split() for check in wechat_server.checks]
    assert asked[:2] == [["狼人杀", "学习"], ["狼人杀", "学习", "今晚"]]
    texts = Room.texts(1)
    assert (texts["name"], texts["description"]) == (name, "今晚")


def test_what_is_sent_twice_while_wechat_is_asked_is_done_once(send, ming, write, wechat_server):
    wechat_server.may_answer.clear()
    with ThreadPoolExecutor(2) as phones:
        sent = [phones.submit(write, "嗨", request_id="a") for _ in range(2)]
        wechat_server.wait_until_asked(CHECK, 2)
        wechat_server.may_answer.set()
    first, again = (each.result().json for each in sent)
    assert first["response_code"] == 1
    assert again == first
    assert len(send("/room/get_message", ming, room_id=1).json["messages"]) == 1


def test_who_is_banned_while_wechat_is_asked_stores_nothing(
    write, wechat_server, dump, assert_refused
):
    rows = []

    def ban_and_pass(out):
        with change():
            Ban.create(openid="ming")
        rows.extend(dump())
        suggest("pass")(out)

    wechat_server.replies[CHECK] = ban_and_pass
    assert_refused(write("嗨"), 403, "banned")
    assert dump() == rows


# When WeChat does not say


NO_ANSWERS = {
    "errcode 0 alone": b'{"errcode": 0, "errmsg": "ok"}',
    "no suggestion": b'{"errcode": 0, "result": {"label": 100}}',
    "another suggestion": b'{"errcode": 0, "result": {"suggest": "PASS"}}',
    "no text": b'{"errcode": 0, "result": {"suggest": ["pass"]}}',
    "a null": b'{"errcode": 0, "result": {"suggest": null}}',
    "a list": b'{"errcode": 0, "result": ["pass"]}',
    "a word": b'{"errcode": 0, "result": "pass"}',
    "too many today": b'{"errcode": 45009, "errmsg": "reach max api daily quota limit"}',
    "too many this minute": b'{"errcode": 44991, "errmsg": "reach max api minute frequence"}',
    "slower": b'{"errcode": 45011, "errmsg": "api minute-quota reach limit"}',
    "busy": b'{"errcode": -1, "errmsg": "system error"}',
    "an error beside it": b'{"errcode": -1, "result": {"suggest": "pass"}}',
    "an error in words": b'{"errcode": "-1", "result": {"suggest": "pass"}}',
    "another openid": b'{"errcode": 40003, "errmsg": "invalid openid"}',
    "half": b'{"errcode": 0, "result": {"sugg',
    "no object": b'"pass"',
    "html": b"<html>502 Bad Gateway</html>",
    "nothing": b"",
    "deep": b"[" * 60_000,
    "long": b'{"result": {"suggest": "pass"}, "x": "' + b"x" * 70_000 + b'"}',
    "GBK": '{"errcode": 0, "errmsg": "好", "result": {"suggest": "pass"}}'.encode("gbk"),
    "no UTF-8": b'{"errcode": 0, "errmsg": "\xff", "result": {"suggest": "pass"}}',
}


@pytest.mark.parametrize("content", NO_ANSWERS.values(), ids=NO_ANSWERS.keys())
def test_what_is_no_suggestion_lets_nothing_through(
    write, wechat_server, dump, assert_refused, content
):
    before = dump()
    wechat_server.replies[CHECK] = reply(content)
    assert_refused(write("嗨"), 503, "wechat_unavailable")
    assert dump() == before
    assert len(wechat_server.checks) == 1
    wechat_server.replies.clear()
    assert write("嗨").json["response_code"] == 1, "it is asked again"


@pytest.mark.parametrize(
    "answer",
    [
        reply(b'{"errcode": 0, "result": {"suggest": "pass"}}', "502 Bad Gateway"),
        reply(b"", "302 Found\r\nLocation: /elsewhere"),
        lambda out: out.write(b"\x16\x03\x01"),
        lambda out: None,
    ],
    ids=["502", "302", "no HTTP", "silent"],
)
def test_what_is_no_answer_lets_nothing_through(write, wechat_server, dump, assert_refused, answer):
    before = dump()
    wechat_server.replies[CHECK] = answer
    assert_refused(write("嗨"), 503, "wechat_unavailable")
    assert dump() == before


@each_kind
def test_no_text_is_stored_while_wechat_is_silent(
    send, ming, wechat_server, dump, short_timeout, assert_refused, url, fields
):
    before = dump()
    wechat_server.may_answer.clear()
    assert_refused(send(url, ming, **fields), 503, "wechat_unavailable")
    assert dump() == before
    assert send("/search", ming, key="自习").json["response_code"] == 1
    capacity = send("/room/complete", ming, room_id=1, openid="ming", capacity=9)
    assert capacity.json["response_code"] == 1, "what needs no check is done"


def test_while_too_many_wait_for_wechat_others_are_refused_at_once(
    write, wechat_server, monkeypatch, dump, assert_refused
):
    monkeypatch.setattr(wechat, "waiting", threading.BoundedSemaphore(1))
    wechat_server.may_answer.clear()
    with ThreadPoolExecutor(1) as phone:
        first = phone.submit(write, "一")
        wechat_server.wait_until_asked(CHECK, 1)
        before = dump()
        assert_refused(write("二"), 503, "wechat_unavailable")
        assert dump() == before
        assert not first.done()
        wechat_server.may_answer.set()
        assert first.result().json["response_code"] == 1
    assert write("二").json["response_code"] == 1


def test_whom_wechat_has_not_seen_lately_is_to_log_in_again(
    write, wechat_server, dump, assert_refused
):
    before = dump()
    wechat_server.replies[CHECK] = say(errcode=61010, errmsg="code is expired")
    answer = write("嗨")
    assert_refused(answer, 401, "login_required")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json["detail"] != roomapp.ERRORS["login_required"][1], "it says why"
    assert dump() == before
    assert wechat_server.times_asked(TOKEN) == 0


# The access token


def test_the_access_token_is_asked_for_once_and_kept(write, wechat_server):
    for number in range(5):
        assert write(f"第 {number} 条").json["response_code"] == 1
    assert wechat_server.queries == [(CHECK, {"access_token": "ACCESS_0"})] * 5


def test_the_access_token_is_renewed_before_it_expires(write, wechat_server, monkeypatch):
    now = wechat.monotonic()
    monkeypatch.setattr(wechat, "monotonic", lambda: now + 7200 - 300)
    write("WeChat has no new one yet")
    assert wechat_server.times_asked(TOKEN) == 0
    wechat_server.expire_tokens(42001)
    monkeypatch.setattr(wechat, "monotonic", lambda: now + 7200 - 60)
    write("now it has")
    write("and it is kept")
    assert [path for path, _ in wechat_server.queries] == [CHECK, TOKEN, CHECK, CHECK]


def test_all_that_one_request_asks_has_eight_seconds(
    write, wechat_server, monkeypatch, dump, assert_refused
):
    before = dump()
    clock = [wechat.monotonic() + 7200]
    monkeypatch.setattr(wechat, "monotonic", lambda: clock[0])

    def take_eight_seconds(out):
        clock[0] += 8
        say(access_token="ACCESS_0", expires_in=7200)(out)

    wechat_server.replies[TOKEN] = take_eight_seconds
    assert_refused(write("嗨"), 503, "wechat_unavailable")
    assert dump() == before
    assert write("嗨").json["response_code"] == 1
    assert wechat_server.times_asked(TOKEN) == 1, "the token that came late is kept"


@pytest.mark.parametrize("errcode", [40001, 40014, 42001])
def test_a_token_that_is_called_invalid_is_renewed_once(write, wechat_server, errcode):
    wechat_server.expire_tokens(errcode)
    assert write("嗨").json["response_code"] == 1
    assert write("你好").json["response_code"] == 1
    assert [path for path, _ in wechat_server.queries] == [CHECK, TOKEN, CHECK, CHECK]
    assert [query.get("access_token") for _, query in wechat_server.queries] == [
        "ACCESS_0",
        None,
        "ACCESS_1",
        "ACCESS_1",
    ]


def test_where_every_token_is_called_invalid_it_ends(write, wechat_server, dump, assert_refused):
    before = dump()
    wechat_server.replies[CHECK] = say(errcode=40001, errmsg="invalid credential")
    assert_refused(write("嗨"), 503, "wechat_unavailable")
    assert [path for path, _ in wechat_server.queries] == [CHECK, TOKEN, CHECK]
    assert dump() == before
    wechat_server.replies.clear()
    assert write("嗨").json["response_code"] == 1


@pytest.mark.parametrize(
    "content",
    [
        b'{"errcode": 40164, "errmsg": "invalid ip 192.0.2.1, not in whitelist"}',
        b'{"errcode": 40125, "errmsg": "invalid appsecret"}',
        b'{"errcode": 45009, "errmsg": "reach max api daily quota limit"}',
        b'{"errcode": -1, "errmsg": "system error"}',
        b'{"errcode": 0, "errmsg": "ok"}',
        b'{"access_token": "", "expires_in": 7200}',
        b'{"access_token": 1, "expires_in": 7200}',
        b'{"access_token": "x"}',
        b'{"access_token": "x", "expires_in": "7200"}',
        b'{"access_token": "x", "expires_in": true}',
        b"[]",
        b"\xff",
        b"",
    ],
)
def test_without_an_access_token_nothing_is_let_through(
    write, wechat_server, dump, assert_refused, content
):
    before = dump()
    wechat_server.expire_tokens(42001)
    wechat_server.replies[TOKEN] = reply(content)
    assert_refused(write("嗨"), 503, "wechat_unavailable")
    assert dump() == before
    assert wechat_server.times_asked(CHECK) == wechat_server.times_asked(TOKEN) == 1
    wechat_server.replies.clear()
    assert write("嗨").json["response_code"] == 1


@pytest.mark.parametrize(
    ("errcode", "advice"),
    [
        (40164, "IP 白名单"),
        (40164, "invalid ip 192.0.2.1"),
        (40125, "ROOMAPP_WECHAT_SECRET"),
        (40013, "ROOMAPP_WECHAT_APPID"),
        (45009, "today"),
        (45011, "this minute"),
    ],
)
def test_the_log_says_what_the_operator_has_to_do(write, wechat_server, caplog, errcode, advice):
    wechat_server.expire_tokens(42001)
    wechat_server.replies[TOKEN] = say(errcode=errcode, errmsg="invalid ip 192.0.2.1")
    write("嗨")
    [record] = caplog.records
    assert str(errcode) in record.getMessage()
    assert advice in record.getMessage()


def write_at_once(send, headers, people=20, each=1):
    """Let people threads write different messages of ming; all answers."""
    barrier = threading.Barrier(people)

    def write(number):
        barrier.wait(30)
        texts = [f"第 {number} 人第 {time} 条" for time in range(each)]
        return [
            send("/room/send_message", headers, **{**SEND, "message": text}).json for text in texts
        ]

    with ThreadPoolExecutor(people) as phones:
        return [answer for answers in phones.map(write, range(people)) for answer in answers]


def test_many_who_write_at_once_share_one_access_token(send, login, ming, wechat_server):
    wechat.account.cache_clear()  # as after a start
    answers = write_at_once(send, ming)
    assert all(answer["response_code"] == 1 for answer in answers), answers
    assert wechat_server.times_asked(TOKEN) == 1
    assert wechat_server.times_asked(CHECK) == 20


def test_who_hears_late_that_a_token_is_invalid_takes_the_next(write, wechat_server):
    heard, may_hear = threading.Event(), threading.Event()

    def answer_late(out):
        heard.set()
        may_hear.wait(30)
        say(errcode=42001, errmsg="access_token expired")(out)

    wechat_server.expire_tokens(42001)
    wechat_server.replies[CHECK] = answer_late
    with ThreadPoolExecutor(1) as phone:
        late = phone.submit(write, "一")
        heard.wait(30)
        wechat_server.replies.clear()
        assert write("二").json["response_code"] == 1
        may_hear.set()
        assert late.result().json["response_code"] == 1
    assert wechat_server.times_asked(TOKEN) == 1
    assert wechat_server.times_asked(CHECK) == 4


def test_no_secret_is_in_an_answer_the_log_or_the_files(start, variables, wechat_server, tmp_path):
    server = start(**variables)
    token = server.post("/usr/login", code="code-ming")["token"]
    answers = []

    def call(url, **fields):
        with closing(server.connect()) as connection:
            headers = {"Authorization": f"Bearer {token}"}
            connection.request("POST", url, json.dumps(fields), headers)
            answers.append(connection.getresponse().read().decode())

    call("/room/add", **ADD)
    replies = [
        {CHECK: say(errcode=40001, errmsg=f"invalid credential ACCESS_0 {SECRET}")},
        {TOKEN: say(errcode=40001, errmsg=SECRET), CHECK: say(errcode=42001)},
        {TOKEN: say(errcode=0, errmsg="ACCESS_0"), CHECK: say(errcode=42001)},
        {
            TOKEN: reply(b"", f"302 {SECRET}\r\nLocation: /?secret={SECRET}"),
            CHECK: say(errcode=42001),
        },
        {CHECK: lambda out: out.write(b"ACCESS_0\r\n\r\n")},
        {CHECK: reply(b"ACCESS_0 SECRET", "500 ACCESS_0")},
        {CHECK: say(errcode=0, errmsg="ACCESS_0")},
    ]
    for number, each in enumerate(replies):
        wechat_server.replies = each
        call("/room/send_message", **{**SEND, "message": f"第 {number} 条"})
    assert [json.loads(answer).get("error") for answer in answers] == [
        None,
        *["wechat_unavailable"] * len(replies),
    ]
    log = server.log.read_text()
    assert log.count("WeChat cannot be asked") == len(replies)
    files = [each.read_bytes().decode(errors="replace") for each in tmp_path.glob("roomapp.db*")]
    assert any("今晚八点" in content for content in files)
    for content in [log, *answers, *files]:
        for secret in (SECRET, "ACCESS_", token):
            assert secret not in content


# Sent twice


@pytest.mark.parametrize(
    ("url", "fields", "text", "times"),
    [("/room/add", ADD, "name", 10), ("/room/send_message", SEND, "message", 30)],
)
def test_what_is_sent_again_with_its_request_id_is_neither_checked_nor_counted(
    send, ming, clock, wechat_server, assert_refused, url, fields, text, times
):
    first = send(url, ming, **fields, request_id="a").json
    for _ in range(times + 1):
        assert send(url, ming, **fields, request_id="a").json == first
    assert len(wechat_server.checks) == 1
    edited = send(url, ming, **{**fields, text: "违规", "request_id": "a"})
    assert_refused(edited, 400, "risky_content", text)
    for number in range(times - 2):
        answer = send(url, ming, **fields, request_id=f"b{number}")
        assert answer.json["response_code"] == 1
    assert send(url, ming, **fields, request_id="c").json["error"] == "too_many_requests"
    assert send(url, ming, **fields, request_id="a").json == first


def test_what_was_refused_may_be_sent_again_with_its_request_id(write, wechat_server):
    wechat_server.replies[CHECK] = say(errcode=-1)
    assert write("嗨", request_id="a").json["error"] == "wechat_unavailable"
    wechat_server.replies.clear()
    assert write("违规", request_id="a").json["error"] == "risky_content"
    assert write("嗨", request_id="a").json["response_code"] == 1


# How much one person may do


LIMITED = [
    ("/room/add", ADD, 10, 3600),
    ("/usr/join", {"room_id": 1, "openid": "ming"}, 60, 60),
    ("/room/send_message", SEND, 30, 60),
    ("/room/report", {"room_id": 1, "openid": "ming", "reason": "广告"}, 10, 3600),
]
each_limit = pytest.mark.parametrize(("url", "fields", "times", "seconds"), LIMITED)


@pytest.fixture
def use_up(send, ming, clock):
    """Do something as often as ming may."""

    def use_up(url, fields, times):
        for _ in range(times):
            assert send(url, ming, **fields).json["response_code"] == 1

    return use_up


@each_limit
def test_beyond_the_limit_it_is_too_much_for_a_while(
    send, ming, use_up, clock, dump, assert_refused, url, fields, times, seconds
):
    use_up(url, fields, times)
    before = dump()
    answer = send(url, ming, **fields)
    assert_refused(answer, 429, "too_many_requests")
    assert dump() == before
    retry_after = int(answer.headers["Retry-After"])
    assert 1 <= retry_after <= seconds
    clock[0] += retry_after - 1
    assert_refused(send(url, ming, **fields), 429, "too_many_requests")
    clock[0] += 1
    assert send(url, ming, **fields).json["response_code"] == 1
    clock[0] += seconds
    use_up(url, fields, times)
    assert_refused(send(url, ming, **fields), 429, "too_many_requests")


@each_limit
def test_each_person_and_each_endpoint_has_its_own_limit(
    send, login, ming, use_up, url, fields, times, seconds
):
    use_up(url, fields, times)
    hong = login("hong")
    send("/usr/join", hong, room_id=1, openid="hong")
    own = {name: "hong" if value == "ming" else value for name, value in fields.items()}
    assert send(url, hong, **own).json["response_code"] == 1
    for other, body, *_ in LIMITED:
        if other != url:
            assert send(other, ming, **body).json["response_code"] == 1
    assert send("/usr/complete", ming, **COMPLETE).json["response_code"] == 1


@each_limit
def test_in_the_open_mode_there_are_no_limits(post, configure, room, url, fields, times, seconds):
    for _ in range(times + 1):
        assert post(url, **fields).json["response_code"] == 1


def test_what_fails_by_wechat_does_not_count(write, send, ming, clock, wechat_server, use_up):
    wechat_server.replies[CHECK] = say(errcode=-1)
    for number in range(40):
        assert write(f"第 {number} 条").json["error"] == "wechat_unavailable"
    wechat_server.replies.clear()
    use_up("/room/send_message", SEND, 30)
    assert write("嗨").json["error"] == "too_many_requests"


@pytest.mark.parametrize("error", [Refused("database_busy"), OperationalError("disk I/O error")])
def test_what_fails_by_the_service_does_not_count(clock, error):
    limit = limits.RateLimit(at_once=1, per_second=1)
    for _ in range(3):
        with pytest.raises(type(error)), limit.counting("ming"):
            raise error
    with pytest.raises(Refused, match="room_full"), limit.counting("ming"):
        raise Refused("room_full")
    with pytest.raises(Refused, match="too_many_requests"), limit.counting("ming"):
        pass


def test_who_is_given_back_may_not_do_more_than_before(clock):
    limit = limits.RateLimit(at_once=2, per_second=1)
    with pytest.raises(Refused), limit.counting("ming"):
        clock[0] += 9
        for _ in range(2):
            limit.count("ming")
        raise Refused("wechat_unavailable")
    limit.count("ming")
    with pytest.raises(Refused, match="too_many_requests"):
        limit.count("ming")


def test_a_login_that_fails_by_wechat_does_not_count(
    send, clock, wechat_server, monkeypatch, assert_refused
):
    monkeypatch.setattr(roomapp.LOGINS, "at_once", 1)
    wechat_server.reply = say(errcode=-1)
    for _ in range(3):
        answer = send("/usr/login", {}, code="code-hong")
        assert_refused(answer, 503, "wechat_unavailable")
    wechat_server.reply = None
    assert send("/usr/login", {}, code="code-hong").json["response_code"] == 1
    assert_refused(send("/usr/login", {}, code="code-hong"), 429, "too_many_requests")


def test_of_many_messages_at_once_exactly_30_pass(send, ming, clock):
    answers = write_at_once(send, ming, each=3)
    errors = [answer.get("error") for answer in answers]
    assert errors.count(None) == 30
    assert errors.count("too_many_requests") == 30
    page = send("/room/get_message", ming, room_id=1).json
    assert len(page["messages"]) == 30


# The order in which it is found what is wrong


def test_a_field_is_found_before_a_limit(send, ming, use_up, assert_refused):
    use_up("/room/send_message", SEND, 29)
    for _ in range(3):
        answer = send("/room/send_message", ming, **{**SEND, "message": ""})
        assert_refused(answer, 400, "invalid_field", "message")
    use_up("/room/send_message", SEND, 1)
    answer = send("/room/send_message", ming, **{**SEND, "message": ""})
    assert_refused(answer, 400, "invalid_field", "message")


@each_limit
def test_a_limit_is_found_before_anything_else(
    send, ming, use_up, wechat_server, assert_refused, url, fields, times, seconds
):
    use_up(url, fields, times)
    asked = len(wechat_server.queries)
    nowhere = {name: "违规" if name in ("name", "message") else fields[name] for name in fields}
    if "room_id" in fields:
        nowhere["room_id"] = 9
    assert_refused(send(url, ming, **nowhere), 429, "too_many_requests")
    assert len(wechat_server.queries) == asked, "WeChat is not asked for nothing"


@pytest.mark.parametrize(
    ("url", "fields", "field"),
    [("/room/send_message", SEND, "message"), ("/room/complete", {**EDIT, "name": "一"}, "name")],
)
def test_what_wechat_says_is_found_before_whether_the_room_exists(
    send, login, ming, assert_refused, url, fields, field
):
    answer = send(url, ming, **{**fields, "room_id": 9, field: "违规"})
    assert_refused(answer, 400, "risky_content", field)
    assert_refused(send(url, ming, **{**fields, "room_id": 9}), 404, "room_not_found")
    hong = login("hong")
    answer = send(url, hong, **{**fields, "openid": "hong", field: "违规"})
    assert_refused(answer, 400, "risky_content", field)
    assert send(url, hong, **{**fields, "openid": "hong"}).status_int == 403


@each_kind
def test_fields_and_callers_are_found_before_wechat_is_asked(
    send, ming, wechat_server, assert_refused, url, fields
):
    assert_refused(send(url, {}, **fields), 401, "login_required")
    broken = {**fields, ("room_owner_id" if url == "/room/add" else "openid"): "a b"}
    assert send(url, ming, **broken).json["error"] == "invalid_field"
    assert wechat_server.queries == []


# The stand-in itself


GOOD = {"version": 2, "openid": "ming", "scene": COMMENT, "content": "嗨"}
ASK_TOKEN = {"grant_type": "client_credential", "appid": "wx0", "secret": "s"}


def ask_stand_in(path, body, escape=False, **settings):
    """The faults that it sees in a question."""
    with stand_in(**settings) as wechat:
        wechat.tokens["ACCESS_0"] = 0
        with urlopen(Request(wechat.api + path, encode(body, escape))) as answer:
            answer.read()
        faults, wechat.faults = wechat.faults, []
    return faults


def encode(body, escape=False):
    return json.dumps(body, ensure_ascii=escape).encode()


@pytest.mark.parametrize(
    ("path", "body", "fault"),
    [
        (f"{CHECK}?access_token=ACCESS_0", GOOD, ""),
        (f"{CHECK}?access_token=ACCESS_0", {**GOOD, "content": "字" * 2500}, ""),
        (f"{CHECK}?access_token=ACCESS_0", {**GOOD, "content": "字" * 2501}, "AssertionError"),
        (f"{CHECK}?access_token=ACCESS_0", {**GOOD, "content": ""}, "AssertionError"),
        (f"{CHECK}?access_token=ACCESS_0", {**GOOD, "version": "2"}, "AssertionError"),
        (f"{CHECK}?access_token=ACCESS_0", {**GOOD, "version": 1}, "AssertionError"),
        (f"{CHECK}?access_token=ACCESS_0", {**GOOD, "scene": 5}, "AssertionError"),
        (f"{CHECK}?access_token=ACCESS_1", GOOD, "a token that it did not give"),
        (CHECK, GOOD, "KeyError"),
        (TOKEN, ASK_TOKEN, ""),
        (TOKEN, {**ASK_TOKEN, "appid": ""}, "open mode"),
        (TOKEN, {**ASK_TOKEN, "grant_type": "x"}, "AssertionError"),
        ("/wxa/another", GOOD, "KeyError"),
    ],
)
def test_the_stand_in_sees_what_wechat_would_not_take(path, body, fault):
    faults = ask_stand_in(path, body)
    assert len(faults) == bool(fault)
    assert fault in "".join(faults)


def test_the_stand_in_sees_escapes():
    [fault] = ask_stand_in(f"{CHECK}?access_token=ACCESS_0", GOOD, escape=True)
    assert "escapes" in fault


@pytest.mark.slow
def test_the_stand_in_sees_who_holds_the_change(other_program, tmp_path):
    other_program.execute("BEGIN IMMEDIATE")
    settings = {"database": tmp_path / "roomapp.db"}
    [fault] = ask_stand_in(f"{CHECK}?access_token=ACCESS_0", GOOD, **settings)
    assert "locked" in fault


def test_the_stand_in_sees_who_asks_twice():
    with stand_in() as wechat:
        wechat.tokens["ACCESS_0"] = 0
        asked = "POST", f"{CHECK}?access_token=ACCESS_0"
        assert wechat.answer(*asked, encode(GOOD))["result"]["suggest"] == "pass"
        wechat.answer(*asked, encode({**GOOD, "openid": "hong"}))
        assert wechat.faults == []
        wechat.answer(*asked, encode(GOOD))
        [fault], wechat.faults = wechat.faults, []
    assert "twice" in fault


# The real server


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [5, 60])
def test_fifty_who_wait_for_a_slow_wechat_hold_up_nobody(start, variables, wechat_server, seconds):
    server = start("--quiet", **variables)
    people = [f"p{number}" for number in range(50)]
    tokens = {
        openid: server.post("/usr/login", code=f"code-{openid}")["token"] for openid in people
    }

    def call(caller, url, **fields):
        with closing(server.connect()) as connection:
            headers = {"Authorization": f"Bearer {tokens[caller]}"}
            started = perf_counter()
            connection.request("POST", url, json.dumps(fields), headers)
            status, answer = read_answer(connection)
            return perf_counter() - started, status, answer

    call("p0", "/room/add", **{**ADD, "room_owner_id": "p0"})
    for openid in people:
        assert call(openid, "/usr/join", room_id=1, openid=openid)[1] == 200
    asked = wechat_server.times_asked(CHECK)
    number = count()

    def write(openid):
        text = f"第 {next(number)} 条"
        return call(openid, "/room/send_message", room_id=1, openid=openid, message=text)

    def get_time():
        started = perf_counter()
        assert server.request("GET", "/time")[0] == 200
        return perf_counter() - started

    reads = {
        "GET /time": get_time,
        "lists": lambda: call("p1", "/room/section", section="LOL")[0],
        "messages": lambda: call("p2", "/room/get_message", room_id=1)[0],
    }

    def measure():
        return {name: median(read() for _ in range(100)) * 1000 for name, read in reads.items()}

    quiet = measure()
    wechat_server.seconds = seconds
    with ThreadPoolExecutor(len(people)) as phones:
        writers = [phones.submit(write, openid) for openid in people]
        wechat_server.wait_until_asked(CHECK, asked + wechat.WAITING_AT_MOST)
        beside = measure()
        answered = [each.result() for each in writers if each.done()]
        assert all(status == 503 for _, status, _ in answered), "they wait, or were refused at once"
        assert len(answered) <= len(people) - wechat.WAITING_AT_MOST
        results = [each.result() for each in writers]
    for _, status, answer in results:
        assert status == 200 or answer["error"] == "wechat_unavailable"
    slowest = max(took for took, _, _ in results)
    assert slowest < 10
    statuses = [status for _, status, _ in results]
    print(f"WeChat takes {seconds} s for each answer")
    print(f"{statuses.count(200)} of 50 writers: done; {statuses.count(503)}: wechat_unavailable")
    print(f"the slowest writer had an answer after {slowest:.2f} s")
    for name in reads:
        print(f"{name}: median {quiet[name]:.2f} ms alone, {beside[name]:.2f} ms beside them")


# What nobody else sees, or what is no text of theirs
NOT_CHECKED = {"openid", "room_owner_id", "request_id", "reason", "code"}


def test_whatever_others_see_is_checked(database_file):
    """A new field that is a text belongs to the `texts` of its routes."""
    for route in roomapp.app.routes:
        if "changes" not in route.config:
            continue
        endpoint = Endpoint(route.callback, route)
        texts = {
            name
            for name in endpoint.fields.keys() - NOT_CHECKED
            if (
                "string" in FIELDS[name].schema.get("type", "string")
                and "integer" not in FIELDS[name].schema.get("type", "")
            )
            or name in ("section", "sex", "preference")
        }
        checked = endpoint.texts or ()
        if callable(checked):
            sent = dict.fromkeys(endpoint.fields, "x")
            checked = checked(**{**sent, "room_id": 1})
        assert texts <= set(checked), route.rule
