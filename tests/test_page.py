"""The page: how it is served, and how people use it in a real browser."""

import os
import re
import shlex
import shutil
import subprocess
from base64 import b64decode
from contextlib import ExitStack, contextmanager
from email.utils import formatdate
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from webtest import TestApp

import roomapp
from processes import ONE_SHOT, command, environment
from service.database import database
from service.fields import FIELDS

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
CHROMIUM_OPTIONS = [
    "--no-sandbox",  # root cannot have one
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SMALL_PHONE = {"width": 320, "height": 568}
PHONE = {"width": 390, "height": 844}
LAPTOP = {"width": 1280, "height": 800}
POLL = 5_000  # milliseconds
TIMEOUT = 15_000  # milliseconds
NEEDS = "needs Chromium, and the packages of tests/requirements.txt"
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>"


# How it is served


@pytest.fixture
def without_database():
    """A client of the application, which must not open its database."""
    assert database.deferred
    yield TestApp(roomapp.app)
    assert database.deferred


FILES = ["/", "/docs", *(f"/static/{file.name}" for file in roomapp.STATIC.glob("*.[cj]s*"))]


@pytest.mark.parametrize("url", FILES)
def test_the_page_needs_no_database_and_loads_nothing_from_elsewhere(without_database, url):
    answer = without_database.get(url)
    policy = answer.headers["Content-Security-Policy"].split("; ")
    assert policy[0] == "default-src 'none'"
    assert {each.split(" ", 1)[1] for each in policy[1:]} <= {"'self'", "'none'"}
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert not re.search(r"https?://(?!www\.w3\.org|你的域名)", answer.text)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/static/page.css", "text/css; charset=utf-8"),
        ("/static/page.js", "text/javascript; charset=utf-8"),
        ("/static/icon.svg", "image/svg+xml"),
    ],
)
def test_each_file_has_its_content_type(without_database, url, kind):
    answer = without_database.get(url)
    assert answer.headers["Content-Type"] == kind
    head = without_database.head(url)
    assert (head.body, head.headers["Content-Length"]) == (b"", str(len(answer.body)))


def test_a_browser_with_a_current_copy_gets_304(without_database):
    last_modified = without_database.get("/").headers["Last-Modified"]
    answer = without_database.get("/", headers={"If-Modified-Since": last_modified})
    assert (answer.status_int, answer.body) == (304, b"")
    earlier = {"If-Modified-Since": formatdate(0, usegmt=True)}
    assert without_database.get("/", headers=earlier).status_int == 200


def test_a_range_gets_the_whole_page(without_database):
    answer = without_database.get("/", headers={"Range": "bytes=9999999-"})
    assert answer.status_int == 200
    assert answer.text.endswith("</html>\n")


@pytest.mark.parametrize(
    "url",
    [
        "/index.html",
        "/static",
        "/static/",
        "/static/nothing.js",
        "/static/../roomapp.py",
        "/static/..%2Froomapp.py",
        "/static/%2e%2e/models.py",
        "/static/..\\models.py",
        "/static/page.js%00.css",
        "/static//etc/passwd",
        "/roomapp.py",
    ],
)
def test_nothing_else_is_served(client, assert_refused, url):
    assert_refused(client.get(url, expect_errors=True), 404, "not_found")


def test_the_page_does_not_take_post(client, assert_refused):
    answer = client.post("/", b"{}", expect_errors=True)
    assert_refused(answer, 405, "method_not_allowed")


# How it is used


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason=NEEDS)
    if not CHROMIUM:
        pytest.skip(NEEDS)
    playwright.expect.set_options(timeout=10_000)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def expect(browser):
    from playwright.sync_api import expect

    return expect


@pytest.fixture
def server(start):
    return start("--quiet")


@pytest.fixture
def visit(browser, request):
    """Open the page without an openid. Any complaint of the browser fails the test."""
    problems = []
    with ExitStack() as contexts:

        def visit(url="/", viewport=LAPTOP, server=None, **options):
            home = f"http://127.0.0.1:{(server or request.getfixturevalue('server')).port}"
            context = browser.new_context(viewport=viewport, locale="zh-CN", **options)
            contexts.callback(context.close)
            context.on("page", lambda page: watch(page, home, problems))
            page = context.new_page()
            page.clock.install()
            page.goto(f"{home}{url}")
            return page

        yield visit
    assert not problems


def watch(page, home, problems):
    page.sent = []

    def note_request(request):
        page.sent.append(request)
        if not request.url.startswith(f"{home}/"):
            problems.append(request.url)

    def note_message(message):
        # A request that failed is no fault of the page.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            problems.append(message.text)

    def note_dialog(dialog):
        problems.append(dialog.message)
        dialog.dismiss()

    page.on("request", note_request)
    page.on("console", note_message)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", note_dialog)


@pytest.fixture
def enter(visit):
    """Open the page with an openid."""

    def enter(openid, url="/", **options):
        page = visit(url, **options)
        choose_openid(page, openid)
        return page

    return enter


def choose_openid(page, openid):
    dialog = page.get_by_role("dialog", name="你是谁")
    dialog.get_by_role("textbox").fill(openid)
    dialog.get_by_role("button", name="就是我").click()
    dialog.wait_for(state="hidden")


def say(page, message):
    page.get_by_role("textbox", name="留言").fill(message)
    page.get_by_role("button", name="发送").click()


def rooms(page):
    return page.locator("#discover-rooms .rooms li")


def bubbles(page):
    return page.locator(".bubble")


def go_to(page, view):
    """Change the hash of the url, as Back and Forward do."""
    page.evaluate("view => location.hash = `#/${view}`", view)


def pass_time(page):
    """Move the page's clock to its next poll."""
    page.clock.fast_forward(POLL)


def poll(page):
    with page.expect_response("**/time"):
        pass_time(page)


def assert_polls_only_time(page):
    for _ in range(2):
        poll(page)
    before = len(page.sent)
    poll(page)
    assert len(page.sent) == before + 1


def lose_answers(page, url, times):
    """Let the page's next requests to a url reach the server, and their answers get lost."""

    def lose_answer(route):
        urlopen(Request(route.request.url, route.request.post_data_buffer)).close()
        route.abort()

    page.route(url, lose_answer, times=times)


@contextmanager
def hold(page, url):
    """Hold back the page's requests to a url."""
    waiting, is_over = [], False

    def hold_route(route):
        route.fallback() if is_over else waiting.append(route)

    page.route(url, hold_route)
    yield
    is_over = True
    for route in waiting:
        route.fallback()


def add_room(server, name, owner, **fields):
    room = {"name": name, "section": "学习", "description": "", "room_owner_id": owner}
    return server.post("/room/add", **room, **fields)["room_id"]


def send(server, room_id, *messages):
    for message in messages:
        server.post("/room/send_message", room_id=room_id, openid="ming", message=message)


def test_the_page_shows_the_room_that_the_readme_opens(enter, expect, server):
    readme = (roomapp.STATIC.parent / "README.md").read_text(encoding="utf-8")
    call = re.search(r"^curl .*/room/add$", readme, re.MULTILINE)[0]
    server.request("POST", "/room/add", shlex.split(call)[2])
    expect(rooms(enter("hong"))).to_contain_text("Maths tonight")


def test_two_people_use_a_room_from_opening_to_closing(enter, expect):
    ming, hong = enter("ming"), enter("hong", viewport=PHONE)

    ming.get_by_role("link", name="创建房间").click()
    ming.get_by_role("textbox", name="房间名").fill("今晚一起自习")
    ming.get_by_role("combobox", name="分区", exact=True).fill("图书馆")
    ming.get_by_role("textbox", name="描述").fill("三楼东区")
    ming.get_by_role("button", name="创建", exact=True).click()
    expect(ming.get_by_role("heading", name="今晚一起自习")).to_be_visible()
    expect(ming.locator("#room-facts")).to_contain_text("未激活")

    hong.get_by_label("其他分区").fill("图书馆")
    hong.get_by_role("button", name="去看看").click()
    expect(rooms(hong)).to_have_count(1)
    hong.get_by_role("searchbox").fill("自习 三楼")
    expect(hong.get_by_role("heading", name="自习 三楼 的搜索结果")).to_be_visible()
    expect(rooms(hong)).to_have_count(1)
    rooms(hong).click()
    hong.get_by_role("button", name="加入房间").click()
    say(hong, "我也来")

    expect(hong.locator("#messages")).to_contain_text("我也来")
    pass_time(ming)
    expect(ming.locator("#messages")).to_contain_text("我也来")
    expect(ming.locator("#room-facts")).to_contain_text("已激活")
    say(ming, "老位置\n靠窗")
    expect(ming.locator("#messages")).to_contain_text("靠窗")
    pass_time(hong)
    expect(hong.locator("#messages")).to_contain_text("靠窗")
    expect(hong.locator("#messages li")).to_have_count(2)

    ming.get_by_text("介绍和成员（2 人）").click()
    ming.get_by_role("button", name="移出 hong").click()
    ming.get_by_role("alertdialog").get_by_role("button", name="移出").click()
    expect(ming.get_by_text("介绍和成员（1 人）")).to_be_visible()
    pass_time(hong)
    expect(hong.get_by_role("button", name="加入房间")).to_be_visible()

    hong.get_by_role("button", name="加入房间").click()
    hong.get_by_text("介绍和成员（2 人）").click()
    hong.get_by_role("button", name="离开房间").click()
    hong.get_by_role("alertdialog").get_by_role("button", name="离开").click()
    expect(hong.get_by_role("button", name="加入房间")).to_be_visible()
    hong.get_by_role("button", name="加入房间").click()
    expect(hong.get_by_role("textbox", name="留言")).to_be_visible()

    ming.get_by_role("navigation").get_by_role("link", name="我的").click()
    expect(ming.locator("#owned-rooms .rooms")).to_contain_text("今晚一起自习")
    ming.get_by_role("button", name="关闭房间").click()
    ming.get_by_role("alertdialog").get_by_role("button", name="关闭房间").click()
    expect(ming.locator("#owned-rooms")).to_contain_text("你还没有发起过房间")
    pass_time(hong)
    expect(hong.get_by_role("alert").get_by_text("房间不存在或已被删除")).to_be_visible()
    expect(ming.locator("#user-exchanges summary").first).to_contain_text("/room/delete")


@pytest.mark.slow
def test_two_tabs_can_be_two_people_with_their_own_profiles(enter, expect, server):
    ming = enter("ming", "/#/me")
    ming.get_by_label("女").check()
    ming.get_by_label("偏好").fill("篮球\n\n桌游")
    ming.get_by_role("button", name="保存").click()
    expect(ming.locator("#card")).to_have_text("女 · 篮球 · 桌游")
    assert server.post("/usr/info", openid="ming")["preference"] == ["篮球", "桌游"]

    hong = ming.context.new_page()
    hong.goto(f"{ming.url.split('#')[0]}#/mine")
    choose_openid(hong, "hong")
    expect(hong.locator("#card")).to_have_text("还没有完善个人信息")
    ming.reload()
    expect(ming.locator("#mine .my-name")).to_contain_text("ming")
    hong.get_by_role("button", name="换一个人").click()
    hong.get_by_role("dialog").get_by_role("button", name="ming", exact=True).click()
    expect(hong.locator("#card")).to_have_text("女 · 篮球 · 桌游")
    hong.get_by_role("button", name="换一个人").click()
    hong.get_by_role("textbox", name="openid").fill("lili")
    hong.keyboard.press("Enter")
    expect(hong.locator("#mine .my-name")).to_contain_text("lili")


@pytest.mark.slow
def test_people_are_shown_by_their_nicknames(enter, expect, server):
    stranger = "oGZUI0egBJY1zhBYw2KhdUfwVJJE"
    room_id = add_room(server, "棋", "ming")
    for openid in "lili", stranger:
        server.post("/usr/join", room_id=room_id, openid=openid)
    server.post("/usr/complete", openid="lili", nickname="丽丽", sex=2, preference=[])
    server.post("/room/send_message", room_id=room_id, openid=stranger, message="走")
    page = enter("ming", f"/#/room/{room_id}")
    say(page, "该你了")
    expect(page.locator(".sender .name")).to_have_text(["…dUfwVJJE", "ming"])
    expect(rooms(page)).to_contain_text("ming")

    go_to(page, "me")
    page.get_by_label("昵称").fill("小明")
    page.get_by_role("button", name="保存").click()
    expect(page.locator("#card")).to_have_text("性别不说")
    expect(page.locator("#mine .my-name")).to_contain_text("小明")
    expect(page.locator("#owned-rooms .rooms")).to_contain_text("小明")
    go_to(page, f"room/{room_id}")
    expect(page.locator(".sender .name")).to_have_text(["…dUfwVJJE", "小明"])
    page.locator("#about > summary").click()
    expect(page.locator("#members .name")).to_have_text(["小明", "丽丽", "…dUfwVJJE"])
    page.get_by_role("button", name="移出 …dUfwVJJE").click()
    expect(page.get_by_role("alertdialog")).to_contain_text("把 …dUfwVJJE 移出")
    page.get_by_role("button", name="取消").click()

    go_to(page, "me")
    page.get_by_label("昵称").fill("")
    with page.expect_request("**/usr/complete") as request:  # which takes the nickname away
        page.get_by_role("button", name="保存").click()
    assert request.value.post_data_json["nickname"] == ""


@pytest.mark.slow
def test_a_profile_that_is_not_loaded_cannot_be_overwritten(visit, expect, server):
    server.post("/usr/complete", openid="lili", nickname="丽丽", sex=2, preference=["篮球"])
    page = visit("/#/me")
    page.get_by_role("button", name="先看看").click()
    expect(page.get_by_role("button", name="保存")).to_be_hidden()
    page.route("**/usr/info", lambda route: route.abort(), times=1)
    page.locator("#me").get_by_role("button", name="我是谁").click()
    choose_openid(page, "lili")
    expect(page.locator("#me").get_by_text("连不上服务器")).to_be_visible()
    expect(page.get_by_role("button", name="保存")).to_be_hidden()
    page.get_by_role("button", name="再试一次").click()
    page.get_by_label("偏好").fill("篮球\n桌游")
    page.get_by_role("button", name="保存").click()
    expect(page.get_by_text("已保存")).to_be_visible()
    profile = server.post("/usr/info", openid="lili")
    assert (profile["sex"], profile["preference"]) == (2, ["篮球", "桌游"])
    assert profile["nickname"] == "丽丽"


@pytest.mark.slow
def test_a_room_says_how_many_are_wanted_and_its_owner_edits_it(enter, expect, server):
    ming = enter("ming", "/#/new", viewport=SMALL_PHONE)
    ming.get_by_role("textbox", name="房间名").fill("开黑")
    ming.get_by_role("combobox", name="分区", exact=True).fill("游戏")
    ming.get_by_role("textbox", name="人数上限").fill("3")
    ming.get_by_role("button", name="创建", exact=True).click()
    ming.get_by_text("介绍和成员（1/3 人）").click()
    room_id = int(ming.url.rpartition("/")[2])
    hong = enter("hong", f"/#/room/{room_id}")
    hong.get_by_role("button", name="加入房间").click()
    hong.get_by_text("介绍和成员（2/3 人）").click()
    expect(hong.get_by_role("button", name="修改房间")).to_be_hidden()
    server.post("/usr/join", room_id=room_id, openid="lili")
    pass_time(ming)
    expect(ming.get_by_text("介绍和成员（3/3 人）")).to_be_visible()

    ming.get_by_role("button", name="修改房间").click()
    form = ming.get_by_role("dialog", name="修改房间")
    expect(form.get_by_label("房间名")).to_have_value("开黑")
    assert ming.evaluate("document.documentElement.scrollWidth") == SMALL_PHONE["width"]
    form.get_by_label("房间名").fill("开黑，来人")
    form.get_by_label("描述").fill("今晚九点")
    form.get_by_label("人数上限").fill("2")
    form.get_by_role("button", name="保存").click()
    expect(form.get_by_role("alert")).to_have_text(roomapp.ERRORS["capacity_too_small"][1])
    form.get_by_label("人数上限").fill("5")
    form.get_by_role("button", name="保存").click()
    expect(ming.get_by_role("heading", name="开黑，来人")).to_be_visible()
    expect(ming.locator("#room-description")).to_have_text("今晚九点")
    expect(ming.get_by_text("介绍和成员（3/5 人）")).to_be_visible()
    hong.get_by_role("button", name="游戏").click()
    expect(rooms(hong)).to_contain_text("3/5 人")


@pytest.mark.slow
def test_rooms_with_unread_messages_are_marked(enter, expect, server):
    first, second = (add_room(server, name, "ming") for name in ("一", "二"))
    for room_id in first, second:
        server.post("/usr/join", room_id=room_id, openid="hong")
    send(server, first, "在吗")
    page = enter("hong", "/#/mine", viewport=PHONE)
    marks = page.locator(".rooms").get_by_role("img", name="有新留言")
    one, two = (page.locator("#joined-rooms .rooms li").filter(has_text=f"#{id}") for id in (1, 2))
    expect(one.get_by_role("img")).to_be_visible()
    expect(marks).to_have_count(1)
    with hold(page, "**/room/get_message"):
        one.click()
        go_to(page, "mine")
    expect(page.locator("#room-name")).to_have_text("一")
    expect(one.get_by_role("img")).to_be_visible()
    one.click()
    expect(bubbles(page)).to_be_visible()
    go_to(page, "mine")
    expect(two).to_be_visible()
    expect(marks).to_have_count(0)

    send(server, second, "有人吗")
    pass_time(page)
    expect(two.get_by_role("img")).to_be_visible()
    page.reload()
    expect(two.get_by_role("img")).to_be_visible()
    expect(marks).to_have_count(1)


@pytest.mark.slow
@pytest.mark.parametrize("viewport", [PHONE, LAPTOP], ids=["phone", "laptop"])
def test_what_is_unread_is_marked_everywhere_and_in_the_conversation(
    enter, expect, server, viewport
):
    room_id, other = (add_room(server, name, "ming") for name in ("一", "二"))
    for each in room_id, other:
        server.post("/usr/join", room_id=each, openid="hong")
    send(server, room_id, "早")
    page = enter("hong", f"/#/room/{room_id}", viewport=viewport)
    expect(bubbles(page)).to_have_text("早")
    expect(page.get_by_text("以下是新留言")).to_be_visible()
    go_to(page, "discover")
    expect(page.get_by_role("link", name="我的")).to_be_visible()
    marks = page.get_by_role("img", name="有新留言")
    expect(marks).to_have_count(0)
    go_to(page, f"room/{other}")
    expect(page.locator("#room-facts")).to_contain_text("房间号 2")
    go_to(page, "discover")
    page.get_by_role("button", name="学习").click()

    send(server, room_id, "在吗", "出来吃饭")
    pass_time(page)
    expect(rooms(page).filter(has_text="#1").get_by_role("img")).to_be_visible()
    expect(rooms(page).filter(has_text="#2").get_by_role("img")).to_have_count(0)
    expect(page.get_by_role("link", name="我的 有新留言")).to_be_visible()
    rooms(page).filter(has_text="#1").click()
    expect(bubbles(page)).to_have_count(3)
    lines = page.locator("#messages li").filter(has_text="以下是新留言")
    expect(lines).to_have_count(1)
    expect(lines).to_contain_text("在吗")
    say(page, "来了")
    expect(bubbles(page)).to_have_count(4)
    expect(lines).to_have_count(1)
    go_to(page, "discover")
    expect(marks).to_have_count(0)


@pytest.mark.slow
def test_own_and_deleted_messages_are_never_unread(enter, expect, server):
    rooms_of_hong = {}
    for name in "自己说的", "删掉的", "没看过的":
        room_id = rooms_of_hong[name] = add_room(server, name, "ming")
        server.post("/usr/join", room_id=room_id, openid="hong")
        send(server, room_id, "在吗")
    own, deleted, unread = rooms_of_hong.values()
    server.post("/room/send_message", room_id=own, openid="hong", message="在")
    (message,) = server.post("/room/get_message", room_id=deleted)["messages"]
    fields = {"room_id": deleted, "openid": "ming", "message_id": message["message_id"]}
    server.post("/room/delete_message", **fields)
    page = enter("hong", "/#/mine", viewport=PHONE)
    marked = page.locator("#joined-rooms li").filter(has=page.get_by_role("img"))
    expect(marked).to_contain_text("没看过的")
    expect(marked).to_have_count(1)
    go_to(page, f"room/{deleted}")
    expect(page.locator("#messages")).to_contain_text("已删除")
    expect(page.get_by_text("以下是新留言")).to_have_count(0)

    go_to(page, "mine")
    (message,) = server.post("/room/get_message", room_id=unread)["messages"]
    fields = {"room_id": unread, "openid": "ming", "message_id": message["message_id"]}
    server.post("/room/delete_message", **fields)
    page.clock.fast_forward(30_000)
    expect(page.get_by_role("img", name="有新留言")).to_have_count(0)


@pytest.mark.slow
def test_the_room_that_is_open_beside_the_list_has_nothing_unread(enter, expect, server):
    room_id = add_room(server, "一", "ming")
    page = enter("ming", f"/#/room/{room_id}")
    go_to(page, "mine")
    expect(page.locator("#owned-rooms .rooms li")).to_be_visible()
    send(server, room_id, "在吗")
    pass_time(page)
    expect(bubbles(page)).to_have_text("在吗")
    expect(page.get_by_role("img", name="有新留言")).to_have_count(0)


@pytest.mark.slow
def test_a_message_is_deleted_by_its_sender_or_the_owner(enter, expect, server):
    room_id = server.open_room()
    server.post("/usr/join", room_id=room_id, openid="hong")
    send(server, room_id, "一")
    hong = enter("hong", f"/#/room/{room_id}")
    for message in "二", "三":
        say(hong, message)
    ming = enter("ming", f"/#/room/{room_id}", viewport=PHONE)
    expect(bubbles(ming)).to_have_text(["一", "二", "三"])
    expect(hong.get_by_role("button", name="删除 ming 的留言")).to_have_count(0)

    own = hong.get_by_role("button", name="删除 hong 的留言").last
    for answer in "取消", "删除":
        expect(bubbles(hong)).to_have_count(3)
        own.click()
        hong.get_by_role("alertdialog").get_by_role("button", name=answer).click()
    expect(bubbles(hong)).to_have_text(["一", "二"])
    expect(hong.get_by_role("log")).to_be_focused()
    pass_time(ming)
    expect(bubbles(ming)).to_have_text(["一", "二"])
    expect(ming.locator("#messages li").last).to_contain_text("已删除")
    ming.get_by_role("button", name="删除 hong 的留言").click()
    ming.get_by_role("alertdialog").get_by_role("button", name="删除").click()
    expect(bubbles(ming)).to_have_text(["一"])
    messages = server.post("/room/get_message", room_id=room_id)["messages"]
    assert [each["message"] for each in messages] == ["一", "", ""]


@pytest.mark.slow
def test_a_room_and_a_message_are_reported_with_a_reason(enter, expect, server, tmp_path):
    room_id = server.open_room()
    server.post("/usr/join", room_id=room_id, openid="hong")
    send(server, room_id, "加我发财", "删了吧")
    _, deleted = server.post("/room/get_message", room_id=room_id)["messages"]
    fields = {"room_id": room_id, "openid": "ming", "message_id": deleted["message_id"]}
    server.post("/room/delete_message", **fields)
    page = enter("hong", f"/#/room/{room_id}", viewport=SMALL_PHONE, has_touch=True)
    say(page, "不要")
    expect(bubbles(page)).to_have_count(2)
    expect(page.get_by_role("button", name=re.compile("^举报"))).to_have_count(1)
    page.get_by_role("button", name="举报 ming 的留言").click()
    form = page.get_by_role("dialog", name="举报 ming 的留言")
    expect(form).to_contain_text("不核实身份，举报也一样进入运营者的名单")
    assert page.evaluate("document.documentElement.scrollWidth") == SMALL_PHONE["width"]
    for reason, problem in ("", "不能是空白"), ("骗" * 201, "最多 200 个字"):
        form.get_by_label("理由").fill(reason)
        form.get_by_role("button", name="举报").click()
        expect(form.get_by_role("alert")).to_contain_text(problem)
        expect(form.get_by_label("理由")).to_be_focused()
    form.get_by_label("理由").fill("骗" * 200)
    form.get_by_role("button", name="举报").click()
    expect(page.get_by_text("举报已收到")).to_be_visible()
    expect(form).to_be_hidden()

    page.locator("#about > summary").click()
    page.get_by_role("button", name="举报房间").click()
    form = page.get_by_role("dialog", name="举报房间“一”")
    expect(form.get_by_label("理由")).to_have_value("")
    form.get_by_label("理由").fill("卖东西")
    with page.expect_response("**/room/report") as answer:
        form.get_by_role("button", name="举报").click()
    sent = {"room_id": str(room_id), "openid": "hong", "reason": "卖东西"}
    assert answer.value.request.post_data_json == sent
    expect(form).to_be_hidden()
    reports = command("reports", "--database", tmp_path / "roomapp.db")
    done = subprocess.run(reports, env=environment(), **ONE_SHOT)
    assert all(text in done.stdout for text in ("加我发财", "骗骗骗", "卖东西"))


@pytest.mark.slow
def test_nobody_reports_what_is_their_own(visit, expect, server):
    room_id = server.open_room()
    send(server, room_id, "在吗")
    page = visit(f"/#/room/{room_id}")
    page.get_by_role("button", name="先看看").click()
    page.get_by_role("button", name="举报 ming 的留言").click()
    choose_openid(page, "ming")
    expect(page.get_by_role("textbox", name="留言")).to_be_visible()
    page.locator("#about > summary").click()
    expect(page.get_by_role("button", name="修改房间")).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("举报"))).to_have_count(0)
    expect(page.get_by_role("dialog")).to_be_hidden()


@pytest.mark.slow
@pytest.mark.parametrize("viewport", [PHONE, LAPTOP], ids=["phone", "laptop"])
def test_who_leaves_for_good_is_asked_first_and_forgotten_afterwards(
    enter, expect, server, viewport
):
    room_id = server.open_room()
    server.post("/usr/complete", openid="ming", nickname="小明", sex=1, preference=[])
    server.post("/usr/join", room_id=room_id, openid="hong")
    page = enter("ming", f"/#/room/{room_id}", viewport=viewport)
    say(page, "再见")
    expect(bubbles(page)).to_have_text("再见")
    go_to(page, "me")
    for answer in "取消", "注销":
        page.locator("#me").get_by_role("button", name="注销").click()
        question = page.get_by_role("alertdialog")
        expect(question).to_contain_text("注销 小明？你的个人信息和说过的话会删除")
        expect(question).to_contain_text("你发起的房间交给最早加入的人")
        assert server.post("/usr/info", openid="ming")["nickname"] == "小明"
        question.get_by_role("button", name=answer).click()
    expect(page.get_by_text("已注销", exact=True)).to_be_visible()
    expect(page.get_by_role("heading", name="我的")).to_be_focused()
    expect(page.get_by_text("先说你是谁，才有你的房间")).to_be_visible()
    expect(page.get_by_role("button", name="注销")).to_be_hidden()
    assert server.post("/usr/info", openid="ming")["error"] == "user_not_found"
    assert server.post("/search", key=room_id)["rooms"][0]["room_owner_id"] == "hong"
    stored = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert "ming" not in stored
    page.get_by_role("button", name="我是谁").click()
    expect(page.get_by_role("dialog").get_by_role("button", name="ming")).to_have_count(0)


@pytest.mark.slow
def test_messages_of_somebody_who_left_for_good_have_no_name(enter, expect, server):
    room_id = add_room(server, "棋", "hong")
    server.post("/usr/complete", openid="ming", nickname="小明", sex=1, preference=[])
    server.post("/usr/join", room_id=room_id, openid="ming")
    send(server, room_id, "一", "二")
    deleted, _ = server.post("/room/get_message", room_id=room_id)["messages"]
    fields = {"room_id": room_id, "openid": "ming", "message_id": deleted["message_id"]}
    server.post("/room/delete_message", **fields)
    page = enter("hong", f"/#/room/{room_id}")
    expect(page.locator(".sender .name")).to_have_text(["小明", "小明"])
    server.post("/usr/delete", openid="ming")
    pass_time(page)
    expect(page.locator(".sender .name")).to_have_text(["已注销", "已注销"])
    expect(page.locator("#messages .deleted")).to_have_text(["已删除", "已删除"])
    expect(page.locator("#messages .avatar")).to_have_text(["?", "?"])
    expect(page.locator("#messages button")).to_have_count(0)
    expect(page.get_by_text("小明")).to_have_count(0)


def refusal(error, **fields):
    status, detail = roomapp.ERRORS[error]
    content = {"response_code": 0, "error": error, "detail": detail, **fields}
    return {"status": status, "json": content}


@pytest.mark.slow
@pytest.mark.parametrize("error", ["kicked", "banned"])
def test_who_may_not_join_is_told_why(enter, expect, server, error):
    page = enter("hong", f"/#/room/{server.open_room()}")
    page.route("**/usr/join", lambda route: route.fulfill(**refusal(error)))
    page.get_by_role("button", name="加入房间").click()
    expect(page.locator("#error-toast")).to_have_text(roomapp.ERRORS[error][1])
    expect(page.get_by_role("button", name="加入房间")).to_be_visible()


@pytest.mark.slow
def test_a_message_against_the_rules_stays_in_the_form(enter, expect, server):
    page = enter("ming", f"/#/room/{server.open_room()}")
    answer = refusal("risky_content", field="message")
    page.route("**/room/send_message", lambda route: route.fulfill(**answer))
    say(page, "违规的话")
    detail = roomapp.ERRORS["risky_content"][1]
    expect(page.locator("#room-form").get_by_role("alert")).to_have_text(detail)
    message = page.get_by_role("textbox", name="留言")
    expect(message).to_have_value("违规的话")
    expect(message).to_have_attribute("aria-invalid", "true")


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_a_message_whose_answer_is_lost_is_not_sent_twice(enter, expect, server, times):
    room_id = server.open_room()
    page = enter("ming", f"/#/room/{room_id}")
    lose_answers(page, "**/room/send_message", times)
    say(page, "在吗")
    if times == 2:  # once more is not enough, and the user presses the button again
        expect(page.locator("#messages").get_by_role("alert")).to_contain_text("连不上服务器")
        page.get_by_role("button", name="再发一次").click()
    expect(page.locator(".delivery")).to_have_count(0)
    expect(page.get_by_role("textbox", name="留言")).to_have_value("")
    assert len(server.post("/room/get_message", room_id=room_id)["messages"]) == 1
    say(page, "在吗")
    expect(bubbles(page)).to_have_text(["在吗", "在吗"])


@pytest.mark.slow
def test_a_message_is_shown_at_once_and_can_be_sent_again_when_it_failed(enter, expect, server):
    room_id = server.open_room()
    page = enter("ming", f"/#/room/{room_id}", viewport=PHONE)
    with hold(page, "**/room/send_message"):
        say(page, "一")
        expect(bubbles(page)).to_have_text("一")
        expect(page.get_by_text("正在发送…")).to_be_visible()
        expect(page.get_by_role("textbox", name="留言")).to_have_value("")
        say(page, "二")
        expect(page.get_by_text("正在发送…")).to_have_count(2)
    expect(page.locator(".delivery")).to_have_count(0)
    expect(bubbles(page)).to_have_text(["一", "二"])

    page.route("**/room/send_message", lambda route: route.fulfill(**refusal("too_many_requests")))
    for message in "三", "四":
        say(page, message)
    failed = page.locator("#messages").get_by_role("alert")
    expect(failed).to_have_text([re.compile("^发送失败：操作太频繁")] * 2)
    expect(failed.last).to_be_in_viewport()
    go_to(page, "mine")
    expect(page.locator("#owned-rooms .rooms li")).to_be_visible()
    go_to(page, f"room/{room_id}")
    expect(failed).to_have_count(2)
    page.unroute("**/room/send_message")
    page.get_by_role("button", name="再发一次").first.click()
    expect(failed).to_have_count(1)
    page.get_by_role("button", name="取回").click()
    expect(page.get_by_role("textbox", name="留言")).to_have_value("四")
    expect(page.get_by_role("textbox", name="留言")).to_be_focused()
    expect(bubbles(page)).to_have_text(["一", "二", "三"])
    messages = server.post("/room/get_message", room_id=room_id)["messages"]
    assert [each["message"] for each in messages] == ["一", "二", "三"]


@pytest.mark.slow
def test_a_refused_message_comes_back_before_what_was_typed_since(enter, expect, server):
    page = enter("ming", f"/#/room/{server.open_room()}")
    answer = refusal("risky_content", field="message")
    page.route("**/room/send_message", lambda route: route.fulfill(**answer))
    with hold(page, "**/room/send_message"):
        say(page, "违规的话")
        page.get_by_role("textbox", name="留言").fill("还有")
    expect(bubbles(page)).to_have_count(0)
    expect(page.get_by_role("textbox", name="留言")).to_have_value("违规的话\n还有")


@pytest.mark.slow
def test_a_room_whose_answer_is_lost_is_not_opened_twice(enter, expect, server):
    page = enter("ming", "/#/new")
    page.get_by_role("textbox", name="房间名").fill("棋")
    page.get_by_role("combobox", name="分区", exact=True).fill("棋类")
    lose_answers(page, "**/room/add", 1)
    page.get_by_role("button", name="创建", exact=True).click()
    expect(page.get_by_role("heading", name="棋")).to_be_visible()
    assert len(server.post("/usr/roomlist1", openid="ming")["rooms"]) == 1


@pytest.mark.slow
def test_a_message_that_is_refused_is_not_sent_again(enter, expect, server):
    page = enter("ming", f"/#/room/{server.open_room()}")
    say(page, "长" * 2001)
    expect(page.get_by_role("textbox", name="留言")).to_have_attribute("aria-invalid", "true")
    assert sum(request.url.endswith("/room/send_message") for request in page.sent) == 1


@pytest.mark.slow
def test_the_page_works_where_the_browser_blocks_storage(visit, expect, server):
    page = visit()
    page.context.add_init_script(
        """for (const storage of ["localStorage", "sessionStorage"])
            Object.defineProperty(window, storage, { get() { throw new DOMException("no"); } });"""
    )
    page.goto(f"{page.url}?#/new")
    choose_openid(page, "ming")
    page.get_by_role("textbox", name="房间名").fill("棋")
    page.get_by_role("combobox", name="分区", exact=True).fill("棋类")
    page.get_by_role("button", name="创建", exact=True).click()
    say(page, "走")
    expect(bubbles(page)).to_have_text("走")


@pytest.mark.slow
def test_the_page_works_in_the_oldest_browsers(visit, expect, server):
    page = visit()
    page.context.add_init_script(
        """delete AbortSignal.timeout;
        delete Array.prototype.at;
        delete Array.prototype.findLast;
        delete HTMLDialogElement.prototype.close;
        delete HTMLDialogElement.prototype.open;
        delete HTMLDialogElement.prototype.showModal;
        delete HTMLFormElement.prototype.requestSubmit;
        delete Crypto.prototype.randomUUID;
        delete Object.hasOwn;
        delete window.structuredClone;"""
    )
    page.reload()
    choose_openid(page, "ming")
    page.get_by_role("link", name="创建房间").click()
    page.get_by_role("textbox", name="房间名").fill("棋")
    page.get_by_role("combobox", name="分区", exact=True).fill("棋类")
    page.get_by_role("button", name="创建", exact=True).click()
    say(page, "走")
    expect(bubbles(page)).to_have_text("走")
    page.get_by_role("textbox", name="留言").fill("再走")
    page.get_by_role("textbox", name="留言").press("Enter")
    expect(bubbles(page)).to_have_text(["走", "再走"])
    page.get_by_role("searchbox").fill("棋")
    expect(page.get_by_role("heading", name="棋 的搜索结果")).to_be_visible()
    expect(rooms(page)).to_have_count(1)

    page.get_by_role("navigation").get_by_role("link", name="我的").click()
    page.get_by_role("button", name="换一个人").click()
    page.get_by_role("dialog").get_by_role("button", name="ming", exact=True).click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.locator("#about > summary").click()
    page.get_by_role("button", name="修改房间").click()
    page.get_by_role("dialog").get_by_label("房间名").fill("象棋")
    page.get_by_role("dialog").get_by_role("button", name="保存").click()
    expect(page.get_by_role("heading", name="象棋")).to_be_visible()
    expect(page.get_by_role("dialog")).to_be_hidden()
    for answer in ("取消", "关闭房间"):
        page.locator("#about").get_by_role("button", name="关闭房间").click()
        page.get_by_role("alertdialog").get_by_role("button", name=answer).click()
        expect(page.get_by_role("alertdialog")).to_be_hidden()
    expect(page.locator("#owned-rooms")).to_contain_text("你还没有发起过房间")

    go_to(page, f"room/{add_room(server, '诗', 'hong')}")
    page.get_by_role("button", name="举报房间").click()
    page.get_by_role("dialog").get_by_label("理由").fill("无聊")
    page.get_by_role("dialog").get_by_role("button", name="举报").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    go_to(page, "me")
    page.locator("#me").get_by_role("button", name="注销").click()
    page.get_by_role("alertdialog").get_by_role("button", name="注销").click()
    expect(page.get_by_text("先说你是谁，才有你的房间")).to_be_visible()


@pytest.mark.slow
def test_markup_is_shown_as_text(enter, expect, server):
    openid = MARKUP.replace(" ", "/")
    room = {"name": MARKUP[:60], "section": MARKUP[:30], "description": MARKUP}
    room_id = server.post("/room/add", **room, room_owner_id=openid)["room_id"]
    server.post("/room/send_message", room_id=room_id, openid=openid, message=MARKUP * 3)
    profile = {"nickname": MARKUP[:20], "sex": MARKUP[:16], "preference": [MARKUP[:30]]}
    server.post("/usr/complete", openid=openid, **profile)
    page = enter(openid, "/#/mine")
    expect(page.locator("#card")).to_have_text(" · ".join(MARKUP[:end] for end in (16, 30)))
    expect(page.locator("#mine .my-name")).to_contain_text(MARKUP[:20])
    page.locator("#owned-rooms .rooms li").click()
    expect(page.locator("#room-name")).to_have_text(MARKUP[:60])
    expect(page.locator("#room-description")).to_have_text(MARKUP)
    expect(bubbles(page)).to_have_text(MARKUP * 3)
    expect(page.locator(".sender .name")).to_have_text(MARKUP[:20])
    page.get_by_role("link", name="发现").click()
    page.get_by_role("searchbox").fill(MARKUP)
    expect(page.locator("#discover-rooms-title")).to_contain_text(MARKUP)
    expect(page.locator("#user-exchanges pre")).to_have_count(0)
    page.locator("#user-exchanges").get_by_text("/search").first.click()
    expect(page.locator("#user-exchanges pre").last).to_contain_text("script")
    assert page.locator("img, script:not([src])").count() == 0


@pytest.mark.slow
def test_a_long_message_is_shown_whole_and_one_too_long_stays_in_the_form(enter, expect, server):
    room_id = server.open_room()
    page = enter("ming", f"/#/room/{room_id}", viewport=PHONE)
    longest = ("长" * 99 + "\n") * 19 + "长" * 100
    fields = {"room_id": room_id, "openid": "ming", "message": longest + "长"}
    detail = server.post("/room/send_message", **fields)["detail"]
    say(page, longest + "长")
    expect(page.get_by_role("alert").get_by_text(detail)).to_be_visible()
    expect(page.get_by_role("textbox", name="留言")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("textbox", name="留言")).to_have_value(longest + "长")
    say(page, longest)
    expect(bubbles(page)).to_be_visible()
    assert bubbles(page).inner_text() == longest
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    expect(page.get_by_role("textbox", name="留言")).to_have_value("")


@pytest.mark.slow
def test_a_confirmation_closes_when_another_room_opens(enter, expect, server):
    first, second = server.open_room(), server.open_room()
    page = enter("ming", f"/#/room/{first}")
    page.locator("#about > summary").click()
    page.get_by_role("button", name="关闭房间").click()
    expect(page.get_by_role("alertdialog")).to_contain_text("关闭“一”？")
    go_to(page, f"room/{second}")
    expect(page.get_by_role("alertdialog")).to_be_hidden()
    expect(page.locator("#room-facts")).to_contain_text(f"房间号 {second}")
    assert len(server.post("/room/section", section="二")["rooms"]) == 2


@pytest.mark.slow
def test_a_late_answer_is_dropped_when_the_room_was_opened_again(enter, expect, server):
    room_id = server.open_room()
    messages = [f"第{number}句" for number in range(70)]
    send(server, room_id, *messages)
    page = enter("ming", f"/#/room/{room_id}", viewport=PHONE)
    expect(bubbles(page).last).to_have_text("第69句")
    poll(page)
    send(server, room_id, "在吗")
    with hold(page, "**/room/get_message"):
        with page.expect_request("**/room/get_message"):
            pass_time(page)
        for view in ("requests", f"room/{room_id}"):
            go_to(page, view)
    expect(bubbles(page).last).to_have_text("在吗")
    expect(bubbles(page)).to_have_count(30)

    page.get_by_role("button", name="更早的留言").dblclick()
    expect(bubbles(page)).to_have_count(60)
    assert sum("before" in (request.post_data or "") for request in page.sent) == 1


@pytest.mark.slow
def test_typing_on_while_a_message_is_sent_keeps_the_text(enter, expect, server):
    page = enter("ming", f"/#/room/{server.open_room()}")
    message = page.get_by_role("textbox", name="留言")
    message.fill("一")
    message.dispatch_event("keydown", {"key": "Enter", "keyCode": 229})  # as Safari ends pinyin
    expect(message).to_have_value("一")
    with hold(page, "**/room/send_message"):
        with page.expect_request("**/room/send_message"):
            message.press("Enter")
        message.fill("二")
    expect(bubbles(page)).to_have_text("一")
    expect(message).to_have_value("二")


@pytest.mark.slow
def test_a_screen_reader_reads_only_new_messages_and_focus_is_not_lost(enter, expect, server):
    room_id = server.open_room()
    server.post("/usr/join", room_id=room_id, openid="hong")
    send(server, room_id, "一")
    page = enter("hong", f"/#/room/{room_id}")
    expect(bubbles(page)).to_have_text("一")
    expect(page.get_by_role("log")).to_have_attribute("aria-live", "off")
    say(page, "二")
    expect(bubbles(page)).to_have_text(["一", "二"])
    expect(page.get_by_role("log")).to_have_attribute("aria-live", "polite")

    page.get_by_role("textbox", name="留言").press_sequentially("我")
    server.post("/room/kick", room_id=room_id, openid="hong")
    pass_time(page)
    expect(page.get_by_role("status").get_by_text("你已不在这个房间")).to_be_visible()
    expect(page.locator("#room-name")).to_be_focused()
    page.get_by_role("button", name="加入房间").focus()
    server.post("/room/delete", room_id=room_id, openid="ming")
    pass_time(page)
    expect(page.get_by_role("alert").get_by_text("房间不存在或已被删除")).to_be_visible()
    expect(page.locator("#room-name")).to_be_focused()


@pytest.mark.slow
def test_who_is_taken_out_while_reading_is_told_so(enter, expect, server):
    room_id = server.open_room()
    server.post("/usr/join", room_id=room_id, openid="hong")
    page = enter("hong", f"/#/room/{room_id}", viewport=PHONE)
    expect(page.get_by_role("textbox", name="留言")).to_be_visible()
    note = page.get_by_role("status").get_by_text("你已不在这个房间")
    server.post("/room/kick", room_id=room_id, openid="hong")
    pass_time(page)
    expect(note).to_be_visible()
    expect(page.get_by_role("textbox", name="留言")).to_be_hidden()
    page.get_by_role("button", name="加入房间").click()
    expect(page.get_by_role("textbox", name="留言")).to_be_focused()
    expect(note).to_be_hidden()

    page.locator("#about > summary").click()
    page.get_by_role("button", name="离开房间").click()
    page.get_by_role("alertdialog").get_by_role("button", name="离开").click()
    expect(page.get_by_role("button", name="加入房间")).to_be_visible()
    expect(note).to_be_hidden()  # who left need not be told

    server.post("/room/complete", room_id=room_id, openid="ming", capacity=2)
    page.get_by_role("button", name="加入房间").click()
    expect(page.get_by_role("textbox", name="留言")).to_be_visible()
    server.post("/room/kick", room_id=room_id, openid="hong")
    server.post("/usr/join", room_id=room_id, openid="lili")
    pass_time(page)
    expect(page.locator("#join-note")).to_have_text("你已不在这个房间，房间已满")


@pytest.mark.slow
def test_a_toast_goes_with_its_screen(enter, expect, server):
    room_id = server.open_room()
    page = enter("hong", f"/#/room/{room_id}", viewport=PHONE)
    page.get_by_role("button", name="加入房间").click()
    expect(page.locator("#toast")).to_have_text("已加入")
    go_to(page, "mine")
    expect(page.locator("#toast")).to_be_empty()
    go_to(page, "me")
    page.get_by_role("button", name="保存").click()
    expect(page.get_by_role("heading", name="我的")).to_be_focused()
    expect(page.locator("#toast")).to_have_text("已保存")  # it is of the screen that comes


@pytest.mark.slow
def test_the_log_keeps_its_end_or_its_place_when_its_height_changes(enter, expect, server):
    room_id = add_room(server, "棋", "ming")
    send(server, room_id, *(f"第{number}句" for number in range(40)))
    page = enter("ming", f"/#/room/{room_id}", viewport=PHONE)
    log = page.get_by_role("log")
    changes = {
        "keyboard": lambda: page.set_viewport_size({"width": 390, "height": 640}),
        "introduction": lambda: page.locator("#about > summary").click(),
        "composer": lambda: page.get_by_role("textbox", name="留言").fill("\n" * 5),
        "offline": lambda: page.route("**/time", lambda route: route.abort()),
    }
    expect(bubbles(page).last).to_be_in_viewport()
    for change in changes.values():
        before = log.bounding_box()["height"]
        change()
        for _ in range(20):
            if log.bounding_box()["height"] != before:
                break
            pass_time(page)
        expect(bubbles(page).last).to_be_in_viewport()
    log.evaluate(
        """log => new Promise(done => {
            log.addEventListener("scroll", done, { once: true });
            log.scrollTop = 300;
        })"""
    )
    for height in 400, PHONE["height"]:
        page.set_viewport_size({"width": 390, "height": height})
        assert log.evaluate("log => log.scrollTop") == 300


@pytest.mark.slow
@pytest.mark.parametrize("viewport", [PHONE, LAPTOP], ids=["phone", "laptop"])
def test_the_offline_line_covers_nothing(enter, expect, server, viewport):
    page = enter("ming", f"/#/room/{server.open_room()}", viewport=viewport)
    expect(page.get_by_role("textbox", name="留言")).to_be_visible()
    page.route("**/time", lambda route: route.abort())
    pass_time(page)
    note = page.locator("#connection-note")
    expect(note).to_contain_text("正在重试")
    bottom = note.bounding_box()["y"] + note.bounding_box()["height"]
    for place in page.locator("h2:visible, button:visible, textarea:visible").all():
        assert place.bounding_box()["y"] >= bottom
    assert page.evaluate("document.documentElement.scrollHeight") == viewport["height"]


@pytest.mark.slow
@pytest.mark.parametrize("viewport", [PHONE, LAPTOP], ids=["phone", "laptop"])
def test_a_room_that_loads_slowly_keeps_its_header_in_place(enter, expect, server, viewport):
    page = enter("ming", viewport=viewport)
    with hold(page, "**/room/get_message"):
        go_to(page, f"room/{server.open_room()}")
        expect(page.get_by_role("heading", name="正在加载…")).to_be_visible()
        room = page.locator("#room")
        assert room.evaluate("room => getComputedStyle(room).paddingTop") == "0px"
        spinners = """room => [room, ...room.querySelectorAll("*")].filter(
            each => getComputedStyle(each, "::before").animationName === "turn").length"""
        assert room.evaluate(spinners) == 1
        assert room.locator("header").bounding_box()["y"] == 0
    expect(page.locator("#room-name")).to_have_text("一")


@pytest.mark.slow
def test_messages_of_one_person_in_a_row_are_a_group_and_days_have_lines(enter, expect, server):
    room_id = server.open_room()
    server.post("/usr/join", room_id=room_id, openid="hong")
    said = [
        ("ming", "2026-11-01T02:00:00.000Z"),
        ("ming", "2026-11-01T02:01:00.000Z"),
        ("hong", "2026-11-01T02:02:00.000Z"),
        ("hong", "2026-11-01T02:20:00.000Z"),
        ("hong", "2026-11-03T02:21:00.000Z"),
    ]
    messages = [
        {"message_id": number, "openid": openid, "message": str(number), "time": time}
        for number, (openid, time) in enumerate(said, 1)
    ]
    page = enter("hong", viewport=PHONE)
    page.clock.set_fixed_time("2026-11-04T04:00:00Z")
    answer = {"response_code": 1, "messages": messages, "nicknames": {}, "has_more": False}
    page.route("**/room/get_message", lambda route: route.fulfill(json=answer))
    go_to(page, f"room/{room_id}")
    expect(bubbles(page)).to_have_text(["1", "2", "3", "4", "5"])
    expect(page.locator("#messages .name:visible")).to_have_text(["ming", "hong", "hong", "hong"])
    expect(page.locator(".line")).to_have_text(["11月1日周日", "昨天"])


@pytest.mark.slow
def test_web_addresses_are_links_and_nothing_else_is(enter, expect, server):
    room_id = server.open_room()
    texts = {
        "看https://a.edu.cn/x?y=1&z=%E4#k，还有（http://b.cn）。": [
            "https://a.edu.cn/x?y=1&z=%E4#k",
            "http://b.cn",
        ],
        "HTTPS://A.cn/b.": ["HTTPS://A.cn/b"],
        "javascript:alert(1) ftp://a.cn www.a.cn https:// xhttp://a.cn": [],
        'http://a.cn/"onclick="alert(1)<b>': ["http://a.cn/"],
    }
    send(server, room_id, *texts)
    page = enter("ming", f"/#/room/{room_id}")
    expect(bubbles(page)).to_have_text(list(texts))
    for bubble, links in zip(bubbles(page).all(), texts.values(), strict=True):
        found = bubble.locator("a")
        expect(found).to_have_text(links)
        for link in found.all():
            assert link.get_attribute("href") == link.inner_text()
            assert link.get_attribute("rel") == "noreferrer"
    assert page.locator("#messages b").count() == 0


@pytest.mark.slow
def test_messages_are_one_stop_for_the_tab_key_and_arrows_go_on_from_there(enter, expect, server):
    room_id = server.open_room()
    send(server, room_id, "看 https://a.cn", "二", "三")
    page = enter("ming", f"/#/room/{room_id}")
    expect(bubbles(page)).to_have_count(3)
    tab_to(page, page.get_by_role("log"))
    page.keyboard.press("Tab")
    expect(page.get_by_role("textbox", name="留言")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    expect(page.get_by_role("log")).to_be_focused()
    delete = page.get_by_role("button", name="删除 ming 的留言")
    page.keyboard.press("ArrowLeft")
    expect(delete.last).to_be_focused()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("link", name="https://a.cn")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(delete.first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("alertdialog")).to_be_visible()


@pytest.mark.slow
def test_a_problem_stands_at_its_field(enter, expect, server):
    page = enter("ming", "/#/new")
    page.get_by_role("textbox", name="房间名").fill("棋")
    page.get_by_role("combobox", name="分区", exact=True).fill("")
    page.get_by_role("button", name="创建", exact=True).click()
    section = page.get_by_role("combobox", name="分区", exact=True)
    expect(section).to_be_focused()
    assert problem_after(section) == page.locator("#new-form .problem").inner_text() != ""
    section.fill("棋类")
    page.get_by_role("textbox", name="人数上限").fill("1")
    page.get_by_role("button", name="创建", exact=True).click()
    capacity = page.get_by_role("textbox", name="人数上限")
    expect(capacity).to_have_attribute("aria-invalid", "true")
    assert problem_after(capacity) == page.locator("#new-form .problem").inner_text() != ""
    expect(section).not_to_have_attribute("aria-invalid", "true")

    go_to(page, "me")
    page.get_by_label("其他", exact=True).check()
    page.get_by_role("textbox", name="其他：怎么写都行").fill("长" * 17)
    page.get_by_role("button", name="保存").click()
    sex = page.get_by_role("textbox", name="其他：怎么写都行")
    expect(sex).to_be_focused()
    assert problem_after(sex) != ""

    room_id = add_room(server, "棋", "ming")
    for openid in "hong", "lili":
        server.post("/usr/join", room_id=room_id, openid=openid)
    go_to(page, f"room/{room_id}")
    page.locator("#about > summary").click()
    page.get_by_role("button", name="修改房间").click()
    form = page.get_by_role("dialog", name="修改房间")
    form.get_by_label("人数上限").fill("2")
    form.get_by_role("button", name="保存").click()
    expect(form.get_by_role("alert")).to_have_text(roomapp.ERRORS["capacity_too_small"][1])
    assert problem_after(form.get_by_label("人数上限")) == form.get_by_role("alert").inner_text()


def problem_after(field):
    return field.locator("xpath=following-sibling::*[1][@class='problem']").inner_text()


@pytest.mark.slow
@pytest.mark.parametrize("viewport", [PHONE, LAPTOP], ids=["phone", "laptop"])
def test_a_focus_ring_is_never_cut_off(campus, enter, expect, viewport):
    page = enter("xiaoyu", "/#/mine", viewport=viewport)
    for view in "mine", "room/1", "new", "requests":
        go_to(page, view)
        expect(page.locator(VIEWS[view])).to_be_visible()
        seen = set()
        while True:
            page.keyboard.press("Tab")
            ring = page.evaluate(
                """() => {
                    const focused = document.activeElement;
                    const { outlineStyle, outlineOffset, outlineWidth } = getComputedStyle(focused);
                    const all = [...document.querySelectorAll("*")];
                    return [all.indexOf(focused), focused.outerHTML.slice(0, 80), outlineStyle,
                        parseFloat(outlineOffset) + parseFloat(outlineWidth)];
                }"""
            )
            index, element, style, outside = ring
            if "<body" in element or index in seen:
                break
            seen.add(index)
            assert style == "solid", element
            assert outside <= (2 if element.startswith("<a") else 0), element
        assert seen


@pytest.mark.slow
def test_a_new_person_makes_no_red_404(enter, expect, server):
    page = enter("nobody")
    for view in "discover", "new":
        go_to(page, view)
    poll(page)
    assert not [request for request in page.sent if request.url.endswith("/usr/info")]
    go_to(page, "mine")
    expect(page.locator("#card")).to_have_text("还没有完善个人信息")
    expect(page.locator(".status").get_by_text("404")).to_be_visible()
    expect(page.locator(".status.bad")).to_have_count(0)
    asked = sum(request.url.endswith("/usr/info") for request in page.sent)
    server.open_room()
    with page.expect_request("**/usr/roomlist1"):
        pass_time(page)
    assert sum(request.url.endswith("/usr/info") for request in page.sent) == asked


@pytest.mark.slow
def test_the_state_of_a_room_is_explained_where_it_stands(enter, expect, server):
    room_id = server.open_room()
    page = enter("ming", f"/#/room/{room_id}")
    expect(page.locator("#room-facts")).to_contain_text("未激活只有房主一人")
    server.post("/usr/join", room_id=room_id, openid="hong")
    pass_time(page)
    expect(page.locator("#room-facts")).to_contain_text("已激活有人加入")
    for view in "discover", "mine":
        go_to(page, view)
        hint = page.locator(f"#{view}").get_by_text("未激活：只有房主一人；已激活：有人加入")
        expect(hint).to_be_visible()


@pytest.mark.slow
def test_people_see_their_own_nickname(enter, expect, server):
    room_id = server.open_room()
    server.post("/usr/complete", openid="ming", nickname="小明", sex=1, preference=[])
    page = enter("ming", "/#/mine")
    expect(page.locator("#mine .my-name")).to_have_text("小小明")  # with the picture
    go_to(page, f"room/{room_id}")
    expect(page.get_by_placeholder("小明：说点什么")).to_be_visible()
    go_to(page, "me")
    expect(page.locator("#me .my-name")).to_contain_text("小明")


@pytest.mark.slow
def test_errors_are_shown_in_the_words_of_the_server(visit, expect, server):
    page = visit("/#/room/7")
    dialog = page.get_by_role("dialog", name="你是谁")
    dialog.get_by_role("textbox").fill("a b")
    dialog.get_by_role("button", name="就是我").click()
    detail = server.post("/usr/info", openid="a b")["detail"]
    expect(dialog.get_by_role("alert")).to_have_text(detail)
    choose_openid(page, "ming")
    detail = server.post("/room/get_message", room_id=7)["detail"]
    expect(page.get_by_role("alert").get_by_text(detail)).to_be_visible()

    page.get_by_role("link", name="创建房间").click()
    page.get_by_role("button", name="创建", exact=True).click()
    detail = server.post("/room/add", name="")["detail"]
    expect(page.locator("#new-form").get_by_role("alert")).to_have_text(detail)
    expect(page.get_by_role("textbox", name="房间名")).to_be_focused()

    page.get_by_role("searchbox").fill("长" * 61)
    detail = server.post("/search", key="长" * 61)["detail"]
    expect(page.locator("#discover-rooms")).to_contain_text(detail)
    assert_polls_only_time(page)  # a refused request is not repeated


@pytest.mark.slow
def test_a_full_room_offers_no_joining(enter, expect, server):
    room_id = add_room(server, "棋", "ming", capacity=2)
    page = enter("hong", f"/#/room/{room_id}")
    join = page.get_by_role("button", name="加入房间")
    expect(join).to_be_visible()
    assert_polls_only_time(page)
    server.post("/usr/join", room_id=room_id, openid="lili")
    join.click()
    expect(page.get_by_role("alert").get_by_text(roomapp.ERRORS["room_full"][1])).to_be_visible()
    expect(join).to_be_hidden()
    expect(page.get_by_role("status").get_by_text("房间已满", exact=True)).to_be_visible()
    server.post("/room/kick", room_id=room_id, openid="lili")
    pass_time(page)
    expect(join).to_be_visible()
    expect(page.locator("#join-note")).to_be_empty()


@pytest.mark.slow
def test_rooms_and_messages_are_loaded_page_by_page(enter, expect, server):
    for _ in range(45):
        room_id = server.open_room()
    messages = [f"第{number}句" for number in range(65)]
    send(server, room_id, *messages)
    page = enter("ming", f"/#/room/{room_id}")
    page.get_by_label("其他分区").fill("二")
    page.get_by_role("button", name="去看看").click()
    for count in (20, 40, 45):
        expect(rooms(page)).to_have_count(count)
        if count < 45:
            page.locator("#discover").get_by_role("button", name="更多房间").click()
    expect(page.get_by_role("button", name="更多房间")).to_be_hidden()
    page.get_by_role("searchbox").fill("一")
    expect(page.get_by_role("status").get_by_text("找到 20 个房间，还有更多")).to_be_attached()
    page.route("**/search", lambda route: route.abort(), times=1)
    page.locator("#discover").get_by_role("button", name="更多房间").click()
    expect(page.locator("#discover-rooms")).to_contain_text("连不上服务器")
    expect(rooms(page)).to_have_count(20)
    page.locator("#discover").get_by_role("button", name="更多房间").click()
    expect(rooms(page)).to_have_count(40)
    expect(page.locator("#discover-rooms")).not_to_contain_text("连不上服务器")
    assert page.evaluate("document.documentElement.scrollHeight") == LAPTOP["height"]
    for count in (30, 60, 65):
        expect(page.locator("#messages li")).to_have_count(count)
        if count < 65:
            page.get_by_role("button", name="更早的留言").click()
    expect(page.get_by_role("button", name="更早的留言")).to_be_hidden()
    assert bubbles(page).all_inner_texts() == messages


@pytest.mark.slow
def test_search_runs_when_typing_pauses_and_a_late_answer_is_dropped(enter, expect, server):
    server.post("/room/add", name="羽毛球", section="运动", description="", room_owner_id="ming")
    page = enter("hong")
    waiting = []

    def hold_the_first(route):
        route.continue_() if waiting else waiting.append(route)

    page.route("**/search", hold_the_first)
    with page.expect_request("**/search"):
        page.get_by_role("searchbox").press_sequentially("篮球")
    page.get_by_role("searchbox").fill("羽毛球")
    expect(rooms(page)).to_have_count(1)
    assert waiting[0].request.post_data_json["key"] == "篮球", "one search for both characters"
    waiting[0].continue_()
    expect(page.locator("#user-exchanges").get_by_text("/search")).to_have_count(2)
    expect(rooms(page)).to_have_count(1)
    expect(page.locator("#discover-rooms-title")).to_contain_text("羽毛球")


@pytest.mark.slow
@pytest.mark.parametrize("key", ["2", "#2", "＃2", "2号", "2 号", "房间号 2"])
def test_search_finds_a_room_by_its_number_as_the_page_shows_it(enter, expect, server, key):
    for _ in range(2):
        server.open_room()
    page = enter("hong")
    with page.expect_request("**/search") as request:
        page.get_by_role("searchbox").fill(key)
    assert request.value.post_data_json["key"] == "2"
    expect(page.locator("#discover-rooms-title")).to_have_text(f"{key} 的搜索结果")
    expect(rooms(page).locator(".number")).to_have_text(["#2"])


@pytest.mark.slow
@pytest.mark.parametrize("key", ["#", "2号楼", "2 2", "房间号"])
def test_any_other_key_is_sent_as_it_is(enter, server, key):
    page = enter("hong")
    with page.expect_request("**/search") as request:
        page.get_by_role("searchbox").fill(key)
    assert request.value.post_data_json["key"] == key


@pytest.mark.slow
def test_an_answer_that_does_not_come_is_given_up(enter, expect, server):
    page = enter("ming")
    page.route("**/room/section", lambda route: None)
    with page.expect_request("**/room/section"):
        page.get_by_role("button", name="游戏").click()
    page.clock.fast_forward(TIMEOUT - POLL)
    expect(page.locator("#discover-rooms")).to_contain_text("正在加载")
    pass_time(page)
    expect(page.locator("#discover-rooms")).to_contain_text("连不上服务器")


@pytest.mark.slow
def test_a_list_whose_refresh_gets_no_answer_either_is_given_up(enter, expect, server):
    page = enter("ming")
    assert_polls_only_time(page)
    page.route("**/room/section", lambda route: None)
    page.get_by_role("button", name="游戏").click()
    server.open_room()
    with page.expect_request("**/room/section"):
        pass_time(page)
    page.clock.fast_forward(TIMEOUT)
    expect(page.locator("#discover-rooms")).to_contain_text("连不上服务器")


@pytest.mark.slow
def test_the_page_reports_a_lost_server_and_recovers(enter, expect, server, start):
    room_id = server.open_room()
    page = enter("ming", f"/#/room/{room_id}")
    say(page, "在吗")
    expect(bubbles(page)).to_have_count(1)
    expect(page.locator(".delivery")).to_have_count(0)
    server.process.kill()
    server.process.wait()
    pass_time(page)
    expect(page.get_by_text("正在重试")).to_be_visible()
    expect(bubbles(page)).to_have_text("在吗")
    page.get_by_role("button", name="游戏").click()
    expect(page.locator("#discover-rooms")).to_contain_text("连不上服务器")
    say(page, "还在吗")
    expect(page.locator("#messages").get_by_role("alert")).to_contain_text("连不上服务器")
    expect(bubbles(page)).to_have_text(["在吗", "还在吗"])
    start("--quiet", "--port", server.port)
    pass_time(page)
    expect(page.get_by_text("正在重试")).to_be_hidden()
    expect(page.locator("#discover-rooms")).to_contain_text("这个分区还没有房间")
    page.get_by_role("button", name="再发一次").click()
    expect(page.locator(".delivery")).to_have_count(0)
    expect(bubbles(page)).to_have_text(["在吗", "还在吗"])


BUSY = {"response_code": 0, "error": "too_many_requests", "detail": "操作太频繁，请稍后再试"}
DOWN = {"response_code": 0, "error": "server_error", "detail": "服务器出错了，请稍后再试"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [{"status": 429, "json": BUSY}, {"status": 502, "json": DOWN}, {"status": 200, "json": None}],
    ids=["429", "502", "null"],
)
def test_errors_of_a_proxy_are_shown_until_they_end(enter, expect, server, answer):
    room_id = server.open_room()
    page = enter("ming", f"/#/room/{room_id}")
    page.get_by_role("button", name="游戏").click()
    expect(page.locator("#discover-rooms")).to_contain_text("这个分区还没有房间")
    poll(page)

    note = page.get_by_text("正在重试")
    page.route("**/time", lambda route: route.fulfill(**answer))
    pass_time(page)
    expect(note).to_contain_text((answer["json"] or {"detail": "服务器的回答读不懂"})["detail"])
    page.unroute("**/time")
    pass_time(page)
    expect(note).to_be_hidden()

    page.get_by_role("textbox", name="留言").fill("写到一半")
    send(server, room_id, "在吗")
    page.route("**/room/*", lambda route: route.fulfill(**answer))
    pass_time(page)
    expect(note).to_be_visible()
    expect(page.get_by_role("textbox", name="留言")).to_have_value("写到一半")
    expect(page.locator("#discover-rooms")).to_contain_text("这个分区还没有房间")
    page.get_by_role("button", name="美食").click()
    expect(page.get_by_role("button", name="再试一次")).to_be_visible()
    page.unroute("**/room/*")
    pass_time(page)
    expect(bubbles(page)).to_have_text("在吗")
    expect(page.locator("#discover-rooms")).to_contain_text("这个分区还没有房间")
    expect(note).to_be_hidden()


@pytest.mark.slow
def test_a_room_that_fails_to_load_is_loaded_again(enter, expect, server):
    room_id = server.open_room()
    page = enter("ming")
    poll(page)
    page.route("**/room/get_message", lambda route: route.fulfill(status=429, json=BUSY), times=1)
    go_to(page, f"room/{room_id}")
    expect(page.get_by_role("alert").get_by_text(BUSY["detail"])).to_be_visible()
    pass_time(page)
    expect(page.get_by_role("textbox", name="留言")).to_be_visible()
    expect(page).to_have_title("一 · 校园房间")


@pytest.mark.slow
def test_a_slow_answer_does_not_block_other_views(visit, expect, server):
    room_id = server.open_room()
    page = visit("/#/new")
    choose_openid(page, "ming")
    with hold(page, "**/room/get_message"):
        page.goto(f"{page.url.split('#')[0]}?#/room/{room_id}")
        page.get_by_role("navigation").get_by_role("link", name="我的").click()
        expect(page.locator("#owned-rooms .rooms li")).to_have_count(1)
        expect(page).to_have_title("我的 · 校园房间")
    expect(page.locator("#room-name")).to_have_text("一")
    expect(page).to_have_title("我的 · 校园房间")


@pytest.mark.slow
def test_a_hidden_page_does_not_poll_and_a_visible_one_polls_at_once(enter, expect, server):
    page = enter("ming")
    for _ in range(2):
        poll(page)
    set_hidden(page, True)
    pass_time(page)
    before = len(page.sent)
    for _ in range(20):
        pass_time(page)
    assert len(page.sent) == before
    add_room(server, "新来的", "hong")
    with page.expect_request("**/time", timeout=POLL / 2):
        set_hidden(page, False)
    expect(page.locator("#discover-rooms")).to_contain_text("新来的")


def set_hidden(page, hidden):
    """Hide or show the tab. A headless browser never does so itself."""
    page.evaluate(
        """hidden => {
            Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


@pytest.mark.slow
def test_the_page_polls_only_the_time_and_then_loads_the_messages_on_it(enter, expect, server):
    room_id = server.open_room()
    page = enter("ming", f"/#/room/{room_id}")
    say(page, "一")
    expect(bubbles(page)).to_have_text("一")
    assert_polls_only_time(page)
    (old,) = server.post("/room/get_message", room_id=room_id)["messages"]
    send(server, room_id, "二")
    with page.expect_request("**/room/get_message") as request:
        pass_time(page)
    assert request.value.post_data_json["after"] == old["message_id"] - 1
    expect(bubbles(page)).to_have_text(["一", "二"])


@pytest.mark.slow
def test_the_page_can_be_used_with_the_keyboard_alone(visit, expect, server):
    add_room(server, "棋", "hong")
    page = visit()
    expect(page.get_by_role("dialog", name="你是谁")).to_be_visible()
    page.keyboard.type("ming")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="你是谁")).to_be_hidden()
    tab_to(page, page.get_by_role("link", name="棋"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="棋")).to_be_focused()
    tab_to(page, page.get_by_role("button", name="加入房间"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("textbox", name="留言")).to_be_focused()
    page.keyboard.type("走")
    page.keyboard.press("Enter")
    expect(bubbles(page)).to_have_text("走")
    expect(page.get_by_role("textbox", name="留言")).to_be_focused()


def tab_to(page, place):
    for _ in range(40):
        page.keyboard.press("Tab")
        if place.evaluate("element => element.matches(':focus-visible')"):
            return
    pytest.fail(f"{place} cannot be reached")


VERIFIED = {"ROOMAPP_WECHAT_APPID": "wx", "ROOMAPP_WECHAT_SECRET": "secret"}


@pytest.mark.slow
@pytest.mark.parametrize(("url", "scheme"), [("/", "light"), ("/#/new", "dark")])
def test_where_identities_are_verified_the_page_explains_the_login(
    start, visit, expect, url, scheme
):
    page = visit(url, server=start("--quiet", **VERIFIED), color_scheme=scheme)
    expect(page.get_by_role("heading", name="请从小程序里登录")).to_be_visible()
    expect(page.locator("button:visible, input:visible, a:visible")).to_have_count(0)
    assert not axe_report(page)


@pytest.mark.slow
def test_an_open_page_explains_the_login_once_identities_are_verified(enter, expect, server, start):
    page = enter("ming")
    server.stop()
    pass_time(page)
    expect(page.get_by_text("正在重试")).to_be_visible()
    start("--quiet", "--port", server.port, **VERIFIED)
    pass_time(page)
    expect(page.get_by_role("heading", name="请从小程序里登录")).to_be_visible()
    expect(page).to_have_title("请从小程序里登录 · 校园房间")
    expect(page.get_by_text("正在重试")).to_be_hidden()


# How it looks


@pytest.fixture
def campus(tmp_path):
    """The demo's data: xiaoyu is in rooms 1, 15 and 16, not in room 2, and owns room 6."""
    demo = command("demo", "--database", tmp_path / "roomapp.db")
    subprocess.run(demo, env=environment(), check=True, **ONE_SHOT)


VIEWS = {
    "discover": "#discover-rooms .rooms",
    "mine": "#joined-rooms .rooms",
    "room/1": "#messages",
    "room/2": "#join",
    "room/6": "#close",
    "room/17": "#join-note",
    "room/99": "#room-problem",
    "new": "#new-form",
    "me": "#profile-form",
    "requests": "#user-exchanges",
}


def axe_report(page):
    """What axe finds wrong, or None."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=NEEDS)
    results = axe.Axe().run(page)
    return results.generate_report() if results.violations_count else None


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, LAPTOP], ids=["phone", "laptop"])
def test_axe_finds_nothing_wrong_in_any_view(campus, visit, expect, scheme, viewport):
    page = visit(viewport=viewport, color_scheme=scheme)
    expect(page.get_by_role("dialog")).to_be_visible()
    assert not axe_report(page)
    choose_openid(page, "xiaoyu")
    for view, element in VIEWS.items():
        go_to(page, view)
        if element in ("#join", "#close"):
            expect(page.locator("#room-facts")).to_contain_text(view.replace("room/", "房间号 "))
        for summary in page.locator("#about > summary, #user-exchanges summary >> nth=0").all():
            if summary.is_visible() and not summary.evaluate("each => each.parentElement.open"):
                summary.click()
        expect(page.locator(element)).to_be_visible()
        assert not axe_report(page)
        dialogs = {"#join": "举报房间", "#close": "修改房间", "#profile-form": "注销"}
        if element in dialogs:
            page.get_by_role("button", name=dialogs[element]).click()
            assert not axe_report(page)
            page.get_by_role("button", name="取消").click()
    go_to(page, "new")
    page.get_by_role("button", name="创建", exact=True).click()
    expect(page.locator("#new-form .problem")).to_be_visible()
    assert not axe_report(page)
    page.route("**/room/send_message", lambda route: route.abort())
    go_to(page, "room/1")
    say(page, "看 https://a.edu.cn")
    expect(page.get_by_role("button", name="再发一次")).to_be_visible()
    page.route("**/time", lambda route: route.abort())
    pass_time(page)
    expect(page.locator("#connection-note")).to_be_visible()
    assert not axe_report(page)


@pytest.mark.slow
def test_pictures_of_it_for_the_readme(campus, enter, expect, tmp_path):
    """`PICTURES=docs python -m pytest -m slow -k pictures` renews those in docs/."""
    folder = Path(os.environ.get("PICTURES", tmp_path))
    laptop = enter("xiaoyu", "/#/mine")
    laptop.locator("#joined-rooms .rooms").get_by_text("剧本杀拼车").click()
    expect(bubbles(laptop).last).to_be_in_viewport()
    laptop.locator("#user-exchanges").get_by_text("/search").click()
    phone = enter("xiaoyu", "/#/mine", viewport=PHONE, is_mobile=True, has_touch=True)
    phone.locator("#joined-rooms .rooms").get_by_text("周五狼人杀").click()
    expect(bubbles(phone).last).to_be_in_viewport()
    for name, page in {"laptop": laptop, "phone": phone}.items():
        picture = folder / f"{name}.webp"
        picture.write_bytes(screenshot(page))
        assert 10_000 < picture.stat().st_size < 100_000


def screenshot(page):
    """A picture as WebP, which is much smaller than Playwright's PNG."""
    session = page.context.new_cdp_session(page)
    picture = session.send("Page.captureScreenshot", {"format": "webp", "quality": 90})
    return b64decode(picture["data"])


# The documentation at /docs


@pytest.fixture
def documentation(visit, expect):
    def documentation(**options):
        page = visit("/docs", **options)
        expect(page.locator("#errors")).to_be_visible()
        return page

    return documentation


@pytest.mark.slow
def test_the_documentation_shows_every_endpoint_field_and_error(documentation):
    page = documentation()
    document = roomapp.document()
    components = document["components"]
    bearer = components["securitySchemes"]["bearer"]["description"]
    for url, methods in document["paths"].items():
        for operation in methods.values():
            text = page.locator(f"#{operation['operationId']}").inner_text()
            assert f" {url}\n" in text
            assert f":{urlsplit(page.url).port}{url}" in text
            assert operation["summary"] in text
            assert operation.get("description", "") in text
            assert (bearer in text) == ("security" in operation)
    text = page.locator("main").inner_text()
    for field in FIELDS:
        assert components["schemas"][field]["description"] in text
    for error, (status, detail) in roomapp.ERRORS.items():
        text = page.locator(f"#{error}").inner_text()
        assert text.startswith(f"{status} {error}")
        assert detail in text


@pytest.mark.slow
@pytest.mark.parametrize("has_clipboard", [True, False])
def test_an_example_is_copied_also_without_the_clipboard_of_browsers(
    documentation, expect, has_clipboard
):
    page = documentation()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    if not has_clipboard:  # as with http:// on another machine
        page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    figure = page.locator("figure").first
    figure.get_by_role("button", name="复制").click()
    expect(figure.get_by_role("button", name="复制")).to_have_text("已复制")
    clipboard = "Object.getPrototypeOf(navigator)"
    read = f"Object.getOwnPropertyDescriptor({clipboard}, 'clipboard').get.call(navigator)"
    copied = page.evaluate(f"{read}.readText()")
    assert copied.strip() == figure.locator("code").inner_text()


@pytest.mark.slow
def test_the_documentation_fits_a_phone(documentation):
    page = documentation(viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, LAPTOP], ids=["phone", "laptop"])
def test_axe_finds_nothing_wrong_in_the_documentation(documentation, scheme, viewport):
    assert not axe_report(documentation(viewport=viewport, color_scheme=scheme))
