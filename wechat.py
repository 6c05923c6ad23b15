"""Asking WeChat who somebody is, by the code that their mini-program was given."""

import json
import logging
import re
import ssl
from functools import cache, partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from queue import Empty, SimpleQueue
from threading import Thread
from urllib.parse import urlencode, urlsplit

from models import OPENID_AT_MOST, Refused

ANSWER_WITHIN = 5  # seconds
ANSWER_AT_MOST = 64 * 1024  # bytes
# The code is unknown or expired, was used before, or WeChat holds its user for a risk.
NO_LOGIN = (40029, 40163, 40226)

OPENID = re.compile(rf"[A-Za-z0-9_-]{{1,{OPENID_AT_MOST}}}")

log = logging.getLogger("roomapp")


def openid_of(code, appid, secret, api):
    """The openid of whom WeChat gave the code; Refused when there is none or WeChat cannot say.

    The request is auth.code2Session of WeChat's documentation. Its answer has the session key too,
    which goes no further than this.
    """
    query = {
        "appid": appid,
        "secret": secret,
        "js_code": code,
        "grant_type": "authorization_code",
    }
    answer = asked(api, urlencode(query))
    errcode = answer.get("errcode", 0)
    if errcode in NO_LOGIN:
        raise Refused("login_failed")
    if errcode != 0:
        raise unavailable(f"it answered with errcode {errcode!r:.20}")
    openid = answer.get("openid")
    if not (isinstance(openid, str) and OPENID.fullmatch(openid)):
        raise unavailable("it answered without an openid")
    return openid


def asked(api, query):
    """WeChat's answer, a dict.

    A thread of its own waits for it: no time-out of a socket covers the look-up of a name, nor an
    answer that comes byte by byte.
    """
    answered = SimpleQueue()
    Thread(target=lambda: answered.put(fetched(api, query)), daemon=True).start()
    try:
        status, content = answered.get(timeout=ANSWER_WITHIN)
    except Empty:
        raise unavailable(f"no answer within {ANSWER_WITHIN} seconds") from None
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        answer = None
    if status != 200 or not isinstance(answer, dict):
        raise unavailable(f"no JSON object, but {status}")
    return answer


def fetched(api, query):
    """The status and the content of an answer, or the name of an error and nothing."""
    url = urlsplit(api)
    secured = partial(HTTPSConnection, context=trust())
    connect = secured if url.scheme == "https" else HTTPConnection
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
def trust():
    """Which certificates are believed: those that the system has, read once, as it takes long."""
    return ssl.create_default_context()


def unavailable(why):
    log.error("WeChat tells nobody's openid: %s", why)
    return Refused("wechat_unavailable")
