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
from itertools import count
from pathlib import Path

import pytest
from webtest import TestApp

import backup
import models
from models import Message, Room, Unusable, close_database, database, open_database, writing
from roomapp import app
from serving import ONE_SHOT, command, environment, linux, made, refused_to_start

FIRST_SCHEMA = Path(__file__).with_name("schema_1.sql")


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


def told(file, sql):
    with closing(sqlite3.connect(file)) as connection:
        return [row[0] for row in connection.execute(sql)]


def kept_beside(file):
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
        messages = told(copy, "SELECT message_id FROM message ORDER BY message_id")
        assert before <= set(messages), "what was answered before is in it"
        assert messages == sorted(after | set(messages))[: len(messages)], "and nothing is left out"
        assert (
            told(copy, "SELECT last_time FROM clock") == [max(messages, default=0)] or not messages
        )
        assert told(copy, "PRAGMA integrity_check") == ["ok"]
        assert told(copy, "PRAGMA journal_mode") == ["delete"], "it is a single file"
        assert os.name == "nt" or copy.stat().st_mode & 0o777 == 0o600, "and private"
    stop.set()
    for talker in talkers:
        talker.join()
    assert not [each for each in tmp_path.iterdir() if each.name[1:] in (".db-wal", ".db-shm")]


@pytest.mark.slow
@linux
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace to see what is synced")
def test_a_backup_is_on_the_disk_before_it_says_so(file, tmp_path):
    made(file)
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
    made(file)
    target = tmp_path / place
    if not target.exists():
        target.write_text("mine")
    before = target.read_bytes()
    assert str(target) in refused_to_start("backup", target, "--database", file)
    assert target.read_bytes() == before


def test_a_backup_that_fails_leaves_nothing(file, tmp_path):
    made(file)
    overwritten(file)
    assert "damaged" in refused_to_start("backup", tmp_path / "copy.db", "--database", file)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("words", [["backup", "copy.db"], ["check"]])
def test_there_is_no_copy_of_nothing(tmp_path, words):
    file = tmp_path / "missing.db"
    words = [tmp_path / word if "." in word else word for word in words]
    assert str(file) in refused_to_start(*words, "--database", file)
    assert not list(tmp_path.iterdir())


def test_the_database_may_be_named_before_the_command(file, tmp_path):
    made(file)
    done = subprocess.run(command("--database", file, "check"), env=environment(), **ONE_SHOT)
    assert done.returncode == 0
    assert str(file) in done.stdout


def test_a_copy_tells_how_far_it_is_every_second(database_file, tmp_path, monkeypatch, capsys):
    with writing():
        room = Room.open("一", "二", "", "ming")
        messages = [
            {"room": room, "message_id": number, "openid": "ming", "message": "长" * 2000}
            for number in range(1200)
        ]
        Message.insert_many(messages).execute()
    seconds = count(step=0.7)
    monkeypatch.setattr(backup, "monotonic", lambda: next(seconds))
    backup.backup(database_file, tmp_path / "copy.db")
    told = capsys.readouterr().err.split("\n")
    assert len(told) > 1
    assert all(re.fullmatch(r"\d+ %", line) for line in told[:-1])


def test_a_backup_that_is_interrupted_leaves_nothing(database_file, tmp_path, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(backup, "progress", lambda: lambda *_: interrupt())
    before = set(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        backup.backup(database_file, tmp_path / "copy.db")
    assert set(tmp_path.iterdir()) == before


def test_a_restored_database_is_the_copy_and_the_old_one_is_kept(start, run, file, tmp_path):
    server = start()
    room_id = server.open_room()
    run("backup", tmp_path / "copy.db")
    newer = server.open_room()
    assert server.stop() == 0
    file.chmod(0o640)
    run("restore", tmp_path / "copy.db")
    assert told(kept_beside(file), "SELECT room_id FROM room") == [room_id, newer]
    assert file.stat().st_mode & 0o777 == 0o640
    server = start()
    assert [room["room_id"] for room in server.post("/search", key="一")["rooms"]] == [room_id]


def test_nothing_is_restored_under_a_server_that_nobody_asked_yet(start, file, tmp_path):
    made(tmp_path / "copy.db")
    start()
    assert "stop it first" in refused_to_start("restore", tmp_path / "copy.db", "--database", file)


def test_nothing_is_restored_under_a_running_server(start, run, file, tmp_path):
    server = start()
    run("backup", tmp_path / "copy.db")
    room_id = server.open_room()
    before = set(tmp_path.iterdir())
    assert "stop it first" in refused_to_start("restore", tmp_path / "copy.db", "--database", file)
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
    assert told(file, "SELECT room_id FROM room") == []
    assert told(kept_beside(file), "SELECT room_id FROM room") == [room_id]


def test_what_a_program_left_half_done_does_not_touch_the_restored_one(run, file, tmp_path):
    made(file)
    run("backup", tmp_path / "copy.db")
    run("restore", tmp_path / "copy.db")
    script = """if True:
        import os, sqlite3, sys
        connection = sqlite3.connect(sys.argv[1])
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        for number in range(2000):
            connection.execute("INSERT INTO user VALUES (?, '1', '[]')", [f"x{number}"])
        os._exit(0)
    """
    subprocess.run([sys.executable, "-c", script, str(file)], check=True)
    assert Path(f"{file}-journal").exists()
    run("restore", tmp_path / "copy.db")
    run("check")
    assert told(file, "SELECT count(*) FROM user") == [0]


def test_a_restore_that_fails_leaves_the_database_in_its_place(file, tmp_path, monkeypatch):
    made(file)
    made(tmp_path / "copy.db")
    before = set(tmp_path.iterdir())

    def refuse(*_):
        raise PermissionError("chown")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(Unusable, match="chown"):
        backup.restore(file, tmp_path / "copy.db")
    assert set(tmp_path.iterdir()) == before
    assert told(file, "PRAGMA integrity_check") == ["ok"]


def test_a_damaged_database_is_put_aside_with_all_that_is_left_of_it(run, file, tmp_path):
    made(tmp_path / "copy.db")
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
    assert told(file, "SELECT room_id FROM room") == []
    assert told(file, "PRAGMA integrity_check") == ["ok"]


def test_a_database_comes_back_where_there_is_none(run, file, tmp_path):
    made(tmp_path / "copy.db")
    assert "nothing was there" in run("restore", tmp_path / "copy.db").stdout
    assert told(file, "SELECT count(*) FROM clock") == [1]


def test_only_a_database_of_ours_is_restored(file, tmp_path):
    made(file)
    before = file.read_bytes()
    other = tmp_path / "other.db"
    other.write_text("no database")
    assert str(other) in refused_to_start("restore", other, "--database", file)
    with closing(sqlite3.connect(tmp_path / "notes.db")) as connection:
        connection.execute("CREATE TABLE notes (text)")
    assert "another program" in refused_to_start(
        "restore", tmp_path / "notes.db", "--database", file
    )
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
    assert facts["schema"] == "{0}, of {0} known".format(models.schema_version())
    assert facts["SQLite"] == sqlite3.sqlite_version
    assert [facts[table] for table in ("user", "room", "member", "message")] == [
        "1 rows",
        "1 rows",
        "2 rows",
        "1 rows",
    ]
    assert facts["last_time"] == server.request("GET", "/time")[1]["last_time"]
    assert facts["integrity"] == "ok"
    assert ("several processes" in done.stderr) == (sqlite3.sqlite_version_info < (3, 51, 3))


def truncated(file):
    os.truncate(file, 10_000)


def overwritten(file, start=4096 * 2):
    with file.open("rb+") as opened:
        opened.seek(start)
        opened.write(os.urandom(4096 * 3))


def overwritten_from_the_start(file):
    overwritten(file, start=100)


def orphaned(file):
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("INSERT INTO message VALUES (7, 1, 'ming', '嗨')")
        connection.commit()


@pytest.mark.parametrize("damage", [truncated, overwritten, overwritten_from_the_start, orphaned])
def test_a_check_of_a_damaged_database_exits_with_1(run, file, damage):
    made(file)
    damage(file)
    done = run("check", status=1)
    assert "integrity  ok" not in done.stdout
    assert "Traceback" not in done.stderr


# Older schemas


@pytest.fixture
def first_schema(file):
    """A database as the first version made it, with a room, a profile and a message."""
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(FIRST_SCHEMA.read_text(encoding="utf-8"))
    yield file
    if not database.deferred:
        close_database()


def objects(file):
    return sorted(told(file, "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"))


def shown():
    client = TestApp(app)
    return [
        client.post_json(url, fields).json
        for url, fields in [
            ("/usr/info", {"openid": "ming"}),
            ("/search", {"key": 2}),
            ("/room/get_message", {"room_id": 2}),
        ]
    ]


def test_a_database_of_the_first_version_serves_as_it_did(first_schema):
    open_database(first_schema)
    info, search, messages = shown()
    assert (info["sex"], info["preference"]) == ("男", ["羽毛球", "桌游"])
    assert search["rooms"][0]["users_id"] == ["ming", "hong"]
    assert [each["message"] for each in messages["messages"]] == ["今晚八点？", "好 🎮"]


@pytest.mark.parametrize("key", ["lol 开黑", "黑", "OL", "今晚"])
def test_rooms_of_the_first_version_are_found_by_their_text(first_schema, key):
    open_database(first_schema)
    answer = TestApp(app).post_json("/search", {"key": key})
    assert [room["room_id"] for room in answer.json["rooms"]] == [2]


def test_an_upgraded_database_is_like_a_new_one(first_schema, tmp_path):
    open_database(first_schema)
    database.close()
    made(tmp_path / "new.db")
    assert objects(first_schema) == objects(tmp_path / "new.db")


def test_an_older_database_is_upgraded_at_start_after_a_copy(first_schema, monkeypatch):
    def make_rooms_anew_with_a_colour():
        (sql,) = told(first_schema, "SELECT sql FROM sqlite_master WHERE name = 'room'")
        database.execute_sql(sql.replace('TABLE "room" (', 'TABLE "new" (colour DEFAULT "green", '))
        columns = ", ".join(field.column_name for field in Room._meta.sorted_fields)
        database.execute_sql(f"INSERT INTO new ({columns}) SELECT {columns} FROM room")
        database.execute_sql("DROP TABLE room")
        database.execute_sql("ALTER TABLE new RENAME TO room")

    open_database(first_schema)
    before = shown()
    close_database()
    monkeypatch.setattr(models, "UPGRADES", [*models.UPGRADES, make_rooms_anew_with_a_colour])
    open_database(first_schema)
    assert shown() == before
    assert told(first_schema, "SELECT colour FROM room") == ["green"]
    assert told(first_schema, "PRAGMA user_version") == [models.schema_version()]
    assert database.foreign_keys == 1
    (copy,) = first_schema.parent.glob("roomapp.db.version-1-*Z")
    assert told(copy, "PRAGMA user_version") == [1]
    assert told(copy, "SELECT message FROM message") == ["今晚八点？", "好 🎮"]
    close_database()
    open_database(first_schema)
    assert len(list(first_schema.parent.glob("*version*"))) == 2, "one upgrade, one copy"


def test_an_upgrade_that_fails_changes_nothing(first_schema, monkeypatch):
    def halfway():
        database.execute_sql("DROP TABLE message")
        database.execute_sql("nonsense")

    monkeypatch.setattr(models, "UPGRADES", [halfway])
    with pytest.raises(Unusable, match="syntax error"):
        open_database(first_schema)
    assert told(first_schema, "PRAGMA user_version") == [1]
    assert told(first_schema, "SELECT message FROM message") == ["今晚八点？", "好 🎮"]
    assert not list(first_schema.parent.glob("*version*")), "and leaves no copy"
