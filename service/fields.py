"""The fields of a request, each with its label, reader, rule and JSON schema from one place."""

import re
from collections.abc import Callable
from contextlib import suppress
from inspect import Parameter
from typing import Any, NamedTuple

import models
from search import DIGITS
from service.database import Refused
from service.text import BLANKS, has_visible

KEY_AT_MOST = 60
CODE_AT_MOST = 128  # WeChat's have 32
REQUEST_ID_AT_MOST = 64
REASON_AT_MOST = 200
LIMIT_AT_MOST = 500
LIMIT = 100  # rows on a page, where the client does not say
REQUIRED = Parameter.empty

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
CONTROLS_BUT_BREAKS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
OFFICE_BREAKS = dict.fromkeys(map(ord, "\v\f\x85"), "\n")
BAD_CHARACTER = "含有不能使用的字符"
LINE_RULE = "至少一个能单独显示的字，不能换行，首尾空白会去掉"


def read_fields(defaults, sent):
    """The values of these fields of a JSON object; the default of a field may be REQUIRED."""
    values = {name: read_field(name, sent.get(name), each) for name, each in defaults.items()}
    if values.get("before") is not None and values.get("after") is not None:
        raise Refused("invalid_field", field="after", detail="before 和 after 不能同时使用")
    return values


def read_field(name, value, default):
    if value is None and default is not REQUIRED:
        return default
    field = FIELDS[name]
    try:
        if value is None:
            raise ValueError("没有填写")
        return field.read(value)
    except ValueError as problem:
        raise Refused("invalid_field", field=name, detail=f"{field.label}：{problem}") from None


class Field(NamedTuple):
    """A reader takes what was sent and returns what it stands for.

    Or it raises ValueError with the end of the sentence that a toast shows. The schema says types
    and lengths, the rule all.
    """

    label: str  # what a toast calls it
    read: Callable[[Any], Any]
    rule: str  # for developers
    schema: dict[str, Any]


# Kinds of fields


def word(label, at_most, before, after=""):
    def read(value):
        value = fit(not_blank(string(value)), at_most)
        if any(map(str.isspace, value)):
            raise ValueError("不能有空格")
        if not value.isprintable():
            raise ValueError(BAD_CHARACTER)
        return value

    return Field(label, read, f"{before}1–{at_most} 个可见字符，不含空格{after}", text(1, at_most))


def line(label, at_most, at_least=1, more=""):
    def read(value):
        return value if value == "" and at_least == 0 else read_line(value, at_most)

    return Field(label, read, f"1–{at_most} 个字，{LINE_RULE}{more}", text(at_least, at_most))


def paragraphs(label, at_least, at_most, more, read_text=None):
    def read(value):
        value = (read_text or string)(value)
        value = fit(value.translate(OFFICE_BREAKS), at_most, CONTROLS_BUT_BREAKS)
        return not_blank(value) if at_least else value

    return Field(label, read, f"{at_least}–{at_most} 个字，{more}", text(at_least, at_most))


def number_between(label, at_least, at_most, before, after):
    def read(value):
        with suppress(ValueError):
            value = read_integer(value)
            if at_least <= value <= at_most:
                return value
        raise ValueError(f"应为 {at_least}–{at_most} 的整数")

    rule = f"{before}，{at_least}–{at_most} 的整数，{after}"
    return Field(label, read, rule, {**integer(at_least), "maximum": at_most})


def number(label, rule, at_least=1):
    return Field(label, lambda value: read_integer(value, at_least), rule, integer(at_least))


def text(at_least, at_most, *other_types):
    types = ["string", *other_types] if other_types else "string"
    return {"type": types, "minLength": at_least, "maxLength": at_most}


def integer(at_least):
    """An integer or a string of digits."""
    return {"type": ["integer", "string"], "minimum": at_least, "minLength": 1}


# Readers


def read_line(value, at_most):
    """A text with something to see: marks alone would show on whatever stands before them."""
    value = fit(cut(value), at_most)
    if not has_visible(value):
        raise ValueError("不能是空白")
    return value


def read_line_as_sent(value, at_most):
    return fit(not_blank(string(value)), at_most)


def read_section(value):
    """A line, or a picker's index, which stands for its digits."""
    return read_line(str(value) if type(value) is int else value, models.SECTION_AT_MOST)


def read_key(value):
    """A line, or a number, which stands for its digits."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return str(value) if type(value) in (int, float) else read_line(value, KEY_AT_MOST)


def read_sex(value):
    """WeChat's code (1 男, 2 女, 0 未知), or a text."""
    if type(value) is int and value in (0, 1, 2):
        return value
    if not isinstance(value, str):
        raise ValueError("应为 0、1、2 或文字")
    return read_line_as_sent(value, models.SEX_AT_MOST)


def read_preference(value):
    if not isinstance(value, list):
        raise ValueError("应为文字的列表")
    if len(value) > models.PREFERENCES_AT_MOST:
        raise ValueError(f"最多 {models.PREFERENCES_AT_MOST} 项")
    try:
        return [read_line_as_sent(each, models.PREFERENCE_AT_MOST) for each in value]
    except ValueError as problem:
        raise ValueError(f"每项{problem}") from None


def read_integer(value, at_least=1):
    """An integer or a string of digits. One too large for any row becomes the largest."""
    if isinstance(value, str) and DIGITS.fullmatch(value):
        value = parse_int(value.lstrip("0０") or "0")
    if type(value) is not int or value < at_least:
        raise ValueError("应为正整数" if at_least else "应为 0 或正整数")
    return min(value, models.ID_AT_MOST)


def parse_int(digits):
    """The integer, cut where it is too large for anything: Python refuses thousands of digits."""
    return int(digits[:60])


def cut(value):
    """A text without the blanks around it."""
    return string(value).strip(BLANKS)


def string(value):
    """A text of whole characters: half of a surrogate pair, an emoji cut in two, becomes U+FFFD."""
    if not isinstance(value, str):
        raise ValueError("应为文字")
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def not_blank(value):
    if not value.strip(BLANKS):
        raise ValueError("不能是空白")
    return value


def fit(value, at_most, controls=CONTROLS):
    if len(value) > at_most:
        raise ValueError(f"最多 {at_most} 个字")
    if found := controls.search(value):
        raise ValueError("不能换行" if found[0] in "\r\n" else BAD_CHARACTER)
    return value


# The fields, whatever endpoint has them

FIELDS = {
    "openid": word("openid", models.OPENID_AT_MOST, "由微信给出，"),
    "sex": Field(
        "性别",
        read_sex,
        f"微信的代码 0（未知）、1（男）、2（女），或 1–{models.SEX_AT_MOST} 个字的文字；原样返回",
        text(1, models.SEX_AT_MOST, "integer") | {"minimum": 0, "maximum": 2},
    ),
    "preference": Field(
        "偏好",
        read_preference,
        f"最多 {models.PREFERENCES_AT_MOST} 项，每项 1–{models.PREFERENCE_AT_MOST} 个字，"
        "不能是空白；原样返回",
        {
            "type": "array",
            "maxItems": models.PREFERENCES_AT_MOST,
            "items": text(1, models.PREFERENCE_AT_MOST),
        },
    ),
    "nickname": line("昵称", models.NICKNAME_AT_MOST, 0, "；可以重名；空字符串去掉昵称"),
    "room_id": number("房间号", "正整数，由数字组成的字符串也可以"),
    "name": line("房间名", models.NAME_AT_MOST),
    "section": Field(
        "分区名",
        read_section,
        f"1–{models.SECTION_AT_MOST} 个字，{LINE_RULE}；整数（选择器的序号）按其数字处理",
        text(1, models.SECTION_AT_MOST, "integer")
        | {
            "minimum": 1 - 10 ** (models.SECTION_AT_MOST - 1),
            "maximum": 10**models.SECTION_AT_MOST - 1,
        },
    ),
    "description": paragraphs("房间描述", 0, models.DESCRIPTION_AT_MOST, "可以换行和用制表符"),
    "room_owner_id": word("room_owner_id", models.OPENID_AT_MOST, "房主的 openid，也就是自己的，"),
    "capacity": number_between(
        "人数上限",
        models.CAPACITY_AT_LEAST,
        models.MEMBERS_AT_MOST,
        "房间最多几人，房主也算",
        f"创建时不填为 {models.MEMBERS_AT_MOST}",
    ),
    "message": paragraphs(
        "留言", 1, models.MESSAGE_AT_MOST, "不能是空白，可以换行和用制表符；原样保存"
    ),
    "message_id": number("message_id", "留言的 message_id，正整数"),
    "request_id": word(
        "request_id",
        REQUEST_ID_AT_MOST,
        "客户端自己定的 ",
        "；没有收到回答时原样再发一次，24 小时内不会做两次，得到的是第一次的回答",
    ),
    "reason": paragraphs("理由", 1, REASON_AT_MOST, "可以换行，首尾空白会去掉", cut),
    "key": Field(
        "搜索内容",
        read_key,
        f"数字，或 1–{KEY_AT_MOST} 个字，{LINE_RULE}",
        text(1, KEY_AT_MOST, "number"),
    ),
    "limit": number_between("limit", 1, LIMIT_AT_MOST, "最多几条", f"不填为 {LIMIT}"),
    "before": number("before", "一个 room_id 或 message_id：比它旧的一页"),
    "after": number("after", "一个 message_id，0 表示从头开始：比它新的、最旧的一页", at_least=0),
    "code": word("code", CODE_AT_MOST, "wx.login 给的 ", "，只能用一次"),
}
