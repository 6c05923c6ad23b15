"""The interface as an OpenAPI document, made of the routes, docstrings, fields and errors.

Its texts are Chinese, for those who read it at /docs or in their tools.
"""

from inspect import getdoc
from typing import Any, NamedTuple

import models

# The examples tell the life of one room.
ROOM = {
    "room_id": 1,
    "name": "今晚五排",
    "section": "LOL",
    "description": "八点，缺一个辅助",
    "room_owner_id": "ming",
    "users_id": ["ming", "hong"],
    "state": 1,
    "capacity": 5,
}
MESSAGE = {
    "openid": "ming",
    "message": "八点见",
    "time": "2026-11-23T08:28:00.123Z",
    "message_id": 1795422480123,
}
PROFILE = {"sex": 1, "preference": ["篮球", "桌游"], "nickname": "小明"}
NICKNAMES = {"ming": "小明"}
ROOMS = {"rooms": [ROOM], "nicknames": NICKNAMES, "has_more": False}
MY_ROOMS = {**ROOMS, "rooms": [{**ROOM, "last_message_id": 0}]}
MESSAGES = {"messages": [MESSAGE], "nicknames": NICKNAMES, "has_more": False}
PAGE = ("limit", "before")
LOGIN = {
    "openid": "ming",
    "token": "N5yJ0bWQ3nKcZ8u1Xo7rVtGf2hLsEaPd4mIiUwBqYjk",
    "expires_in": models.TOKEN_SECONDS,
    "exist": 1,
}


OF_TEXTS = ("risky_content", "wechat_unavailable")


class Endpoint(NamedTuple):
    """What neither the route nor its docstring says."""

    takes: dict[str, Any]  # an example, with every field that is not optional
    answers: dict[str, Any]  # what is answered to it, beside response_code
    optional: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()  # beside those of every endpoint


ENDPOINTS = {
    "/usr/complete": Endpoint(
        {"openid": "ming", **PROFILE},
        {},
        optional=("nickname",),
        errors=("identity_mismatch", *OF_TEXTS),
    ),
    "/usr/info": Endpoint(
        {"openid": "ming"},
        PROFILE,
        errors=("identity_mismatch", "user_not_found"),
    ),
    "/usr/roomlist1": Endpoint({"openid": "ming"}, MY_ROOMS, PAGE, ("identity_mismatch",)),
    "/usr/roomlist2": Endpoint({"openid": "hong"}, MY_ROOMS, PAGE, ("identity_mismatch",)),
    "/usr/join": Endpoint(
        {"room_id": 1, "openid": "hong"},
        {},
        errors=("identity_mismatch", "too_many_requests", "room_not_found", "kicked", "room_full"),
    ),
    "/usr/login": Endpoint(
        {"code": "0c1Zv80w3wW1kP2sTg4w3yd1Bu0Zv80Q"},
        LOGIN,
        errors=("login_failed", "banned", "not_found", "too_many_requests", "wechat_unavailable"),
    ),
    "/usr/delete": Endpoint(
        {"openid": "hong"}, {}, errors=("identity_mismatch", "too_many_requests")
    ),
    "/room/section": Endpoint({"section": "lol"}, ROOMS, PAGE),
    "/room/add": Endpoint(
        {
            field: ROOM[field]
            for field in ("name", "section", "description", "room_owner_id", "capacity")
        },
        {"room_id": 1},
        optional=("capacity", "request_id"),
        errors=("identity_mismatch", "too_many_requests", *OF_TEXTS),
    ),
    "/room/kick": Endpoint(
        {"room_id": 1, "openid": "hong"},
        {},
        errors=("not_owner", "room_not_found", "member_not_found", "owner_cannot_leave"),
    ),
    "/room/delete": Endpoint(
        {"room_id": 1, "openid": "ming"},
        {},
        errors=("not_owner", "identity_mismatch", "room_not_found"),
    ),
    "/room/get_message": Endpoint(
        {"room_id": 1},
        MESSAGES,
        optional=(*PAGE, "after"),
        errors=("not_member", "room_not_found"),
    ),
    "/room/send_message": Endpoint(
        {"room_id": 1, "openid": "ming", "message": "八点见"},
        {"message_id": MESSAGE["message_id"], "time": MESSAGE["time"]},
        optional=("request_id",),
        errors=(
            "not_member",
            "identity_mismatch",
            "too_many_requests",
            "room_not_found",
            *OF_TEXTS,
        ),
    ),
    "/room/complete": Endpoint(
        {"room_id": 1, "openid": "ming", "description": "八点，人齐了", "capacity": 2},
        {},
        optional=("name", "section", "description", "capacity"),
        errors=(
            "not_owner",
            "identity_mismatch",
            "room_not_found",
            "capacity_too_small",
            *OF_TEXTS,
        ),
    ),
    "/room/delete_message": Endpoint(
        {"room_id": 1, "openid": "ming", "message_id": MESSAGE["message_id"]},
        {},
        errors=("not_owner", "identity_mismatch", "room_not_found", "message_not_found"),
    ),
    "/room/report": Endpoint(
        {"room_id": 1, "openid": "hong", "reason": "广告"},
        {},
        optional=("message_id",),
        errors=("identity_mismatch", "too_many_requests", "room_not_found", "message_not_found"),
    ),
    "/search": Endpoint({"key": "五排 lol"}, ROOMS, optional=("limit",)),
    "/time": Endpoint({}, {"last_time": MESSAGE["time"]}),
}
WITHOUT_CALLER = ("/usr/login", "/time")
OF_EVERY_ENDPOINT = ("server_error", "database_busy")
OF_EVERY_BODY = ("invalid_json", "invalid_field", "too_large")


# Schemas. The patterns keep to what regular expressions are in every language.

CONTROLS = r"\x00-\x1f\x7f-\x9f"
CONTROLS_BUT_BREAKS = r"\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"


def text(at_least, at_most, pattern):
    return {"type": "string", "minLength": at_least, "maxLength": at_most, "pattern": pattern}


def word(at_most):
    return text(1, at_most, rf"^[^\s{CONTROLS}]+$")


def line(at_most, controls=CONTROLS):
    """A text, most often a line, whose length counts without surrounding blanks."""
    end, middle = rf"[^\s{controls}]", f"[^{controls}]"
    return {"type": "string", "pattern": rf"^\s*{end}({middle}{{0,{at_most - 2}}}{end})?\s*$"}


def not_blank(at_most, controls=CONTROLS):
    return text(1, at_most, rf"^[^{controls}]*[^\s{controls}][^{controls}]*$")


def one_line(at_least, at_most):
    return text(at_least, at_most, f"^[^{CONTROLS}]*$")


def integer(at_least, at_most=None):
    limits = {"minimum": at_least} if at_most is None else {"minimum": at_least, "maximum": at_most}
    return {"type": "integer", **limits}


def digits(pattern):
    return {"type": "string", "pattern": f"^{pattern}$"}


def either(*schemas):
    return {"anyOf": list(schemas)}


def array(items, at_most, at_least=0):
    return {"type": "array", "minItems": at_least, "maxItems": at_most, "items": items}


def ref(kind, name):
    return {"$ref": f"#/components/{kind}/{name}"}


POSITIVE = either(integer(1), digits("[0０]*[1-9１-９][0-9０-９]*"))
CAPACITY = "[0０]*([2-9２-９]|[1-9１-９][0-9０-９]|[1-4１-４][0-9０-９]{2}|[5５][0０]{2})"
LIMIT = "[0０]*([1-9１-９][0-9０-９]?|[1-4１-４][0-9０-９]{2}|[5５][0０]{2})"
NULL = {"type": "null"}  # a field that is null counts as missing
FLAG = {"type": "integer", "enum": [0, 1]}
TIME = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$",
}

# What the fields of a request may be; what they mean is in the table of fields.
SENT = {
    "openid": word(models.OPENID_AT_MOST),
    "sex": either({"type": "integer", "enum": [0, 1, 2]}, not_blank(models.SEX_AT_MOST)),
    "preference": array(not_blank(models.PREFERENCE_AT_MOST), models.PREFERENCES_AT_MOST),
    "nickname": line(models.NICKNAME_AT_MOST),
    "room_id": POSITIVE,
    "name": line(models.NAME_AT_MOST),
    "section": either(
        line(models.SECTION_AT_MOST),
        integer(1 - 10 ** (models.SECTION_AT_MOST - 1), 10**models.SECTION_AT_MOST - 1),
    ),
    "description": text(0, models.DESCRIPTION_AT_MOST, f"^[^{CONTROLS_BUT_BREAKS}]*$"),
    "room_owner_id": word(models.OPENID_AT_MOST),
    "capacity": either(integer(models.CAPACITY_AT_LEAST, models.MEMBERS_AT_MOST), digits(CAPACITY)),
    "message": not_blank(models.MESSAGE_AT_MOST, CONTROLS_BUT_BREAKS),
    "message_id": POSITIVE,
    "request_id": word(models.REQUEST_ID_AT_MOST),
    "reason": line(models.REASON_AT_MOST, CONTROLS_BUT_BREAKS),
    "key": either(line(models.KEY_AT_MOST), {"type": "number"}),
    "limit": either(integer(1, models.LIMIT_AT_MOST), digits(LIMIT)),
    "before": POSITIVE,
    "after": either(integer(0), digits("[0-9０-９]+")),
    "code": word(models.CODE_AT_MOST),
}
# name: (what the field of an answer is, what it means)
ANSWERED = {
    "response_code": (FLAG, "1 成功，0 没有成功"),
    "sex": (ref("schemas", "sex"), "性别，原样返回"),
    "preference": (ref("schemas", "preference"), "偏好，原样返回"),
    "nickname": (one_line(0, models.NICKNAME_AT_MOST), "昵称，没有时为空"),
    "room_id": (integer(1), "房间号"),
    "name": (one_line(1, models.NAME_AT_MOST), "房间名"),
    "section": (one_line(1, models.SECTION_AT_MOST), "分区名"),
    "description": (ref("schemas", "description"), "房间描述"),
    "room_owner_id": (ref("schemas", "openid"), "房主的 openid"),
    "users_id": (
        array(ref("schemas", "openid"), models.MEMBERS_AT_MOST, at_least=1),
        f"成员的 openid：房主在最前，其余按加入的先后，最多 {models.MEMBERS_AT_MOST} 个",
    ),
    "state": (FLAG, "0 未激活（只有房主一人），1 激活（有别人加入）"),
    "capacity": (
        integer(models.CAPACITY_AT_LEAST, models.MEMBERS_AT_MOST),
        "最多几人，房主也算",
    ),
    "last_message_id": (integer(0), "最新一条留言的 message_id，没有留言时为 0；只有我的房间才有"),
    "rooms": (array(ref("schemas", "Room"), models.LIMIT_AT_MOST), "房间列表"),
    "nicknames": (
        {"type": "object", "additionalProperties": one_line(1, models.NICKNAME_AT_MOST)},
        "从 openid 到昵称，没有昵称的人不在里面："
        "房间列表里是房主，按房间号找到的房间里是所有成员，留言列表里是发送者",
    ),
    "has_more": ({"type": "boolean"}, "在所要的方向上还有没有更多"),
    "openid": (one_line(0, models.OPENID_AT_MOST), "用户的 openid，已注销的人为空"),
    "message": (
        text(0, models.MESSAGE_AT_MOST, f"^[^{CONTROLS_BUT_BREAKS}]*$"),
        "留言内容，已删除的为空",
    ),
    "time": (TIME, "发送的时间（UTC）"),
    "message_id": (integer(1), "只增不减的整数"),
    "messages": (array(ref("schemas", "Message"), models.LIMIT_AT_MOST), "留言列表"),
    "last_time": (TIME, "最近一次变化的时间（UTC）"),
    "token": ({"type": "string"}, "之后的请求都带上它"),
    "expires_in": (integer(1), "多少秒后过期"),
    "exist": (FLAG, "1 已经完善个人信息，0 还没有"),
    "error": ({"type": "string"}, "哪一种错误，供程序判断"),
    "detail": ({"type": "string"}, "可以直接弹出的一句话"),
    "field": (
        {"type": "string", "enum": list(SENT)},
        "有误的字段，只有 invalid_field 和 risky_content 才有",
    ),
}
AT_TIMES = ("last_message_id", "field")  # not in every object of their kind
# status: the headers of its answers
HEADERS = {
    401: {"WWW-Authenticate": ({"type": "string", "enum": ["Bearer"]}, "怎样登录")},
    405: {"Allow": ({"type": "string", "enum": ["GET", "POST"]}, "可以用的方法")},
    429: {"Retry-After": (integer(1), "多少秒后再试")},
}


def described(schema, description):
    return {**schema, "description": description}


def answer_object(names):
    """An object with these fields of ANSWERED."""
    return {
        "type": "object",
        "required": [name for name in names if name not in AT_TIMES],
        "properties": {name: described(*ANSWERED[name]) for name in names},
    }


# The document


def document(routes, fields, errors, version):
    """The document of a service with these routes and tables, as roomapp.py has them."""
    routes = [route for route in routes if route.rule in ENDPOINTS]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "roomapp",
            "version": version,
            "description": "校园微信小程序的后端：在分区里开房间，找到、加入、留言。"
            "除 GET /time 外都是 POST，请求体是一个 JSON 对象，Content-Type 是什么都可以，"
            "不认识的字段会被忽略。"
            "成功时 response_code 为 1；失败时为 0，并有 error 和可以直接弹出的 detail。",
        },
        "tags": [{"name": name} for name in TAGS.values()],
        "paths": {route.rule: {route.method.lower(): operation(route, errors)} for route in routes},
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "服务核实身份时，请求要带上登录得到的 token。",
                }
            },
            "schemas": {
                **{name: described(SENT[name], field.rule) for name, field in fields.items()},
                "Room": answer_object([*ROOM, "last_message_id"]),
                "Message": answer_object(MESSAGE),
                "Failure": failure_schema(errors),
            },
            "responses": {error: failure([error], errors) for error in errors},
        },
    }


TAGS = {"usr": "用户", "room": "房间", "": "其他"}


def operation(route, errors):
    endpoint = ENDPOINTS[route.rule]
    chapter = route.rule.split("/")[1] if route.rule.count("/") > 1 else ""
    summary, _, description = getdoc(route.callback).partition("\n\n")
    answer = {"response_code": 1, **endpoint.answers}
    operation = {
        "tags": [TAGS[chapter]],
        "operationId": route.callback.__name__,
        "summary": summary,
        "description": description.replace("\n", ""),
        "responses": {"200": response("成功", answer_object(answer), example=answer)},
    }
    for status, those in errors_by_status(route, errors).items():
        operation["responses"][str(status)] = failure(those, errors)
    if route.rule not in WITHOUT_CALLER:
        # That a token is not needed comes last: Postman takes the first way.
        operation["security"] = [{"bearer": []}, {}]
    if endpoint.takes:
        operation["requestBody"] = {"required": True, "content": body(endpoint)}
    return operation


def body(endpoint):
    schema = {
        "type": "object",
        "required": [name for name in endpoint.takes if name not in endpoint.optional],
        "properties": {name: ref("schemas", name) for name in endpoint.takes}
        | {name: either(ref("schemas", name), NULL) for name in endpoint.optional},
    }
    if "after" in endpoint.optional:
        schema["anyOf"] = [{"properties": {name: NULL}} for name in ("before", "after")]
    return {"application/json": {"schema": schema, "example": endpoint.takes}}


def response(description, schema, headers=(), **examples):
    headers = {
        name: {"schema": schema, "description": text}
        for name, (schema, text) in dict(headers).items()
    }
    content = {"application/json": {"schema": schema, **examples}}
    return {"description": description, "headers": headers, "content": content}


def errors_by_status(route, errors):
    """The errors of an endpoint, by their statuses."""
    endpoint = ENDPOINTS[route.rule]
    possible = {*OF_EVERY_ENDPOINT, *endpoint.errors}
    possible.update(OF_EVERY_BODY if endpoint.takes else ())
    possible.update(("login_required",) if route.rule not in WITHOUT_CALLER else ())
    possible.update(("banned",) if "changes" in route.config else ())
    found = {}
    for error, (status, _) in errors.items():
        if error in possible:
            found.setdefault(status, []).append(error)
    return found


def failure(those, errors):
    """An answer with one of those errors, which have the same status."""
    status, _ = errors[those[0]]
    return response(
        "；".join(errors[error][1] for error in those),
        {
            "allOf": [
                ref("schemas", "Failure"),
                {"type": "object", "properties": {"error": {"enum": those}}},
            ]
        },
        HEADERS.get(status, {}),
        examples={error: failure_example(error, errors) for error in those},
    )


def failure_schema(errors):
    schema = answer_object(["response_code", "error", "detail", "field"])
    schema["properties"]["error"]["enum"] = list(errors)
    return schema


def failure_example(error, errors):
    status, detail = errors[error]
    value = {"response_code": 0, "error": error, "detail": detail}
    if error == "invalid_field":
        value |= {"detail": "openid：没有填写", "field": "openid"}
    if error == "risky_content":
        value["field"] = "name"
    return {"summary": f"{status} {error}", "description": detail, "value": value}
