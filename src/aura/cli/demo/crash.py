"""SIGKILL in the middle of work, and what became of the runs.

The moment is chosen by looking: a worker that owns runs is frozen (SIGSTOP), asked again whether it
still owns any, and only then killed. Whatever it was doing is left as it stands.

What is counted afterwards comes from three witnesses that know nothing of each other: the journal,
the files in which the workers' witnesses noted each execution of a step before it began, and the
usage ledger, to which each attempt of the effect has added a row.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from aura.app import Aura
from aura.cli.demo.model import GOOD
from aura.cli.demo.processes import Child
from aura.cli.demo.traffic import Traffic
from aura.clock import Clock
from aura.delivery.rollout import WORKFLOW as ROLLOUT
from aura.engine.shadow import is_shadow
from aura.errors import DemoFailed
from aura.store.base import Entry, RunFilter, RunRecord

WITHIN = 20.0
"""Seconds in which a worker with work under way must be met."""

RUSH = 8
"""Requests that are sent at once so that there is work under way. More of them, all late after the
crash, would be reason enough for the rollout's latency guard to trip."""

PICKY = 4.0
"""For so many seconds only a worker will do that is in the midst of several runs."""

TAKEN_WITHIN = 20.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a worker must have under way: so many runs, of which `begun` have journalled steps."""

    runs: int = 1
    begun: int = 0


MANY = Wanted(runs=3, begun=2)


@dataclass(frozen=True, slots=True)
class HeldRun:
    """A run that the killed worker owned, with its journal at that moment."""

    id: str
    workflow: str
    epoch: int
    created_at: float
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Kill:
    """Who was killed when (epoch seconds), and what it held."""

    at: float
    worker: str
    pid: int
    runs: tuple[HeldRun, ...]


class Execution(NamedTuple):
    """The code of a step began, at epoch seconds."""

    at: float
    run: str
    key: str


class Effect(NamedTuple):
    """One attempt of the effect, as the ledger has it. `key` is its idempotency key."""

    key: str
    at: float


@dataclass(frozen=True, slots=True)
class RunFate:
    """What became of one of the killed worker's runs.

    `before` and `after` name what its journal had when the worker was killed, and what came then;
    `kept` says that the former is unchanged; `finished` is in seconds after the kill.
    """

    run: str
    workflow: str
    epoch_before: int
    epoch_after: int
    state: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    kept: bool
    finished: float | None


@dataclass(frozen=True, slots=True)
class CrashFigures:
    """`killed_runs` were owned by the killed worker; `resumed` of them ended under a later epoch.

    `steps_repeated`     executions that began after the step's result was journalled, and steps
                         that the journal has twice, over all runs of the demo
    `duplicated_effects` effects that happened again after they were acknowledged, or under a
                         second idempotency key, over all runs
    `effects`, `effect_attempts`  different idempotency keys, and rows, in the ledger: an attempt
                         that was killed before its acknowledgement is repeated under its key
    `missing_effects`    completed runs without their effect; shadow runs have none
    """

    killed_runs: int
    resumed: int
    steps_repeated: int
    duplicated_effects: int
    missing_effects: int
    effects: int
    effect_attempts: int
    steps_executed: int
    runs_checked: int
    takeover_ms: float | None
    fates: tuple[RunFate, ...]


# -- the blow ----------------------------------------------------------------------------------


async def strike(app: Aura, workers: Sequence[Child], traffic: Traffic, clock: Clock) -> Kill:
    """Kill a worker that has runs under way. Raises DemoFailed when none is met."""
    began = clock.monotonic()
    rush_at = began
    while (now := clock.monotonic()) < began + WITHIN:
        if now >= rush_at:
            traffic.rush(GOOD, RUSH)
            rush_at = now + 1.0
        wanted = MANY if now < began + PICKY else Wanted()
        busy = busiest(await _running(app), await _pids(app), wanted.runs)
        child = next((one for one in workers if busy and one.pid == busy.pid), None)
        if busy is not None and child is not None:
            kill = await _strike_if_busy(app, child, busy.worker, wanted, clock)
            if kill is not None:
                return kill
        await clock.sleep(0.002)
    raise DemoFailed(
        f"no worker had a run under way in {WITHIN:g} s",
        hint="Look at the logs of the workers, and run the demo again",
    )


class Busy(NamedTuple):
    """A worker with runs of the service under way, by its id and process."""

    worker: str
    pid: int


def busiest(running: Iterable[RunRecord], pids: Mapping[str, int], wanted: int) -> Busy | None:
    """The worker to kill: it has at least so many of the service's runs under way, and if possible
    the rollout too. None when there is none."""
    owned: dict[str, list[str]] = {}
    for run in running:
        if run.owner is not None and run.owner in pids:
            owned.setdefault(run.owner, []).append(run.workflow)
    busy = [one for one, of in owned.items() if sum(w != ROLLOUT for w in of) >= wanted]
    if not busy:
        return None
    chosen = max(busy, key=lambda one: (ROLLOUT in owned[one], len(owned[one]), one))
    return Busy(chosen, pids[chosen])


async def _strike_if_busy(
    app: Aura, child: Child, worker: str, wanted: Wanted, clock: Clock
) -> Kill | None:
    child.freeze()
    held = [run for run in await _held(app, worker) if run.workflow != ROLLOUT]
    if len(held) < wanted.runs or sum(bool(run.entries) for run in held) < wanted.begun:
        child.thaw()
        return None
    child.kill()
    at = clock.now()
    return Kill(at, worker, child.pid, tuple(await _held(app, worker)))


async def _held(app: Aura, worker: str) -> list[HeldRun]:
    """The runs that a worker owns, with their journals."""
    return [
        HeldRun(
            run.id, run.workflow, run.epoch, run.created_at, tuple(await app.store.journal(run.id))
        )
        for run in await _running(app)
        if run.owner == worker
    ]


async def _running(app: Aura) -> list[RunRecord]:
    return await app.runs(RunFilter(state="running", limit=500))


async def _pids(app: Aura) -> dict[str, int]:
    return {one.id: int(json.loads(one.info).get("pid", 0)) for one in await app.store.workers()}


async def taken_over(app: Aura, kill: Kill, clock: Clock) -> float:
    """Wait until every held run has a new owner or has ended; seconds from the kill until then.

    Raises DemoFailed when that does not happen.
    """
    give_up = clock.monotonic() + TAKEN_WITHIN
    while clock.monotonic() < give_up:
        records = [await app.store.run(run.id) for run in kill.runs]
        if all(
            now is not None and (now.epoch > old.epoch or now.state != "running")
            for now, old in zip(records, kill.runs, strict=True)
        ):
            return clock.now() - kill.at
        await clock.sleep(0.02)
    raise DemoFailed(
        f"runs of the killed worker were not taken over in {TAKEN_WITHIN:g} s",
        hint="Look at the log of the other worker",
    )


# -- what became of it (pure) --------------------------------------------------------------------


def crash_figures(
    kill: Kill | None,
    takeover: float | None,
    runs: Mapping[str, RunRecord],
    journals: Mapping[str, Sequence[Entry]],
    executions: Sequence[Execution],
    effects: Sequence[Effect],
) -> CrashFigures:
    """Count. `runs` and `journals` are those of all runs of the demo, after its end."""
    results = results_of(journals)
    fates = tuple(_fate(kill, held, runs, journals) for held in kill.runs) if kill else ()
    completed = {
        run.id
        for run in runs.values()
        if run.state == "completed" and run.workflow != ROLLOUT and not is_shadow(run.queue)
    }
    keys = {effect.key for effect in effects}
    return CrashFigures(
        killed_runs=len(fates),
        resumed=sum(
            fate.state == "completed" and fate.epoch_after > fate.epoch_before for fate in fates
        ),
        steps_repeated=steps_repeated(journals, results, executions)
        + sum(not fate.kept for fate in fates),
        duplicated_effects=duplicated_effects(results, effects),
        missing_effects=len(completed - {_run_of(key) for key in keys}),
        effects=len(keys),
        effect_attempts=len(effects),
        steps_executed=len(executions),
        runs_checked=len(runs),
        takeover_ms=None if takeover is None else round(takeover * 1000, 1),
        fates=fates,
    )


def results_of(journals: Mapping[str, Sequence[Entry]]) -> dict[tuple[str, str], float]:
    """When the result of each step was first journalled, by run and key."""
    found: dict[tuple[str, str], float] = {}
    for run, entries in journals.items():
        for entry in entries:
            if entry.kind == "step":
                found.setdefault((run, entry.key), entry.recorded_at)
    return found


def steps_repeated(
    journals: Mapping[str, Sequence[Entry]],
    results: Mapping[tuple[str, str], float],
    executions: Iterable[Execution],
) -> int:
    """Executions that began after the result was journalled, and results journalled twice."""
    again = sum(
        one.at > results[one.run, one.key] for one in executions if (one.run, one.key) in results
    )
    for entries in journals.values():
        counts = Counter(entry.key for entry in entries if entry.kind == "step")
        again += sum(count - 1 for count in counts.values())
    return again


def duplicated_effects(results: Mapping[tuple[str, str], float], effects: Iterable[Effect]) -> int:
    """Attempts after the acknowledgement, and second idempotency keys for one run's effect."""
    late = 0
    keys: dict[str, set[str]] = {}
    for effect in effects:
        run, _, key = effect.key.partition(":")
        keys.setdefault(run, set()).add(key)
        acknowledged = results.get((run, key))
        late += acknowledged is not None and effect.at > acknowledged
    return late + sum(len(of_run) - 1 for of_run in keys.values())


def _names(entries: Iterable[Entry]) -> tuple[str, ...]:
    """`<lane>/<name>#<n>` gives the name."""
    return tuple(entry.key.partition("/")[2].partition("#")[0] for entry in entries)


def _run_of(key: str) -> str:
    return key.partition(":")[0]


def _fate(
    kill: Kill,
    held: HeldRun,
    runs: Mapping[str, RunRecord],
    journals: Mapping[str, Sequence[Entry]],
) -> RunFate:
    record = runs[held.id]
    after = tuple(journals[held.id])
    finished = None if record.finished_at is None else record.finished_at - kill.at
    return RunFate(
        run=held.id,
        workflow=f"{record.workflow} {record.version}",
        epoch_before=held.epoch,
        epoch_after=record.epoch,
        state=record.state,
        before=_names(held.entries),
        after=_names(after[len(held.entries) :]),
        kept=after[: len(held.entries)] == held.entries,
        finished=None if finished is None else round(finished, 3),
    )
