"""A server on loopback that stands in for WeChat, and fails a test in which it is asked wrongly."""

import json
import re
import sqlite3
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

APPID, SECRET, SESSION_KEY = "wx0123456789abcdef", "0123456789SECRET", "SESSIONKEY=="
LOGIN, TOKEN, CHECK = "/sns/jscode2session", "/cgi-bin/stable_token", "/wxa/msg_sec_check"
CONTENT_AT_MOST = 2500

# An escape of JSON such as \u4e2d; not a backslash, itself escaped, before a u.
ESCAPE = re.compile(rb"(?<!\\)(?:\\\\)*\\u")


class WeChat:
    """What stands in for WeChat.

    It knows codes that begin with `code-`, followed by an openid. A text with 违规 is risky, one
    with 可疑 is for a person to review.
    """

    def __init__(self, port, scheme, database):
        self.api = f"{scheme}://127.0.0.1:{port}"
        self.database = database
        self.reply = None  # what writes a whole HTTP answer, in place of its own
        self.replies = {}  # the same for one path
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.seconds = 0  # that each answer takes
        self.queries = []  # (path, query)
        self.checks = []  # what it was asked of texts
        self.tokens = {}  # access token: the errcode that it gets, 0 while it is valid
        self.suggested = set()  # the texts for which it has given a suggestion
        self.faults = []  # of those who asked
        self.changed = threading.Condition()

    def answer(self, method, path, content):
        url = urlsplit(path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        endpoints = {
            ("GET", LOGIN): self.log_in,
            ("POST", TOKEN): self.give_token,
            ("POST", CHECK): self.check,
        }
        try:
            self.check_change()
            with self.changed:
                self.queries.append((url.path, query))
                self.changed.notify_all()
                return endpoints[method, url.path](query, content)
        except Exception as fault:
            self.faults.append(repr(fault))
            return {"errcode": 47001, "errmsg": "data format error"}

    def check_change(self):
        """Take the write lock of the service's database, which whoever asks must not hold."""
        if self.database and self.database.exists():
            connect = sqlite3.connect(self.database, timeout=2, isolation_level=None)
            with closing(connect) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")

    def log_in(self, query, _):
        assert query["appid"], "asked in the open mode"
        assert query["secret"], "asked in the open mode"
        code = query["js_code"]
        if not code.startswith("code-"):
            return {"errcode": 40029, "errmsg": "invalid code"}
        return {"openid": code.removeprefix("code-"), "session_key": SESSION_KEY}

    def give_token(self, query, content):
        """The token that there is, or a new one."""
        body = json.loads(content.decode())
        assert body.keys() == {"grant_type", "appid", "secret"}
        assert body["grant_type"] == "client_credential"
        assert body["appid"], "asked in the open mode"
        assert body["secret"], "asked in the open mode"
        valid = [token for token, errcode in self.tokens.items() if not errcode]
        token = valid[0] if valid else f"ACCESS_{len(self.tokens)}"
        self.tokens[token] = 0
        return {"access_token": token, "expires_in": 7200}

    def check(self, query, content):
        errcode = self.tokens.get(query["access_token"])
        assert errcode is not None, "a token that it did not give"
        assert not ESCAPE.search(content), "it would check the escapes"
        body = json.loads(content.decode())
        assert body.keys() == {"version", "openid", "scene", "content"}
        assert (type(body["version"]), body["version"]) == (int, 2)
        assert body["scene"] in (1, 2, 3, 4)
        assert 1 <= len(body["content"]) <= CONTENT_AT_MOST
        self.checks.append(body)
        if errcode:
            return {"errcode": errcode, "errmsg": f"invalid credential {query['access_token']}"}
        text = body["openid"], body["scene"], body["content"]
        assert text not in self.suggested, "asked twice about one text"
        if self.reply_to(CHECK) is None and self.may_answer.is_set():
            self.suggested.add(text)
        return suggestion(body["content"])

    def reply_to(self, path):
        return self.replies.get(urlsplit(path).path, self.reply)

    def expire_tokens(self, errcode):
        """Call the tokens that it has given invalid from now on."""
        self.tokens = dict.fromkeys(self.tokens, errcode)

    def times_asked(self, path):
        return [each for each, _ in self.queries].count(path)

    def wait_until_asked(self, path, times):
        with self.changed:
            assert self.changed.wait_for(lambda: self.times_asked(path) >= times, 30)


def suggestion(content):
    suggest, label = "pass", 100
    if "违规" in content:
        suggest, label = "risky", 20001
    elif "可疑" in content:
        suggest, label = "review", 21000
    detail = {"strategy": "content_model", "errcode": 0, "suggest": suggest, "label": label}
    return {
        "errcode": 0,
        "errmsg": "ok",
        "result": {"suggest": suggest, "label": label},
        "detail": [{**detail, "prob": 90}],
        "trace_id": "60ae120f-371d5872-7941a05b",
    }


def reply(content, status="200 OK"):
    """What answers this, whatever was asked."""
    head = f"HTTP/1.0 {status}\r\n\r\n".encode()
    return lambda out: out.write(head + content)


@contextmanager
def stand_in(wrap=lambda socket: socket, scheme="http", database=None):
    """A WeChat on loopback; `database` is the file of a service that may ask it."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            wechat = self.server.wechat
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = json.dumps(wechat.answer(self.command, self.path, content)).encode()
            ended.wait(wechat.seconds)
            wechat.may_answer.wait(30)
            (wechat.reply_to(self.path) or reply(answer))(self.wfile)

        do_GET = do_POST = answer

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 100

        def handle_error(self, *_):
            """Say nothing of a client that does not trust it, or does not wait."""

    ended = threading.Event()
    with Server(("127.0.0.1", 0), Handler) as server:
        server.socket = wrap(server.socket)
        server.wechat = WeChat(server.server_port, scheme, database)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.wechat
        finally:
            ended.set()
            server.wechat.may_answer.set()
            server.shutdown()
            thread.join()
        assert server.wechat.faults == []
