"""Several processes that answer on one port, and the queue of those who write."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from textwrap import dedent
from time import monotonic

import psutil
import pytest

from serving import PROJECT, refused_to_start
from turns import Turns

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

SOON = 20  # seconds


def workers(server):
    return psutil.Process(server.process.pid).children()


def until(happened):
    """Wait for what has to happen soon."""
    deadline = monotonic() + SOON
    while not happened():
        assert monotonic() < deadline


def test_each_worker_answers(start):
    server = start("--workers", 3, "--quiet")
    found = workers(server)
    assert len(found) == 3
    for others in ([1, 2], [0, 2], [0, 1]):
        for number in others:
            found[number].suspend()
        assert server.request("GET", "/time")[0] == 200
        for number in others:
            found[number].resume()


def test_a_worker_that_dies_is_replaced_and_the_log_tells(start):
    server = start("--workers", 2)
    first, second = workers(server)
    first.kill()
    until(lambda: len(set(workers(server)) - {first}) == 2)
    assert f"worker {first.pid} ended and is replaced" in server.log.read_text()
    second.suspend()
    assert server.request("GET", "/time")[0] == 200, "the new one answers"
    second.resume()
    assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_of_them_and_leaves_a_single_file(start, tmp_path, number):
    server = start("--workers", 3, "--quiet")
    server.open_room()
    found = workers(server)
    for _ in range(30):
        server.request("GET", "/time")
    assert server.stop(number) == 0
    assert not any(worker.is_running() for worker in found)
    assert server.log.read_text() == ""
    assert [each.name for each in tmp_path.glob("roomapp.db*")] == ["roomapp.db"]


def test_requests_that_were_received_are_answered_before_they_stop(start, held):
    server = start("--workers", 2, "--threads", 1)
    room_id = server.open_room()
    held.execute("BEGIN IMMEDIATE")
    waiting = [
        server.send("/room/send_message", room_id=room_id, openid="ming", message=str(number))
        for number in range(6)
    ]
    server.process.send_signal(signal.SIGTERM)
    held.execute("COMMIT")
    for connection in waiting:
        with closing(connection):
            assert connection.getresponse().status == 200
    assert server.process.wait(40) == 0


def test_workers_end_when_their_supervisor_is_killed(start):
    server = start("--workers", 2, "--quiet")
    found = workers(server)
    server.process.kill()
    until(lambda: not any(worker.is_running() for worker in found))


def altered(change, file):
    """What starts a server of two workers on a file, after a change to its program."""
    program = f"import os, time, roomapp\n{dedent(change)}\nroomapp.main()"
    return [sys.executable, "-c", program, "--port=0", "--workers=2", f"--database={file}"]


def test_where_too_few_workers_can_be_started_it_says_so(tmp_path):
    none_forks = """
        def fails():
            raise BlockingIOError("too many processes")
        os.fork = fails
    """
    words = altered(none_forks, tmp_path / "roomapp.db")
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True)
    line = "roomapp: cannot start 2 workers: too many processes\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


def test_a_worker_that_cannot_be_replaced_at_once_is_replaced_later(start, tmp_path):
    third_fails = """
        fork, forks = os.fork, []
        def fails():
            forks.append(None)
            if len(forks) == 3:
                raise BlockingIOError("too many processes")
            return fork()
        os.fork = fails
    """
    server = start(arguments=altered(third_fails, tmp_path / "roomapp.db"))
    first, _ = workers(server)
    first.kill()
    until(lambda: len(set(workers(server)) - {first}) == 2)
    assert "no worker can be started: too many processes" in server.log.read_text()
    assert server.stop() == 0


def test_workers_that_are_told_to_stop_while_they_start_leave_a_single_file(start, tmp_path):
    slowly = """
        opened = roomapp.open_database
        roomapp.open_database = lambda path: (opened(path), time.sleep(0.5))
    """
    server = start(arguments=altered(slowly, tmp_path / "roomapp.db"))
    assert server.stop() == 0
    assert [each.name for each in tmp_path.glob("roomapp.db*")] == ["roomapp.db"]


def test_nothing_is_lost_among_workers_of_whom_one_is_killed(start):
    server = start("--workers", 3, "--quiet")
    room_id = server.open_room()
    done = []

    def send(number):
        for message in range(40):
            text = f"{number} {message}"
            try:
                answer = server.post(
                    "/room/send_message", room_id=room_id, openid="ming", message=text
                )
            except OSError:
                continue  # it was the killed worker's
            assert answer["response_code"] == 1, answer
            done.append((answer["message_id"], text))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    until(lambda: len(done) > 50)
    workers(server)[0].kill()
    for thread in threads:
        thread.join()
    messages = server.post("/room/get_message", room_id=room_id, limit=500)["messages"]
    there = [(message["message_id"], message["message"]) for message in messages]
    assert set(done) <= set(there)
    assert len(done) >= 8 * 40 - 16, "at most what the killed one had in hand"
    assert len({message_id for message_id, _ in there}) == len(there)


def test_where_a_process_cannot_fork_it_says_so(tmp_path):
    without = [sys.executable, "-c", "import os; del os.fork; import roomapp; roomapp.main()"]
    options = ["--workers=2", f"--database={tmp_path / 'roomapp.db'}"]
    done = subprocess.run([*without, *options], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("roomapp: --workers or ROOMAPP_WORKERS: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("value", ["0", "-1", "101", "two"])
def test_a_number_of_workers_that_cannot_be_is_one_line(value):
    assert "--workers" in refused_to_start(f"--workers={value}")


def test_processes_take_turns_in_the_order_of_asking(tmp_path):
    """Who asks now and then need not wait until all writers of another process had their turn."""
    file, journal = tmp_path / "turns", tmp_path / "journal"
    journal.touch()
    busy = """if True:
        import sys, threading, time, turns
        queue = turns.Turns()
        def write():
            while True:
                with queue.taken(sys.argv[1], 20), open(sys.argv[2], "a") as journal:
                    journal.write("x")
                    journal.flush()
                    time.sleep(0.001)
        for _ in range(4):
            threading.Thread(target=write).start()"""
    rival = subprocess.Popen([sys.executable, "-c", busy, file, journal], cwd=PROJECT)
    with rival:
        turns, went_before, before = Turns(), [], -1
        for _ in range(50):
            until(lambda last=before: journal.stat().st_size > last + 1)  # the rival is at it again
            before = journal.stat().st_size
            with turns.taken(str(file), timeout=SOON):
                went_before.append(journal.stat().st_size - before)
        rival.kill()
    assert sorted(went_before)[45] <= 2


def test_a_queue_that_was_discarded_is_begun_anew(tmp_path):
    """Who waited at a file that is gone by now has no turn before those at the new one."""
    file = tmp_path / "turns"
    waits = """if True:
        import sys, turns
        with turns.Turns().taken(sys.argv[1], 20):
            print("taken", flush=True)
            sys.stdin.read()"""
    waiting = [sys.executable, "-c", waits, str(file)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with Turns().taken(file, timeout=SOON):
        process = subprocess.Popen(waiting, cwd=PROJECT, **pipes)
        opened = psutil.Process(process.pid).open_files
        until(lambda: str(file) in [each.path for each in opened()])
        file.unlink()
    with process:
        assert process.stdout.readline() == b"taken\n"
        with pytest.raises(TimeoutError), Turns().taken(file, timeout=0):
            pass
    with Turns().taken(file, timeout=SOON):
        pass
