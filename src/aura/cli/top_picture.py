"""What `aura top` looks like."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from aura.cli.output import clean, one_line, styled, table
from aura.server.glance import Glance
from aura.spans import span

ROWS = 12
"""At most so many queues, workers and rollouts are shown."""


def picture(seen: Glance) -> RenderableType:
    """The whole for people."""
    parts: list[RenderableType] = [_head(seen), Text(), _states(seen), _pace(seen)]
    for title, found in (
        ("queues", _queues(seen)), ("workers", _workers(seen)), ("rollouts", _rollouts(seen)),
    ):  # fmt: skip
        parts += [Text(), found if found is not None else _nothing(title)]
    return Group(*parts)


def _head(seen: Glance) -> Text:
    at = datetime.fromtimestamp(seen.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    where = f"{seen.database['kind']} {seen.database['location']}"
    return Text.assemble(
        (clean(seen.app), "bold"), f"  {at} UTC  ", (one_line(where, 80), "dim"),
    )  # fmt: skip


def _states(seen: Glance) -> Text:
    line = Text("runs     ", "bold")
    for state, count in seen.runs.items():
        if count:
            line.append_text(styled(state)).append(f" {count:,}   ")
    return line if any(seen.runs.values()) else line.append("none yet")


def _pace(seen: Glance) -> Text:
    pace = seen.pace
    line = Text("lately   ", "bold")
    line.append(f"{pace.per_second:,.3g} runs/s ended   {pace.failed:,} of {pace.ended:,} not well")
    line.append(f"   p50 {span(pace.p50)}   p95 {span(pace.p95)}")
    if seen.writes_per_second is not None:
        line.append(f"   {seen.writes_per_second:,.0f} entries/s")
    return line


def _queues(seen: Glance) -> Table | None:
    columns = ("=QUEUE", ">PENDING", ">RUNNING", ">WAITING", ">PARKED", ">LIMIT")
    rows = [
        (
            clean(one["name"]), f"{one['pending']:,}", f"{one['running']:,}",
            f"{one['waiting']:,}", f"{one['parked']:,}", _text(one["concurrency"]),
        )
        for one in seen.queues[:ROWS]
    ]  # fmt: skip
    return table(columns, rows) if rows else None


def _workers(seen: Glance) -> Table | None:
    columns = ("=WORKER", "HOST", ">PID", ">RUNS", ">ENTRIES", "WORKFLOWS")
    rows = [
        (
            clean(one["id"]), clean(one["host"]), str(one["pid"]), f"{one['runs']:,}",
            f"{one['written'].get('entries', 0):,}", _workflows(one),
        )
        for one in seen.workers[:ROWS]
    ]  # fmt: skip
    return table(columns, rows) if rows else None


def _workflows(worker: Mapping[str, Any]) -> str:
    own = [one for one in worker["workflows"] if not one.startswith("aura.")]
    return one_line(", ".join(own), 60)


def _rollouts(seen: Glance) -> Table | None:
    columns = ("=ROLLOUT", "=STATE", "STAGE", "CANDIDATE", "TRAFFIC", ">")
    under_way = sorted(seen.rollouts, key=lambda one: one["state"] in ("completed", "rolled-back"))
    rows: list[tuple[RenderableType, ...]] = [
        (
            clean(one["name"]), styled(one["state"]), clean(one["stage"]), clean(one["candidate"]),
            ProgressBar(1.0, one["weight"], width=24), f"{one['weight']:.2%}",
        )
        for one in under_way[:ROWS]
    ]  # fmt: skip
    return table(columns, rows) if rows else None


def _nothing(title: str) -> Text:
    what = {
        "queues": 'no queues: app.queue("name", concurrency=8) makes one',
        "workers": "no live workers: start one with aura worker MODULE:APP",
        "rollouts": "no rollouts: start one with aura rollout start FILE",
    }
    return Text(what[title], "dim")


def _text(value: object) -> str:
    return "–" if value is None else str(value)
