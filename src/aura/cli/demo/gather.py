"""After the story: read the database, the ledger and the witnesses' files."""

from __future__ import annotations

from pathlib import Path

from aura.app import Aura
from aura.cli.demo.answers import differences, fields
from aura.cli.demo.checkout import Workspace
from aura.cli.demo.crash import Effect, Execution, crash_figures
from aura.cli.demo.figures import Story
from aura.cli.demo.model import Scene
from aura.cli.demo.story import Demo
from aura.clock import Clock
from aura.delivery.observation import Observation
from aura.gateway.config import parse_gateway
from aura.gateway.diff import Rules
from aura.store.base import TERMINAL, RunFilter, RunRecord

SETTLE_WITHIN = 8.0
"""Seconds in which the last observations are written and the last runs end."""

_PAGE = 500


async def gather(demo: Demo, scene: Scene, clock: Clock) -> Story:
    """Everything that was recorded, put together."""
    feed = f"observations/{demo.workspace.split}"
    runs, observations = await _settled(demo.app, feed, scene, clock)
    journals = {run: await demo.app.store.journal(run) for run in runs}
    recorded = demo.recorded
    pairs = demo.traffic.pairs()
    return Story(
        began=scene.began,
        ended=clock.now(),
        rate=demo.script.rate,
        quick=demo.script.limit < 100,
        database="PostgreSQL" if "://" in demo.workspace.database else "SQLite",
        exchanges=tuple(sorted(scene.exchanges, key=lambda one: one.at)),
        observations=observations,
        main=recorded.main,
        canaries=tuple(recorded.canaries),
        crash=crash_figures(
            recorded.kill,
            recorded.takeover,
            runs,
            journals,
            read_executions(demo.workspace.steps),
            read_effects(demo.workspace),
        ),
        killed_at=recorded.kill.at if recorded.kill else None,
        differences=tuple(differences(pairs, _rules(demo.workspace))),
        compared=len(pairs),
        fields=sum(fields(old) for old, _ in pairs),
        notes=tuple(scene.notes),
        errors=tuple(recorded.errors),
    )


def read_executions(folder: Path) -> list[Execution]:
    """What the workers' witnesses noted: one line `<epoch seconds> <run>:<key>` each."""
    found = []
    for path in sorted(folder.glob("*.log")):
        for line in path.read_text(encoding="utf-8").splitlines():
            at, _, rest = line.partition(" ")
            run, _, key = rest.partition(":")
            found.append(Execution(float(at), run, key))
    return found


def read_effects(workspace: Workspace) -> list[Effect]:
    """The usage ledger's rows; none when no run came so far."""
    if not workspace.ledger.exists():
        return []
    from examples.research.ledger import Ledger

    ledger = Ledger(workspace.ledger)
    try:
        return [Effect(key, at) for key, at in ledger.rows()]
    finally:
        ledger.close()


async def _settled(
    app: Aura, feed: str, scene: Scene, clock: Clock
) -> tuple[dict[str, RunRecord], tuple[Observation, ...]]:
    """All runs and observations, once every request has its observation and every run its end."""
    give_up = clock.monotonic() + SETTLE_WITHIN
    wanted = sum(one.verdict != "lost" for one in scene.exchanges)
    while True:
        runs = await _runs(app, scene.began)
        observations = await _observations(app, feed)
        complete = sum(not one.shadow for one in observations) >= wanted
        ended = all(run.state in TERMINAL for run in runs.values())
        if (complete and ended) or clock.monotonic() > give_up:
            return runs, observations
        await clock.sleep(0.2)


async def _runs(app: Aura, since: float) -> dict[str, RunRecord]:
    """The runs that were made since that time (epoch seconds), by their ids."""
    found: dict[str, RunRecord] = {}
    before: tuple[float, str] | None = None
    while page := await app.runs(RunFilter(limit=_PAGE, before=before)):
        found |= {run.id: run for run in page if run.created_at >= since}
        before = (page[-1].created_at, page[-1].id)
        if page[-1].created_at < since:
            break
    return found


async def _observations(app: Aura, feed: str) -> tuple[Observation, ...]:
    found: list[Observation] = []
    position = 0
    while items := await app.store.feed(feed, position):
        found += [Observation.from_json(item.payload) for item in items]
        position = items[-1].seq
    return tuple(found)


def _rules(workspace: Workspace) -> Rules:
    config = parse_gateway(workspace.config.read_text(encoding="utf-8"))
    return config.routes[0].rules if config else Rules()
