"""docs/mini-program.md: its code is run as it stands there, against a service in either mode."""

import json
import re
import shutil
import subprocess

import pytest

from processes import ONE_SHOT, PROJECT

pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="needs node to run its code")

DOCUMENT = (PROJECT / "docs/mini-program.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```js\n// (\S+\.js)\n(.*?)```", DOCUMENT, re.DOTALL))


@pytest.fixture(params=["open", "verified"])
def server(request, start):
    if request.param == "open":
        return start()
    return start(ROOMAPP_CHECK_TEXT="0", **request.getfixturevalue("variables"))


@pytest.fixture
def is_verified(request):
    return "verified" in request.node.callspec.id


@pytest.fixture
def run(tmp_path):
    """Run a script beside the files of the document; what it passes to `show`."""

    def run(server, script):
        for name, code in FILES.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            address = f"http://127.0.0.1:{server.port}"
            file.write_text(code.replace("http://127.0.0.1:8080", address), encoding="utf-8")
        shutil.copy(PROJECT / "tests/mini_program.js", tmp_path / "wechat.js")
        begin = """
            const wechat = require('./wechat')
            const { call, me, deleteMe } = require('./rooms')
            const shown = {}
            const show = values => Object.assign(shown, values)
            const room = { name: '一', section: '二', description: '' }
            const add = id =>
              call('/room/add', openid => ({ ...room, room_owner_id: openid, ...id }))
            ;(async () => {
        """
        end = "\nconsole.log(JSON.stringify(shown)) })()"
        done = subprocess.run(["node", "-e", begin + script + end], cwd=tmp_path, **ONE_SHOT)
        assert not done.stderr, done.stderr
        return json.loads(done.stdout)

    return run


def test_the_document_has_the_client_and_two_pages():
    assert list(FILES) == ["rooms.js", "pages/mine/mine.js", "pages/room/room.js"]


def test_it_logs_in_once_and_knows_its_own_openid(server, run, is_verified):
    shown = run(
        server,
        """
        const rooms = await Promise.all([add(), add()])
        const { openid, exist } = await me()
        show({ openid, exist, rooms: rooms.map(({ data }) => data.room_id).sort() })
        show({ logins: wechat.calls.filter(each => each === 'POST /usr/login').length })
        show({ stored: wechat.storage.openid })
        const profile = { sex: 1, preference: [] }
        const { data } = await call('/usr/complete', openid => ({ openid, ...profile }))
        show({ done: data.response_code })
        """,
    )
    assert shown["rooms"] == [1, 2]
    assert (shown["logins"], shown["exist"], shown["done"]) == (1, 0, 1)
    if is_verified:
        assert shown["openid"] == "ming"
    else:
        assert shown["openid"] == shown["stored"]
        assert server.post("/usr/info", openid=shown["openid"])["response_code"] == 1


def test_it_is_the_same_person_after_a_restart_and_a_new_one_after_leaving(server, run):
    shown = run(
        server,
        """
        const restart = () => { delete require.cache[require.resolve('./rooms')] }
        const first = await me()
        await call('/usr/complete', openid => ({ openid, sex: 0, preference: [] }))
        restart()
        const second = await require('./rooms').me()
        show({ same: first.openid === second.openid, exist: second.exist })
        const rooms = require('./rooms')
        show({ left: (await rooms.deleteMe()).response_code, stored: Object.keys(wechat.storage) })
        show({ existsAfterwards: (await rooms.me()).exist })
        """,
    )
    assert shown == {"same": True, "exist": 1, "left": 1, "stored": [], "existsAfterwards": 0}


def test_an_answer_has_its_status_its_headers_and_its_body(server, run, is_verified):
    shown = run(
        server,
        """
        const { statusCode, header, data } = await call('/search', () => ({ key: '' }))
        show({ statusCode, type: header['content-type'], field: data.field })
        let last
        for (let count = 0; count < 11; count++) last = await add()
        show({ last: last.statusCode, wait: Number(last.header['retry-after'] || 0) })
        """,
    )
    assert (shown["statusCode"], shown["field"]) == (400, "key")
    assert shown["type"] == "application/json"
    assert shown["last"] == (429 if is_verified else 200)
    assert bool(shown["wait"]) == is_verified


def test_a_lost_answer_is_asked_for_again_and_nothing_is_done_twice(server, run):
    shown = run(
        server,
        """
        const seen = []
        const see = async promise => {
          const answer = await promise.catch(({ errMsg }) => ({ data: { room_id: errMsg } }))
          seen.push(answer.data.room_id)
        }
        await me()
        wechat.lose(1)
        await see(add())
        await see(add())
        wechat.lose(2)
        await see(add({ request_id: 'again' }))
        await see(add({ request_id: 'again' }))
        await see(add())
        show({ seen })
        """,
    )
    assert shown["seen"] == [1, 2, "request:fail", 3, 4]


@pytest.mark.parametrize("server", ["verified"], indirect=True)
def test_it_logs_in_again_when_it_must(server, run):
    shown = run(
        server,
        """
        const seen = []
        const logins = () => wechat.calls.filter(each => each === 'POST /usr/login').length
        const see = ({ room_id, error }) => seen.push([room_id || error, logins()])
        const open = () => add().then(({ data }) => see(data), see)
        await open()
        wechat.holdToken('stale')
        await open() // the second login brings no token that is believed either
        wechat.holdToken()
        await open()
        wechat.holdToken('stale')
        wechat.useCode('unknown')
        await open()
        wechat.holdToken()
        wechat.useCode('code-ming')
        await open()
        show({ seen })
        """,
    )
    expected = [[1, 1], ["login_required", 2], [2, 2], ["login_failed", 3], [3, 4]]
    assert shown["seen"] == expected


def test_a_list_polls_while_it_is_shown_and_marks_what_is_unread(server, run):
    shown = run(
        server,
        """
        await me()
        wechat.calls.length = 0
        const mine = wechat.load('./pages/mine/mine.js')
        const counts = []
        const count = () => counts.push(wechat.calls.splice(0).length)
        mine.onShow()
        await wechat.settle()
        count() // the time and the list
        await wechat.tick()
        count() // the time alone
        mine.onHide()
        await wechat.tick()
        count() // nothing
        show({ counts, timers: wechat.timers.size, has_more: mine.data.has_more })
        """,
    )
    assert shown["counts"] == [2, 1, 0]
    assert shown["timers"] == 0
    assert shown["has_more"] is False


@pytest.mark.slow
@pytest.mark.parametrize("server", ["open"], indirect=True)
def test_a_list_grows_at_its_end_and_shows_what_is_unread(server, run):
    rooms = [server.open_room() for _ in range(30)]
    shown = run(
        server,
        f"""
        for (let id = 1; id <= {len(rooms)}; id++) {{
          await call('/usr/join', openid => ({{ room_id: id, openid }}))
        }}
        const say = {{ room_id: 30, openid: 'ming', message: '在吗' }}
        await call('/room/send_message', () => say)
        const mine = wechat.load('./pages/mine/mine.js')
        const see = () => [mine.data.rooms.length, mine.data.has_more]
        const unread = () => mine.data.rooms.filter(each => each.isUnread).map(each => each.room_id)
        mine.onShow()
        await wechat.settle()
        show({{ first: see(), unread: unread() }})
        await mine.onReachBottom()
        show({{ second: see() }})
        await mine.onReachBottom()
        mine.onHide()
        const conversation = wechat.load('./pages/room/room.js')
        await conversation.onLoad({{ room_id: '30' }})
        conversation.onShow()
        await wechat.settle()
        conversation.onUnload()
        mine.onShow()
        await wechat.settle()
        mine.onUnload()
        show({{ third: see(), unreadAfterwards: unread(), timers: wechat.timers.size }})
        """,
    )
    assert shown["first"] == [20, True]
    assert shown["second"] == shown["third"] == [30, False]
    assert shown["unread"] == [30]
    assert (shown["unreadAfterwards"], shown["timers"]) == ([], 0)


def test_a_conversation_fetches_only_what_is_new_and_sends_once(server, run, is_verified):
    shown = run(
        server,
        """
        const { data: { room_id } } = await add()
        for (let number = 0; number < 25; number++) {
          const message = `第${number}句`
          await call('/room/send_message', openid => ({ room_id, openid, message }))
        }
        const page = wechat.load('./pages/room/room.js')
        const texts = () => page.data.messages.map(each => each.message)
        await page.onLoad({ room_id: String(room_id) })
        page.onShow()
        await wechat.settle()
        show({ first: texts().length, mine: page.data.openid === (await me()).openid })
        await call('/room/send_message', openid => ({ room_id, openid, message: '新的' }))
        wechat.calls.length = 0
        await wechat.tick()
        show({ second: texts().slice(-2), calls: [...wechat.calls] })
        wechat.lose(2)
        await page.send({ detail: { value: '在吗' } }).catch(() => {})
        await page.send({ detail: { value: '在吗' } })
        show({ third: texts().slice(-2), share: page.onShareAppMessage().path })
        page.onHide()
        await wechat.settle()
        show({ timers: wechat.timers.size, read: wechat.storage[`read-${room_id}`] })
        show({ newest: page.data.messages.slice(-1)[0].message_id })
        await call('/room/delete', openid => ({ room_id, openid }))
        page.onShow()
        await wechat.settle()
        show({ timersOfADeletedRoom: wechat.timers.size })
        """,
    )
    assert (shown["first"], shown["mine"]) == (25, True)
    assert shown["second"] == ["第24句", "新的"]
    assert shown["calls"] == ["POST /room/get_message"]
    assert shown["third"] == ["新的", "在吗"]
    assert shown["share"] == "/pages/room/room?room_id=1"
    assert shown["read"] == shown["newest"]
    assert shown["timers"] == shown["timersOfADeletedRoom"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("server", ["open"], indirect=True)
def test_a_long_conversation_is_fetched_in_pages_both_ways(server, run):
    room_id = server.open_room()

    def send(numbers):
        for number in numbers:
            message = {"room_id": room_id, "openid": "ming", "message": str(number)}
            server.post("/room/send_message", **message)

    send(range(130))
    shown = run(
        server,
        """
        const page = wechat.load('./pages/room/room.js')
        const numbers = () => page.data.messages.map(each => Number(each.message))
        await page.onLoad({ room_id: '1' })
        await page.fetchNew()
        show({ first: [numbers()[0], numbers().length, page.data.has_more] })
        await page.fetchOlder()
        show({ second: [numbers()[0], numbers().length, page.data.has_more] })
        for (let number = 130; number < 350; number++) {
          const fields = { room_id: 1, openid: 'ming', message: String(number) }
          await call('/room/send_message', () => fields)
        }
        await page.fetchNew()
        show({ numbers: numbers() })
        """,
    )
    assert shown["first"] == [30, 100, True]
    assert shown["second"] == [0, 130, False]
    assert shown["numbers"] == list(range(350))


@pytest.mark.slow
@pytest.mark.parametrize("server", ["verified"], indirect=True)
def test_who_comes_by_a_card_can_join(server, run):
    shown = run(
        server,
        """
        const { data: { room_id } } = await add()
        await call('/room/send_message', openid => ({ room_id, openid, message: '来' }))
        wechat.useCode('code-hong')
        for (const file of Object.keys(require.cache)) {
          if (!file.endsWith('wechat.js')) delete require.cache[file]
        }
        const page = wechat.load('./pages/room/room.js')
        await page.onLoad({ room_id: String(room_id) })
        page.onShow()
        await wechat.settle()
        show({ isOutside: page.data.isOutside, messages: page.data.messages.length })
        await page.join()
        page.onHide()
        show({ isOutsideAfterwards: page.data.isOutside, text: page.data.messages[0].message })
        """,
    )
    assert shown == {
        "isOutside": True,
        "messages": 0,
        "isOutsideAfterwards": False,
        "text": "来",
    }
