"""The interface as machines read it: an OpenAPI document, made of the routes, rules and errors.

People read it too, at /docs and in Apifox or Postman, so every text is in Chinese and in English.
"""

from typing import Any, NamedTuple

from models import (
    BLANKS,
    CODE_AT_MOST,
    CONTROLS,
    CONTROLS_BUT_BREAKS,
    DESCRIPTION_AT_MOST,
    KEY_AT_MOST,
    LIMIT_AT_MOST,
    LIMIT_BY_DEFAULT,
    MEMBERS_AT_MOST,
    MESSAGE_AT_MOST,
    NAME_AT_MOST,
    OPENID_AT_MOST,
    PREFERENCE_AT_MOST,
    PREFERENCES_AT_MOST,
    SECTION_AT_MOST,
    SEX_AT_MOST,
    TOKEN_SECONDS,
)


class Endpoint(NamedTuple):
    """What the code does not say of an endpoint: that is its route, and the rules of its fields."""

    chinese: str
    english: str
    takes: dict[str, Any]  # an example with every required field, in the document's order
    gives: dict[str, Any]  # what is answered to it, beside response_code
    optional: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()  # beside those of every endpoint and of every body
    more_chinese: str = ""
    more_english: str = ""


def both(chinese, english):
    return f"{chinese}\n\n{english}"


def in_a_line(chinese, english):
    return f"{chinese} · {english}"


# The endpoints. Their examples tell the life of one room, which tests/test_openapi.py plays.

ROOM = {
    "room_id": 1,
    "name": "今晚五排",
    "section": "LOL",
    "description": "八点，缺一个辅助",
    "room_owner_id": "ming",
    "users_id": ["ming", "hong"],
    "state": 1,
}
MESSAGE = {
    "openid": "hong",
    "message": "我八点到",
    "time": "2026-11-23T08:28:00.123Z",
    "message_id": 1795422480123,
}
ROOMS = {"rooms": [ROOM], "has_more": False}

ENDPOINTS = {
    "/usr/complete": Endpoint(
        "完善个人信息",
        "Complete one's profile",
        takes={"openid": "ming", "sex": 1, "preference": ["篮球", "桌游"]},
        gives={},
        errors=("identity_mismatch",),
        more_chinese="创建个人信息，再次提交就是修改；内容相同则什么都不变。",
        more_english="Creates the profile or replaces it; the same again changes nothing.",
    ),
    "/usr/info": Endpoint(
        "查看个人信息",
        "Show a profile",
        takes={"openid": "ming"},
        gives={"sex": 1, "preference": ["篮球", "桌游"]},
        errors=("user_not_found", "identity_mismatch"),
    ),
    "/usr/roomlist1": Endpoint(
        "我的房间（我发起的）",
        "My rooms: those I own",
        takes={"openid": "ming"},
        gives=ROOMS,
        optional=("limit", "before"),
        errors=("identity_mismatch",),
        more_chinese="新的在前。",
        more_english="Newest first.",
    ),
    "/usr/roomlist2": Endpoint(
        "我的房间（我参与的）",
        "My rooms: those I joined",
        takes={"openid": "hong"},
        gives=ROOMS,
        optional=("limit", "before"),
        errors=("identity_mismatch",),
        more_chinese="不含自己发起的；新的在前。",
        more_english="Without those I own; newest first.",
    ),
    "/usr/join": Endpoint(
        "加入房间",
        "Join a room",
        takes={"room_id": 1, "openid": "hong"},
        gives={},
        errors=("room_not_found", "identity_mismatch", "room_full"),
        more_chinese="重复加入等于加入一次，房间已满时也是。",
        more_english="To join twice is to join once, in a full room too.",
    ),
    "/room/section": Endpoint(
        "由分区名得到房间列表",
        "The rooms of a section",
        takes={"section": "lol"},
        gives=ROOMS,
        optional=("limit", "before"),
        more_chinese="不分大小写和全角半角，但要整个分区名相同；新的在前。",
        more_english="Compared as a whole, without regard to case and width; newest first.",
    ),
    "/room/add": Endpoint(
        "创建房间",
        "Open a room",
        takes={
            "name": "今晚五排",
            "section": "LOL",
            "description": "八点，缺一个辅助",
            "room_owner_id": "ming",
        },
        gives={"room_id": 1},
        errors=("identity_mismatch",),
        more_chinese="房主自动成为第一个成员。",
        more_english="The owner is its first member.",
    ),
    "/room/kick": Endpoint(
        "踢人",
        "Take a member out",
        takes={"room_id": 1, "openid": "hong"},
        gives={},
        errors=("room_not_found", "member_not_found", "not_owner", "owner_cannot_leave"),
        more_chinese="openid 是被踢的人；自己离开也用它。说过的话会留下。",
        more_english="`openid` is who is taken out; also how one leaves. What they said stays.",
    ),
    "/room/delete": Endpoint(
        "删除房间",
        "Delete a room",
        takes={"room_id": 1, "openid": "ming"},
        gives={},
        errors=("room_not_found", "identity_mismatch", "not_owner"),
        more_chinese="openid 是自己，只有房主可以。成员和留言一并删除，房间号不再使用。",
        more_english="`openid` is one's own, and only the owner may. Members and messages go "
        "along, and the `room_id` is never used again.",
    ),
    "/room/get_message": Endpoint(
        "获得房间消息列表",
        "The messages of a room",
        takes={"room_id": 1},
        gives={"messages": [MESSAGE], "has_more": False},
        optional=("limit", "before", "after"),
        errors=("room_not_found", "not_member"),
        more_chinese="最新的一页，按发送顺序。before 得到更早的一页，after 只得到还没看过的；"
        "两者不能同时使用。",
        more_english="The newest page in order of sending. `before` gives the page of older ones, "
        "`after` only what one has not seen; they exclude each other.",
    ),
    "/room/send_message": Endpoint(
        "留言",
        "Leave a message",
        takes={"room_id": 1, "openid": "hong", "message": "我八点到"},
        gives={"message_id": MESSAGE["message_id"], "time": MESSAGE["time"]},
        errors=("room_not_found", "identity_mismatch", "not_member"),
        more_chinese="只有成员能留言。",
        more_english="Only members may.",
    ),
    "/search": Endpoint(
        "搜索房间",
        "Search for rooms",
        takes={"key": "五排 lol"},
        gives=ROOMS,
        optional=("limit",),
        more_chinese="数字只查房间号。文字是模糊搜索：不分大小写和全角半角，以空白分成几段，每一段都要出现在"
        "房间名、分区或描述里；房间名就是搜索内容的在最前，其次是都在房间名里的，再次是都在房间名或分区里的。",
        more_english="A number looks that `room_id` up, and nothing else. A text is compared "
        "without regard to case and width and split at blanks; every part must occur in the name, "
        "the section or the description. First come the rooms with that very name, then those with "
        "every part in the name, then those with every part in the name or the section.",
    ),
    "/time": Endpoint(
        "最新时间",
        "When anything last changed",
        takes={},
        gives={"last_time": MESSAGE["time"]},
        more_chinese="个人信息、房间、成员、留言有任何变化都会变大，没有变化就不动：只要轮询它，不同了再刷新列表。",
        more_english="Grows with every change of a profile, room, member or message, and stands "
        "still otherwise: poll it alone, and reload lists when it differs.",
    ),
    "/usr/login": Endpoint(
        "登录",
        "Log in",
        takes={"code": "0c1Zv80w3wW1kP2sTg4w3yd1Bu0Zv80Q"},
        gives={
            "openid": "ming",
            "token": "N5yJ0bWQ3nKcZ8u1Xo7rVtGf2hLsEaPd4mIiUwBqYjk",
            "expires_in": TOKEN_SECONDS,
            "exist": 1,
        },
        errors=("not_found", "too_many_requests", "login_failed", "wechat_unavailable"),
        more_chinese="用 wx.login 得到的 code 换取 token，之后的请求都带上 "
        "Authorization: Bearer TOKEN，过期后重新登录。"
        "只有服务核实身份时才有这个接口，否则是 not_found，其他接口也不需要 token。",
        more_english="Gives a token for the `code` of `wx.login`; later requests carry "
        "`Authorization: Bearer TOKEN`, until it expires and one logs in again. Only where the "
        "service verifies identities; elsewhere this is `not_found`, and no token is needed.",
    ),
}

# What each error means to a developer; what a toast shows of it is in roomapp.ERRORS.
MEANINGS = {
    "not_found": "there is no such url",
    "method_not_allowed": "the `Allow` header says which method is",
    "too_large": "the body is larger than `detail` says",
    "invalid_json": "the body is not a JSON object in UTF-8",
    "login_required": "identities are verified here, and the token is missing, unknown or expired",
    "invalid_field": "a field is missing or against its rule, which `detail` tells; "
    "`field` is its name",
    "too_many_requests": "too many logins from one address; `Retry-After` says when to try again",
    "login_failed": "WeChat does not know this `code`, or it was used before",
    "wechat_unavailable": "WeChat does not answer; the same request may do later",
    "room_not_found": "no room has this `room_id`, or it was deleted",
    "user_not_found": "nobody completed a profile with this `openid`",
    "member_not_found": "who is to be taken out is not in the room",
    "identity_mismatch": "where identities are verified, one acts as oneself, and sees the "
    "profiles of those with whom one shares a room",
    "not_owner": "only the owner deletes the room and, where identities are verified, takes others "
    "out",
    "not_member": "only members send messages and, where identities are verified, read them",
    "room_full": f"a room holds {MEMBERS_AT_MOST} members, the owner counted",
    "owner_cannot_leave": "the owner cannot be taken out, but can delete the room",
    "server_error": "our fault; the log has it",
    "database_busy": "the database could not be had in time; the same request may do later",
}
OF_EVERY_URL = ("not_found", "method_not_allowed")
OF_EVERY_BODY = ("too_large", "invalid_json", "invalid_field")
OF_EVERY_ENDPOINT = ("server_error", "database_busy")
OF_EVERY_CALLER = ("login_required",)
WITHOUT_CALLER = ("/usr/login", "/time")


# The values: what goes in, by FIELDS, and what comes out. The patterns keep to what regular
# expressions are in every language, so without \\p, which could say what openid.isprintable() says.


def ranges(characters):
    """The inside of a pattern's [...] for these characters."""
    codes = {ord(character) for character in characters}
    firsts = sorted(code for code in codes if code - 1 not in codes)
    lasts = sorted(code for code in codes if code + 1 not in codes)
    return "".join(
        f"\\u{first:04x}" if first == last else f"\\u{first:04x}-\\u{last:04x}"
        for first, last in zip(firsts, lasts, strict=True)
    )


BLANK = ranges(BLANKS)
CONTROL = CONTROLS.pattern.strip("[]")
CONTROL_BUT_BREAKS = CONTROLS_BUT_BREAKS.pattern.strip("[]")


def text(at_most, pattern, at_least=1):
    return {"type": "string", "minLength": at_least, "maxLength": at_most, "pattern": pattern}


def nonblank(at_most, control=CONTROL):
    return text(at_most, f"^[^{control}]*[^{control}{BLANK}][^{control}]*$")


def line(at_most):
    """A text whose length is that of what is left once surrounding blanks are cut off."""
    end, between = f"[^{CONTROL}{BLANK}]", f"[^{CONTROL}]"
    kept = f"{end}({between}{{0,{at_most - 2}}}{end})?"
    return {"type": "string", "pattern": f"^[{BLANK}]*{kept}[{BLANK}]*$"}


def integer(least, **more):
    return {"type": "integer", "minimum": least, **more}


def digits(pattern):
    return {"type": "string", "pattern": f"^{pattern}$"}


def either(*schemas):
    return {"anyOf": list(schemas)}


POSITIVE = either(integer(1), digits("[0０]*[1-9１-９][0-9０-９]*"))
WORD = f"^[^{CONTROL}{BLANK}]*$"
OPENID = text(OPENID_AT_MOST, WORD)
TIME = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$",
}

# field: (schema, what its rule in FIELDS does not say in Chinese, the whole in English)
TAKEN = {
    "openid": (
        OPENID,
        "由微信给出",
        f"1–{OPENID_AT_MOST} printable characters, no spaces; given by WeChat",
    ),
    "sex": (
        either({"type": "integer", "enum": [0, 1, 2]}, nonblank(SEX_AT_MOST)),
        "0、1、2 是微信的代码：未知、男、女；原样返回",
        "WeChat's code, 0 unknown, 1 male, 2 female, "
        f"or a text of 1–{SEX_AT_MOST} characters, not only blanks; comes back as sent",
    ),
    "preference": (
        {"type": "array", "maxItems": PREFERENCES_AT_MOST, "items": nonblank(PREFERENCE_AT_MOST)},
        "不能全是空白；原样返回",
        f"up to {PREFERENCES_AT_MOST} texts of 1–{PREFERENCE_AT_MOST} characters, "
        "none of only blanks; comes back as sent",
    ),
    "room_id": (
        POSITIVE,
        "由数字组成的字符串也可以",
        "a positive integer, or a string of digits",
    ),
    "name": (
        line(NAME_AT_MOST),
        "首尾空白会去掉",
        f"1–{NAME_AT_MOST} characters, no line breaks; surrounding blanks are cut off",
    ),
    "section": (
        either(
            line(SECTION_AT_MOST),
            integer(1 - 10 ** (SECTION_AT_MOST - 1), maximum=10**SECTION_AT_MOST - 1),
        ),
        "首尾空白会去掉；整数（选择器的序号）按其数字处理",
        f"1–{SECTION_AT_MOST} characters, no line breaks; surrounding blanks are cut off; "
        "an integer, a picker's index, is taken as its digits",
    ),
    "description": (
        text(DESCRIPTION_AT_MOST, f"^[^{CONTROL_BUT_BREAKS}]*$", at_least=0),
        "可以换行和用制表符",
        f"0–{DESCRIPTION_AT_MOST} characters; line breaks and tabs are fine",
    ),
    "room_owner_id": (
        OPENID,
        "房主的 openid，也就是自己的",
        f"the owner's openid, which is one's own: 1–{OPENID_AT_MOST} printable characters, "
        "no spaces",
    ),
    "message": (
        nonblank(MESSAGE_AT_MOST, CONTROL_BUT_BREAKS),
        "可以换行和用制表符；原样保存",
        f"1–{MESSAGE_AT_MOST} characters, not only blanks; line breaks and tabs are fine; "
        "kept as sent",
    ),
    "key": (
        either(line(KEY_AT_MOST), {"type": "number"}),
        "首尾空白会去掉",
        f"a number, or a text of 1–{KEY_AT_MOST} characters; surrounding blanks are cut off",
    ),
    "limit": (
        {
            **either(
                integer(1, maximum=LIMIT_AT_MOST),
                digits("[0０]*([1-9１-９][0-9０-９]?|[1-4１-４][0-9０-９]{2}|[5５][0０]{2})"),
            ),
            "default": LIMIT_BY_DEFAULT,
        },
        f"最多几条，不填为 {LIMIT_BY_DEFAULT}",
        f"how many at most, 1–{LIMIT_AT_MOST}, else {LIMIT_BY_DEFAULT}",
    ),
    "before": (
        POSITIVE,
        "一个 room_id 或 message_id：比它旧的一页",
        "a `room_id` or `message_id`: the page of older ones",
    ),
    "after": (
        either(integer(0), digits("[0-9０-９]+")),
        "一个 message_id，0 表示从头开始：比它新的、最旧的一页",
        "a `message_id`, or 0 for the start: the oldest page of newer ones",
    ),
    "code": (
        text(CODE_AT_MOST, WORD),
        "只能用一次",
        f"what `wx.login` gave, to be used once: 1–{CODE_AT_MOST} printable characters, no spaces",
    ),
}


def taken(field, rule):
    schema, chinese, english = TAKEN[field]
    return {**schema, "description": both(f"{rule}；{chinese}", english)}


def ref(kind, name):
    return {"$ref": f"#/components/{kind}/{name}"}


def listed(schema, least=0, most=LIMIT_AT_MOST):
    return {"type": "array", "minItems": least, "maxItems": most, "items": schema}


# name: (schema, what it is in Chinese, what it is in English)
GIVEN = {
    "sex": (ref("schemas", "sex"), "性别，原样返回", "as it was sent"),
    "preference": (ref("schemas", "preference"), "偏好，原样返回", "as they were sent"),
    "room_id": (integer(1), "房间号", "counts up from 1, never used again"),
    "name": (text(NAME_AT_MOST, f"^[^{CONTROL}]*$"), "房间名", "the room's name"),
    "section": (text(SECTION_AT_MOST, f"^[^{CONTROL}]*$"), "分区名", "the section's name"),
    "description": (ref("schemas", "description"), "房间描述", "as it was sent"),
    "room_owner_id": (ref("schemas", "openid"), "房主的 openid", "the owner's openid"),
    "users_id": (
        listed(ref("schemas", "openid"), least=1, most=MEMBERS_AT_MOST),
        "成员的 openid：房主在最前，其余按加入的先后",
        "the members' openids: the owner, then in the order of joining",
    ),
    "state": (
        {"type": "integer", "enum": [0, 1]},
        "0 未激活（只有房主一人），1 激活（有别人加入）",
        "0 while the owner is alone, 1 as soon as somebody else is in",
    ),
    "rooms": (listed(ref("schemas", "Room")), "房间列表", "the rooms"),
    "has_more": (
        {"type": "boolean"},
        "在所要的方向上还有没有更多",
        "whether there are more in the direction asked",
    ),
    "openid": (ref("schemas", "openid"), "用户的 openid", "the user's openid"),
    "message": (ref("schemas", "message"), "留言内容", "what was said, as sent"),
    "time": (TIME, "发送的时间（UTC）", "when it was sent, in UTC"),
    "message_id": (integer(1), "只增不减的整数", "an integer that grows"),
    "messages": (listed(ref("schemas", "Message")), "留言列表", "the messages"),
    "last_time": (TIME, "最近一次变化的时间（UTC）", "when anything last changed, in UTC"),
    "token": ({"type": "string"}, "之后的请求都带上它", "what later requests carry"),
    "expires_in": (integer(1), "多少秒后过期", "in how many seconds the token expires"),
    "exist": (
        {"type": "integer", "enum": [0, 1]},
        "1 已经完善个人信息，0 还没有",
        "1 when the profile was completed, else 0",
    ),
    "error": (
        {"type": "string", "enum": list(MEANINGS)},
        "哪一种错误，供程序判断",
        "which error, for programs",
    ),
    "detail": ({"type": "string"}, "可以直接弹出的一句话", "a Chinese sentence for a toast"),
    "field": (
        {"type": "string", "enum": list(TAKEN)},
        "有误的字段，只有 invalid_field 才有",
        "the field that is wrong; of `invalid_field` alone",
    ),
}


def given(names, **properties):
    """An object with these properties, and those of GIVEN with these names."""
    for name in names:
        schema, chinese, english = GIVEN[name]
        properties[name] = {**schema, "description": both(chinese, english)}
    return {"type": "object", "required": list(properties), "properties": properties}


def code(value):
    described = both("1 成功，0 没有成功", "1 done, 0 not done")
    return {"type": "integer", "enum": [value], "description": described}


# The document


def document(routes, fields, errors, version):
    """The document of a service with these routes and tables, as roomapp.py has them."""
    routes = [route for route in routes if route.rule in ENDPOINTS]
    paths = {route.rule: {route.method.lower(): operation(route, errors)} for route in routes}
    refusals = [[error] for error in OF_EVERY_URL]
    refusals += [each for url in paths for each in errors_by_status(url, errors).values()]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "roomapp",
            "version": version,
            "description": both(
                "校园微信小程序的后端：在分区里开房间，找到、加入、留言。除 GET /time 外都是 POST，"
                "请求体是一个 JSON 对象，Content-Type 是什么都可以，不认识的字段会被忽略。"
                "成功时 response_code 为 1；失败时为 0，并有 error 和可以直接弹出的 detail。",
                "The backend of a campus mini-program: rooms to open, find, join and talk in. "
                "Each endpoint takes a JSON object in the body of a POST, whatever the "
                "`Content-Type` says, except `GET /time`. Unknown fields are ignored. "
                "`response_code` is 1 for what is done; else it is 0, `error` says why, and "
                "`detail` says it in Chinese, for a toast.",
            ),
        },
        "tags": [{"name": chinese, "description": english} for chinese, english in TAGS.values()],
        "paths": paths,
        "components": {
            "securitySchemes": SECURITY_SCHEMES,
            "schemas": {
                **{field: taken(field, rule) for field, (_, rule) in fields.items()},
                "Room": given(ROOM),
                "Message": given(MESSAGE),
                "Failure": failure(),
            },
            "responses": {together(each): refusal(each, fields, errors) for each in refusals},
        },
    }


TAGS = {"usr": ("用户", "Users"), "room": ("房间", "Rooms"), "": ("其他", "Others")}


# The ways to say who one is. That one need not is the last alternative: Postman takes the first.
SECURITY_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": both(
            "服务核实身份时，请求要带上 Authorization: Bearer TOKEN，TOKEN 由登录得到。",
            "Where the service verifies identities, a request carries "
            "`Authorization: Bearer TOKEN`, with the token that a login gives.",
        ),
    },
    "gateway": {
        "type": "apiKey",
        "in": "header",
        "name": "X-WX-OPENID",
        "description": both(
            "在微信云托管里由网关带上，小程序不用带。",
            "The gateway of WeChat Cloud Hosting sends it, so that clients need not.",
        ),
    },
}


def operation(route, errors):
    endpoint = ENDPOINTS[route.rule]
    _, first, *others = route.rule.split("/")
    described = {
        "tags": [TAGS[first if others else ""][0]],
        "operationId": route.callback.__name__,
        "summary": in_a_line(endpoint.chinese, endpoint.english),
        "responses": {"200": success(endpoint)},
    }
    if route.rule not in WITHOUT_CALLER:
        described["security"] = [*({name: []} for name in SECURITY_SCHEMES), {}]
    if endpoint.more_chinese:
        described["description"] = both(endpoint.more_chinese, endpoint.more_english)
    if endpoint.takes:
        described["requestBody"] = {"required": True, "content": body(endpoint)}
    for status, those in errors_by_status(route.rule, errors).items():
        described["responses"][str(status)] = ref("responses", together(those))
    return described


def body(endpoint):
    schema = {
        "type": "object",
        "required": list(endpoint.takes),
        "properties": {
            field: ref("schemas", field) for field in (*endpoint.takes, *endpoint.optional)
        },
    }
    if "after" in endpoint.optional:
        schema["not"] = {"required": ["before", "after"]}
    return {"application/json": {"schema": schema, "example": endpoint.takes}}


def success(endpoint):
    return {
        "description": in_a_line("成功", "done"),
        "content": {
            "application/json": {
                "schema": given(endpoint.gives, response_code=code(1)),
                "example": {"response_code": 1, **endpoint.gives},
            }
        },
    }


def errors_by_status(url, errors):
    endpoint = ENDPOINTS[url]
    possible = {*OF_EVERY_ENDPOINT, *endpoint.errors}
    possible.update(OF_EVERY_BODY if endpoint.takes else ())
    possible.update(OF_EVERY_CALLER if url not in WITHOUT_CALLER else ())
    found = {}
    for error, (status, _) in errors.items():
        if error in possible:
            found.setdefault(status, []).append(error)
    return dict(sorted(found.items()))


def together(those):
    return "-or-".join(those)


# status: what stands in the head of its answers
HEADERS = {
    401: {
        "WWW-Authenticate": {
            "description": in_a_line("怎样登录", "how to log in"),
            "schema": {"type": "string", "enum": ["Bearer"]},
        }
    },
    405: {
        "Allow": {
            "description": in_a_line("可以用的方法", "which method it is"),
            "schema": {"type": "string", "enum": ["GET", "POST"]},
        }
    },
    429: {
        "Retry-After": {
            "description": in_a_line("多少秒后再试", "in how many seconds to try again"),
            "schema": integer(1),
        }
    },
}


def refusal(those, fields, errors):
    """An answer with one of those errors, which have the same status."""
    status, _ = errors[those[0]]
    one_of_them = {"properties": {"error": {"type": "string", "enum": those}}}
    return {
        "description": in_a_line(
            "；".join(errors[error][1] for error in those),
            "; ".join(MEANINGS[error] for error in those),
        ),
        "headers": HEADERS.get(status, {}),
        "content": {
            "application/json": {
                "schema": {"allOf": [ref("schemas", "Failure"), {"type": "object", **one_of_them}]},
                "examples": {error: failure_example(error, fields, errors) for error in those},
            }
        },
    }


def failure():
    schema = given(["error", "detail", "field"], response_code=code(0))
    schema["required"].remove("field")
    return schema


def failure_example(error, fields, errors):
    status, detail = errors[error]
    value = {"response_code": 0, "error": error, "detail": detail}
    if error == "invalid_field":
        value |= {"detail": fields["openid"][1], "field": "openid"}
    return {
        "summary": f"{status} {error}",
        "description": both(detail, MEANINGS[error]),
        "value": value,
    }
