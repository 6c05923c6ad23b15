"""The fields of a request, each with its label, reader, rule and JSON schema from one place."""

import re
from collections.abc import Callable
from functools import partial
from inspect import Parameter
from typing import Any, NamedTuple

import models
from search import DIGITS
from service.database import Refused
from service.text import BLANKS, has_visible

LIMIT = 100  # rows on a page, where the client does not say
REQUIRED = Parameter.empty

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
CONTROLS_BUT_BREAKS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
OFFICE_BREAKS = dict.fromkeys(map(ord, "\v\f\x85"), "\n")
BAD_CHARACTER = "含有不能使用的字符"


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


def text(label, read, at_most, rule, at_least=1, **schema):
    schema = {"type": "string", "minLength": at_least, "maxLength": at_most, **schema}
    return Field(label, partial(read, at_most=at_most), rule.format(at_most), schema)


def number(label, rule, at_least=1, kind="正整数", **maximum):
    read = partial(read_integer, at_least=at_least, kind=kind, **maximum)
    schema = {"type": ["integer", "string"], "minimum": at_least, "minLength": 1, **maximum}
    return Field(label, read, rule, schema)


def number_between(label, at_least, at_most, rule):
    kind = f"{at_least}–{at_most} 的整数"
    return number(label, rule.format(kind), at_least, f" {kind}", maximum=at_most)


# Readers


def read_word(value, at_most):
    value = read_line_as_sent(value, at_most)
    if any(map(str.isspace, value)):
        raise ValueError("不能有空格")
    if not value.isprintable():
        raise ValueError(BAD_CHARACTER)
    return value


def read_line(value, at_most):
    """A text with something to see: marks alone would show on whatever stands before them."""
    value = fit(string(value).strip(BLANKS), at_most)
    if not has_visible(value):
        raise ValueError("不能是空白")
    return value


def read_line_as_sent(value, at_most):
    return fit(not_blank(string(value)), at_most)


def read_nickname(value, at_most):
    """A line, or an empty text, which takes the nickname away."""
    return value if value == "" else read_line(value, at_most)


def read_section(value, at_most):
    """A line, or a picker's index, which stands for its digits."""
    return read_line(str(value) if type(value) is int else value, at_most)


def read_key(value, at_most):
    """A line, or a number, which stands for its digits."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return str(value) if type(value) in (int, float) else read_line(value, at_most)


def read_sex(value, at_most):
    """WeChat's code (1 男, 2 女, 0 未知), or a text."""
    if type(value) is int and value in (0, 1, 2):
        return value
    if not isinstance(value, str):
        raise ValueError("应为 0、1、2 或文字")
    return read_line_as_sent(value, at_most)


def read_preference(value):
    if not isinstance(value, list):
        raise ValueError("应为文字的列表")
    if len(value) > models.PREFERENCES_AT_MOST:
        raise ValueError(f"最多 {models.PREFERENCES_AT_MOST} 项")
    try:
        return [PREFERENCE.read(each) for each in value]
    except ValueError as problem:
        raise ValueError(f"{PREFERENCE.label}{problem}") from None


def read_text(value, at_most):
    return fit(string(value).translate(OFFICE_BREAKS), at_most, CONTROLS_BUT_BREAKS)


def read_message(value, at_most):
    return not_blank(read_text(value, at_most))


def read_reason(value, at_most):
    return read_message(string(value).strip(BLANKS), at_most)


def read_integer(value, at_least, kind, maximum=models.ID_AT_MOST):
    """An integer or a string of digits. One too large for any row becomes the largest."""
    if isinstance(value, str) and DIGITS.fullmatch(value):
        value = parse_int(value.lstrip("0０") or "0")
    if type(value) is not int or not at_least <= min(value, models.ID_AT_MOST) <= maximum:
        raise ValueError(f"应为{kind}")
    return min(value, models.ID_AT_MOST)


def parse_int(digits):
    """The integer, cut where it is too large for anything: Python refuses thousands of digits."""
    return int(digits[:60])


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


# The fields, whatever endpoint has them; in the rule of a text, {} is the most

WORD = "1–{} 个可见字符，不含空格"
LINE = "1–{} 个字，至少一个能单独显示的字，不能换行，首尾空白会去掉"
SEX = "微信的代码 0（未知）、1（男）、2（女），或 1–{} 个字的文字；原样返回"
PREFERENCE = text(
    "每项", read_line_as_sent, models.PREFERENCE_AT_MOST, "每项 1–{} 个字，不能是空白；原样返回"
)
REPEATED = "没有收到回答时原样再发一次，24 小时内不会做两次，得到的是第一次的回答"
OR_INTEGER = ["string", "integer"]
FIELDS = {
    "openid": text("openid", read_word, models.OPENID_AT_MOST, f"由微信给出，{WORD}"),
    "sex": text("性别", read_sex, models.SEX_AT_MOST, SEX, type=OR_INTEGER, minimum=0, maximum=2),
    "preference": Field(
        "偏好",
        read_preference,
        f"最多 {models.PREFERENCES_AT_MOST} 项，{PREFERENCE.rule}",
        {"type": "array", "maxItems": models.PREFERENCES_AT_MOST, "items": PREFERENCE.schema},
    ),
    "nickname": text(
        "昵称", read_nickname, models.NICKNAME_AT_MOST, f"{LINE}；可以重名；空字符串去掉昵称", 0
    ),
    "room_id": number("房间号", "正整数，由数字组成的字符串也可以"),
    "name": text("房间名", read_line, models.NAME_AT_MOST, LINE),
    "section": text(
        "分区名",
        read_section,
        models.SECTION_AT_MOST,
        f"{LINE}；整数（选择器的序号）按其数字处理",
        type=OR_INTEGER,
        minimum=1 - 10 ** (models.SECTION_AT_MOST - 1),
        maximum=10**models.SECTION_AT_MOST - 1,
    ),
    "description": text(
        "房间描述", read_text, models.DESCRIPTION_AT_MOST, "0–{} 个字，可以换行和用制表符", 0
    ),
    "room_owner_id": text(
        "room_owner_id", read_word, models.OPENID_AT_MOST, f"房主的 openid，也就是自己的，{WORD}"
    ),
    "capacity": number_between(
        "人数上限",
        models.CAPACITY_AT_LEAST,
        models.MEMBERS_AT_MOST,
        f"房间最多几人，房主也算，{{}}，创建时不填为 {models.MEMBERS_AT_MOST}",
    ),
    "message": text(
        "留言",
        read_message,
        models.MESSAGE_AT_MOST,
        "1–{} 个字，不能是空白，可以换行和用制表符；原样保存",
    ),
    "message_id": number("message_id", "留言的 message_id，正整数"),
    "request_id": text("request_id", read_word, 64, f"客户端自己定的 {WORD}；{REPEATED}"),
    "reason": text("理由", read_reason, 200, "1–{} 个字，可以换行，首尾空白会去掉"),
    "key": text("搜索内容", read_key, 60, f"数字，或 {LINE}", type=["string", "number"]),
    "limit": number_between("limit", 1, 500, f"最多几条，{{}}，不填为 {LIMIT}"),
    "before": number("before", "一个 room_id 或 message_id：比它旧的一页"),
    "after": number(
        "after", "一个 message_id，0 表示从头开始：比它新的、最旧的一页", 0, " 0 或正整数"
    ),
    "code": text("code", read_word, 128, f"wx.login 给的 {WORD}，只能用一次"),  # WeChat's have 32
}
