"""一、用户: profiles, my rooms, joining."""

from itertools import chain

import pytest

from models import Member
from service.database import change


@pytest.fixture
def full_room(open_room, post):
    room_id = open_room()
    for number in range(499):
        post("/usr/join", room_id=room_id, openid=f"guest{number}")
    return room_id


@pytest.mark.parametrize("sex", [0, 1, 2, "男", "1", " 女 ", "x" * 16])
def test_a_profile_comes_back_as_it_was_sent(post, sex):
    preference = ["羽毛球", " 桌游 ", "C++", "羽毛球"]
    assert post("/usr/complete", openid="ming", sex=sex, preference=preference).json == {
        "response_code": 1
    }
    assert post("/usr/info", openid="ming").json == {
        "response_code": 1,
        "sex": sex,
        "preference": preference,
        "nickname": "",
    }


def test_completing_again_replaces_the_profile(post):
    post("/usr/complete", openid="ming", sex=1, preference=["篮球"])
    post("/usr/complete", openid="ming", sex="1", preference=[])
    assert post("/usr/info", openid="ming").json == {
        "response_code": 1,
        "sex": "1",
        "preference": [],
        "nickname": "",
    }


def test_a_nickname_is_shown_without_blanks_around_it(post):
    post("/usr/complete", openid="ming", sex=1, preference=[], nickname=" \u3000小 明\n")
    assert post("/usr/info", openid="ming").json["nickname"] == "小 明"


@pytest.mark.parametrize("left_out", [{}, {"nickname": None}])
def test_a_nickname_that_is_left_out_stays(post, left_out):
    post("/usr/complete", openid="ming", sex=1, preference=[], nickname="小明")
    post("/usr/complete", openid="ming", sex=2, preference=["篮球"], **left_out)
    assert post("/usr/info", openid="ming").json == {
        "response_code": 1,
        "sex": 2,
        "preference": ["篮球"],
        "nickname": "小明",
    }
    post("/usr/complete", openid="ming", sex=2, preference=["篮球"], nickname="大明")
    assert post("/usr/info", openid="ming").json["nickname"] == "大明"


def test_an_empty_nickname_takes_it_away(post, room, last_time):
    post("/usr/complete", openid="ming", sex=1, preference=[], nickname="小明")
    assert post("/search", key=room).json["nicknames"] == {"ming": "小明"}
    before = last_time()
    for _ in range(2):
        answer = post("/usr/complete", openid="ming", sex=1, preference=[], nickname="")
        assert answer.json == {"response_code": 1}
    assert post("/usr/info", openid="ming").json["nickname"] == ""
    assert post("/search", key=room).json["nicknames"] == {}
    assert last_time() > before


def test_two_people_may_have_the_same_nickname(post):
    for openid in ("ming", "hong"):
        post("/usr/complete", openid=openid, sex=1, preference=[], nickname="同学")
        assert post("/usr/info", openid=openid).json["nickname"] == "同学"


def test_who_never_completed_a_profile_has_none(post, room, assert_refused):
    assert_refused(post("/usr/info", openid="ming"), 404, "user_not_found")


def test_a_profile_is_not_needed_to_open_join_or_talk(post, room):
    answer = post("/room/send_message", room_id=room, openid="hong", message="来了")
    assert answer.json["response_code"] == 1


def test_roomlist1_has_the_rooms_one_owns_newest_first(post, open_room, room):
    newer = open_room("ming")
    open_room("hong")
    rooms = post("/usr/roomlist1", openid="ming").json["rooms"]
    assert [each["room_id"] for each in rooms] == [newer, room]


def test_roomlist2_has_the_rooms_one_joined_but_does_not_own_newest_first(post, open_room, room):
    newer = open_room("gang")
    post("/usr/join", room_id=newer, openid="hong")
    open_room("hong")
    open_room("gang")
    rooms = post("/usr/roomlist2", openid="hong").json["rooms"]
    assert [each["room_id"] for each in rooms] == [newer, room]


@pytest.mark.parametrize("url", ["/usr/roomlist1", "/usr/roomlist2"])
def test_a_stranger_has_no_rooms(post, room, url):
    assert post(url, openid="nobody").json == {
        "response_code": 1,
        "rooms": [],
        "nicknames": {},
        "has_more": False,
    }


def test_a_room_is_shown_with_the_seven_fields_of_the_document_and_capacity(post, room):
    assert post("/room/section", section="学习").json["rooms"] == [
        {
            "room_id": room,
            "name": "一起自习",
            "section": "学习",
            "description": "图书馆",
            "room_owner_id": "ming",
            "users_id": ["ming", "hong"],
            "state": 1,
            "capacity": 500,
        }
    ]


@pytest.mark.parametrize(
    ("url", "openid"), [("/usr/roomlist1", "ming"), ("/usr/roomlist2", "hong")]
)
def test_my_rooms_have_the_id_of_the_newest_message(post, open_room, url, openid):
    silent, talking = open_room(), open_room()
    for room_id in (silent, talking):
        post("/usr/join", room_id=room_id, openid="hong")
    sent = [
        post("/room/send_message", room_id=talking, openid="ming", message="嗨").json["message_id"]
        for _ in range(2)
    ]
    rooms = post(url, openid=openid).json["rooms"]
    assert [room["last_message_id"] for room in rooms] == [sent[-1], 0]
    post("/room/delete_message", room_id=talking, openid="ming", message_id=sent[-1])
    assert post(url, openid=openid).json["rooms"][0]["last_message_id"] == sent[-1]


@pytest.mark.parametrize("url", ["/room/section", "/search"])
def test_other_lists_do_not_have_it(post, room, url):
    (found,) = post(url, section="学习", key="自习").json["rooms"]
    assert "last_message_id" not in found


def test_members_stand_in_the_order_of_joining_the_owner_first(post, open_room, find_room):
    room_id = open_room("zhang")
    for openid in ("wang", "an", "li"):
        post("/usr/join", room_id=room_id, openid=openid)
    assert find_room(room_id)["users_id"] == ["zhang", "wang", "an", "li"]


def test_a_room_is_active_once_somebody_else_is_in(post, open_room, find_room):
    room_id = open_room("ming")
    assert find_room(room_id)["state"] == 0
    post("/usr/join", room_id=room_id, openid="hong")
    assert find_room(room_id)["state"] == 1
    post("/room/kick", room_id=room_id, openid="hong")
    assert find_room(room_id)["state"] == 0


@pytest.mark.parametrize("openid", ["ming", "hong"])
def test_joining_twice_is_joining_once(post, room, find_room, openid):
    assert post("/usr/join", room_id=room, openid=openid).json == {"response_code": 1}
    assert find_room(room)["users_id"] == ["ming", "hong"]


def test_there_is_no_joining_a_room_that_does_not_exist(post, assert_refused):
    assert_refused(post("/usr/join", room_id=1, openid="hong"), 404, "room_not_found")


def test_a_room_of_500_is_full_but_its_members_may_join_again(
    post, full_room, find_room, assert_refused
):
    assert_refused(post("/usr/join", room_id=full_room, openid="late"), 409, "room_full")
    assert len(find_room(full_room)["users_id"]) == 500
    for openid in ("ming", "guest498"):
        assert post("/usr/join", room_id=full_room, openid=openid).json["response_code"] == 1
    post("/room/kick", room_id=full_room, openid="guest0")
    assert post("/usr/join", room_id=full_room, openid="late").json["response_code"] == 1
    assert find_room(full_room)["users_id"][-1] == "late"


@pytest.mark.parametrize("capacity", [2, "3", "０４"])
def test_a_room_admits_as_many_as_it_holds(post, find_room, assert_refused, capacity):
    room = {"name": "一", "section": "二", "description": "", "room_owner_id": "ming"}
    room_id = post("/room/add", **room, capacity=capacity).json["room_id"]
    guests = [f"guest{number}" for number in range(int(capacity) - 1)]
    for openid in guests:
        assert post("/usr/join", room_id=room_id, openid=openid).json["response_code"] == 1
    assert_refused(post("/usr/join", room_id=room_id, openid="late"), 409, "room_full")
    assert post("/usr/join", room_id=room_id, openid=guests[0]).json["response_code"] == 1
    assert find_room(room_id)["users_id"] == ["ming", *guests]
    assert find_room(room_id)["capacity"] == int(capacity)


@pytest.mark.parametrize("url", ["/usr/roomlist1", "/usr/roomlist2"])
def test_my_rooms_come_in_pages(post, open_room, url):
    rooms = [open_room("ming") for _ in range(5)]
    for room_id in rooms:
        post("/usr/join", room_id=room_id, openid="hong")
    openid = "ming" if url == "/usr/roomlist1" else "hong"
    pages = []
    page = post(url, openid=openid, limit=2).json
    while page["has_more"]:
        pages.append([each["room_id"] for each in page["rooms"]])
        page = post(url, openid=openid, limit="2", before=pages[-1][-1]).json
    pages.append([each["room_id"] for each in page["rooms"]])
    assert pages == [rooms[:2:-1], rooms[2:0:-1], rooms[:1]]


def test_a_page_of_rooms_ends_at_about_a_megabyte_and_paging_shows_all(
    post, open_room, database_file
):
    rooms = [open_room("明" * 64) for _ in range(30)]
    with change():
        for room_id in rooms:
            guests = [
                {"room": room_id, "joined": 10**15 + n, "openid": f"{'长' * 61}{n:03}"}
                for n in range(499)
            ]
            Member.insert_many(guests).execute()
    pages = []
    page = {"has_more": True}
    while page["has_more"]:
        before = pages[-1][-1] if pages else 10**15
        answer = post("/usr/roomlist1", openid="明" * 64, limit=500, before=before)
        assert len(answer.body) < 1.1 * 2**20
        page = answer.json
        pages.append([each["room_id"] for each in page["rooms"]])
    assert len(pages) > 2
    assert list(chain(*pages)) == rooms[::-1]
