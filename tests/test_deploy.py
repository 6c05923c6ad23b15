"""The files of deploy/: the units, and nginx and Caddy in front of the real service."""

import http.client
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import roomapp
from processes import ONE_SHOT, PROJECT, command, environment, linux, make_database, servers
from service import options, serving
from wechat_server import APPID, SECRET, stand_in

DEPLOY = PROJECT / "deploy"
FILES = sorted(DEPLOY.iterdir())
UNITS = sorted(DEPLOY.glob("*.service"))
OURS = [unit for unit in UNITS if "@" not in unit.name]  # which run roomapp.py
NAME = "rooms.example.edu.cn"
# Words for the operator that are not of our code, but of SQLite.
SQLITE_WORDS = {
    "attempt to write a readonly database",
    "database disk image is malformed",
    "database is locked",
    "database or disk is full",
    "disk I/O error",
    "file is not a database",
}


def find_program(name):
    """The path of a program; the test is skipped where there is none."""
    found = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
    return found or pytest.skip(f"needs {name}")


def adapt(name, replacements):
    """The text of a file of deploy/ with some words replaced, each of which it must have."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    for word, replacement in replacements.items():
        assert word in text
        text = text.replace(word, replacement)
    return text


# The page


def test_the_chinese_guide_has_the_same_commands_and_lines():
    def commands_and_lines(name):
        text = (DEPLOY / name).read_text(encoding="utf-8")
        return re.findall(r"```sh\n.*?```|^\| `.*?` \| ", text, re.DOTALL | re.MULTILINE)

    assert commands_and_lines("README.zh-CN.md") == commands_and_lines("README.md")


def test_the_words_of_the_table_are_those_of_the_code():
    page = (DEPLOY / "README.md").read_text(encoding="utf-8")
    table = page.partition("## When something is wrong")[2]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    words = {word for cell in cells for word in re.findall("`(.*?)`", cell)}
    assert words >= SQLITE_WORDS
    sources = [PROJECT / "roomapp.py", *(PROJECT / "service").glob("*.py")]
    code = "".join(file.read_text(encoding="utf-8") for file in sources)
    for word in words - SQLITE_WORDS:
        assert all(part in code for part in word.split(": ")), word


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_variables_and_links_exist(file):
    text = file.read_text(encoding="utf-8")
    known = {options.variable(name) for name in options.OPTIONS}
    assert {name for name in re.findall(r"ROOMAPP_\w*", text) if name != "ROOMAPP_"} <= known
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (DEPLOY / link).exists(), link


# The units


def settings(unit, name):
    return re.findall(rf"^{name}=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE)


def test_systemd_finds_no_fault_with_the_units(tmp_path):
    analyze = find_program("systemd-analyze")
    shutil.copy(DEPLOY / "roomapp-backup.timer", tmp_path)
    for unit in UNITS:
        program = "/opt/roomapp/.venv/bin/python" if unit in OURS else "/etc/roomapp-failed"
        text = adapt(unit.name, {program: sys.executable})
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    done = subprocess.run([analyze, "verify", *tmp_path.iterdir()], **ONE_SHOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_may_do_little(unit):
    analyze = find_program("systemd-analyze")
    if "--offline" not in subprocess.run([analyze, "--help"], **ONE_SHOT).stdout:
        pytest.skip("needs systemd 250, which judges units that are not installed")
    threshold = "--threshold=15"  # of 100, which is everything
    words = [analyze, "security", "--offline=true", threshold, unit]
    done = subprocess.run(words, **ONE_SHOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("unit", OURS, ids=lambda unit: unit.name)
def test_a_unit_uses_options_of_the_service_and_a_folder_that_it_may_write(unit):
    (start,) = settings(unit, "ExecStart")
    (words,) = re.findall(r"roomapp\.py ([^']*)", start)
    arguments = options.parser(roomapp.run, "").parse_args(shlex.split(words))
    folders = [f"/var/lib/{name}" for name in settings(unit, "StateDirectory")[0].split()]
    assert arguments.database.parent.as_posix() in folders


def test_a_wrong_setting_fails_and_is_not_tried_again(tmp_path):
    """systemd restarts what fails, but for this exit status."""
    unit = DEPLOY / "roomapp.service"
    assert settings(unit, "Restart") == ["on-failure"]
    (status,) = settings(unit, "RestartPreventExitStatus")
    page = (DEPLOY / "README.md").read_text(encoding="utf-8")
    as_pasted = dict(re.findall(r"^(ROOMAPP_WECHAT_\w+)=(.*)$", page, re.MULTILINE))
    assert set(as_pasted.values()) == {"..."}
    file = tmp_path / "roomapp.db"
    done = subprocess.run(
        command("--port=0", "--database", file), env=environment(**as_pasted), **ONE_SHOT
    )
    assert (done.returncode, done.stdout) == (int(status), "")
    assert "ROOMAPP_WECHAT_APPID" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not file.exists()


@pytest.mark.parametrize("unit", OURS, ids=lambda unit: unit.name)
def test_a_failure_is_told(unit):
    (told,) = settings(unit, "OnFailure")
    template = DEPLOY / told.replace("%n", "")
    (start,) = settings(template, "ExecStart")
    program, _ = start.split()
    assert [program] == settings(template, "ConditionPathExists")
    assert f"/dev/stdin {program} " in (DEPLOY / "README.md").read_text(encoding="utf-8")


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
def test_the_script_of_the_guide_sends_the_name_of_the_unit(tmp_path):
    page = (DEPLOY / "README.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^install -m 755 .*\n(#!(?:.*\n)*?)END$", page, re.MULTILINE)
    curl = tmp_path / "curl"
    curl.write_text('#!/bin/sh\nfor each; do echo "$each"; done\n')
    curl.chmod(0o755)
    words = ["/bin/sh", "-c", script, "roomapp-failed", "roomapp-backup.service"]
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(words, env=environment(PATH=path), **ONE_SHOT)
    *_, body, url = done.stdout.splitlines()
    content = {"content": "roomapp-backup.service failed"}
    assert json.loads(body) == {"msgtype": "text", "text": content}
    assert url.startswith("https://")


def test_the_service_has_time_to_stop():
    (seconds,) = settings(DEPLOY / "roomapp.service", "TimeoutStopSec")
    assert int(seconds) > serving.STOP_WITHIN


@pytest.mark.skipif(os.name == "nt", reason="needs a shell, as systemd runs it")
def test_a_backup_is_made_and_those_of_14_days_go(tmp_path):
    database, copies = tmp_path / "roomapp", tmp_path / "roomapp-backups"
    database.mkdir()
    copies.mkdir()
    make_database(database / "roomapp.db")
    for days in (13.9, 14.1):
        copy = copies / f"roomapp-{days}.db"
        copy.touch()
        then = time.time() - days * 24 * 60 * 60
        os.utime(copy, (then, then))
    unit = tmp_path / "roomapp-backup.service"
    replacements = {
        "/opt/roomapp/.venv/bin/python": sys.executable,
        "/opt/roomapp": str(PROJECT),
        "/var/lib": str(tmp_path),
        "$$": "$",
        "%%": "%",
    }
    unit.write_text(adapt(unit.name, replacements), encoding="utf-8")
    for line in settings(unit, "ExecStart") + settings(unit, "ExecStartPost"):
        done = subprocess.run(shlex.split(line), env=environment(), **ONE_SHOT)
        assert done.returncode == 0, done.stderr
    old, new = sorted(each.name for each in copies.iterdir())
    assert old == "roomapp-13.9.db"
    assert re.fullmatch(r"roomapp-\d{8}T\d{6}Z\.db", new)


# nginx and Caddy


class Site:
    """A proxy with our site, once it answers."""

    def __init__(self, process, https, http, root):
        self.https = https
        self.http = http
        deadline = time.monotonic() + 20
        while True:
            assert process.poll() is None, "the proxy ended"
            try:
                self.context = ssl.create_default_context(cafile=root)
                self.connect().close()
                break
            except OSError:  # no certificate, no listener, or no handshake yet
                assert time.monotonic() < deadline, "the proxy does not answer"
                time.sleep(0.02)

    def connect(self, source="127.0.0.1"):
        address = ("127.0.0.1", self.https)
        plain = socket.create_connection(address, timeout=20, source_address=(source, 0))
        connection = http.client.HTTPConnection(NAME)
        connection.sock = self.context.wrap_socket(plain, server_hostname=NAME)
        return connection

    def request(self, *request, source="127.0.0.1"):
        with closing(self.connect(source)) as connection:
            return ask(connection, *request)


def ask(connection, method, url, body=None, headers=None):
    connection.request(method, url, body, headers or {})
    response = connection.getresponse()
    return response.status, response.headers, response.read().decode()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def run(folder, *words):
    variables = environment(HOME=str(folder), XDG_DATA_HOME=str(folder))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, env=variables, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def nginx(folder, service_port):
    """nginx with our site in front of a port."""
    program = find_program("nginx")
    trustme = pytest.importorskip("trustme", reason="needs trustme to make certificates")
    https, http = free_port(), free_port()
    chain, key, root = (folder / f"{name}.pem" for name in ("chain", "key", "root"))
    authority = trustme.CA()
    authority.cert_pem.write_to_path(root)
    certificate = authority.issue_cert(NAME)
    certificate.private_key_pem.write_to_path(key)
    chain.write_bytes(b"".join(each.bytes() for each in certificate.cert_chain_pems))
    replacements = {
        "listen 80;": f"listen 127.0.0.1:{http};",
        "listen [::]:80;": "",
        "listen 443 ": f"listen 127.0.0.1:{https} ",
        "listen [::]:443 ssl http2;": "",
        f"/etc/letsencrypt/live/{NAME}/fullchain.pem": str(chain),
        f"/etc/letsencrypt/live/{NAME}/privkey.pem": str(key),
        "127.0.0.1:8080": f"127.0.0.1:{service_port}",
    }
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    own = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    user = "user root;" if hasattr(os, "geteuid") and os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"daemon off; {user} pid {folder}/pid; error_log {folder}/error.log;"
        "events { worker_connections 1024; }"
        f"http {{ access_log off; {own}\n{adapt('nginx.conf', replacements)}}}",
        encoding="utf-8",
    )
    words = [program, "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    with run(folder, *words) as process:
        yield Site(process, https, http, root)


@contextmanager
def caddy(folder, service_port):
    """Caddy with our site, and a certificate of its own, in front of a port."""
    program = find_program("caddy")
    https, http = free_port(), free_port()
    here = f"""{{
        admin off
        default_bind 127.0.0.1
        https_port {https}
        http_port {http}
        local_certs
        skip_install_trust
    }}
    """
    site = adapt("Caddyfile", {"127.0.0.1:8080": f"127.0.0.1:{service_port}"})
    (folder / "Caddyfile").write_text(here + site, encoding="utf-8")
    with run(folder, program, "run", "--config", str(folder / "Caddyfile")) as process:
        yield Site(process, https, http, folder / "caddy/pki/authorities/local/root.crt")


@pytest.fixture(scope="module", params=[nginx, caddy], ids=lambda proxy: proxy.__name__)
def put_before(request):
    """Put a proxy with our site in front of a port."""
    return request.param


@pytest.fixture(scope="module")
def service(put_before, tmp_path_factory):
    """The service, in the verified mode, with a limit of two logins from an address."""
    folder = tmp_path_factory.mktemp("service")
    strict = "import roomapp; roomapp.LOGINS.at_once = 2; roomapp.LOGINS.per_second = 0.001"
    arguments = [sys.executable, "-c", f"{strict}; roomapp.main()", "--port=0"]
    with stand_in() as wechat, servers(folder) as start:
        yield start(
            arguments=[*arguments, f"--database={folder / 'roomapp.db'}"],
            ROOMAPP_TRUSTED_PROXY="127.0.0.1",
            ROOMAPP_WECHAT_APPID=APPID,
            ROOMAPP_WECHAT_SECRET=SECRET,
            ROOMAPP_WECHAT_API=wechat.api,
        )


@pytest.fixture(scope="module")
def site(put_before, service, tmp_path_factory):
    with put_before(tmp_path_factory.mktemp("proxy"), service.port) as site:
        yield site


@pytest.mark.parametrize(
    ("status", "asked"),
    [
        (200, ("GET", "/")),
        (401, ("POST", "/search", '{"key": 1}')),
        (404, ("GET", "/%E6%88%BF%2F..//?key=%0A")),
        (405, ("GET", "/usr/join")),
        (413, ("POST", "/search", "x" * 65 * 1024)),
    ],
    ids=lambda value: str(value)[:40],
)
def test_requests_and_answers_pass_through_unharmed(site, service, status, asked):
    with closing(service.connect()) as connection:
        direct = ask(connection, *asked)
    through = site.request(*asked)
    assert direct[0] == through[0] == status
    assert direct[2] == through[2]
    for name in ("Allow", "Cache-Control", "Content-Type", "WWW-Authenticate"):
        assert direct[1][name] == through[1][name]


def test_a_login_and_the_calls_behind_it_work_over_https(site):
    with closing(site.connect()) as connection:
        _, _, body = ask(connection, "POST", "/usr/login", '{"code": "code-ming"}')
        headers = {"Authorization": f"Bearer {json.loads(body)['token']}"}
        room = {"name": "一起🏸", "section": "羽毛球", "description": "", "room_owner_id": "ming"}
        ask(connection, "POST", "/room/add", json.dumps(room), headers)
        _, _, body = ask(connection, "POST", "/search", '{"key": 1}', headers)
    assert json.loads(body)["rooms"][0]["name"] == "一起🏸"


def test_plain_http_is_sent_to_https_which_browsers_remember(site):
    with closing(http.client.HTTPConnection("127.0.0.1", site.http)) as connection:
        status, headers, _ = ask(connection, "GET", "/time?a=1", None, {"Host": NAME})
    assert status in (301, 308)
    assert re.fullmatch(rf"https://{NAME}(:{site.https})?/time\?a=1", headers["Location"])
    _, headers, _ = site.request("GET", "/time")
    assert headers["Strict-Transport-Security"] == "max-age=31536000"


@linux  # whose loopback has many addresses
def test_logins_are_counted_by_the_address_of_the_client(site):
    def login(forged, source):
        headers = {"X-Forwarded-For": forged}
        return site.request("POST", "/usr/login", '{"code": "x"}', headers, source=source)[0]

    assert [login(f"192.0.2.{number}", "127.0.0.2") for number in range(3)] == [401, 401, 429]
    assert login("192.0.2.0", "127.0.0.3") == 401


@contextmanager
def mirror():
    """A server that answers with the headers that it received."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content = json.dumps({name.lower(): value for name, value in self.headers.items()})
            self.wfile.write(f"HTTP/1.0 200 OK\r\n\r\n{content}".encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_what_a_client_says_of_itself_is_replaced_or_dropped(put_before, tmp_path):
    forged = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "ftp", "X-WX-OPENID": "ming"}
    with mirror() as port, put_before(tmp_path, port) as site:
        _, _, body = site.request("GET", "/time", None, forged)
    received = json.loads(body)
    assert received["host"] == NAME
    assert received["x-forwarded-for"] == "127.0.0.1"
    assert received["x-forwarded-proto"] == "https"
    assert "x-wx-openid" not in received


def refusal(error):
    """A refusal as the service writes it."""
    _, detail = roomapp.ERRORS[error]
    return {"response_code": 0, "error": error, "detail": detail}


def test_what_a_proxy_refuses_as_too_large_has_the_answer_of_the_service(site):
    status, headers, body = site.request("POST", "/search", b"x" * 2 * 1024 * 1024)
    assert (status, headers["Content-Type"]) == (413, "application/json")
    assert json.loads(body) == refusal("too_large")


def test_without_the_service_the_answer_is_an_error_of_the_service(put_before, tmp_path):
    with put_before(tmp_path, free_port()) as site:
        status, headers, body = site.request("GET", "/time")
    assert (status, headers["Content-Type"]) == (502, "application/json")
    assert json.loads(body) == refusal("server_error")


@linux
def test_nginx_refuses_who_asks_too_much_and_nobody_else(tmp_path):
    with nginx(tmp_path, free_port()) as site:  # where 502 is the fastest answer
        answers = [answer for _ in range(5) for answer in ask_at_once(site, 900)]
        assert [status for status, _, _ in answers[:1000]] == [502] * 1000, "which is the burst"
        _, headers, body = next(answer for answer in answers if answer[0] == 429)
        assert headers["Content-Type"] == "application/json"
        assert headers["Retry-After"] == "1"
        assert json.loads(body) == refusal("too_many_requests")
        assert site.request("GET", "/time", source="127.0.0.2")[0] == 502


def ask_at_once(site, requests):
    """The answers to so many requests on one connection, all sent before the first is read."""
    request = f"GET /time HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()
    with closing(site.connect()) as connection:
        connection.sock.sendall(request * requests)
        with connection.sock.makefile("rb") as file:
            return [read_answer(file) for _ in range(requests)]


def read_answer(file):
    status = int(file.readline().split()[1])
    headers = http.client.parse_headers(file)
    return status, headers, file.read(int(headers["Content-Length"]))
