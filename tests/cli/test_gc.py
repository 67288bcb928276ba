"""`aura gc`: counts and deletes what has been over for long."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.cli.conftest import Aura


@pytest.fixture
def old_runs(aura: Aura, project: Path) -> None:
    """Two runs that ended a week ago, one that ended now, one that has not begun."""
    for name in ("old-1", "old-2", "new"):
        aura("run", "research:app", "research", '"a"', "--id", name, "--version", "1.0.0")
    aura("run", "research:app", "research", '"a"', "--id", "pending", "--detach")
    database = sqlite3.connect(project / "aura.db")
    database.execute("UPDATE runs SET finished_at = finished_at - 604800 WHERE id LIKE 'old-%'")
    database.execute("UPDATE runs SET created_at = created_at - 604800 WHERE id = 'pending'")
    database.execute("UPDATE workers SET lease_until = lease_until - 604800")
    database.commit()
    database.close()


def left(aura: Aura) -> list[str]:
    return sorted(run["id"] for run in aura("runs", "list", "--json").json["runs"])


def test_a_dry_run_counts_and_deletes_nothing(aura: Aura, old_runs: None) -> None:
    ended = aura("gc", "--older-than", "6d", "--dry-run", "--json")
    assert ended.json == {
        "dry_run": True,
        "older_than": 6 * 86_400.0,
        "runs": 2,
        "entries": 2,
        "signals": 0,
        "items": 0,
        "workers": 3,
        "payloads": 0,
        "events": 0,
    }
    said = aura("gc", "--older-than", "6d", "--dry-run").err
    assert "Would delete 2 runs with 2 journal entries" in said
    assert left(aura) == ["new", "old-1", "old-2", "pending"]


def test_old_runs_go_and_the_others_stay(aura: Aura, old_runs: None) -> None:
    assert "Deleted 2 runs with 2 journal entries" in aura("gc", "--older-than", "6d").err
    assert left(aura) == ["new", "pending"]
    assert aura("gc", "--older-than", "6d", "--json").json["runs"] == 0


def test_the_default_is_thirty_days(aura: Aura, old_runs: None) -> None:
    assert aura("gc", "--json").json["older_than"] == 30 * 86_400.0
    assert "old-1" in left(aura)


@pytest.mark.parametrize("text", ["7", "soon", "30s", "0d", "-7d"])
def test_a_time_must_be_one(aura: Aura, old_runs: None, text: str) -> None:
    ended = aura("gc", f"--older-than={text}")
    assert ended.code == 1
    assert "a minute or more" in ended.err
    assert "old-1" in left(aura)
