"""The backend of a campus mini-program: rooms to open, find, join and talk in, over HTTP."""

import ipaddress
import json
import logging
import math
import os
import re
import signal
import sqlite3
import sys
import threading
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError
from functools import cache, partial
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import NamedTuple
from urllib.parse import urlsplit

from bottle import Bottle, HTTPError, request, response, static_file
from peewee import DatabaseError

import backup
import demo
import models
import openapi
import wechat
from models import (
    BLANKS,
    CONTROLS,
    CONTROLS_BUT_BREAKS,
    Clock,
    Message,
    Refused,
    Room,
    Token,
    Unusable,
    User,
    fault,
    fold,
    open_database,
    writing,
)
from search import find
from server import listen, logged, serve, supervise

__version__ = "1.0.0"

BODY_AT_MOST = 64 * 1024  # bytes
LOGINS_AT_ONCE = 2000  # from one address, behind which there may be a campus
LOGINS_A_SECOND = 2  # once those are used up
LOGIN_THREADS = 32  # how many may wait for WeChat in a process
OPTIONAL = {"limit": models.LIMIT_BY_DEFAULT, "before": models.ID_AT_MOST, "after": None}
DIGITS = re.compile("[0-9０-９]+")

log = logging.getLogger("roomapp")
app = Bottle()


# 一、用户


@app.post("/usr/complete")
def complete():
    openid, sex, preference = received("openid", "sex", "preference")
    with writing():
        User.complete(acting(openid), sex, preference)
    return done()


@app.post("/usr/info")
def info():
    (openid,) = received("openid")
    user = User.known_as(openid, reader=request.caller)
    return done(sex=user.sex, preference=user.preference)


@app.post("/usr/roomlist1")
def roomlist1():
    openid, limit, before = received("openid", "limit", "before")
    return listed("rooms", Room.owned_by(acting(openid), limit, before))


@app.post("/usr/roomlist2")
def roomlist2():
    openid, limit, before = received("openid", "limit", "before")
    return listed("rooms", Room.joined_by(acting(openid), limit, before))


@app.post("/usr/join")
def join():
    room_id, openid = received("room_id", "openid")
    with writing():
        Room.numbered(room_id).admit(acting(openid))
    return done()


# 二、房间


@app.post("/room/section")
def section():
    section, limit, before = received("section", "limit", "before")
    return listed("rooms", Room.in_section(fold(section), limit, before))


@app.post("/room/add")
def add():
    name, section, description, owner = received("name", "section", "description", "room_owner_id")
    with writing():
        room = Room.open(name, section, description, acting(owner))
    return done(room_id=room.room_id)


@app.post("/room/kick")
def kick():
    room_id, openid = received("room_id", "openid")
    with writing():
        Room.numbered(room_id).remove(openid, by=request.caller)
    return done()


@app.post("/room/delete")
def delete():
    room_id, openid = received("room_id", "openid")
    with writing():
        Room.numbered(room_id).close(acting(openid))
    return done()


@app.post("/room/get_message")
def get_message():
    room_id, limit, before, after = received("room_id", "limit", "before", "after")
    found = Message.in_room(room_id, limit, before, after, reader=request.caller)
    return listed("messages", found)


@app.post("/room/send_message")
def send_message():
    room_id, openid, message = received("room_id", "openid", "message")
    with writing():
        message_id, time = Room.numbered(room_id).post(acting(openid), message)
    return done(message_id=message_id, time=time)


# 三、其他


@app.post("/search")
def search():
    key, limit = received("key", "limit")
    return listed("rooms", find(key, limit))


@app.get("/time")
def time():
    return done(last_time=Clock.read())


# 登录


@app.post("/usr/login")
def login():
    code = read("code", received_object())
    count_login(request.environ.get("REMOTE_ADDR", ""))
    known = settings()
    openid = wechat.openid_of(code, known.wechat_appid, known.wechat_secret, known.wechat_api)
    with writing():
        token = Token.issue(openid)
    return done(
        openid=openid,
        token=token,
        expires_in=models.TOKEN_SECONDS,
        exist=int(User.exists(openid)),
    )


# The page that a browser sees, which uses the endpoints above, and what tells of them


@app.get("/", skip=True)  # neither the database nor a caller is needed
@app.get("/static/<file:re:[a-z]+[.](?:css|js|svg)>", skip=True)
def page(file="index.html"):
    request.environ.pop("HTTP_RANGE", None)  # a part of a file is of no use to anybody
    kind = PAGE_TYPES[Path(file).suffix]  # the system's own table may differ, on Windows above all
    # Bottle's ETag would lack its quotes; Last-Modified does as well.
    return static_file(file, STATIC, mimetype=kind, etag=False, headers=PAGE_HEADERS)


@app.get("/docs", skip=True)
def docs():
    return page("docs.html")


@app.get("/openapi.json", skip=True)
def openapi_json():
    scheme, host, *_ = request.urlparts
    return answer(200, **document(), servers=[{"url": f"{scheme}://{host}"}])


@cache
def document():
    return openapi.document(app.routes, FIELDS, ERRORS, __version__)


STATIC = Path(__file__).with_name("static")
PAGE_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing but these files and the API, nothing inline, in no other page's frame.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-cache",  # a browser asks each time whether its copy is still right
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


# What is answered


def listed(name, found):
    """Answer with the one row that a finder of many gives."""
    ((array, has_more),) = found
    return done(**{name: Written(array)}, has_more=bool(has_more))


def done(**fields):
    return answer(200, response_code=1, **fields)


def failed(error, **more):
    """Answer a request that cannot be done: `error` is a key of ERRORS."""
    status, detail = ERRORS[error]
    if status == 401:
        response.set_header("WWW-Authenticate", "Bearer")
    return answer(status, **{"response_code": 0, "error": error, "detail": detail} | more)


def answer(status, **fields):
    response.status = status
    response.content_type = "application/json"
    response.set_header("Cache-Control", "no-store")
    response.set_header("X-Content-Type-Options", "nosniff")
    parts = []
    for name, value in fields.items():
        parts += ",", f'"{name}":', value.json if isinstance(value, Written) else written(value)
    return "".join(["{", *parts[1:], "}"])


class Written(NamedTuple):
    """A value that SQLite has written as JSON, perhaps in megabytes, which are best not copied."""

    json: str


written = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


# In the order in which they are looked for. What the mini-program shows in a toast is Chinese.
ERRORS = {
    "not_found": (404, "没有这个接口"),
    "method_not_allowed": (405, "这个接口不支持这种请求方法"),
    "too_large": (413, "提交的内容太大，不能超过 64 KiB"),
    "invalid_json": (400, "提交的内容不是正确的 JSON 对象"),
    "login_required": (401, "请先登录"),
    "invalid_field": (400, "提交的内容填写有误"),
    "too_many_requests": (429, "操作太频繁，请稍后再试"),
    "login_failed": (401, "登录失败，请重新登录"),
    "wechat_unavailable": (503, "微信暂时没有回应，请稍后再试"),
    "room_not_found": (404, "房间不存在或已被删除"),
    "user_not_found": (404, "该用户还没有完善个人信息"),
    "member_not_found": (404, "该用户不在这个房间里"),
    "identity_mismatch": (403, "只能以自己的身份这样做"),
    "not_owner": (403, "只有房主才能这样做"),
    "not_member": (403, "请先加入这个房间"),
    "room_full": (409, "房间已满"),
    "owner_cannot_leave": (409, "房主不能离开自己的房间，可以删除房间"),
    "server_error": (500, "服务器出错了，请稍后再试"),
    "database_busy": (503, "服务器正忙，请稍后再试"),
}


@app.install
def refusing(handler):
    """Let a refusal from anywhere below become its answer."""

    def answered():
        try:
            open_at_first_use()
            return handler()
        except Refused as refusal:
            return failed(refusal.error, **refusal.more)
        except (DatabaseError, sqlite3.DatabaseError, Unusable) as error:
            return failed(fault(error))

    return answered


@app.hook("before_request")
def only_known_urls():
    """Bottle drops the bytes of a path that are not UTF-8; no url of ours has such bytes."""
    unknown = not request.environ["bottle.raw_path"].isascii()
    if unknown or (request.path == "/usr/login" and not settings().wechat_appid):
        raise HTTPError(404)


@app.error(400)  # what should have been chunks
@app.error(404)
@app.error(405)
@app.error(500)
def failed_in_bottle(error):
    """Give Bottle's own errors the form of ours; of a 500 it has logged the traceback."""
    found = {400: "invalid_json", 404: "not_found", 405: "method_not_allowed"}
    return failed(found.get(error.status_code, "server_error"))


# What is received


def received(*fields):
    """The named fields of the request's JSON, each read and checked, in this order.

    Before that, it finds who calls.
    """
    sent = received_object()
    request.caller = caller()
    values = [read(field, sent) for field in fields]
    if "after" in fields and {"before", "after"} <= sent.keys():
        raise Refused("invalid_field", field="after", detail="before 和 after 不能同时使用")
    return values


def received_object():
    try:
        sent = json.loads(received_bytes().decode(), parse_int=whole, parse_constant=no_number)
        json.dumps(sent, ensure_ascii=False).encode()  # a lone surrogate is no character
    except (ValueError, RecursionError):
        raise Refused("invalid_json") from None
    if not isinstance(sent, dict):
        raise Refused("invalid_json")
    return sent


def received_bytes():
    if request.content_length > BODY_AT_MOST:
        raise Refused("too_large")
    # Where the server has put chunks together, Bottle would look for them once more.
    ends = request.environ.get("wsgi.input_terminated")
    body = request.environ["wsgi.input"] if ends else request.body
    content = body.read(BODY_AT_MOST + 1)
    if len(content) > BODY_AT_MOST:
        raise Refused("too_large")
    return content


def read(field, sent):
    if field in OPTIONAL and field not in sent:
        return OPTIONAL[field]
    reader, rule = FIELDS[field]
    try:
        return reader(sent.get(field))
    except ValueError:
        raise Refused("invalid_field", field=field, detail=rule) from None


# A reader takes what was sent and returns what it stands for, or raises ValueError.


def word(value, at_most):
    if " " in text(value, at_most) or not value.isprintable():
        raise ValueError
    return value


def sex(value):
    """WeChat's code (1 男, 2 女, 0 未知), or a text."""
    if type(value) is int and value in (0, 1, 2):
        return value
    return nonblank(value, models.SEX_AT_MOST)


def preference(value):
    if not isinstance(value, list) or len(value) > models.PREFERENCES_AT_MOST:
        raise ValueError
    return [nonblank(each, models.PREFERENCE_AT_MOST) for each in value]


def section_name(value):
    """A line, or a picker's index, which stands for its digits."""
    return line(str(value) if type(value) is int else value, models.SECTION_AT_MOST)


def key(value):
    """A number, however it is written, or a line. A number that no room can have becomes 0."""
    if type(value) is float:
        value = int(value) if value.is_integer() else 0
    if type(value) is int:
        return number(max(value, 0), at_least=0)
    value = line(value, models.KEY_AT_MOST)
    return number(value, at_least=0) if DIGITS.fullmatch(value) else value


def limit(value):
    value = number(value)
    if value > models.LIMIT_AT_MOST:
        raise ValueError
    return value


def number(value, at_least=1):
    """An integer or a string of digits. One too large for any row becomes the largest."""
    if isinstance(value, str) and DIGITS.fullmatch(value):
        value = whole(value.lstrip("0０") or "0")
    if type(value) is not int or value < at_least:
        raise ValueError
    return min(value, models.ID_AT_MOST)


def whole(digits):
    """The integer, cut where it is too large for anything: Python refuses thousands of digits."""
    return int(digits[:60])


def no_number(name):
    raise ValueError(f"{name} is not JSON")


def line(value, at_most):
    """One line, surrounding blanks cut off."""
    return text(value.strip(BLANKS) if isinstance(value, str) else value, at_most)


def nonblank(value, at_most, controls=CONTROLS):
    """A text as it was sent, but not only blanks."""
    if not text(value, at_most, controls=controls).strip(BLANKS):
        raise ValueError
    return value


def text(value, at_most, at_least=1, controls=CONTROLS):
    if not isinstance(value, str) or not at_least <= len(value) <= at_most:
        raise ValueError
    if controls.search(value):
        raise ValueError
    return value


# Each field of the document: its one reader, and the rule that a toast shows.
FIELDS = {
    "openid": (
        partial(word, at_most=models.OPENID_AT_MOST),
        f"openid 应为 1–{models.OPENID_AT_MOST} 个可见字符，不含空格",
    ),
    "sex": (sex, f"性别应为 0、1、2 或 1–{models.SEX_AT_MOST} 个字的文字"),
    "preference": (
        preference,
        f"偏好最多 {models.PREFERENCES_AT_MOST} 项，每项 1–{models.PREFERENCE_AT_MOST} 个字",
    ),
    "room_id": (number, "房间号应为正整数"),
    "name": (
        partial(line, at_most=models.NAME_AT_MOST),
        f"房间名应为 1–{models.NAME_AT_MOST} 个字，不能换行",
    ),
    "section": (section_name, f"分区名应为 1–{models.SECTION_AT_MOST} 个字，不能换行"),
    "description": (
        partial(text, at_most=models.DESCRIPTION_AT_MOST, at_least=0, controls=CONTROLS_BUT_BREAKS),
        f"房间描述最多 {models.DESCRIPTION_AT_MOST} 个字，可以为空",
    ),
    "room_owner_id": (
        partial(word, at_most=models.OPENID_AT_MOST),
        f"room_owner_id 应为 1–{models.OPENID_AT_MOST} 个可见字符，不含空格",
    ),
    "message": (
        partial(nonblank, at_most=models.MESSAGE_AT_MOST, controls=CONTROLS_BUT_BREAKS),
        f"留言应为 1–{models.MESSAGE_AT_MOST} 个字，不能全是空白",
    ),
    "key": (key, f"搜索内容应为房间号或 1–{models.KEY_AT_MOST} 个字的文字"),
    "limit": (limit, f"limit 应为 1–{models.LIMIT_AT_MOST} 的整数"),
    "before": (number, "before 应为正整数"),
    "after": (partial(number, at_least=0), "after 应为 0 或正整数"),
    "code": (
        partial(word, at_most=models.CODE_AT_MOST),
        f"code 应为 wx.login 给的 1–{models.CODE_AT_MOST} 个字符",
    ),
}


# Who is calling


def caller():
    """The openid of who calls, where identities are verified; otherwise None."""
    if settings().trust_wx_openid:
        vouched_for = request.environ.get("HTTP_X_WX_OPENID")
        if not vouched_for:
            raise Refused("login_required")
        return vouched_for
    if settings().wechat_appid:
        scheme, _, token = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Refused("login_required")
        return Token.holder(token.strip())
    return None


def acting(openid):
    """The openid that acts by what the request says; it must be the caller's own."""
    if request.caller not in (None, openid):
        raise Refused("identity_mismatch")
    return openid


counting = threading.Lock()
counted = {}  # until when an address has used up its logins, by this process's clock


def count_login(address):
    """Let an address log in LOGINS_AT_ONCE times, and then LOGINS_A_SECOND."""
    with counting:
        now = monotonic()
        for other in [other for other, until in counted.items() if until <= now]:
            del counted[other]
        network = network_of(address)
        until = counted.get(network, now) + 1 / LOGINS_A_SECOND
        wait = until - now - LOGINS_AT_ONCE / LOGINS_A_SECOND
        if wait > 0:
            response.set_header("Retry-After", math.ceil(wait))
            raise Refused("too_many_requests")
        counted[network] = until


def network_of(address):
    """An address, or for IPv6 its network: whoever has one address has 2**64."""
    if ":" not in address:
        return address
    try:
        address = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:  # as a proxy may write it
        return address
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))


# How it is run


def port(value):
    if not (value.isdecimal() and int(value) < 65536):
        raise ArgumentTypeError(f"{value!r} is not a port number, 0 to 65535")
    return int(value)


def amount(value):
    if not (value.isdecimal() and 1 <= int(value) <= 100):
        raise ArgumentTypeError(f"{value!r} is not a number from 1 to 100")
    return int(value)


def workers(value):
    if amount(value) > 1 and not hasattr(os, "fork"):
        raise ArgumentTypeError("this system has only one worker: it cannot fork")
    return amount(value)


# option: (default, what reads it, what it is)
OPTIONS = {
    "host": ("127.0.0.1", str, "address to listen on; 0.0.0.0 is every address of this machine"),
    "port": ("8080", port, "port to listen on; 0 takes a free one"),
    "database": (
        Path(__file__).with_name("data") / "roomapp.db",
        Path,
        "SQLite file that keeps the data, made when it is missing",
    ),
    "threads": ("4", amount, "how many requests a process answers at the same time"),
    "workers": ("1", workers, "how many processes answer, each on a core of its own"),
}


def one_address(value):
    try:
        return value and str(ipaddress.ip_address(value))
    except ValueError:
        raise ArgumentTypeError(f"{value!r} is not the address of one machine") from None


def web_address(value):
    try:
        url = urlsplit(value)
        fine = url.scheme in ("https", "http") and value.isascii() and not url.query
        fine = fine and url.port != 0 and (url.hostname or "").encode("idna")
    except ValueError:
        fine = False
    if not fine:
        raise ArgumentTypeError(f"{value!r} is not the address of a web server")
    return value


def switch(value):
    if value not in ("0", "1"):
        raise ArgumentTypeError(f"{value!r} is neither 0 nor 1")
    return value == "1"


# The same for what the environment alone says: others see the flags of a command, and a secret in
# them, and whom to trust is settled where the service is installed.
SETTINGS = {
    "wechat_appid": ("", str, "AppID of the mini-program, to verify who calls by WeChat's login"),
    "wechat_secret": ("", str, "AppSecret of the mini-program"),
    "wechat_api": ("https://api.weixin.qq.com", web_address, "where WeChat answers"),
    "trust_wx_openid": ("0", switch, "1 where WeChat Cloud Hosting vouches for X-WX-OPENID"),
    "trusted_proxy": (
        "",
        one_address,
        "reverse proxy whose X-Forwarded-For and -Proto are believed",
    ),
}


@cache
def settings():
    """What the environment says of SETTINGS; Unusable when that cannot be."""
    found = SimpleNamespace()
    for name, (_, reader, _) in SETTINGS.items():
        try:
            setattr(found, name, reader(configured(name)))
        except ArgumentTypeError as problem:
            raise Unusable(f"{variable(name)}: {problem}") from None
    if bool(found.wechat_appid) != bool(found.wechat_secret):
        raise Unusable("set both ROOMAPP_WECHAT_APPID and ROOMAPP_WECHAT_SECRET, or neither")
    if found.wechat_appid and found.trust_wx_openid:
        raise Unusable("set either ROOMAPP_WECHAT_APPID or ROOMAPP_TRUST_WX_OPENID, not both")
    return found


def configured(option):
    """What the environment says of an option, as text, or else its default."""
    default, _, _ = (OPTIONS | SETTINGS)[option]
    return os.environ.get(variable(option)) or str(default)


def variable(option):
    return f"ROOMAPP_{option.upper()}"


class Arguments(ArgumentParser):
    def error(self, message):
        """Say what is wrong in one line, without argparse's usage text, and exit with 2."""
        for option in OPTIONS:
            message = message.replace(f"argument --{option}:", f"--{option} or {variable(option)}:")
        self.exit(2, f"roomapp: {' '.join(message.split())}\n")


# command: (what runs it with the options, what it does)
COMMANDS = {
    "backup": (
        lambda options: backup.backup(options.database, options.file),
        "copy the database to a new file, also while the service runs",
    ),
    "restore": (
        lambda options: backup.restore(options.database, options.file),
        "put a copy of a file in the place of the database, while the service is stopped",
    ),
    "check": (
        lambda options: backup.check(options.database),
        "tell how the database is, and exit with 1 when it is damaged",
    ),
    "demo": (
        lambda options: demo.fill(options.database),
        "fill an empty database with a campus to look at",
    ),
}


def arguments():
    parser = Arguments(
        description="Serve the rooms of a campus mini-program over HTTP, until Ctrl-C.",
        epilog="Each option can also be set by the environment variable named with it. "
        "Of the environment alone come "
        + "; ".join(f"{variable(name)}, {what}" for name, (_, _, what) in SETTINGS.items()),
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    for option in OPTIONS:
        add_option(parser, option, default=configured(option))
    parser.add_argument("--quiet", action="store_true", help="do not log the requests")
    parser.add_argument("--version", action="version", version=f"roomapp {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, (run_command, what) in COMMANDS.items():
        command = commands.add_parser(name, help=what, description=what, allow_abbrev=False)
        if name in ("backup", "restore"):
            command.add_argument("file", type=Path)
        # No default here: it would win over what stands before the command.
        add_option(command, "database", default=SUPPRESS)
        command.set_defaults(run=run_command)
    return parser


def add_option(parser, option, default):
    _, reader, what = OPTIONS[option]
    told = f"{what} ({variable(option)}; {configured(option)})".replace("%", "%%")
    parser.add_argument(f"--{option}", type=reader, default=default, help=told)


opening = threading.Lock()


def open_at_first_use():
    """Open the database where no main() has done so: under another WSGI server."""
    with opening:
        if models.database.deferred:
            open_database(Path(configured("database")))


def main():
    sys.stdout.reconfigure(errors="backslashreplace")  # a path need not be of the console's letters
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C does
    parser = arguments()
    try:
        options = parser.parse_args()
        options.run(options)
    except Unusable as problem:
        parser.error(str(problem))
    except KeyboardInterrupt:
        parser.error("interrupted")


def run(options):
    """Serve until SIGTERM or Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit())  # nothing has been received yet
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings()  # of which each process has a copy
    listener = listen(options.host, options.port)
    announced = partial(announce, listener, options.database)
    if options.workers == 1:
        work(options, listener, announced)
    else:
        open_database(options.database)
        models.close_database()  # what SQLite has open must not be taken through a fork
        supervise(listener, partial(work, options, listener), options.workers, announced)


def work(options, listener, ready, supervisor=None):
    open_database(options.database)
    answering = app if options.quiet else logged(app)
    logins = LOGIN_THREADS if settings().wechat_appid else 0
    proxy = settings().trusted_proxy
    serve(answering, listener, options.threads, logins, proxy, ready, supervisor)
    models.close_database()


def announce(listener, database):
    host, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    else:
        host = str(address)
    if not (address.is_loopback or settings().wechat_appid):
        believed = "X-WX-OPENID" if settings().trust_wx_openid else "an openid"
        log.warning("whoever reaches this port can act as anyone: %s is believed as sent", believed)
    link = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    print(f"roomapp is at {link} and keeps its data in {database.absolute()}", flush=True)


if __name__ == "__main__":
    main()
