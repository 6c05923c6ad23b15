"""The document that machines read says what the service does, no less and no more."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections import OrderedDict
from contextlib import closing
from functools import cache, partial

import pytest

for package in ("hypothesis", "jsonschema_rs", "openapi_spec_validator"):
    pytest.importorskip(package, reason=f"needs {package}: pip install -r tests/requirements.txt")

import jsonschema_rs
from hypothesis import given
from hypothesis import strategies as st
from openapi_spec_validator import validate

import roomapp
from document import (
    BEYOND_SCHEMAS,
    BODIES,
    CHANGING,
    LEAST_AND_MOST,
    OPTIONAL,
    OUT_OF_LIMITS,
    PAGES,
    RATES,
)
from models import MEMBERS_AT_MOST, Ban
from processes import ONE_SHOT, PROJECT, environment
from roomapp import ERRORS, app, document
from service import database as file
from service import options
from service.database import change, close_database, database
from service.fields import FIELDS
from service.schema import open_database
from service.text import BLANKS
from wechat_server import stand_in

DOCUMENT = document()
OPERATIONS = {
    url: operation
    for url, by_method in DOCUMENT["paths"].items()
    for operation in by_method.values()
}
# In which order the example requests tell the life of a room.
LIFE = [
    "/usr/complete",
    "/usr/info",
    "/room/add",
    "/usr/join",
    "/usr/roomlist1",
    "/usr/roomlist2",
    "/room/section",
    "/search",
    "/room/send_message",
    "/room/get_message",
    "/time",
    "/room/report",
    "/room/complete",
    "/room/delete_message",
    "/room/kick",
    "/room/delete",
    "/usr/delete",
]
VERIFYING = ["ROOMAPP_WECHAT_APPID", "ROOMAPP_WECHAT_SECRET", "ROOMAPP_WECHAT_API"]


def resolve(described):
    """What a part of the document says, or what it refers to."""
    while "$ref" in described:
        part = DOCUMENT
        for name in described["$ref"].removeprefix("#/").split("/"):
            part = part[name]
        described = part
    return described


def json_of(described):
    return resolve(described)["content"]["application/json"]


def validator(schema):
    return jsonschema_rs.validator_for({**schema, "components": DOCUMENT["components"]})


@cache
def of_field(name):
    return validator(DOCUMENT["components"]["schemas"][name])


def assert_conforms(url, answer):
    """Check an answer against what the document says of its endpoint and status."""
    described = resolve(OPERATIONS[url]["responses"][str(answer.status_int)])
    validator(json_of(described)["schema"]).validate(answer.json)
    assert answer.content_type == "application/json"
    assert_headers(answer)


def assert_headers(answer):
    """Check the headers that every answer of such a status has."""
    patterns = {
        401: ("WWW-Authenticate", "Bearer"),
        405: ("Allow", "GET|POST"),
        429: ("Retry-After", r"\d+"),
    }
    if answer.status_int in patterns:
        name, pattern = patterns[answer.status_int]
        assert re.fullmatch(pattern, answer.headers[name])


@pytest.fixture(autouse=True)
def settings():
    """Once the environment is again as it was, have it read again."""
    yield
    options.setting.cache_clear()


@pytest.fixture
def verified_mode(monkeypatch):
    with stand_in() as wechat:
        for name, value in zip(VERIFYING, ("wx0", "0", wechat.api), strict=True):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("ROOMAPP_CHECK_TEXT", "0")
        for limit in RATES:
            monkeypatch.setattr(limit, "used_until", OrderedDict())
        options.setting.cache_clear()
        yield wechat


@pytest.fixture
def token(post):
    """Log in as somebody; the headers of their calls."""

    def token(openid):
        answer = post("/usr/login", code=f"code-{openid}").json
        return {"Authorization": f"Bearer {answer['token']}"}

    return token


@pytest.fixture
def somebody(post, message):
    """ming with a profile and a room, which is room 1 and has hong and a message in it."""
    post("/usr/complete", openid="ming", sex=1, preference=[])


def test_it_is_valid():
    validate(DOCUMENT)


def with_server(url):
    return {**DOCUMENT, "servers": [{"url": url}]}


def test_it_is_what_the_service_gives_with_its_own_address(client):
    answer = client.get("/openapi.json", headers={"Host": "192.0.2.1:8080"})
    assert answer.json == with_server("http://192.0.2.1:8080")
    assert answer.content_type == "application/json"


def test_the_running_service_gives_it_whatever_is_pulled_meanwhile(start, tmp_path):
    folder = tmp_path / "service"
    folder.mkdir()
    for part in ("roomapp.py", "models.py", "search.py"):
        shutil.copy(PROJECT / part, folder)
    shutil.copytree(PROJECT / "service", folder / "service")
    options = ["--port=0", f"--database={tmp_path / 'roomapp.db'}"]
    server = start(arguments=[sys.executable, str(folder / "roomapp.py"), *options])
    for part in folder.rglob("*.py"):
        part.write_text("raise ImportError", encoding="utf-8")
    own = with_server(f"http://127.0.0.1:{server.port}")
    assert server.request("GET", "/openapi.json") == (200, own)


def test_the_endpoints_are_those_of_the_code_in_its_order():
    routes = [(route.rule, route.method) for route in app.routes if route.rule not in PAGES]
    documented = [
        (url, method.upper()) for url, methods in DOCUMENT["paths"].items() for method in methods
    ]
    assert documented == routes


def test_callers_say_who_they_are_where_that_is_verified():
    """Postman takes the first way, so that one must not be to say nothing."""
    for url, operation in OPERATIONS.items():
        ways = [{"bearer": []}, {}] if url in BODIES else None
        assert operation.get("security") == ways


def test_every_text_is_chinese():
    found = list(texts({name: DOCUMENT[name] for name in ("info", "paths", "components")}))
    assert len(found) > 100
    for text in found:
        assert re.search("[\u4e00-\u9fff]", text), text


def test_the_summaries_are_the_headings_of_the_interface_document():
    assert [operation["summary"] for operation in OPERATIONS.values()] == [
        "完善个人信息",
        "查看个人信息",
        "我的房间（我发起的）",
        "我的房间（我参与的）",
        "加入房间",
        "登录",
        "注销",
        "由分区名得到房间列表",
        "创建房间",
        "踢人",
        "删除房间",
        "获得房间消息列表",
        "留言",
        "修改房间",
        "删除留言",
        "举报",
        "搜索房间",
        "最新时间",
    ]


def texts(part):
    """Every summary and description, but for those of examples, some of which are data."""
    for name, inner in part.items():
        if name in ("summary", "description") and isinstance(inner, str):
            yield inner
        elif isinstance(inner, dict) and name not in ("example", "examples"):
            yield from texts(inner)


# Fields


@pytest.mark.parametrize("url", BODIES)
def test_the_fields_are_those_that_are_looked_at(somebody, post, assert_refused, url):
    schema = json_of(OPERATIONS[url]["requestBody"])["schema"]
    assert schema["required"] == list(BODIES[url])
    optional = [*OPTIONAL.get(url, []), *(["request_id"] if url in CHANGING else [])]
    assert list(schema["properties"]) == [*BODIES[url], *optional]
    for field in schema["properties"]:
        answer = post(url, **{**BODIES[url], field: {}})
        assert_refused(answer, 400, "invalid_field", field)
    unknown = {name: {} for name in FIELDS.keys() - schema["properties"]}
    assert post(url, **BODIES[url], **unknown).json["response_code"] == 1


def test_every_field_has_its_rule():
    for name, field in FIELDS.items():
        assert DOCUMENT["components"]["schemas"][name]["description"] == field.rule


@pytest.mark.parametrize(("field", "least", "most"), LEAST_AND_MOST)
def test_the_limits_themselves_are_valid(field, least, most):
    of_field(field).validate(least)
    of_field(field).validate(most)


@pytest.mark.parametrize(("field", "values"), OUT_OF_LIMITS)
def test_what_is_out_of_limits_is_not_valid_as_far_as_a_schema_tells(field, values):
    for value in values:
        assert_refused_too(field, value)


def assert_refused_too(field, value):
    """Check that what a reader refuses is not valid either, but for what no schema tells."""
    with pytest.raises(ValueError) as refused:
        FIELDS[field].read(value)
    beyond = BEYOND_SCHEMAS.search(str(refused.value))
    beyond = beyond and isinstance(value, (str, list))
    beyond = beyond or isinstance(value, float)  # JSON Schema takes 1.0 for an integer
    assert beyond or not of_field(field).is_valid(value), value


# Characters that one rule or another sets apart.
odd_text = st.text("\0\t\n\x1c\x1f\x7f\x9f \xa0\u2003\u2028\u3000019０１９é学🎮", max_size=70)


@pytest.mark.parametrize("field", FIELDS)
@given(value=odd_text | st.integers(-1, 600) | st.integers() | st.lists(odd_text, max_size=3))
def test_what_is_taken_is_valid_and_what_is_not_is_not(field, value):
    try:
        taken = FIELDS[field].read(value)
    except ValueError:
        assert_refused_too(field, value)
    else:
        of_field(field).validate(taken)
        if not isinstance(value, str) or value == value.strip(BLANKS):
            of_field(field).validate(value)


def test_a_page_is_of_older_or_of_newer_messages():
    schema = validator(json_of(OPERATIONS["/room/get_message"]["requestBody"])["schema"])
    assert schema.is_valid({"room_id": 1, "before": 1})
    assert schema.is_valid({"room_id": 1, "after": 1})
    assert not schema.is_valid({"room_id": 1, "before": 1, "after": 1})


# Answers


def test_the_examples_are_what_the_service_answers(client):
    """But for the moment at which they were made."""

    def timeless(answer):
        return re.sub(
            r'"(time|last_time|message_id|last_message_id)": ("[^"]*"|\d+)',
            r'"\1": now',
            json.dumps(answer),
        )

    sent = {}
    assert sorted([*LIFE, "/usr/login"]) == sorted(OPERATIONS)
    for url in LIFE:
        taken = OPERATIONS[url].get("requestBody")
        body = {**json_of(taken)["example"], **sent} if taken else {}
        answer = client.post_json(url, body) if taken else client.get(url)
        assert_conforms(url, answer)
        if url == "/room/send_message":
            sent = {"message_id": answer.json["message_id"]}
        done = json_of(OPERATIONS[url]["responses"]["200"])
        assert timeless(answer.json) == timeless(done["example"])
        validator(done["schema"]).validate(done["example"])
        if taken:
            validator(json_of(taken)["schema"]).validate(json_of(taken)["example"])


def test_the_example_of_a_login_has_the_form_of_one(verified_mode, post):
    body = json_of(OPERATIONS["/usr/login"]["requestBody"])
    validator(body["schema"]).validate(body["example"])
    answer = post("/usr/login", code="code-ming")
    assert_conforms("/usr/login", answer)
    done = json_of(OPERATIONS["/usr/login"]["responses"]["200"])
    validator(done["schema"]).validate(done["example"])
    assert list(answer.json) == list(done["example"])
    assert len(answer.json["token"]) == len(done["example"]["token"])
    assert answer.json["expires_in"] == done["example"]["expires_in"]


def test_an_answer_has_exactly_the_documented_fields(somebody, client):
    rooms = client.post_json("/usr/roomlist1", {"openid": "ming"}).json
    messages = client.post_json("/room/get_message", {"room_id": 1}).json
    schemas = DOCUMENT["components"]["schemas"]
    assert list(rooms["rooms"][0]) == list(schemas["Room"]["properties"])
    assert list(messages["messages"][0]) == list(schemas["Message"]["properties"])


# Errors

# What changes in a request that would be done, so that it ends with this error.
WRONG = {
    "room_not_found": {"room_id": 9},
    "user_not_found": {"openid": "nobody"},
    "member_not_found": {"openid": "nobody"},
    "not_owner": {"openid": "hong"},
    "message_not_found": {"message_id": 9},
    "not_member": {"openid": "nobody"},
    "capacity_too_small": {"capacity": 2},
    "risky_content": {"name": "违规", "message": "违规", "preference": ["违规"]},
    "owner_cannot_leave": {"openid": "ming"},
    "invalid_field": {"openid": "", "section": "", "name": "", "key": "", "room_id": 0, "code": ""},
    "login_failed": {"code": "unknown"},
}
IN_TROUBLE = (
    "banned",
    "kicked",
    "too_many_requests",
    "risky_content",
    "wechat_unavailable",
    "room_full",
    "capacity_too_small",
    "server_error",
    "database_busy",
)
# What only those have whose identity is verified.
OF_CALLERS = {
    ("/room/kick", "not_owner"),
    ("/room/get_message", "not_member"),
    *((url, error) for url in OPERATIONS for error in ("login_required", "identity_mismatch")),
}


def errors_of(url):
    """The errors that an endpoint is documented to have, each with its status."""
    for status, answer in OPERATIONS[url]["responses"].items():
        for error in json_of(answer).get("examples", ()):
            yield error, int(status)


def test_every_error_is_one_of_an_endpoint():
    documented = {error for url in OPERATIONS for error, _ in errors_of(url)}
    assert documented == ERRORS.keys() - {"method_not_allowed"}


@pytest.fixture
def assert_error(client):
    """Check that an endpoint has an error, and that the document knows the answer."""

    def assert_error(url, error, status, **headers):
        body = json.dumps(BODIES.get(url, {"code": "code-ming"}) | WRONG.get(error, {}))
        body = {"too_large": body.ljust(65 * 1024), "invalid_json": "{"}.get(error, body)
        method = "GET" if url == "/time" else "POST"
        asked = {"method": method, "body": body.encode(), "headers": headers}
        answer = client.request(url, **asked, expect_errors=True)
        assert (answer.status_int, answer.json["error"]) == (status, error)
        assert_conforms(url, answer)
        if error not in ("invalid_field", "risky_content"):
            answers = json_of(OPERATIONS[url]["responses"][str(status)])
            assert answers["examples"][error]["value"] == answer.json

    return assert_error


@pytest.mark.parametrize("url", [*BODIES, "/time"])
def test_every_documented_error_is_had(somebody, assert_error, url):
    for error, status in errors_of(url):
        if error not in IN_TROUBLE and (url, error) not in OF_CALLERS:
            assert_error(url, error, status)


@pytest.mark.parametrize("url", BODIES)
def test_every_documented_error_of_a_caller_is_had(
    somebody, verified_mode, token, assert_error, url
):
    li = token("li")
    for error, status in errors_of(url):
        if (url, error) in OF_CALLERS:
            assert_error(url, error, status, **({} if error == "login_required" else li))


def test_every_documented_error_of_a_login_is_had(
    database_file, assert_error, monkeypatch, request
):
    statuses = dict(errors_of("/usr/login"))

    def assert_errors(*errors):
        for error in errors:
            assert_error("/usr/login", error, statuses.pop(error))

    assert_errors("not_found")
    wechat = request.getfixturevalue("verified_mode")
    assert_errors("too_large", "invalid_json", "invalid_field", "login_failed")
    with change():
        Ban.create(openid="ming")
    assert_errors("banned")
    Ban.delete().execute()
    wechat.reply = lambda out: out.write(b"")
    assert_errors("wechat_unavailable")
    wechat.reply = None
    with monkeypatch.context() as patched:
        patched.setattr(roomapp.LOGINS, "at_once", 0)
        assert_errors("too_many_requests")
    database.execute_sql("DROP TABLE token")
    assert_errors("server_error")
    request.getfixturevalue("locked_file")
    assert_errors("database_busy")
    assert statuses == {}


def test_a_ban_is_had_where_it_is_documented(somebody, verified_mode, token, assert_error):
    li = token("li")
    with change():
        Ban.create(openid="li")
    changing = {url for url, *_ in everywhere("banned")}
    reading = {"/usr/info", "/room/section", "/room/get_message", "/search"}
    assert changing == BODIES.keys() - reading - {"/usr/roomlist1", "/usr/roomlist2"}
    for each in everywhere("banned"):
        assert_error(*each, **li)


def test_who_was_taken_out_is_told_so_where_it_is_documented(
    somebody, verified_mode, token, client, assert_error
):
    post_as = partial(client.post_json, params={"room_id": 1, "openid": "gang"})
    gang = token("gang")
    post_as("/usr/join", headers=gang)
    post_as("/room/kick", headers=token("ming"))
    assert everywhere("kicked") == [("/usr/join", "kicked", 403)]
    assert_error("/usr/join", "kicked", 403, **gang)


def test_what_wechat_says_of_texts_is_had_where_it_is_documented(
    somebody, verified_mode, token, assert_error, monkeypatch
):
    monkeypatch.setenv("ROOMAPP_CHECK_TEXT", "1")
    options.setting.cache_clear()
    own = {"/usr/complete": "gang", "/room/add": "gang"}
    own |= {"/room/send_message": "hong", "/room/complete": "ming"}
    assert {url for url, *_ in everywhere("risky_content")} == own.keys()
    assert {url for url, *_ in everywhere("wechat_unavailable")} == own.keys()
    tokens = {openid: token(openid) for openid in set(own.values())}
    for url, *error in everywhere("risky_content"):
        assert_error(url, *error, **tokens[own[url]])
    verified_mode.reply = lambda out: out.write(b"")
    for url, *error in everywhere("wechat_unavailable"):
        if url != "/room/complete":  # whose body has no text
            assert_error(url, *error, **tokens[own[url]])


def test_too_much_is_had_where_it_is_documented(
    somebody, verified_mode, token, assert_error, monkeypatch
):
    own = {"/usr/join": "gang", "/room/add": "gang", "/room/send_message": "hong"}
    own |= {"/room/report": "hong", "/usr/delete": "gang"}
    assert {url for url, *_ in everywhere("too_many_requests")} == own.keys()
    tokens = {openid: token(openid) for openid in set(own.values())}
    for limit in RATES:
        monkeypatch.setattr(limit, "at_once", 0)
    for url, *error in everywhere("too_many_requests"):
        assert_error(url, *error, **tokens[own[url]])


@pytest.mark.parametrize("url", BODIES)
def test_whatever_is_wrong_the_answer_is_documented(somebody, post, url):
    for wrong in WRONG.values():
        assert_conforms(url, post(url, **(BODIES[url] | wrong)))


@pytest.mark.parametrize("url", BODIES)
@pytest.mark.parametrize("openid", [None, "li", "hong", "ming"])
def test_whoever_calls_the_answer_is_documented(
    somebody, verified_mode, token, client, url, openid
):
    headers = token(openid) if openid else {}
    for wrong in WRONG.values():
        body = BODIES[url] | wrong
        assert_conforms(url, client.post_json(url, body, headers=headers, expect_errors=True))


def everywhere(error):
    urls = [*BODIES, "/time"]
    return [(url, *each) for url in urls for each in errors_of(url) if each[0] == error]


def test_a_full_room_is_had_where_it_is_documented(somebody, post, assert_error):
    for number in range(MEMBERS_AT_MOST - 2):
        post("/usr/join", room_id=1, openid=f"guest{number}")
    for each in [*everywhere("room_full"), *everywhere("capacity_too_small")]:
        assert_error(*each)
    for url, body in BODIES.items():
        assert_conforms(url, post(url, **body))


def test_an_error_of_the_server_is_had_where_it_is_documented(somebody, assert_error):
    for table in ("clock", "user", "message", "member", "room"):
        database.execute_sql(f"DROP TABLE {table}")
    assert len(everywhere("server_error")) == len(BODIES) + 1
    for each in everywhere("server_error"):
        assert_error(*each)


@pytest.fixture
def locked_file(database_file, monkeypatch):
    """Another program holds the file, which nobody has open yet."""
    monkeypatch.setattr(file, "BUSY_SECONDS", 0.01)
    monkeypatch.setenv("ROOMAPP_DATABASE", str(database_file))
    close_database()
    with closing(sqlite3.connect(database_file, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = exclusive")
        other.execute("BEGIN EXCLUSIVE")
        yield
    open_database(database_file)


def test_a_busy_database_is_had_where_it_is_documented(somebody, locked_file, assert_error):
    assert len(everywhere("database_busy")) == len(BODIES) + 1
    for each in everywhere("database_busy"):
        assert_error(*each)


def test_the_errors_of_no_endpoint_are_told_too(client):
    told = {
        error: example["value"]
        for answer in DOCUMENT["components"]["responses"].values()
        for error, example in json_of(answer)["examples"].items()
    }
    assert told.keys() == ERRORS.keys()
    failure = DOCUMENT["components"]["schemas"]["Failure"]["properties"]
    assert failure["error"]["enum"] == list(ERRORS)
    assert failure["field"]["enum"] == list(FIELDS)
    for method, url, error in [
        ("GET", "/nowhere", "not_found"),
        ("PUT", "/time", "method_not_allowed"),
        ("GET", "/usr/join", "method_not_allowed"),
    ]:
        answer = client.request(url, method=method, expect_errors=True)
        assert answer.json == told[error]
        assert_headers(answer)


# Fuzzing


@pytest.fixture
def fuzz(tmp_path):
    def fuzz(server, *paths):
        address = re.search(r"http://[\d.]+:\d+", server.announcement)[0]
        options = ["--checks=all", "--exclude-checks=positive_data_acceptance"]  # ours knows more
        options += ["--max-examples=300", "--no-color", "--generation-database=none"]
        # What is visible in all of Unicode depends on the version of Python; in GBK it does not.
        options += ["--generation-codec=gbk", *paths, f"{address}/openapi.json"]
        path = os.pathsep.join(map(str, (PROJECT, PROJECT / "tests")))
        hooks = {"SCHEMATHESIS_HOOKS": "fuzz", "PYTHONPATH": path}
        fuzzed = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", *options],
            cwd=tmp_path,
            env=environment(**hooks, PYTHONIOENCODING="utf-8"),
            **{**ONE_SHOT, "timeout": 600},
        )
        print(fuzzed.stdout)
        assert fuzzed.returncode == 0, fuzzed.stderr
        return int(re.search(r"Tested: (\d+)", fuzzed.stdout)[1])

    return fuzz


# Where identities are not verified there is no login.


URLS = [url for url in DOCUMENT["paths"] if url != "/usr/login"]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_whatever_the_document_allows_or_forbids_is_answered_as_it_says(start, fuzz, part):
    urls = URLS[part::6]  # parts, so that several processors have something to do
    assert fuzz(start("--quiet"), *(f"--include-path={url}" for url in urls)) == len(urls)


@pytest.mark.slow
def test_so_is_whatever_it_allows_or_forbids_in_a_login(start, fuzz, verified_mode):
    server = start("--quiet", **{name: os.environ[name] for name in VERIFYING})
    assert fuzz(server, "--include-path=/usr/login") == 1
