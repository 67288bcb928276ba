"""What pages about delivery are drawn of: charts, traffic bars, ladders of stages, meters of
guards. Each is built once and then told what it shows, so that it moves instead of being made
anew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nicegui.element import Element

from aura.delivery.status import GuardStatus, StageStatus
from aura.server.ui import charts
from aura.server.ui.parts import El, Tone, el

TONES: dict[str, Tone] = {
    "running": "blue",
    "active": "green",
    "held": "amber",
    "paused": "amber",
    "descending": "amber",
    "completed": "green",
    "won": "green",
    "pass": "green",
    "better": "green",
    "rolled-back": "red",
    "trip": "red",
    "worse": "red",
    "harmed": "red",
    "invalid": "red",
    "stopped": "grey",
    "waiting": "grey",
    "not-enough": "grey",
}


class Drawing(Element, component="components/aura_drawing.js"):
    """A chart of `aura.server.ui.charts`: text that was escaped there."""

    def __init__(self, drawing: str = "") -> None:
        super().__init__()
        self.show(drawing)

    def show(self, drawing: str) -> None:
        """Another drawing; nothing is sent when it is the same."""
        if self.props.get("drawing") != drawing:
            self.props["drawing"] = drawing


class Word:
    """A badge whose word changes."""

    def __init__(self, text: str = "") -> None:
        self._made = el("span", "badge grey", text)
        self.show(text)

    def show(self, text: str) -> None:
        """Another word, in its colour."""
        self._made.show(text)
        self._made.classes(replace=f"badge {TONES.get(text, 'grey')}")


class Share(NamedTuple):
    """An arm and its part of the units, 0.0 to 1.0."""

    arm: str
    part: float


class Traffic:
    """Who is sent where: one bar with a part for each arm, that glides when shares change. The
    first arm is the baseline and stands at the right, where the others take from it."""

    def __init__(self, shares: Sequence[Share], label: str, *, small: bool = False) -> None:
        self._label = label
        self._arms = [one.arm for one in shares]
        with el("div", f"traffic {'small' if small else ''}"):
            with el("div", "traffic-bar", role="img") as self._bar:
                order = [*range(1, len(shares)), 0]
                self._parts = {at: el("span", f"traffic-part arm-{min(at, 4)}") for at in order}
            if not small:
                with el("ul", "traffic-names"):
                    self._names = {at: self._name(at, shares[at].arm) for at in order}
            else:
                self._names = {}
        self.show(shares)

    def _name(self, at: int, arm: str) -> El:
        with el("li", "traffic-name"):
            el("span", f"swatch arm-{min(at, 4)}", aria_hidden="true")
            el("span", "traffic-arm", arm)
            return el("span", "number", "")

    def show(self, shares: Sequence[Share]) -> None:
        """The shares as they are now; the arms are those of the beginning."""
        parts = {one.arm: one.part for one in shares}
        found = [parts.get(arm, 0.0) for arm in self._arms]
        for at, part in enumerate(found):
            self._parts[at].style(f"width: {100 * part:.4g}%")
            self._parts[at].props["data-share"] = f"{part:.4g}"
            if at in self._names:
                self._names[at].show(percent(part))
        told = ", ".join(
            f"{arm} {percent(part)}" for arm, part in zip(self._arms, found, strict=True)
        )
        self._bar.props["aria-label"] = f"{self._label}: {told}"


class Ladder:
    """The stages of a plan, one after the other, with what has become of each."""

    WORDS: Mapping[str, str] = {
        "pass": "passed",
        "trip": "tripped",
        "running": "running",
        "held": "held",
        "paused": "paused",
        "descending": "going back",
        "waiting": "to come",
    }

    def __init__(self, *, small: bool = False) -> None:
        self._small = small
        self._shown: tuple[tuple[str, float, str], ...] = ()
        self._box = el("ol", f"ladder {'small' if small else ''}", aria_label="Stages")

    def show(self, stages: Sequence[StageStatus]) -> None:
        """These stages; nothing is sent when they are the same."""
        found = tuple((one.name, one.weight, one.verdict) for one in stages)
        if found == self._shown:
            return
        self._shown = found
        self._box.clear()
        with self._box:
            for name, weight, verdict in found:
                self._rung(name, weight, verdict)

    def _rung(self, name: str, weight: float, verdict: str) -> None:
        word = self.WORDS.get(verdict, verdict)
        here = verdict not in ("pass", "waiting")
        share = "copies only" if weight == 0 else percent(weight)
        with el(
            "li", f"rung {verdict}", title=f"{name}: {share}, {word}",
            aria_current="step" if here else None,
        ):  # fmt: skip
            el("span", "rung-dot", aria_hidden="true")
            el("span", "rung-name", name)
            if not self._small:
                told = (
                    word if name.replace(" ", "") == share.replace(" ", "") else f"{share}, {word}"
                )
                el("span", "rung-word", told)


class Meter:
    """How near a guard is to its limit: on a logarithmic scale from 1, where nothing speaks against
    the candidate, to the limit."""

    def __init__(self, guard: str) -> None:
        self._guard = guard
        with el("div", "meter"):
            el("span", "meter-name", guard)
            with el("span", "meter-bar", aria_hidden="true"):
                self._fill = el("span", "meter-fill")
            self._told = el("span", "meter-told number", "")

    def show(self, found: GuardStatus) -> None:
        """The evidence now."""
        tripped = found.verdict == "trip"
        part = 1.0 if tripped else nearness(found.evidence, found.limit)
        tone = "tripped" if tripped else "near" if part > 0.6 else ""
        self._fill.style(f"width: {100 * part:.3g}%")
        self._fill.classes(replace=f"meter-fill {tone}")
        word = {"trip": "tripped", "not-enough": "not enough yet"}.get(found.verdict, "")
        value = f"{charts.number(found.evidence)} of {charts.number(found.limit)}"
        self._told.show(f"{value}, {word}" if word else value)


def nearness(evidence: float, limit: float) -> float:
    """The way from no evidence (0.0) to the limit (1.0), in orders of magnitude."""
    if not evidence > 1 or limit <= 1:
        return 0.0
    return min(1.0, math.log(evidence) / math.log(limit))


def percent(part: float) -> str:
    """A share with as many digits as it needs."""
    return f"{100 * part:.4g} %"
