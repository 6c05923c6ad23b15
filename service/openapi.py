"""The interface as an OpenAPI document, made of the routes, docstrings, fields and errors.

Its texts are Chinese, for those who read it at /docs or in their tools.
"""

from inspect import getdoc

import models
from service.endpoint import Endpoint
from service.fields import FIELDS, REQUIRED
from service.login import TOKEN_SECONDS

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
LOGIN = {
    "openid": "ming",
    "token": "N5yJ0bWQ3nKcZ8u1Xo7rVtGf2hLsEaPd4mIiUwBqYjk",
    "expires_in": TOKEN_SECONDS,
    "exist": 1,
}
OPENED = {
    name: value for name, value in ROOM.items() if name not in ("room_id", "users_id", "state")
}
SENT = {"message_id": MESSAGE["message_id"], "time": MESSAGE["time"]}

# url: (what is sent, what is answered beside response_code)
EXAMPLES = {
    "/usr/complete": ({"openid": "ming", **PROFILE}, {}),
    "/usr/info": ({"openid": "ming"}, PROFILE),
    "/usr/roomlist1": ({"openid": "ming"}, MY_ROOMS),
    "/usr/roomlist2": ({"openid": "hong"}, MY_ROOMS),
    "/usr/join": ({"room_id": 1, "openid": "hong"}, {}),
    "/usr/login": ({"code": "0c1Zv80w3wW1kP2sTg4w3yd1Bu0Zv80Q"}, LOGIN),
    "/usr/delete": ({"openid": "hong"}, {}),
    "/room/section": ({"section": "lol"}, ROOMS),
    "/room/add": (OPENED, {"room_id": 1}),
    "/room/kick": ({"room_id": 1, "openid": "hong"}, {}),
    "/room/delete": ({"room_id": 1, "openid": "ming"}, {}),
    "/room/get_message": ({"room_id": 1}, MESSAGES),
    "/room/send_message": ({"room_id": 1, "openid": "ming", "message": "八点见"}, SENT),
    "/room/complete": (
        {"room_id": 1, "openid": "ming", "description": "八点，人齐了", "capacity": 2},
        {},
    ),
    "/room/delete_message": (
        {"room_id": 1, "openid": "ming", "message_id": MESSAGE["message_id"]},
        {},
    ),
    "/room/report": ({"room_id": 1, "openid": "hong", "reason": "广告"}, {}),
    "/search": ({"key": "五排 lol"}, ROOMS),
    "/time": ({}, {"last_time": MESSAGE["time"]}),
}
# What the fields of an answer mean
MEANINGS = {
    "response_code": "1 成功，0 没有成功",
    "sex": "性别，原样返回",
    "preference": "偏好，原样返回",
    "nickname": "昵称，没有时为空",
    "room_id": "房间号",
    "name": "房间名",
    "section": "分区名",
    "description": "房间描述",
    "room_owner_id": "房主的 openid",
    "users_id": f"成员的 openid：房主在最前，其余按加入的先后，最多 {models.MEMBERS_AT_MOST} 个",
    "state": "0 未激活（只有房主一人），1 激活（有别人加入）",
    "capacity": "最多几人，房主也算",
    "last_message_id": "最新一条留言的 message_id，没有留言时为 0；只有我的房间才有",
    "rooms": "房间列表",
    "nicknames": "从 openid 到昵称，没有昵称的人不在里面："
    "房间列表里是房主，按房间号找到的房间里是所有成员，留言列表里是发送者",
    "has_more": "在所要的方向上还有没有更多",
    "openid": "用户的 openid，已注销的人为空",
    "message": "留言内容，已删除的为空",
    "time": "发送的时间（UTC）",
    "message_id": "只增不减的整数",
    "messages": "留言列表",
    "last_time": "最近一次变化的时间（UTC）",
    "token": "之后的请求都带上它",
    "expires_in": "多少秒后过期",
    "exist": "1 已经完善个人信息，0 还没有",
    "error": "哪一种错误，供程序判断",
    "detail": "可以直接弹出的一句话",
    "field": "有误的字段，只有 invalid_field 和 risky_content 才有",
}
AT_TIMES = ("last_message_id", "field")  # not in every object of their kind
# status: the headers of its answers, with an example and what they mean
HEADERS = {
    401: {"WWW-Authenticate": ("Bearer", "怎样登录")},
    405: {"Allow": ("POST", "可以用的方法")},
    429: {"Retry-After": (1, "多少秒后再试")},
}
TAGS = {"usr": "用户", "room": "房间", "": "其他"}


def document(routes, errors, version):
    """The document of a service with these routes and this table of errors."""
    routes = [route for route in routes if route.rule in EXAMPLES]
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
                **{
                    name: {**field.schema, "description": field.rule}
                    for name, field in FIELDS.items()
                },
                "Room": object_schema({**ROOM, "last_message_id": 0}),
                "Message": object_schema(MESSAGE),
                "Failure": failure_schema(errors),
            },
            "responses": {error: failure([error], errors) for error in errors},
        },
    }


def operation(route, errors):
    endpoint = Endpoint(route.callback, route)
    sent, answered = EXAMPLES[route.rule]
    chapter = route.rule.split("/")[1] if route.rule.count("/") > 1 else ""
    summary, _, description = getdoc(route.callback).partition("\n\n")
    answer = {"response_code": 1, **answered}
    operation = {
        "tags": [TAGS[chapter]],
        "operationId": route.callback.__name__,
        "summary": summary,
        "description": description.replace("\n", ""),
        "responses": {"200": response("成功", object_schema(answer), example=answer)},
    }
    for status, those in errors_by_status(endpoint.errors(), errors).items():
        operation["responses"][str(status)] = failure(those, errors)
    if not endpoint.is_anonymous:
        # That a token is not needed comes last: Postman takes the first way.
        operation["security"] = [{"bearer": []}, {}]
    if endpoint.has_body:
        content = {"schema": body_schema(endpoint.fields), "example": sent}
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    return operation


def body_schema(defaults):
    null = {"type": "null"}  # a field that is null counts as missing
    schema = {
        "type": "object",
        "required": [name for name, default in defaults.items() if default is REQUIRED],
        "properties": {
            name: ref("schemas", name)
            if default is REQUIRED
            else {"anyOf": [ref("schemas", name), null]}
            for name, default in defaults.items()
        },
    }
    if "after" in defaults:
        schema["anyOf"] = [{"properties": {name: null}} for name in ("before", "after")]
    return schema


def errors_by_status(those, errors):
    found = {}
    for error, (status, _) in errors.items():
        if error in those:
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


def failure_example(error, errors):
    status, detail = errors[error]
    value = {"response_code": 0, "error": error, "detail": detail}
    if error == "invalid_field":
        value |= {"detail": "openid：没有填写", "field": "openid"}
    if error == "risky_content":
        value["field"] = "name"
    return {"summary": f"{status} {error}", "description": detail, "value": value}


def response(description, schema, headers=(), **examples):
    headers = {
        name: {"schema": schema_of(example), "description": text}
        for name, (example, text) in dict(headers).items()
    }
    content = {"application/json": {"schema": schema, **examples}}
    return {"description": description, "headers": headers, "content": content}


# Schemas of answers, made of examples


def object_schema(example):
    return {
        "type": "object",
        "required": [name for name in example if name not in AT_TIMES],
        "properties": {
            name: {**(OTHERS.get(name) or schema_of(value)), "description": MEANINGS[name]}
            for name, value in example.items()
        },
    }


def failure_schema(errors):
    schema = object_schema(failure_example("invalid_field", errors)["value"])
    schema["properties"]["error"]["enum"] = list(errors)
    schema["properties"]["field"]["enum"] = list(FIELDS)
    return schema


def schema_of(value):
    schema = {"type": TYPES[type(value)]}
    if isinstance(value, list):
        schema["items"] = schema_of(value[0])
    if isinstance(value, dict):  # from openid to nickname
        schema["additionalProperties"] = schema_of(next(iter(value.values())))
    return schema


def ref(kind, name):
    return {"$ref": f"#/components/{kind}/{name}"}


TYPES = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}
# Of which an example tells less
OTHERS = {
    "sex": ref("schemas", "sex"),
    "preference": ref("schemas", "preference"),
    "rooms": {"type": "array", "items": ref("schemas", "Room")},
    "messages": {"type": "array", "items": ref("schemas", "Message")},
    "time": {"type": "string", "format": "date-time"},
    "last_time": {"type": "string", "format": "date-time"},
}
