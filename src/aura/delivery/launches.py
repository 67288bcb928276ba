"""Experiments and decommissions of files: those that say `start: true` are begun, once.

What was begun is kept as a document `launch/<kind>/<name>`, so applying the same file again changes
nothing, whatever became of it; a section that is changed begins anew when it can. `launch_changes`
is pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from pydantic import TypeAdapter

from aura import yamlnodes
from aura.delivery.decommission import Decommission
from aura.delivery.experiment import Experiment, parse_experiment
from aura.delivery.gitops import Action, Change, differing
from aura.delivery.retiring import parse_decommission
from aura.errors import CatalogError

KIND = "launch"
Sort = Literal["experiment", "decommission"]


@dataclass(frozen=True, slots=True)
class WantedLaunch:
    """What a file wants begun; `named` says whether a decommission names its endpoints."""

    kind: Sort
    value: Experiment | Decommission
    place: str
    named: bool = True

    @property
    def name(self) -> str:
        return self.value.name if isinstance(self.value, Experiment) else self.value.target

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.name

    @property
    def said(self) -> dict[str, Any]:
        """All its settings as plain JSON values."""
        adapter = _experiment() if isinstance(self.value, Experiment) else _decommission()
        found: dict[str, Any] = adapter.dump_python(self.value, mode="json")
        return found


@dataclass(frozen=True, slots=True)
class Launched:
    """What is kept of one that was begun: all that its section said, and the run."""

    said: Mapping[str, Any]
    run: str

    def to_json(self) -> bytes:
        """What is stored."""
        return json.dumps({"said": self.said, "run": self.run}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Launched:
        """What `to_json` wrote. Raises CatalogError."""
        try:
            body: Any = json.loads(data)
            return cls(dict(body["said"]), str(body["run"]))
        except (ValueError, TypeError, KeyError) as error:
            raise CatalogError(f"what was begun by a file cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class Underway:
    """What there is: what files have begun; the experiments that are under way and the split of
    each; what moves splits; the targets that are being taken out of service, or are gone."""

    launched: Mapping[tuple[str, str], Launched] = field(default_factory=dict)
    experiments: Mapping[str, str] = field(default_factory=dict)
    moving: Mapping[str, str] = field(default_factory=dict)
    retiring: Mapping[str, str] = field(default_factory=dict)


@cache
def _experiment() -> TypeAdapter[Any]:
    return TypeAdapter(Experiment)


@cache
def _decommission() -> TypeAdapter[Any]:
    return TypeAdapter(Decommission)


def parse_launches(text: str, source: str) -> list[WantedLaunch]:
    """What the text of a file wants begun. Raises ConfigError, PlanError with file and line."""
    root = yamlnodes.load(text, file=source, kind="file", begin="catalog:")
    top = root.members()
    found: list[WantedLaunch] = []
    for kind in ("experiment", "decommission"):
        node = top.get(kind)
        settings = node.members() if node is not None else {}
        if node is None or "start" not in settings or not settings["start"].boolean():
            continue
        place = f"{source}:{node.node.start_mark.line + 1}"
        if kind == "experiment":
            found.append(WantedLaunch("experiment", parse_experiment(text, source), place))
        else:
            plan, named = parse_decommission(text, source)
            found.append(WantedLaunch("decommission", plan, place, named))
    return found


def launch_changes(wanted: Sequence[WantedLaunch], known: Underway) -> list[Change]:
    """What has to be begun. Pure."""
    keys = [one.key for one in wanted]
    return [
        _refused(one, (), f"it is said {keys.count(one.key)} times")
        if keys.count(one.key) > 1
        else _change(one, known)
        for one in wanted
    ]


def _change(one: WantedLaunch, known: Underway) -> Change:
    before = known.launched.get(one.key)
    fields = differing({} if before is None else dict(before.said), one.said)
    if before is not None and not fields:
        return _made(one, "unchanged")
    busy = _busy(one, known)
    return _refused(one, fields, busy) if busy else _made(one, "start", fields)


def _busy(one: WantedLaunch, known: Underway) -> str:
    """Why it cannot begin now, "" when it can."""
    if isinstance(one.value, Decommission):
        state = known.retiring.get(one.name, "")
        return f"it is {state} already" if state else ""
    split = one.value.split
    mover = known.moving.get(split)
    if mover is not None:
        return f"rollout {mover} moves its split: let it end or roll it back first"
    for name, its in known.experiments.items():
        if name == one.name or its == split:
            return f"experiment {name} is under way: let it end or stop it first"
    return ""


def _made(one: WantedLaunch, action: Action, fields: tuple[Any, ...] = ()) -> Change:
    return Change(one.kind, one.name, action, one.place, fields, launch=one)


def _refused(one: WantedLaunch, fields: tuple[Any, ...], reason: str) -> Change:
    return Change(one.kind, one.name, "refused", one.place, fields, reason)


def to_launch(changes: Iterable[Change]) -> list[WantedLaunch]:
    """What of these changes is to be begun."""
    return [
        one.launch
        for one in changes
        if one.action == "start" and isinstance(one.launch, WantedLaunch)
    ]
