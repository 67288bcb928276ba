"""Files that say what the catalog and the plans should be: what would change, and changing it.

    catalog:
      research:
        owner: search                     # holds for the versions below
        metadata: {tier: gold}
        versions:
          1.0.0:
            changelog: the first one
            deprecated: {why: too slow, replacement: ^2, since: 2026-11-01}   # or false
          2.0.0:
            changelog: answers in half the time
            input: {type: object, ...}    # JSON schemas, for what Aura cannot look up in code
            output: {type: string}
    rollout:
      name: ...                           # a plan; see `plan`
      start: true                         # begin it, once
      incompatible: the adapter translates    # why, when its versions do not fit

`changes` is pure: what the files want, what there is, and what has to be done, each with what would
be other than before. All of it is checked before the first write. Applying the same files again
changes nothing: a plan that was started is not started again, whatever became of it. What files do
not name is left alone. Plans are kept as documents `plan/<name>`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter
from semver import Version

from aura import yamlnodes
from aura.delivery.admission import judged
from aura.delivery.catalog import check_replacement
from aura.delivery.catalog_values import CatalogVersion, Cell, Deprecation, Facts, line
from aura.delivery.plan import Plan, parse_plan
from aura.delivery.status import RolloutStatus
from aura.errors import ApplyRefused, AuraError, CatalogError, ConfigError, PlanError
from aura.yamlnodes import Node

Action = Literal["create", "update", "unchanged", "start", "refused"]

_SECTIONS = ("catalog", "rollout", "gateway", "experiment", "alerts", "decommission")
_VERSION = ("owner", "changelog", "metadata", "input", "output", "deprecated")


@dataclass(frozen=True, slots=True)
class WantedVersion:
    """What a file says about a version; `place` is file and line. `deprecated` is False when it
    says that the version is not, None when it says nothing."""

    workflow: str
    version: str
    facts: Facts
    deprecated: Deprecation | Literal[False] | None
    place: str

    @property
    def name(self) -> str:
        return f"{self.workflow}@{self.version}"


@dataclass(frozen=True, slots=True)
class WantedPlan:
    """A plan of a file, whether it is to begin, and why it may although its versions do not fit."""

    plan: Plan
    start: bool
    incompatible: str
    place: str


@dataclass(frozen=True, slots=True)
class Desired:
    """What is kept of a plan: as it is written, with versions in place of ranges, and the run that
    was started for it ("" when none was)."""

    plan: Plan
    pinned: Plan
    start: bool = False
    incompatible: str = ""
    started: str = ""

    def to_json(self) -> bytes:
        """What is stored."""
        return _desired().dump_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> Desired:
        """What `to_json` wrote. Raises CatalogError."""
        try:
            return _desired().validate_json(data)
        except ValueError as error:
            raise CatalogError(f"a stored plan cannot be read: {error}") from error


@cache
def _desired() -> TypeAdapter[Desired]:
    return TypeAdapter(Desired)


@dataclass(frozen=True, slots=True)
class Known:
    """What there is: the catalog, and of each plan its document and its rollout; `moving` are the
    names of rollouts that are under way, by split."""

    versions: Sequence[CatalogVersion] = ()
    cells: Mapping[tuple[str, str], Cell] = field(default_factory=dict)
    desired: Mapping[str, Desired] = field(default_factory=dict)
    rollouts: Mapping[str, RolloutStatus] = field(default_factory=dict)
    moving: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done with one thing. `fields` are what is other than before (name, before,
    after, as plain JSON values), `reason` is why it is refused, `notes` what should be known."""

    kind: Literal["catalog", "rollout", "experiment", "decommission"]
    name: str
    action: Action
    place: str
    fields: tuple[tuple[str, Any, Any], ...] = ()
    reason: str = ""
    notes: tuple[str, ...] = ()
    version: CatalogVersion | None = None
    desired: Desired | None = None
    launch: object = None  # what `aura.delivery.launches` begins

    def plain(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "kind": self.kind, "name": self.name, "action": self.action, "place": self.place,
            "fields": [dict(zip(("field", "old", "new"), one, strict=True)) for one in self.fields],
            "reason": self.reason, "notes": list(self.notes),
        }  # fmt: skip


# -- reading -----------------------------------------------------------------------------------


def load(path: str | Path) -> list[WantedVersion | WantedPlan]:
    """What a file wants. Raises ConfigError, PlanError with file, line and what to do."""
    return parse(yamlnodes.read(Path(path), kind="file"), str(path))


def parse(text: str, source: str = "file") -> list[WantedVersion | WantedPlan]:
    """What the text of a file wants; `source` names it in errors."""
    root = yamlnodes.load(text, file=source, kind="file", begin="catalog:")
    top = root.fields(_SECTIONS)
    found: list[WantedVersion | WantedPlan] = []
    if "catalog" in top:
        for name, node in top["catalog"].members().items():
            found += _workflow(name, node)
    if "rollout" in top:
        found.append(_wanted_plan(text, source, top["rollout"]))
    begins = [top[name] for name in ("experiment", "decommission") if name in top]
    if not found and not any("start" in one.members() for one in begins):
        hint = "begin with `catalog:` or `rollout:`; what is to begin says `start: true`"
        root.fail("there is nothing to apply", hint)
    return found


def _wanted_plan(text: str, source: str, node: Node) -> WantedPlan:
    plan = parse_plan(text, source)
    settings = node.members()
    start = settings["start"].boolean() if "start" in settings else False
    why = settings["incompatible"].text() if "incompatible" in settings else ""
    return WantedPlan(plan, start, why, _place(node))


def _place(node: Node) -> str:
    return f"{node.file}:{node.node.start_mark.line + 1}"


def _workflow(name: str, node: Node) -> list[WantedVersion]:
    found = node.named(f"the workflow {name}").fields(("owner", "metadata"), ("versions",))
    if not name.strip() or "@" in name:
        node.fail(f"{name!r} names no workflow", "write its name without a version")
    common = _facts(found)
    return [
        _version(name, version, body, common)
        for version, body in found["versions"].members().items()
    ]


def _version(name: str, version: str, node: Node, common: Facts) -> WantedVersion:
    if not Version.is_valid(version):
        node.fail(f"{version!r} is no version", "write three numbers: 1.0.0")
    body = node.named(f"version {version} of {name}")
    found = {} if node.empty else body.fields(_VERSION)
    own = _facts(found)
    facts = replace(own, owner=own.owner or common.owner, metadata=common.metadata | own.metadata)
    said = found.get("deprecated")
    return WantedVersion(name, version, facts, None if said is None else _said(said), _place(node))


def _facts(found: Mapping[str, Node]) -> Facts:
    values: dict[str, Any] = {}
    for name in ("owner", "changelog"):
        if name in found:
            try:
                values[name] = line(found[name].text(), name)
            except AuraError as error:
                found[name].fail(error.message, error.hint)
    for name in ("metadata", "input", "output"):
        if name in found:
            values[name] = plain(found[name])
            if not isinstance(values[name], dict):
                found[name].fail(f"{name} is {found[name].shown}", "write a mapping")
    return Facts(**values)


def plain(node: Node) -> Any:
    """A value of a file as plain JSON. Raises the file's error where it is none."""
    loader = yaml.SafeLoader("")
    try:
        value = loader.construct_document(node.node)
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, yaml.YAMLError) as error:
        node.fail(f"{node.what} holds more than plain values: {error}", "quote dates and the like")
    finally:
        loader.dispose()


def _said(node: Node) -> Deprecation | Literal[False]:
    if node.scalar:
        if node.boolean():
            node.fail("deprecated is true", "write {why: ..., replacement: ..., since: ...}")
        return False
    found = node.named("deprecated").fields(("replacement", "since"), ("why",))
    replacement = found["replacement"].scalar if "replacement" in found else ""
    try:
        check_replacement(replacement)
    except AuraError as error:
        found["replacement"].fail(error.message, error.hint)
    since = _moment(found["since"]) if "since" in found else 0.0
    return Deprecation(since, found["why"].text(), replacement)


def _moment(node: Node) -> float:
    try:
        at = datetime.fromisoformat(node.scalar)
    except ValueError:
        node.fail(f"since is {node.shown}", "write a day: 2026-11-01")
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


# -- what would change -------------------------------------------------------------------------


def changes(
    wanted: Iterable[WantedVersion | WantedPlan], known: Known, now: float, by: str = ""
) -> list[Change]:
    """What has to be done, catalog first. Plans are judged by the catalog as it will be. Pure."""
    wanted = list(wanted)
    twice = _twice(wanted)
    after = {one.name: one for one in known.versions}
    found = []
    for one in wanted:
        if isinstance(one, WantedVersion):
            change = _catalog_change(one, after.get(one.name), now, by)
            if change.version is not None:
                after[one.name] = change.version
            found.append(change)
    known = replace(known, versions=tuple(after.values()))
    plans = [_plan_change(one, known) for one in wanted if isinstance(one, WantedPlan)]
    return [
        replace(one, action="refused", reason=twice[one.kind, one.name])
        if (one.kind, one.name) in twice
        else one
        for one in (*found, *plans)
    ]


def _twice(wanted: list[WantedVersion | WantedPlan]) -> dict[tuple[str, str], str]:
    places: dict[tuple[str, str], list[str]] = {}
    for one in wanted:
        key = (
            ("catalog", one.name) if isinstance(one, WantedVersion) else ("rollout", one.plan.name)
        )
        places.setdefault(key, []).append(one.place)
    return {key: f"it is said {len(at)} times: {', '.join(at)}"
            for key, at in places.items() if len(at) > 1}  # fmt: skip


def _catalog_change(
    wanted: WantedVersion, known: CatalogVersion | None, now: float, by: str
) -> Change:
    before = known or CatalogVersion(wanted.workflow, wanted.version)
    after = replace(before, filed=None if wanted.facts == Facts() else wanted.facts)
    after = _deprecated(after, wanted.deprecated, now, by)
    fields = differing(_shown(before), _shown(after))
    action: Action = "create" if known is None else "update" if fields else "unchanged"
    return Change("catalog", wanted.name, action, wanted.place, fields, version=after)


def _deprecated(
    one: CatalogVersion, said: Deprecation | Literal[False] | None, now: float, by: str
) -> CatalogVersion:
    if said is None:
        return one
    if said is False:
        return replace(one, deprecated=None, starts=0)
    before = one.deprecated
    since = said.since or (before.since if before else now)
    who = before.by if before and (before.why, before.replacement) == _told(said) else by
    return replace(one, deprecated=replace(said, since=since, by=who))


def _told(one: Deprecation) -> tuple[str, str]:
    """What a deprecation tells people."""
    return one.why, one.replacement


def _shown(one: CatalogVersion) -> dict[str, Any]:
    filed, said = one.filed or Facts(), one.deprecated
    shown: dict[str, Any] = {name: getattr(filed, name) for name in Facts.__slots__}
    for name in ("why", "replacement"):
        shown[f"deprecated.{name}"] = getattr(said, name) if said else None
    since = datetime.fromtimestamp(said.since, UTC) if said else None
    return {**shown, "deprecated.since": since.isoformat(timespec="seconds") if since else None}


def differing(before: Any, after: Any, path: str = "") -> tuple[tuple[str, Any, Any], ...]:
    """What is other than before, field by field."""
    if before == after:
        return ()
    if isinstance(before, dict) and isinstance(after, dict):
        names = [*before, *(name for name in after if name not in before)]
        return tuple(
            one
            for name in names
            for one in differing(
                before.get(name), after.get(name), f"{path}.{name}" if path else str(name)
            )
        )
    return ((path, before, after),)


def _plan_change(wanted: WantedPlan, known: Known) -> Change:
    name, before = wanted.plan.name, known.desired.get(wanted.plan.name)
    after = Desired(wanted.plan, wanted.plan, wanted.start, wanted.incompatible)
    if before is not None and before.plan == wanted.plan:  # its versions were chosen then
        after = replace(after, pinned=before.pinned, started=before.started)
    fields = differing(_shown_plan(before), _shown_plan(after))
    action: Action = "create" if before is None else "update" if fields else "unchanged"
    change = Change("rollout", name, action, wanted.place, fields, desired=after)
    if before is not None and after.started and before.plan == wanted.plan:
        return change
    try:
        found = judged(after.pinned, known.versions, known.cells)
    except (CatalogError, PlanError) as error:
        return (
            _refused(change, str(error)) if wanted.start else replace(change, notes=(str(error),))
        )
    change = replace(change, notes=found.unknown, desired=replace(after, pinned=found.plan))
    if found.reasons and not wanted.incompatible:
        told = "; ".join(found.reasons)
        if wanted.start:
            return _refused(change, f"{told} (`incompatible: why` lets it start)")
        change = replace(change, notes=(*change.notes, f"would not start: {told}"))
    return _starting(change, found.plan, known) if wanted.start else change


def _starting(change: Change, plan: Plan, known: Known) -> Change:
    """Whether the plan is to be started now, was already, or cannot be."""
    status = known.rollouts.get(plan.name)
    busy = {known.moving[pair.split] for pair in plan.pairs if pair.split in known.moving}
    if plan.name in busy and status is not None and change.action == "unchanged":
        moved = {(one.split, one.baseline, one.candidate) for one in status.pairs}
        if moved == {(one.split, one.baseline, one.candidate) for one in plan.pairs}:
            return change  # it was started by someone who could not write that down
    if busy:
        return _refused(
            change, f"rollout {min(busy)} is under way: let it end or roll it back first"
        )
    if status is not None and status.state == "completed":
        return _refused(change, f"rollout {plan.name} has completed: name the next one otherwise")
    return replace(change, action="start")


def _refused(change: Change, reason: str) -> Change:
    return replace(change, action="refused", reason=reason)


def _shown_plan(one: Desired | None) -> dict[str, Any]:
    if one is None:
        return {}
    body: dict[str, Any] = _plan_adapter().dump_python(one.plan, mode="json")
    return {**body, "start": one.start, "incompatible": one.incompatible}


@cache
def _plan_adapter() -> TypeAdapter[Plan]:
    return TypeAdapter(Plan)


def refused(found: Iterable[Change]) -> ConfigError | None:
    """The error for changes of which some are refused; None when all can be made."""
    bad = [one for one in found if one.action == "refused"]
    if not bad:
        return None
    told = "; ".join(f"{one.place}: {one.kind} {one.name}: {one.reason}" for one in bad)
    return ApplyRefused(f"nothing was written, {len(bad)} of the changes refused: {told}")
