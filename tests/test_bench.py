"""The benchmark compares like with like, and runs."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("psutil", reason="needs psutil: pip install -r tests/requirements.txt")

import bench
import floor
import roomapp
from processes import ONE_SHOT, PROJECT
from service.database import close_database
from service.schema import open_database

ROOMS = 1000


@pytest.fixture(scope="module")
def both():
    """The floor's application and ours, on databases alike."""
    with (
        bench.databases(ROOMS, "floor", "ours") as (floors, ours),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("FLOOR_DATABASE", str(floors))
        open_database(ours)
        yield floor.app, roomapp.app
        close_database()
        floor.close()


def test_the_floor_answers_as_the_service_does(both):
    several = zip(*([*bench.cases(ROOMS), *bench.searches()] for _ in both), strict=True)
    for one, other in several:
        for _ in range(3):
            answers = []
            for app, (_, url, body) in zip(both, (one, other), strict=True):
                answer = json.loads(bench.call(app, url, body())[1])
                answers.append({**answer, "last_time": 0, "message_id": 0, "time": 0})
            assert answers[0] == answers[1], one[0]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--times=3"], id="in process"),
        pytest.param(["--scale", "--times=5", "--rooms", "1000", "2000"], id="scale"),
        pytest.param(["--http", "--times=160"], id="http"),
    ],
)
@pytest.mark.slow
def test_it_measures_and_compares_with_an_earlier_run(tmp_path, options):
    script = [sys.executable, str(PROJECT / "tests/bench.py"), *options]
    earlier = ["--save", str(tmp_path / "earlier.json")]
    subprocess.run([*script, *earlier], check=True, **ONE_SHOT | {"timeout": 120})
    again = ["--against", str(tmp_path / "earlier.json")]
    done = subprocess.run([*script, *again], check=True, **ONE_SHOT | {"timeout": 120})
    head, *rows = done.stdout.splitlines()
    assert len(head.split()) > 1
    assert len(rows) >= 3
    assert all(" x" in row for row in rows)
