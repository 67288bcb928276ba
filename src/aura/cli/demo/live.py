"""The terminal while the demo runs: one picture that is drawn anew, or plain lines in a pipe."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Sequence
from typing import IO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from aura.cli.demo.figures import Promise, quantile
from aura.cli.demo.model import Exchange, Mood, Note, Scene, State
from aura.clock import Clock
from aura.delivery.status import ArmStatus, GuardStatus, RolloutStatus, StageStatus

EVERY = 0.125
"""Seconds between two pictures."""

PROGRESS = 5.0
"""Seconds between two lines of progress where there is no terminal."""

RECENT = 10.0
EVENTS = 7
STYLES: dict[Mood, str] = {"info": "", "good": "green", "bad": "bold red", "crash": "bold magenta"}
COLOURS = {"legacy": "bright_black", "2.0.0": "cyan", "2.1.0": "red", "2.2.0": "yellow"}
_MARKS = {
    "pass": ("✔", "green"),
    "trip": ("✘", "bold red"),
    "held": ("‖", "yellow"),
    "waiting": ("·", "dim"),
}
_STATES: dict[State, tuple[str, str]] = {
    "ready": ("●", "green"),
    "starting": ("○", "yellow"),
    "killed": ("✘", "bold magenta"),
}


class Screen:
    """Shows a scene until it is closed. `file` is stdout, or stderr when stdout takes JSON."""

    def __init__(self, scene: Scene, clock: Clock, file: IO[str] | None = None) -> None:
        self.console = Console(file=file or sys.stdout, highlight=False, emoji=False)
        self._scene = scene
        self._clock = clock
        self._live: Live | None = None
        self._told = 0
        if self.console.is_terminal and os.environ.get("TERM") != "dumb":
            self._live = Live(console=self.console, auto_refresh=False)

    async def run(self) -> None:
        """Draw until cancelled."""
        if self._live is not None:
            self._live.start()
        due = 0.0
        while True:
            self._draw()
            if self._live is None and self._clock.monotonic() >= due:
                due = self._clock.monotonic() + PROGRESS
                self.console.print(progress(self._scene, self._clock.now()), soft_wrap=True)
            await self._clock.sleep(EVERY)

    def close(self) -> None:
        """Leave the last picture as it is."""
        self._draw()
        if self._live is not None:
            self._live.stop()

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(picture(self._scene, self._clock.now()), refresh=True)
            return
        for note in self._scene.notes[self._told :]:
            self.console.print(line_of(note, self._scene.began), soft_wrap=True)
        self._told = len(self._scene.notes)


# -- the picture (pure) --------------------------------------------------------------------------


def picture(scene: Scene, now: float) -> RenderableType:
    """Everything at once: clients, processes, stages, arms, guards, events."""
    parts: list[RenderableType] = [clients(scene, now), processes(scene)]
    status = scene.status
    if status is not None:
        parts += [ladder(status), arms(status), *guards(status.evidence)]
    parts += [Text(""), *events(scene.notes[-EVENTS:], scene.began)]
    title = f"Aura demo · {now - scene.began:5.1f} s · {scene.phase}"
    return Panel(Group(*parts), title=title, title_align="left", border_style="blue")


def clients(scene: Scene, now: float) -> Text:
    """What the clients see: totals, and the last seconds' latencies."""
    seen = scene.exchanges
    recent = recent_latencies(seen, now)
    wrong = sum(one.verdict in ("status", "invalid") for one in seen)
    lost = sum(one.verdict == "lost" for one in seen)
    text = Text.assemble("clients    ", (f"{len(seen):5d}", "bold"), " answered, ")
    text.append(f"{wrong} errors, {lost} lost", style="bold red" if wrong or lost else "green")
    text.append(f", {scene.in_flight} in flight, {scene.rate:g}/s")
    text.append(f"; last {RECENT:g} s: p50 {_ms(recent, 0.5)}, p95 {_ms(recent, 0.95)}")
    return text


def recent_latencies(exchanges: Sequence[Exchange], now: float) -> list[float]:
    """Latencies in seconds of what was sent in the last seconds."""
    found = []
    for one in reversed(exchanges):
        if one.at < now - 2 * RECENT:
            break
        if one.at >= now - RECENT:
            found.append(one.seconds)
    return found


def processes(scene: Scene) -> Text:
    """The children, with their pids."""
    text = Text("processes  ")
    for one in scene.processes.values():
        mark, style = _STATES[one.state]
        text.append(f"{mark} ", style=style)
        text.append(f"{one.name} ").append(f"{one.pid}  ", style="dim")
    return text


def ladder(status: RolloutStatus) -> Text:
    """The stages in one line: passed, present, to come."""
    text = Text.assemble((f"{status.name}  ", "bold"))
    for stage in status.stages:
        mark, style = _MARKS.get(stage.verdict, ("▶", "bold cyan"))
        text.append(f"{mark} {stage.name}  ", style=style)
    text.append(status.state, style="bold red" if status.state == "rolled-back" else "bold")
    return text


def arms(status: RolloutStatus) -> Table:
    """Both arms in the present stage, as the gateway observed them."""
    stage = status.stages[status.stage_index]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("arm", "share", ">requests", ">failed", ">p50", ">p95"):
        table.add_column(
            name.removeprefix(">"), justify="right" if name.startswith(">") else "left"
        )
    table.add_row(*_arm_row(status.baseline, status, stage, stage.baseline))
    table.add_row(*_arm_row(status.candidate, status, stage, stage.candidate))
    return table


def _arm_row(
    arm: str, status: RolloutStatus, stage: StageStatus, seen: ArmStatus
) -> list[RenderableType]:
    weight = status.weights.get(arm, 0.0)
    copies = stage.weight == 0 and arm == status.candidate and not status.ended
    share = Text.assemble(
        (bar(weight, 24), colour(arm)), "  copies" if copies else f" {weight * 100:4.0f} %"
    )
    return [
        Text(arm, style=colour(arm)),
        share,
        str(seen.requests),
        Text(str(seen.errors), style="bold red" if seen.errors else ""),
        "–" if seen.p50_ms is None else f"{seen.p50_ms:.0f} ms",
        "–" if seen.p95_ms is None else f"{seen.p95_ms:.0f} ms",
    ]


def guards(evidence: Iterable[GuardStatus]) -> list[Text]:
    """Each guard's evidence against the limit at which it trips, on a logarithmic scale."""
    lines = []
    for one in evidence:
        style = "bold red" if one.verdict == "trip" else "green" if one.verdict == "pass" else ""
        filled = math.log(max(1.0, one.evidence)) / math.log(one.limit)
        text = Text(f"guard {one.guard:<12}", no_wrap=True, overflow="ellipsis")
        text.append(bar(1.0 if one.verdict == "trip" else min(1.0, filled), 16), style=style)
        text.append(f" {one.verdict:<11}", style=style)
        text.append(one.reason.removeprefix(f"{one.guard}: "), style="dim")
        lines.append(text)
    return lines


def events(notes: Iterable[Note], began: float) -> list[Text]:
    """What happened lately."""
    lines = [line_of(note, began) for note in notes]
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return lines


def line_of(note: Note, began: float) -> Text:
    """One event with its time since the beginning."""
    return Text.assemble((f"{note.at - began:6.1f} s  ", "dim"), (note.text, STYLES[note.mood]))


def progress(scene: Scene, now: float) -> Text:
    """One line on how things stand."""
    status = scene.status
    where = "" if status is None else f"; {status.name}: {status.state}, stage {status.stage}"
    return Text(f"{now - scene.began:6.1f} s  … {scene.phase}{where}; ") + clients(scene, now)


def bar(share: float, width: int) -> str:
    """A share of 0 to 1 as a bar of that many characters."""
    filled = round(share * width)
    return "█" * filled + "░" * (width - filled)


def colour(arm: str) -> str:
    """The colour of an arm, by the version at its end."""
    return COLOURS.get(arm.rpartition("@")[2], "")


def _ms(values: Sequence[float], q: float) -> str:
    found = quantile(values, q)
    return "–" if found is None else f"{found * 1000:.0f} ms"


# -- the end -------------------------------------------------------------------------------------


def summary(found: Sequence[Promise], lines: Iterable[tuple[str, str]]) -> RenderableType:
    """The figures, then each promise with its verdict."""
    numbers = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for name, value in lines:
        numbers.add_row(Text(name, style="dim"), value)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("", "promise", "measured"):
        table.add_column(name)
    for one in found:
        verdict = Text("PASS", style="bold green") if one.kept else Text("FAIL", style="bold red")
        table.add_row(verdict, one.text, Text(one.found))
    return Group(Text(""), numbers, Text(""), table)
