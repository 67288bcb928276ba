"""Known holes of what Aura is made of: a dated list beside the tests, which needs no network.

    advisories.holes(advisories.installed(), advisories.read())   # what to upgrade, a line each

tests/security/advisories.json has for each advisory its package, its identifiers, and the versions
that it affects: ranges as in the OSV schema, from `introduced` on, before `fixed` or up to
`last_affected`, in the order of PEP 440; or single `versions`. What the list does not name it does
not know: it is a net with a date, and `make audit` asks the service that knows more.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.tidy_rules import ROOT

LIST = ROOT / "tests" / "security" / "advisories.json"


class Unusable(Exception):
    """A list or a checkout from which nothing can be learnt, and why."""


@dataclass(frozen=True)
class Advisory:
    """One hole in one package."""

    package: str
    id: str
    aliases: Sequence[str] = ()
    ranges: Sequence[Mapping[str, str]] = ()
    versions: Sequence[str] = ()

    @property
    def names(self) -> set[str]:
        return {self.id, *self.aliases}

    @property
    def link(self) -> str:
        """Where it can be read."""
        if self.id.startswith("GHSA-"):
            return f"https://github.com/advisories/{self.id}"
        if self.id.startswith("CVE-"):
            return f"https://nvd.nist.gov/vuln/detail/{self.id}"
        return f"https://osv.dev/vulnerability/{self.id}"

    def affects(self, version: Version) -> bool:
        return any(_within(version, one) for one in self.ranges) or version in map(
            Version, self.versions
        )

    def mended(self, version: Version) -> Version | None:
        """The first version after this one that has it no more, if there is one."""
        fixed = [Version(one["fixed"]) for one in self.ranges if "fixed" in one]
        return min((one for one in fixed if one > version), default=None)


def _within(version: Version, one: Mapping[str, str]) -> bool:
    start = one["introduced"]
    if start != "0" and version < Version(start):
        return False
    if "fixed" in one:
        return version < Version(one["fixed"])
    return "last_affected" not in one or version <= Version(one["last_affected"])


@dataclass(frozen=True)
class Known:
    """The list: what is known, as of which day, and who says so."""

    as_of: date
    source: str
    advisories: Sequence[Advisory]

    def age(self, today: date) -> str:
        packages = len({one.package for one in self.advisories})
        return (
            f"{len(self.advisories)} advisories on {packages} packages, as of {self.as_of} "
            f"({(today - self.as_of).days} days ago)"
        )


def read(path: Path = LIST) -> Known:
    """The list. Raises Unusable rather than to know nothing."""
    try:
        body = json.loads(path.read_text())
        found = [Advisory(**one) for one in body["advisories"]]
        known = Known(date.fromisoformat(body["as_of"]), body["source"], found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unusable(f"{path} cannot be read: {error!r}") from error
    empty = [one.id for one in found if not (one.ranges or one.versions)]
    if empty or not found:
        raise Unusable(f"{path} says of no version that it is affected by {empty or 'anything'}")
    return known


def write(known: Known, path: Path = LIST) -> None:
    """One advisory a line, so that a renewal can be reviewed."""
    ordered = sorted(known.advisories, key=lambda one: (one.package, one.id))
    lines = [json.dumps({name: value for name, value in asdict(one).items() if value or
                         name == "aliases"}) for one in ordered]  # fmt: skip
    path.write_text(
        f'{{\n  "as_of": "{known.as_of}",\n  "source": {json.dumps(known.source)},\n'
        '  "advisories": [\n    ' + ",\n    ".join(lines) + "\n  ]\n}\n"
    )


# -- what is asked of it ---------------------------------------------------------------------------


def installed() -> dict[str, str]:
    """The version of each package of this environment, as it would be imported."""
    found: dict[str, str] = {}
    for one in importlib.metadata.distributions():
        found.setdefault(canonicalize_name(one.metadata["Name"]), one.version)
    return found


def holes(packages: Mapping[str, str], known: Known) -> list[str]:
    """What of these versions has a known hole: package, version, advisory, remedy."""
    found = []
    for one in known.advisories:
        if one.package not in packages:
            continue
        version = Version(packages[one.package])
        if one.affects(version):
            mended = one.mended(version)
            remedy = f"mended in {mended}" if mended else "no version mends it yet"
            found.append(f"{one.package} {version}: {one.id}, {remedy}, {one.link}")
    return sorted(found)


def declared() -> list[Requirement]:
    """What pyproject.toml asks for, with all extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = (project["dependencies"], *project["optional-dependencies"].values())
    return [Requirement(text) for group in groups for text in group]


def admitted(requirements: Iterable[Requirement], known: Known) -> list[str]:
    """Lower bounds that let in a version with a hole although a mended one exists."""
    found = []
    for wanted in requirements:
        mine = [one for one in known.advisories if one.package == canonicalize_name(wanted.name)]
        for bound in (one for one in wanted.specifier if one.operator in (">=", "~=", "==")):
            lowest = safe = Version(bound.version)
            while worse := [to for one in mine if one.affects(safe) and (to := one.mended(safe))]:
                safe = max(worse)
            if safe > lowest:
                ids = ", ".join(one.id for one in mine if one.affects(lowest))
                found.append(f"{wanted} admits {ids}: write {wanted.name}>={safe}")
    return found


def closure(requirements: Iterable[Requirement]) -> set[str]:
    """What is installed because of these requirements, by name."""
    waiting = {(canonicalize_name(one.name), extra) for one in requirements
               for extra in ("", *one.extras)}  # fmt: skip
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra that is not installed, or of another platform
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                more = {(canonicalize_name(need.name), one) for one in ("", *need.extras)}
                waiting |= more - seen
                seen |= more
    return {str(name) for name, _ in seen}


# -- how it is renewed -----------------------------------------------------------------------------


def renewed(known: Known, checkout: Path, packages: set[str]) -> Known:
    """The list with what a checkout of the PyPA advisory database says of these packages.

    Entries that the checkout has by any of their identifiers are taken from there, also when it has
    withdrawn them; the others stay.
    """
    folder = checkout / "vulns"
    if not folder.is_dir():
        raise Unusable(f"{checkout} is no checkout of the advisory database: it has no vulns/")
    dated = subprocess.run(
        ["git", "-C", str(checkout), "log", "-1", "--format=%cs"], capture_output=True, text=True
    )
    if dated.returncode != 0:
        raise Unusable(f"{checkout} has no date: {dated.stderr.strip()}")
    fresh: list[Advisory] = []
    told: set[str] = set()
    for path in sorted(folder.glob("*/*.yaml")):
        if canonicalize_name(path.parent.name) in packages:
            body = yaml.safe_load(path.read_text())
            told |= {body["id"], *body.get("aliases", ())}
            fresh += () if body.get("withdrawn") else _of_database(body)
    kept = [one for one in known.advisories if not one.names & told]
    as_of = max(known.as_of, date.fromisoformat(dated.stdout.strip()))
    return Known(as_of, known.source, [*kept, *fresh])


def _of_database(body: Mapping[str, Any]) -> list[Advisory]:
    found = []
    for one in body["affected"]:
        ranges: list[dict[str, str]] = []
        for events in (it["events"] for it in one.get("ranges", ()) if it["type"] == "ECOSYSTEM"):
            for event in events:  # in order: each `introduced` begins a range
                if "introduced" in event:
                    ranges.append({})
                ranges[-1].update({name: str(value) for name, value in event.items()})
        found.append(
            Advisory(
                package=str(canonicalize_name(one["package"]["name"])),
                id=body["id"],
                aliases=sorted(body.get("aliases", ())),
                ranges=ranges,
                versions=() if ranges else [str(version) for version in one.get("versions", ())],
            )
        )
    return found
