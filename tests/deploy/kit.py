"""What lies in deploy/, and what of it is checked everywhere."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from aura.server import metrics, store_metrics
from aura.server.instruments import Spec
from tests.tidy_rules import ROOT

DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "aura.rules.yml"

OURS = re.compile(r"\b(?:aura|process)_\w+\b")
MATCHERS = re.compile(r"\b((?:aura|process)_\w+)\{([^}]*)\}")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
GROUPED = re.compile(r"\b(?:by|on|without|ignoring|group_left)\s*\(([^)]*)\)")
ALWAYS = {"job", "instance", "le"}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(one) for one in command], capture_output=True, text=True, timeout=120, cwd=cwd
    )


def specs() -> dict[str, Spec]:
    """All metrics of Aura, by name."""
    found = [one for room in (metrics, store_metrics) for one in vars(room).values()]
    return {one.name: one for one in found if isinstance(one, Spec)}


def family_of(name: str) -> str:
    """The metric that a series belongs to: a histogram has three kinds of series."""
    known = specs()
    for end in ("_bucket", "_sum", "_count"):
        bare = name.removesuffix(end)
        if bare != name and bare in known and known[bare].kind == "histogram":
            return bare
    return name


def odd_labels(expression: str) -> Iterator[str]:
    """Labels that an expression uses and none of its metrics has."""
    known = specs()
    names = {family_of(name) for name in OURS.findall(expression)} & set(known)
    has = ALWAYS | {label for name in names for label in known[name].labels}
    for name, matchers in MATCHERS.findall(expression):
        spec = known.get(family_of(name))
        own = ALWAYS | set(spec.labels if spec else ())
        yield from (f"{name} has no {one}" for one in LABEL.findall(matchers) if one not in own)
    for labels in GROUPED.findall(expression):
        for one in filter(None, (part.strip() for part in labels.split(","))):
            if one not in has:
                yield f"no metric of {expression!r} has {one}"
