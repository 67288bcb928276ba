"""How answers of copies differ from the baseline's: by field, with examples, what is noise last."""

from __future__ import annotations

from collections.abc import Sequence

from aura.delivery.shadow import Example
from aura.server import shadows
from aura.server.access import Needs
from aura.server.shadows import FieldView, ReportView
from aura.server.ui import charts
from aura.server.ui.drawn import percent
from aura.server.ui.parts import El, button, card, el, link
from aura.server.ui.paths import path
from aura.server.ui.visit import Order, Visit

NEEDS = Needs("operator")
MOST = 50
"""So many fields of a report are shown; `aura shadow report` has all."""


class Differences:
    """The reports of a rollout's splits. Fields stay where they are, so that what somebody has
    opened does not close while copies go on."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._box = el("div", "stack")
        self._known: dict[tuple[str, str], _Report] = {}

    def show(self, reports: Sequence[ReportView]) -> None:
        """These reports; without any there is no card."""
        reports = [one for one in reports if one.copies]
        now = {(one.split, one.arm): one.copies for one in reports}
        if any(now.get(place, 0) < one.copies for place, one in self._known.items()):
            self._box.clear()  # somebody has cleared them
            self._known = {}
        for one in reports:
            place = (one.split, one.arm)
            if place not in self._known:
                with self._box:
                    self._known[place] = _Report(self._visit, one)
            self._known[place].show(one)


async def clear(visit: Visit, split: str) -> None:
    """Begin the reports of a split anew."""
    why = await visit.confirm(
        f"Begin the reports of {split} anew?",
        "What was found so far is deleted; do it after the candidate was mended.",
        label="Begin anew", danger=True,
    )  # fmt: skip
    if why is not None:
        await visit.act(
            Order("shadow clear", NEEDS, {"name": split}), why,
            lambda: shadows.clear_shadows(visit.app, split), f"The reports of {split} begin anew.",
        )  # fmt: skip


class _Report:
    def __init__(self, visit: Visit, report: ReportView) -> None:
        self.copies = 0
        with card("Response differences", f"{report.arm}, copies of requests of {report.split}"):
            with el("div", "toolbar"):
                el("span", "spacer")
                button("Begin anew", lambda: clear(visit, report.split), "", visit.may(NEEDS))
            self._told = el("p", "muted", "")
            self._fields = el("div", "fields")
            self._more = el("p", "muted", "")
            self._counts = el("p", "muted", "")
        self._known: dict[str, _Field] = {}

    def show(self, report: ReportView) -> None:
        self.copies = report.copies
        self._told.show(
            f"{report.copies:,} copies, {report.compared:,} compared, {report.paired:,} with a "
            f"second answer of the baseline; {report.differing:,} differ in a field that is no "
            "noise."
        )
        for one in report.fields[:MOST]:
            if one.field not in self._known and len(self._known) < MOST:
                with self._fields:
                    self._known[one.field] = _Field(one)
            if one.field in self._known:
                self._known[one.field].show(one)
        left = len(report.fields) + report.dropped - len(self._known)
        if left > 0:
            self._more.show(f"{left:,} more fields: aura shadow report {report.split}")
        self._counts.show(_counts(report))


def _counts(report: ReportView) -> str:
    told = []
    for title, counts in (
        ("Suppressed effects", report.effects),
        ("Violations of the contract", report.violations),
        ("Not compared", report.reasons),
        ("Not sent", report.skipped),
    ):
        if counts:
            told.append(f"{title}: {', '.join(f'{n:,} × {what}' for what, n in counts.items())}.")
    return " ".join(told)


class _Field:
    def __init__(self, found: FieldView) -> None:
        with el("details", "difference"):
            with el("summary", ""):
                el("code", "", found.field or "(all of it)")
                self._verdict = el("span", "badge grey", "")
                self._rate = el("span", "number muted", "")
            self._examples = el("div", "examples")
        self._shown: tuple[Example, ...] = ()

    def show(self, found: FieldView) -> None:
        verdict, tone = (
            ("noise", "grey") if found.noise_field
            else ("differs", "red") if found.raw
            else ("unclear", "amber")
        )  # fmt: skip
        self._verdict.show(verdict)
        self._verdict.classes(replace=f"badge {tone}")
        told = f"{percent(found.raw_rate)} of answers"
        if found.noise_rate is not None:
            told += f", noise {percent(found.noise_rate)}"
        if found.evidence is not None:
            told += f", evidence {charts.number(found.evidence)}"
        self._rate.show(told)
        if found.examples != self._shown:
            self._shown = found.examples
            self._examples.clear()
            with self._examples:
                for one in found.examples:
                    _example(one)


def _example(one: Example) -> El:
    with el("div", "example") as made:
        for side, text, run in (
            ("baseline", one.left, one.baseline_run),
            ("candidate", one.right, one.run),
        ):
            with el("div", f"example-side {side}"):
                el("span", "muted", side)
                el("code", "", text)
                if run:
                    link("run", path("runs", run))
    return made
