"""The pages that people read say what the code does."""

import json
import re
import shlex
from pathlib import Path

import pytest

import roomapp
from document import BODIES, LISTS, PAGES

PROJECT = Path(roomapp.__file__).parent


@pytest.fixture(params=["README.md", "README.zh-CN.md"])
def readme(request):
    return (PROJECT / request.param).read_text(encoding="utf-8")


def rows(readme, first_cell):
    """The cells of the table rows whose first cell matches."""
    lines = [line for line in readme.splitlines() if line.startswith("| ")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in table if re.fullmatch(first_cell, row[0])]


def names(cell):
    return re.findall(r"`([^`]+)`", cell)


def test_the_endpoints_are_those_of_the_code_in_its_order(readme):
    api = [route for route in roomapp.app.routes if route.rule not in PAGES]
    routes = [f"{route.method} {route.rule}" for route in api]
    assert [names(row[0])[0] for row in rows(readme, "`(GET|POST) .*`")] == routes


def test_the_fields_are_those_of_the_document(readme):
    for endpoint, taken, *_ in rows(readme, "`POST .*`"):
        url = names(endpoint)[0].split()[1]
        required, _, optional = taken.partition("[")
        assert names(required) == (["code"] if url == "/usr/login" else list(BODIES[url]))
        pages = {"limit": LISTS, "before": LISTS[:4], "after": LISTS[3:4]}
        assert names(optional) == [field for field, urls in pages.items() if url in urls]


def test_the_limits_of_every_field_are_those_of_the_code(readme):
    for field, (_, rule) in roomapp.FIELDS.items():
        told = rows(readme, f".*`{field}`.*")
        assert told, field
        assert set(re.findall(r"\d+", rule)) <= set(re.findall(r"\d+", str(told))), field


def test_the_errors_are_those_of_the_code_in_its_order(readme):
    told = [(names(error)[0], int(status)) for status, error, _ in rows(readme, r"\d{3}")]
    assert told == [(error, status) for error, (status, _) in roomapp.ERRORS.items()]


def test_the_options_are_those_of_the_code(readme):
    told = {
        names(variable)[0]: (*names(flag), *names(default))
        for flag, variable, default, *_ in (row for row in rows(readme, "(`--.*`)?") if row[3:])
        if "ROOMAPP" in variable
    }
    assert told == {
        f"ROOMAPP_{option.upper()}": (
            f"--{option}",
            str(default).replace(str(PROJECT), "").replace("\\", "/").lstrip("/"),
        )
        for option, (default, *_) in roomapp.OPTIONS.items()
    } | {
        f"ROOMAPP_{name.upper()}": (default,) if default else ()
        for name, (default, *_) in roomapp.SETTINGS.items()
    }


def test_the_calls_are_answered_as_told(readme, post):
    calls = re.findall(r"^(curl .*)\n```\n\n```json\n(.*)$", readme, re.MULTILINE)
    assert len(calls) == 3
    for call, told in calls:
        _, _, body, url = shlex.split(call)
        answer = post(url.removeprefix("http://127.0.0.1:8080"), **json.loads(body))
        assert answer.text == told


def test_every_command_is_told(readme):
    for name in roomapp.COMMANDS:
        assert f"\npython roomapp.py {name}" in readme


def test_every_file_is_told(readme):
    for file in [*PROJECT.glob("*.py"), *PROJECT.glob("tests/test_*.py")]:
        assert f"`{file.name}`" in readme
