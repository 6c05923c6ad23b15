"""Asking WeChat: who somebody is, by the code of wx.login, and whether others may see a text."""

import json
import logging
import re
import ssl
from contextlib import contextmanager
from functools import cache, lru_cache, partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from queue import Empty, SimpleQueue
from threading import BoundedSemaphore, Lock, Thread
from time import monotonic
from urllib.parse import urlencode, urlsplit

from service.database import Refused

ANSWER_WITHIN = 8  # seconds for all that one request asks
ANSWER_AT_MOST = 64 * 1024  # bytes
# How long before its end a token is renewed, in seconds. WeChat has a new one five minutes before.
RENEW_BEFORE = 120

# errcode: the code is unknown or expired, was used before, or its user is a risk to WeChat.
LOGIN_FAILED = (40029, 40163, 40226)
TOKEN_INVALID = (40001, 40014, 42001)
NOT_SEEN_LATELY = 61010
RISKY = 87014  # as the first version of the check said it

# errcode: what the operator has to do.
ADVICE = {
    "40013": "ROOMAPP_WECHAT_APPID is not the AppID of a mini-program",
    "40125": "ROOMAPP_WECHAT_SECRET is not the AppSecret of this mini-program",
    "40164": "add the address of this machine to the list in WeChat's console (IP 白名单)",
    "44991": "too many requests this minute",
    "45009": "too many requests today",
    "45011": "too many requests this minute",
}

OPENID = re.compile("[A-Za-z0-9_-]{1,64}")

# So many requests may wait for WeChat; while it does not answer, others are refused at once.
WAITING_AT_MOST = 50
waiting = BoundedSemaphore(WAITING_AT_MOST)

log = logging.getLogger("roomapp")


class Account:
    """The account of the mini-program, in whose name WeChat is asked."""

    def __init__(self, appid, secret, api):
        self.credentials, self.api = {"appid": appid, "secret": secret}, api
        self.renewing = Lock()
        self.token, self.token_until = None, 0
        self.suggestion = lru_cache(1000)(self.ask_suggestion)  # of a text that is sent again

    def openid_of(self, code):
        """The openid behind a code; Refused when WeChat knows none or does not answer.

        The request is auth.code2Session of WeChat's documentation. Its answer has the session key
        too, which is dropped here.
        """
        query = {**self.credentials, "js_code": code, "grant_type": "authorization_code"}
        with hold(waiting, 0, "too many wait for it already"):
            answer = self.ask("/sns/jscode2session", query, None, monotonic() + ANSWER_WITHIN)
        if answer.get("errcode") in LOGIN_FAILED:
            raise Refused("login_failed")
        openid = valid(answer).get("openid")
        if not (isinstance(openid, str) and OPENID.fullmatch(openid)):
            raise unavailable("it answered without an openid")
        return openid

    def ask_suggestion(self, openid, scene, content):
        """What WeChat suggests for a text of openid: pass, review or risky.

        The request is security.msgSecCheck, version 2, of WeChat's documentation.
        """
        body = {"version": 2, "openid": openid, "scene": scene, "content": content}
        with hold(waiting, 0, "too many wait for it already"):
            answer = self.ask_with_token("/wxa/msg_sec_check", body, monotonic() + ANSWER_WITHIN)
        if answer.get("errcode") == NOT_SEEN_LATELY:
            raise Refused("login_required", detail="离开太久了，请重新打开小程序并登录")
        if answer.get("errcode") == RISKY:
            return "risky"
        result = valid(answer).get("result")
        suggest = result.get("suggest") if isinstance(result, dict) else None
        if suggest not in ("pass", "review", "risky"):
            raise unavailable("it answered without a suggestion")
        return suggest

    def ask_with_token(self, path, body, deadline):
        """Ask, and once more with a new token when WeChat calls the first one invalid."""
        token = self.access_token(deadline)
        answer = self.ask(path, {"access_token": token}, body, deadline)
        if answer.get("errcode") in TOKEN_INVALID:
            token = self.access_token(deadline, invalid=token)
            answer = self.ask(path, {"access_token": token}, body, deadline)
        return answer

    def access_token(self, deadline, invalid=None):
        """The token with which this account asks, kept until shortly before it expires.

        The request is auth.getStableAccessToken of WeChat's documentation. A token that is
        `invalid` is renewed by the first thread that says so.
        """
        with hold(self.renewing, deadline - monotonic(), "no access token in time"):
            if self.token == invalid or monotonic() >= self.token_until:
                body = {**self.credentials, "grant_type": "client_credential"}
                answer = valid(self.ask("/cgi-bin/stable_token", {}, body, deadline))
                token, seconds = answer.get("access_token"), answer.get("expires_in")
                if not (isinstance(token, str) and token and type(seconds) is int):
                    raise unavailable("it answered without an access token")
                self.token, self.token_until = token, monotonic() + seconds - RENEW_BEFORE
            return self.token

    def ask(self, path, query, body, deadline):
        """WeChat's answer, a dict.

        A thread of its own waits for it: no timeout of a socket covers the lookup of a name, nor an
        answer that comes byte by byte.
        """
        seconds = max(0, deadline - monotonic())
        answers = SimpleQueue()
        asked = self.api, f"{path}?{urlencode(query)}", body, seconds
        Thread(target=lambda: answers.put(fetch(*asked)), daemon=True).start()
        try:
            status, content = answers.get(timeout=seconds)
        except Empty:
            raise unavailable(f"no answer within {ANSWER_WITHIN} seconds") from None
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        if status != 200 or not isinstance(answer, dict):
            raise unavailable(f"no JSON object, but {status}")
        return answer


account = cache(Account)  # one for the settings that there are


@contextmanager
def hold(lock, seconds, why):
    """Hold a lock, or say why WeChat cannot be asked where it is not free within some seconds."""
    if not lock.acquire(timeout=max(0, seconds)):
        raise unavailable(why)
    try:
        yield
    finally:
        lock.release()


def valid(answer):
    """An answer without an error."""
    errcode = answer.get("errcode", 0)
    if errcode != 0:
        advice = ADVICE.get(str(errcode), "WeChat's documentation says what that is")
        if errcode == 40164:  # others may quote a token
            advice += f"; it says {answer.get('errmsg')!r:.100}"
        raise unavailable(f"it answered with errcode {errcode!r:.20}: {advice}")
    return answer


def fetch(api, path, body, seconds):
    """The status and the content of an answer, or the name of an error and nothing."""
    url = urlsplit(api)
    https = partial(HTTPSConnection, context=tls_context())
    connect = https if url.scheme == "https" else HTTPConnection
    connection = connect(url.hostname, url.port, timeout=seconds)
    # WeChat would check the escapes of Chinese as they are written.
    content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
    try:
        connection.request(
            "GET" if body is None else "POST", f"{url.path.rstrip('/')}{path}", content
        )
        response = connection.getresponse()
        return response.status, response.read(ANSWER_AT_MOST)
    except (OSError, HTTPException) as error:
        return type(error).__name__, b""
    finally:
        connection.close()


@cache
def tls_context():
    """The certificates that the system trusts, read once, as that takes long."""
    return ssl.create_default_context()


def unavailable(why):
    log.error("WeChat cannot be asked: %s", why)
    return Refused("wechat_unavailable")
