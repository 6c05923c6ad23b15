"""三、1 搜索房间: a number looks a room up, a text is matched."""

import random

import pytest

from models import Room
from service.database import change
from service.text import fold, has_visible


@pytest.fixture
def search_ids(post):
    """The room_ids that a key finds."""

    def search_ids(key, **page):
        answer = post("/search", key=key, **page).json
        assert answer["response_code"] == 1, answer
        return [each["room_id"] for each in answer["rooms"]]

    return search_ids


@pytest.mark.parametrize("key", [2, "2", "002", " 2 ", "２", "００２", 2.0])
def test_a_number_finds_the_room_with_that_room_id(open_room, search_ids, key):
    rooms = [open_room(name=f"{number} 号") for number in (3, 2, 1)]
    assert search_ids(key) == [rooms[1]]


@pytest.mark.parametrize("key", [2024, "2024", "２０２４", 2024.0, "202", 0, "0"])
def test_a_number_that_no_room_has_is_searched_for_as_a_text(open_room, search_ids, key):
    room_id = open_room(name="2024 届")
    open_room(name="别的")
    assert search_ids(key) == [room_id]


def test_a_number_that_a_room_has_finds_that_room_alone(open_room, search_ids):
    room_id = open_room(name="别的")
    open_room(name="1 班")
    assert search_ids(1) == [room_id]


@pytest.mark.parametrize("key", [0, "0", 9, -1, 1.5, 10**30, str(10**30), 2**63, 1e300])
def test_a_number_that_is_nowhere_finds_nothing(open_room, search_ids, key):
    open_room(name="4", section="5", description="6")
    assert search_ids(key) == []


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("王者荣耀", ["王者荣耀", "王者", "荣", "耀 王"]),
        ("吃鸡", ["吃鸡", "鸡"]),
        ("LOL开黑", ["lol", "LOL", "ｌｏｌ开", "黑 lol"]),
        ("ＬＯＬ", ["lol", "LOL", "Ｌ"]),
        ("C++", ["c++", "C＋＋", "+", "++ c"]),
        ("100%", ["100%", "%", "0%", "１００％"]),
        ("a_b", ["a_b", "_", "A_"]),
        ("a\\b", ["\\", "a\\b"]),
        ("🎮", ["🎮"]),
        ("Straße", ["STRASSE", "straße", "ss"]),
        ("ﬁnal", ["final", "FI"]),
        ("Café", ["cafe\u0301", "CAFÉ"]),
        ('it\'s "ok"; --', ["'s", '"ok";', "--"]),
        ("⚽", ["⚽\ufe0f"]),
        ("⚽\ufe0f踢球", ["⚽", "⚽踢", "踢\u200b球"]),
        ("aaac", ["aaa", "aac", "ac"]),
    ],
)
def test_real_names_are_found(open_room, search_ids, name, keys):
    for other in ("篮球", "100", "ab", "axb", "b a"):
        open_room(name=other, section="其他", description="无")
    room_id = open_room(name=name)
    for key in keys:
        assert search_ids(key) == [room_id], key


@pytest.mark.parametrize(
    "key", ["%", "_", "\\", "%%", "*", "?", "[", "王_荣", "王%耀", "王王", "王\\荣"]
)
def test_wild_cards_are_ordinary_characters(open_room, search_ids, key):
    open_room(name="王者荣耀")
    assert search_ids(key) == []


def test_every_part_must_occur_somewhere(open_room, search_ids):
    room_id = open_room(name="五排", section="王者荣耀", description="今晚八点")
    assert search_ids("五排 王者 今晚") == [room_id]
    assert search_ids("今晚\u3000八点") == [room_id]
    assert search_ids("五排 明天") == []


def test_parts_do_not_reach_across_fields(open_room, search_ids):
    open_room(name="五排", section="王者", description="")
    assert search_ids("排王") == []


def test_the_best_come_first_and_the_newest_among_equals(open_room, search_ids):
    rest = open_room(name="水友赛", section="电竞", description="lol 开黑")
    in_name = open_room(name="今晚 LOL 一起开黑", section="电竞", description="")
    across = open_room(name="开黑", section="LOL", description="")
    exact = open_room(name="LOL  开黑", section="电竞", description="")
    newer = {
        "rest": open_room(name="电竞社", section="社团", description="开黑 lol"),
        "across": open_room(name="lol", section="开黑", description=""),
        "in_name": open_room(name="开黑lol", section="电竞", description=""),
        "exact": open_room(name="ＬＯＬ\u3000开黑", section="电竞", description=""),
    }
    assert search_ids("lol 开黑") == [
        newer["exact"],
        exact,
        newer["in_name"],
        in_name,
        newer["across"],
        newer["rest"],
        across,
        rest,
    ]


def test_a_search_has_a_limit(post, open_room):
    rooms = [open_room(name="开黑") for _ in range(3)]
    page = post("/search", key="开黑", limit=2).json
    assert [each["room_id"] for each in page["rooms"]] == [rooms[2], rooms[1]]
    assert page["has_more"] is True
    page = post("/search", key="开黑", limit=3, before=rooms[0]).json
    assert len(page["rooms"]) == 3, "before is no field of a search"
    assert page["has_more"] is False


@pytest.mark.parametrize(
    "key", ["a b " * 14 + "c", "ﷺ" * 60, "¨´¸˘˙" * 12, "\u3000".join("开" * 30)]
)
def test_the_longest_keys_are_searched(search_ids, open_room, key):
    room_id = open_room(name=key[:60])
    assert search_ids(key[:60]) == [room_id]


def test_a_key_of_many_different_parts_is_searched(search_ids, open_room):
    parts = "abcdefghijklmnopqrstuvwxyz0123"
    room_id = open_room(name=parts)
    assert search_ids(" ".join(parts)[:60]) == [room_id]


def expected_ids(rooms, key):
    """What a search is defined to find, by reading the folded texts of every room."""
    key = fold(key)
    parts = key.split()
    ranked = []
    for room_id, texts in rooms:
        if all(any(part in text for text in texts) for part in parts):
            in_name = all(part in texts[0] for part in parts)
            rank = 0 if texts[0] == key else 1 if in_name else 2
            ranked.append((rank, -room_id))
    return [-room_id for _, room_id in sorted(ranked)]


@pytest.mark.parametrize(
    ("rooms", "keys"), [(300, 300), pytest.param(3000, 3000, marks=pytest.mark.slow)]
)
def test_a_search_finds_what_reading_every_room_finds_in_the_same_order(
    search_ids, post, rooms, keys
):
    luck = random.Random(rooms)
    alphabet = "ab王者🎮🏸%_\\\"'*-Ａßﬁé\u0301İ+(\U00020000" + " " * 6

    def text(at_most):
        return "".join(luck.choices(alphabet, k=luck.randint(1, at_most)))

    with change():
        for _ in range(rooms):
            Room.open(text(8).strip() or "a", text(3).strip() or "b", text(20), "ming")
    for room_id in luck.sample(range(1, rooms + 1), rooms // 10):
        assert post("/room/delete", room_id=room_id, openid="ming").json["response_code"] == 1
    left = [
        (room.room_id, [fold(text) for text in (room.name, room.section, room.description)])
        for room in Room.select()
    ]
    several = 0
    for _ in range(keys):
        if not has_visible(key := text(luck.choice([1, 2, 3, 6]))):
            continue
        limit = luck.choice([1, 5, 100])
        expected = expected_ids(left, key)
        assert search_ids(key, limit=limit) == expected[:limit], key
        several += len(expected) > 1
    assert several > keys / 10, "most keys are not in vain"
