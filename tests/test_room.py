"""二、房间: sections, opening, taking out, deleting, messages."""

import pytest


@pytest.fixture
def talk(post, room):
    """Ten messages of ming and hong in a room; their message_ids."""
    return [
        post(
            "/room/send_message",
            room_id=room,
            openid=("ming", "hong")[number % 2],
            message=f"第 {number} 句",
        ).json["message_id"]
        for number in range(10)
    ]


@pytest.fixture
def messages(post, room):
    """The message_ids that get_message answers with, and has_more."""

    def messages(**page):
        answer = post("/room/get_message", room_id=room, **page).json
        assert answer["response_code"] == 1, answer
        return [each["message_id"] for each in answer["messages"]], answer["has_more"]

    return messages


def test_a_section_lists_its_rooms_newest_first(post, open_room):
    first = open_room(section="羽毛球")
    open_room(section="羽毛球 双打")
    second = open_room(section="羽毛球")
    rooms = post("/room/section", section="羽毛球").json["rooms"]
    assert [each["room_id"] for each in rooms] == [second, first]


@pytest.mark.parametrize(
    ("section", "asked"),
    [("LOL", "lol"), ("ＬＯＬ", "LOL"), ("Straße", "STRASSE"), ("a  b", " A\u3000b "), ("3", 3)],
)
def test_sections_are_compared_folded(post, open_room, section, asked):
    room_id = open_room(section=section)
    (room,) = post("/room/section", section=asked).json["rooms"]
    assert (room["room_id"], room["section"]) == (room_id, section)


def test_a_picker_index_is_a_section(post, open_room, find_room):
    room_id = open_room(section=3)
    assert find_room(room_id)["section"] == "3"


def test_an_unknown_section_is_empty(post, room):
    assert post("/room/section", section="没有").json == {
        "response_code": 1,
        "rooms": [],
        "nicknames": {},
        "has_more": False,
    }


def test_a_section_comes_in_pages(post, open_room):
    rooms = [open_room() for _ in range(3)]
    page = post("/room/section", section="学习", limit=2).json
    assert [each["room_id"] for each in page["rooms"]] == [rooms[2], rooms[1]]
    assert page["has_more"] is True
    page = post("/room/section", section="学习", limit=2, before=rooms[1]).json
    assert [each["room_id"] for each in page["rooms"]] == [rooms[0]]
    assert page["has_more"] is False


def test_a_page_has_100_rooms_unless_asked(post, open_room):
    for _ in range(101):
        open_room()
    page = post("/room/section", section="学习").json
    assert (len(page["rooms"]), page["has_more"]) == (100, True)
    page = post("/room/section", section="学习", limit=101).json
    assert (len(page["rooms"]), page["has_more"]) == (101, False)


def test_room_ids_count_up_from_1_and_are_never_used_again(post, open_room):
    assert [open_room(), open_room()] == [1, 2]
    post("/room/delete", room_id=2, openid="ming")
    assert open_room() == 3


def test_blanks_around_name_and_section_are_cut_off_but_description_is_kept(
    post, open_room, find_room
):
    room = find_room(
        open_room(name=" \u3000一起 自习\n", section="\t学习 ", description=" 图书馆\n三楼 ")
    )
    assert (room["name"], room["section"]) == ("一起 自习", "学习")
    assert room["description"] == " 图书馆\n三楼 "


def test_a_member_can_be_taken_out(post, room, find_room, assert_refused):
    assert post("/room/kick", room_id=room, openid="hong").json == {"response_code": 1}
    assert find_room(room)["users_id"] == ["ming"]
    assert_refused(post("/room/kick", room_id=room, openid="hong"), 404, "member_not_found")


def test_what_a_former_member_said_stays_and_who_joins_again_stands_last(post, room, find_room):
    post("/usr/join", room_id=room, openid="gang")
    post("/room/send_message", room_id=room, openid="hong", message="我先走了")
    post("/room/kick", room_id=room, openid="hong")
    (message,) = post("/room/get_message", room_id=room).json["messages"]
    assert (message["openid"], message["message"]) == ("hong", "我先走了")
    post("/usr/join", room_id=room, openid="hong")
    assert find_room(room)["users_id"] == ["ming", "gang", "hong"]


def test_the_owner_cannot_be_taken_out(post, room, find_room, assert_refused):
    assert_refused(post("/room/kick", room_id=room, openid="ming"), 409, "owner_cannot_leave")
    assert find_room(room)["users_id"] == ["ming", "hong"]


def test_nobody_is_taken_out_of_a_room_that_does_not_exist(post, assert_refused):
    assert_refused(post("/room/kick", room_id=1, openid="ming"), 404, "room_not_found")


@pytest.mark.parametrize("openid", ["hong", "nobody"])
def test_only_the_owner_deletes_a_room(post, room, find_room, assert_refused, openid):
    assert_refused(post("/room/delete", room_id=room, openid=openid), 403, "not_owner")
    assert find_room(room)


def test_a_deleted_room_is_gone_for_ever_with_members_and_messages(
    post, room, talk, assert_refused, dump
):
    assert post("/room/delete", room_id=room, openid="ming").json == {"response_code": 1}
    for url, fields in [
        ("/usr/join", {"openid": "gang"}),
        ("/room/kick", {"openid": "hong"}),
        ("/room/delete", {"openid": "ming"}),
        ("/room/get_message", {}),
        ("/room/send_message", {"openid": "hong", "message": "在吗"}),
    ]:
        assert_refused(post(url, room_id=room, **fields), 404, "room_not_found")
    assert post("/usr/roomlist1", openid="ming").json["rooms"] == []
    assert post("/usr/roomlist2", openid="hong").json["rooms"] == []
    assert post("/room/section", section="学习").json["rooms"] == []
    assert post("/search", key="自习").json["rooms"] == []
    assert "hong" not in "".join(dump())


def test_a_message_is_shown_as_it_was_sent(post, room):
    text = "  第一行\n\t第二行 <b>100%</b> 🎮 \r\n"
    sent = post("/room/send_message", room_id=room, openid="hong", message=text).json
    assert sent.keys() == {"response_code", "message_id", "time"}
    assert post("/room/get_message", room_id=room).json == {
        "response_code": 1,
        "messages": [
            {
                "openid": "hong",
                "message": text,
                "time": sent["time"],
                "message_id": sent["message_id"],
            }
        ],
        "nicknames": {},
        "has_more": False,
    }


def test_only_members_send(post, room, assert_refused):
    answer = post("/room/send_message", room_id=room, openid="gang", message="在吗")
    assert_refused(answer, 403, "not_member")
    assert post("/room/get_message", room_id=room).json["messages"] == []


def test_messages_stay_in_their_room(post, open_room, room, talk):
    assert post("/room/get_message", room_id=open_room()).json["messages"] == []


def test_message_ids_grow_across_rooms_and_deletions(post, open_room, room, talk):
    post("/room/delete", room_id=room, openid="ming")
    other = open_room("ming")
    sent = post("/room/send_message", room_id=other, openid="ming", message="新房间").json
    assert sent["message_id"] > talk[-1]


def test_messages_are_the_newest_page_in_order_of_sending(talk, messages):
    assert messages() == (talk, False)
    assert messages(limit=4) == (talk[6:], True)
    assert messages(limit=10) == (talk, False)


def test_before_leads_to_older_messages(talk, messages):
    assert messages(limit=4, before=talk[6]) == (talk[2:6], True)
    assert messages(limit=4, before=talk[2]) == (talk[:2], False)
    assert messages(before=talk[0]) == ([], False)


def test_after_leads_to_newer_messages_the_oldest_first(talk, messages):
    assert messages(limit=4, after=0) == (talk[:4], True)
    assert messages(limit=4, after=str(talk[3])) == (talk[4:8], True)
    assert messages(limit=4, after=talk[7]) == (talk[8:], False)
    assert messages(after=talk[9]) == ([], False)
    assert messages(after=10**30) == ([], False)


def test_before_and_after_together_are_refused(post, room, assert_refused):
    answer = post("/room/get_message", room_id=room, before=5, after=1)
    assert_refused(answer, 400, "invalid_field", field="after")


def test_a_page_has_100_messages_unless_asked(post, room):
    for number in range(101):
        post("/room/send_message", room_id=room, openid="ming", message=str(number))
    page = post("/room/get_message", room_id=room).json
    assert [each["message"] for each in page["messages"]] == [str(n) for n in range(1, 101)]
    assert page["has_more"] is True


def test_a_page_of_messages_ends_at_about_a_megabyte_and_paging_shows_all(post, room):
    sent = []
    for number in range(300):
        message = f"{number} {'🎮' * 1990}"
        answer = post("/room/send_message", room_id=room, openid="ming", message=message)
        sent.append(answer.json["message_id"])

    def page(**bounds):
        answer = post("/room/get_message", room_id=room, limit=500, **bounds)
        assert len(answer.body) < 1.1 * 2**20
        return [each["message_id"] for each in answer.json["messages"]], answer.json["has_more"]

    older, has_more = page()
    while has_more:
        ids, has_more = page(before=older[0])
        older = ids + older
    newer, has_more = page(after=0)
    while has_more:
        ids, has_more = page(after=newer[-1])
        newer += ids
    assert older == newer == sent


# Editing


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("name", " 一起 刷题\n", "一起 刷题"),
        ("section", 3, "3"),
        ("description", "", ""),
        ("description", "四楼\n靠窗", "四楼\n靠窗"),
        ("capacity", "2", 2),
    ],
)
def test_the_owner_changes_one_field_and_the_others_stay(
    post, room, find_room, field, value, shown
):
    before = find_room(room)
    answer = post("/room/complete", room_id=room, openid="ming", **{field: value})
    assert answer.json == {"response_code": 1}
    assert find_room(room) == {**before, field: shown}


def test_several_fields_change_together_and_null_stays(post, room, find_room):
    changes = {"name": "二", "section": "运动", "description": "三", "capacity": 9}
    post("/room/complete", room_id=str(room), openid="ming", **changes)
    post("/room/complete", room_id=room, openid="ming", **dict.fromkeys(changes))
    found = find_room(room)
    assert {field: found[field] for field in changes} == changes


def test_an_edited_room_is_found_by_what_it_says_now(post, room):
    def found(url, **fields):
        return [each["room_id"] for each in post(url, **fields).json["rooms"]]

    other = post("/room/add", name="自习", section="x", description="", room_owner_id="hong")
    post("/room/complete", room_id=room, openid="ming", name="ＬＯＬ 开黑", section="游戏")
    post("/room/complete", room_id=room, openid="ming", description="今晚八点")
    assert found("/search", key="lol 开黑") == found("/search", key="八点") == [room]
    assert found("/room/section", section="游戏") == [room]
    assert found("/search", key="自习") == [other.json["room_id"]]
    assert found("/search", key="图书馆") == found("/room/section", section="学习") == []


@pytest.mark.parametrize(
    "changes", [{}, {"name": "一起自习 "}, {"capacity": 500, "section": "学习"}, {"name": None}]
)
def test_an_edit_that_changes_nothing_moves_nothing(post, room, dump, changes):
    before = dump()
    answer = post("/room/complete", room_id=room, openid="ming", **changes)
    assert answer.json == {"response_code": 1}
    assert dump() == before


@pytest.mark.parametrize("openid", ["hong", "nobody"])
def test_only_the_owner_edits(post, room, dump, assert_refused, openid):
    before = dump()
    answer = post("/room/complete", room_id=room, openid=openid, name="二")
    assert_refused(answer, 403, "not_owner")
    assert dump() == before


def test_what_is_wrong_with_an_edit_changes_nothing(post, room, dump, assert_refused):
    before = dump()
    fine = {"room_id": room, "openid": "ming", "name": "二"}
    for field, value in [("name", ""), ("section", []), ("description", 5), ("capacity", 1)]:
        answer = post("/room/complete", **{**fine, field: value})
        assert_refused(answer, 400, "invalid_field", field)
    answer = post("/room/complete", **{**fine, "capacity": 0, "section": ""})
    assert_refused(answer, 400, "invalid_field", "section")
    answer = post("/room/complete", **{**fine, "room_id": 9})
    assert_refused(answer, 404, "room_not_found")
    assert dump() == before


def test_a_room_holds_no_fewer_than_are_in_it(post, room, find_room, dump, assert_refused):
    post("/usr/join", room_id=room, openid="gang")
    before = dump()
    answer = post("/room/complete", room_id=room, openid="ming", capacity=2, name="二")
    assert_refused(answer, 409, "capacity_too_small")
    assert dump() == before
    post("/room/complete", room_id=room, openid="ming", capacity=3)
    answer = post("/usr/join", room_id=room, openid="late")
    assert_refused(answer, 409, "room_full")
    post("/room/complete", room_id=room, openid="ming", name="满了也能改", capacity=4)
    assert find_room(room)["name"] == "满了也能改"
    assert post("/usr/join", room_id=room, openid="late").json["response_code"] == 1


# Deleting a message


@pytest.mark.parametrize("openid", ["hong", "ming"])
def test_the_sender_and_the_owner_delete_a_message_which_keeps_its_place(
    post, room, talk, messages, openid
):
    for _ in range(2):  # twice is once
        answer = post("/room/delete_message", room_id=room, openid=openid, message_id=talk[3])
        assert answer.json == {"response_code": 1}
    assert messages() == (talk, False)
    assert messages(limit=2, after=talk[2]) == (talk[3:5], True)
    shown = post("/room/get_message", room_id=room).json["messages"]
    assert [each["message"] for each in shown].index("") == 3
    assert shown[3]["openid"] == "hong"


def test_who_has_left_still_deletes_what_they_said(post, room, talk):
    post("/room/kick", room_id=room, openid="hong")
    answer = post("/room/delete_message", room_id=room, openid="hong", message_id=str(talk[1]))
    assert answer.json == {"response_code": 1}


@pytest.mark.parametrize("again", [False, True])
def test_nobody_else_deletes_a_message(post, room, talk, dump, assert_refused, again):
    post("/usr/join", room_id=room, openid="gang")
    if again:
        post("/room/delete_message", room_id=room, openid="ming", message_id=talk[0])
    before = dump()
    for openid in ("hong", "gang", "nobody"):
        answer = post("/room/delete_message", room_id=room, openid=openid, message_id=talk[0])
        assert_refused(answer, 403, "not_owner")
    assert dump() == before


def test_a_message_that_does_not_exist_is_not_found(post, open_room, room, talk, assert_refused):
    other = open_room()
    for room_id, message_id, error in [
        (room, talk[-1] + 1, "message_not_found"),
        (other, talk[0], "message_not_found"),
        (room, 10**30, "message_not_found"),
        (9, talk[0], "room_not_found"),
    ]:
        answer = post("/room/delete_message", room_id=room_id, openid="ming", message_id=message_id)
        assert_refused(answer, 404, error)


@pytest.fixture
def bytes_on_disk(database_file):
    return lambda: b"".join(each.read_bytes() for each in database_file.parent.glob("roomapp.db*"))


@pytest.fixture
def secrets(post, room):
    """Three messages, in the middle those with texts that will be deleted; their message_ids."""
    return [
        post("/room/send_message", room_id=room, openid="hong", message=text).json["message_id"]
        for text in ("早", "绝密", "绝密" * 1000, "晚" * 500)
    ][1:3]


def test_the_text_of_a_deleted_message_is_nowhere_in_the_files(post, room, secrets, bytes_on_disk):
    assert "绝密".encode() in bytes_on_disk()
    for message_id in secrets:
        post("/room/delete_message", room_id=room, openid="hong", message_id=message_id)
    assert "绝密".encode() not in bytes_on_disk()


def test_a_reader_in_the_way_keeps_a_deleted_text_until_the_next_write(
    post, room, secrets, bytes_on_disk, other_program
):
    other_program.execute("BEGIN")
    other_program.execute("SELECT * FROM clock").fetchone()
    for message_id in secrets:
        answer = post("/room/delete_message", room_id=room, openid="hong", message_id=message_id)
        assert answer.json == {"response_code": 1}
    assert "绝密".encode() in bytes_on_disk()
    other_program.execute("COMMIT")
    post("/usr/join", room_id=room, openid="gang")
    assert "绝密".encode() not in bytes_on_disk()


# Nicknames


@pytest.fixture
def named(post, room):
    """ming, hong and a stranger have nicknames; gang, in the room, has a profile without one."""
    for openid, nickname in [("ming", "小明"), ("hong", "阿红"), ("li", "李"), ("gang", None)]:
        post("/usr/complete", openid=openid, sex=0, preference=[], nickname=nickname)
    post("/usr/join", room_id=room, openid="gang")


@pytest.mark.parametrize(
    ("url", "fields", "nicknames"),
    [
        ("/usr/roomlist1", {"openid": "ming"}, {"ming": "小明"}),
        ("/usr/roomlist2", {"openid": "gang"}, {"ming": "小明"}),
        ("/room/section", {"section": "学习"}, {"ming": "小明"}),
        ("/search", {"key": "自习"}, {"ming": "小明"}),
        ("/search", {"key": 1}, {"ming": "小明", "hong": "阿红"}),
        ("/usr/roomlist1", {"openid": "li"}, {}),
    ],
)
def test_lists_of_rooms_have_the_nicknames_of_owners_or_of_one_rooms_members(
    named, post, url, fields, nicknames
):
    assert post(url, **fields).json["nicknames"] == nicknames


def test_messages_have_the_nicknames_of_those_who_sent_them(named, post, room):
    for openid in ("gang", "hong", "ming", "hong"):
        post("/room/send_message", room_id=room, openid=openid, message="嗨")
    post("/room/kick", room_id=room, openid="hong")
    both = {"hong": "阿红", "ming": "小明"}
    assert post("/room/get_message", room_id=room).json["nicknames"] == both
    last = post("/room/get_message", room_id=room, limit=1).json["nicknames"]
    assert last == {"hong": "阿红"}
    post("/usr/complete", openid="hong", sex=0, preference=[], nickname='"红"\\')
    last = post("/room/get_message", room_id=room, limit=1).json["nicknames"]
    assert last == {"hong": '"红"\\'}
