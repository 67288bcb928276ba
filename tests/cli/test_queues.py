"""`aura queues`: list, show; and a worker's tags and resources."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

import aura as aura_library
from tests.cli.conftest import PROJECT, Aura, Spawn

QUEUES = """

gpu = app.queue(
    "gpu", concurrency=8, per_worker=2, per_key=1, rate=(100, 60), requires={"gpu"},
    resources={"card": 1},
)


@app.workflow(version="1.0.0", queue=gpu)
async def render(text: str) -> str:
    return text.upper()

"""
QUEUE_KEYS = {
    *("name", "pending", "running", "waiting", "parked", "concurrency", "per_worker", "per_key"),
    *("rate", "per", "requires", "resources", "changed_at"),
}


@pytest.fixture
def queues(project: Path) -> None:
    (project / "research.py").write_text(PROJECT + QUEUES)


@pytest.fixture
def some_runs(aura: Aura, queues: None, project: Path) -> None:
    started = aura("run", "research:app", "render", '"no key"', "--detach")
    assert started.code == 0, started.err
    asyncio.run(_start_with_keys(str(project / "aura.db")))


async def _start_with_keys(database: str) -> None:
    app = aura_library.Aura("research", config=aura_library.Config(database=database))

    @app.workflow(version="1.0.0")
    async def render(text: str) -> str:
        return text.upper()

    async with app.client():
        for key in ("a", "b", "a"):
            await app.start(render, key, queue=app.place("gpu", key=key, priority="high"))


def test_the_list(aura: Aura, some_runs: None) -> None:
    ended = aura("queues", "list")
    assert (ended.code, ended.err) == (0, "")
    head, line = ended.out.splitlines()
    assert head.split() == ["QUEUE", "PENDING", "RUNNING", "WAITING", "PARKED", "LIMITS"]
    assert line.split()[:5] == ["gpu", "4", "0", "0", "0"]
    assert "8 at once; 2 per worker; 1 per key; 100 per 1 min" in line
    assert "requires gpu; 1 card each" in line


def test_the_shape_of_the_list(aura: Aura, some_runs: None) -> None:
    ended = aura("queues", "list", "--json")
    assert (ended.code, ended.err) == (0, "")
    [queue] = ended.json["queues"]
    assert queue.keys() == QUEUE_KEYS
    assert queue | {"changed_at": None} == {
        "name": "gpu",
        "pending": 4,
        "running": 0,
        "waiting": 0,
        "parked": 0,
        "concurrency": 8,
        "per_worker": 2,
        "per_key": 1,
        "rate": 100,
        "per": 60.0,
        "requires": ["gpu"],
        "resources": {"card": 1.0},
        "changed_at": None,
    }


def test_one_queue(aura: Aura, some_runs: None) -> None:
    ended = aura("queues", "show", "gpu")
    assert ended.code == 0
    assert "4 pending, 0 running" in ended.out
    assert [line.split() for line in ended.out.splitlines()[-3:]] == [
        ["a", "2", "0"],
        ["(none)", "1", "0"],
        ["b", "1", "0"],
    ]
    assert "No live worker has what this queue requires" in ended.err
    found = aura("queues", "show", "gpu", "--json").json
    assert found.keys() == {"queue", "keys", "running_on", "served_by"}
    assert found["queue"].keys() == QUEUE_KEYS
    assert found["keys"][0] == {"key": "a", "pending": 2, "running": 0}


def test_a_queue_that_is_not_there(aura: Aura, some_runs: None) -> None:
    ended = aura("queues", "show", "gpus")
    assert (ended.code, ended.out) == (1, "")
    assert "there is no queue gpus" in ended.err
    assert "aura queues list" in ended.err


def test_no_queues(aura: Aura) -> None:
    aura("run", "research:app", "research", '"a"')
    ended = aura("queues", "list")
    assert (ended.code, ended.out) == (0, "")
    assert "app.queue(" in ended.err
    assert aura("queues", "list", "--json").json == {"queues": []}


def test_a_worker_with_tags_and_resources(aura: Aura, some_runs: None, spawn: Spawn) -> None:
    """It takes what the others may not, and says what it has."""
    worker = spawn(
        *("worker", "research:app", "--tag", "gpu", "--tag", "eu", "--resource", "card=2"), "--json"
    )
    assert worker.line()["event"] == "ready"
    waited = aura("run", "research:app", "render", '"x"', "--timeout", "60")
    assert (waited.code, waited.out) == (0, '"X"\n')
    give_up = time.monotonic() + 60
    while (found := aura("queues", "show", "gpu", "--json").json)["queue"]["pending"]:
        assert time.monotonic() < give_up
    assert [str(worker.popen.pid) in one for one in found["served_by"]] == [True]
    assert worker.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--resource", "gpu"], "gpu=2"), (["--resource", "gpu=-1"], "amount"), (["--tag", ""], "")],
)
def test_what_no_worker_can_have(aura: Aura, queues: None, options: list[str], said: str) -> None:
    ended = aura("worker", "research:app", *options)
    assert (ended.code, ended.out) == (1, "")
    assert said in ended.err
    assert "Traceback" not in ended.err
