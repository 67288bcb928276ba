"""Taking a target out of service: a durable workflow; each step but the last can be undone.

    gate ──▶ back-up ──▶ disable ──▶ watch ──▶ switch-off ──▶ ... ──▶ archive
      │         │           │ (one endpoint after the other)  │
      ╰─────────┴───────────┴────────────▶ restore ◀──────────╯        an order to undo has come

`gate` and `watch` only look, and may be repeated after a crash; the others are effects that do
nothing when an earlier try has done them. The document `retirement/<target>` is what gateways obey
and what people see; it is replaced by compare-and-set, and by no run but the one that it names.

Invariants: (1) nothing is disabled before the gate has passed and a copy of the database has been
read back; (2) at any time at most one endpoint is in its grace; (3) before `archive` an order to
undo brings every endpoint back; after it none is accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from aura.clock import Clock
from aura.delivery.alerts import Alert, Alerts
from aura.delivery.arms import version_of
from aura.delivery.channels import Channel
from aura.delivery.gates import Facts, Gate, failing
from aura.delivery.retirement import (
    EVERYWHERE,
    Endpoint,
    Policy,
    Retirement,
    State,
    callers,
    refuse_retired,
    retirements,
)
from aura.delivery.split import Split
from aura.delivery.status import RolloutStatus
from aura.engine import Retry, Step, Workflow, own_step
from aura.errors import (
    DecommissionError,
    EpochConflict,
    RunConflict,
    StoreUnavailable,
    UnknownDecommission,
)
from aura.spans import span
from aura.store.base import (
    SETTLED,
    AppendFeed,
    PutDocument,
    RunFilter,
    RunState,
    Store,
    Writer,
)

log = logging.getLogger("aura.delivery")

WORKFLOW, VERSION = "aura.decommission", "1.0.0"
_LOOK = 1.0  # seconds between looks at the gate, and at the clock in a grace
_RETRY = Retry(attempts=20, first=0.2, longest=30.0, never=(DecommissionError,))
_OPEN: tuple[RunState, ...] = ("pending", "running", "waiting", "parked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decommission:
    """How a target is to be taken out of service. Times in seconds.

    `endpoints` are the paths that are disabled one after the other, each with `grace`, in which
    callers are served or get 410, as `policy` says. `backup` is the folder for the copy of the
    database and the archive. `link` is a page about it, for callers.
    """

    target: str
    endpoints: tuple[str, ...] = (EVERYWHERE,)
    gate: Gate = field(default_factory=Gate)
    policy: Policy = "gone"
    grace: float = 86_400.0
    backup: str = "backups"
    link: str = ""
    alerts: tuple[Channel, ...] = ()

    def __post_init__(self) -> None:
        if not self.target or "/" in self.target:
            raise DecommissionError(
                f"{self.target!r} is no target", hint="Name a target of the gateway"
            )
        if not self.endpoints or len(set(self.endpoints)) < len(self.endpoints):
            raise DecommissionError(
                f"the endpoints of {self.target} are none, or one stands twice",
                hint="Name each path once, or leave them out for all paths",
            )


class BackUp(Protocol):
    """What copies the database into a file and reads it back; the facts about the copy."""

    async def __call__(self, path: Path) -> dict[str, Any]: ...


class Decommissions:
    """The workflow, its steps, and the desk for it. One per app; it registers `workflow`."""

    def __init__(self, alerts: Alerts) -> None:
        self._alerts = alerts
        self.workflow: Workflow[..., Any] = Workflow(WORKFLOW, VERSION, self._decommission)
        self._gate: Step[..., Any] = own_step(
            self._until_passed, name="gate", retry=_RETRY, idempotent=True
        )
        self._back_up: Step[..., Any] = own_step(self._copied, name="back-up", retry=_RETRY)
        self._disable: Step[..., Any] = own_step(self._disabled, name="disable", retry=_RETRY)
        self._watch: Step[..., Any] = own_step(
            self._until_over, name="watch", retry=_RETRY, idempotent=True
        )
        self._off: Step[..., Any] = own_step(self._switched_off, name="switch-off", retry=_RETRY)
        self._restore: Step[..., Any] = own_step(self._restored, name="restore", retry=_RETRY)
        self._archive: Step[..., Any] = own_step(self._archived, name="archive", retry=_RETRY)

    def attach(
        self,
        store: Store,
        writer: Writer,
        clock: Clock,
        start: Callable[..., Awaitable[Any]],
        back_up: BackUp,
    ) -> None:
        """Use this store from now on."""
        self._store = store
        self._writer = writer
        self._clock = clock
        self._start = start
        self._copy = back_up

    # The desk.

    async def start(self, plan: Decommission, *, by: str = "") -> Retirement:
        """Begin; a worker does the rest. The same one started twice at a moment is one.

        Raises DecommissionError when it is under way, or was archived.
        """
        while True:
            epoch, known = await self.refuse(plan)
            run = await self._free_run(plan.target, known)
            endpoints = tuple(Endpoint(path) for path in plan.endpoints)
            fresh = Retirement(plan.target, run, "gate", plan.policy, endpoints, plan.link)
            fresh = fresh.noted(self._clock.now(), "start", "waits for its gate", by)
            if await self._put(fresh, epoch):
                break
        try:
            await self._start(self.workflow, plan, run, id=run)
        except RunConflict as error:
            raise DecommissionError(
                f"{plan.target} was started with another plan at the same moment",
                hint="See: aura decommission status",
            ) from error
        return fresh

    async def refuse(self, plan: Decommission) -> tuple[int, Retirement | None]:
        """Raise DecommissionError when `start` would; else what there is, with its epoch."""
        epoch, known = await self._shown(plan.target)
        if known is not None and known.gone:
            refuse_retired([known], [plan.target])
        if known is not None and not known.ended and await self._is_alive(known.run):
            raise DecommissionError(
                f"{plan.target} is being decommissioned already ({known.state})",
                hint=f"See: aura decommission status {plan.target}",
            )
        return epoch, known

    async def undo(self, target: str, *, by: str = "", reason: str = "") -> Retirement:
        """Order it to bring everything back. Raises DecommissionError when it is too late."""
        known = await self.status(target)
        if known.ended:
            raise DecommissionError(
                f"the decommission of {target} is {known.state}: nothing can be undone",
                hint="Start a rollout back to it, under another name" if known.gone else "",
            )
        if not await self._is_alive(known.run):
            raise DecommissionError(
                f"nothing drives the decommission of {target}: its run has ended",
                hint=f"See why with: aura runs show {known.run}",
            )
        order = json.dumps({"order": "undo", "by": by, "reason": reason}).encode()
        await self._writer.submit(AppendFeed(f"orders/{known.run}", (order,)))
        while True:  # whoever archives now must look again, or was first
            epoch, now = await self._shown(target)
            if now is None or now.run != known.run or now.gone:
                raise DecommissionError(
                    f"{target} was archived at the same moment: nothing can be undone",
                    hint="Start a rollout back to it, under another name",
                )
            if now.ended or await self._put(now, epoch):
                return now

    async def status(self, target: str) -> Retirement:
        """Raises DecommissionError when there is none."""
        _, known = await self._shown(target)
        if known is None:
            raise UnknownDecommission(
                f"{target} is not being decommissioned",
                hint="Start it with: aura decommission FILE|TARGET",
            )
        return known

    async def all(self) -> list[Retirement]:
        """All of them, by target."""
        return await retirements(self._store)

    async def calls(self, target: str) -> dict[str, int]:
        """Calls of each endpoint since it began to be disabled."""
        return await callers(self._store, target)

    # The workflow.

    async def _decommission(self, plan: Decommission, run: str) -> str:
        if not await self._gate(plan, run):
            return await self._undone(plan, run)
        await self._back_up(plan, run)
        for path in plan.endpoints:
            await self._disable(plan, run, path)
            await self._tell(plan, run, f"disabled {path}")
            if not await self._watch(plan, run, path):
                return await self._undone(plan, run)
            await self._off(plan, run, path)
        if not await self._archive(plan, run):
            return await self._undone(plan, run)
        await self._tell(plan, run, "archived")
        return "archived"

    async def _undone(self, plan: Decommission, run: str) -> str:
        await self._restore(plan, run)
        await self._tell(plan, run, "undone")
        return "undone"

    async def _tell(self, plan: Decommission, run: str, what: str) -> None:
        if plan.alerts:
            alert = Alert(
                id=f"{run}-{what.replace(' ', '-')}", kinds=("decommission",), name=plan.target,
                reason=what, details={"run": run},
            )  # fmt: skip
            await self._alerts.tell(alert, plan.alerts)

    # Its steps.

    async def _until_passed(self, plan: Decommission, run: str) -> bool:
        """Whether the gate has passed; False when an order to undo came first."""
        said: tuple[str, ...] | None = None
        async for _ in self._looks(run):
            if await self._ordered(run):
                return False
            try:
                gates = failing(plan.gate, plan.target, await self._facts(plan), self._clock.now())
                if not gates:
                    await self._change(plan, run, "the gate has passed", state="backup", gates=())
                    return True
                if gates != said:
                    said = gates
                    await self._change(plan, run, "", gates=gates)
            except StoreUnavailable as error:
                log.warning(
                    "decommission of %s waits, the database is away: %s", plan.target, error
                )
        raise AssertionError("looks have no end")

    async def _copied(self, plan: Decommission, run: str) -> None:
        """A copy of the database, read back."""
        path = Path(plan.backup) / f"{run}.aura.gz"
        facts = await self._copy(path)
        rows = sum(facts.get("rows", {}).values())
        what = f"backed up {rows} rows to {path} and read them back"
        await self._change(plan, run, what, state="disabling", backup=facts)

    async def _disabled(self, plan: Decommission, run: str, path: str) -> None:
        now = self._clock.now()
        way = "served for" if plan.policy == "serve" else "told that it is gone, finally in"
        one = Endpoint(path, "grace", now, now + plan.grace)
        await self._turn(plan, run, one, f"{path}: callers are {way} {span(plan.grace)}")

    async def _until_over(self, plan: Decommission, run: str, path: str) -> bool:
        """Whether the grace of an endpoint is over; False when an order to undo came first."""
        async for _ in self._looks(run):
            if await self._ordered(run):
                return False
            with contextlib.suppress(StoreUnavailable):
                known = await self._own(plan, run)
                until = next(one.until for one in known.endpoints if one.path == path)
                if self._clock.now() >= until:
                    return True
        raise AssertionError("looks have no end")

    async def _switched_off(self, plan: Decommission, run: str, path: str) -> None:
        known = await self._own(plan, run)
        there = next(one for one in known.endpoints if one.path == path)
        counts = await self.calls(plan.target)
        what = f"{path} is off after {counts.get(path, 0)} calls in its grace"
        await self._turn(plan, run, replace(there, phase="off", since=self._clock.now()), what)

    async def _restored(self, plan: Decommission, run: str) -> None:
        order = await self._ordered(run)
        by, reason = (order or {}).get("by", ""), (order or {}).get("reason", "")
        known = await self._own(plan, run)
        endpoints = tuple(Endpoint(one.path) for one in known.endpoints)
        what = f"everything is back{': ' if reason else ''}{reason}"
        await self._change(plan, run, what, by=by, state="undone", endpoints=endpoints, gates=())

    async def _archived(self, plan: Decommission, run: str) -> bool:
        """The last step; False when an order to undo came before it."""
        path = Path(plan.backup) / f"{run}-archive.json"
        while True:
            epoch, known = await self._shown(plan.target)
            if known is None or known.run != run:
                raise _lost(plan.target)
            if known.gone:
                return True
            if await self._store.feed(f"orders/{run}", 0, 1):
                return False
            facts = await self._facts(plan)
            body = {
                "retirement": known.plain(),
                "calls": await self.calls(plan.target),
                "rollouts": [one.plain() for one in facts.rollouts],
            }
            await asyncio.to_thread(_write, path, json.dumps(body, indent=1))
            over = replace(known, state="archived", archive=str(path))
            over = over.noted(self._clock.now(), "archived", "archived")
            if await self._put(over, epoch):  # else an order to undo may have come meanwhile
                log.warning("decommission of %s: archived", plan.target)
                return True

    # What they are made of.

    async def _looks(self, run: str) -> AsyncIterator[None]:
        """Once now, and then at each order, and every second."""
        heard = asyncio.Event()
        topic = f"feed:orders/{run}"
        stop = self._store.listen(lambda one: heard.set() if one == topic else None)
        try:
            while True:
                heard.clear()
                yield
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK):
                        await heard.wait()
        finally:
            stop()

    async def _ordered(self, run: str) -> dict[str, str] | None:
        """The order to undo, if there is one."""
        try:
            items = await self._store.feed(f"orders/{run}", 0, 1)
        except StoreUnavailable:
            return None
        if not items:
            return None
        try:
            found: Any = json.loads(items[0].payload)
            return {"order": "undo", "by": str(found["by"]), "reason": str(found["reason"])}
        except (ValueError, TypeError, KeyError):
            return {"order": "undo"}

    async def _facts(self, plan: Decommission) -> Facts:
        splits = [Split.from_json(one.body) for one in await self._store.documents("split")]
        rollouts = await self._store.documents("rollout")
        version = version_of(plan.target)
        return Facts(
            tuple(one for one in splits if plan.target in [arm.name for arm in one.arms]),
            tuple(RolloutStatus.from_json(one.body) for one in rollouts),
            await self._count(version) if version is not None else 0,
        )

    async def _count(self, version: tuple[str, str]) -> int:
        """Runs of the version that have not ended."""
        count = 0
        for state in _OPEN:
            before: tuple[float, str] | None = None
            while True:
                page = await self._store.runs(RunFilter(state, version[0], 500, before))
                count += sum(run.version == version[1] for run in page)
                if len(page) < 500:
                    break
                before = (page[-1].created_at, page[-1].id)
        return count

    async def _turn(self, plan: Decommission, run: str, one: Endpoint, what: str) -> None:
        """Bring one endpoint into a phase, once."""
        while True:
            epoch, known = await self._shown(plan.target)
            if known is None or known.run != run:
                raise _lost(plan.target)
            there = next(each for each in known.endpoints if each.path == one.path)
            if there.phase in (one.phase, "off"):
                return  # a try before this one
            now = self._clock.now()
            if await self._put(known.with_endpoint(one).noted(now, one.phase, what), epoch):
                log.warning("decommission of %s: %s", plan.target, what)
                return

    async def _change(
        self, plan: Decommission, run: str, what: str, *, by: str = "", **changes: Any
    ) -> None:
        """Change the document, once, and note it when there is something to say."""
        while True:
            epoch, known = await self._shown(plan.target)
            if known is None or known.run != run:
                raise _lost(plan.target)
            state: State = changes.get("state", known.state)
            changed = replace(known, **changes)
            if what and not (known.history and known.history[-1].reason == what):
                changed = changed.noted(self._clock.now(), state, what, by)
            if changed == known or await self._put(changed, epoch):
                if what:
                    log.warning("decommission of %s: %s", plan.target, what)
                return

    async def _own(self, plan: Decommission, run: str) -> Retirement:
        _, known = await self._shown(plan.target)
        if known is None or known.run != run:
            raise _lost(plan.target)
        return known

    async def _shown(self, target: str) -> tuple[int, Retirement | None]:
        document = await self._store.document("retirement", target)
        if document is None:
            return 0, None
        return document.epoch, Retirement.from_json(document.body)

    async def _put(self, what: Retirement, expected: int) -> bool:
        try:
            await self._writer.submit(
                PutDocument("retirement", what.target, what.to_json(), expected)
            )
        except EpochConflict:
            return False
        return True

    async def _is_alive(self, run: str) -> bool:
        record = await self._store.run(run)
        return record is not None and record.state not in SETTLED

    async def _free_run(self, target: str, known: Retirement | None) -> str:
        number = 1 if known is None else int(known.run.rpartition("-")[2])
        while True:
            run = f"decommission-{target}-{number}"
            record = await self._store.run(run)
            if record is None or record.state not in SETTLED:
                return run
            number += 1


def _lost(target: str) -> DecommissionError:
    return DecommissionError(
        f"another run decommissions {target} now", hint="See: aura decommission status"
    )


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)
