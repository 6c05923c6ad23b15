"""The pages that people read say what the code does."""

import ast
import json
import re
import shlex

import pytest

import roomapp
from document import BODIES, OPTIONAL, PAGES
from processes import PROJECT
from service.options import BESIDE_THE_SERVICE, ON_THE_FILE, OPTIONS, variable


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
    for endpoint, fields, *_ in rows(readme, "`POST .*`"):
        url = names(endpoint)[0].split()[1]
        required, _, optional = fields.partition("[")
        assert names(required) == (["code"] if url == "/usr/login" else list(BODIES[url]))
        assert names(optional) == OPTIONAL.get(url, [])


def test_the_options_are_those_of_the_code(readme):
    options = {
        names(name)[0]: (*names(flag), *names(default))
        for flag, name, default, *_ in (row for row in rows(readme, "(`--.*`)?") if row[3:])
        if "ROOMAPP" in name
    }
    root = f"{PROJECT}/"
    assert options == {
        variable(name): (
            *([f"--{name}"] if option.has_flag else []),
            *filter(None, [option.default.replace("\\", "/").replace(root, "")]),
        )
        for name, option in OPTIONS.items()
    }


def test_the_calls_have_the_answers_that_are_shown(readme, post):
    calls = re.findall(r"^(curl .*)\n```\n\n```json\n(.*)$", readme, re.MULTILINE)
    assert len(calls) == 3
    for call, answer in calls:
        _, _, body, url = shlex.split(call)
        assert post(url.removeprefix("http://127.0.0.1:8080"), **json.loads(body)).text == answer


def test_every_command_is_shown(readme):
    for name in ON_THE_FILE:
        assert f"python roomapp.py {name}" in readme
    table = [row[0] for row in rows(readme, "`[a-z][a-z-]*[ `].*")]
    shown = [each.split()[0] for cell in table for each in names(cell)]
    assert list(dict.fromkeys(shown)) == list(BESIDE_THE_SERVICE)


def test_every_file_of_the_code_is_named(readme):
    for file in [*PROJECT.glob("*.py"), *PROJECT.glob("service/[a-z]*.py")]:
        assert f"`{file.name}`" in readme


PAGES_TO_READ = sorted(
    str(page.relative_to(PROJECT))
    for folder in ("", "docs/", "deploy/")
    for page in PROJECT.glob(f"{folder}*.md")
)


@pytest.mark.parametrize("page", PAGES_TO_READ)
def test_links_lead_to_files_and_their_headings(page):
    text = (PROJECT / page).read_text(encoding="utf-8")
    for link, heading in re.findall(r"\]\(([^)#:]*)(?:#([^):]+))?\)", text):
        target = (PROJECT / page).parent / link if link else PROJECT / page
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [each.lower().replace(" ", "-") for each in headings], heading


def test_powershell_sends_what_curl_sends(readme):
    curl = re.search(r"^curl .*/room/add$", readme, re.MULTILINE)[0]
    powershell = re.search(r"^irm (\S+) -Method Post -Body '(.*)'$", readme, re.MULTILINE)
    assert powershell[1] == shlex.split(curl)[3]
    assert json.loads(powershell[2]) == json.loads(shlex.split(curl)[2])


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_files_import_each_other_in_the_direction_that_is_said(name):
    readme = (PROJECT / name).read_text(encoding="utf-8")
    (line,) = re.findall(r"database < [^.。]*", readme)
    rank = {
        word: rank
        for rank, words in enumerate(line.split("<"))
        for word in re.findall(r"\w+", words)
    }
    files = [*PROJECT.glob("*.py"), *PROJECT.glob("service/*.py")]
    assert rank.keys() == {file.stem for file in files} - {"__init__"}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom):
                used = [node.module.split(".")[-1], *(each.name for each in node.names)]
            else:
                continue
            for each in rank.keys() & set(used):
                assert rank[each] < rank[file.stem], (file.stem, each)
