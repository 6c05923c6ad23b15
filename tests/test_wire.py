"""What goes over the wire: forms of answers, values and their limits, refusals."""

import io
import json

import pytest

from document import BODIES, LEAST_AND_MOST, LISTS, OUT_OF_LIMITS, PAGES
from models import database
from roomapp import app

# Where each field can be tried.
HOMES = {
    "openid": "/usr/join",
    "sex": "/usr/complete",
    "preference": "/usr/complete",
    "room_id": "/usr/join",
    "name": "/room/add",
    "section": "/room/section",
    "description": "/room/add",
    "room_owner_id": "/room/add",
    "message": "/room/send_message",
    "key": "/search",
    "limit": "/room/get_message",
    "before": "/room/get_message",
    "after": "/room/get_message",
}

every_endpoint = pytest.mark.parametrize("url", BODIES)


@pytest.fixture(autouse=True)
def somebody(post, room):
    """ming with a profile and a room, which is room 1 and has hong in it."""
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
    fields = {field for body in BODIES.values() for field in body}
    assert set(HOMES) == fields | {"limit", "before", "after"}


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
    ["/static", "/usr", "/usr/join/", "/room/time", "/TIME", "/%E6%88%BF%E9%97%B4", "/time%FF"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_an_unknown_url_is_not_found(client, refused, url, method):
    answer = client.request(url, method=method, body=b"{", expect_errors=True)
    refused(answer, 404, "not_found")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_a_wrong_method_is_told_the_right_one(client, refused, method):
    for url in BODIES:
        answer = client.request(url, method=method, expect_errors=True)
        refused(answer, 405, "method_not_allowed")
        assert answer.headers["Allow"] == "POST"


def test_the_time_is_got(client, refused):
    answer = client.post("/time", b"{", expect_errors=True)
    refused(answer, 405, "method_not_allowed")
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
        rb'{"x": "\ud800"}',
        rb'{"\udc00": 1}',
        rb'{"x": [{"y": ["\ud83c x"]}]}',
        b'{"x": NaN}',
        b'{"x": -Infinity}',
        b"[" * 10_000,
        b'{"x": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    ],
    ids=lambda body: str(body[:24]),
)
def test_what_is_no_json_object_is_refused(send, kept, refused, body):
    before = kept()
    for url in BODIES:
        refused(send(url, body), 400, "invalid_json")
    assert kept() == before


def test_a_pair_of_surrogates_is_a_character(send, seen):
    body = rb'{"name": "\ud83c\udfae", "section": "s", "description": "", "room_owner_id": "gang"}'
    assert seen(send("/room/add", body).json["room_id"])["name"] == "🎮"


@every_endpoint
def test_a_body_over_64_kib_is_too_large(send, kept, refused, url):
    before = kept()
    body = json.dumps(BODIES[url]).encode()
    refused(send(url, body.ljust(64 * 1024 + 1)), 413, "too_large")
    assert kept() == before
    assert send(url, body.ljust(64 * 1024)).json["response_code"] == 1


def test_a_body_without_a_length_is_read_where_the_server_says_that_it_ends(client, seen):
    """So gunicorn and granian hand over what came in chunks."""
    body = json.dumps(BODIES["/usr/join"]).encode()
    environ = {
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,
        "HTTP_TRANSFER_ENCODING": "chunked",
    }
    answer = client.request("/usr/join", method="POST", environ=environ)
    assert answer.json == {"response_code": 1}
    assert "gang" in seen(1)["users_id"]


@every_endpoint
def test_a_missing_field_is_named_the_first_of_the_document_first(post, kept, refused, url):
    before = kept()
    fields = list(BODIES[url])
    for count, missing in enumerate(fields):
        there = {field: BODIES[url][field] for field in fields[:count]}
        refused(post(url, **there), 400, "invalid_field", field=missing)
    assert kept() == before


@pytest.mark.parametrize("field", HOMES)
def test_a_value_of_the_wrong_type_is_refused(try_value, kept, refused, field):
    before = kept()
    for value in (None, True, 1.5, [], {}, [[]], ["学习"], {"学习": 1}):
        if (field, value) in [("key", 1.5), ("preference", []), ("preference", ["学习"])]:
            continue  # these are of the right type
        refused(try_value(field, value), 400, "invalid_field", field=field)
    assert kept() == before


@pytest.mark.parametrize(("field", "least", "most"), LEAST_AND_MOST)
def test_the_limits_themselves_are_fine(post, try_value, field, least, most):
    post("/usr/join", room_id=1, openid="x")
    for value in (least, most):
        answer = try_value(field, value)
        assert answer.json["response_code"] == 1, answer.json


@pytest.mark.parametrize(("field", "values"), OUT_OF_LIMITS)
def test_a_value_out_of_its_limits_is_refused(try_value, kept, refused, field, values):
    before = kept()
    for value in values:
        refused(try_value(field, value), 400, "invalid_field", field=field)
    assert kept() == before


@pytest.mark.parametrize(
    "field", ["openid", "room_owner_id", "name", "section", "description", "message", "sex", "key"]
)
def test_a_control_character_is_refused(try_value, kept, refused, field):
    before = kept()
    for control in "\0\x0b\x1b\x1f\x7f\x85\x9f":
        refused(try_value(field, f"a{control}b"), 400, "invalid_field", field=field)
        refused(
            try_value("preference", ["篮球", f"a{control}b"]), 400, "invalid_field", "preference"
        )
    assert kept() == before


@pytest.mark.parametrize("control", ["\x1c", "\x1f"])
def test_a_control_character_is_no_blank_to_be_cut_off(try_value, refused, control):
    refused(try_value("name", f"{control}桌游{control}"), 400, "invalid_field", field="name")


@pytest.mark.parametrize("room_id", ["1", "001", "１", "０１"])
def test_a_room_id_may_be_a_string_of_digits(try_value, room_id, seen):
    assert try_value("room_id", room_id).json["response_code"] == 1
    assert "gang" in seen(1)["users_id"]


@pytest.mark.parametrize("room_id", [2, 2**63, 10**30, str(10**30), "9" * 60_000])
def test_a_room_id_too_large_to_exist_is_not_found(try_value, refused, room_id):
    refused(try_value("room_id", room_id), 404, "room_not_found")


def test_a_number_beyond_all_floats_is_a_number_too(send, refused):
    assert send("/search", b'{"key": 1e999}').json["rooms"] == []
    assert send("/search", b'{"key": "x", "unknown": -1e999}').json["response_code"] == 1
    answer = send("/usr/join", b'{"room_id": 1e999, "openid": "gang"}')
    refused(answer, 400, "invalid_field", field="room_id")


def test_an_integer_of_thousands_of_digits_is_a_number_too(send, refused):
    body = b'{"openid": "gang", "room_id": 1' + b"0" * 50_000 + b"}"
    refused(send("/usr/join", body), 404, "room_not_found")
    assert send("/search", b'{"key": 1' + b"0" * 50_000 + b"}").json["rooms"] == []


@pytest.mark.parametrize("url", LISTS)
def test_every_list_has_a_limit(post, refused, url):
    for limit in (1, 500, "1", "５００"):
        assert post(url, **BODIES[url], limit=limit).json["has_more"] is False
    refused(post(url, **BODIES[url], limit=501), 400, "invalid_field", field="limit")


@every_endpoint
def test_a_page_field_that_an_endpoint_does_not_list_is_unknown_to_it(post, url):
    listed = {"limit": LISTS, "before": LISTS[:4], "after": LISTS[3:4]}
    unknown = {field: "x" for field, urls in listed.items() if url not in urls}
    assert post(url, **BODIES[url], **unknown).json["response_code"] == 1


def test_fields_are_looked_at_before_whether_the_room_exists(post, refused):
    answer = post("/room/send_message", room_id=9, openid="hong", message="")
    refused(answer, 400, "invalid_field", field="message")


def test_an_error_of_ours_leaves_no_trace_on_the_wire(client, database_file, refused):
    database.execute_sql("DROP TABLE user")
    answer = client.post_json("/usr/info", {"openid": "ming"}, expect_errors=True)
    refused(answer, 500, "server_error")
    assert "Traceback" in answer.errors
    assert "no such table" in answer.errors
