"""The page: how it is served, and two people who use it in a real browser."""

import os
import re
import shutil
import subprocess
from base64 import b64decode
from contextlib import ExitStack
from email.utils import formatdate
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from webtest import TestApp

import roomapp
from models import database
from serving import ONE_SHOT, command, environment

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DOCUMENT = roomapp.document()
QUIETLY = [
    "--no-sandbox",  # root cannot have one
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE = {"width": 390, "height": 844}
LAPTOP = {"width": 1280, "height": 800}
POLL = 3_000  # milliseconds
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>"


# How it is served


@pytest.fixture
def shut():
    """A client of an application that has no database open, and need not open one."""
    assert database.deferred
    yield TestApp(roomapp.app)
    assert database.deferred


FILES = ["/", "/docs", *(f"/static/{file.name}" for file in roomapp.STATIC.glob("*.[cj]s*"))]


@pytest.mark.parametrize("url", FILES)
def test_the_page_needs_no_database_and_loads_nothing_from_elsewhere(shut, url):
    answer = shut.get(url)
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
def test_each_file_says_what_it_is(shut, url, kind):
    answer = shut.get(url)
    assert answer.headers["Content-Type"] == kind
    head = shut.head(url)
    assert (head.body, head.headers["Content-Length"]) == (b"", str(len(answer.body)))


def test_a_browser_that_has_it_gets_nothing_again(shut):
    changed = shut.get("/").headers["Last-Modified"]
    answer = shut.get("/", headers={"If-Modified-Since": changed})
    assert (answer.status_int, answer.body) == (304, b"")
    earlier = formatdate(0, usegmt=True)
    assert shut.get("/", headers={"If-Modified-Since": earlier}).status_int == 200


def test_it_is_sent_whole(shut):
    answer = shut.get("/", headers={"Range": "bytes=9999999-"})
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
        "/static/page.js/",
        "/static/page.js%00.css",
        "/static//etc/passwd",
        "/roomapp.py",
    ],
)
def test_nothing_else_is_served(client, refused, url):
    refused(client.get(url, expect_errors=True), 404, "not_found")


def test_it_can_only_be_got(client, refused):
    answer = client.post("/", b"{}", expect_errors=True)
    refused(answer, 405, "method_not_allowed")


# How it is used


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if not CHROMIUM:
        pytest.skip("there is no Chromium on this machine")
    playwright.expect.set_options(timeout=10_000)
    with playwright.sync_playwright() as drivers:
        browser = drivers.chromium.launch(executable_path=CHROMIUM, args=QUIETLY)
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
    """Open the page as a stranger; whatever a browser complains about fails the test."""
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

    def requested(request):
        page.sent.append(request)
        if not request.url.startswith(f"{home}/"):
            problems.append(request.url)

    def said(message):
        # That a request was refused or not answered is no fault of the page.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            problems.append(message.text)

    def asked(dialog):
        problems.append(dialog.message)
        dialog.dismiss()

    page.on("request", requested)
    page.on("console", said)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", asked)


@pytest.fixture
def enter(visit):
    """Open the page as somebody."""

    def enter(openid, url="/", **options):
        page = visit(url, **options)
        become(page, openid)
        return page

    return enter


def become(page, openid):
    who = page.get_by_role("dialog", name="你是谁")
    who.get_by_role("textbox").fill(openid)
    who.get_by_role("button", name="就是我").click()
    who.wait_for(state="hidden")


def say(page, message):
    page.get_by_role("textbox", name="留言").fill(message)
    page.get_by_role("button", name="发送").click()


def rooms(page):
    return page.locator("#discovered .rooms li")


def later(*pages):
    """Let the clock of a page go on to where it looks for news."""
    for page in pages:
        page.clock.fast_forward(POLL)


def test_two_people_live_the_life_of_a_room(enter, expect):
    ming, hong = enter("ming"), enter("hong", viewport=PHONE)

    ming.get_by_role("link", name="创建房间").click()
    ming.get_by_label("房间名").fill("今晚一起自习")
    ming.get_by_role("combobox", name="分区", exact=True).fill("图书馆")
    ming.get_by_label("描述").fill("三楼东区")
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
    later(ming)
    expect(ming.locator("#messages")).to_contain_text("我也来")
    expect(ming.locator("#room-facts")).to_contain_text("已激活")
    say(ming, "老位置\n靠窗")
    expect(ming.locator("#messages")).to_contain_text("靠窗")
    later(hong)
    expect(hong.locator("#messages")).to_contain_text("靠窗")
    expect(hong.locator("#messages li")).to_have_count(2)

    ming.get_by_text("介绍和成员（2 人）").click()
    ming.get_by_role("button", name="移出 hong").click()
    ming.get_by_role("alertdialog").get_by_role("button", name="移出").click()
    expect(ming.get_by_text("介绍和成员（1 人）")).to_be_visible()
    later(hong)
    expect(hong.get_by_role("button", name="加入房间")).to_be_visible()

    hong.get_by_role("button", name="加入房间").click()
    hong.get_by_text("介绍和成员（2 人）").click()
    hong.get_by_role("button", name="离开房间").click()
    hong.get_by_role("alertdialog").get_by_role("button", name="离开").click()
    expect(hong.get_by_role("button", name="加入房间")).to_be_visible()
    hong.get_by_role("button", name="加入房间").click()
    expect(hong.get_by_role("textbox", name="留言")).to_be_visible()

    ming.get_by_role("navigation").get_by_role("link", name="我的").click()
    expect(ming.locator("#owned .rooms")).to_contain_text("今晚一起自习")
    ming.get_by_role("button", name="关闭房间").click()
    ming.get_by_role("alertdialog").get_by_role("button", name="关闭房间").click()
    expect(ming.locator("#owned")).to_contain_text("你还没有发起过房间")
    later(hong)
    expect(hong.get_by_role("alert").get_by_text("房间不存在或已被删除")).to_be_visible()
    expect(ming.locator("#asked summary").first).to_contain_text("/room/delete")


def hold(page, url):
    """Keep what a page asks from the server, until it is let go."""
    held = []
    page.route(url, lambda route: held.append(route))
    return held


def let_go(held):
    while held:
        held.pop(0).continue_()


@pytest.mark.slow
def test_two_tabs_are_two_people_and_each_has_a_profile(enter, expect, server):
    ming = enter("ming", "/#/me")
    ming.get_by_label("女").check()
    ming.get_by_label("偏好").fill("篮球\n\n桌游")
    ming.get_by_role("button", name="保存").click()
    expect(ming.locator("#card")).to_have_text("女 · 篮球 · 桌游")
    assert server.post("/usr/info", openid="ming")["preference"] == ["篮球", "桌游"]

    hong = ming.context.new_page()
    hong.goto(f"{ming.url.split('#')[0]}#/mine")
    become(hong, "hong")
    expect(hong.locator("#card")).to_have_text("还没有完善个人信息")
    ming.reload()
    expect(ming.locator("#mine .me")).to_contain_text("ming")
    hong.get_by_role("button", name="换一个人").click()
    hong.get_by_role("dialog").get_by_role("button", name="ming", exact=True).click()
    expect(hong.locator("#card")).to_have_text("女 · 篮球 · 桌游")
    hong.get_by_role("button", name="换一个人").click()
    hong.get_by_role("textbox", name="openid").fill("lili")
    hong.keyboard.press("Enter")
    expect(hong.locator("#mine .me")).to_contain_text("lili")


def test_a_profile_is_saved_only_by_who_has_seen_it(visit, expect, server):
    server.post("/usr/complete", openid="lili", sex=2, preference=["篮球"])
    page = visit("/#/me")
    page.get_by_role("button", name="先看看").click()
    expect(page.get_by_role("button", name="保存")).to_be_hidden()
    what_happens = iter(["continue_", "abort"])
    page.route("**/usr/info", lambda route: getattr(route, next(what_happens))(), times=2)
    page.locator("#me").get_by_role("button", name="我是谁").click()
    become(page, "lili")
    expect(page.locator("#me").get_by_text("连不上服务器")).to_be_visible()
    expect(page.get_by_role("button", name="保存")).to_be_hidden()
    page.get_by_role("button", name="再试一次").click()
    page.get_by_label("偏好").fill("篮球\n桌游")
    page.get_by_role("button", name="保存").click()
    expect(page.get_by_text("已保存")).to_be_visible()
    profile = server.post("/usr/info", openid="lili")
    assert (profile["sex"], profile["preference"]) == (2, ["篮球", "桌游"])


@pytest.mark.slow
def test_it_can_be_used_where_sites_may_keep_nothing(visit, expect, server):
    page = visit()
    page.context.add_init_script(
        """for (const storage of ["localStorage", "sessionStorage"])
            Object.defineProperty(window, storage, { get() { throw new DOMException("no"); } });"""
    )
    page.goto(f"{page.url}?#/new")
    become(page, "ming")
    page.get_by_label("房间名").fill("棋")
    page.get_by_role("combobox", name="分区", exact=True).fill("棋类")
    page.get_by_role("button", name="创建", exact=True).click()
    say(page, "走")
    expect(page.locator(".bubble")).to_have_text("走")


@pytest.mark.slow
def test_what_people_write_is_shown_as_text(enter, expect, server):
    openid = MARKUP.replace(" ", "/")
    room = {"name": MARKUP[:60], "section": MARKUP[:30], "description": MARKUP}
    room_id = server.post("/room/add", **room, room_owner_id=openid)["room_id"]
    server.post("/room/send_message", room_id=room_id, openid=openid, message=MARKUP * 3)
    server.post("/usr/complete", openid=openid, sex=MARKUP[:16], preference=[MARKUP[:30]])
    page = enter(openid, "/#/mine")
    expect(page.locator("#card")).to_contain_text(f"{MARKUP[:16]} · {MARKUP[:30]}")
    page.locator("#owned .rooms li").click()
    expect(page.locator("#room-name")).to_have_text(MARKUP[:60])
    expect(page.locator("#room-description")).to_have_text(MARKUP)
    expect(page.locator(".bubble")).to_have_text(MARKUP * 3)
    expect(page.locator(".by .openid")).to_have_text(openid)
    page.get_by_role("link", name="发现").click()
    page.get_by_role("searchbox").fill(MARKUP)
    expect(page.locator("#discovered-title")).to_contain_text(MARKUP)
    expect(page.locator("#asked pre")).to_have_count(0)
    page.locator("#asked summary").first.click()
    expect(page.locator("#asked pre").last).to_contain_text("script")
    assert page.locator("img, script:not([src])").count() == 0


@pytest.mark.slow
def test_a_long_message_is_shown_whole_and_one_too_long_is_kept(enter, expect, server):
    room_id = server.open_room()
    page = enter("ming", f"/#/room/{room_id}", viewport=PHONE)
    longest = ("长" * 99 + "\n") * 20
    say(page, longest.strip() + "长" * 2)
    expect(page.get_by_role("alert").get_by_text("留言应为 1–2000 个字")).to_be_visible()
    expect(page.get_by_role("textbox", name="留言")).to_have_attribute("aria-invalid", "true")
    say(page, longest.strip() + "完")
    expect(page.locator(".bubble")).to_contain_text("完")
    assert page.locator(".bubble").inner_text() == longest.strip() + "完"
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    expect(page.get_by_role("textbox", name="留言")).to_have_value("")


def test_what_is_agreed_to_is_done_to_the_room_that_was_asked_about(enter, expect, server):
    first, second = server.open_room(), server.open_room()
    page = enter("ming", f"/#/room/{first}")
    page.locator("#about > summary").click()
    page.get_by_role("button", name="关闭房间").click()
    expect(page.get_by_role("alertdialog")).to_contain_text("关闭“一”？")
    page.evaluate("id => location.hash = `#/room/${id}`", second)  # as Back and Forward do
    expect(page.get_by_role("alertdialog")).to_be_hidden()
    expect(page.locator("#room-facts")).to_contain_text(f"房间号 {second}")
    assert len(server.post("/room/section", section="二")["rooms"]) == 2


@pytest.mark.slow
def test_one_can_come_back_while_the_page_looks_for_news(enter, expect, server):
    room_id = server.open_room()
    for number in range(70):
        server.post("/room/send_message", room_id=room_id, openid="ming", message=f"第{number}句")
    page = enter("ming", f"/#/room/{room_id}", viewport=PHONE)
    expect(page.locator(".bubble").last).to_have_text("第69句")
    look_again(page)
    server.post("/room/send_message", room_id=room_id, openid="ming", message="在吗")
    held = hold(page, "**/room/get_message")
    with page.expect_request("**/room/get_message"):
        later(page)
    for view in ("requests", f"room/{room_id}"):
        page.evaluate("view => location.hash = `#/${view}`", view)
    let_go(held)
    page.unroute("**/room/get_message")
    expect(page.locator(".bubble").last).to_have_text("在吗")
    expect(page.locator(".bubble")).to_have_count(30)

    page.get_by_role("button", name="更早的留言").dblclick()
    expect(page.locator(".bubble")).to_have_count(60)
    assert sum("before" in (request.post_data or "") for request in page.sent) == 1


@pytest.mark.slow
def test_what_is_written_while_a_message_is_sent_stays(enter, expect, server):
    page = enter("ming", f"/#/room/{server.open_room()}")
    message = page.get_by_role("textbox", name="留言")
    message.fill("一")
    message.dispatch_event("keydown", {"key": "Enter", "keyCode": 229})  # as Safari ends pinyin
    expect(message).to_have_value("一")
    held = hold(page, "**/room/send_message")
    with page.expect_request("**/room/send_message"):
        message.press("Enter")
    message.fill("二")
    let_go(held)
    expect(page.locator(".bubble")).to_have_text("一")
    expect(message).to_have_value("二")


@pytest.mark.slow
def test_a_screen_reader_hears_what_is_new(enter, expect, server):
    room_id = server.open_room()
    server.post("/usr/join", room_id=room_id, openid="hong")
    server.post("/room/send_message", room_id=room_id, openid="ming", message="一")
    page = enter("hong", f"/#/room/{room_id}")
    expect(page.locator(".bubble")).to_have_text("一")
    expect(page.get_by_role("log")).to_have_attribute("aria-live", "off")
    say(page, "二")
    expect(page.locator(".bubble")).to_have_text(["一", "二"])
    expect(page.get_by_role("log")).to_have_attribute("aria-live", "polite")

    page.get_by_role("textbox", name="留言").press_sequentially("我")
    server.post("/room/kick", room_id=room_id, openid="hong")
    later(page)
    expect(page.get_by_role("status").get_by_text("你已不在这个房间")).to_be_visible()
    expect(page.locator("#room-name")).to_be_focused()
    page.get_by_role("button", name="加入房间").focus()
    server.post("/room/delete", room_id=room_id, openid="ming")
    later(page)
    expect(page.get_by_role("alert").get_by_text("房间不存在或已被删除")).to_be_visible()
    expect(page.locator("#room-name")).to_be_focused()


@pytest.mark.slow
def test_errors_are_shown_in_the_words_of_the_server(visit, expect, server):
    page = visit("/#/room/7")
    who = page.get_by_role("dialog", name="你是谁")
    who.get_by_role("textbox").fill("a b")
    who.get_by_role("button", name="就是我").click()
    told = server.post("/usr/info", openid="a b")["detail"]
    expect(who.get_by_role("alert")).to_have_text(told)
    become(page, "ming")
    told = server.post("/room/get_message", room_id=7)["detail"]
    expect(page.get_by_role("alert").get_by_text(told)).to_be_visible()

    page.get_by_role("link", name="创建房间").click()
    page.get_by_role("button", name="创建", exact=True).click()
    told = server.post("/room/add", name="")["detail"]
    expect(page.locator("#new-form").get_by_role("alert")).to_have_text(told)
    expect(page.get_by_label("房间名")).to_be_focused()

    page.get_by_role("searchbox").fill("长" * 61)
    told = server.post("/search", key="长" * 61)["detail"]
    expect(page.locator("#discovered")).to_contain_text(told)
    for _ in range(2):
        look_again(page)
    before = len(page.sent)
    look_again(page)
    assert len(page.sent) == before + 1, "what was refused once is not asked again"


@pytest.mark.slow
def test_what_is_in_the_way_is_said_in_passing(enter, expect, server):
    room_id = server.open_room()
    for number in range(roomapp.models.MEMBERS_AT_MOST - 1):
        server.post("/usr/join", room_id=room_id, openid=str(number))
    page = enter("hong", f"/#/room/{room_id}")
    page.get_by_role("button", name="加入房间").click()
    expect(page.get_by_role("alert").get_by_text(roomapp.ERRORS["room_full"][1])).to_be_visible()


@pytest.mark.slow
def test_there_is_more_than_one_page(enter, expect, server):
    for _ in range(45):
        room_id = server.open_room()
    for number in range(65):
        server.post("/room/send_message", room_id=room_id, openid="ming", message=f"第{number}句")
    page = enter("ming", f"/#/room/{room_id}")
    page.get_by_label("其他分区").fill("二")
    page.get_by_role("button", name="去看看").click()
    for shown in (20, 40, 45):
        expect(rooms(page)).to_have_count(shown)
        if shown < 45:
            page.locator("#discover").get_by_role("button", name="更多房间").click()
    expect(page.get_by_role("button", name="更多房间")).to_be_hidden()
    page.get_by_role("searchbox").fill("一")
    expect(page.get_by_role("status").get_by_text("找到 20 个房间，还有更多")).to_be_attached()
    page.route("**/search", lambda route: route.abort(), times=1)
    page.locator("#discover").get_by_role("button", name="更多房间").click()
    expect(page.locator("#discovered")).to_contain_text("连不上服务器")
    expect(rooms(page)).to_have_count(20)
    page.locator("#discover").get_by_role("button", name="更多房间").click()
    expect(rooms(page)).to_have_count(40)
    expect(page.locator("#discovered")).not_to_contain_text("连不上服务器")
    assert page.evaluate("document.documentElement.scrollHeight") == LAPTOP["height"]
    for shown in (30, 60, 65):
        expect(page.locator("#messages li")).to_have_count(shown)
        if shown < 65:
            page.get_by_role("button", name="更早的留言").click()
    expect(page.get_by_role("button", name="更早的留言")).to_be_hidden()
    texts = page.locator(".bubble").all_inner_texts()
    assert texts == [f"第{number}句" for number in range(65)]


@pytest.mark.slow
def test_it_searches_as_one_types_and_a_late_answer_does_no_harm(enter, expect, server):
    server.post("/room/add", name="羽毛球", section="运动", description="", room_owner_id="ming")
    page = enter("hong")
    held = []

    def hold_the_first(route):
        route.continue_() if held else held.append(route)

    page.route("**/search", hold_the_first)
    with page.expect_request("**/search"):
        page.get_by_role("searchbox").press_sequentially("篮球")
    page.get_by_role("searchbox").fill("羽毛球")
    expect(rooms(page)).to_have_count(1)
    assert held[0].request.post_data_json["key"] == "篮球", "only once typing pauses"
    held[0].continue_()
    expect(page.locator("#asked").get_by_text("/search")).to_have_count(2)
    expect(rooms(page)).to_have_count(1)
    expect(page.locator("#discovered-title")).to_contain_text("羽毛球")


@pytest.mark.slow
def test_it_says_when_the_server_is_away_and_goes_on_when_it_is_back(enter, expect, server, start):
    room_id = server.open_room()
    page = enter("ming", f"/#/room/{room_id}")
    say(page, "在吗")
    expect(page.locator(".bubble")).to_have_count(1)
    server.process.kill()
    server.process.wait()
    later(page)
    expect(page.get_by_text("正在重试")).to_be_visible()
    expect(page.locator(".bubble")).to_have_text("在吗")
    page.get_by_role("button", name="游戏").click()
    expect(page.locator("#discovered")).to_contain_text("连不上服务器")
    say(page, "还在吗")
    expect(page.locator("#room-form").get_by_role("alert")).to_contain_text("连不上服务器")
    expect(page.get_by_role("textbox", name="留言")).to_have_value("还在吗")
    start("--quiet", "--port", server.port)
    later(page)
    expect(page.get_by_text("正在重试")).to_be_hidden()
    expect(page.locator("#discovered")).to_contain_text("这个分区还没有房间")
    page.get_by_role("button", name="发送").click()
    expect(page.locator(".bubble").last).to_have_text("还在吗")


BUSY = {"response_code": 0, "error": "too_many_requests", "detail": "操作太频繁，请稍后再试"}
DOWN = {"response_code": 0, "error": "server_error", "detail": "服务器出错了，请稍后再试"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [{"status": 429, "json": BUSY}, {"status": 502, "json": DOWN}, {"status": 200, "json": None}],
    ids=["429", "502", "null"],
)
def test_what_a_proxy_answers_is_told_and_passes(enter, expect, server, answer):
    room_id = server.open_room()
    page = enter("ming", f"/#/room/{room_id}")
    page.get_by_role("button", name="游戏").click()
    expect(page.locator("#discovered")).to_contain_text("这个分区还没有房间")
    look_again(page)

    told = page.get_by_text("正在重试")
    page.route("**/time", lambda route: route.fulfill(**answer))
    later(page)
    expect(told).to_contain_text((answer["json"] or {"detail": "服务器的回答读不懂"})["detail"])
    page.unroute("**/time")
    later(page)
    expect(told).to_be_hidden()

    page.get_by_role("textbox", name="留言").fill("写到一半")
    server.post("/room/send_message", room_id=room_id, openid="ming", message="在吗")
    page.route("**/room/*", lambda route: route.fulfill(**answer))
    later(page)
    expect(told).to_be_visible()
    expect(page.get_by_role("textbox", name="留言")).to_have_value("写到一半")
    expect(page.locator("#discovered")).to_contain_text("这个分区还没有房间")
    page.get_by_role("button", name="美食").click()
    expect(page.get_by_role("button", name="再试一次")).to_be_visible()
    page.unroute("**/room/*")
    later(page)
    expect(page.locator(".bubble")).to_have_text("在吗")
    expect(page.locator("#discovered")).to_contain_text("这个分区还没有房间")
    expect(told).to_be_hidden()


@pytest.mark.slow
def test_a_room_that_could_not_be_opened_at_first_opens_by_itself(enter, expect, server):
    room_id = server.open_room()
    page = enter("ming")
    look_again(page)
    page.route("**/room/get_message", lambda route: route.fulfill(status=429, json=BUSY), times=1)
    page.evaluate("id => location.hash = `#/room/${id}`", room_id)
    expect(page.get_by_role("alert").get_by_text(BUSY["detail"])).to_be_visible()
    later(page)
    expect(page.get_by_role("textbox", name="留言")).to_be_visible()
    expect(page).to_have_title("一 · 校园房间")


@pytest.mark.slow
def test_a_slow_answer_holds_nobody_up(visit, expect, server):
    room_id = server.open_room()
    page = visit("/#/new")
    become(page, "ming")
    held = hold(page, "**/room/get_message")
    page.goto(f"{page.url.split('#')[0]}?#/room/{room_id}")
    page.get_by_role("navigation").get_by_role("link", name="我的").click()
    expect(page.locator("#owned .rooms li")).to_have_count(1)
    expect(page).to_have_title("我的 · 校园房间")
    let_go(held)
    expect(page.locator("#room-name")).to_have_text("一")
    expect(page).to_have_title("我的 · 校园房间")


def test_a_page_that_nobody_looks_at_asks_nothing_and_then_at_once(enter, expect, server):
    page = enter("ming")
    for _ in range(2):
        look_again(page)
    look(page, hidden=True)
    later(page)
    asked = len(page.sent)
    for _ in range(20):
        later(page)
    assert len(page.sent) == asked
    server.post("/room/add", name="新来的", section="学习", description="", room_owner_id="hong")
    with page.expect_request("**/time", timeout=POLL / 2):
        look(page, hidden=False)
    expect(page.locator("#discovered")).to_contain_text("新来的")


def look(page, hidden):
    """Do as a browser does when its tab is hidden, which a browser without windows never is."""
    page.evaluate(
        """hidden => {
            Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


@pytest.mark.slow
def test_it_asks_for_the_time_alone_and_then_for_what_is_new(enter, expect, server):
    room_id = server.open_room()
    page = enter("ming", f"/#/room/{room_id}")
    say(page, "一")
    expect(page.locator(".bubble")).to_have_text("一")
    for _ in range(2):
        look_again(page)
    before = len(page.sent)
    look_again(page)
    assert len(page.sent) == before + 1
    (old,) = server.post("/room/get_message", room_id=room_id)["messages"]
    server.post("/room/send_message", room_id=room_id, openid="ming", message="二")
    with page.expect_request("**/room/get_message") as asked:
        later(page)
    assert asked.value.post_data_json["after"] == old["message_id"]
    expect(page.locator(".bubble")).to_have_text(["一", "二"])


def look_again(page):
    with page.expect_response("**/time"):
        later(page)


@pytest.mark.slow
def test_it_can_be_used_with_the_keyboard_alone(visit, expect, server):
    server.post("/room/add", name="棋", section="学习", description="", room_owner_id="hong")
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
    expect(page.get_by_role("heading", name="棋")).to_be_focused()
    tab_to(page, page.get_by_role("textbox", name="留言"))
    page.keyboard.type("走")
    page.keyboard.press("Enter")
    expect(page.locator(".bubble")).to_have_text("走")
    expect(page.get_by_role("textbox", name="留言")).to_be_focused()


def tab_to(page, place):
    for _ in range(40):
        page.keyboard.press("Tab")
        if place.evaluate("element => element.matches(':focus-visible')"):
            return
    pytest.fail(f"{place} cannot be reached")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "url", "scheme"),
    [
        ({"ROOMAPP_WECHAT_APPID": "wx", "ROOMAPP_WECHAT_SECRET": "secret"}, "/", "light"),
        ({"ROOMAPP_TRUST_WX_OPENID": "1"}, "/#/new", "dark"),
    ],
    ids=["login", "cloud"],
)
def test_where_identities_are_verified_it_says_how_to_log_in(
    start, visit, expect, mode, url, scheme
):
    page = visit(url, server=start("--quiet", **mode), color_scheme=scheme)
    expect(page.get_by_role("heading", name="请从小程序里登录")).to_be_visible()
    expect(page.locator("button:visible, input:visible, a:visible")).to_have_count(0)
    assert not faults(page)


@pytest.mark.slow
def test_a_page_that_is_open_says_so_once_identities_are_verified(enter, expect, server, start):
    page = enter("ming")
    server.stop()
    later(page)
    expect(page.get_by_text("正在重试")).to_be_visible()
    start("--quiet", "--port", server.port, ROOMAPP_TRUST_WX_OPENID="1")
    later(page)
    expect(page.get_by_role("heading", name="请从小程序里登录")).to_be_visible()
    expect(page).to_have_title("请从小程序里登录 · 校园房间")
    expect(page.get_by_text("正在重试")).to_be_hidden()


# How it looks


@pytest.fixture
def campus(tmp_path):
    """The demo, whose xiaoyu is in room 1, owns room 6 and has nothing to do with room 2."""
    demo = command("demo", "--database", tmp_path / "roomapp.db")
    subprocess.run(demo, env=environment(), check=True, **ONE_SHOT)


VIEWS = {
    "/#/discover": "#discovered .rooms",
    "/#/mine": "#joined .rooms",
    "/#/room/1": "#messages",
    "/#/room/2": "#join",
    "/#/room/6": "#close",
    "/#/room/99": "#room-problem",
    "/#/new": "#new-form",
    "/#/me": "#profile-form",
    "/#/requests": "#asked",
}


def faults(page):
    from axe_playwright_python.sync_playwright import Axe

    results = Axe().run(page, options={"resultTypes": ["violations", "passes"]})
    print(f"{page.url}: {len(results.response['passes'])} rules of axe passed")
    return results.generate_report() if results.violations_count else None


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, LAPTOP], ids=["phone", "laptop"])
def test_axe_finds_nothing_wrong_in_any_view(campus, visit, expect, scheme, viewport):
    page = visit(viewport=viewport, color_scheme=scheme)
    expect(page.get_by_role("dialog")).to_be_visible()
    assert not faults(page)
    become(page, "xiaoyu")
    for url, there in VIEWS.items():
        page.evaluate("url => location.hash = url", url.removeprefix("/"))
        for summary in page.locator("#about > summary, #asked summary >> nth=0").all():
            if summary.is_visible() and not summary.evaluate("each => each.parentElement.open"):
                summary.click()
        expect(page.locator(there)).to_be_visible()
        assert not faults(page)


@pytest.mark.slow
def test_pictures_of_it_for_the_readme(campus, enter, expect, tmp_path):
    """`PICTURES=docs python -m pytest -m slow -k pictures` renews those that are kept."""
    folder = Path(os.environ.get("PICTURES", tmp_path))
    for name, viewport in {"phone": PHONE, "laptop": LAPTOP}.items():
        page = enter("laozhou", viewport=viewport)
        page.locator("#discovered .rooms").get_by_text("高数期末突击").click()
        expect(page.locator(".bubble").last).to_be_in_viewport()
        if viewport is LAPTOP:
            page.locator("#asked").get_by_text("/search").click()
        picture = folder / f"{name}.webp"
        picture.write_bytes(photographed(page))
        assert 10_000 < picture.stat().st_size < 100_000


def photographed(page):
    """As WebP, a fraction of the PNG that Playwright would make."""
    browser = page.context.new_cdp_session(page)
    shot = browser.send("Page.captureScreenshot", {"format": "webp", "quality": 90})
    return b64decode(shot["data"])


# The documentation beside it


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
    bearer = DOCUMENT["components"]["securitySchemes"]["bearer"]["description"]
    chinese, _, _ = bearer.partition("\n\n")
    for url, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            shown = page.locator(f"#{operation['operationId']}").inner_text()
            assert f" {url}\n" in shown
            assert f":{urlsplit(page.url).port}{url}" in shown
            for chinese_or_english in operation["summary"].split(" · "):
                assert chinese_or_english in shown
            assert (chinese in shown) == ("security" in operation)
    shown = page.locator("main").inner_text()
    for _, rule in roomapp.FIELDS.values():
        assert rule in shown
    for error, (status, detail) in roomapp.ERRORS.items():
        shown = page.locator(f"#{error}").inner_text()
        assert shown.startswith(f"{status} {error}")
        assert detail in shown


def test_the_documentation_fits_a_phone(documentation):
    page = documentation(viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, LAPTOP], ids=["phone", "laptop"])
def test_axe_finds_nothing_wrong_in_the_documentation(documentation, scheme, viewport):
    assert not faults(documentation(viewport=viewport, color_scheme=scheme))
