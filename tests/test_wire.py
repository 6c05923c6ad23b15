"""What goes over the wire: forms of answers, values and their limits, refusals."""

import io
import json

import pytest

from document import BODIES, LEAST_AND_MOST, LISTS, OUT_OF_LIMITS, PAGES
from roomapp import app
from service.database import database
from service.fields import FIELDS

# Where each field can be tried.
HOMES = {
    "openid": "/usr/join",
    "sex": "/usr/complete",
    "preference": "/usr/complete",
    "nickname": "/usr/complete",
    "room_id": "/usr/join",
    "name": "/room/add",
    "section": "/room/section",
    "description": "/room/add",
    "room_owner_id": "/room/add",
    "capacity": "/room/add",
    "message": "/room/send_message",
    "message_id": "/room/delete_message",
    "request_id": "/room/send_message",
    "reason": "/room/report",
    "key": "/search",
    "limit": "/room/get_message",
    "before": "/room/get_message",
    "after": "/room/get_message",
}

every_endpoint = pytest.mark.parametrize("url", BODIES)


@pytest.fixture(autouse=True)
def somebody(post, message):
    """ming with a profile and a room, which is room 1 and has hong and a message in it."""
    post("/usr/complete", openid="ming", sex=1, preference=[])


@pytest.fixture
def send(client):
    """Send bytes as they are."""

    def send(url, body, **headers):
        return client.post(url, body, headers=headers, expect_errors=True)

    return send


@pytest.fixture
def try_value(post):
    """Send one field with a value, beside others that are fine."""

    def try_value(field, value):
        return post(HOMES[field], **{**BODIES[HOMES[field]], field: value})

    return try_value


def test_these_are_all_endpoints_and_fields():
    assert {route.rule for route in app.routes} == {*BODIES, "/time", "/usr/login", *PAGES}
    assert set(HOMES) == FIELDS.keys() - {"code"}
    assert {field for field, *_ in LEAST_AND_MOST} | {"room_id", "message_id", "code"} == set(
        FIELDS
    )


@every_endpoint
def test_every_answer_is_one_json_object_in_utf_8(post, url):
    answer = post(url, **BODIES[url])
    assert answer.status_int == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json["response_code"] == 1


def test_chinese_is_not_escaped(post):
    assert "一起自习".encode() in post("/search", key=1).body


@every_endpoint
def test_the_content_type_of_a_form_does_not_matter(send, url):
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert send(url, json.dumps(BODIES[url]).encode(), **form).json["response_code"] == 1


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data; boundary=x", "text/plain; charset=latin-1", "", "x"]
)
def test_no_content_type_matters(send, content_type):
    answer = send("/search", '{"key": "自习"}'.encode(), **{"Content-Type": content_type})
    assert answer.json["rooms"]


@every_endpoint
def test_unknown_fields_are_ignored(post, url):
    unknown = {"avatar": None, "": [1, {"2": 3}], "房间": "学习", "deep": [[[[]]]]}
    assert post(url, **unknown, **BODIES[url]).json["response_code"] == 1


@pytest.mark.parametrize(
    "url",
    ["/static", "/usr", "/room/time", "/TIME", "/%E6%88%BF%E9%97%B4", "/time%FF"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_an_unknown_url_is_not_found(client, assert_refused, url, method):
    answer = client.request(url, method=method, body=b"{", expect_errors=True)
    assert_refused(answer, 404, "not_found")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_a_wrong_method_is_told_the_right_one(client, assert_refused, method):
    for url in BODIES:
        answer = client.request(url, method=method, expect_errors=True)
        assert_refused(answer, 405, "method_not_allowed")
        assert answer.headers["Allow"] == "POST"


def test_the_time_is_got(client, assert_refused):
    answer = client.post("/time", b"{", expect_errors=True)
    assert_refused(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"room_id=1&openid=gang",
        b"[]",
        b'[{"openid": "gang"}]',
        b"null",
        b"1",
        b'"openid"',
        b'{"openid": "gang",}',
        b"{'openid': 'gang'}",
        b'{"openid": "gang"} {}',
        b'{"openid": "\xff"}',
        '{"openid": "gang"}'.encode("utf-16"),
        '{"openid": "明"}'.encode("gbk"),
        b'{"x": "\xed\xa0\x80"}',
        b'{"x": NaN}',
        b'{"x": -Infinity}',
        b"[" * 10_000,
        b'{"x": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    ],
    ids=lambda body: str(body[:24]),
)
def test_what_is_no_json_object_is_refused(send, dump, assert_refused, body):
    before = dump()
    for url in BODIES:
        assert_refused(send(url, body), 400, "invalid_json")
    assert dump() == before


def test_a_pair_of_surrogates_is_a_character(send, find_room):
    body = rb'{"name": "\ud83c\udfae", "section": "s", "description": "", "room_owner_id": "gang"}'
    assert find_room(send("/room/add", body).json["room_id"])["name"] == "🎮"


@every_endpoint
def test_a_body_over_64_kib_is_too_large(send, dump, assert_refused, url):
    before = dump()
    body = json.dumps(BODIES[url]).encode()
    assert_refused(send(url, body.ljust(64 * 1024 + 1)), 413, "too_large")
    assert dump() == before
    assert send(url, body.ljust(64 * 1024)).json["response_code"] == 1


def test_a_body_without_a_length_is_read_where_the_server_says_that_it_ends(client, find_room):
    """So gunicorn and granian hand over what came in chunks."""
    body = json.dumps(BODIES["/usr/join"]).encode()
    environ = {
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,
        "HTTP_TRANSFER_ENCODING": "chunked",
    }
    answer = client.request("/usr/join", method="POST", environ=environ)
    assert answer.json == {"response_code": 1}
    assert "gang" in find_room(1)["users_id"]


@every_endpoint
def test_a_missing_field_is_named_the_first_of_the_document_first(post, dump, assert_refused, url):
    before = dump()
    fields = list(BODIES[url])
    for count, missing in enumerate(fields):
        there = {field: BODIES[url][field] for field in fields[:count]}
        assert_refused(post(url, **there), 400, "invalid_field", field=missing)
    assert dump() == before


@pytest.mark.parametrize("field", HOMES)
def test_a_value_of_the_wrong_type_is_refused(try_value, dump, assert_refused, field):
    before = dump()
    for value in (True, 1.5, [], {}, [[]], ["学习"], {"学习": 1}):
        if (field, value) in [("key", 1.5), ("preference", []), ("preference", ["学习"])]:
            continue  # these are of the right type
        assert_refused(try_value(field, value), 400, "invalid_field", field=field)
    assert dump() == before


@pytest.mark.parametrize(("field", "least", "most"), LEAST_AND_MOST)
def test_the_limits_themselves_are_fine(post, try_value, field, least, most):
    post("/usr/join", room_id=1, openid="x")
    for value in (least, most):
        answer = try_value(field, value)
        assert answer.json["response_code"] == 1, answer.json


@pytest.mark.parametrize(("field", "values"), OUT_OF_LIMITS)
def test_a_value_out_of_its_limits_is_refused(try_value, dump, assert_refused, field, values):
    before = dump()
    for value in values:
        assert_refused(try_value(field, value), 400, "invalid_field", field=field)
    assert dump() == before


@pytest.mark.parametrize(
    "field", ["openid", "room_owner_id", "name", "section", "description", "message", "sex", "key"]
)
def test_a_control_character_is_refused(try_value, dump, assert_refused, field):
    before = dump()
    breaks = "\v\x85" if field in ("description", "message") else ""
    for control in set("\0\v\x1b\x1f\x7f\x85\x9f") - set(breaks):
        assert_refused(try_value(field, f"a{control}b"), 400, "invalid_field", field=field)
        assert_refused(
            try_value("preference", ["篮球", f"a{control}b"]), 400, "invalid_field", "preference"
        )
    assert dump() == before


@pytest.mark.parametrize("field", ["description", "message"])
def test_the_line_breaks_of_office_programs_become_ours(post, open_room, find_room, field):
    if field == "description":
        assert (
            find_room(open_room(description="一\v二\f三\x85四\r\n"))["description"]
            == "一\n二\n三\n四\r\n"
        )
    else:
        post("/room/send_message", room_id=1, openid="ming", message="一\v二\f三\x85四")
        *_, message = post("/room/get_message", room_id=1).json["messages"]
        assert message["message"] == "一\n二\n三\n四"


def test_half_of_a_surrogate_pair_becomes_the_replacement_character(send, find_room):
    body = rb'{"name": "hi \ud83d", "section": "\udfae", "description": "", "room_owner_id": "x"}'
    room = find_room(send("/room/add", body).json["room_id"])
    assert (room["name"], room["section"]) == ("hi \ufffd", "\ufffd")
    body = (
        rb'{"openid": "ming", "sex": 1, "preference": ["\ud83d x", "\ud83c\udfae"], "x": "\ud800"}'
    )
    assert send("/usr/complete", body).json["response_code"] == 1
    assert find_room(1)


@pytest.mark.parametrize(
    "blank",
    ["\u3164", "\u200b", "\u2800", "\ufe0f", "\U0001d159", "\U000e0020", "\u00ad \u3000"],
)
@pytest.mark.parametrize("field", ["name", "section", "message", "key", "sex"])
def test_what_shows_nothing_is_blank(try_value, post, dump, assert_refused, field, blank):
    before = dump()
    answer = try_value(field, blank)
    assert_refused(answer, 400, "invalid_field", field=field)
    assert answer.json["detail"].endswith("不能是空白")
    assert dump() == before


@pytest.mark.parametrize(
    "text",
    [
        "\u0301",
        "\u20dd",
        "\u0903",
        "\ufff9\ufffa\ufffb",
        "\U0001d159\u0301",
        "\u0301 \u0301",
        "\u180e",
    ],
    ids=ascii,
)
@pytest.mark.parametrize("field", ["nickname", "name", "section", "key"])
def test_a_name_has_a_character_that_shows_by_itself(try_value, dump, assert_refused, field, text):
    before = dump()
    assert_refused(try_value(field, text), 400, "invalid_field", field=field)
    assert dump() == before
    for seen in (f"e{text}", f"{text}。", f"{text}🎮", f"{text}\ue000"):
        assert try_value(field, seen).json["response_code"] == 1


def test_a_message_and_a_reason_may_be_marks_alone(try_value):
    for field in ("message", "reason", "description"):
        assert try_value(field, "\u0301").json["response_code"] == 1


def test_what_shows_nothing_is_kept_inside_a_text_and_cut_off_around_it(open_room, find_room):
    assert (
        find_room(open_room(name="\u200b⚽\ufe0f 踢\u200b球\u3164"))["name"]
        == "⚽\ufe0f 踢\u200b球"
    )


@pytest.mark.parametrize(
    ("field", "value", "detail"),
    [
        ("name", None, "房间名：没有填写"),
        ("name", 5, "房间名：应为文字"),
        ("name", " \n", "房间名：不能是空白"),
        ("name", "x" * 61, "房间名：最多 60 个字"),
        ("name", "一\n二", "房间名：不能换行"),
        ("name", "一\0二", "房间名：含有不能使用的字符"),
        ("name", "一\v二", "房间名：含有不能使用的字符"),
        ("message", "x" * 2001, "留言：最多 2000 个字"),
        ("message", "\x1b", "留言：含有不能使用的字符"),
        ("description", ["x"], "房间描述：应为文字"),
        ("openid", "a b", "openid：不能有空格"),
        ("openid", "a\u3000b", "openid：不能有空格"),
        ("openid", "a\u200bb", "openid：含有不能使用的字符"),
        ("room_id", 0, "房间号：应为正整数"),
        ("limit", 501, "limit：应为 1–500 的整数"),
        ("limit", "ten", "limit：应为 1–500 的整数"),
        ("after", -1, "after：应为 0 或正整数"),
        ("sex", 3, "性别：应为 0、1、2 或文字"),
        ("sex", "x" * 17, "性别：最多 16 个字"),
        ("preference", "篮球", "偏好：应为文字的列表"),
        ("preference", ["x"] * 51, "偏好：最多 50 项"),
        ("preference", ["x" * 31], "偏好：每项最多 30 个字"),
        ("preference", [" "], "偏好：每项不能是空白"),
    ],
)
def test_the_detail_is_true_of_the_fault(try_value, assert_refused, field, value, detail):
    answer = try_value(field, value)
    assert_refused(answer, 400, "invalid_field", field=field)
    assert answer.json["detail"] == detail


@pytest.mark.parametrize("url", LISTS)
def test_null_in_an_optional_field_counts_as_missing(post, url):
    nulls = {"limit": None, "before": None, "after": None}
    assert post(url, **BODIES[url], **nulls).json == post(url, **BODIES[url]).json
    assert post("/room/get_message", room_id=1, before=None, after=0).json["response_code"] == 1


def test_a_byte_order_mark_before_the_json_is_skipped(send):
    assert send("/search", b'\xef\xbb\xbf{"key": "x"}').json["response_code"] == 1


@pytest.mark.parametrize("url", [*BODIES, "/usr/complete/"])
def test_a_slash_at_the_end_of_a_url_is_ignored(client, post, url):
    body = BODIES[url.rstrip("/")]
    assert post(f"{url}/", **body).json["response_code"] == 1
    assert client.get("/time/").json["response_code"] == 1


@pytest.mark.parametrize("control", ["\x1c", "\x1f"])
def test_a_control_character_is_no_blank_to_be_cut_off(try_value, assert_refused, control):
    assert_refused(try_value("name", f"{control}桌游{control}"), 400, "invalid_field", field="name")


@pytest.mark.parametrize("room_id", ["1", "001", "１", "０１"])
def test_a_room_id_may_be_a_string_of_digits(try_value, room_id, find_room):
    assert try_value("room_id", room_id).json["response_code"] == 1
    assert "gang" in find_room(1)["users_id"]


@pytest.mark.parametrize("room_id", [2, 2**63, 10**30, str(10**30), "9" * 60_000])
def test_a_room_id_too_large_to_exist_is_not_found(try_value, assert_refused, room_id):
    assert_refused(try_value("room_id", room_id), 404, "room_not_found")


def test_a_number_beyond_all_floats_is_a_number_too(send, assert_refused):
    assert send("/search", b'{"key": 1e999}').json["rooms"] == []
    assert send("/search", b'{"key": "x", "unknown": -1e999}').json["response_code"] == 1
    answer = send("/usr/join", b'{"room_id": 1e999, "openid": "gang"}')
    assert_refused(answer, 400, "invalid_field", field="room_id")


def test_an_integer_of_thousands_of_digits_is_a_number_too(send, assert_refused):
    body = b'{"openid": "gang", "room_id": 1' + b"0" * 50_000 + b"}"
    assert_refused(send("/usr/join", body), 404, "room_not_found")
    assert send("/search", b'{"key": 1' + b"0" * 50_000 + b"}").json["rooms"] == []


@pytest.mark.parametrize("url", LISTS)
def test_every_list_has_a_limit(post, assert_refused, url):
    for limit in (1, 500, "1", "５００"):
        assert post(url, **BODIES[url], limit=limit).json["has_more"] is False
    assert_refused(post(url, **BODIES[url], limit=501), 400, "invalid_field", field="limit")


@every_endpoint
def test_a_page_field_that_an_endpoint_does_not_list_is_unknown_to_it(post, url):
    listed = {"limit": LISTS, "before": LISTS[:4], "after": LISTS[3:4]}
    unknown = {field: "x" for field, urls in listed.items() if url not in urls}
    assert post(url, **BODIES[url], **unknown).json["response_code"] == 1


def test_fields_are_looked_at_before_whether_the_room_exists(post, assert_refused):
    answer = post("/room/send_message", room_id=9, openid="hong", message="")
    assert_refused(answer, 400, "invalid_field", field="message")


def test_an_error_of_ours_leaves_no_trace_on_the_wire(client, database_file, assert_refused):
    database.execute_sql("DROP TABLE user")
    answer = client.post_json("/usr/info", {"openid": "ming"}, expect_errors=True)
    assert_refused(answer, 500, "server_error")
    assert "Traceback" in answer.errors
    assert "no such table" in answer.errors
