"""注销、踢人、举报、封禁: leaving for good, kicks, reports and bans as clients see them."""

import sqlite3
from contextlib import closing, contextmanager
from time import perf_counter

import pytest

from document import BODIES
from models import STEP, Ban, ClosedRoom, Message, Room
from roomapp import ROOMS
from service.database import DAY_MS, apply, batch, change, database, now
from service.login import Token, forget
from service.moderation import REPORT_DAYS, Report

OPENID = "o6_bmjrPTlm6_2sgVt7hMZOPfL2M"  # as WeChat's are, to be searched for in the file


@pytest.fixture
def messages(post):
    def messages(room_id):
        found = post("/room/get_message", room_id=room_id).json["messages"]
        return [(each["openid"], each["message"]) for each in found]

    return messages


@pytest.fixture
def ban():
    def ban(openid):
        with change():
            Ban.create(openid=openid)

    return ban


@pytest.fixture
def set_clock(monkeypatch):
    """Let the machine's clock stand still, so much later than now."""
    start = now()
    return lambda later: monkeypatch.setattr("time.time_ns", lambda: (start + later) * 1_000_000)


def reports():
    kept = (Report.reporter, Report.openid, Report.room_id, Report.message_id, Report.text)
    return list(Report.select(*kept, Report.reason).order_by(Report.id).tuples())


# Reporting


def test_a_report_of_a_room_is_kept_with_its_texts_and_its_owner(post, room):
    answer = post("/room/report", room_id=room, openid="hong", reason="广告")
    assert answer.json == {"response_code": 1}
    assert reports() == [("hong", "ming", room, 0, "一起自习\n学习\n图书馆", "广告")]


def test_a_report_of_a_message_is_kept_with_its_text_and_its_sender(post, room, message):
    fields = {"room_id": str(room), "openid": "gang", "message_id": str(message)}
    assert post("/room/report", **fields, reason=" 骂人\n了 ").json == {"response_code": 1}
    assert reports() == [("gang", "ming", room, message, "有人吗", "骂人\n了")]


def test_a_target_is_reported_once_by_each_person(post, room, message):
    for openid in ("hong", "gang"):
        for reason in ("广告", "还是广告"):
            for target in ({}, {"message_id": message}, {"message_id": None}):
                answer = post("/room/report", room_id=room, openid=openid, reason=reason, **target)
                assert answer.json == {"response_code": 1}
    assert [(each[0], each[3], each[5]) for each in reports()] == [
        ("hong", 0, "广告"),
        ("hong", message, "广告"),
        ("gang", 0, "广告"),
        ("gang", message, "广告"),
    ]


def test_what_has_changed_since_can_be_reported_again(post, room):
    for name in ("一起自习", "加微信", "加微信", "一起自习"):
        post("/room/complete", room_id=room, openid="ming", name=name)
        answer = post("/room/report", room_id=room, openid="hong", reason="广告")
        assert answer.json == {"response_code": 1}
    assert [each[4].split("\n")[0] for each in reports()] == ["一起自习", "加微信"]


def test_what_was_settled_can_be_reported_again(post, room, message):
    target = {"room_id": room, "message_id": message, "openid": "hong"}
    for times in (1, 2):
        for _ in range(2):
            post("/room/report", **target, reason="广告")
        assert len(reports()) == times
        with change():
            Report.close(Report.id == times)


def test_who_is_not_a_member_learns_nothing_of_messages_from_reports(log_in, assert_refused):
    ming, hong = log_in("ming"), log_in("hong")
    ming("/room/add", name="一", section="二", description="", room_owner_id="ming")
    fields = {"room_id": 1, "openid": "ming", "message": "嗨"}
    message_id = ming("/room/send_message", **fields).json["message_id"]
    gone = ming("/room/send_message", **fields).json["message_id"]
    ming("/room/delete_message", room_id=1, openid="ming", message_id=gone)
    report = {"room_id": 1, "openid": "hong", "reason": "广告"}
    for number in (message_id, gone, 1):
        assert hong("/room/report", **report, message_id=number).json == {"response_code": 1}
    assert [each[3] for each in reports()] == [message_id], "what is there is kept"
    hong("/usr/join", room_id=1, openid="hong")
    for number in (gone, 1):
        answer = hong("/room/report", **report, message_id=number)
        assert_refused(answer, 404, "message_not_found")
    answer = hong("/room/report", **{**report, "room_id": 9}, message_id=1)
    assert_refused(answer, 404, "room_not_found")


def test_who_is_not_a_member_learns_nothing_of_messages_from_deleting(log_in, assert_refused):
    ming, hong = log_in("ming"), log_in("hong")
    ming("/room/add", name="一", section="二", description="", room_owner_id="ming")
    hong("/usr/join", room_id=1, openid="hong")
    said = {"room_id": 1, "message": "嗨"}
    of_ming = ming("/room/send_message", openid="ming", **said).json["message_id"]
    of_hong = hong("/room/send_message", openid="hong", **said).json["message_id"]
    fields = {"room_id": 1, "openid": "hong"}
    answer = hong("/room/delete_message", **fields, message_id=1)
    assert_refused(answer, 404, "message_not_found")
    hong("/room/kick", **fields)
    for number in (of_ming, 1):
        answer = hong("/room/delete_message", **fields, message_id=number)
        assert_refused(answer, 403, "not_owner")
    answer = hong("/room/delete_message", **fields, message_id=of_hong)
    assert answer.json == {"response_code": 1}, "what one said oneself"
    answer = ming("/room/delete_message", room_id=1, openid="ming", message_id=1)
    assert_refused(answer, 404, "message_not_found")


def test_what_is_not_there_cannot_be_reported(post, room, open_room, message, assert_refused):
    fields = {"openid": "hong", "reason": "广告"}
    answer = post("/room/report", room_id=99, **fields)
    assert_refused(answer, 404, "room_not_found")
    answer = post("/room/report", room_id=99, message_id=message, **fields)
    assert_refused(answer, 404, "room_not_found")
    answer = post("/room/report", room_id=room, message_id=99, **fields)
    assert_refused(answer, 404, "message_not_found")
    elsewhere = post("/room/report", room_id=open_room(), message_id=message, **fields)
    assert_refused(elsewhere, 404, "message_not_found")
    assert reports() == []


@pytest.mark.parametrize("reason", [None, "", " \u3000\n", "x" * 201, 5, "a\0b", "a\x1b[2Jb"])
def test_a_reason_is_a_short_text(post, room, assert_refused, reason):
    answer = post("/room/report", room_id=room, openid="hong", reason=reason)
    assert_refused(answer, 400, "invalid_field", field="reason")


@pytest.mark.parametrize("message_id", [0, -1, "x", 1.5, True])
def test_a_message_is_reported_by_its_number(post, room, assert_refused, message_id):
    fields = {"room_id": room, "openid": "hong", "reason": "广告"}
    answer = post("/room/report", **fields, message_id=message_id)
    assert_refused(answer, 400, "invalid_field", field="message_id")


def test_the_longest_reason_is_200_characters(post, room):
    reason = "🎮" * 200
    answer = post("/room/report", room_id=room, openid="hong", reason=f"  {reason}  ")
    assert answer.json["response_code"] == 1
    assert reports()[0][-1] == reason


def test_a_report_is_shown_to_nobody_and_does_not_move_the_time(
    client, post, room, message, last_time
):
    def everything():
        asked = [
            ("/usr/info", {"openid": "ming"}),
            ("/usr/roomlist1", {"openid": "ming"}),
            ("/usr/roomlist2", {"openid": "hong"}),
            ("/room/section", {"section": "学习"}),
            ("/room/get_message", {"room_id": room}),
            ("/search", {"key": room}),
            ("/search", {"key": "广告"}),
        ]
        return [post(url, **body).json for url, body in asked] + [last_time()]

    before = everything()
    post("/room/report", room_id=room, openid="hong", reason="广告")
    post("/room/report", room_id=room, openid="gang", message_id=message, reason="广告")
    assert len(reports()) == 2
    assert everything() == before


def test_the_copy_outlives_what_was_reported(post, room, message):
    post("/room/report", room_id=room, openid="hong", reason="一")
    post("/room/report", room_id=room, openid="hong", message_id=message, reason="二")
    before = reports()
    post("/room/delete_message", room_id=room, openid="ming", message_id=message)
    post("/room/complete", room_id=room, openid="ming", name="好房间")
    assert reports() == before
    post("/room/delete", room_id=room, openid="ming")
    assert reports() == before
    post("/usr/delete", openid="ming")
    post("/usr/delete", openid="hong")
    assert reports() == before


def test_reports_older_than_180_days_are_deleted_in_passing(post, room, set_clock):
    for number in range(4):
        post("/room/report", room_id=room, openid=f"p{number}", reason="旧")
    set_clock(REPORT_DAYS * DAY_MS - 60_000)
    post("/room/report", room_id=room, openid="hong", reason="新")
    assert len(reports()) == 5
    set_clock(REPORT_DAYS * DAY_MS + 60_000)
    for openid in ("gang", "li"):
        post("/room/report", room_id=room, openid=openid, reason="新")
    assert [each[0] for each in reports()] == ["hong", "gang", "li"]


def test_where_callers_are_known_one_reports_in_the_own_name(log_in, assert_refused):
    ming, hong = log_in("ming"), log_in("hong")
    room_id = ming("/room/add", **BODIES["/room/add"] | {"room_owner_id": "ming"}).json["room_id"]
    answer = hong("/room/report", room_id=room_id, openid="ming", reason="广告")
    assert_refused(answer, 403, "identity_mismatch")
    answer = hong("/room/report", room_id=room_id, openid="hong", reason="广告")
    assert answer.json == {"response_code": 1}, "who is no member sees a room, too"
    assert reports() == [("hong", "ming", room_id, 0, "桌游\n桌游\n", "广告")]


# Being taken out


@pytest.fixture
def evening(log_in):
    """ming and hong, as they call, and ming's room of two, which hong has joined."""
    ming, hong = log_in("ming"), log_in("hong")
    fields = {**BODIES["/room/add"], "room_owner_id": "ming", "capacity": 2}
    room_id = ming("/room/add", **fields).json["room_id"]
    assert hong("/usr/join", room_id=room_id, openid="hong").json["response_code"] == 1
    return ming, hong, room_id


@pytest.mark.parametrize("later", [0, DAY_MS - 1, DAY_MS])
def test_whom_the_owner_took_out_stays_out_for_a_day(evening, set_clock, assert_refused, later):
    ming, hong, room_id = evening
    set_clock(0)
    ming("/room/kick", room_id=room_id, openid="hong")
    set_clock(later)
    assert_refused(hong("/usr/join", room_id=room_id, openid="hong"), 403, "kicked")
    assert ming("/search", key=room_id).json["rooms"][0]["users_id"] == ["ming"]


def test_whom_the_owner_took_out_can_join_a_day_later(evening, set_clock):
    ming, hong, room_id = evening
    set_clock(0)
    ming("/room/kick", room_id=room_id, openid="hong")
    set_clock(DAY_MS + 1)
    assert hong("/usr/join", room_id=room_id, openid="hong").json["response_code"] == 1


def test_whom_the_owner_took_out_can_join_other_rooms(evening, log_in):
    ming, hong, room_id = evening
    fields = {**BODIES["/room/add"], "room_owner_id": "ming"}
    other = ming("/room/add", **fields).json["room_id"]
    ming("/room/kick", room_id=room_id, openid="hong")
    assert hong("/usr/join", room_id=other, openid="hong").json["response_code"] == 1
    gang = log_in("gang")
    assert gang("/usr/join", room_id=room_id, openid="gang").json["response_code"] == 1


def test_a_full_room_still_says_kicked(evening, log_in, assert_refused):
    ming, hong, room_id = evening
    ming("/room/kick", room_id=room_id, openid="hong")
    log_in("gang")("/usr/join", room_id=room_id, openid="gang")
    assert_refused(log_in("li")("/usr/join", room_id=room_id, openid="li"), 409, "room_full")
    assert_refused(hong("/usr/join", room_id=room_id, openid="hong"), 403, "kicked")


def test_who_left_can_come_back(evening):
    _, hong, room_id = evening
    hong("/room/kick", room_id=room_id, openid="hong")
    assert hong("/usr/join", room_id=room_id, openid="hong").json["response_code"] == 1


def test_to_join_again_while_one_is_in_is_still_to_join_once(evening, set_clock):
    ming, hong, room_id = evening
    set_clock(0)
    ming("/room/kick", room_id=room_id, openid="hong")
    set_clock(DAY_MS + 1)
    hong("/usr/join", room_id=room_id, openid="hong")
    set_clock(0)
    assert hong("/usr/join", room_id=room_id, openid="hong").json["response_code"] == 1


def test_a_request_id_is_that_of_who_takes_out(evening):
    ming, hong, room_id = evening
    fields = {"room_id": room_id, "openid": "hong", "request_id": "a"}
    for _ in range(2):
        assert ming("/room/kick", **fields).json == {"response_code": 1}
    assert hong("/room/kick", **fields).json["error"] == "member_not_found"


def test_in_the_open_mode_who_was_taken_out_can_join(post, room):
    post("/room/kick", room_id=room, openid="hong")
    assert post("/usr/join", room_id=room, openid="hong").json["response_code"] == 1


# Being banned


CHANGES = {
    "/usr/complete": {"sex": 1, "preference": []},
    "/usr/join": {"room_id": 1},
    "/usr/delete": {},
    "/room/add": {"name": "一", "section": "二", "description": ""},
    "/room/delete": {"room_id": 1},
    "/room/send_message": {"room_id": 1, "message": "嗨"},
    "/room/complete": {"room_id": 1, "name": "三"},
    "/room/delete_message": {"room_id": 1, "message_id": 1},
    "/room/report": {"room_id": 1, "reason": "广告"},
}


def acts(url, openid):
    return {"room_owner_id" if url == "/room/add" else "openid": openid}


@pytest.mark.parametrize("url", CHANGES)
@pytest.mark.parametrize("room_id", [1, 99])
def test_in_the_open_mode_nothing_is_changed_in_a_banned_name(
    post, room, message, ban, dump, assert_refused, url, room_id
):
    ban("ming")
    before = dump()
    fields = CHANGES[url] | ({"room_id": room_id} if "room_id" in CHANGES[url] else {})
    assert_refused(post(url, **acts(url, "ming"), **fields), 403, "banned")
    assert dump() == before


def test_in_the_open_mode_a_first_answer_is_not_given_to_the_banned_again(
    post, room, ban, assert_refused
):
    fields = {"room_id": room, "openid": "hong", "message": "嗨", "request_id": "a"}
    assert post("/room/send_message", **fields).json["response_code"] == 1
    ban("hong")
    assert_refused(post("/room/send_message", **fields), 403, "banned")


def test_others_go_on(post, room, ban):
    ban("ming")
    post("/room/send_message", room_id=room, openid="hong", message="嗨")
    assert post("/search", key=room).json["rooms"][0]["users_id"] == ["ming", "hong"]
    assert post("/room/kick", room_id=room, openid="hong").json["response_code"] == 1


@pytest.mark.parametrize("url", [*CHANGES, "/room/kick"])
@pytest.mark.parametrize(
    "wrong", [{}, {"room_id": 99}, {"room_id": "x", "message": "", "name": ""}, {"openid": "hong"}]
)
def test_where_callers_are_known_banned_wins_over_whatever_else_is_wrong(
    evening, ban, dump, assert_refused, url, wrong
):
    ming, *_ = evening
    ban("ming")
    before = dump()
    fields = CHANGES.get(url, {"room_id": 1}) | acts(url, "ming") | wrong
    assert_refused(ming(url, **fields), 403, "banned")
    assert dump() == before


def test_banned_wins_over_the_limit_of_a_person(evening, ban, assert_refused):
    ming, *_ = evening
    for _ in range(100):
        answer = ming("/usr/join", room_id=1, openid="ming")
    assert_refused(answer, 429, "too_many_requests")
    ban("ming")
    assert_refused(ming("/usr/join", room_id=1, openid="ming"), 403, "banned")


@pytest.mark.parametrize(
    "url", ["/usr/info", "/usr/roomlist1", "/usr/roomlist2", "/room/get_message", "/search"]
)
def test_to_whoever_is_banned_reading_says_to_log_in(evening, ban, assert_refused, url):
    ming, hong, _ = evening
    hong("/usr/complete", openid="hong", sex=1, preference=[])
    ban("hong")
    fields = {**BODIES[url], "openid": "hong"}
    assert_refused(hong(url, **fields), 401, "login_required")
    assert ming(url, **fields | {"openid": "ming"}).json.get("error") in (None, "user_not_found")


def test_whoever_is_banned_cannot_log_in(client, evening, ban, assert_refused):
    ban("ming")
    answer = client.post_json("/usr/login", {"code": "code-ming"}, expect_errors=True)
    assert_refused(answer, 403, "banned")
    answer = client.post_json("/usr/login", {"code": "code-hong"})
    assert answer.json["response_code"] == 1


# Leaving for good


def test_whoever_leaves_has_no_profile_no_name_and_no_rooms(post, room, message, messages):
    post("/usr/complete", openid="hong", sex=2, preference=["篮球"], nickname="阿红")
    post("/room/send_message", room_id=room, openid="hong", message="嗨")
    post("/room/send_message", room_id=room, openid="ming", message="好")
    shown = post("/room/get_message", room_id=room).json
    assert shown["nicknames"] == {"hong": "阿红"}
    assert post("/usr/delete", openid="hong").json == {"response_code": 1}
    assert post("/usr/info", openid="hong").json["error"] == "user_not_found"
    assert post("/usr/roomlist2", openid="hong").json["rooms"] == []
    (found,) = post("/search", key=room).json["rooms"]
    assert (found["users_id"], found["state"]) == (["ming"], 0)
    assert messages(room) == [("ming", "有人吗"), ("", ""), ("ming", "好")]
    now_shown = post("/room/get_message", room_id=room).json
    assert now_shown["nicknames"] == {}
    for before, after in zip(shown["messages"], now_shown["messages"], strict=True):
        assert before["message_id"] == after["message_id"]
        assert before["time"] == after["time"]


def test_a_message_of_nobody_is_paged_over_and_can_be_deleted(post, room, message, assert_refused):
    post("/room/send_message", room_id=room, openid="hong", message="嗨")
    post("/usr/delete", openid="hong")
    (gone,) = post("/room/get_message", room_id=room, after=message).json["messages"]
    assert (gone["openid"], gone["message"]) == ("", "")
    fields = {"room_id": room, "message_id": gone["message_id"]}
    answer = post("/room/delete_message", openid="gang", **fields)
    assert_refused(answer, 403, "not_owner")
    assert post("/room/delete_message", openid="ming", **fields).json["response_code"] == 1
    answer = post("/room/report", openid="ming", reason="空的", **fields)
    assert_refused(answer, 404, "message_not_found")


def test_a_room_goes_to_whoever_joined_first(post, room, find_room):
    for openid in ("gang", "li"):
        post("/usr/join", room_id=room, openid=openid)
    post("/room/kick", room_id=room, openid="hong")
    post("/usr/join", room_id=room, openid="hong")
    post("/usr/delete", openid="ming")
    found = find_room(room)
    assert found["room_owner_id"] == "gang"
    assert found["users_id"] == ["gang", "li", "hong"]
    assert found["state"] == 1

    def listed(url, openid):
        return [each["room_id"] for each in post(url, openid=openid).json["rooms"]]

    assert listed("/usr/roomlist1", "gang") == [room]
    assert listed("/usr/roomlist2", "gang") == []
    assert listed("/usr/roomlist2", "li") == [room]
    assert listed("/usr/roomlist1", "ming") == []
    assert post("/room/complete", room_id=room, openid="gang", name="新").json["response_code"] == 1
    assert post("/room/kick", room_id=room, openid="li").json["response_code"] == 1
    assert post("/room/kick", room_id=room, openid="gang").json["error"] == "owner_cannot_leave"
    assert post("/usr/join", room_id=room, openid="ming").json["response_code"] == 1
    assert find_room(room)["users_id"] == ["gang", "hong", "ming"]


def test_one_room_after_the_other_goes_on_until_nobody_is_left(post, room, find_room):
    post("/usr/delete", openid="ming")
    assert find_room(room) == {
        "room_id": room,
        "name": "一起自习",
        "section": "学习",
        "description": "图书馆",
        "room_owner_id": "hong",
        "users_id": ["hong"],
        "state": 0,
        "capacity": 500,
    }
    post("/usr/delete", openid="hong")
    assert find_room(room) is None


def test_a_room_with_nobody_else_is_deleted_for_ever(post, open_room, find_room, assert_refused):
    room_id = open_room()
    post("/usr/join", room_id=room_id, openid="hong")
    for openid in ("ming", "hong"):
        for _ in range(STEP):
            post("/room/send_message", room_id=room_id, openid=openid, message="嗨")
    post("/room/kick", room_id=room_id, openid="hong")
    post("/usr/delete", openid="ming")
    assert find_room(room_id) is None
    assert post("/search", key="自习").json["rooms"] == []
    assert_refused(post("/room/get_message", room_id=room_id), 404, "room_not_found")
    for _ in range(3):
        assert open_room() > room_id
    assert Message.select().count() == 0, "they went with later changes"


def test_a_full_room_goes_on_and_has_a_place_again(post, open_room, find_room):
    room_id = open_room()
    post("/room/complete", room_id=room_id, openid="ming", capacity=2)
    post("/usr/join", room_id=room_id, openid="hong")
    assert post("/usr/join", room_id=room_id, openid="gang").json["error"] == "room_full"
    post("/usr/delete", openid="ming")
    assert post("/usr/join", room_id=room_id, openid="gang").json["response_code"] == 1
    assert find_room(room_id)["users_id"] == ["hong", "gang"]


def test_more_rooms_and_messages_than_fit_into_a_step(post, open_room, messages):
    rooms = [open_room() for _ in range(25)]
    for room_id in rooms[:15]:
        post("/usr/join", room_id=room_id, openid="hong")
    for number in range(STEP * 2 + 50):
        fields = {"openid": "ming", "message": str(number)}
        post("/room/send_message", room_id=rooms[number % 25], **fields)
    post("/room/send_message", room_id=rooms[0], openid="hong", message="嗨")
    post("/usr/delete", openid="ming")
    left = post("/usr/roomlist1", openid="hong").json["rooms"]
    assert [each["room_id"] for each in left] == rooms[14::-1]
    for room_id in rooms[1:15]:
        assert messages(room_id) == [("", "")] * 10
    assert messages(rooms[0]) == [("", "")] * 10 + [("hong", "嗨")]
    assert len(post("/room/section", section="学习").json["rooms"]) == 15


def test_what_others_wrote_stays(post, room, find_room, messages):
    post("/room/send_message", room_id=room, openid="hong", message="ming 是谁")
    post("/usr/complete", openid="hong", sex=2, preference=["ming"])
    post("/usr/delete", openid="ming")
    assert messages(room) == [("hong", "ming 是谁")]
    assert post("/usr/info", openid="hong").json["preference"] == ["ming"]


def test_to_leave_twice_is_to_leave_once(post, room, message, last_time, dump):
    post("/usr/complete", openid="ming", sex=1, preference=[])
    before = last_time()
    post("/usr/delete", openid="ming")
    after = last_time()
    assert after > before
    rows = dump()
    assert post("/usr/delete", openid="ming").json == {"response_code": 1}
    assert post("/usr/delete", openid="nobody").json == {"response_code": 1}
    assert last_time() == after
    assert dump() == rows


@pytest.mark.parametrize("step", range(4))
def test_the_time_moves_with_whatever_there_was(post, room, last_time, step):
    if step == 0:
        post("/usr/complete", openid="gang", sex=1, preference=[])
    elif step == 1:
        post("/usr/join", room_id=room, openid="gang")
    elif step == 2:
        post("/usr/join", room_id=room, openid="gang")
        post("/room/send_message", room_id=room, openid="gang", message="嗨")
        post("/room/kick", room_id=room, openid="gang")
    else:
        post("/room/add", **BODIES["/room/add"])
    before = last_time()
    post("/usr/delete", openid="gang")
    after = last_time()
    assert after > before
    post("/usr/delete", openid="gang")
    assert last_time() == after


def test_leaving_ends_every_token(log_in, assert_refused):
    phones = [log_in("ming"), log_in("ming")]
    hong = log_in("hong")
    assert phones[0]("/usr/delete", openid="ming").json == {"response_code": 1}
    for phone in phones:
        for url in ("/usr/roomlist1", "/usr/delete"):
            assert_refused(phone(url, openid="ming"), 401, "login_required")
    assert hong("/usr/roomlist1", openid="hong").json["rooms"] == []
    assert Token.select().where(Token.openid == "ming").count() == 0


def test_whoever_left_can_log_in_and_begin_anew(client, evening, log_in):
    ming, _, room_id = evening
    ming("/usr/complete", openid="ming", sex=1, preference=[], nickname="小明")
    ming("/usr/delete", openid="ming")
    assert client.post_json("/usr/login", {"code": "code-ming"}).json["exist"] == 0
    ming = log_in("ming")
    ming("/usr/complete", openid="ming", sex=1, preference=[])
    assert ming("/usr/info", openid="ming").json["nickname"] == ""
    assert ming("/usr/join", room_id=room_id, openid="ming").json["response_code"] == 1


def test_nobody_makes_somebody_else_leave(evening, assert_refused, dump):
    ming, *_ = evening
    before = dump()
    assert_refused(ming("/usr/delete", openid="hong"), 403, "identity_mismatch")
    assert dump() == before


def test_a_ban_outlasts_leaving(client, evening, ban, assert_refused):
    ming, *_ = evening
    ban("ming")
    assert_refused(ming("/usr/delete", openid="ming"), 403, "banned")
    forget("ming")
    assert_refused(ming("/usr/roomlist1", openid="ming"), 401, "login_required")
    answer = client.post_json("/usr/login", {"code": "code-ming"}, expect_errors=True)
    assert_refused(answer, 403, "banned")


@pytest.mark.parametrize(
    ("end", "status", "error"),
    [
        (forget, 401, "login_required"),
        (lambda openid: Ban.create(openid=openid), 403, "banned"),
    ],
    ids=["left", "was banned"],
)
def test_what_was_asked_before_somebody_left_or_was_banned_stores_nothing_after_it(
    evening, assert_refused, monkeypatch, dump, end, status, error
):
    """That happens between finding out who calls and the write lock."""
    ming, *_ = evening
    rows = []

    def end_first(person):
        end(person)
        rows.extend(dump())

    monkeypatch.setattr(ROOMS, "count", end_first)
    answer = ming("/room/add", **BODIES["/room/add"] | {"room_owner_id": "ming"})
    assert_refused(answer, status, error)
    assert dump() == rows


# Nowhere in the file


def test_the_openid_is_in_no_file_once_somebody_left(post, files_with):
    room = {"name": "一", "section": "二", "description": ""}
    for number in range(5):
        post("/room/add", **room, room_owner_id=OPENID, request_id=f"{number}")
        post("/usr/join", room_id=number + 1, openid="hong")
        fields = {"room_id": number + 1, "openid": OPENID, "message": "嗨"}
        post("/room/send_message", **fields, request_id=f"{number}")
    post("/usr/complete", openid=OPENID, sex=1, preference=[], nickname="小明")
    post("/room/kick", room_id=1, openid="hong")
    assert files_with(OPENID)
    post("/usr/delete", openid=OPENID)
    assert files_with(OPENID) == []


def test_where_callers_are_known_the_openid_is_in_no_file_either(log_in, files_with):
    ming, gone = log_in("ming"), log_in(OPENID)
    fields = {**BODIES["/room/add"], "room_owner_id": "ming", "capacity": 2}
    for request_id in ("a", "b"):
        room_id = ming("/room/add", **fields, request_id=request_id).json["room_id"]
        gone("/usr/join", room_id=room_id, openid=OPENID)
        message = {"room_id": room_id, "openid": OPENID, "message": "嗨", "request_id": request_id}
        assert gone("/room/send_message", **message).json["response_code"] == 1
    assert log_in("hong")("/usr/join", room_id=room_id, openid="hong").json["error"] == "room_full"
    assert ming("/room/kick", room_id=room_id, openid=OPENID).json["response_code"] == 1
    assert gone("/usr/join", room_id=room_id, openid=OPENID).json["error"] == "kicked"
    gone("/usr/delete", openid=OPENID)
    assert files_with(OPENID) == []


def test_the_openid_stays_in_a_ban_and_in_reports_alone(post, room, ban, files_with):
    post("/usr/join", room_id=room, openid=OPENID)
    post("/room/send_message", room_id=room, openid=OPENID, message="嗨")
    post("/room/report", room_id=room, openid=OPENID, reason="广告")
    ban(OPENID)
    forget(OPENID)
    assert files_with(OPENID) == ["roomapp.db"]
    with change():
        Ban.delete().execute()
        Report.delete().execute()
        database.must_empty_wal = True
    assert files_with(OPENID) == []


# Many messages


@pytest.fixture
def holds(database_file, monkeypatch):
    """How long each batch from now on took, in seconds, and how many rows it changed."""
    holds = []

    @contextmanager
    def watched_batch():
        connection = database.connection()
        rows, start = connection.total_changes, perf_counter()
        with batch():
            yield
        holds.append((perf_counter() - start, connection.total_changes - rows))

    monkeypatch.setattr("service.database.batch", watched_batch)
    return holds


@pytest.mark.slow
def test_leaving_changes_few_rows_at_a_time(post, database_file, holds):
    """200,000 messages, a tenth by the one who leaves, and a room of 50,000 with nobody else."""
    alone, led, joined = range(1, 21), range(21, 61), range(61, 101)
    with change():
        for room_id in (*alone, *led, *joined):
            owner = "ming" if room_id in joined else OPENID
            room = Room.by_id(Room.open(f"{room_id}", "二", "", owner))
            if room_id not in alone:
                room.admit("hong")
                room.admit(OPENID)
    messages = [
        (number % 99 + 2 if number % 4 else 1, number, OPENID if number % 10 == 1 else "gang")
        for number in range(200_000)
    ]
    with closing(sqlite3.connect(database_file)) as connection:
        insert = "INSERT INTO message VALUES (?, ?, ?, '今天晚上八点在宿舍楼下见', 1)"
        connection.executemany(insert, messages)
        connection.commit()
    holds.clear()
    assert post("/usr/delete", openid=OPENID).json == {"response_code": 1}
    longest, _ = max(holds)
    print(f"{len(holds)} batches, the longest {longest * 1000:.1f} ms")
    of_ten_rooms = 100  # rows, with the index of their texts and the clock's
    assert max(rows for _, rows in holds) <= STEP + of_ten_rooms
    kept = sorted(
        (room_id, message_id, "" if openid == OPENID else openid)
        for room_id, message_id, openid in messages
        if room_id not in alone
    )
    left = Message.select(Message.room_id, Message.message_id, Message.openid)
    while apply(ClosedRoom.clean_up):
        pass
    assert sorted(left.tuples()) == kept
    assert Room.select().count() == len(led) + len(joined)
