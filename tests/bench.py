"""What the service costs, beside a floor: the same answers from bare Bottle and handwritten SQL.

python tests/bench.py            each endpoint in process: a WSGI call, no sockets
python tests/bench.py --http     a campus's mix of requests over HTTP, under several servers
python tests/bench.py --scale    each endpoint in process, in ever larger databases

Times differ from machine to machine and from day to day: compare ratios, and within one run.
"""

import argparse
import io
import json
import os
import random
import shutil
import sqlite3
import sys
import tempfile
from contextlib import ExitStack, closing, contextmanager
from importlib.util import find_spec
from itertools import count, product
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter_ns, time_ns

sys.path.insert(0, str(Path(__file__).parent.parent))

import floor
import load
import models
import roomapp
from service.database import close_database
from service.schema import open_database
from service.text import fold, indexed_text

# What is in every room's description, and in one room's.
COMMON = ["一起来打球吧", "lol go", "🎮🏸🏀⚽🎲🎯"]
RARE = ["龘靐齉爩鱻麤", "quokka", "🦑🦐🦞🦀🐙🐚"]
SECTIONS = ["LOL", "王者荣耀", "羽毛球", "篮球", "桌游", "高数", "英语", "考研"]
ACTIVE = 50  # people who ask, and rooms with messages, at any one time
EACH = 20  # rooms that somebody owns, or joined
MESSAGES = 100  # in every tenth room; in the others nobody says anything
MESSAGE = "今天晚上八点在宿舍楼下见，还缺两个人，速来"
NEWEST = 1_700_000_000_000  # the message_id of a room's newest message
PAGE = 20  # rooms, as many as a phone shows at a time


def person(role, number):
    return f"o6_bmjrPTlm6_2sg{role:>5}{number:07}"


def fill(file, rooms, members=3):
    """Make a database in which an answer is as long whatever the number of rooms."""
    open_database(file)
    close_database()
    people = rooms // EACH
    roles = ["owner", *(f"g{number:04}" for number in range(1, members))]
    draw = random.Random(rooms)
    letters = [chr(draw.randrange(0x4E00, 0x9FA5)) for _ in range(3000)]
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        insert = connection.executemany
        connection.execute("PRAGMA synchronous = off")
        for start in range(0, rooms, 10_000):
            some = range(start + 1, min(start + 10_000, rooms) + 1)
            opened, indexed = [], []
            for room_id in some:
                name = "".join(draw.choices(letters, k=8))
                section = SECTIONS[room_id % len(SECTIONS)]
                rare = RARE if room_id == rooms // 2 else []
                description = " ".join(["".join(draw.choices(letters, k=15)), *COMMON, *rare])
                owner = person("owner", room_id % people)
                texts = name, section, description
                opened.append((room_id, *texts, owner, fold(name), fold(section)))
                text = indexed_text(*map(fold, texts))
                indexed.append((-room_id, text))
            connection.execute("BEGIN")
            insert("INSERT INTO room VALUES (?, ?, ?, ?, ?, ?, ?, 500)", opened)
            # FTS5 writes out what it holds at each step back, so the rowids go up.
            insert("INSERT INTO room_index (rowid, text) VALUES (?, ?)", reversed(indexed))
            insert(
                "INSERT INTO member VALUES (?, ?, ?, ?)",
                (
                    (room_id, joined, person(role, room_id % people), not joined)
                    for room_id in some
                    for joined, role in enumerate(roles)
                ),
            )
            insert(
                "INSERT INTO message VALUES (?, ?, ?, ?, ?)",
                (
                    (
                        room_id,
                        NEWEST - MESSAGES + number,
                        person("owner", room_id % people),
                        MESSAGE,
                        NEWEST - MESSAGES + number,
                    )
                    for room_id in some
                    if room_id % 10 == 0
                    for number in range(1, MESSAGES + 1)
                ),
            )
            connection.execute("COMMIT")
            show_progress(f"{some[-1]:,} of {rooms:,} rooms")
        insert(
            "INSERT INTO user VALUES (?, '1', '[\"LOL\"]', ?)",
            ((person("owner", number), f"小{number}") for number in range(people)),
        )
        connection.execute("UPDATE clock SET last_time = ?", (time_ns() // 1_000_000,))
    show_progress("")


def show_progress(text):
    if sys.stderr.isatty():
        print(f"\r{text:40}", end="\r" * (not text), file=sys.stderr, flush=True)


def cases(rooms):
    """What is measured: a name, a url, and a function for the next body.

    Who joins is taken out again, and what is opened deleted, if all are called equally often and
    in this order.
    """
    draw = random.Random(1)
    numbers = {name: count() for name in ("complete", "join", "kick", "delete")}

    people = draw.sample(range(rooms // EACH), ACTIVE)
    talks = draw.sample(range(10, rooms + 1, 10), ACTIVE)
    numbers_asked = draw.sample(range(1, rooms + 1), ACTIVE)

    def busy_room():
        return draw.choice(talks)

    def any_person(role):
        return person(role, draw.choice(people))

    def guest(name):
        number = next(numbers[name])
        return {"room_id": number * 7919 % rooms + 1, "openid": f"new{number}"}

    def profile():
        number = next(numbers["complete"])
        return {"openid": any_person("owner"), "sex": 1, "preference": [str(number)]}

    def new_message():
        room_id = busy_room()
        openid = person("owner", room_id % (rooms // EACH))
        return {"room_id": room_id, "openid": openid, "message": MESSAGE}

    opened = {"name": "今晚开黑", "section": "LOL", "description": MESSAGE, "room_owner_id": "ming"}
    yield "time", "/time", lambda: None
    yield "get_message, page", "/room/get_message", lambda: {"room_id": busy_room()}
    yield (
        "get_message, after",
        "/room/get_message",
        lambda: {"room_id": busy_room(), "after": NEWEST},
    )
    yield "section", "/room/section", lambda: {"section": draw.choice(SECTIONS)}
    yield "roomlist1", "/usr/roomlist1", lambda: {"openid": any_person("owner")}
    yield "roomlist2", "/usr/roomlist2", lambda: {"openid": any_person("g0001")}
    yield "info", "/usr/info", lambda: {"openid": any_person("owner")}
    yield "search, number", "/search", lambda: {"key": draw.choice(numbers_asked)}
    yield "search, text", "/search", lambda: {"key": COMMON[0], "limit": PAGE}
    yield "complete", "/usr/complete", profile
    yield "join", "/usr/join", lambda: guest("join")
    yield "kick", "/room/kick", lambda: guest("kick")
    yield "send_message", "/room/send_message", new_message
    yield "add", "/room/add", lambda: opened
    yield (
        "delete",
        "/room/delete",
        lambda: {"room_id": rooms + 1 + next(numbers["delete"]), "openid": "ming"},
    )


def searches():
    """The same for keys of one, two, three and six characters, in one room and in every room."""
    for where, texts in (("every room", COMMON), ("one room", RARE)):
        for text in texts:
            for length in (1, 2, 3, 6):
                body = {"key": text[:length], "limit": PAGE}
                yield f"search {body['key']!r}, in {where}", "/search", lambda body=body: body


def call(app, url, body):
    """Call a WSGI application: how many microseconds it took, and its answer."""
    content = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
    environ = {
        "REQUEST_METHOD": "GET" if body is None else "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": url,
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8080",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "127.0.0.1:8080",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(content)),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(content),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
    }
    started = perf_counter_ns()
    answer = b"".join(app(environ, lambda *_: None))
    took = (perf_counter_ns() - started) / 1000
    assert answer.startswith(b'{"response_code":1'), answer
    return took, answer


def in_process(times):
    """Each endpoint's median and 99th percentile in microseconds, of the floor and of ours."""
    measured = {}
    for rooms, members, some in (
        (1000, 3, cases),
        (800, models.MEMBERS_AT_MOST, crowded_cases),
    ):
        with databases(rooms, "floor", "ours", members=members) as (floors, ours):
            os.environ["FLOOR_DATABASE"] = str(floors)
            open_database(ours)
            both = zip(some(rooms), some(rooms), strict=True)
            for (name, url, floors_body), (_, _, our_body) in both:
                show_progress(name)
                calls = [
                    (
                        call(floor.app, url, floors_body())[0],
                        call(roomapp.app, url, our_body())[0],
                    )
                    for _ in range(times)
                ]
                measured[name] = compare(*zip(*calls, strict=True))
            close_database()
            floor.close()
    show_progress("")
    return measured


def compare(floors, ours):
    return {
        "floor us": median(floors),
        "floor p99": p99(floors),
        "ours us": median(ours),
        "ours p99": p99(ours),
        "ratio": median(ours) / median(floors),
        "(ours-15)/floor": (median(ours) - 15) / median(floors),
    }


def crowded_cases(rooms):
    """The longest page that there is by default: a hundred rooms of 500 members each."""
    yield "section, 100 full rooms", "/room/section", lambda: {"section": SECTIONS[0]}


def p99(values):
    return quantiles(values, n=100)[-1]


@contextmanager
def databases(rooms, *names, members=3):
    """The paths of databases alike."""
    with tempfile.TemporaryDirectory(prefix="roomapp-") as folder:
        files = [Path(folder) / f"{name}.db" for name in names]
        fill(files[0], rooms, members)
        for file in files[1:]:
            shutil.copy(files[0], file)
        yield files


def at_scale(times, sizes):
    """Each endpoint's median in microseconds for each number of rooms."""
    with tempfile.TemporaryDirectory(prefix="roomapp-") as folder:
        files = {rooms: Path(folder) / f"{rooms}.db" for rooms in sizes}
        running = {}
        took = {}
        for rooms, file in files.items():
            fill(file, rooms)
            running[rooms] = [*cases(rooms), *searches()]
        turns = 5  # so that a noisy minute of the machine falls on each alike
        for turn in range(turns):
            for rooms, file in files.items():
                show_progress(f"turn {turn + 1} of {turns}: {rooms:,} rooms")
                open_database(file)
                for name, url, body in running[rooms]:
                    calls = ACTIVE + times // turns
                    some = [call(roomapp.app, url, body())[0] for _ in range(calls)]
                    by_size = took.setdefault(name, {})
                    by_size.setdefault(str(rooms), []).extend(some[ACTIVE:])  # not the first ones
                close_database()
        show_progress("")
        measured = {
            name: {rooms: median(values) for rooms, values in by_size.items()}
            for name, by_size in took.items()
        }
        measured["MiB of the file"] = {
            str(rooms): file.stat().st_size / 2**20 for rooms, file in files.items()
        }
    return measured


def over_http(times):
    """What the mix costs under several servers, each on a database of its own."""
    python = sys.executable
    waitress = [python, "-m", "waitress", "--listen=127.0.0.1:{port}"]
    ours = [python, "roomapp.py", "--port={port}"]
    one_core = {
        "floor, on one core": [*waitress, "--threads=1", "floor:app"],
        "roomapp, on one core": ours,
    }
    servers = {"roomapp": ours}
    if find_spec("granian"):
        granian = [python, "-m", "granian", "--interface=wsgi", "--port={port}", "roomapp:app"]
        servers["granian"] = [*granian, "--blocking-threads=1"]
        servers["granian, 2 workers"] = [*granian, "--blocking-threads=1", "--workers=2"]
    measured = {}
    with databases(10_000, *one_core, *servers) as files:
        file = dict(zip([*one_core, *servers], files, strict=True))
        with ExitStack() as running:
            pair = {
                name: running.enter_context(http(command, file[name], core=0))
                for name, command in one_core.items()
            }
            measured |= in_turns(pair, times)
        for name, command in servers.items():
            with http(command, file[name]) as server:
                measured |= in_turns({name: server}, times)
    return measured


def http(command, file, core=None):
    return load.run_server(command, core, ROOMAPP_DATABASE=str(file), FLOOR_DATABASE=str(file))


def in_turns(servers, times, turns=5):
    """Send the mix to each server in turns, so that a noisy minute falls on all alike."""
    requests = {name: load.mix(cases(10_000)) for name in servers}
    sums = {name: {"elapsed": 0, "worked": 0, "took": [], "MiB": []} for name in servers}
    for turn, (name, (process, port, _)) in product(range(turns), servers.items()):
        show_progress(f"turn {turn + 1} of {turns}: {name}")
        before = load.cpu_seconds(process)
        elapsed, took = load.send(port, requests[name], times // turns)
        sums[name]["worked"] += load.cpu_seconds(process) - before
        sums[name]["elapsed"] += elapsed
        sums[name]["took"] += took
        sums[name]["MiB"].append(load.memory(process))
    show_progress("")
    return {
        name: {
            "requests/s": times / sums[name]["elapsed"],
            "p50 ms": median(sums[name]["took"]) * 1000,
            "p99 ms": p99(sums[name]["took"]) * 1000,
            "CPU ms/1000": sums[name]["worked"] / times * 1_000_000,
            "MiB, 1st turn": sums[name]["MiB"][0],
            "MiB, last": sums[name]["MiB"][-1],
            "start ms": start * 1000,
        }
        for name, (_, _, start) in servers.items()
    }


def table(measured, earlier):
    """Print what was measured, and its ratio to an earlier run's where there is one."""
    columns = list(next(iter(measured.values())))
    width = max(map(len, measured)) + 4
    print(" " * width + "".join(f"{column:>18}" for column in columns))
    for name, values in measured.items():
        cells = []
        for column in columns:
            before = earlier.get(name, {}).get(column)
            ratio = f"  x{values[column] / before:.2f}" if before else ""
            cells.append(f"{values[column]:.{1 if values[column] > 10 else 2}f}{ratio}".rjust(18))
        print(f"{name:{width}}" + "".join(cells))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--http", action="store_true")
    what.add_argument("--scale", action="store_true")
    parser.add_argument("--times", type=int, help="calls of each endpoint, or requests of the mix")
    parser.add_argument(
        "--rooms",
        type=int,
        nargs="+",
        default=[1000, 10_000, 100_000, 1_000_000],
        help="sizes for --scale; each has ten times as many messages",
    )
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the figures, as JSON")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with kept figures")
    options = parser.parse_args()
    if options.http:
        measured = over_http(options.times or 20_000)
    elif options.scale:
        measured = at_scale(options.times or 1000, options.rooms)
    else:
        measured = in_process(options.times or 1000)
    table(measured, json.loads(options.against.read_text()) if options.against else {})
    if options.save:
        options.save.write_text(json.dumps(measured, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
