"""Clients that misbehave, by chance and on purpose."""

import json
import re
import socket
import sqlite3
from contextlib import ExitStack, closing

import pytest

pytest.importorskip("hypothesis", reason="needs hypothesis: pip install -r tests/requirements.txt")

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from document import BODIES, LISTS
from processes import read_answer, servers
from roomapp import ERRORS
from service.text import indexed_text

# Values by chance


def text(**options):
    return st.text(st.characters(exclude_categories=["Cs"]), **options)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(text(), values, max_size=4),
    max_leaves=8,
)
# What comes near to the rules of each field, from both sides.
likely = (
    st.sampled_from(["ming", "hong", "学习", "1", "０１", 1, 2, 0, "", " ", "a\nb", "🎮" * 60, 1.0])
    | st.integers(-1, 600)
    | text(max_size=70)
    | st.lists(text(max_size=32), max_size=4)
)


@st.composite
def bodies(draw, url):
    """Objects with the fields of an endpoint, some fine, some not, some missing, some unknown."""
    fine = BODIES[url]
    body = draw(st.dictionaries(text(), anything, max_size=2))
    for field in [*fine, "limit", "before", "after"]:
        how = draw(st.sampled_from(["fine", "fine", "likely", "anything", "missing"]))
        if how == "fine" and field in fine:
            body[field] = fine[field]
        elif how == "likely":
            body[field] = draw(likely)
        elif how == "anything":
            body[field] = draw(anything)
    return body


def check_form(url, answer):
    """Whether an answer has the form that the document gives it."""
    sent = answer.json
    assert answer.headers["Content-Type"] == "application/json"
    if sent["response_code"] == 1:
        assert answer.status_int == 200
        assert "error" not in sent
        if url in LISTS:
            assert isinstance(sent["has_more"], bool)
            assert len(sent["messages" if url == "/room/get_message" else "rooms"]) <= 500
    else:
        assert sent["response_code"] == 0
        status, detail = ERRORS[sent["error"]]
        assert answer.status_int == status < 500
        assert sent.keys() - {"field"} == {"response_code", "error", "detail"}
        assert ("field" in sent) == (sent["error"] == "invalid_field")
        assert sent["detail"]
        assert sent["error"] == "invalid_field" or sent["detail"] == detail


by_chance = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12
)
thoroughly = settings(by_chance, max_examples=200)


def whatever_is_sent(url, client, dump):
    """Send bodies by chance: each answer has its form, and who is refused has changed nothing."""

    def send(body):
        before = dump()
        answer = client.post_json(url, body, expect_errors=True)
        check_form(url, answer)
        if answer.json["response_code"] == 0 or url in LISTS:
            assert dump() == before

    return given(bodies(url))(send)


@pytest.mark.parametrize("url", BODIES)
def test_whatever_is_sent_is_answered_in_form(client, room, dump, url):
    by_chance(whatever_is_sent(url, client, dump))()


@pytest.mark.slow
@pytest.mark.parametrize("url", BODIES)
def test_whatever_is_sent_is_answered_in_form_two_hundred_times(client, room, dump, url):
    thoroughly(whatever_is_sent(url, client, dump))()


@by_chance
@given(body=st.binary() | anything.map(lambda value: json.dumps(value).encode()))
@example(body=b"\xef\xbb\xbf{}")
@example(body=b'{"openid": "\\ud800"}')
def test_whatever_bytes_are_sent_are_answered_in_form(client, room, dump, body):
    before = dump()
    for url in BODIES:
        answer = client.post(url, body, expect_errors=True)
        check_form(url, answer)
        # Whoever is unknown has no rooms, and has left.
        assert answer.json["response_code"] == 0 or url in (*LISTS, "/usr/delete")
    assert dump() == before


# Bytes on purpose, to the real server


@pytest.fixture(scope="module")
def one_server(tmp_path_factory):
    with servers(tmp_path_factory.mktemp("hostile")) as start:
        yield start()


@pytest.fixture
def server(one_server):
    """A server that is well afterwards, and has logged nothing but requests."""
    server = one_server
    yield server
    assert server.request("GET", "/time")[0] == 200
    assert all(line.endswith(" ms") for line in server.log.read_text().splitlines())


@pytest.fixture
def send(server):
    """Send bytes and take in all that comes back until the server closes or says no more."""

    def send(content):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            try:
                connection.sendall(content)
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it was closed before all was sent
            try:
                return b"".join(iter(lambda: connection.recv(65536), b""))
            except ConnectionResetError:
                return b""

    return send


def request(body=b'{"key": "lol"}', length=None, headers=b"", method=b"POST /search"):
    length = str(len(body) if length is None else length).encode()
    return b"%s HTTP/1.1\r\nHost: x\r\nContent-Length: %s\r\n%s\r\n%s" % (
        method,
        length,
        headers,
        body,
    )


def statuses(answer):
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]


@pytest.mark.parametrize(
    "length",
    [-1, "+14", "0x0e", "14.0", "1e1", "", "１４", "14, 15", "9" * 30, "14\r\nContent-Length: 15"],
)
def test_a_length_that_is_no_length_is_refused(send, length):
    assert statuses(send(request(length=length)))[:1] in ([400], [413])


def test_a_length_too_long_is_waited_for_and_too_short_is_the_end(server, send):
    with socket.create_connection(("127.0.0.1", server.port)) as waiting:
        waiting.sendall(request(length=100))
        assert server.request("GET", "/time")[0] == 200
    assert statuses(send(request(length=5))) == [400], "half a body, and then no whole request"


@pytest.mark.parametrize(
    ("chunks", "status"),
    [
        (b"e\r\n" + b'{"key": "lol"}' + b"\r\n0\r\n\r\n", 200),
        (
            b"7\r\n" + b'{"key":' + b"\r\n6;x=y\r\n" + b' "lol"'[:6] + b"\r\n1\r\n}\r\n0\r\n\r\n",
            200,
        ),
        (b"x\r\n", 400),
        (b"-1\r\n", 400),
        (b"e\r\n" + b'{"key": "lol"}{}', 400),
        (b"0\r\n\r\n", 400),
    ],
)
def test_chunks_are_joined_or_refused(send, chunks, status):
    head = b"POST /search HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert statuses(send(head + chunks))[0] == status


def test_a_coding_that_is_not_known_is_refused(send):
    head = b"POST /search HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n"
    assert statuses(send(head)) == [501]


@pytest.mark.parametrize(
    "headers",
    [
        b"X-Flood: " + b"x" * 300_000 + b"\r\n",
        b"".join(b"X-%d: x\r\n" % number for number in range(30_000)),
        b"x" * 300_000,
    ],
)
def test_a_flood_of_headers_is_refused(send, headers):
    assert statuses(send(request(headers=headers))) in ([431], [])


def test_headers_over_the_limit_are_told_so(send):
    head = b"GET /time HTTP/1.1\r\nX-Long: "
    assert statuses(send(head.ljust(32 * 1024, b"x"))) == [431]


@pytest.mark.parametrize(
    ("garbage", "answers"),
    [
        (b"\r\n\r\n", []),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), []),  # TLS
        (b"GET\r\n\r\n", [400]),
        (b"get /time HTTP/1.1\r\n\r\n", [400]),
        (b"GET /time HTTP/9.9\r\nBad Header: x\r\n\r\n", [400]),
        (b"GET /time HTTP/1.1\r\n: x\r\n\r\n", [400]),
        (bytes(range(256)) * 100, []),
        (request() + b"GARBAGE\r\n\r\n", [200, 400]),
        (request() + b"GARBAGE\r\n\r\n" + request(), [200, 400]),
    ],
)
def test_what_is_no_http_is_refused_or_ignored(send, garbage, answers):
    assert statuses(send(garbage)) == answers


@pytest.mark.parametrize("url", [b"//time", b"/time?" + b"x" * 9000, b"/time#x", b"http://x/time"])
def test_odd_ways_to_write_a_url_are_understood(send, url):
    assert statuses(send(request(b"", method=b"GET " + url))) == [200]


def test_requests_in_one_packet_are_answered_in_order(send):
    asked = [b'{"key": "lol"}', b"{", b'{"key": 1}', b"[]"] * 5
    answer = send(b"".join(map(request, asked)))
    assert statuses(answer) == [200, 400, 200, 400] * 5


def test_who_leaves_in_the_middle_disturbs_nobody(server):
    for content in (b"", b"P", request()[:30], request()[:-3], request()):
        with socket.create_connection(("127.0.0.1", server.port)) as leaving:
            leaving.sendall(content)


def test_slow_senders_hold_up_nobody(server):
    """50 send a byte now and then; others are answered within a second."""
    with ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for _ in range(50)
        ]
        for number in range(20):
            for sender in slow:
                sender.sendall(request()[number : number + 1])
            with closing(server.connect()) as connection:
                connection.timeout = 1
                connection.request("POST", "/search", b'{"key": "lol"}')
                assert connection.getresponse().status == 200


def test_who_takes_no_answers_does_not_keep_the_threads(start):
    """More of them than threads ask for megabytes at once and read nothing."""
    server = start("--quiet")
    room_id = server.open_room()
    with closing(server.connect()) as connection:
        for _ in range(130):
            message = {"room_id": room_id, "openid": "ming", "message": "🎮" * 2000}
            connection.request("POST", "/room/send_message", json.dumps(message))
            assert read_answer(connection)[0] == 200
    asked = request(b'{"room_id": 1, "limit": 500}', method=b"POST /room/get_message")
    with ExitStack() as stack:
        for _ in range(4):
            deaf = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            deaf.sendall(asked * 12)
        for _ in range(10):
            assert server.request("GET", "/time")[0] == 200
        (answers, rest) = b"", True
        while rest:
            rest = deaf.recv(2**20)
            answers += rest
            if answers.count(b'"has_more":true') == 12:
                break
        assert answers.count(b"HTTP/1.1 200 OK") == 12, "who reads late has all answers, in order"


def test_a_body_with_a_length_and_chunks_is_the_last_on_its_connection(send):
    """Whoever stands in front may go by the length, and take the rest for another request."""
    head = b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
    chunks = b'Transfer-Encoding: chunked\r\n\r\n9\r\n{"key":1}\r\n0\r\n\r\n'
    assert statuses(send(head + chunks + request())) == [200]


@pytest.mark.slow
def test_a_search_that_takes_long_ends_and_holds_up_nobody(start, tmp_path):
    """Made-up texts in which LIKE finds much that is nearly right."""
    server = start("--quiet")
    room_id = server.open_room()
    text = indexed_text("x", "x", "a" * 990 + " ab")
    with closing(sqlite3.connect(tmp_path / "roomapp.db")) as connection, connection:
        rows = ((number, text) for number in range(-30_000, -10))
        connection.executemany("INSERT INTO room_index (rowid, text) VALUES (?, ?)", rows)
    with ExitStack() as stack:
        key = "a" * 59 + "b"
        waiting = [stack.enter_context(closing(server.send("/search", key=key))) for _ in range(8)]
        for _ in range(10):
            assert server.request("GET", "/time")[0] == 200
        assert server.post("/usr/join", room_id=room_id, openid="hong")["response_code"] == 1
        answers = [read_answer(each) for each in waiting]
    assert {(status, answer["error"]) for status, answer in answers} == {(503, "database_busy")}
    assert server.post("/search", key=room_id)["rooms"]


def test_a_server_says_no_version(send):
    answer = send(request()).lower()
    (line,) = [line for line in answer.split(b"\r\n") if line.startswith(b"server:")]
    assert not any(48 <= byte <= 57 for byte in line)


def test_browsers_are_told_not_to_guess_nor_to_keep(send):
    for content in (request(), request(b"{"), request(method=b"GET /nowhere")):
        answer = send(content)
        assert b"\r\nX-Content-Type-Options: nosniff\r\n" in answer
        assert b"\r\nCache-Control: no-store\r\n" in answer
