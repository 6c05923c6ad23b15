"""登录: who is calling, in the verified mode and in the open one."""

import re
import sqlite3
import ssl
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from time import monotonic

import pytest

import models
import roomapp
from document import BODIES
from processes import read_answer, signals, start_error
from service import limits, wechat
from service.database import Refused, change, now
from service.login import TOKEN_SECONDS, Anyone, Caller, Token
from service.memory import digest as digest_of
from wechat_server import APPID, SECRET, SESSION_KEY, reply, stand_in


@pytest.fixture
def campus(login, send):
    """ming, whose room 1 has hong and message 1; li, alone in room 2; gang, without a profile."""
    people = {openid: login(openid) for openid in ("ming", "hong", "li", "gang")}
    for openid in ("ming", "hong", "li"):
        send("/usr/complete", people[openid], openid=openid, sex=1, preference=[])
    send("/room/add", people["ming"], **{**BODIES["/room/add"], "room_owner_id": "ming"})
    send("/usr/join", people["hong"], room_id=1, openid="hong")
    own = {"name": "li", "section": "li", "description": "", "room_owner_id": "li"}
    send("/room/add", people["li"], **own)
    with change():
        models.Message.insert_message(1, 1, "ming", "有人吗", 1)
    return people


# Logging in


def test_a_login_answers_with_the_openid_and_a_token(post, verified_mode, wechat_server):
    answer = post("/usr/login", code="code-ming").json
    assert answer.pop("token").isascii()
    assert answer == {
        "response_code": 1,
        "openid": "ming",
        "expires_in": 7 * 24 * 60 * 60,
        "exist": 0,
    }
    query = {
        "appid": APPID,
        "secret": SECRET,
        "js_code": "code-ming",
        "grant_type": "authorization_code",
    }
    assert wechat_server.queries == [("/sns/jscode2session", query)]


def test_a_login_tells_whether_there_is_a_profile(post, login, send):
    send("/usr/complete", login("ming"), openid="ming", sex=1, preference=[])
    assert post("/usr/login", code="code-ming").json["exist"] == 1


def test_a_login_does_not_move_the_time(login, last_time):
    before = last_time()
    login("ming")
    assert last_time() == before


def test_several_phones_are_logged_in_each_with_a_token_of_its_own(login, send):
    phones = [login("ming") for _ in range(3)]
    assert len({str(phone) for phone in phones}) == 3
    for phone in phones:
        assert send("/usr/roomlist1", phone, openid="ming").json["response_code"] == 1


def test_a_token_has_32_random_bytes(login):
    token = login("ming")["Authorization"].removeprefix("Bearer ")
    assert re.fullmatch("[A-Za-z0-9_-]{43}", token)


@pytest.mark.parametrize("code", [None, "", "a b", "x" * 129, "a\0", 1, ["code-ming"]])
def test_a_code_is_a_word(post, verified_mode, wechat_server, assert_refused, code):
    assert_refused(post("/usr/login", code=code), 400, "invalid_field", field="code")
    assert_refused(post("/usr/login"), 400, "invalid_field", field="code")
    assert wechat_server.queries == []


@pytest.mark.parametrize(
    ("content", "status", "error"),
    [
        (b'{"errcode": 40029, "errmsg": "invalid code"}', 401, "login_failed"),
        (b'{"errcode": 40163, "errmsg": "code been used"}', 401, "login_failed"),
        (b'{"errcode": 40226, "errmsg": "code blocked"}', 401, "login_failed"),
        (b'{"errcode": -1, "errmsg": "system error"}', 503, "wechat_unavailable"),
        (b'{"errcode": 45011, "errmsg": "too often"}', 503, "wechat_unavailable"),
        (b'{"errcode": 40125, "errmsg": "invalid appsecret"}', 503, "wechat_unavailable"),
        (b'{"errcode": [], "openid": "ming"}', 503, "wechat_unavailable"),
        (b'{"session_key": "x"}', 503, "wechat_unavailable"),
        (b'{"openid": 1}', 503, "wechat_unavailable"),
        (b'{"openid": "a b"}', 503, "wechat_unavailable"),
        (b'{"openid": ""}', 503, "wechat_unavailable"),
        (b'["ming"]', 503, "wechat_unavailable"),
        (b"<html>", 503, "wechat_unavailable"),
        (b"\xff", 503, "wechat_unavailable"),
        (b"[" * 60_000, 503, "wechat_unavailable"),
        (b'{"openid": "ming", "x": "' + b"x" * 70_000 + b'"}', 503, "wechat_unavailable"),
        (b"", 503, "wechat_unavailable"),
    ],
)
def test_what_wechat_says_becomes_an_error(
    post, verified_mode, wechat_server, dump, assert_refused, content, status, error
):
    before = dump()
    wechat_server.reply = reply(content)
    assert_refused(post("/usr/login", code="code-ming"), status, error)
    assert dump() == before


def test_an_errcode_of_0_is_success(post, verified_mode, wechat_server):
    wechat_server.reply = reply(b'{"errcode": 0, "errmsg": "ok", "openid": "ming"}')
    assert post("/usr/login", code="x").json["openid"] == "ming"


@pytest.mark.parametrize(
    "status", ["500 Oops", "302 Found\r\nLocation: /elsewhere", "403 Forbidden", "oops"]
)
def test_another_status_is_no_answer(post, verified_mode, wechat_server, assert_refused, status):
    wechat_server.reply = reply(b'{"openid": "ming"}', status)
    assert_refused(post("/usr/login", code="code-ming"), 503, "wechat_unavailable")
    assert len(wechat_server.queries) == 1


def test_where_nobody_answers_wechat_is_unavailable(post, verified_mode, configure, assert_refused):
    with stand_in() as gone:
        api = gone.api
    configure(ROOMAPP_WECHAT_API=api)
    assert_refused(post("/usr/login", code="code-ming"), 503, "wechat_unavailable")


def test_who_answers_too_late_has_not_answered(
    post, verified_mode, wechat_server, short_timeout, assert_refused
):
    wechat_server.may_answer.clear()
    assert_refused(post("/usr/login", code="code-ming"), 503, "wechat_unavailable")


def test_who_answers_byte_by_byte_has_not_answered(
    post, verified_mode, wechat_server, short_timeout, assert_refused
):
    enough = threading.Event()

    def drip(out):
        while not enough.wait(0.05):
            out.write(b"H")

    wechat_server.reply = drip
    assert_refused(post("/usr/login", code="code-ming"), 503, "wechat_unavailable")
    enough.set()


def test_who_has_no_certificate_that_is_trusted_is_not_wechat(
    post, verified_mode, configure, tmp_path, assert_refused
):
    trustme = pytest.importorskip("trustme", reason="needs trustme to make certificates")
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def wrap(socket):
        return context.wrap_socket(socket, server_side=True)

    with stand_in(wrap, "https") as standing:
        configure(ROOMAPP_WECHAT_API=standing.api)
        assert_refused(post("/usr/login", code="code-ming"), 503, "wechat_unavailable")
        assert standing.queries == []
        authority.cert_pem.write_to_path(tmp_path / "authority.pem")
        configure(SSL_CERT_FILE=str(tmp_path / "authority.pem"))
        wechat.tls_context.cache_clear()
        assert post("/usr/login", code="code-ming").json["openid"] == "ming"


def test_logins_from_one_address_have_a_limit(client, verified_mode, wechat_server, assert_refused):
    def login(address):
        environ = {"REMOTE_ADDR": address}
        code = {"code": "unknown"}
        return client.post_json("/usr/login", code, extra_environ=environ, expect_errors=True)

    for _ in range(roomapp.LOGINS.at_once - 1):
        roomapp.LOGINS.count("192.0.2.1")
    assert_refused(login("192.0.2.1"), 401, "login_failed")
    while (answer := login("192.0.2.1")).status_int == 401:
        pass  # one more for every half a second that this took
    assert_refused(answer, 429, "too_many_requests")
    assert answer.headers["Retry-After"] == "1"
    assert_refused(login("192.0.2.2"), 401, "login_failed")
    asked = len(wechat_server.queries)
    assert_refused(login("192.0.2.1"), 429, "too_many_requests")
    assert len(wechat_server.queries) == asked, "WeChat is not asked for nothing"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("2001:db8::1]:443", "2001:db8::1]:444", False),
        ("a:b", "a:c", False),
    ],
)
def test_a_network_of_ipv6_is_one_address(one, other, same):
    assert (limits.network_of(one) == limits.network_of(other)) is same


def test_a_limit_gives_more_with_time(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(limits, "monotonic", lambda: clock[0])
    limit = limits.RateLimit(at_once=20, per_second=2)
    for _ in range(20):
        limit.count("192.0.2.1")
    with pytest.raises(Refused):
        limit.count("192.0.2.1")
    clock[0] += 1
    for _ in range(2):
        limit.count("192.0.2.1")
    with pytest.raises(Refused):
        limit.count("192.0.2.1")
    clock[0] += 20
    limit.count("192.0.2.2")
    assert limit.used_until.keys() == {"192.0.2.2"}, "an address that is quiet is forgotten"


# Who may do what


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer x"},
        {"Authorization": "Bearer \xff\xe6"},
        {"Authorization": "Basic bWluZzo="},
        {"X-WX-OPENID": "ming"},
        {"X-WX-OPENID": "ming", "Authorization": "Bearer x"},
    ],
    ids=str,
)
def test_without_a_token_nothing_is_done(campus, send, dump, assert_refused, headers):
    before = dump()
    for url, body in BODIES.items():
        answer = send(url, headers, **body)
        assert_refused(answer, 401, "login_required")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert_refused(send(url, headers), 401, "login_required")  # before any field is looked at
    assert dump() == before


def test_the_body_is_looked_at_before_the_token(client, verified_mode, assert_refused):
    assert_refused(client.post("/usr/join", b"{", expect_errors=True), 400, "invalid_json")
    assert_refused(client.post("/usr/join", b" " * 70_000, expect_errors=True), 413, "too_large")


def test_the_time_needs_no_token(client, verified_mode):
    assert client.get("/time").json["response_code"] == 1


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_written_in_any_case(login, send, scheme):
    token = login("ming")["Authorization"].removeprefix("Bearer ")
    headers = {"Authorization": f"{scheme} {token}"}
    assert send("/usr/roomlist1", headers, openid="ming").json["response_code"] == 1


def test_an_expired_token_is_none(campus, send, monkeypatch, assert_refused):
    later = now() + TOKEN_SECONDS * 1000
    monkeypatch.setattr("time.time_ns", lambda: (later - 60_000) * 1_000_000)
    assert send("/search", campus["ming"], key="x").json["response_code"] == 1
    monkeypatch.setattr("time.time_ns", lambda: (later) * 1_000_000)
    for url, body in BODIES.items():
        assert_refused(send(url, campus["ming"], **body), 401, "login_required")


def test_later_logins_delete_what_has_expired(campus, login, monkeypatch):
    later = now() + TOKEN_SECONDS * 1000
    monkeypatch.setattr("time.time_ns", lambda: (later) * 1_000_000)
    login("ming")
    assert Token.select().count() == len(campus) - 2 + 1
    login("ming")
    login("ming")
    assert Token.select().count() == 3


def test_a_login_while_the_clock_is_wrong_ends_few_tokens_and_does_not_outlast_them(
    campus, send, login, monkeypatch, assert_refused
):
    today = now()
    monkeypatch.setattr("time.time_ns", lambda: (today + 10 * TOKEN_SECONDS * 1000) * 1_000_000)
    token = login("wang")
    monkeypatch.setattr("time.time_ns", lambda: (today + 1) * 1_000_000)
    answers = [send("/search", each, key="x").json["response_code"] for each in campus.values()]
    assert sum(answers) == len(campus) - 2
    assert_refused(send("/search", token, key="x"), 401, "login_required")


@pytest.mark.parametrize(
    "url",
    [
        "/usr/complete",
        "/usr/roomlist1",
        "/usr/roomlist2",
        "/usr/join",
        "/room/add",
        "/room/delete",
        "/room/send_message",
        "/room/complete",
        "/room/delete_message",
    ],
)
def test_nobody_acts_as_somebody_else(campus, send, dump, assert_refused, url):
    before = dump()
    named = "room_owner_id" if url == "/room/add" else "openid"
    body = {**BODIES[url], named: "ming"}
    assert_refused(send(url, campus["li"], **body), 403, "identity_mismatch")
    assert dump() == before
    assert send(url, campus["ming"], **body).json["response_code"] == 1


def test_who_acts_is_looked_at_after_the_fields_and_before_the_room(campus, send, assert_refused):
    li = campus["li"]
    assert_refused(send("/usr/join", li, room_id=1, openid="Li"), 403, "identity_mismatch")
    for room_id in (1, 9):
        fields = {"room_id": room_id, "openid": "ming"}
        for url in ("/usr/join", "/room/delete"):
            assert_refused(send(url, li, **fields), 403, "identity_mismatch")
        answer = send("/room/send_message", li, **fields, message="嗨")
        assert_refused(answer, 403, "identity_mismatch")
        answer = send("/room/send_message", li, **fields, message="")
        assert_refused(answer, 400, "invalid_field", field="message")
    assert_refused(send("/room/delete", li, room_id=9, openid="li"), 404, "room_not_found")


def test_a_profile_is_shown_to_oneself_and_to_those_in_a_common_room(campus, send, assert_refused):
    for reader, openid in [("ming", "ming"), ("li", "li"), ("hong", "ming"), ("ming", "hong")]:
        assert send("/usr/info", campus[reader], openid=openid).json["response_code"] == 1
    assert_refused(send("/usr/info", campus["li"], openid="ming"), 403, "identity_mismatch")
    assert_refused(send("/usr/info", campus["ming"], openid="li"), 403, "identity_mismatch")
    assert_refused(send("/usr/info", campus["li"], openid="gang"), 403, "identity_mismatch")
    assert_refused(send("/usr/info", campus["gang"], openid="gang"), 404, "user_not_found")


def test_the_owner_takes_out_and_anybody_leaves(campus, login, send, assert_refused, find_room):
    gang = login("gang")
    send("/usr/join", gang, room_id=1, openid="gang")
    assert_refused(send("/room/kick", gang, room_id=1, openid="hong"), 403, "not_owner")
    assert_refused(send("/room/kick", campus["li"], room_id=1, openid="hong"), 403, "not_owner")
    assert_refused(send("/room/kick", gang, room_id=1, openid="ming"), 403, "not_owner")
    assert_refused(send("/room/kick", gang, room_id=1, openid="li"), 404, "member_not_found")
    assert_refused(
        send("/room/kick", campus["ming"], room_id=1, openid="ming"), 409, "owner_cannot_leave"
    )
    assert send("/room/kick", gang, room_id=1, openid="gang").json["response_code"] == 1
    assert send("/room/kick", campus["ming"], room_id=1, openid="hong").json["response_code"] == 1


def test_only_members_read(campus, send, assert_refused):
    message = {"room_id": 1, "openid": "hong", "message": "嗨"}
    send("/room/send_message", campus["hong"], **message)
    for reader in ("ming", "hong"):
        answer = send("/room/get_message", campus[reader], room_id=1).json
        assert [each["message"] for each in answer["messages"]] == ["有人吗", "嗨"]
    assert_refused(send("/room/get_message", campus["li"], room_id=1), 403, "not_member")
    assert_refused(send("/room/get_message", campus["li"], room_id=1, after=0), 403, "not_member")
    assert_refused(send("/room/get_message", campus["li"], room_id=9), 404, "room_not_found")
    send("/room/kick", campus["hong"], room_id=1, openid="hong")
    assert_refused(send("/room/get_message", campus["hong"], room_id=1), 403, "not_member")


def test_rooms_are_found_by_everybody_who_is_logged_in(campus, send):
    for url, body in [("/search", {"key": 1}), ("/room/section", {"section": "桌游"})]:
        assert len(send(url, campus["li"], **body).json["rooms"]) == 1


def test_whatever_a_caller_may_is_decided_for_anyone_too():
    questions = {name for name in vars(Caller) if name.startswith("may_")}
    assert questions == {name for name in vars(Anyone) if name.startswith("may_")}
    assert len(questions) == 4


# The open mode


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_where_there_is_no_login_its_url_is_unknown(client, configure, assert_refused, method):
    configure()
    answer = client.request("/usr/login", method=method, body=b"{}", expect_errors=True)
    assert_refused(answer, 404, "not_found")


def test_a_login_is_posted(client, verified_mode, assert_refused):
    answer = client.get("/usr/login", expect_errors=True)
    assert_refused(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "POST"


def test_in_the_open_mode_headers_mean_nothing(configure, send):
    headers = {"X-WX-OPENID": "li", "Authorization": "Bearer x"}
    room = {**BODIES["/room/add"], "room_owner_id": "ming"}
    configure(ROOMAPP_WECHAT_APPID="", ROOMAPP_WECHAT_SECRET="")
    assert send("/room/add", headers, **room).json["response_code"] == 1
    assert send("/room/kick", headers, room_id=1, openid="x").json["error"] == "member_not_found"


# The real server


@pytest.mark.parametrize(
    "variables",
    [
        {"ROOMAPP_WECHAT_APPID": APPID},
        {"ROOMAPP_WECHAT_SECRET": SECRET},
        {"ROOMAPP_WECHAT_API": "api.weixin.qq.com"},
        {"ROOMAPP_WECHAT_API": "https://"},
        {"ROOMAPP_WECHAT_API": "https://api.weixin.qq.com:http"},
        {"ROOMAPP_WECHAT_API": "https://api..weixin"},
        {"ROOMAPP_WECHAT_API": "https://api.weixin.qq.com/路"},
        {"ROOMAPP_TRUSTED_PROXY": "*"},
        {"ROOMAPP_CHECK_TEXT": "yes"},
        {"ROOMAPP_TRUSTED_PROXY": "proxy.example"},
    ],
    ids=str,
)
def test_half_a_configuration_is_one_line(tmp_path, variables):
    line = start_error(f"--database={tmp_path / 'roomapp.db'}", **variables)
    assert next(iter(variables)) in line
    assert SECRET not in line


def test_half_a_configuration_lets_nobody_in_under_another_server_either(
    client, configure, assert_refused
):
    configure(ROOMAPP_WECHAT_APPID=APPID)
    assert_refused(client.post_json("/search", {"key": 1}, expect_errors=True), 500, "server_error")


def test_tokens_outlive_a_restart(start, variables):
    server = start(**variables)
    token = server.post("/usr/login", code="code-ming")["token"]
    server.stop()
    server = start(**variables)
    with closing(server.connect()) as connection:
        headers = {"Authorization": f"Bearer {token}"}
        connection.request("POST", "/usr/roomlist1", '{"openid": "ming"}', headers)
        assert read_answer(connection)[0] == 200


def test_nothing_secret_is_in_the_files_or_the_log(start, variables, wechat_server, tmp_path):
    server = start(**variables)
    token = server.post("/usr/login", code="code-ming")["token"]
    server.post("/usr/login", code="other-CODE")
    wechat_server.reply = reply(b'{"errcode": 40125, "errmsg": "invalid appsecret"}')
    server.post("/usr/login", code="code-hong")
    log = server.log.read_bytes()
    assert b"POST /usr/login 200" in log
    assert b"ROOMAPP_WECHAT_SECRET is not the AppSecret" in log, "the operator learns why"
    files = [each.read_bytes() for each in tmp_path.glob("roomapp.db*")]
    assert any(b"ming" in content for content in files)
    for content in [log, *files]:
        for secret in (token, SECRET, SESSION_KEY, "code-ming", "other-CODE", "code-hong"):
            assert secret.encode() not in content
    server.stop()
    with closing(sqlite3.connect(tmp_path / "roomapp.db")) as connection:
        ((digest, openid),) = connection.execute("SELECT digest, openid FROM token").fetchall()
    assert (digest, openid) == (digest_of(token), "ming")


def test_logins_that_wait_for_wechat_hold_up_nobody(start, variables, wechat_server):
    server = start(**variables)
    wechat_server.may_answer.clear()
    logins = wechat.WAITING_AT_MOST
    with ThreadPoolExecutor(logins) as phones:
        codes = [f"code-p{number}" for number in range(logins)]
        waiting = [phones.submit(server.post, "/usr/login", code=code) for code in codes]
        deadline = monotonic() + 4
        while len(wechat_server.queries) < logins:
            assert monotonic() < deadline
        assert server.request("GET", "/time")[0] == 200
        for number in range(100):
            assert server.post("/usr/login", code=f"code-{number}")["error"] == "wechat_unavailable"
        assert not any(login.done() for login in waiting), "all of them still wait"
        wechat_server.may_answer.set()
        assert [login.result()["openid"] for login in waiting] == [
            f"p{number}" for number in range(logins)
        ]


@signals
def test_a_login_that_was_received_is_answered_before_the_server_stops(
    start, variables, wechat_server
):
    server = start(**variables)
    wechat_server.may_answer.clear()
    with closing(server.send("/usr/login", code="code-ming")) as waiting:
        deadline = monotonic() + 4
        while not wechat_server.queries:
            assert monotonic() < deadline
        server.process.terminate()
        wechat_server.may_answer.set()
        assert read_answer(waiting)[1]["openid"] == "ming"
    assert server.process.wait(40) == 0


@signals
def test_a_wechat_that_never_ends_its_answer_does_not_keep_the_server_from_stopping(
    start, variables, wechat_server, tmp_path
):
    short_timeout = """if True:
        import roomapp
        from service import wechat
        wechat.ANSWER_WITHIN = 0.3
        roomapp.main()"""
    run = [sys.executable, "-c", short_timeout, "--port=0", f"--database={tmp_path / 'roomapp.db'}"]
    server = start(arguments=run, **variables)
    enough = threading.Event()

    def drip(out):
        while not enough.wait(0.05):
            out.write(b"H")

    wechat_server.reply = drip
    assert server.post("/usr/login", code="code-ming")["error"] == "wechat_unavailable"
    server.process.terminate()
    assert server.process.wait(10) == 0
    enough.set()


@pytest.mark.parametrize(
    ("trusted", "believed"), [("127.0.0.1", True), ("192.0.2.9", False), ("", False)]
)
def test_only_a_proxy_that_was_named_says_whose_address_it_is(
    start, variables, tmp_path, trusted, believed
):
    strict = "import roomapp; roomapp.LOGINS.at_once = 2; roomapp.LOGINS.per_second = 0.001"
    run = [sys.executable, "-c", f"{strict}; roomapp.main()", "--port=0"]
    arguments = [*run, f"--database={tmp_path / 'roomapp.db'}"]
    server = start(arguments=arguments, ROOMAPP_TRUSTED_PROXY=trusted, **variables)

    def login(forwarded_for):
        with closing(server.connect()) as connection:
            headers = {"X-Forwarded-For": forwarded_for}
            connection.request("POST", "/usr/login", '{"code": "unknown"}', headers)
            return read_answer(connection)[0]

    forged = ["203.0.113.1, 192.0.2.1", "203.0.113.2, 192.0.2.1", "203.0.113.3, 192.0.2.1"]
    assert [login(addresses) for addresses in forged] == [401, 401, 429]
    assert login("192.0.2.2") == (401 if believed else 429)


@pytest.mark.parametrize(
    ("variables", "warning"),
    [
        ({}, "an openid is believed as sent"),
        ({"ROOMAPP_WECHAT_APPID": "a", "ROOMAPP_WECHAT_SECRET": "s"}, ""),
    ],
)
def test_it_says_so_where_others_are_believed(start, variables, warning):
    server = start("--host", "0.0.0.0", **variables)
    log = server.log.read_text()
    assert warning in log
    assert bool(log) == bool(warning)
