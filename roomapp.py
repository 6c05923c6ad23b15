"""The backend of a campus mini-program: rooms to open, find, join and talk in, over HTTP."""

import json
import logging
import re
import signal
import sqlite3
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from bottle import Bottle, HTTPError, request, response, static_file
from peewee import DatabaseError

import models
from models import (
    Anyone,
    Ban,
    Clock,
    ClosedRoom,
    Memory,
    Message,
    Room,
    Token,
    User,
    fold,
    leave,
)
from search import DIGITS, find
from service import openapi, options, wechat
from service.database import (
    Refused,
    SetupError,
    apply,
    change,
    close_database,
    database,
    is_busy,
    leave_loop,
)
from service.limits import RateLimit, network_of
from service.schema import open_database
from service.serving import announce, listen, log_requests, start_loop

__version__ = "2.0.0"

BODY_AT_MOST = 64 * 1024  # bytes
LIMIT_BY_DEFAULT = 100

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
CONTROLS_BUT_BREAKS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
OFFICE_BREAKS = dict.fromkeys(map(ord, "\v\f\x85"), "\n")
BAD_CHARACTER = "含有不能使用的字符"

app = Bottle()


# 一、用户
#
# `changes` marks the endpoints that change something.


@app.post("/usr/complete", changes=True)
def complete():
    """完善个人信息

    创建个人信息，再次提交就是修改；内容相同则什么都不变。不填 nickname 时，原来的昵称不变。
    """
    openid, sex, preference, nickname = read_fields("openid", "sex", "preference", "nickname")
    doubtful = check_texts(PROFILE, nickname=nickname, sex=sex, preference=preference)
    with write_as(openid):
        User.complete(require_self(openid), sex, preference, nickname, doubtful)
    return done()


@app.post("/usr/info")
def info():
    """查看个人信息

    核实身份时，只能看自己的，以及和自己在同一个房间里的人的。
    """
    [openid] = read_fields("openid")
    user = User.by_openid(openid, request.caller)
    return done(sex=user.sex, preference=user.preference, nickname=user.nickname)


@app.post("/usr/roomlist1")
def roomlist1():
    """我的房间（我发起的）

    新的在前。
    """
    openid, limit, before = read_fields("openid", "limit", "before")
    return done_page(Room.owned_by(require_self(openid), limit, before))


@app.post("/usr/roomlist2")
def roomlist2():
    """我的房间（我参与的）

    不含自己发起的；新的在前。
    """
    openid, limit, before = read_fields("openid", "limit", "before")
    return done_page(Room.joined_by(require_self(openid), limit, before))


@app.post("/usr/join", changes=True)
def join():
    """加入房间

    重复加入等于加入一次，房间已满时也是。
    """
    room_id, openid = read_fields("room_id", "openid")
    limit("join")
    with write_as(openid):
        Room.by_id(room_id).admit(require_self(openid))
    return done()


@app.post("/usr/login")
def login():
    """登录

    用 wx.login 得到的 code 换取 token，之后的请求都带上 Authorization: Bearer TOKEN，过期后重新
    登录。只有服务核实身份时才有这个接口，否则是 not_found，其他接口也不需要 token。
    """
    code = read_field("code", read_object())
    leave_loop()
    logins.count(address())
    openid = wechat.account(*options.wechat_settings()).openid_of(code)
    token = apply(lambda: Token.issue(openid))
    exist = int(User.exists(openid))
    return done(openid=openid, token=token, expires_in=models.TOKEN_SECONDS, exist=exist)


def address():
    return network_of(request.environ.get("REMOTE_ADDR", ""))


# A campus may be behind one address.
logins = RateLimit(at_once=2000, per_second=2)


@app.post("/usr/delete", changes=True)
def delete_user():
    """注销

    删除个人信息、登录状态、成员身份和说过的话（留言还在原来的位置，openid 和 message 为空）。自己的
    房间交给最早加入的人，没有别人的就删除。重复注销等于注销一次。
    """
    [openid] = read_fields("openid")
    require_self(openid)
    refuse_banned(openid)
    leave_loop()
    limit("delete_user")
    leave(openid)
    return done()


# 二、房间


@app.post("/room/section")
def section():
    """由分区名得到房间列表

    不分大小写和全角半角，但要整个分区名相同；新的在前。
    """
    section, limit, before = read_fields("section", "limit", "before")
    return done_page(Room.in_section(fold(section), limit, before))


@app.post("/room/add", changes=True)
def add():
    """创建房间

    房主自动成为第一个成员。24 小时内再用同一个 request_id，得到的是第一次的回答，不会再创建。
    """
    name, section, description, room_owner_id, capacity, request_id = read_fields(
        "name", "section", "description", "room_owner_id", "capacity", "request_id"
    )
    texts = {"name": name, "section": section, "description": description}

    def open_room(doubtful):
        owner = require_self(room_owner_id)
        return Room.open(*texts.values(), owner, capacity, doubtful).room_id

    room_id = once("add", room_owner_id, request_id, ROOM, texts, open_room)
    return done(room_id=room_id)


@app.post("/room/kick", changes=True)
def kick():
    """踢人

    openid 是被踢的人；自己离开也用它。说过的话会留下。核实身份时，只有房主能让别人离开。
    """
    room_id, openid = read_fields("room_id", "openid")
    with write_as(request.caller.openid):
        Room.by_id(room_id).remove(openid, request.caller)
    return done()


@app.post("/room/delete", changes=True)
def delete():
    """删除房间

    openid 是自己，只有房主可以。成员和留言一并删除，房间号不再使用。
    """
    room_id, openid = read_fields("room_id", "openid")
    with write_as(openid):
        Room.by_id(room_id).close(require_self(openid))
    return done()


@app.post("/room/get_message")
def get_message():
    """获得房间消息列表

    最新的一页，按发送顺序。before 得到更早的一页，after 只得到还没看过的；两者不能同时使用。
    核实身份时，只有成员能看。
    """
    room_id, limit, before, after = read_fields("room_id", "limit", "before", "after")
    page = Message.in_room(room_id, limit, before, after, request.caller)
    return done_page(page)


@app.post("/room/send_message", changes=True)
def send_message():
    """留言

    只有成员能留言。request_id 和创建房间时一样：再发一次，得到的是第一次的回答。
    """
    room_id, openid, message, request_id = read_fields("room_id", "openid", "message", "request_id")

    def post(doubtful):
        return Room.by_id(room_id).post(require_self(openid), message, doubtful)

    message_id, time = once("send_message", openid, request_id, COMMENT, {"message": message}, post)
    return done(message_id=message_id, time=time)


@app.post("/room/complete", changes=True)
def edit():
    """修改房间

    只有房主可以。不填的不变；内容相同则什么都不变。人数上限不能小于现在的人数。
    """
    room_id, openid, changes = read_fields(
        "room_id", "openid", optional=("name", "section", "description", "capacity")
    )
    texts = {name: text for name, text in changes.items() if name != "capacity"}
    # All of them together, or a text could come in pieces; those that are new stand first.
    together = texts | Room.texts(room_id) | texts if any(map(str.strip, texts.values())) else {}
    doubtful = check_texts(ROOM, **together)
    with write_as(openid):
        Room.by_id(room_id).edit(require_self(openid), doubtful, **changes)
    return done()


@app.post("/room/delete_message", changes=True)
def delete_message():
    """删除留言

    发送者和房主可以。留言还在原来的位置，message 为空；重复删除等于删除一次。
    """
    room_id, openid, message_id = read_fields("room_id", "openid", "message_id")
    with write_as(openid):
        Room.by_id(room_id).delete_message(message_id, require_self(openid))
    return done()


@app.post("/room/report", changes=True)
def report():
    """举报

    不填 message_id 是举报房间。只有运营者能看到，连同被举报的文字；同一个人对同一处只记一次。
    """
    room_id, openid, reason, message = read_fields(
        "room_id", "openid", "reason", optional=("message_id",)
    )
    limit("report")
    with write_as(openid):
        Room.by_id(room_id).report(require_self(openid), reason, **message)
    return done()


# 三、其他


@app.post("/search")
def search():
    """搜索房间

    一串数字是房间号；没有这个房间时，数字和文字一样是模糊搜索：不分大小写和全角半角，以空白分成几段，
    每一段都要出现在房间名、分区或描述里。房间名就是搜索内容的在最前，其次是每一段都在房间名里的，然后是
    其余的；各自新的在前。
    """
    key, limit = read_fields("key", "limit")
    return done_page(find(key, limit, request.caller.openid or address()))


@app.get("/time")
def time():
    """最新时间

    个人信息、房间、成员、留言有任何变化都会变大，没有变化就不动：只要轮询它，不同了再刷新列表。
    """
    return done(last_time=Clock.read())


# The page that a browser sees, and the interface for developers and their tools


@app.get("/", skip=True)  # neither the database nor a caller is needed
@app.get("/static/<file:re:[a-z]+[.](?:css|js|svg)>", skip=True)
def page(file="index.html"):
    request.environ.pop("HTTP_RANGE", None)  # Bottle answers a bad range with a page of HTML
    kind = PAGE_TYPES[Path(file).suffix]  # the system's own table may differ, on Windows above all
    # Bottle's ETag has no quotes; Last-Modified is enough.
    return static_file(file, STATIC, mimetype=kind, etag=False, headers=PAGE_HEADERS)


@app.get("/docs", skip=True)
def docs():
    return page("docs.html")


@app.get("/openapi.json", skip=True)
def openapi_json():
    scheme, host, *_ = request.urlparts
    return answer(200, encode({**document(), "servers": [{"url": f"{scheme}://{host}"}]}))


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


# Answering


def done(**fields):
    return answer(200, encode({"response_code": 1, **fields}))


def done_page(page):
    return answer(
        200,
        f'{{"response_code":1,"{page.name}":{page.array},"nicknames":{page.nicknames},'
        f'"has_more":{encode(page.has_more)}}}',
    )


def refuse(error, retry_after=None, **fields):
    """Answer a request that is refused; `error` is a key of ERRORS."""
    status, detail = ERRORS[error]
    if status == 401:
        response.set_header("WWW-Authenticate", "Bearer")
    if retry_after:
        response.set_header("Retry-After", retry_after)
    return answer(status, encode({"response_code": 0, "error": error, "detail": detail, **fields}))


def answer(status, content):
    response.status = status
    response.content_type = "application/json"
    response.set_header("Cache-Control", "no-store")
    response.set_header("X-Content-Type-Options", "nosniff")
    return content


encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


# error: (status, what the mini-program shows in a toast)
ERRORS = {
    "invalid_json": (400, "提交的内容不是正确的 JSON 对象"),
    "invalid_field": (400, "提交的内容填写有误"),
    "risky_content": (400, "内容含有违规信息，请修改后再提交"),
    "login_required": (401, "请先登录"),
    "login_failed": (401, "登录失败，请重新登录"),
    "not_owner": (403, "只有房主才能这样做"),
    "not_member": (403, "请先加入这个房间"),
    "identity_mismatch": (403, "只能以自己的身份这样做"),
    "kicked": (403, "房主让你离开了这个房间，24 小时后才能再加入"),
    "banned": (403, "你已被运营者禁止使用"),
    "room_not_found": (404, "房间不存在或已被删除"),
    "user_not_found": (404, "该用户还没有完善个人信息"),
    "member_not_found": (404, "该用户不在这个房间里"),
    "message_not_found": (404, "留言不存在"),
    "not_found": (404, "没有这个接口"),
    "method_not_allowed": (405, "这个接口不支持这种请求方法"),
    "room_full": (409, "房间已满"),
    "owner_cannot_leave": (409, "房主不能离开自己的房间，可以删除房间"),
    "capacity_too_small": (409, "人数上限不能小于现在的人数"),
    "too_large": (413, "提交的内容太大，不能超过 64 KiB"),
    "too_many_requests": (429, "操作太频繁，请稍后再试"),
    "server_error": (500, "服务器出错了，请稍后再试"),
    "database_busy": (503, "服务器正忙，请稍后再试"),
    "wechat_unavailable": (503, "微信暂时没有回应，请稍后再试"),
}


@app.install
def answer_refusals(handler):
    """Turn a refusal from anywhere below into its answer."""

    def refusing_handler():
        try:
            open_at_first_use()
            return handler()
        except Refused as refusal:
            return refuse(refusal.error, **refusal.fields)
        except (SetupError, DatabaseError, sqlite3.DatabaseError) as error:
            if is_busy(error):
                return refuse("database_busy")
            raise

    return refusing_handler


@app.hook("before_request")
def find_url():
    environ = request.environ
    environ["PATH_INFO"] = environ["PATH_INFO"].rstrip("/") or "/"
    if "roomapp.is_undone" in environ:  # it was answered, but its batch could not be committed
        raise HTTPError(500)
    # Bottle drops the bytes of a path that are not UTF-8; no url of ours has such bytes.
    is_unknown = not environ["bottle.raw_path"].isascii()
    if is_unknown or (request.path == "/usr/login" and not options.is_verified()):
        raise HTTPError(404)


@app.error(400)  # a malformed chunked body
@app.error(404)
@app.error(405)
@app.error(500)
def refuse_in_bottle(error):
    """Give Bottle's own errors the form of ours; of a 500 it has logged the traceback."""
    errors = {400: "invalid_json", 404: "not_found", 405: "method_not_allowed"}
    return refuse(errors.get(error.status_code, "server_error"))


# Reading and checking fields


def read_fields(*names, optional=()):
    """The named fields of the request's JSON, each read and checked, in this order.

    Where some may be missing, a dict of the `optional` ones that were sent comes last. Before all
    that, it finds who is calling.
    """
    sent = read_object()
    request.caller = identify()
    values = [read_field(name, sent) for name in names]
    if optional:
        there = (name for name in optional if sent.get(name) is not None)
        values.append({name: read_field(name, sent) for name in there})
    if "after" in names and None not in (sent.get("before"), sent.get("after")):
        raise Refused("invalid_field", field="after", detail="before 和 after 不能同时使用")
    return values


def read_object():
    try:
        sent = decode(read_body().decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise Refused("invalid_json") from None
    if not isinstance(sent, dict):
        raise Refused("invalid_json")
    return sent


def read_body():
    if request.content_length > BODY_AT_MOST:
        raise Refused("too_large")
    # If the server has already joined the chunks, Bottle must not parse them again.
    is_joined = request.environ.get("wsgi.input_terminated")
    body = request.environ["wsgi.input"] if is_joined else request.body
    content = body.read(BODY_AT_MOST + 1)
    if len(content) > BODY_AT_MOST:
        raise Refused("too_large")
    return content


def parse_int(digits):
    """The integer, cut where it is too large for anything: Python refuses thousands of digits."""
    return int(digits[:60])


def refuse_constant(name):
    raise ValueError(f"{name} is not JSON")


decode = json.JSONDecoder(parse_int=parse_int, parse_constant=refuse_constant).decode


def read_field(name, sent):
    value = sent.get(name)
    if value is None and name in DEFAULTS:
        return DEFAULTS[name]
    field = FIELDS[name]
    try:
        if value is None:
            raise ValueError("没有填写")
        return field.read(value)
    except ValueError as problem:
        raise Refused("invalid_field", field=name, detail=f"{field.label}：{problem}") from None


# A reader takes what was sent and returns what it stands for, or raises ValueError with the end
# of the sentence that a toast shows.


def word(value, at_most):
    value = fit(not_blank(string(value)), at_most)
    if any(map(str.isspace, value)):
        raise ValueError("不能有空格")
    if not value.isprintable():
        raise ValueError(BAD_CHARACTER)
    return value


def line(value, at_most):
    """One line, surrounding blanks cut off."""
    return fit(not_blank(string(value).strip(models.BLANKS)), at_most)


def line_as_sent(value, at_most):
    return fit(not_blank(string(value)), at_most)


def paragraphs(value, at_most):
    return fit(string(value).translate(OFFICE_BREAKS), at_most, CONTROLS_BUT_BREAKS)


def message_text(value):
    return not_blank(paragraphs(value, models.MESSAGE_AT_MOST))


def reason_text(value):
    return not_blank(paragraphs(string(value).strip(models.BLANKS), models.REASON_AT_MOST))


def sex(value):
    """WeChat's code (1 男, 2 女, 0 未知), or a text."""
    if type(value) is int and value in (0, 1, 2):
        return value
    if not isinstance(value, str):
        raise ValueError("应为 0、1、2 或文字")
    return line_as_sent(value, models.SEX_AT_MOST)


def preference(value):
    if not isinstance(value, list):
        raise ValueError("应为文字的列表")
    if len(value) > models.PREFERENCES_AT_MOST:
        raise ValueError(f"最多 {models.PREFERENCES_AT_MOST} 项")
    try:
        return [line_as_sent(each, models.PREFERENCE_AT_MOST) for each in value]
    except ValueError as problem:
        raise ValueError(f"每项{problem}") from None


def section_name(value):
    """A line, or a picker's index, which stands for its digits."""
    return line(str(value) if type(value) is int else value, models.SECTION_AT_MOST)


def search_key(value):
    """A line, or a number, which stands for its digits."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return str(value) if type(value) in (int, float) else line(value, models.KEY_AT_MOST)


def integer_between(value, at_least, at_most):
    with suppress(ValueError):
        value = integer(value)
        if at_least <= value <= at_most:
            return value
    raise ValueError(f"应为 {at_least}–{at_most} 的整数")


def integer(value, at_least=1):
    """An integer or a string of digits. One too large for any row becomes the largest."""
    if isinstance(value, str) and DIGITS.fullmatch(value):
        value = parse_int(value.lstrip("0０") or "0")
    if type(value) is not int or value < at_least:
        raise ValueError("应为正整数" if at_least else "应为 0 或正整数")
    return min(value, models.ID_AT_MOST)


def string(value):
    """A text of whole characters: half of a surrogate pair, an emoji cut in two, becomes U+FFFD."""
    if not isinstance(value, str):
        raise ValueError("应为文字")
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def not_blank(value):
    if not value.strip(models.BLANKS):
        raise ValueError("不能是空白")
    return value


def fit(value, at_most, controls=CONTROLS):
    if len(value) > at_most:
        raise ValueError(f"最多 {at_most} 个字")
    if found := controls.search(value):
        raise ValueError("不能换行" if found[0] in "\r\n" else BAD_CHARACTER)
    return value


class Field(NamedTuple):
    label: str  # what a toast calls it
    read: Callable[[Any], Any]
    rule: str  # for developers


# The fields of the document, each with one reader, whatever endpoint uses it.
FIELDS = {
    "openid": Field(
        "openid",
        partial(word, at_most=models.OPENID_AT_MOST),
        f"由微信给出，1–{models.OPENID_AT_MOST} 个可见字符，不含空格",
    ),
    "sex": Field(
        "性别",
        sex,
        f"微信的代码 0（未知）、1（男）、2（女），或 1–{models.SEX_AT_MOST} 个字的文字；原样返回",
    ),
    "preference": Field(
        "偏好",
        preference,
        f"最多 {models.PREFERENCES_AT_MOST} 项，每项 1–{models.PREFERENCE_AT_MOST} 个字，"
        "不能是空白；原样返回",
    ),
    "nickname": Field(
        "昵称",
        partial(line, at_most=models.NICKNAME_AT_MOST),
        f"1–{models.NICKNAME_AT_MOST} 个字，不能换行，首尾空白会去掉；可以和别人的相同",
    ),
    "room_id": Field("房间号", integer, "正整数，由数字组成的字符串也可以"),
    "name": Field(
        "房间名",
        partial(line, at_most=models.NAME_AT_MOST),
        f"1–{models.NAME_AT_MOST} 个字，不能换行，首尾空白会去掉",
    ),
    "section": Field(
        "分区名",
        section_name,
        f"1–{models.SECTION_AT_MOST} 个字，不能换行，首尾空白会去掉；"
        "整数（选择器的序号）按其数字处理",
    ),
    "description": Field(
        "房间描述",
        partial(paragraphs, at_most=models.DESCRIPTION_AT_MOST),
        f"0–{models.DESCRIPTION_AT_MOST} 个字，可以换行和用制表符",
    ),
    "room_owner_id": Field(
        "room_owner_id",
        partial(word, at_most=models.OPENID_AT_MOST),
        f"房主的 openid，也就是自己的，1–{models.OPENID_AT_MOST} 个可见字符，不含空格",
    ),
    "capacity": Field(
        "人数上限",
        partial(integer_between, at_least=models.CAPACITY_AT_LEAST, at_most=models.MEMBERS_AT_MOST),
        f"房间最多几人，房主也算，{models.CAPACITY_AT_LEAST}–{models.MEMBERS_AT_MOST} 的整数，"
        f"创建时不填为 {models.MEMBERS_AT_MOST}",
    ),
    "message": Field(
        "留言",
        message_text,
        f"1–{models.MESSAGE_AT_MOST} 个字，不能是空白，可以换行和用制表符；原样保存",
    ),
    "message_id": Field("message_id", integer, "留言的 message_id，正整数"),
    "request_id": Field(
        "request_id",
        partial(word, at_most=models.REQUEST_ID_AT_MOST),
        f"客户端自己定的 1–{models.REQUEST_ID_AT_MOST} 个可见字符，不含空格；"
        "没有收到回答时用同一个再发一次，不会做两次",
    ),
    "reason": Field(
        "理由",
        reason_text,
        f"1–{models.REASON_AT_MOST} 个字，可以换行，首尾空白会去掉",
    ),
    "key": Field("搜索内容", search_key, f"数字，或 1–{models.KEY_AT_MOST} 个字，首尾空白会去掉"),
    "limit": Field(
        "limit",
        partial(integer_between, at_least=1, at_most=models.LIMIT_AT_MOST),
        f"最多几条，1–{models.LIMIT_AT_MOST} 的整数，不填为 {LIMIT_BY_DEFAULT}",
    ),
    "before": Field("before", integer, "一个 room_id 或 message_id：比它旧的一页"),
    "after": Field(
        "after",
        partial(integer, at_least=0),
        "一个 message_id，0 表示从头开始：比它新的、最旧的一页",
    ),
    "code": Field(
        "code",
        partial(word, at_most=models.CODE_AT_MOST),
        f"wx.login 给的 1–{models.CODE_AT_MOST} 个字符，只能用一次",
    ),
}
# What some stand for when they are missing.
DEFAULTS = {
    "nickname": None,
    "capacity": models.MEMBERS_AT_MOST,
    "request_id": None,
    "limit": LIMIT_BY_DEFAULT,
    "before": models.ID_AT_MOST,
    "after": None,
}


# Who is calling


def identify():
    """Who is calling; Refused where callers are verified and the token does not say who."""
    if not options.is_verified():
        return Anyone()
    scheme, _, token = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "bearer":
        raise Refused("login_required")
    return Token.caller(token.strip(), changes="changes" in request.route.config)


def require_self(openid):
    """The openid that acts, which must be the caller's own."""
    if not request.caller.may_act_as(openid):
        raise Refused("identity_mismatch")
    return openid


def refuse_banned(openid):
    """Refuse a banned openid where nobody is verified; else identify() refuses a banned caller."""
    if not options.is_verified() and Ban.exists(openid):
        raise Refused("banned")


@contextmanager
def write_as(openid):
    """Do what is inside as one change by openid, who is not banned."""
    with change():
        identify()  # once more: the caller may have been banned or have left in the meantime
        refuse_banned(openid)
        yield
        ClosedRoom.clean_up()


# What is asked of verified callers before they change something

# Everyone may do so much at once, then so much an hour or a minute.
LIMITS = {
    "add": RateLimit(at_once=10, per_second=10 / 3600),
    "join": RateLimit(at_once=60, per_second=60 / 60),
    "send_message": RateLimit(at_once=30, per_second=30 / 60),
    "report": RateLimit(at_once=10, per_second=10 / 3600),
    "delete_user": RateLimit(at_once=10, per_second=10 / 3600),
}
PROFILE, COMMENT, ROOM = 1, 2, 3  # the scenes of WeChat's check: 资料, 评论, 论坛


def limit(endpoint):
    if options.is_verified():
        LIMITS[endpoint].count(request.caller.openid)


def check_texts(scene, **texts):
    """Have WeChat check what others will see; what it leaves to the operator is returned."""
    found = {name: text for name, text in texts.items() if isinstance(text, (str, list))}
    content = "\n".join(
        " ".join(text) if isinstance(text, list) else text for text in found.values()
    )
    if not content.strip(models.BLANKS) or not options.texts_are_checked():
        return ""
    account = wechat.account(*options.wechat_settings())
    suggestion = account.suggestion(request.caller.openid, scene, content)
    if suggestion == "risky":
        raise Refused("risky_content", field=next(iter(found)))
    return content if suggestion == "review" else ""


def once(endpoint, openid, request_id, scene, texts, act):
    """What act() returns, as one change; sent again within a day, what it returned the first time.

    act takes what WeChat leaves to the operator.
    """
    is_own = request_id and request.caller.may_act_as(openid)
    key = is_own and (endpoint, openid, request_id)
    first = key and Memory.find(*key)
    if first:
        refuse_banned(openid)
        return first
    limit(endpoint)
    doubtful = check_texts(scene, **texts)
    with write_as(openid):
        return Memory.once(lambda: act(doubtful), *key) if key else act(doubtful)


# Running it

opening = threading.Lock()


def open_at_first_use():
    """Open the database where main() has not done so: under another WSGI server."""
    with opening:
        if database.deferred:
            open_database(options.setting("database"))


def main():
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C does
    parser = options.parser(run, __version__)
    try:
        arguments = parser.parse_args()
        arguments.run(arguments)
    except SetupError as problem:
        parser.error(str(problem))
    except Refused:
        parser.error("another program is writing the database; try again")
    except KeyboardInterrupt:
        parser.error("interrupted")


def run(arguments):
    """Serve until SIGTERM or Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    is_verified = options.is_verified()
    options.check_environment()
    listener = listen(arguments.host, arguments.port)
    open_database(arguments.database)
    loop = start_loop(
        app if arguments.quiet else log_requests(app),
        listener,
        threads=wechat.WAITING_AT_MOST + 6 if is_verified else 4,
        clean_up=clean_up,
        trusted_proxy=options.setting("trusted_proxy"),
    )
    announce(listener, arguments.database, is_verified)
    loop.run()
    close_database()


def clean_up():
    """Delete a little of what deleted rooms left; whether there may be more."""
    return bool(ClosedRoom.first()) and apply(ClosedRoom.clean_up)


if __name__ == "__main__":
    main()
