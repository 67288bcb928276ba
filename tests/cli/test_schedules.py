"""`aura schedules`: what it shows, and orders to schedules that another process drives."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Aura, Process, Spawn

PROJECT = """
from datetime import datetime
from aura import Aura, Config

app = Aura("plans", config=Config(lease=1.0, grace=0.5))


@app.workflow(version="1.0.0")
async def report(what: str, tick: datetime) -> str:
    return f"{what} {tick.isoformat()}"


app.schedule("nightly", report, "all", cron="0 3 * * *", timezone="Europe/Berlin", overlap="queue")
app.schedule("rare", report, "all", cron="0 0 29 2 *", missed="all", jitter=60)
"""


@pytest.fixture
def worker(project: Path, spawn: Spawn) -> Process:
    (project / "plans.py").write_text(PROJECT)
    process = spawn("worker", "plans:app", "--json")
    assert process.line()["event"] == "ready"
    return process


def test_a_schedule_is_paused_triggered_resumed_and_deleted(aura: Aura, worker: Process) -> None:
    listed = aura("schedules", "list", "--json").json["schedules"]
    assert [(one["name"], one["timezone"]) for one in listed] == [
        ("nightly", "Europe/Berlin"),
        ("rare", "UTC"),
    ]
    assert listed[0]["next"].endswith("Z")
    table = aura("schedules", "list").out
    assert re.search(r"nightly +active +0 3 \* \* \* Europe/Berlin +report 1\.0\.0", table)

    paused = aura("schedules", "pause", "nightly", "--reason", "freeze", "--by", "ada")
    assert (paused.code, paused.err) == (0, "")
    assert "nightly  paused" in paused.out
    assert "next – UTC" in paused.out
    again = aura("schedules", "pause", "nightly")
    assert (again.code, again.out) == (1, "")
    assert "is paused already" in again.err

    done = aura("schedules", "trigger", "nightly", "--id", "t-1", "--json").json
    assert (done["order"], done["done"], done["schedule"]["state"]) == ("trigger", True, "paused")
    aura("schedules", "trigger", "nightly", "--id", "t-1")
    shown = aura("schedules", "show", "nightly", "--json").json
    assert len(shown["runs"]) == 1
    assert shown["counts"]["started"] == 1
    text = aura("schedules", "show", "nightly").out
    assert re.search(r"paused +ada: freeze", text)
    assert "overlap queue, missed latest" in text

    assert aura("schedules", "resume", "nightly", "--json").json["schedule"]["next"] is not None
    deleted = aura("schedules", "delete", "nightly", "--json").json
    assert deleted["schedule"]["state"] in ("deleting", "deleted")
    assert "jitter 60 s" in aura("schedules", "show", "rare").out


def test_backfill_starts_what_was_not(aura: Aura, worker: Process) -> None:
    done = aura("schedules", "backfill", "nightly", "--from", "2026-03-28", "--to", "2026-03-31")
    assert (done.code, done.err) == (0, "")

    def runs() -> dict[str, Any]:
        found: dict[str, Any] = aura("schedules", "show", "nightly", "--json").json
        return found

    shown = runs()
    while len(shown["runs"]) < 3 or shown["running"] or shown["waiting"]:
        shown = runs()
    assert sorted(shown["runs"]) == [
        "nightly@2026-03-28T02:00:00Z",
        "nightly@2026-03-29T01:00:00Z",  # summer time has begun
        "nightly@2026-03-30T01:00:00Z",
    ]
    assert set(shown["runs"].values()) == {"completed"}


NONSENSE = [
    (("backfill", "nightly", "--from", "soon"), "--from 'soon' is not a time"),
    (("backfill", "nightly", "--from", "2999-01-01"), "begins before it ends"),
    (("backfill", "nightly", "--from", "1970-01-02"), "more than 1,000"),
    (("pause", "weekly"), "there is no schedule weekly"),
    (("show", "weekly"), "there is no schedule weekly"),
    (("resume", "nightly"), "is not paused"),
]


def test_orders_that_make_no_sense(aura: Aura, worker: Process) -> None:
    for arguments, says in NONSENSE:
        ended = aura("schedules", *arguments)
        assert (ended.code, ended.out) == (1, ""), arguments
        assert says in ended.err
        assert ended.err.count("\n") == 1


def test_an_order_without_a_worker_is_recorded(
    aura: Aura, project: Path, worker: Process, spawn: Spawn
) -> None:
    assert worker.stop(15) in (0, 143)
    ended = aura("schedules", "pause", "nightly", "--json")
    assert ended.json == {"order": "pause", "done": False, "schedule": None}
    assert "no live worker" in ended.err
    assert "nightly" in aura("schedules", "list").out
    assert spawn("worker", "plans:app", "--json").line()["event"] == "ready"
    while aura("schedules", "show", "nightly", "--json").json["state"] != "paused":
        pass


def test_no_schedules(aura: Aura, project: Path) -> None:
    assert aura("run", "research:app", "research", '"text"').code == 0
    ended = aura("schedules", "list")
    assert (ended.code, ended.out) == (0, "")
    assert "app.schedule" in ended.err
    assert aura("schedules", "list", "--json").json == {"schedules": []}
