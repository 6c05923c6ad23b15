"""The interface as an OpenAPI document, made of the routes, docstrings, fields and errors.

Its texts are Chinese, for those who read it at /docs or in their tools.
"""

from inspect import getdoc
from itertools import groupby

import models
from service.endpoint import Endpoint
from service.fields import FIELDS, REQUIRED
from service.login import TOKEN_SECONDS

# The examples tell the life of one room.
ABOUT = {"name": "今晚五排", "section": "LOL", "description": "八点，缺一个辅助"}
PEOPLE = {"room_owner_id": "ming", "users_id": ["ming", "hong"], "state": 1, "capacity": 5}
ROOM = {"room_id": 1, **ABOUT, **PEOPLE}
MY_ROOM = {**ROOM, "last_message_id": 0}
TIME, MESSAGE_ID = "2026-11-23T08:28:00.123Z", 1795422480123
MESSAGE = {"openid": "ming", "message": "八点见", "time": TIME, "message_id": MESSAGE_ID}
PROFILE = {"sex": 1, "preference": ["篮球", "桌游"], "nickname": "小明"}
REST = {"nicknames": {"ming": "小明"}, "has_more": False}
TOKEN = "N5yJ0bWQ3nKcZ8u1Xo7rVtGf2hLsEaPd4mIiUwBqYjk"
LOGIN = {"openid": "ming", "token": TOKEN, "expires_in": TOKEN_SECONDS, "exist": 1}
MING = {"room_id": 1, "openid": "ming"}
HONG = {"room_id": 1, "openid": "hong"}

# url: (what is sent, what is answered beside response_code)
EXAMPLES = {
    "/usr/complete": ({"openid": "ming", **PROFILE}, {}),
    "/usr/info": ({"openid": "ming"}, PROFILE),
    "/usr/roomlist1": ({"openid": "ming"}, {"rooms": [MY_ROOM], **REST}),
    "/usr/roomlist2": ({"openid": "hong"}, {"rooms": [MY_ROOM], **REST}),
    "/usr/join": (HONG, {}),
    "/usr/login": ({"code": "0c1Zv80w3wW1kP2sTg4w3yd1Bu0Zv80Q"}, LOGIN),
    "/usr/delete": ({"openid": "hong"}, {}),
    "/room/section": ({"section": "lol"}, {"rooms": [ROOM], **REST}),
    "/room/add": ({**ABOUT, "room_owner_id": "ming", "capacity": 5}, {"room_id": 1}),
    "/room/kick": (HONG, {}),
    "/room/delete": (MING, {}),
    "/room/get_message": ({"room_id": 1}, {"messages": [MESSAGE], **REST}),
    "/room/send_message": ({**MING, "message": "八点见"}, {"message_id": MESSAGE_ID, "time": TIME}),
    "/room/complete": ({**MING, "description": "八点，人齐了", "capacity": 2}, {}),
    "/room/delete_message": ({**MING, "message_id": MESSAGE_ID}, {}),
    "/room/report": ({**HONG, "reason": "广告"}, {}),
    "/search": ({"key": "五排 lol"}, {"rooms": [ROOM], **REST}),
    "/time": ({}, {"last_time": TIME}),
}
# What the fields of an answer mean
MEANINGS = {
    **{name: field.label for name, field in FIELDS.items()},
    "response_code": "1 成功，0 没有成功",
    "sex": "性别，原样返回",
    "preference": "偏好，原样返回",
    "nickname": "昵称，没有时为空",
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
# What stands in the answers of errors that are about a field
AT_FAULT = {
    "invalid_field": {"detail": "openid：没有填写", "field": "openid"},
    "risky_content": {"field": "name"},
}
DESCRIPTION = """\
校园微信小程序的后端：在分区里开房间，找到、加入、留言。\
除 GET /time 外都是 POST，请求体是一个 JSON 对象，Content-Type 是什么都可以，不认识的字段会被忽略。\
成功时 response_code 为 1；失败时为 0，并有 error 和可以直接弹出的 detail。"""
BEARER = "服务核实身份时，请求要带上登录得到的 token。"
TAGS = {"/usr": "用户", "/room": "房间", "": "其他"}


def document(routes, errors, version):
    """The document of a service with these routes and this table of errors."""
    routes = [route for route in routes if route.rule in EXAMPLES]
    fields = {name: {**each.schema, "description": each.rule} for name, each in FIELDS.items()}
    bearer = {"type": "http", "scheme": "bearer", "description": BEARER}
    failure_schema = object_schema(failure_example("invalid_field", ""))
    failure_schema["properties"]["error"]["enum"] = list(errors)
    return {
        "openapi": "3.1.0",
        "info": {"title": "roomapp", "version": version, "description": DESCRIPTION},
        "tags": [{"name": name} for name in TAGS.values()],
        "paths": {route.rule: {route.method.lower(): operation(route, errors)} for route in routes},
        "components": {
            "securitySchemes": {"bearer": bearer},
            "schemas": {
                **fields,
                "Room": object_schema(MY_ROOM),
                "Message": object_schema(MESSAGE),
                "Failure": failure_schema,
            },
            "responses": {error: failure({error: known}) for error, known in errors.items()},
        },
    }


def operation(route, errors):
    endpoint = Endpoint(route.callback, route)
    sent, answered = EXAMPLES[route.rule]
    answer = {"response_code": 1, **answered}
    summary, _, description = getdoc(route.callback).partition("\n\n")
    success = {"description": "成功", **as_json(object_schema(answer), example=answer)}
    operation = {
        "tags": [TAGS[route.rule.rpartition("/")[0]]],
        "operationId": route.callback.__name__,
        "summary": summary,
        "description": description.replace("\n", ""),
        "responses": {"200": success},
    }
    own = [(error, known) for error, known in errors.items() if error in endpoint.errors()]
    for status, those in groupby(own, lambda each: each[1][0]):
        operation["responses"][str(status)] = failure(dict(those))
    if not endpoint.is_anonymous:
        # That a token is not needed comes last: Postman takes the first way.
        operation["security"] = [{"bearer": []}, {}]
    if endpoint.has_body:
        body = as_json(body_schema(endpoint.fields), example=sent)
        operation["requestBody"] = {"required": True, **body}
    return operation


def body_schema(defaults):
    required = [name for name, default in defaults.items() if default is REQUIRED]
    null = {"type": "null"}  # a field that is null counts as missing
    properties = {
        name: ref(name) if name in required else {"anyOf": [ref(name), null]} for name in defaults
    }
    schema = {"type": "object", "required": required, "properties": properties}
    if "after" in defaults:
        schema["anyOf"] = [{"properties": {name: null}} for name in ("before", "after")]
    return schema


def failure(errors):
    """An answer with one of these errors, which have the same status."""
    examples = {
        error: {
            "summary": f"{status} {error}",
            "description": detail,
            "value": failure_example(error, detail),
        }
        for error, (status, detail) in errors.items()
    }
    schema = {"allOf": [ref("Failure"), {"properties": {"error": {"enum": list(errors)}}}]}
    description = "；".join(detail for _, detail in errors.values())
    return {"description": description, **as_json(schema, examples=examples)}


def failure_example(error, detail):
    return {"response_code": 0, "error": error, "detail": detail, **AT_FAULT.get(error, {})}


def as_json(schema, **examples):
    return {"content": {"application/json": {"schema": schema, **examples}}}


def object_schema(example):
    """The schema of an object, made of an example."""
    properties = {
        name: {**(OTHERS.get(name) or {"type": TYPES[type(value)]}), "description": MEANINGS[name]}
        for name, value in example.items()
    }
    required = [name for name in example if name not in AT_TIMES]
    return {"type": "object", "required": required, "properties": properties}


def ref(name):
    return {"$ref": f"#/components/schemas/{name}"}


TYPES = {bool: "boolean", int: "integer", str: "string"}
# Of which the type of an example tells too little
OTHERS = {
    "sex": ref("sex"),
    "preference": ref("preference"),
    "field": {"type": "string", "enum": list(FIELDS)},
    "users_id": {"type": "array", "items": {"type": "string"}},
    "rooms": {"type": "array", "items": ref("Room")},
    "nicknames": {"type": "object", "additionalProperties": {"type": "string"}},
    "messages": {"type": "array", "items": ref("Message")},
    "time": {"type": "string", "format": "date-time"},
    "last_time": {"type": "string", "format": "date-time"},
}
