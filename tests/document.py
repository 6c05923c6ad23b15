"""The interface document, as far as several tests need it."""

import re

from roomapp import LOGINS, app

# Each endpoint that takes a body, with one that would be done.
BODIES = {
    "/usr/complete": {"openid": "gang", "sex": 1, "preference": ["篮球"]},
    "/usr/info": {"openid": "ming"},
    "/usr/roomlist1": {"openid": "ming"},
    "/usr/roomlist2": {"openid": "hong"},
    "/usr/join": {"room_id": 1, "openid": "gang"},
    "/usr/delete": {"openid": "gang"},
    "/room/section": {"section": "学习"},
    "/room/add": {
        "name": "桌游",
        "section": "桌游",
        "description": "",
        "room_owner_id": "gang",
    },
    "/room/kick": {"room_id": 1, "openid": "hong"},
    "/room/delete": {"room_id": 1, "openid": "ming"},
    "/room/get_message": {"room_id": 1},
    "/room/send_message": {"room_id": 1, "openid": "hong", "message": "嗨"},
    "/room/complete": {"room_id": 1, "openid": "ming"},
    "/room/delete_message": {"room_id": 1, "openid": "ming", "message_id": 1},
    "/room/report": {"room_id": 1, "openid": "hong", "reason": "广告"},
    "/search": {"key": "学习"},
}
# Those that take a request_id: what changes something, but for login and leaving.
CHANGING = [
    "/usr/complete",
    "/usr/join",
    "/room/add",
    "/room/kick",
    "/room/delete",
    "/room/send_message",
    "/room/complete",
    "/room/delete_message",
    "/room/report",
]
# What each takes beside that.
OPTIONAL = {
    "/usr/complete": ["nickname"],
    "/usr/roomlist1": ["limit", "before"],
    "/usr/roomlist2": ["limit", "before"],
    "/room/section": ["limit", "before"],
    "/room/add": ["capacity"],
    "/room/get_message": ["limit", "before", "after"],
    "/room/complete": ["name", "section", "description", "capacity"],
    "/room/report": ["message_id"],
    "/search": ["limit"],
}
LISTS = ["/usr/roomlist1", "/usr/roomlist2", "/room/section", "/room/get_message", "/search"]

# What may be done only so often.
RATES = [LOGINS, *(route.config["rate"] for route in app.routes if "rate" in route.config)]

# What is there for browsers and tools, beside the interface document.
PAGES = ["/", "/static/<file:re:[a-z]+[.](?:css|js|svg)>", "/docs", "/openapi.json"]

# Why a value is refused that its schema takes, which says types and lengths.
BEYOND_SCHEMAS = re.compile("不能是空白|不能换行|不能有空格|含有不能使用的字符|应为.*整数")

# Of each field the least and the most that it takes,
LEAST_AND_MOST = [
    ("openid", "x", "x" * 64),
    ("room_owner_id", "明", "明" * 64),
    ("name", "x", "🎮" * 60),
    ("section", "x", "学" * 30),
    ("description", "", "🎮\n" * 500),
    ("message", "x", "🎮\t" * 1000),
    ("sex", "x", "男" * 16),
    ("preference", [], ["篮" * 30] * 50),
    ("nickname", "", "🎮" * 20),
    ("capacity", 2, 500),
    ("request_id", "x", "明" * 64),
    ("reason", "x", "🎮\n" * 99 + "🎮🎮"),
    ("key", "x", "🎮" * 60),
    ("limit", 1, 500),
    ("before", 1, 10**30),
    ("after", 0, 10**30),
]
# and what is beyond.
OUT_OF_LIMITS = [
    ("openid", ["", "x" * 65, "a b", " gang", "a\u3000b", "a\u200bb"]),
    ("room_owner_id", ["", "x" * 65, "a\tb"]),
    ("name", ["", " \u3000\n", "x" * 61, "一\n二", "一\t二", 5]),
    ("section", [" ", "x" * 31, 10**30]),
    ("description", ["x" * 1001, 5]),
    ("message", ["", " \n\t\u3000", "x" * 2001, 5]),
    ("sex", [3, -1, 1.0, "", " ", "x" * 17]),
    ("preference", ["篮球", ["篮球"] * 51, ["x" * 31], ["篮球", ""], [" \u3000"], ["篮球", 1]]),
    ("nickname", [" \u3000", "x" * 21, "一\n二", 5]),
    ("capacity", [0, 1, -2, 501, "1", "501", "", "two", 2.0]),
    ("request_id", ["", "x" * 65, "a b", 5]),
    ("reason", ["", " \n", "x" * 201, 5]),
    ("message_id", [0, -1, "0", "", "一", 1.0]),
    ("room_id", [0, -1, "0", "-1", "1.0", " 1", "", "一", "②", 1.0, False]),
    ("key", ["", " \u3000\n", "x" * 61, "1" * 61]),
    ("limit", [0, 501, "501", -1, "ten"]),
    ("before", [0, -1, "x"]),
    ("after", [-1, "-1", "x"]),
]
