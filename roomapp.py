"""The backend of a campus mini-program: rooms to open, find, join and talk in, over HTTP."""

import json
import logging
import os
import signal
import sqlite3
import sys
import threading
from functools import cache
from pathlib import Path

from bottle import Bottle, HTTPError, request, response, static_file
from peewee import DatabaseError

from models import MEMBERS_AT_MOST, Clock, ClosedRoom, Message, Page, Room, User
from search import find
from service import openapi, options, wechat
from service.database import (
    Refused,
    SetupError,
    apply,
    close_database,
    database,
    is_busy,
    leave_loop,
)
from service.endpoint import Endpoint
from service.fields import LIMIT
from service.limits import RateLimit, network_of
from service.login import TOKEN_SECONDS, Token, forget
from service.moderation import Report
from service.schema import open_database
from service.serving import announce, listen, log_requests, start_loop
from service.text import BLANKS, fold

__version__ = "2.0.0"

app = Bottle()

# How often one person may do something, where callers are verified
ROOMS = RateLimit(at_once=10, per_second=10 / 3600)
JOINS = RateLimit(at_once=60, per_second=60 / 60)
MESSAGES = RateLimit(at_once=30, per_second=30 / 60)
REPORTS = RateLimit(at_once=10, per_second=10 / 3600)
LEAVINGS = RateLimit(at_once=10, per_second=10 / 3600)
LOGINS = RateLimit(at_once=2000, per_second=2)  # from one address; a campus may be behind one

PROFILE, COMMENT, FORUM = 1, 2, 3  # the scenes of WeChat's check: 资料, 评论, 论坛


# 一、用户


@app.post(
    "/usr/complete",
    by="openid",
    changes=True,
    texts=("nickname", "sex", "preference"),
    scene=PROFILE,
)
def complete(openid, sex, preference, nickname=None):
    """完善个人信息

    创建个人信息，再次提交就是修改；内容相同则什么都不变。不填 nickname 时，原来的昵称不变。
    """
    User.complete(openid, sex, preference, nickname)


@app.post("/usr/info", errors="identity_mismatch user_not_found")
def info(caller, openid):
    """查看个人信息

    核实身份时，只能看自己的，以及和自己在同一个房间里的人的。
    """
    user = User.by_openid(openid, caller)
    return {"sex": user.sex, "preference": user.preference, "nickname": user.nickname}


@app.post("/usr/roomlist1", by="openid")
def roomlist1(openid, limit=LIMIT, before=None):
    """我的房间（我发起的）

    新的在前。
    """
    return Room.owned_by(openid, limit, before)


@app.post("/usr/roomlist2", by="openid")
def roomlist2(openid, limit=LIMIT, before=None):
    """我的房间（我参与的）

    不含自己发起的；新的在前。
    """
    return Room.joined_by(openid, limit, before)


@app.post(
    "/usr/join", by="openid", changes=True, rate=JOINS, errors="room_not_found kicked room_full"
)
def join(room_id, openid):
    """加入房间

    重复加入等于加入一次，房间已满时也是。
    """
    Room.by_id(room_id).admit(openid)


@app.post(
    "/usr/login",
    anonymous=True,
    errors="login_failed banned not_found too_many_requests wechat_unavailable",
)
def login(code):
    """登录

    用 wx.login 得到的 code 换取 token，之后的请求都带上 Authorization: Bearer TOKEN，过期后重新
    登录。只有服务核实身份时才有这个接口，否则是 not_found，其他接口也不需要 token。
    """
    leave_loop()
    with LOGINS.counting(address()):
        openid = wechat.account(*options.wechat_settings()).openid_of(code)
        token = apply(lambda: Token.issue(openid))
    exist = int(User.exists(openid))
    return {"openid": openid, "token": token, "expires_in": TOKEN_SECONDS, "exist": exist}


def address():
    return network_of(request.environ.get("REMOTE_ADDR", ""))


@app.post("/usr/delete", by="openid", changes="in steps", rate=LEAVINGS)
def delete_user(openid):
    """注销

    删除个人信息、登录状态、成员身份和说过的话（留言还在原来的位置，openid 和 message 为空）。自己的
    房间交给最早加入的人，没有别人的就删除。重复注销等于注销一次。
    """
    forget(openid)


# 二、房间


@app.post("/room/section")
def section(section, limit=LIMIT, before=None):
    """由分区名得到房间列表

    不分大小写和全角半角，但要整个分区名相同；新的在前。
    """
    return Room.in_section(fold(section), limit, before)


@app.post(
    "/room/add",
    by="room_owner_id",
    changes=True,
    rate=ROOMS,
    texts=("name", "section", "description"),
    scene=FORUM,
)
def add(name, section, description, room_owner_id, capacity=MEMBERS_AT_MOST):
    """创建房间

    房主自动成为第一个成员。
    """
    return {"room_id": Room.open(name, section, description, room_owner_id, capacity)}


@app.post(
    "/room/kick",
    changes=True,
    errors="not_owner room_not_found member_not_found owner_cannot_leave",
)
def kick(caller, room_id, openid):
    """踢人

    openid 是被踢的人；自己离开也用它。说过的话会留下。核实身份时，只有房主能让别人离开。
    """
    Room.by_id(room_id).remove(openid, caller)


@app.post("/room/delete", by="openid", changes=True, errors="not_owner room_not_found")
def delete(room_id, openid):
    """删除房间

    openid 是自己，只有房主可以。成员和留言一并删除，房间号不再使用。
    """
    Room.by_id(room_id).close(openid)


@app.post("/room/get_message", errors="not_member room_not_found")
def get_message(caller, room_id, limit=LIMIT, before=None, after=None):
    """获得房间消息列表

    最新的一页，按发送顺序。before 得到更早的一页，after 只得到还没看过的；两者不能同时使用。
    核实身份时，只有成员能看。
    """
    return Message.in_room(room_id, limit, before, after, caller)


@app.post(
    "/room/send_message",
    by="openid",
    changes=True,
    rate=MESSAGES,
    texts=("message",),
    scene=COMMENT,
    errors="not_member room_not_found",
)
def send_message(room_id, openid, message):
    """留言

    只有成员能留言。
    """
    message_id, time = Room.by_id(room_id).post(openid, message)
    return {"message_id": message_id, "time": time}


def room_texts(room_id, name, section, description, **_):
    """The room's texts as they will be, the new ones first; none where none is new.

    WeChat checks them together, or a text could come in pieces.
    """
    sent = {"name": name, "section": section, "description": description}
    new = {name: text for name, text in sent.items() if text is not None}
    return new | Room.texts(room_id) | new if "".join(new.values()).strip(BLANKS) else {}


@app.post(
    "/room/complete",
    by="openid",
    changes=True,
    texts=room_texts,
    scene=FORUM,
    errors="not_owner room_not_found capacity_too_small",
)
def edit(room_id, openid, name=None, section=None, description=None, capacity=None):
    """修改房间

    只有房主可以。不填的不变；内容相同则什么都不变。人数上限不能小于现在的人数。
    """
    changes = {"name": name, "section": section, "description": description, "capacity": capacity}
    Room.by_id(room_id).edit(openid, **changes)


@app.post(
    "/room/delete_message",
    by="openid",
    changes=True,
    errors="not_owner room_not_found message_not_found",
)
def delete_message(caller, room_id, openid, message_id):
    """删除留言

    发送者和房主可以。留言还在原来的位置，message 为空；重复删除等于删除一次。
    """
    Room.by_id(room_id).delete_message(message_id, openid, caller)


@app.post(
    "/room/report",
    by="openid",
    changes=True,
    rate=REPORTS,
    errors="room_not_found message_not_found",
)
def report(caller, room_id, openid, reason, message_id=None):
    """举报

    不填 message_id 是举报房间。只有运营者能看到，连同被举报的文字；同一段文字，处理之前只记一次。
    """
    Report.about(room_id, message_id, openid, reason, caller)


# 三、其他


@app.post("/search")
def search(caller, key, limit=LIMIT):
    """搜索房间

    一串数字是房间号；没有这个房间时，数字和文字一样是模糊搜索：不分大小写和全角半角，以空白分成几段，
    每一段都要出现在房间名、分区或描述里。房间名就是搜索内容的在最前，其次是每一段都在房间名里的，然后是
    其余的；各自新的在前。
    """
    return find(key, limit, caller.openid or address())


@app.get("/time", anonymous=True)
def time():
    """最新时间

    个人信息、房间、成员、留言有任何变化都会变大，没有变化就不动：只要轮询它，不同了再刷新列表。
    """
    return {"last_time": Clock.read()}


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
    return openapi.document(app.routes, ERRORS, __version__)


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


def done(result):
    """Answer with what a handler returned: nothing, a dict, or a page."""
    if isinstance(result, Page):
        has_more = "true" if result.has_more else "false"
        return answer(
            200,
            f'{{"response_code":1,"{result.name}":{result.array},'
            f'"nicknames":{result.nicknames},"has_more":{has_more}}}',
        )
    return answer(200, encode({"response_code": 1, **(result or {})}))


def refuse(error, retry_after=None, **fields):
    """Answer a request that is refused; `error` is a key of ERRORS."""
    status, _ = ERRORS[error]
    if status == 401:
        response.set_header("WWW-Authenticate", "Bearer")
    if retry_after:
        response.set_header("Retry-After", retry_after)
    return answer(status, encode(refusal(error, **fields)))


def refusal(error, **fields):
    _, detail = ERRORS[error]
    return {"response_code": 0, "error": error, "detail": detail, **fields}


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
    """Turn what a handler returns, or a refusal from anywhere below, into an answer."""

    def refusing_handler():
        try:
            open_at_first_use()
            return done(handler())
        except Refused as refusal:
            return refuse(refusal.error, **refusal.fields)
        except (SetupError, DatabaseError, sqlite3.DatabaseError) as error:
            if is_busy(error):
                return refuse("database_busy")
            raise

    return refusing_handler


app.install(Endpoint)  # inside of it


@app.hook("before_request")
def find_url():
    environ = request.environ
    environ["PATH_INFO"] = environ["PATH_INFO"].rstrip("/") or "/"
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


# Running it

opening = threading.Lock()


def open_at_first_use():
    """Open the database where main() has not done so: under another WSGI server."""
    with opening:
        if database.deferred:
            open_database(options.setting("database"), may_upgrade=True)


def main(words=None):
    """Serve, or run a command: these words, or those of the command line."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C does
    sys.stdout.reconfigure(errors="backslashreplace")  # not every console knows every character
    parser = options.parser(run, __version__)
    try:
        try:
            arguments = parser.parse_args(words)
            arguments.run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # as when it is piped into `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
    open_database(arguments.database, may_upgrade=True)
    loop = start_loop(
        app if arguments.quiet else log_requests(app),
        listener,
        threads=wechat.WAITING_AT_MOST + 6 if is_verified else 4,
        clean_up=clean_up,
        undone=encode(refusal("server_error")),
        trusted_proxy=options.setting("trusted_proxy"),
    )
    announce(listener, arguments.database, is_verified)
    loop.run()
    close_database()


def clean_up():
    """Delete a little of what deleted rooms left; whether there may be more."""
    if database.must_empty_wal:
        apply(lambda: None)  # the log is emptied after a commit
    return bool(ClosedRoom.first()) and apply(ClosedRoom.clean_up)


if __name__ == "__main__":
    main()
