"""When the disk, the file or the clock fails: a documented error, a line that helps, no restart."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime, timedelta, timezone

import pytest

from processes import PROJECT, command, linux, make_database, read_answer, start_error

# Root may write what is read-only; without this capability not even root may.
MORTAL = ["setpriv", "--bounding-set=-dac_override"]
needs_setpriv = pytest.mark.skipif(not shutil.which(MORTAL[0]), reason="needs setpriv")


@pytest.fixture
def talk(start):
    """Send messages until one is not done; the message_ids of those that are, and that answer."""

    def talk(server, at_most=2000):
        message_ids = []
        for _ in range(at_most):
            fields = {"room_id": 1, "openid": "ming", "message": "长" * 1900}
            status, answer = server.request("POST", "/room/send_message", json.dumps(fields))
            if answer["response_code"] != 1:
                return message_ids, (status, answer["error"])
            message_ids.append(answer["message_id"])
        return message_ids, None

    return talk


def message_ids(server):
    """The message_ids of room 1."""
    found, answer = [], {"has_more": True}
    while answer["has_more"]:
        answer = server.post("/room/get_message", room_id=1, after=max(found, default=0), limit=500)
        found += [message["message_id"] for message in answer["messages"]]
    return found


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs to be allowed to mount a small disk")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_loses_nothing_and_serves_again_when_there_is_room(small_disk, start, talk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(400_000))
    server = start("--database", small_disk / "roomapp.db", "--quiet")
    server.open_room()
    before, refusal = talk(server)
    assert refusal == (500, "server_error")
    assert "disk is full" in server.log.read_text()
    assert server.request("GET", "/time")[0] == 200
    assert message_ids(server) == before
    ballast.unlink()
    after, _ = talk(server, at_most=5)
    assert len(after) == 5
    assert message_ids(server) == before + after
    assert server.stop() == 0
    with closing(sqlite3.connect(small_disk / "roomapp.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@linux
def test_a_limit_of_the_file_size_loses_nothing_and_serves_again_without_it(start, talk):
    import resource

    server = start("--quiet")
    server.open_room()
    _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (300_000, hard))
    before, refusal = talk(server)
    assert refusal == (500, "server_error")
    assert "disk I/O error" in server.log.read_text()
    assert server.request("GET", "/time")[0] == 200
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    after, _ = talk(server, at_most=5)
    assert len(after) == 5
    assert message_ids(server) == before + after


@needs_setpriv
def test_a_file_that_becomes_read_only_disturbs_nobody(start, talk, tmp_path):
    file = tmp_path / "roomapp.db"
    options = ["--port=0", f"--database={file}", "--quiet"]
    server = start(arguments=[*MORTAL, *command(*options)])
    file.chmod(0o444)  # it is open already
    server.open_room()
    sent, _ = talk(server, at_most=10)
    assert message_ids(server) == sent


@needs_setpriv
def test_a_folder_that_becomes_read_only_disturbs_nobody(start, talk, tmp_path):
    options = ["--port=0", f"--database={tmp_path / 'roomapp.db'}", "--quiet"]
    server = start(arguments=[*MORTAL, *command(*options)])
    tmp_path.chmod(0o555)
    try:
        server.open_room()
        sent, _ = talk(server, at_most=10)
        assert message_ids(server) == sent
    finally:
        tmp_path.chmod(0o755)


@needs_setpriv
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_server_does_not_start_on_what_it_cannot_write(tmp_path, what):
    file = tmp_path / "roomapp.db"
    if what == "file":
        make_database(file)
        file.chmod(0o444)
    else:
        tmp_path.chmod(0o555)
    try:
        line = start_error("--port=0", "--database", file, before=MORTAL)
        assert str(file) in line
    finally:
        tmp_path.chmod(0o755)


def test_while_another_program_holds_the_database_changes_are_refused_and_reading_goes_on(
    start, other_program
):
    server = start()
    room_id = server.open_room()
    other_program.execute("BEGIN IMMEDIATE")
    for _ in range(2):
        joins = [server.send("/usr/join", room_id=room_id, openid=f"g{n}") for n in range(8)]
        for _ in range(10):
            assert server.request("GET", "/time")[0] == 200
            assert server.post("/room/section", section="二")["rooms"]
        for connection in joins:
            status, answer = read_answer(connection)
            assert (status, answer["error"]) == (503, "database_busy")
            connection.close()
    other_program.execute("ROLLBACK")
    assert server.post("/usr/join", room_id=room_id, openid="hong") == {"response_code": 1}


def test_a_file_that_becomes_garbage_is_told_and_can_be_put_back(start, tmp_path):
    file = tmp_path / "roomapp.db"
    server = start()
    room_id = server.open_room()
    server.stop()
    sound = file.read_bytes()
    server = start("--quiet")
    file.write_bytes(os.urandom(len(sound)))
    status, answer = server.request("POST", "/search", '{"key": 1}')
    assert (status, answer["error"]) == (500, "server_error")
    assert re.search("not a database|malformed", server.log.read_text())
    server.process.kill()
    server.process.wait()
    for each in tmp_path.glob("roomapp.db*"):
        each.unlink()
    file.write_bytes(sound)
    server = start()
    assert server.post("/search", key=room_id)["rooms"][0]["room_id"] == room_id
    assert server.post("/usr/join", room_id=room_id, openid="hong") == {"response_code": 1}


def test_a_file_that_goes_away_serves_again_when_it_is_back(start, tmp_path):
    file = tmp_path / "roomapp.db"
    server = start()
    room_id = server.open_room()
    away = [each.rename(f"{each}.away") for each in tmp_path.glob("roomapp.db*")]
    for _ in range(2):
        fields = json.dumps({"room_id": room_id, "openid": "hong"})
        status, answer = server.request("POST", "/usr/join", fields)
        assert (status, answer["error"]) == (500, "server_error")
    assert f"{file} was moved or replaced" in server.log.read_text()
    assert not file.exists(), "no other one is made"
    for each in away:
        each.rename(str(each).removesuffix(".away"))
    assert server.post("/usr/join", room_id=room_id, openid="hong") == {"response_code": 1}


@pytest.mark.parametrize("ending", ["", "-wal"])
def test_a_file_that_is_replaced_is_not_written(start, tmp_path, ending):
    server = start()
    room_id = server.open_room()
    file = tmp_path / f"roomapp.db{ending}"
    for replace in (lambda: None, lambda: shutil.copy(tmp_path / "away", file)):
        file.rename(tmp_path / "away")
        replace()
        fields = json.dumps({"room_id": room_id, "openid": "hong"})
        status, answer = server.request("POST", "/usr/join", fields)
        assert (status, answer["error"]) == (500, "server_error")
        (tmp_path / "away").replace(file)
    assert f"{file} was moved or replaced" in server.log.read_text()
    assert server.post("/usr/join", room_id=room_id, openid="hong") == {"response_code": 1}
    server.stop()
    server = start()
    assert server.post("/search", key=room_id)["rooms"][0]["users_id"] == ["ming", "hong"]


def test_a_clock_that_is_wrong_for_a_while_spoils_no_later_time(start, tmp_path):
    """The machine's clock is moved for the server alone, by a file."""
    jump = tmp_path / "jump"
    jump.write_text("0")
    moved = f"""if True:
        import pathlib, sys, time
        jump = pathlib.Path({str(jump)!r})
        real_ns = time.time_ns
        time.time_ns = lambda: real_ns() + int(jump.read_text() or 0) * 10**9
        sys.path.insert(0, {str(PROJECT)!r})
        import roomapp
        roomapp.main()
    """
    options = ["--port=0", f"--database={tmp_path / 'roomapp.db'}"]
    server = start(arguments=[sys.executable, "-c", moved, *options])
    room_id = server.open_room()
    last_times = [server.request("GET", "/time")[1]["last_time"]]
    year = 365 * 24 * 3600
    for seconds in (0, 3600, -3600, year, 0):
        jump.write_text(str(seconds))
        for _ in range(3):
            shown = datetime.now(timezone.utc) + timedelta(seconds=seconds)
            sent = server.post("/room/send_message", room_id=room_id, openid="ming", message="嗨")
            time = datetime.fromisoformat(sent["time"].replace("Z", "+00:00"))
            assert abs(time - shown) < timedelta(minutes=1)
            last_times.append(server.request("GET", "/time")[1]["last_time"])
            assert last_times[-1] >= sent["time"]
    assert last_times == sorted(set(last_times))
    messages = server.post("/room/get_message", room_id=room_id)["messages"]
    assert len(messages) == 15
    ids = [message["message_id"] for message in messages]
    assert ids == sorted(set(ids))
