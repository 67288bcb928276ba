"""What Aura depends on: bounded below, installed as declared, and audited honestly."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests import audit
from tests.tidy_rules import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = [
    Requirement(text)
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for text in group
]

# Versions below these have holes that a server or its clients can be hit by. A lower bound that
# admits one of them is an invitation.
MENDED = {
    "aiohttp": "3.12.14",  # CVE-2025-53643, request smuggling
    "cryptography": "44.0.1",  # CVE-2024-12797
    "nicegui": "3.4.0",  # CVE-2025-66470
    "pydantic": "2.4.0",  # CVE-2024-3772
    "pyyaml": "5.4",  # CVE-2020-14343
    "uvicorn": "0.11.7",  # CVE-2020-7694
}


def lowest(one: Requirement) -> Version:
    bounds = [Version(part.version) for part in one.specifier if part.operator in (">=", "~=")]
    assert len(bounds) == 1, f"{one} has no lower bound"
    return bounds[0]


@pytest.mark.parametrize("one", DECLARED, ids=str)
def test_every_dependency_has_a_lower_bound_that_is_met(one: Requirement) -> None:
    assert lowest(one) > Version("0")
    if one.marker is None or one.marker.evaluate():
        try:
            there = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            return  # of an extra that is not installed
        assert one.specifier.contains(there, prereleases=True)


@pytest.mark.parametrize("name", MENDED)
def test_no_lower_bound_admits_a_version_with_a_known_hole(name: str) -> None:
    found = [one for one in DECLARED if one.name.lower() == name]
    assert found
    for one in found:
        assert lowest(one) >= Version(MENDED[name]), one


def package(name: str, *holes: str, skipped: str = "") -> dict[str, Any]:
    if skipped:
        return {"name": name, "skip_reason": skipped}
    vulns = [{"id": hole, "fix_versions": ["2.0"]} for hole in holes]
    return {"name": name, "version": "1.0", "vulns": vulns}


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([package("a"), package("b")], 0, "no known holes in 2 packages"),
        ([package("a", "CVE-1"), package("b")], 1, "a 1.0: CVE-1, mended in 2.0"),
        ([package("a", skipped="not found")], 2, "nothing was audited"),
        ([], 2, "nothing was audited"),
        ([package("a"), package("b", skipped="private")], 0, "1 could not be: b"),
    ],
)
def test_an_audit_says_what_it_has_seen(
    packages: list[dict[str, Any]], code: int, said: str
) -> None:
    ended, lines = audit.verdict({"dependencies": packages})
    assert ended == code
    assert said in "\n".join(lines)


@pytest.mark.parametrize(
    ("out", "err", "said"),
    [
        ("", "Traceback\nConnectionError: no such host", "ConnectionError: no such host"),
        ("", "", "pip-audit ended with 1"),
    ],
)
def test_a_service_that_is_away_is_no_good_news(
    out: str, err: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess([], 1, out, err)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    code, lines = audit.verdict(audit.ask())
    assert (code, lines) == (2, [f"nothing was audited: {said}"])
    report = json.dumps({"dependencies": [package("a", "CVE-1")]})
    done = subprocess.CompletedProcess([], 1, report, "Found 1 known vulnerability")
    assert audit.verdict(audit.ask())[0] == 1
