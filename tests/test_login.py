"""登录: who is calling, in the verified mode and behind WeChat Cloud Hosting."""

import json
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme

import models
import roomapp
import wechat
from document import BODIES
from serving import ONE_SHOT, PROJECT, answered, made, refused_to_start, signals

APPID, SECRET, SESSION_KEY = "wx0123456789abcdef", "0123456789SECRET", "SESSIONKEY=="


class WeChat:
    """What stands in for WeChat: it knows codes that begin with `code-`, followed by an openid."""

    def __init__(self, port, scheme="http"):
        self.api = f"{scheme}://127.0.0.1:{port}"
        self.says = None  # the bytes of a whole HTTP answer, in place of its own
        self.slow = threading.Event()  # set: it answers
        self.slow.set()
        self.asked = []

    def answer(self, path):
        url = urlsplit(path)
        query = {name: value for name, (value,) in parse_qs(url.query).items()}
        self.asked.append((url.path, query))
        code = query["js_code"]
        if not code.startswith("code-"):
            return {"errcode": 40029, "errmsg": "invalid code"}
        return {"openid": code.removeprefix("code-"), "session_key": SESSION_KEY}


@contextmanager
def playing(secured=lambda socket: socket, scheme="http"):
    """A WeChat on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            played = self.server.wechat
            content = json.dumps(played.answer(self.path)).encode()
            played.slow.wait(30)
            if played.says is None:
                head = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n"
                self.wfile.write(head + content)
            else:
                played.says(self.wfile)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as played:
        played.daemon_threads = True
        played.handle_error = lambda *_: None  # of a client that does not trust it
        played.socket = secured(played.socket)
        played.wechat = WeChat(played.server_port, scheme)
        thread = threading.Thread(target=played.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield played.wechat
        finally:
            played.wechat.slow.set()
            played.shutdown()
            thread.join()


@pytest.fixture
def wechat_server():
    with playing() as played:
        yield played


@pytest.fixture
def configure(monkeypatch):
    """Set variables of the environment for the application in this process."""

    def configure(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        roomapp.settings.cache_clear()

    monkeypatch.setattr(roomapp, "counted", {})
    yield configure
    roomapp.settings.cache_clear()


@pytest.fixture
def variables(wechat_server):
    return {
        "ROOMAPP_WECHAT_APPID": APPID,
        "ROOMAPP_WECHAT_SECRET": SECRET,
        "ROOMAPP_WECHAT_API": wechat_server.api,
    }


@pytest.fixture
def verified(configure, variables):
    configure(**variables)


@pytest.fixture
def login(verified, post):
    """Log in as somebody, and answer with the headers that their calls have from then on."""

    def login(openid):
        answer = post("/usr/login", code=f"code-{openid}").json
        assert answer["response_code"] == 1, answer
        return {"Authorization": f"Bearer {answer['token']}"}

    return login


@pytest.fixture
def send(client):
    def send(url, headers, **fields):
        return client.post_json(url, fields, headers=headers, expect_errors=True)

    return send


@pytest.fixture
def campus(login, send):
    """ming, whose room 1 hong is in, and li, alone in room 2; all with a profile, and logged in."""
    people = {openid: login(openid) for openid in ("ming", "hong", "li")}
    for openid, headers in people.items():
        send("/usr/complete", headers, openid=openid, sex=1, preference=[])
    send("/room/add", people["ming"], **{**BODIES["/room/add"], "room_owner_id": "ming"})
    send("/usr/join", people["hong"], room_id=1, openid="hong")
    own = {"name": "li", "section": "li", "description": "", "room_owner_id": "li"}
    send("/room/add", people["li"], **own)
    return people


# Logging in


def test_a_login_answers_with_the_openid_and_a_token(post, verified, wechat_server):
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
    assert wechat_server.asked == [("/sns/jscode2session", query)]


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
def test_a_code_is_a_word(post, verified, wechat_server, refused, code):
    refused(post("/usr/login", code=code), 400, "invalid_field", field="code")
    refused(post("/usr/login"), 400, "invalid_field", field="code")
    assert wechat_server.asked == []


def says(content, status="200 OK"):
    """An answer of WeChat, whatever it was asked."""
    head = f"HTTP/1.0 {status}\r\n\r\n".encode()
    return lambda out: out.write(head + content)


@pytest.mark.parametrize(
    ("said", "status", "error"),
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
    post, verified, wechat_server, kept, refused, said, status, error
):
    before = kept()
    wechat_server.says = says(said)
    refused(post("/usr/login", code="code-ming"), status, error)
    assert kept() == before


def test_an_errcode_of_0_is_success(post, verified, wechat_server):
    wechat_server.says = says(b'{"errcode": 0, "errmsg": "ok", "openid": "ming"}')
    assert post("/usr/login", code="x").json["openid"] == "ming"


@pytest.mark.parametrize(
    "status", ["500 Oops", "302 Found\r\nLocation: /elsewhere", "403 Forbidden", "oops"]
)
def test_another_status_is_no_answer(post, verified, wechat_server, refused, status):
    wechat_server.says = says(b'{"openid": "ming"}', status)
    refused(post("/usr/login", code="code-ming"), 503, "wechat_unavailable")
    assert len(wechat_server.asked) == 1


def test_where_nobody_answers_wechat_is_unavailable(post, verified, configure, refused):
    with playing() as gone:
        api = gone.api
    configure(ROOMAPP_WECHAT_API=api)
    refused(post("/usr/login", code="code-ming"), 503, "wechat_unavailable")


@pytest.fixture
def hasty(monkeypatch):
    """Not to wait for the five seconds."""
    assert wechat.ANSWER_WITHIN == 5
    monkeypatch.setattr(wechat, "ANSWER_WITHIN", 0.3)


def test_who_answers_too_late_has_not_answered(post, verified, wechat_server, hasty, refused):
    wechat_server.slow.clear()
    refused(post("/usr/login", code="code-ming"), 503, "wechat_unavailable")


def test_who_answers_byte_by_byte_has_not_answered(post, verified, wechat_server, hasty, refused):
    enough = threading.Event()

    def drip(out):
        while not enough.wait(0.05):
            out.write(b"H")

    wechat_server.says = drip
    refused(post("/usr/login", code="code-ming"), 503, "wechat_unavailable")
    enough.set()


def test_who_has_no_certificate_that_is_trusted_is_not_wechat(
    post, verified, configure, tmp_path, refused
):
    import ssl

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def secured(socket):
        return context.wrap_socket(socket, server_side=True)

    with playing(secured, "https") as played:
        configure(ROOMAPP_WECHAT_API=played.api)
        refused(post("/usr/login", code="code-ming"), 503, "wechat_unavailable")
        assert played.asked == []
        authority.cert_pem.write_to_path(tmp_path / "authority.pem")
        configure(SSL_CERT_FILE=str(tmp_path / "authority.pem"))
        wechat.trust.cache_clear()
        assert post("/usr/login", code="code-ming").json["openid"] == "ming"


def test_logins_from_one_address_have_a_limit(client, verified, wechat_server, refused):
    def login(address):
        environ = {"REMOTE_ADDR": address}
        code = {"code": "unknown"}
        return client.post_json("/usr/login", code, extra_environ=environ, expect_errors=True)

    for _ in range(roomapp.LOGINS_AT_ONCE - 1):
        roomapp.count_login("192.0.2.1")
    refused(login("192.0.2.1"), 401, "login_failed")
    while (answer := login("192.0.2.1")).status_int == 401:
        pass  # one more for every half a second that this took
    refused(answer, 429, "too_many_requests")
    assert answer.headers["Retry-After"] == "1"
    refused(login("192.0.2.2"), 401, "login_failed")
    asked = len(wechat_server.asked)
    refused(login("192.0.2.1"), 429, "too_many_requests")
    assert len(wechat_server.asked) == asked, "WeChat is not asked for nothing"


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
    assert (roomapp.network_of(one) == roomapp.network_of(other)) is same


def test_logins_come_back_with_time(configure, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(roomapp, "monotonic", lambda: clock[0])
    for _ in range(roomapp.LOGINS_AT_ONCE):
        roomapp.count_login("192.0.2.1")
    with pytest.raises(models.Refused):
        roomapp.count_login("192.0.2.1")
    clock[0] += 1
    for _ in range(roomapp.LOGINS_A_SECOND):
        roomapp.count_login("192.0.2.1")
    with pytest.raises(models.Refused):
        roomapp.count_login("192.0.2.1")
    clock[0] += roomapp.LOGINS_AT_ONCE
    roomapp.count_login("192.0.2.2")
    assert roomapp.counted.keys() == {"192.0.2.2"}, "who is quiet is forgotten"


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
    ],
    ids=str,
)
def test_without_a_token_nothing_is_done(campus, send, kept, refused, headers):
    before = kept()
    for url, body in BODIES.items():
        answer = send(url, headers, **body)
        refused(answer, 401, "login_required")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        refused(send(url, headers), 401, "login_required")  # before any field is looked at
    assert kept() == before


def test_the_body_is_looked_at_before_the_token(client, verified, refused):
    refused(client.post("/usr/join", b"{", expect_errors=True), 400, "invalid_json")
    refused(client.post("/usr/join", b" " * 70_000, expect_errors=True), 413, "too_large")


def test_the_time_needs_no_token(client, verified):
    assert client.get("/time").json["response_code"] == 1


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_written_in_any_case(login, send, scheme):
    token = login("ming")["Authorization"].removeprefix("Bearer ")
    headers = {"Authorization": f"{scheme} {token}"}
    assert send("/usr/roomlist1", headers, openid="ming").json["response_code"] == 1


def test_an_expired_token_is_none(campus, send, monkeypatch, refused):
    later = models.now() + models.TOKEN_SECONDS * 1000
    monkeypatch.setattr(models, "now", lambda: later - 60_000)
    assert send("/search", campus["ming"], key="x").json["response_code"] == 1
    monkeypatch.setattr(models, "now", lambda: later)
    for url, body in BODIES.items():
        refused(send(url, campus["ming"], **body), 401, "login_required")


def test_a_later_login_cleans_away_what_has_expired(campus, login, monkeypatch):
    later = models.now() + models.TOKEN_SECONDS * 1000
    monkeypatch.setattr(models, "now", lambda: later)
    login("ming")
    assert models.Token.select().count() == 1


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
    ],
)
def test_nobody_acts_as_somebody_else(campus, send, kept, refused, url):
    before = kept()
    named = "room_owner_id" if url == "/room/add" else "openid"
    body = {**BODIES[url], named: "ming"}
    refused(send(url, campus["li"], **body), 403, "identity_mismatch")
    assert kept() == before
    assert send(url, campus["ming"], **body).json["response_code"] == 1


def test_fields_and_rooms_are_looked_at_before_who_acts(campus, send, refused):
    li = campus["li"]
    refused(send("/usr/join", li, room_id=9, openid="ming"), 404, "room_not_found")
    refused(send("/usr/join", li, room_id=1, openid="Li"), 403, "identity_mismatch")
    refused(send("/room/delete", li, room_id=9, openid="ming"), 404, "room_not_found")
    answer = send("/room/send_message", li, room_id=1, openid="ming", message="")
    refused(answer, 400, "invalid_field", field="message")


def test_a_profile_is_shown_to_oneself_and_to_those_in_a_common_room(campus, send, refused):
    for reader, openid in [("ming", "ming"), ("li", "li"), ("hong", "ming"), ("ming", "hong")]:
        assert send("/usr/info", campus[reader], openid=openid).json["response_code"] == 1
    refused(send("/usr/info", campus["li"], openid="ming"), 403, "identity_mismatch")
    refused(send("/usr/info", campus["ming"], openid="li"), 403, "identity_mismatch")
    refused(send("/usr/info", campus["li"], openid="gang"), 404, "user_not_found")


def test_the_owner_takes_out_and_anybody_leaves(campus, login, send, refused, seen):
    gang = login("gang")
    send("/usr/join", gang, room_id=1, openid="gang")
    refused(send("/room/kick", gang, room_id=1, openid="hong"), 403, "not_owner")
    refused(send("/room/kick", campus["li"], room_id=1, openid="hong"), 403, "not_owner")
    refused(send("/room/kick", gang, room_id=1, openid="ming"), 403, "not_owner")
    refused(send("/room/kick", gang, room_id=1, openid="li"), 404, "member_not_found")
    refused(send("/room/kick", campus["ming"], room_id=1, openid="ming"), 409, "owner_cannot_leave")
    assert send("/room/kick", gang, room_id=1, openid="gang").json["response_code"] == 1
    assert send("/room/kick", campus["ming"], room_id=1, openid="hong").json["response_code"] == 1


def test_only_members_read(campus, send, refused):
    said = {"room_id": 1, "openid": "hong", "message": "嗨"}
    send("/room/send_message", campus["hong"], **said)
    for reader in ("ming", "hong"):
        answer = send("/room/get_message", campus[reader], room_id=1).json
        assert [each["message"] for each in answer["messages"]] == ["嗨"]
    refused(send("/room/get_message", campus["li"], room_id=1), 403, "not_member")
    refused(send("/room/get_message", campus["li"], room_id=1, after=0), 403, "not_member")
    refused(send("/room/get_message", campus["li"], room_id=9), 404, "room_not_found")
    send("/room/kick", campus["hong"], room_id=1, openid="hong")
    refused(send("/room/get_message", campus["hong"], room_id=1), 403, "not_member")


def test_rooms_are_found_by_everybody_who_is_logged_in(campus, send):
    for url, body in [("/search", {"key": 1}), ("/room/section", {"section": "桌游"})]:
        assert len(send(url, campus["li"], **body).json["rooms"]) == 1


# Behind WeChat Cloud Hosting


@pytest.fixture
def hosted(configure):
    configure(ROOMAPP_TRUST_WX_OPENID="1")
    return lambda openid: {"X-WX-OPENID": openid}


def test_behind_cloud_hosting_the_gateway_says_who_calls(hosted, send, refused):
    ming = hosted("ming")
    room = {**BODIES["/room/add"], "room_owner_id": "ming"}
    assert send("/room/add", ming, **room).json["response_code"] == 1
    refused(send("/room/add", hosted("li"), **room), 403, "identity_mismatch")
    refused(send("/room/get_message", hosted("li"), room_id=1), 403, "not_member")


@pytest.mark.parametrize("headers", [{}, {"X-WX-OPENID": ""}, {"Authorization": "Bearer x"}])
def test_behind_cloud_hosting_who_has_no_openid_is_nobody(hosted, send, refused, headers):
    for url, body in BODIES.items():
        refused(send(url, headers, **body), 401, "login_required")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_where_there_is_no_login_its_url_is_unknown(client, configure, refused, method):
    for variables in ({}, {"ROOMAPP_TRUST_WX_OPENID": "1"}):
        configure(**variables)
        answer = client.request("/usr/login", method=method, body=b"{}", expect_errors=True)
        refused(answer, 404, "not_found")


def test_a_login_is_posted(client, verified, refused):
    answer = client.get("/usr/login", expect_errors=True)
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "POST"


def test_in_the_open_mode_headers_mean_nothing(configure, send):
    headers = {"X-WX-OPENID": "li", "Authorization": "Bearer x"}
    room = {**BODIES["/room/add"], "room_owner_id": "ming"}
    configure(ROOMAPP_TRUST_WX_OPENID="", ROOMAPP_WECHAT_APPID="", ROOMAPP_WECHAT_SECRET="")
    assert send("/room/add", headers, **room).json["response_code"] == 1
    assert send("/room/kick", headers, room_id=1, openid="x").json["error"] == "member_not_found"


# The real server


@pytest.mark.parametrize(
    "variables",
    [
        {"ROOMAPP_WECHAT_APPID": APPID},
        {"ROOMAPP_WECHAT_SECRET": SECRET},
        {"ROOMAPP_TRUST_WX_OPENID": "yes"},
        {"ROOMAPP_TRUST_WX_OPENID": "1", "ROOMAPP_WECHAT_APPID": "a", "ROOMAPP_WECHAT_SECRET": "s"},
        {"ROOMAPP_WECHAT_API": "api.weixin.qq.com"},
        {"ROOMAPP_WECHAT_API": "https://"},
        {"ROOMAPP_WECHAT_API": "https://api.weixin.qq.com:http"},
        {"ROOMAPP_WECHAT_API": "https://api..weixin"},
        {"ROOMAPP_WECHAT_API": "https://api.weixin.qq.com/路"},
        {"ROOMAPP_TRUSTED_PROXY": "*"},
        {"ROOMAPP_TRUSTED_PROXY": "proxy.example"},
    ],
    ids=str,
)
def test_half_a_configuration_is_one_line(tmp_path, variables):
    line = refused_to_start(f"--database={tmp_path / 'roomapp.db'}", **variables)
    assert next(iter(variables)) in line
    assert SECRET not in line


def test_half_a_configuration_lets_nobody_in_under_another_server_either(
    client, configure, refused
):
    configure(ROOMAPP_WECHAT_APPID=APPID)
    refused(client.post_json("/search", {"key": 1}, expect_errors=True), 500, "server_error")


def test_tokens_outlive_a_restart(start, variables):
    server = start(**variables)
    token = server.post("/usr/login", code="code-ming")["token"]
    server.stop()
    server = start(**variables)
    with closing(server.connect()) as connection:
        headers = {"Authorization": f"Bearer {token}"}
        connection.request("POST", "/usr/roomlist1", '{"openid": "ming"}', headers)
        assert answered(connection)[0] == 200


def test_nothing_secret_is_in_the_files_or_the_log(start, variables, wechat_server, tmp_path):
    server = start(**variables)
    token = server.post("/usr/login", code="code-ming")["token"]
    server.post("/usr/login", code="other-CODE")
    wechat_server.says = says(b'{"errcode": 40125, "errmsg": "invalid appsecret"}')
    server.post("/usr/login", code="code-hong")
    said = server.log.read_bytes()
    assert b"POST /usr/login 200" in said
    assert b"40125" in said, "the operator learns why"
    files = [each.read_bytes() for each in tmp_path.glob("roomapp.db*")]
    assert any(b"ming" in content for content in files)
    for content in [said, *files]:
        for secret in (token, SECRET, SESSION_KEY, "code-ming", "other-CODE", "code-hong"):
            assert secret.encode() not in content
    server.stop()
    with closing(sqlite3.connect(tmp_path / "roomapp.db")) as connection:
        ((digest, openid),) = connection.execute("SELECT digest, openid FROM token").fetchall()
    assert (digest, openid) == (models.digest(token), "ming")


def test_logins_that_wait_for_wechat_hold_up_nobody(start, variables, wechat_server):
    server = start("--threads", 1, **variables)
    wechat_server.slow.clear()
    logins = roomapp.LOGIN_THREADS
    with ThreadPoolExecutor(logins) as phones:
        codes = [f"code-p{number}" for number in range(logins)]
        waiting = [phones.submit(server.post, "/usr/login", code=code) for code in codes]
        deadline = monotonic() + 4
        while len(wechat_server.asked) < logins:
            assert monotonic() < deadline
        assert server.request("GET", "/time")[0] == 200
        assert not any(login.done() for login in waiting), "all of them still wait"
        wechat_server.slow.set()
        assert [login.result()["openid"] for login in waiting] == [
            f"p{number}" for number in range(logins)
        ]


@signals
def test_a_login_that_was_received_is_answered_before_the_server_stops(
    start, variables, wechat_server
):
    server = start(**variables)
    wechat_server.slow.clear()
    with closing(server.send("/usr/login", code="code-ming")) as waiting:
        deadline = monotonic() + 4
        while not wechat_server.asked:
            assert monotonic() < deadline
        server.process.terminate()
        wechat_server.slow.set()
        assert answered(waiting)[1]["openid"] == "ming"
    assert server.process.wait(40) == 0


@signals
def test_a_wechat_that_never_ends_its_answer_does_not_keep_the_server_from_stopping(
    start, variables, wechat_server, tmp_path
):
    hasty = "import roomapp, wechat; wechat.ANSWER_WITHIN = 0.3; roomapp.main()"
    run = [sys.executable, "-c", hasty, "--port=0", f"--database={tmp_path / 'roomapp.db'}"]
    server = start(arguments=run, **variables)
    enough = threading.Event()

    def drip(out):
        while not enough.wait(0.05):
            out.write(b"H")

    wechat_server.says = drip
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
    strict = "import roomapp; roomapp.LOGINS_AT_ONCE = 2; roomapp.LOGINS_A_SECOND = 0.001"
    run = [sys.executable, "-c", f"{strict}; roomapp.main()", "--port=0"]
    arguments = [*run, f"--database={tmp_path / 'roomapp.db'}"]
    server = start(arguments=arguments, ROOMAPP_TRUSTED_PROXY=trusted, **variables)

    def login(forwarded_for):
        with closing(server.connect()) as connection:
            headers = {"X-Forwarded-For": forwarded_for}
            connection.request("POST", "/usr/login", '{"code": "unknown"}', headers)
            return answered(connection)[0]

    forged = ["203.0.113.1, 192.0.2.1", "203.0.113.2, 192.0.2.1", "203.0.113.3, 192.0.2.1"]
    assert [login(addresses) for addresses in forged] == [401, 401, 429]
    assert login("192.0.2.2") == (401 if believed else 429)


@pytest.mark.parametrize(
    ("variables", "warning"),
    [
        ({}, "an openid is believed as sent"),
        ({"ROOMAPP_TRUST_WX_OPENID": "1"}, "X-WX-OPENID is believed as sent"),
        ({"ROOMAPP_WECHAT_APPID": "a", "ROOMAPP_WECHAT_SECRET": "s"}, ""),
    ],
)
def test_it_says_so_where_others_are_believed(start, variables, warning):
    server = start("--host", "0.0.0.0", **variables)
    log = server.log.read_text()
    assert warning in log
    assert bool(log) == bool(warning)


@pytest.mark.skipif(not shutil.which("node"), reason="needs node to run the client of the README")
@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_client_of_the_readme_logs_in_once_and_again_when_it_must(
    start, variables, tmp_path, page
):
    server = start(**variables)
    readme = (PROJECT / page).read_text(encoding="utf-8")
    client = re.search(r"```js\n(// rooms\.js\n.*?)```", readme, re.DOTALL)[1]
    client = re.sub("https://rooms[^']*", f"http://127.0.0.1:{server.port}", client)
    (tmp_path / "rooms.js").write_text(client, encoding="utf-8")
    mini_program = """
        let stale = 0, logins = 0, code = 'code-ming'
        globalThis.wx = {
          login: async () => ({ code }),
          request: async ({ url, method, data, header, success, fail }) => {
            logins += url.endsWith('/usr/login')
            if (stale-- > 0) header = { Authorization: 'Bearer stale' }
            const body = JSON.stringify(data)
            const answer = await fetch(url, { method, body, headers: header }).catch(fail)
            success({ statusCode: answer.status, data: await answer.json() })
          }
        }
        const { call } = require('./rooms')
        const room = { name: '一', section: '二', description: '' }
        const add = () => call('/room/add', openid => ({ ...room, room_owner_id: openid }))
        const seen = []
        const see = answer => seen.push([answer.room_id || answer.error, logins])
        ;(async () => {
          (await Promise.all([add(), add()])).sort((a, b) => a.room_id - b.room_id).forEach(see)
          stale = 1
          see(await add())
          stale = 3 // the login in between has no token that could be stale
          see(await add())
          stale = 0
          code = 'unknown'
          stale = 1
          await add().catch(see)
          code = 'code-ming'
          see(await add())
          console.log(JSON.stringify(seen))
        })()
    """
    done = subprocess.run(["node", "-e", mini_program], cwd=tmp_path, **ONE_SHOT)
    assert json.loads(done.stdout or "null") == [
        [1, 1],
        [2, 1],
        [3, 2],
        ["login_required", 3],
        ["login_failed", 4],
        [4, 5],
    ], done.stderr


def test_a_database_from_before_gets_tokens(start, variables, tmp_path):
    file = tmp_path / "roomapp.db"
    made(file)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("DROP TABLE token")
        connection.execute("PRAGMA user_version = 2")
    server = start(**variables)
    assert server.post("/usr/login", code="code-ming")["response_code"] == 1
