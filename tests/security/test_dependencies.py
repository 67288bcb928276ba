"""What Aura depends on: bounded below, installed as declared, and audited honestly."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests import advisories, audit
from tests.tidy_rules import ROOT

DECLARED = advisories.declared()
KNOWN = advisories.read()

PLANTED = advisories.Advisory(
    package="aiohttp",
    id="GHSA-aaaa-bbbb-cccc",
    aliases=("CVE-2030-1",),
    ranges=({"introduced": "0", "fixed": "3.9.5"}, {"introduced": "4.0.0a1", "fixed": "4.0.2"}),
)
THE_LIST = advisories.Known(date(2030, 1, 1), "planted", [PLANTED])


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


# -- the list beside the tests ---------------------------------------------------------------------


def test_nothing_that_is_installed_has_a_known_hole() -> None:
    """What `make test` runs with: Aura, its extras, its tools."""
    assert advisories.holes(advisories.installed(), KNOWN) == []


def test_no_lower_bound_admits_a_version_with_a_known_hole() -> None:
    assert advisories.admitted(DECLARED, KNOWN) == []


def test_the_list_knows_what_faces_the_network() -> None:
    """An empty list finds nothing: so it says something of whatever reads what strangers send."""
    known = {one.package for one in KNOWN.advisories}
    assert known >= {"aiohttp", "cryptography", "fastapi", "h11", "jinja2", "nicegui", "orjson",
                     "python-engineio", "python-multipart", "python-socketio", "pyyaml",
                     "starlette", "uvicorn"}  # fmt: skip
    for one in KNOWN.advisories:
        for version in (value for part in one.ranges for value in part.values()):
            assert Version(version) >= Version("0"), one.id


@pytest.mark.parametrize(
    ("version", "mended"),
    [("0.1", "3.9.5"), ("3.9.4", "3.9.5"), ("3.9.5rc1", "3.9.5"), ("4.0.0a1", "4.0.2"),
     ("4.0.1+local", "4.0.2"), ("3.9.5", ""), ("3.14", ""), ("4.0.0a0", ""), ("4.0.2", "")],
)  # fmt: skip
def test_a_planted_version_is_found_with_its_remedy(version: str, mended: str) -> None:
    found = advisories.holes({"aiohttp": version, "rich": "1.0"}, THE_LIST)
    assert found == [
        f"aiohttp {Version(version)}: GHSA-aaaa-bbbb-cccc, mended in {mended}, "
        "https://github.com/advisories/GHSA-aaaa-bbbb-cccc"
    ] * bool(mended)


@pytest.mark.parametrize(
    ("ranges", "versions", "affected"),
    [
        ([{"introduced": "0"}], (), {"1.0", "1.1", "2.0"}),
        ([{"introduced": "0", "last_affected": "1.1"}], (), {"1.0", "1.1"}),
        ((), ("1.1",), {"1.1"}),
    ],
)
def test_a_hole_that_nothing_mends_is_found_too(
    ranges: Sequence[Mapping[str, str]], versions: Sequence[str], affected: set[str]
) -> None:
    hole = advisories.Advisory("a", "CVE-2030-2", ranges=ranges, versions=versions)
    known = advisories.Known(date(2030, 1, 1), "planted", [hole])
    for version in ("1.0", "1.1", "2.0"):
        found = advisories.holes({"a": version}, known)
        assert bool(found) is (version in affected)
        assert all("no version mends it yet" in one for one in found)
    assert advisories.admitted([Requirement("a>=1.0")], known) == []  # there is nothing to write


def test_a_lower_bound_is_raised_past_all_holes() -> None:
    more = dataclasses.replace(PLANTED, id="X-2", ranges=[{"introduced": "3.9.5", "fixed": "3.10"}])
    known = dataclasses.replace(THE_LIST, advisories=[PLANTED, more])
    wanted = [Requirement(one) for one in ("aiohttp[speedups]>=3.9", "aiohttp>=3.10", "rich>=1")]
    assert advisories.admitted(wanted, known) == [
        "aiohttp[speedups]>=3.9 admits GHSA-aaaa-bbbb-cccc: write aiohttp>=3.10"
    ]


def offline(*path: Path) -> subprocess.CompletedProcess[str]:
    """What `make test` runs, with these folders before what is installed."""
    places = os.pathsep.join(str(one) for one in path)
    return subprocess.run(
        [sys.executable, "-m", "tests.audit", "--offline"],
        capture_output=True, text=True, timeout=120, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": places},
    )  # fmt: skip


def test_make_test_ends_at_an_installed_version_with_a_hole(tmp_path: Path) -> None:
    clean = offline()
    assert clean.returncode == 0, clean.stdout + clean.stderr
    assert re.search(rf"as of {KNOWN.as_of} \(\d+ days ago\): no known holes", clean.stdout)
    planted = tmp_path / "starlette-0.48.0.dist-info"
    planted.mkdir()
    (planted / "METADATA").write_text("Metadata-Version: 2.1\nName: Starlette\nVersion: 0.48.0\n")
    found = offline(tmp_path)
    assert found.returncode == 1
    assert "starlette 0.48.0: CVE-2025-62727, mended in 0.49.1" in found.stdout
    assert "audit --offline" in (ROOT / "Makefile").read_text().partition("\ntest:")[2]


def test_an_old_list_says_how_old_it_is_and_fails_nothing() -> None:
    code, lines = audit.offline(KNOWN.as_of + timedelta(days=4000))
    assert code == 0
    assert "(4000 days ago)" in lines[-1]


@pytest.mark.parametrize(
    "text",
    [
        "", "{}", "[]", '{"as_of": "2030-01-01", "source": "", "advisories": []}',
        '{"as_of": "soon", "source": "", "advisories": [{"package": "a", "id": "b"}]}',
        '{"as_of": "2030-01-01", "source": "", "advisories": [{"package": "a", "id": "b"}]}',
        '{"as_of": "2030-01-01", "source": "", "advisories": [{"packages": "a", "id": "b"}]}',
    ],
)  # fmt: skip
def test_a_list_that_says_nothing_is_no_good_news(text: str, tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    assert audit.offline(date(2030, 1, 1), path)[0] == 2
    path.write_text(text)
    code, lines = audit.offline(date(2030, 1, 1), path)
    assert code == 2
    assert lines[0].startswith("nothing was audited: ")


ENTRY = """
id: PYSEC-2031-{number}
aliases: [{alias}]
{more}
affected:
- package: {{ecosystem: PyPI, name: AioHTTP}}
  ranges:
  - type: GIT
    events: [{{introduced: "0"}}, {{fixed: 0123abc}}]
{ranges}
  versions: ["1.0", "1.1"]
"""
RANGES = '  - {type: ECOSYSTEM, events: [{introduced: "0"}, {fixed: 1.2}, {introduced: "2"}]}'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A database as PyPA's is laid out, of the year 2031."""
    folder = tmp_path / "vulns" / "aiohttp"
    folder.mkdir(parents=True)
    other = tmp_path / "vulns" / "unheard-of"
    other.mkdir()
    for path, filled in {
        folder / "1.yaml": {"alias": "CVE-2031-1", "more": "", "ranges": RANGES},
        folder / "2.yaml": {"alias": "CVE-2031-2", "more": "", "ranges": ""},
        folder / "3.yaml": {"alias": "CVE-2030-1", "more": "withdrawn: 2031-01-01", "ranges": ""},
        other / "4.yaml": {"alias": "CVE-2031-4", "more": "", "ranges": RANGES},
    }.items():
        path.write_text(ENTRY.format(number=path.stem, **filled))
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"]):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", *command],
            cwd=tmp_path, check=True, timeout=60,
            env={**os.environ, "GIT_COMMITTER_DATE": "2031-02-03T04:05:06Z"},
        )  # fmt: skip
    return tmp_path


def test_the_list_is_renewed_from_a_checkout(checkout: Path) -> None:
    mine = advisories.Advisory("rich", "CVE-2030-9", ranges=[{"introduced": "0"}])
    known = dataclasses.replace(THE_LIST, advisories=[PLANTED, mine])
    fresh = advisories.renewed(known, checkout, {"aiohttp", "rich"})
    assert fresh.as_of == date(2031, 2, 3)
    by_id = {one.id: one for one in fresh.advisories}
    assert set(by_id) == {"CVE-2030-9", "PYSEC-2031-1", "PYSEC-2031-2"}  # the withdrawn one is gone
    assert by_id["PYSEC-2031-1"].package == "aiohttp"
    assert by_id["PYSEC-2031-1"].names == {"PYSEC-2031-1", "CVE-2031-1"}
    affected = [v for v in ("1.0", "1.1", "1.2", "1.9", "2", "3")
                if by_id["PYSEC-2031-1"].affects(Version(v))]  # fmt: skip
    assert affected == ["1.0", "1.1", "2", "3"]
    assert by_id["PYSEC-2031-2"].versions == ["1.0", "1.1"]
    advisories.write(fresh, checkout / "list.json")
    again = advisories.read(checkout / "list.json")
    for version in ("1.0", "1.2", "2"):
        everything = {"aiohttp": version, "rich": version}
        assert advisories.holes(everything, again) == advisories.holes(everything, fresh)
    older = dataclasses.replace(known, as_of=date(2032, 1, 1))
    assert advisories.renewed(older, checkout, {"aiohttp"}).as_of == date(2032, 1, 1)


def test_a_renewal_looks_at_what_comes_with_a_dependency_too() -> None:
    assert advisories.closure([Requirement("fastapi")]) >= {"fastapi", "starlette", "anyio"}
    assert "aiohttp" not in advisories.closure([Requirement("fastapi")])
    assert advisories.closure([Requirement("no-such-package")]) == {"no-such-package"}


def test_what_is_no_checkout_renews_nothing(tmp_path: Path) -> None:
    before = advisories.LIST.read_bytes()
    for missing, said in ((tmp_path / "none", "has no vulns/"), (tmp_path, "has no date")):
        code, lines = audit.renew(missing, date(2030, 1, 1))
        assert code == 2
        assert said in lines[0]
        (tmp_path / "vulns").mkdir(exist_ok=True)
    assert advisories.LIST.read_bytes() == before


# -- the service -----------------------------------------------------------------------------------


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
