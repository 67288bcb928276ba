"""The catalog: versions of workflows, and which may stand in for which.

An app that is opened registers what its code declares; files (`aura apply`) and people (`aura
catalog deprecate`) add to it. Where things are kept: documents `catalog/<workflow>@<version>` and
`compatibility/<old>..<new>`. Each is replaced by compare-and-set, so that what two write at once is
not lost. The part of the matrix that follows from schemas is computed from these; what replays and
people said of a pair is kept.

Opening an app does not wait for this: it is one read, and a write for each version that is new, was
changed, or was not seen for an hour.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from aura.clock import Clock
from aura.delivery.catalog_values import (
    CatalogVersion,
    Cell,
    Compatibility,
    Deprecation,
    Facts,
    Override,
    Replayed,
    checked,
    compatibility,
)
from aura.delivery.signatures import schemas_of
from aura.delivery.versions import Range, is_exact, newest_first, reference
from aura.engine import Registry, Resolver, Workflow
from aura.errors import (
    AuraError,
    CatalogError,
    EpochConflict,
    InvalidInput,
    RangeError,
    UnknownVersion,
    UnknownWorkflow,
)
from aura.store.base import Document, PutDocument, Store, Writer

log = logging.getLogger("aura.catalog")

VERSIONS, MATRIX = "catalog", "compatibility"
OWN = "aura."  # workflows of Aura itself are not in the catalog
FRESH = 3600.0
"""Seconds for which "last seen" is not written again."""

_STALE = 60.0  # seconds after which a start has the deprecations looked up again
_GATHER = 1.0  # seconds for which starts of deprecated versions are gathered
_TRIES = 20  # to replace a document that others replace at the same time

Change = Callable[[CatalogVersion], CatalogVersion]


class Row(NamedTuple):
    """One of the versions of a replay: so many histories of `old` with the code of `new`."""

    workflow: str
    old: str
    new: str
    runs: int
    diverged: int
    examples: tuple[str, ...]


class Catalog:
    """The desk of an app for its catalog. Open while the app is.

    `deprecated_starts` counts the runs of deprecated versions that this process has started, by
    (workflow, version).
    """

    def __init__(self, registry: Registry) -> None:
        self.deprecated_starts: Counter[tuple[str, str]] = Counter()
        self._registry = registry
        self._declared: dict[tuple[str, str], Facts] = {}
        self._deprecated: dict[tuple[str, str], Deprecation] = {}
        self._early: Counter[tuple[str, str]] = Counter()
        self._uncounted: Counter[tuple[str, str]] = Counter()
        self._told: set[tuple[str, str]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._work: asyncio.Task[None] | None = None
        self._counting: asyncio.Task[None] | None = None
        self._loaded = False
        self._looked = 0.0

    # In the code.

    def declare(self, workflow: Workflow[..., Any], about: Any) -> None:
        """Remember what a decorator said about a version. Raises RegistrationError."""
        facts = checked(about, f"workflow {workflow.name} {workflow.version}")
        self._declared[workflow.name, workflow.version] = facts

    def choose(
        self, workflow: str, version: str | None, key: str, resolver: Resolver
    ) -> tuple[str, str]:
        """Name and version for a new run. `workflow` may be `name@range`, `version` a range.

        Of the versions of this process that are in the range the highest is chosen, and one that is
        not deprecated before one that is. Without either the resolver chooses. Raises
        UnknownWorkflow.
        """
        known = self._registry.versions()
        found = None
        if version is None and workflow not in {name for name, _ in known}:
            found = reference(workflow)
        name, wanted = found or (workflow, version)
        if not wanted:
            return name, resolver.resolve(name, key)
        try:
            allowed = Range.parse(wanted)
        except RangeError:
            return name, wanted  # which is not registered, and whoever looks says so
        if is_exact(wanted):
            return name, wanted
        here = [one for each, one in known if each == name]
        fresh = [one for one in here if (name, one) not in self._deprecated]
        chosen = allowed.highest(fresh) or allowed.highest(here)
        if chosen is None:
            raise UnknownWorkflow(
                f"no version of workflow {name} that is registered here is in {wanted}",
                hint=self._registry.known(name),
            )
        return name, chosen

    def named(self, workflow: str, version: str | None) -> Workflow[..., Any]:
        """The workflow that `choose` stands for, when nothing else is said the highest version."""
        return self._registry.get(*self.choose(workflow, version, "", self._registry))

    async def ready(self, workflow: object, version: str | None) -> None:
        """Return when `choose` knows the deprecations, if it needs them for these."""
        if self._loaded or self._work is None:
            return
        wanted = version or (workflow.rpartition("@")[2] if isinstance(workflow, str) else "")
        if wanted and not is_exact(wanted):
            await asyncio.wait({self._work})

    def started(self, workflow: str, version: str) -> None:
        """A run is being started: say so, and count it, when its version is deprecated."""
        key = (workflow, version)
        if self._work is None:
            return  # a rehearsal
        if not self._loaded:
            self._early[key] += 1
        elif key in self._deprecated:
            self._note(key, 1)
        if self._clock.monotonic() - self._looked > _STALE:
            self._looked = self._clock.monotonic()
            self._begin(self._look())

    def deprecation(self, workflow: str, version: str) -> Deprecation | None:
        """As far as this process has heard."""
        return self._deprecated.get((workflow, version))

    # The life of the desk.

    def open(self, store: Store, writer: Writer, clock: Clock) -> None:
        """Use this store; what the code declares is registered while the app runs already."""
        self._store = store
        self._writer = writer
        self._clock = clock
        self._loaded = False
        self._looked = clock.monotonic()
        self._stop = store.listen(self._hear)
        self._work = asyncio.create_task(self._register(), name="aura-catalog")

    async def close(self) -> None:
        """Finish what was begun, and write what was counted."""
        if self._work is None:
            return
        self._stop()
        await asyncio.wait({self._work})
        self._work = None
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._safely(self._count())

    async def registered(self) -> None:
        """Return when the versions of this app are in the catalog, or the log says why not."""
        if self._work is not None and asyncio.current_task() is not self._work:
            await asyncio.wait({self._work})

    def _begin(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._safely(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _safely(self, work: Awaitable[None]) -> None:
        """The catalog must not stop an app from working: what it cannot do is in the log."""
        try:
            await work
        except AuraError as error:
            log.warning("the catalog is not up to date: %s", error)

    def _hear(self, topic: str) -> None:
        if topic.startswith(f"doc:{VERSIONS}/") and self._loaded:
            self._begin(self._look_at(topic.removeprefix(f"doc:{VERSIONS}/")))

    async def _register(self) -> None:
        await self._safely(self._look())
        if self._loaded:
            await self._safely(self._write_declared())

    async def _look(self) -> None:
        known = [_version(document) for document in await self._store.documents(VERSIONS)]
        self._known = {one.name: one for one in known}
        self._deprecated = {
            (one.workflow, one.version): one.deprecated for one in known if one.deprecated
        }
        self._loaded = True
        for key, count in self._early.items():
            if key in self._deprecated:
                self._note(key, count)
        self._early.clear()

    async def _look_at(self, name: str) -> None:
        document = await self._store.document(VERSIONS, name)
        if document is None:
            return
        found = _version(document)
        if found.deprecated is None:
            self._deprecated.pop((found.workflow, found.version), None)
            self._told.discard((found.workflow, found.version))
        else:
            self._deprecated[found.workflow, found.version] = found.deprecated

    async def _write_declared(self) -> None:
        now = self._clock.now()
        for workflow in tuple(self._registry):
            if workflow.name.startswith(OWN):
                continue
            await asyncio.sleep(0)  # schemas take a millisecond each, and the app is at work
            facts = self._facts_of(workflow)
            known = self._known.get(f"{workflow.name}@{workflow.version}")
            if known is None or _seen(known, facts, now) != known:
                seen = partial(_seen, facts=facts, now=now)
                await self._change(workflow.name, workflow.version, seen)
                _tell_of_change(known, facts)

    def _facts_of(self, workflow: Workflow[..., Any]) -> Facts:
        about = self._declared.get((workflow.name, workflow.version), Facts())
        try:
            takes, gives = schemas_of(workflow.function)
        except Exception:  # user code: a type may describe itself, and fail to
            log.exception("workflow %s %s has no schema", workflow.name, workflow.version)
            return about
        return replace(about, input=takes, output=gives)

    # Deprecated versions.

    def _note(self, key: tuple[str, str], count: int) -> None:
        self.deprecated_starts[key] += count
        self._uncounted[key] += count
        if key not in self._told:
            self._told.add(key)
            about = self._deprecated[key]
            instead = f"; take {about.replacement} in its place" if about.replacement else ""
            log.warning("workflow %s %s is deprecated: %s%s", *key, about.why, instead)
        if self._counting is None or self._counting.done():
            self._counting = self._begin(self._count_soon())

    async def _count_soon(self) -> None:
        await self._clock.sleep(_GATHER)
        await self._count()

    async def _count(self) -> None:
        while self._uncounted:
            key, count = self._uncounted.popitem()
            try:
                await self._change(*key, partial(_counted, count=count))
            except AuraError:
                self._uncounted[key] += count
                raise

    # What people and programs ask.

    async def versions(self, workflow: str | None = None) -> list[CatalogVersion]:
        """All versions, or those of one workflow: by name, the newest first."""
        await self.registered()
        found = [_version(document) for document in await self._store.documents(VERSIONS)]
        names = sorted({one.workflow for one in found if workflow in (None, one.workflow)})
        by_name = {one.name: one for one in found}
        return [
            by_name[f"{name}@{version}"]
            for name in names
            for version in newest_first(one.version for one in found if one.workflow == name)
        ]

    async def version(self, named: str) -> CatalogVersion:
        """The version that `research@1.0.0` names, or the one that a range stands for here: the
        highest in it that is not deprecated, or the highest. Raises CatalogError."""
        return pick(await self.versions(), named)

    async def cells(self) -> dict[tuple[str, str], Cell]:
        """What replays and people said of pairs, by the names of both."""
        found = [Cell.from_json(one.body) for one in await self._store.documents(MATRIX)]
        return {(cell.old, cell.new): cell for cell in found}

    async def compare(self, old: str, new: str) -> Compatibility:
        """Whether the new version may take the place of the old one. Raises CatalogError."""
        known = await self.versions()
        return await self.compared(pick(known, old), pick(known, new))

    async def compared(self, old: CatalogVersion, new: CatalogVersion) -> Compatibility:
        """The same for versions that were read already."""
        document = await self._store.document(MATRIX, Cell(old.name, new.name).name)
        return compatibility(old, new, Cell.from_json(document.body) if document else None)

    async def matrix(self, versions: Sequence[CatalogVersion]) -> list[list[Compatibility]]:
        """The matrix of these versions: a row for each as the old one, a column as the new one."""
        cells = await self.cells()
        return [
            [compatibility(old, new, cells.get((old.name, new.name))) for new in versions]
            for old in versions
        ]

    # What people and programs say.

    async def deprecate(
        self,
        named: str,
        *,
        why: str,
        replacement: str = "",
        by: str = "",
        since: float | None = None,
    ) -> CatalogVersion:
        """Ask everybody to start no more runs of a version. Those in flight go on, and new ones
        are started too, with a warning. Raises CatalogError, InvalidInput."""
        found = await self.version(named)
        if not why.strip():
            raise InvalidInput("no reason is given", hint="Say why, for those who use the version")
        check_replacement(replacement)
        at = self._clock.now() if since is None else since
        said = Deprecation(at, why, replacement, by)

        def change(one: CatalogVersion) -> CatalogVersion:
            before = one.deprecated
            if before is not None and since is None:  # it was deprecated then already
                return replace(one, deprecated=replace(said, since=before.since))
            return replace(one, deprecated=said, starts=one.starts if before else 0)

        return await self._change(found.workflow, found.version, change)

    async def restore(self, named: str) -> CatalogVersion:
        """Take a deprecation back. Raises CatalogError."""
        found = await self.version(named)
        return await self._change(
            found.workflow, found.version, lambda one: replace(one, deprecated=None, starts=0)
        )

    async def apply(self, wanted: CatalogVersion) -> None:
        """Make what files and people say of a version as it is there."""

        def change(one: CatalogVersion) -> CatalogVersion:
            starts = one.starts if wanted.deprecated else 0
            return replace(one, filed=wanted.filed, deprecated=wanted.deprecated, starts=starts)

        await self._change(wanted.workflow, wanted.version, change)

    async def record(self, rows: Iterable[Row]) -> None:
        """Keep what came of replays."""
        now = self._clock.now()
        for row in rows:
            said = Replayed(row.runs, row.diverged, now, row.examples)
            names = f"{row.workflow}@{row.old}", f"{row.workflow}@{row.new}"
            await self._change_cell(names, partial(_replayed, said=said))

    async def override(self, old: str, new: str, said: Override) -> None:
        """Keep why a rollout was started although its versions are incompatible."""
        await self._change_cell((old, new), lambda cell: cell.overridden(said))

    async def _change(self, workflow: str, version: str, change: Change) -> CatalogVersion:
        bare = CatalogVersion(workflow, version)

        def body(known: Document | None) -> bytes:
            return change(_version(known) if known else bare).to_json()

        return CatalogVersion.from_json(await self._replace(VERSIONS, bare.name, body))

    async def _change_cell(self, names: tuple[str, str], change: Callable[[Cell], Cell]) -> None:
        bare = Cell(*names)

        def body(known: Document | None) -> bytes:
            return change(Cell.from_json(known.body) if known else bare).to_json()

        await self._replace(MATRIX, bare.name, body)

    async def _replace(
        self, kind: str, name: str, body: Callable[[Document | None], bytes]
    ) -> bytes:
        """Replace a document by what is made of it, unless that is the same."""
        for _ in range(_TRIES):
            known = await self._store.document(kind, name)
            made = body(known)
            if known is not None and known.body == made:
                return made
            try:
                await self._writer.submit(
                    PutDocument(kind, name, made, known.epoch if known else 0)
                )
            except EpochConflict:
                continue
            return made
        raise CatalogError(f"{name} is changed by others all the time", hint="Try again later")


def _version(document: Document) -> CatalogVersion:
    return CatalogVersion.from_json(document.body)


def _seen(one: CatalogVersion, facts: Facts, now: float) -> CatalogVersion:
    """What the catalog has of a version after an app that declares it was opened."""
    last = one.last_seen
    if last is None or now - last >= FRESH:
        last = now
    first = now if one.first_seen is None else one.first_seen
    return replace(one, declared=facts, first_seen=first, last_seen=last)


def _counted(one: CatalogVersion, count: int) -> CatalogVersion:
    return replace(one, starts=one.starts + count)


def _replayed(cell: Cell, said: Replayed) -> Cell:
    return replace(cell, replayed=said)


def _tell_of_change(known: CatalogVersion | None, facts: Facts) -> None:
    """The same version with other types is what versions are there to prevent."""
    before = known.declared if known else None
    if known and before and (before.input, before.output) != (facts.input, facts.output):
        log.warning(
            "workflow %s %s takes or returns other types than before: give it a new version, so "
            "that the catalog can tell who may use it", known.workflow, known.version,
        )  # fmt: skip


def pick(known: Iterable[CatalogVersion], named: str) -> CatalogVersion:
    """The version that a name with a version or range stands for. Raises CatalogError."""
    found = reference(named)
    if found is None:
        raise CatalogError(
            f"{named!r:.100} names no version", hint="Write workflow@version, as in research@1.0.0"
        )
    mine = [one for one in known if one.workflow == found.name]
    if not mine:
        raise UnknownVersion(
            f"the catalog has no workflow {found.name}", hint="See: aura catalog list"
        )
    allowed = Range.parse(found.wanted)
    exact = [one for one in mine if one.version == found.wanted]
    fresh = [one.version for one in mine if one.deprecated is None]
    best = allowed.highest(fresh) or allowed.highest(one.version for one in mine)
    chosen = exact or [one for one in mine if one.version == best]
    if not chosen or (is_exact(found.wanted) and not exact):
        have = ", ".join(newest_first(one.version for one in mine))
        raise UnknownVersion(
            f"the catalog has no version {found.wanted} of {found.name}", hint=f"It has {have}"
        )
    return chosen[0]


def check_replacement(text: str) -> None:
    """A version, a range, or either of another workflow. Raises CatalogError, RangeError."""
    if text and reference(text) is None:
        Range.parse(text)
