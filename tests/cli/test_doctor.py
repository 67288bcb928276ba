"""`aura doctor`: what it finds, and that everything it finds can be mended."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from aura.cli.checks import (
    LEAST_FREE,
    Check,
    FileFacts,
    Work,
    check_clock,
    check_durability,
    check_file,
    check_runs,
    check_versions,
    check_workers,
    has_problem,
)
from aura.cli.doctor import installed_versions, needed
from aura.server.views import RunView, WorkerView, run_view, worker_view
from aura.store.base import Append, Entry, Heartbeat, RunRecord, Settle, StartRun, StoreInfo, Worker
from aura.store.sqlite import SqliteStore
from tests.cli.conftest import Aura

GIB = 2**30


def facts(**changed: Any) -> FileFacts:
    usual: dict[str, Any] = {
        "path": "aura.db",
        "exists": True,
        "mode": 0o600,
        "readable": True,
        "writable": True,
        "folder_exists": True,
        "folder_writable": True,
        "free": 50 * GIB,
        "total": 100 * GIB,
    }
    return FileFacts(**(usual | changed))


def info(kind: str = "postgres", server: str = "18.1", **settings: str) -> StoreInfo:
    usual = {"synchronous_commit": "on", "fsync": "on", "full_page_writes": "on"}
    if kind == "sqlite":
        usual = {"journal_mode": "wal", "synchronous": "2"}
    return StoreInfo(kind, "here", 1, server, usual | settings, 0.0)


def a_run(run_id: str, version: str = "1.0.0", state: Any = "pending") -> RunView:
    record = RunRecord(
        run_id, "research", version, state, 0, None, "o", b"{}", "f", None,
        b'{"type":"NonDeterminism","message":"another path"}' if state == "parked" else None,
        None, False, 0, 1.0, None, None,
    )  # fmt: skip
    return run_view(record)


def a_worker(*workflows: str) -> WorkerView:
    names = ",".join(f'"{name}"' for name in workflows)
    body = f'{{"host":"h","pid":1,"runs":2,"workflows":[{names}]}}'
    return worker_view(Worker("w", 10.0, 1.0, body.encode()), 5.0)


def levels(found: Any) -> list[tuple[str, str]]:
    checks: list[Check] = list(found)
    for check in checks:
        assert bool(check.mend) is (check.level != "ok"), check
    return [(check.name, check.level) for check in checks]


def test_versions() -> None:
    good: dict[str, str | None] = {"python": "3.11.7", "sqlite": "3.40.1", "asyncpg": "0.30.0"}
    assert levels(check_versions(good)) == [("versions", "ok")]
    wrongs: list[dict[str, str | None]]
    wrongs = [{"python": "3.10.9"}, {"sqlite": "3.34.9"}, {"asyncpg": None}]
    for wrong in wrongs:
        assert ("versions", "problem") in levels(check_versions(good | wrong))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [("file", "ok"), ("disk", "ok")]),
        ({"exists": False}, [("file", "note"), ("disk", "ok")]),
        ({"mode": 0o644}, [("file", "note"), ("disk", "ok")]),
        ({"mode": 0o666}, [("file", "problem"), ("disk", "ok")]),
        ({"writable": False}, [("file", "problem"), ("disk", "ok")]),
        ({"folder_writable": False}, [("file", "ok"), ("file", "problem"), ("disk", "ok")]),
        (
            {"exists": False, "folder_exists": False, "folder_writable": False},
            [("file", "note"), ("file", "problem"), ("disk", "ok")],
        ),
        ({"free": GIB}, [("file", "ok"), ("disk", "note")]),
        ({"free": LEAST_FREE - 1}, [("file", "ok"), ("disk", "problem")]),
    ],
)
def test_files_and_disks(changed: Any, expected: list[tuple[str, str]]) -> None:
    assert levels(check_file(facts(**changed))) == expected


def test_durability() -> None:
    assert levels(check_durability(info())) == [("durability", "ok")]
    assert levels(check_durability(info("sqlite"))) == [("durability", "ok")]
    for name in ("fsync", "synchronous_commit", "full_page_writes"):
        (check,) = check_durability(info(**{name: "off"}))
        assert check.level == "problem"
        assert f"{name} = on" in check.mend
    assert levels(check_durability(info("sqlite", synchronous="1"))) == [("durability", "problem")]
    assert ("versions", "problem") in levels(check_durability(info(server="13.9 (Debian)")))


def test_clocks() -> None:
    assert levels([check_clock(-0.4), check_clock(-1.5)]) == [("clock", "ok"), ("clock", "problem")]


def test_workers() -> None:
    assert levels([check_workers([a_worker("research 1.0.0")], busy=True)]) == [("workers", "ok")]
    assert levels([check_workers([], busy=False)]) == [("workers", "note")]
    assert levels([check_workers([], busy=True)]) == [("workers", "problem")]


def test_workers_tell_how_much_they_have_written() -> None:
    body = b'{"written":{"commits":1200,"entries":30000,"saved":28000}}'
    one = worker_view(Worker("w", 10.0, 1.0, body), 5.0)
    check = check_workers([one, a_worker("research 1.0.0")], busy=True)
    assert check.text.endswith(
        "30,000 journal entries in 1,200 commits, 28,000 saved by adaptive checkpoints"
    )
    assert "commits" not in check_workers([a_worker()], busy=True).text


def test_one_is_not_many() -> None:
    body = b'{"runs":1,"written":{"commits":1,"entries":1}}'
    one = worker_view(Worker("w", 10.0, 1.0, body), 5.0)
    text = check_workers([one], busy=True).text
    assert text.endswith("1 run under way; 1 journal entry in 1 commit")
    assert "2 runs under way" in check_workers([a_worker()], busy=True).text


def test_runs_that_wait_for_a_version_that_nobody_has() -> None:
    work = Work(pending=[a_run("a", "2.0.0"), a_run("b")], overdue=[a_run("c", "2.0.0")])
    (check,) = check_runs(work, [a_worker("research 1.0.0")])
    assert check.level == "problem"
    assert "research 2.0.0" in check.text
    assert "a, c" in check.text
    assert "aura worker" in check.mend


def test_parked_and_abandoned_runs() -> None:
    workers = [a_worker("research 1.0.0")]
    (parked,) = check_runs(
        Work(parked=[a_run(f"p{at}", state="parked") for at in range(7)]), workers
    )
    assert "NonDeterminism: another path" in parked.text
    assert "p4 and 2 more" in parked.text
    assert parked.mend == "aura runs show p0"
    assert levels(check_runs(Work(abandoned=[a_run("a")]), workers)) == [("abandoned", "note")]
    assert levels(check_runs(Work(abandoned=[a_run("a")]), [])) == [("versions of runs", "problem")]
    assert levels(check_runs(Work(), workers)) == [("runs", "ok")]


def test_needed_packages_are_those_of_the_metadata() -> None:
    lines = ["b>=1", "a[x]>=2 ; python_version > '3'", 'c>=1; extra == "test"', "A.d-e", ""]
    assert needed(lines) == ["A.d-e", "a", "b"]
    assert {"asyncpg", "pydantic", "typer"} <= installed_versions().keys()


def test_a_folder_that_is_not_there_is_to_be_made() -> None:
    found = check_file(facts(path="a/b.db", folder_exists=False, folder_writable=False, free=1))
    assert next(one.mend for one in found if one.level == "problem") == "mkdir -p a"


# -- the command -------------------------------------------------------------------------------


def test_looking_makes_no_database(aura: Aura, project: Path) -> None:
    ended = aura("doctor")
    assert ended.code == 0
    assert "the first run creates it" in ended.out
    assert not (project / "aura.db").exists()


def test_a_database_in_order(aura: Aura, project: Path) -> None:
    aura("run", "research:app", "research", '"a"')
    ended = aura("doctor", "research:app", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert ended.json.keys() == {"ok", "versions", "checks"}
    assert ended.json["ok"] is True
    assert all(one.keys() == {"name", "level", "text", "mend"} for one in ended.json["checks"])
    names = {one["name"] for one in ended.json["checks"]}
    assert names >= {"versions", "app", "file", "disk", "database", "durability", "clock", "runs"}


def test_work_that_nobody_does_is_a_problem(aura: Aura, project: Path) -> None:
    aura("run", "research:app", "research", '"a"', "--id", "waits", "--detach")
    ended = aura("doctor")
    assert ended.code == 1
    assert "no live worker has research 1.1.0; waiting for one: waits" in ended.out
    found = aura("doctor", "--json")
    assert (found.code, found.json["ok"]) == (1, False)


def test_parked_abandoned_and_overdue_runs_are_found(aura: Aura, project: Path) -> None:
    async def seed() -> None:
        store = SqliteStore("aura.db")
        await store.open()
        entry = Entry("abandoned", 1, "0/a#1", "step", "f", b"{}", b"1", None, 1, 1.0, 2.0)
        ids = ("parked", "abandoned", "overdue", "asleep")
        await store.commit([Heartbeat("gone", 0.0), *map(_owned, ids), Append(1, entry)])
        error = b'{"type":"NonDeterminism","message":"another path"}'
        await store.commit(
            [
                Settle("parked", 1, "parked", error=error),
                Settle("overdue", 1, "waiting", wake_at=1.0),
                Settle("asleep", 1, "waiting", wake_at=4e9),
            ]
        )
        await store.close()

    asyncio.run(seed())
    ended = aura("doctor", "--json")
    assert ended.code == 1
    texts = {one["name"]: one["text"] for one in ended.json["checks"]}
    assert "parked; the first one: NonDeterminism: another path" in texts["parked"]
    assert texts["versions of runs"].endswith("waiting for one: overdue, abandoned")


def _owned(run_id: str) -> StartRun:
    return StartRun(run_id, "research", "1.0.0", b"{}", "f", "o", "gone")


@pytest.mark.parametrize(
    ("database", "says"),
    [
        ("postgresql://aura:s3cret@127.0.0.1:1/none", "cannot be reached"),
        ("mysql://aura:s3cret@h/x", "unknown kind"),
        ("damaged.db", "not a database"),
    ],
)
def test_a_database_that_cannot_be_used(
    aura: Aura, project: Path, database: str, says: str
) -> None:
    (project / "damaged.db").write_bytes(b"this is no database at all, but a text" * 100)
    ended = aura("doctor", "--database", database)
    assert ended.code == 1
    assert says in " ".join(ended.out.split())
    assert "s3cret" not in ended.out + ended.err


def test_an_app_that_does_not_load_is_a_finding(aura: Aura, project: Path) -> None:
    ended = aura("doctor", "missing:app", "--json")
    assert ended.code == 1
    assert {"app"} <= {one["name"] for one in ended.json["checks"] if one["level"] == "problem"}
    assert has_problem([Check("app", "problem", "", "")])


def test_a_schema_from_the_future(aura: Aura, project: Path) -> None:
    aura("run", "research:app", "research", '"a"')
    with sqlite3.connect("aura.db") as db:
        db.execute("INSERT INTO migrations (id, checksum, applied_at) VALUES ('9999_pre', 'x', 0)")
    db.close()
    ended = aura("doctor")
    assert ended.code == 1
    assert "schema 9999" in ended.out
    assert "pip install --upgrade" in ended.out
