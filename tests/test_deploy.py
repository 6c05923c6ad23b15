"""The files of deploy/: what systemd is told, and real proxies in front of the real service."""

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
import time
from contextlib import ExitStack, closing, contextmanager

import pytest
import trustme

import roomapp
from server import STOP_WITHIN
from serving import ONE_SHOT, PROJECT, environment, linux, made, servers

DEPLOY = PROJECT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
NAME = "rooms.example.edu.cn"


def program(name):
    """A program where it is, or a reason to skip."""
    found = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
    return found or pytest.skip(f"there is no {name} here")


# What systemd is told


def adapted(file, words):
    """The text of a file of deploy/ with some words replaced, each of which has to be there."""
    text = (DEPLOY / file).read_text(encoding="utf-8")
    for told, here in words.items():
        assert told in text
        text = text.replace(told, here)
    return text


def settings(unit, name):
    return re.findall(rf"^{name}=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE)


def test_systemd_finds_no_fault_with_the_units(tmp_path):
    shutil.copy(DEPLOY / "roomapp-backup.timer", tmp_path)
    for unit in UNITS:
        here = adapted(unit.name, {"/opt/roomapp/.venv/bin/python": sys.executable})
        (tmp_path / unit.name).write_text(here, encoding="utf-8")
    verify = [program("systemd-analyze"), "verify", *tmp_path.iterdir()]
    done = subprocess.run(verify, **ONE_SHOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_may_do_little(unit):
    analyze = program("systemd-analyze")
    if "--offline" not in subprocess.run([analyze, "--help"], **ONE_SHOT).stdout:
        pytest.skip("systemd-analyze before version 250 judges only what is installed")
    threshold = "--threshold=15"  # of 100, which is everything
    judge = [analyze, "security", "--offline=true", threshold, unit]
    done = subprocess.run(judge, **ONE_SHOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_service_knows_what_a_unit_tells_it(unit):
    (start,) = settings(unit, "ExecStart")
    (told,) = re.findall(r"roomapp\.py ([^']*)", start)
    options = roomapp.arguments().parse_args(shlex.split(told))
    assert options.database.parent.name in settings(unit, "StateDirectory")[0].split()


def test_every_variable_that_an_operator_is_told_is_one_of_the_service():
    known = {roomapp.variable(option) for option in roomapp.OPTIONS | roomapp.SETTINGS}
    for file in DEPLOY.iterdir():
        assert set(re.findall(r"ROOMAPP_\w+", file.read_text(encoding="utf-8"))) <= known


def test_the_service_has_time_to_stop():
    (seconds,) = settings(DEPLOY / "roomapp.service", "TimeoutStopSec")
    assert int(seconds) > STOP_WITHIN


@pytest.mark.skipif(os.name == "nt", reason="runs what systemd would run")
def test_a_backup_is_made_and_those_of_14_days_go(tmp_path):
    database, copies = tmp_path / "roomapp", tmp_path / "roomapp-backups"
    database.mkdir()
    copies.mkdir()
    made(database / "roomapp.db")
    for days in (13.9, 14.1):
        copy = copies / f"roomapp-{days}.db"
        copy.touch()
        then = time.time() - days * 24 * 60 * 60
        os.utime(copy, (then, then))
    unit = tmp_path / "roomapp-backup.service"
    words = {
        "/opt/roomapp/.venv/bin/python": sys.executable,
        "/opt/roomapp": str(PROJECT),
        "/var/lib": str(tmp_path),
        "$$": "$",
        "%%": "%",
    }
    unit.write_text(adapted(unit.name, words), encoding="utf-8")
    for line in settings(unit, "ExecStart") + settings(unit, "ExecStartPost"):
        done = subprocess.run(shlex.split(line), env=environment(), **ONE_SHOT)
        assert done.returncode == 0, done.stderr
    old, new = sorted(each.name for each in copies.iterdir())
    assert old == "roomapp-13.9.db"
    assert re.fullmatch(r"roomapp-\d{8}T\d{6}Z\.db", new)


# Proxies


class Site:
    """A proxy, once it answers: as the campus sees it, under its name."""

    def __init__(self, process, https, http, root):
        self.https = https
        self.http = http
        deadline = time.monotonic() + 20
        while True:
            assert process.poll() is None, "it ended"
            try:
                self.trusted = ssl.create_default_context(cafile=root)
                self.connect().close()
                break
            except OSError:  # no certificate, nobody there, or no handshake yet
                assert time.monotonic() < deadline, "it does not answer"
                time.sleep(0.02)

    def connect(self, source="127.0.0.1"):
        address = ("127.0.0.1", self.https)
        plain = socket.create_connection(address, timeout=20, source_address=(source, 0))
        connection = http.client.HTTPConnection(NAME)
        connection.sock = self.trusted.wrap_socket(plain, server_hostname=NAME)
        return connection

    def request(self, *request, source="127.0.0.1"):
        with closing(self.connect(source)) as connection:
            return answered(connection, *request)


def answered(connection, method, url, body=None, headers=None):
    connection.request(method, url, body, headers or {})
    response = connection.getresponse()
    return response.status, response.headers, response.read().decode()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def running(folder, *words):
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            words,
            env=environment(HOME=str(folder), XDG_DATA_HOME=str(folder)),
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def nginx(folder, service):
    """nginx with our site in front of the port of a service."""
    program_file = program("nginx")
    https, http = free_port(), free_port()
    chain, key, root = (folder / f"{name}.pem" for name in ("chain", "key", "root"))
    authority = trustme.CA()
    authority.cert_pem.write_to_path(root)
    certificate = authority.issue_cert(NAME)
    certificate.private_key_pem.write_to_path(key)
    chain.write_bytes(b"".join(each.bytes() for each in certificate.cert_chain_pems))
    site = adapted(
        "nginx.conf",
        {
            "listen 80;": f"listen 127.0.0.1:{http};",
            "listen [::]:80;": "",
            "listen 443 ": f"listen 127.0.0.1:{https} ",
            "listen [::]:443 ssl http2;": "",
            f"/etc/letsencrypt/live/{NAME}/fullchain.pem": str(chain),
            f"/etc/letsencrypt/live/{NAME}/privkey.pem": str(key),
            "127.0.0.1:8080": f"127.0.0.1:{service}",
        },
    )
    own = "".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if hasattr(os, "geteuid") and os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"daemon off; {user} pid {folder}/pid; error_log {folder}/error.log;"
        "worker_rlimit_nofile 9000; events { worker_connections 4096; }"
        f"http {{ access_log off; {own}\n{site}}}",
        encoding="utf-8",
    )
    words = [program_file, "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    with running(folder, *words) as process:
        yield Site(process, https, http, root)


@contextmanager
def caddy(folder, service):
    """Caddy with our site, and a certificate of its own, in front of the port of a service."""
    program_file = program("caddy")
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
    site = adapted("Caddyfile", {"127.0.0.1:8080": f"127.0.0.1:{service}"})
    (folder / "Caddyfile").write_text(here + site, encoding="utf-8")
    with running(folder, program_file, "run", "--config", str(folder / "Caddyfile")) as process:
        yield Site(process, https, http, folder / "caddy/pki/authorities/local/root.crt")


PROXIES = [nginx, caddy]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with servers(tmp_path_factory.mktemp("service")) as start:
        server = start("--quiet")
        server.open_room()
        yield server


@pytest.fixture(scope="module", params=PROXIES, ids=lambda proxy: proxy.__name__)
def site(request, service, tmp_path_factory):
    with request.param(tmp_path_factory.mktemp("proxy"), service.port) as site:
        yield site


@pytest.mark.parametrize(
    ("status", "asked"),
    [
        (200, ("GET", "/time")),
        (200, ("HEAD", "/time")),
        (200, ("POST", "/search", {"key": "二"})),
        (200, ("POST", "/usr/complete", {"openid": "ming", "sex": "女", "preference": ["🏸"]})),
        (400, ("POST", "/usr/info", {"openid": "两 个"})),
        (400, ("POST", "/usr/info", "{")),
        (400, ("POST", "/usr/info")),
        (403, ("POST", "/room/delete", {"room_id": 1, "openid": "hong"})),
        (404, ("POST", "/usr/info", {"openid": "nobody"})),
        (404, ("GET", "/%E6%88%BF%2F..//?key=%0A")),
        (405, ("GET", "/usr/join")),
        (409, ("POST", "/room/kick", {"room_id": 1, "openid": "ming"})),
        (413, ("POST", "/search", "x" * 65 * 1024)),
    ],
    ids=lambda value: str(value)[:40],
)
def test_requests_and_answers_pass_through_unharmed(site, service, status, asked):
    method, url, *body = asked
    body = [json.dumps(each) if isinstance(each, dict) else each for each in body]
    with closing(service.connect()) as connection:
        direct = answered(connection, method, url, *body)
    through = site.request(method, url, *body)
    assert direct[0] == through[0] == status
    assert direct[2] == through[2]
    for header in ("Content-Type", "Content-Length", "Cache-Control", "Allow"):
        assert direct[1][header] == through[1][header]
    assert through[1]["X-Content-Type-Options"] == "nosniff"


def test_a_connection_is_kept_also_after_an_error(site):
    with closing(site.connect()) as connection:
        for url, body, status in [
            ("/search", '{"key": 1}', 200),
            ("/usr/info", "{", 400),
            ("/search", "x" * 65 * 1024, 413),
            ("/search", '{"key": 1}', 200),
        ]:
            assert answered(connection, "POST", url, body)[0] == status


def test_plain_http_is_sent_to_https_which_browsers_remember(site):
    with closing(http.client.HTTPConnection("127.0.0.1", site.http)) as connection:
        status, headers, _ = answered(connection, "GET", "/time?a=1", None, {"Host": NAME})
    assert status in (301, 308)
    assert re.fullmatch(rf"https://{NAME}(:{site.https})?/time\?a=1", headers["Location"])
    _, headers, _ = site.request("GET", "/time")
    assert headers["Strict-Transport-Security"] == "max-age=31536000"


def refusal(error):
    """How a proxy has to tell what the service would."""
    _, detail = roomapp.ERRORS[error]
    return {"response_code": 0, "error": error, "detail": detail}


def test_what_a_proxy_refuses_as_too_large_is_told_as_the_service_does(site):
    status, headers, body = site.request("POST", "/search", b"x" * 2 * 1024 * 1024)
    assert (status, headers["Content-Type"]) == (413, "application/json")
    assert json.loads(body) == refusal("too_large")


@pytest.fixture(params=PROXIES, ids=lambda proxy: proxy.__name__)
def before(request, tmp_path):
    """Put a proxy before the port of a service."""
    with ExitStack() as stack:
        yield lambda port: stack.enter_context(request.param(tmp_path, port))


def test_that_the_service_is_away_is_told_as_an_error_of_it(before):
    status, headers, body = before(free_port()).request("GET", "/time")
    assert (status, headers["Content-Type"]) == (502, "application/json")
    assert json.loads(body) == refusal("server_error")


def test_nobody_logs_in_from_the_address_of_another(before, start, tmp_path):
    hasty = "import roomapp; roomapp.LOGINS_AT_ONCE = 2; roomapp.LOGINS_A_SECOND = 0.001"
    server = start(
        arguments=[sys.executable, "-c", f"{hasty}; roomapp.main()", "--port=0"],
        ROOMAPP_DATABASE=str(tmp_path / "roomapp.db"),
        ROOMAPP_TRUSTED_PROXY="127.0.0.1",
        ROOMAPP_WECHAT_APPID="a",
        ROOMAPP_WECHAT_SECRET="s",
        ROOMAPP_WECHAT_API=f"http://127.0.0.1:{free_port()}",
    )
    site = before(server.port)

    def login(forged, **source):
        headers = {"X-Forwarded-For": forged}
        return site.request("POST", "/usr/login", '{"code": "unknown"}', headers, **source)[0]

    assert [login(f"192.0.2.{number}") for number in range(3)] == [503, 503, 429]
    if sys.platform == "linux":  # whose loopback has many addresses
        assert login("192.0.2.0", source="127.0.0.2") == 503


def test_nobody_vouches_for_an_openid_from_outside(before, start):
    server = start(ROOMAPP_TRUST_WX_OPENID="1")
    request = "POST", "/usr/roomlist1", '{"openid": "ming"}', {"X-WX-OPENID": "ming"}
    with closing(server.connect()) as connection:
        assert answered(connection, *request)[0] == 200
    status, headers, body = before(server.port).request(*request)
    assert (status, json.loads(body)) == (401, refusal("login_required"))
    assert headers["WWW-Authenticate"] == "Bearer"


def test_the_document_for_machines_tells_the_address_of_the_site(before, start):
    site = before(start(ROOMAPP_TRUSTED_PROXY="127.0.0.1").port)
    _, _, body = site.request("GET", "/openapi.json", None, {"X-Forwarded-Proto": "http"})
    assert json.loads(body)["servers"] == [{"url": f"https://{NAME}"}]


# The limits of nginx


def statuses(connection, requests):
    """The statuses of so many requests that are sent at once."""
    request = f"GET /time HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()
    connection.sock.sendall(request * requests)
    found = []
    with connection.sock.makefile("rb") as answers:
        for _ in range(requests):
            found.append(int(answers.readline().split()[1]))
            answers.read(int(http.client.parse_headers(answers)["Content-Length"]))
    return found


@pytest.mark.slow
@linux
def test_who_asks_too_much_is_told_so_and_nobody_else_is(tmp_path):
    with nginx(tmp_path, free_port()) as site, ExitStack() as stack:  # 502 is answered fastest
        connections = [stack.enter_context(closing(site.connect())) for _ in range(5)]
        found = [status for each in connections for status in statuses(each, 900)]
        assert found[:1000] == [502] * 1000, "which is the burst"
        assert found.count(429) > 1000
        assert site.request("GET", "/time", source="127.0.0.2")[0] == 502


@pytest.fixture
def many_descriptors():
    """A limit of open files for a thousand clients."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
@linux
def test_who_has_too_much_under_way_is_told_so_and_nobody_else_is(tmp_path, many_descriptors):
    with nginx(tmp_path, free_port()) as site, ExitStack() as stack:
        for _ in range(1000):
            half = stack.enter_context(closing(site.connect()))
            half.putrequest("POST", "/search")
            half.putheader("Content-Length", "100")
            half.endheaders(b"{")
        answers = (site.request("GET", "/time") for _ in range(100))  # until it has read them all
        _, headers, body = next(answer for answer in answers if answer[0] == 429)
        assert headers["Content-Type"] == "application/json"
        assert headers["Retry-After"] == "1"
        _, detail = roomapp.ERRORS["too_many_requests"]
        told = {"response_code": 0, "error": "too_many_requests", "detail": detail}
        assert json.loads(body) == told
        assert site.request("GET", "/time", source="127.0.0.2")[0] == 502
