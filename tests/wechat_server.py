"""A server on loopback that stands in for WeChat."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

APPID, SECRET, SESSION_KEY = "wx0123456789abcdef", "0123456789SECRET", "SESSIONKEY=="


class WeChat:
    """What stands in for WeChat: it knows codes that begin with `code-`, followed by an openid."""

    def __init__(self, port, scheme="http"):
        self.api = f"{scheme}://127.0.0.1:{port}"
        self.reply = None  # what writes a whole HTTP answer, in place of its own
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.queries = []

    def answer(self, path):
        url = urlsplit(path)
        query = {name: value for name, (value,) in parse_qs(url.query).items()}
        self.queries.append((url.path, query))
        code = query["js_code"]
        if not code.startswith("code-"):
            return {"errcode": 40029, "errmsg": "invalid code"}
        return {"openid": code.removeprefix("code-"), "session_key": SESSION_KEY}


@contextmanager
def stand_in(wrap=lambda socket: socket, scheme="http"):
    """A WeChat on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            wechat = self.server.wechat
            content = json.dumps(wechat.answer(self.path)).encode()
            wechat.may_answer.wait(30)
            if wechat.reply is None:
                head = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n"
                self.wfile.write(head + content)
            else:
                wechat.reply(self.wfile)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # of a client that does not trust it
        server.socket = wrap(server.socket)
        server.wechat = WeChat(server.server_port, scheme)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.wechat
        finally:
            server.wechat.may_answer.set()
            server.shutdown()
            thread.join()
