"""Asking WeChat who somebody is, by the code that wx.login gave their mini-program."""

import json
import logging
import re
import ssl
from functools import cache, partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from queue import Empty, SimpleQueue
from threading import BoundedSemaphore, Thread
from urllib.parse import urlencode, urlsplit

from service.database import Refused

ANSWER_WITHIN = 5  # seconds
ANSWER_AT_MOST = 64 * 1024  # bytes
# errcode: the code is unknown or expired, was used before, or its user is a risk to WeChat.
LOGIN_FAILED = (40029, 40163, 40226)

# errcode: what the operator has to do.
ADVICE = {
    "40013": "ROOMAPP_WECHAT_APPID is not the AppID of a mini-program",
    "40125": "ROOMAPP_WECHAT_SECRET is not the AppSecret of this mini-program",
    "40164": "add the address of this machine to the list in WeChat's console (IP 白名单)",
}

OPENID = re.compile("[A-Za-z0-9_-]{1,64}")

# So many logins may wait for WeChat; while it does not answer, others are refused at once.
WAITING_AT_MOST = 24
asking = BoundedSemaphore(WAITING_AT_MOST)

log = logging.getLogger("roomapp")


def openid_of(code, appid, secret, api):
    """The openid behind a code; Refused when WeChat knows none or does not answer.

    The request is auth.code2Session of WeChat's documentation. Its answer has the session key too,
    which is dropped here.
    """
    query = {
        "appid": appid,
        "secret": secret,
        "js_code": code,
        "grant_type": "authorization_code",
    }
    if not asking.acquire(blocking=False):
        raise unavailable("too many wait for it already")
    try:
        answer = ask(api, urlencode(query))
    finally:
        asking.release()
    errcode = answer.get("errcode", 0)
    if errcode in LOGIN_FAILED:
        raise Refused("login_failed")
    if errcode != 0:
        advice = ADVICE.get(str(errcode), "WeChat's documentation says what that is")
        raise unavailable(f"it answered with errcode {errcode!r:.20}: {advice}")
    openid = answer.get("openid")
    if not (isinstance(openid, str) and OPENID.fullmatch(openid)):
        raise unavailable("it answered without an openid")
    return openid


def ask(api, query):
    """WeChat's answer, a dict.

    A thread of its own waits for it: no timeout of a socket covers the lookup of a name, nor an
    answer that comes byte by byte.
    """
    answers = SimpleQueue()
    Thread(target=lambda: answers.put(fetch(api, query)), daemon=True).start()
    try:
        status, content = answers.get(timeout=ANSWER_WITHIN)
    except Empty:
        raise unavailable(f"no answer within {ANSWER_WITHIN} seconds") from None
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        answer = None
    if status != 200 or not isinstance(answer, dict):
        raise unavailable(f"no JSON object, but {status}")
    return answer


def fetch(api, query):
    """The status and the content of an answer, or the name of an error and nothing."""
    url = urlsplit(api)
    https = partial(HTTPSConnection, context=tls_context())
    connect = https if url.scheme == "https" else HTTPConnection
    connection = connect(url.hostname, url.port, timeout=ANSWER_WITHIN)
    try:
        connection.request("GET", f"{url.path.rstrip('/')}/sns/jscode2session?{query}")
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
    log.error("WeChat cannot be asked for an openid: %s", why)
    return Refused("wechat_unavailable")
