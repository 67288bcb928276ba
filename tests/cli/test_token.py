"""`aura token`, and the audit log of the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aura import Aura as App
from aura import Config
from aura.cli import process
from aura.cli.audited import CHANGES, ELSEWHERE, READS, change_of
from aura.server.audit import AuditLog, read_log
from tests.cli.conftest import Aura
from tests.cli.test_help import ALL, LEAVES


def audit(project: Path) -> AuditLog:
    async def look() -> AuditLog:
        async with App("a", config=Config(database=str(project / "aura.db"))).client() as app:
            return await read_log(app)

    return process.run(look())


def test_a_token_is_made_listed_and_revoked(aura: Aura, project: Path) -> None:
    assert aura("run", "research:app", "research", '"text"', "--id", "r").code == 0
    made = aura("token", "create", "--name", "ci", "--role", "operator", "--workflow", "research")
    assert made.code == 0
    text = made.out.strip()
    assert text.startswith("aura_")
    assert text not in made.err
    listed = aura("token", "list", "--json")
    assert text not in listed.out
    [one] = json.loads(listed.out)["tokens"]
    assert (one["name"], one["role"], one["workflows"], one["state"]) == (
        "ci", "operator", ["research"], "live",
    )  # fmt: skip
    assert "ci" in aura("token", "list").out
    ended = aura("token", "revoke", "ci", "--reason", "it was in a log")
    assert (ended.code, ended.err) == (0, "The token ci is revoked.\n")
    again = aura("token", "revoke", text)
    assert again.code == 1
    assert text.split("_", 2)[2] not in again.err
    told = [(one.what, one.via, one.why, dict(one.target)) for one in audit(project).entries]
    assert told[0][0] == "run"
    assert told[1] == (
        "token create", "cli", "",
        {"name": "ci", "role": "operator", "workflow": "research", "expires": "90d"},
    )  # fmt: skip
    assert told[2] == ("token revoke", "cli", "it was in a log", {"name": "ci"})
    asked, refused = audit(project).entries[3:]
    assert (asked.what, asked.outcome, asked.of) == ("token revoke", "asked", None)
    assert (refused.what, refused.outcome, refused.of) == (
        "token revoke", "token-refused", asked.number,
    )  # fmt: skip


@pytest.mark.parametrize("expires", ["0d", "soon", "-1h", "1e9d", "", "99999999d"])
def test_odd_lifetimes_are_refused(aura: Aura, project: Path, expires: str) -> None:
    aura("run", "research:app", "research", '"text"')
    ended = aura("token", "create", "--name", "a", "--expires", expires)
    assert ended.code == 1
    assert "--expires" in ended.err
    assert "never" in ended.err


def test_what_only_looks_leaves_no_entry(aura: Aura, project: Path) -> None:
    aura("run", "research:app", "research", '"text"', "--id", "r")
    before = len(audit(project).entries)
    for command in (
        ("runs", "list"), ("runs", "show", "r"), ("token", "list"), ("gc", "--dry-run"),
    ):  # fmt: skip
        assert aura(*command).code == 0
    assert len(audit(project).entries) == before
    aura("runs", "cancel", "r")
    [entry] = audit(project).entries[before:]
    assert (entry.what, entry.target, entry.by) == ("runs cancel", {"run_id": "r"}, process.user())


def test_why_something_was_changed_and_why_not(aura: Aura, project: Path) -> None:
    aura("run", "research:app", "research", '"text"', "--id", "r", "--reason", "a trial")
    assert aura("runs", "requeue", "nope", "--reason", "mended").code == 1
    assert aura("run", "research:app", "research", '"other"', "--id", "r").code == 1
    assert aura("gc", "--older-than", "99d", "--reason", "room").code == 0
    told = [(one.what, one.why, one.outcome, one.of) for one in audit(project).entries]
    assert told == [
        ("run", "a trial", "asked", None),
        ("runs requeue", "mended", "asked", None),
        ("runs requeue", "mended", "run-not-found", 2),
        ("run", "", "asked", None),
        ("run", "", "run-conflict", 4),
        ("gc", "room", "asked", None),
    ]


def test_a_run_that_fails_was_started(aura: Aura, project: Path) -> None:
    ended = aura("run", "research:app", "broken", '"text"', "--id", "b")
    assert ended.code == 1
    assert [one.outcome for one in audit(project).entries] == ["asked"]


def test_every_command_is_known_to_change_something_or_not() -> None:
    told = [*CHANGES, *READS, *ELSEWHERE]
    assert sorted(told) == sorted(set(told))
    assert {" ".join(path) for path in LEAVES} == set(told) - ({"demo"} - set(map(" ".join, ALL)))


@pytest.mark.parametrize("path", list(CHANGES))
def test_what_is_recorded_are_parameters_of_the_command(path: str) -> None:
    named = {one.name for one in ALL[tuple(path.split())].params}
    assert set(CHANGES[path]) <= named
    assert named & {"reason", "why"}
    hidden = {"payload", "value", "given", "database"}
    assert not hidden & set(CHANGES[path])


def test_a_change_in_the_words_of_the_log() -> None:
    options: dict[str, Any] = {"names": ("a", "b"), "everything": False, "reason": "slow"}
    change = change_of("rollback", {**options, "by": "ann"})
    assert (change.by, change.why, change.target) == ("ann", "slow", {"names": "a b"})
