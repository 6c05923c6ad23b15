"""Keeping the data: backups, the way back, the look at its health, older schemas."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from peewee import OperationalError
from webtest import TestApp

from processes import (
    ONE_SHOT,
    PROJECT,
    command,
    environment,
    linux,
    make_database,
    signals,
    start_error,
)
from roomapp import app
from service import backup, schema
from service.database import OLDEST_VERSION, SetupError, close_database, database
from service.login import Token
from service.moderation import Report
from service.schema import SCHEMA_VERSION, open_database


@pytest.fixture
def file(tmp_path):
    return tmp_path / "roomapp.db"


@pytest.fixture
def run(file):
    """Run a command on the database; it must succeed."""

    def run(*options, status=0):
        done = subprocess.run(command(*options, "--database", file), env=environment(), **ONE_SHOT)
        assert done.returncode == status, done.stderr
        return done

    return run


def query(file, sql):
    with closing(sqlite3.connect(file)) as connection:
        return [row[0] for row in connection.execute(sql)]


def fill(file, megabytes):
    """A database with so much in one table."""
    make_database(file)
    with closing(sqlite3.connect(file)) as connection:
        rows = ((f"{number}", "x" * 1000) for number in range(megabytes * 1000))
        connection.execute("CREATE TABLE more (id, text)")
        connection.executemany("INSERT INTO more VALUES (?, ?)", rows)
        connection.commit()


def replaced_file(file):
    (replaced,) = file.parent.glob(f"{file.name}.replaced-*Z")
    return replaced


def test_a_backup_under_load_is_one_moment_of_the_database(start, run, tmp_path):
    server = start("--quiet")
    room_id = server.open_room()
    stop = threading.Event()
    sent = []

    def talk():
        while not stop.is_set():
            answer = server.post("/room/send_message", room_id=room_id, openid="ming", message="嗨")
            sent.append(answer["message_id"])

    talkers = [threading.Thread(target=talk) for _ in range(4)]
    for talker in talkers:
        talker.start()
    copies = [tmp_path / f"{number}.db" for number in range(3)]
    for copy in copies:
        before = set(sent)
        run("backup", copy)
        after = set(sent)
        messages = query(copy, "SELECT message_id FROM message ORDER BY message_id")
        assert before <= set(messages), "what was answered before is in it"
        assert messages == sorted(after | set(messages))[: len(messages)], "and nothing is left out"
        assert (
            query(copy, "SELECT last_time FROM clock") == [max(messages, default=0)] or not messages
        )
        assert query(copy, "PRAGMA integrity_check") == ["ok"]
        assert query(copy, "PRAGMA journal_mode") == ["delete"], "it is a single file"
        assert os.name == "nt" or copy.stat().st_mode & 0o777 == 0o600, "and private"
    stop.set()
    for talker in talkers:
        talker.join()
    assert not [each for each in tmp_path.iterdir() if each.name[1:] in (".db-wal", ".db-shm")]


@pytest.mark.slow
@linux
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace to see what is synced")
def test_a_backup_is_on_the_disk_before_it_says_so(file, tmp_path):
    make_database(file)
    copy, trace = tmp_path / "copy.db", tmp_path / "trace"
    traced = "trace=pwrite64,fsync,fdatasync,write"
    strace = ["strace", "-f", "-y", "-s", "999", "-e", traced, "-o", trace]
    words = [*strace, *command("backup", copy, "--database", file)]
    subprocess.run(words, env=environment(), check=True, **ONE_SHOT)

    def last(call):
        lines = enumerate(trace.read_text(errors="replace").splitlines())
        return max(number for number, line in lines if re.search(call, line))

    written = last(rf"pwrite64\(\d+<{copy}")
    synced = last(rf"sync\(\d+<{copy}")
    named = last(rf"sync\(\d+<{tmp_path}>")
    assert written < synced < named < last("is a copy of")


@pytest.mark.parametrize("place", ["copy.db", "roomapp.db"])
def test_a_backup_never_goes_over_an_existing_file(file, tmp_path, place):
    make_database(file)
    target = tmp_path / place
    if not target.exists():
        target.write_text("mine")
    before = target.read_bytes()
    assert str(target) in start_error("backup", target, "--database", file)
    assert target.read_bytes() == before


def test_a_backup_that_fails_leaves_nothing(file, tmp_path):
    make_database(file)
    overwrite(file)
    assert "malformed" in start_error("backup", tmp_path / "copy.db", "--database", file)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("words", [["backup", "copy.db"], ["check"]])
def test_there_is_no_copy_of_nothing(tmp_path, words):
    file = tmp_path / "missing.db"
    words = [tmp_path / word if "." in word else word for word in words]
    assert str(file) in start_error(*words, "--database", file)
    assert not list(tmp_path.iterdir())


def test_the_database_may_be_named_before_the_command(file, tmp_path):
    make_database(file)
    done = subprocess.run(command("--database", file, "check"), env=environment(), **ONE_SHOT)
    assert done.returncode == 0
    assert str(file) in done.stdout


@signals
def test_a_backup_that_is_interrupted_leaves_nothing(file, tmp_path):
    fill(file, megabytes=10)
    before = set(tmp_path.iterdir())
    slow = """if True:
        import sqlite3, time, roomapp
        class Connection(sqlite3.Connection):
            def set_progress_handler(self, handler, n):
                super().set_progress_handler(lambda: time.sleep(60), n)
        connect = sqlite3.connect
        sqlite3.connect = lambda *words, **how: connect(*words, factory=Connection, **how)
        roomapp.main()"""
    words = [sys.executable, "-c", slow, "backup", str(tmp_path / "copy.db"), "--database", file]
    pipe = {"stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, cwd=PROJECT, env=environment(), **pipe) as process:
        while not list(tmp_path.glob("copy.db.unfinished-*")):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)  # as SIGINT, which who started this may ignore
        assert "interrupted" in process.stderr.read()
    assert process.returncode == 2
    assert set(tmp_path.iterdir()) == before


def test_a_restored_database_is_the_copy_and_the_old_one_is_kept(start, run, file, tmp_path):
    server = start()
    room_id = server.open_room()
    run("backup", tmp_path / "copy.db")
    newer = server.open_room()
    assert server.stop() == 0
    file.chmod(0o640)
    run("restore", tmp_path / "copy.db")
    assert query(replaced_file(file), "SELECT room_id FROM room") == [room_id, newer]
    assert file.stat().st_mode & 0o777 == 0o640
    server = start()
    assert [room["room_id"] for room in server.post("/search", key="一")["rooms"]] == [room_id]


def test_nothing_is_restored_under_a_server_that_nobody_asked_yet(start, file, tmp_path):
    make_database(tmp_path / "copy.db")
    start()
    assert "stop the service first" in start_error(
        "restore", tmp_path / "copy.db", "--database", file
    )


def test_nothing_is_restored_under_a_running_server(start, run, file, tmp_path):
    server = start()
    run("backup", tmp_path / "copy.db")
    room_id = server.open_room()
    before = set(tmp_path.iterdir())
    assert "stop the service first" in start_error(
        "restore", tmp_path / "copy.db", "--database", file
    )
    assert set(tmp_path.iterdir()) == before
    assert server.post("/search", key=room_id)["rooms"]


def test_the_log_of_a_killed_server_stays_with_its_database(start, run, file, tmp_path):
    server = start()
    run("backup", tmp_path / "copy.db")
    room_id = server.open_room()
    server.stop(signal.SIGKILL)
    assert Path(f"{file}-wal").stat().st_size > 0
    run("restore", tmp_path / "copy.db")
    assert not Path(f"{file}-wal").exists()
    assert not Path(f"{file}-shm").exists()
    assert query(file, "SELECT room_id FROM room") == []
    assert query(replaced_file(file), "SELECT room_id FROM room") == [room_id]


def test_what_a_program_left_half_done_does_not_touch_the_restored_one(run, file, tmp_path):
    make_database(file)
    run("backup", tmp_path / "copy.db")
    run("restore", tmp_path / "copy.db")
    script = """if True:
        import os, sqlite3, sys
        connection = sqlite3.connect(sys.argv[1])
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        for number in range(2000):
            connection.execute("INSERT INTO user VALUES (?, '1', '[]', '')", [f"x{number}"])
        os._exit(0)
    """
    subprocess.run([sys.executable, "-c", script, str(file)], check=True)
    assert Path(f"{file}-journal").exists()
    run("restore", tmp_path / "copy.db")
    run("check")
    assert query(file, "SELECT count(*) FROM user") == [0]


def test_a_restore_that_fails_leaves_the_database_in_its_place(file, tmp_path, monkeypatch):
    make_database(file)
    make_database(tmp_path / "copy.db")
    before = set(tmp_path.iterdir())

    def refuse(*_):
        raise PermissionError("chown")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(SetupError, match="chown"):
        backup.restore(file, tmp_path / "copy.db")
    assert set(tmp_path.iterdir()) == before
    assert query(file, "PRAGMA integrity_check") == ["ok"]


def test_a_damaged_database_is_put_aside_with_all_that_is_left_of_it(run, file, tmp_path):
    make_database(tmp_path / "copy.db")
    file.write_bytes(os.urandom(100_000))
    Path(f"{file}-wal").write_bytes(b"log")
    run("restore", tmp_path / "copy.db")
    run("check")
    assert sorted(each.read_bytes()[:3] for each in tmp_path.glob("*.replaced-*-wal")) == [b"log"]
    assert not Path(f"{file}-wal").exists()


def test_a_log_whose_database_is_gone_does_not_touch_the_restored_one(start, run, file, tmp_path):
    server = start()
    run("backup", tmp_path / "copy.db")
    server.open_room()
    server.stop(signal.SIGKILL)
    file.unlink()
    assert Path(f"{file}-wal").stat().st_size > 0
    run("restore", tmp_path / "copy.db")
    assert query(file, "SELECT room_id FROM room") == []
    assert query(file, "PRAGMA integrity_check") == ["ok"]


def test_a_database_comes_back_where_there_is_none(run, file, tmp_path):
    make_database(tmp_path / "copy.db")
    assert "nothing was there" in run("restore", tmp_path / "copy.db").stdout
    assert query(file, "SELECT count(*) FROM clock") == [1]


def test_only_a_database_of_ours_is_restored(file, tmp_path):
    make_database(file)
    before = file.read_bytes()
    other = tmp_path / "other.db"
    other.write_text("no database")
    assert str(other) in start_error("restore", other, "--database", file)
    with closing(sqlite3.connect(tmp_path / "notes.db")) as connection:
        connection.execute("CREATE TABLE notes (text)")
    assert "another program" in start_error("restore", tmp_path / "notes.db", "--database", file)
    assert file.read_bytes() == before


def test_a_check_tells_how_the_database_is(start, run, file):
    server = start()
    room_id = server.open_room()
    server.post("/usr/join", room_id=room_id, openid="hong")
    server.post("/room/send_message", room_id=room_id, openid="hong", message="嗨")
    server.post("/usr/complete", openid="hong", sex=2, preference=[])
    done = run("check")
    facts = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert facts["database"].startswith(str(file))
    assert facts["journal"].startswith("wal, ")
    assert facts["schema"] == f"{SCHEMA_VERSION}, of {SCHEMA_VERSION} known"
    assert facts["SQLite"] == sqlite3.sqlite_version
    assert [facts[table] for table in ("user", "room", "member", "message")] == [
        "1 rows",
        "1 rows",
        "2 rows",
        "1 rows",
    ]
    assert facts["last_time"] == server.request("GET", "/time")[1]["last_time"]
    assert facts["integrity"] == "ok"
    is_older = sqlite3.sqlite_version_info < (3, 51, 3)
    for says in ("can damage a file", "are safe", "sqlite3 shell", "look at a `backup`"):
        assert (says in done.stdout) == is_older, "what is wrong, what is safe, and what to do"
    assert (done.returncode, done.stderr) == (0, ""), "it is no alarm"


def truncate(file):
    os.truncate(file, 10_000)


def overwrite(file, start=4096 * 2):
    with file.open("rb+") as opened:
        opened.seek(start)
        opened.write(os.urandom(4096 * 3))


def overwritten_from_the_start(file):
    overwrite(file, start=100)


def add_orphan(file):
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("INSERT INTO message VALUES (7, 1, 'ming', '嗨', 1)")
        connection.commit()


@pytest.mark.parametrize("damage", [truncate, overwrite, overwritten_from_the_start, add_orphan])
def test_a_check_of_a_damaged_database_exits_with_1(run, file, damage):
    make_database(file)
    damage(file)
    done = run("check", status=1)
    assert "integrity  ok" not in done.stdout
    assert "Traceback" not in done.stderr


# Older schemas


@pytest.fixture
def old_database(file):
    """A database as version 5 made it, with a profile, a room and two messages."""
    script = Path(__file__).with_name("schema_5.sql")
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(script.read_text(encoding="utf-8"))
    yield file
    if not database.deferred:
        close_database()


def objects(file):
    return sorted(query(file, "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"))


def post(url, **fields):
    return TestApp(app).post_json(url, fields).json


def test_there_is_a_step_and_a_file_for_every_older_version():
    assert max(schema.UPGRADES) == SCHEMA_VERSION
    for version in range(OLDEST_VERSION, SCHEMA_VERSION):
        assert version + 1 in schema.UPGRADES
        assert Path(__file__).with_name(f"schema_{version}.sql").exists()


def test_an_older_database_answers_as_it_did(old_database):
    message_ids = query(old_database, "SELECT message_id FROM message ORDER BY message_id")
    times = query(old_database, "SELECT time FROM message ORDER BY message_id")
    open_database(old_database, may_upgrade=True)
    assert [token.openid for token in Token.select()] == ["ming"]
    info = post("/usr/info", openid="ming")
    assert (info["sex"], info["preference"]) == ("男", ["羽毛球", "桌游"])
    assert info["nickname"] == "小明"
    (room,) = post("/search", key=2)["rooms"]
    assert (room["name"], room["users_id"]) == ("ＬＯＬ 开黑", ["ming", "hong"])
    assert room["capacity"] == 5
    for key in ("lol 开黑", "黑", "OL", "今晚"):
        assert post("/search", key=key)["rooms"] == [room]
    (mine,) = post("/usr/roomlist2", openid="hong")["rooms"]
    assert mine == {**room, "last_message_id": message_ids[-1]}
    messages = post("/room/get_message", room_id=2)["messages"]
    assert [each["message"] for each in messages] == ["今晚八点？", "好 🎮"]
    assert [each["message_id"] for each in messages] == message_ids
    sent = [datetime.fromisoformat(each["time"].replace("Z", "+00:00")) for each in messages]
    assert [round(each.timestamp() * 1000) for each in sent] == times
    assert [report.reason for report in Report.select()] == ["广告"]


def test_the_ids_of_an_older_database_are_not_used_again(old_database):
    open_database(old_database, may_upgrade=True)
    post("/room/delete", room_id=2, openid="ming")
    room = {"name": "一", "section": "二", "description": "", "room_owner_id": "ming"}
    assert post("/room/add", **room)["room_id"] == 3


def test_an_upgraded_database_is_like_a_new_one_and_the_old_one_is_kept(old_database, tmp_path):
    before = objects(old_database)
    open_database(old_database, may_upgrade=True)
    close_database()
    make_database(tmp_path / "new.db")
    assert objects(old_database) == objects(tmp_path / "new.db")
    assert query(old_database, "PRAGMA user_version") == [SCHEMA_VERSION]
    (copy,) = tmp_path.glob("roomapp.db.version-5-*Z")
    assert objects(copy) == before
    open_database(old_database, may_upgrade=True)
    assert len(list(tmp_path.glob("*version*"))) == 1, "one upgrade, one copy"


def test_with_an_upgrade_who_was_banned_leaves_the_rooms_of_others(old_database):
    with closing(sqlite3.connect(old_database)) as connection:
        connection.execute("INSERT INTO ban VALUES ('hong'), ('ming')")
        connection.commit()
    before = query(old_database, "SELECT last_time FROM clock")
    open_database(old_database, may_upgrade=True)
    assert query(old_database, "SELECT openid FROM member") == ["ming"]
    assert set(query(old_database, "SELECT since FROM ban")) == {0}
    assert query(old_database, "SELECT last_time FROM clock") > before


def test_an_upgrade_that_fails_changes_nothing_and_copies_once(old_database, monkeypatch):
    def fail():
        database.execute_sql("DROP TABLE message")
        raise OperationalError("no more")

    monkeypatch.setattr(schema, "UPGRADES", {6: fail})
    for _ in range(2):
        with pytest.raises(SetupError, match="no more"):
            open_database(old_database, may_upgrade=True)
        assert query(old_database, "PRAGMA user_version") == [5]
        assert query(old_database, "SELECT message FROM message") == ["今晚八点？", "好 🎮"]
        assert len(list(old_database.parent.glob("*version*"))) == 1
    monkeypatch.undo()
    open_database(old_database, may_upgrade=True)
    assert len(list(old_database.parent.glob("*version*"))) == 1


def test_only_the_service_upgrades(old_database, run):
    before = old_database.read_bytes()
    for words in (["reports"], ["remove", "2"], ["ban", "hong"], ["forget", "ming"], ["demo"]):
        done = run(*words, status=2)
        assert "restart the service first" in done.stderr
        assert done.stderr.count("\n") == 1
    assert old_database.read_bytes() == before


def test_an_older_database_that_is_in_use_is_not_upgraded(old_database, monkeypatch):
    monkeypatch.setattr("service.database.BUSY_SECONDS", 0.1)
    with closing(sqlite3.connect(old_database)) as other:
        other.execute("PRAGMA journal_mode = wal")
        other.execute("SELECT * FROM clock").fetchall()
        with pytest.raises(SetupError, match="in use"):
            open_database(old_database, may_upgrade=True)
    assert query(old_database, "PRAGMA user_version") == [5]
    open_database(old_database, may_upgrade=True)


def test_an_older_database_is_checked_copied_and_put_back(old_database, run, tmp_path):
    assert "schema     5, of 6 known" in run("check").stdout
    run("backup", tmp_path / "copy.db")
    assert query(tmp_path / "copy.db", "PRAGMA user_version") == [5]
    old_database.unlink()
    run("restore", tmp_path / "copy.db")
    assert query(old_database, "SELECT message FROM message") == ["今晚八点？", "好 🎮"]


def test_what_was_never_released_is_one_line(old_database, run):
    with closing(sqlite3.connect(old_database)) as connection:
        connection.execute("PRAGMA user_version = 4")
    assert "never released" in start_error("--port=0", "--database", old_database)
    assert "never released" in run("check", status=2).stderr


def test_links_and_synced_folders_are_not_needed(file, tmp_path, monkeypatch):
    """As on exFAT and some shares."""

    def refuse(*_):
        raise OSError("not here")

    make_database(file)
    monkeypatch.setattr(os, "link", refuse)
    real_fsync = os.fsync
    folders = {os.stat(tmp_path).st_ino}
    monkeypatch.setattr(
        os,
        "fsync",
        lambda number: refuse() if os.fstat(number).st_ino in folders else real_fsync(number),
    )
    backup.backup(file, tmp_path / "copy.db")
    with pytest.raises(SetupError, match="exists"):
        backup.backup(file, tmp_path / "copy.db")
    backup.restore(file, tmp_path / "copy.db")
    assert query(file, "PRAGMA integrity_check") == ["ok"]
    assert len(list(tmp_path.glob("roomapp.db.replaced-*Z"))) == 1
    assert not list(tmp_path.glob("*unfinished*"))


def test_what_a_killed_backup_left_is_deleted_an_hour_later(run, file, tmp_path):
    make_database(file)
    moment = "20261125T000000.000000Z"
    old = [tmp_path / f"copy.db.{label}-{moment}" for label in ("unfinished", "restoring")]
    new = tmp_path / f"other.db.unfinished-{moment}"
    for each in (*old, new):
        each.write_bytes(b"SQLite")
    for each in old:
        os.utime(each, (0, 0))
    run("backup", tmp_path / "copy.db")
    assert not any(each.exists() for each in old)
    assert new.exists(), "a backup may be at work there"
