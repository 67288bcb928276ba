"""The catalog: versions of workflows, and which may take the place of which."""

from __future__ import annotations

from collections.abc import Sequence

from aura.server import catalog
from aura.server.access import Needs
from aura.server.catalog import FitView, VersionList, VersionView, WorkflowView
from aura.server.ui.forms import Field, Form, as_given, ask
from aura.server.ui.pages import page
from aura.server.ui.parts import Click, Column, Empty, Table, Tone, badge, button, card, el, heading
from aura.server.ui.paths import path
from aura.server.ui.visit import Order, Visit
from aura.server.views import time_of

NEEDS = Needs("operator")
MOST_DRAWN = 12
"""So many versions are drawn as a matrix: the newest."""

MARKS = {"compatible": ("✓", "yes"), "incompatible": ("✗", "no"), "unknown": ("?", "what")}
PARTS = ("inputs", "outputs", "runs")
NOTHING = Empty(
    "The catalog is empty",
    "An app that is opened registers the versions of its workflows. Start a worker:",
    "aura serve app:app",
)
COLUMNS = (
    Column("name", "Version", "link"),
    Column("state", "State", "badge"),
    Column("owner", "Owner", narrow=False),
    Column("changelog", "What is new"),
    Column("in_flight", "Runs in flight", "number"),
    Column("seen", "Last seen", "time", narrow=False),
)


@page("/catalog", "Catalog")
async def all_versions(visit: Visit) -> None:
    """All versions of all workflows."""
    heading("Catalog", "Versions of workflows, and which may take the place of which")
    with card("Versions"):
        table = Table(COLUMNS, label="Versions", empty=NOTHING)

    def show(found: VersionList) -> None:
        table.show(map(_row, found.versions))

    await visit.live(lambda: catalog.list_versions(visit.app), show, key="catalog", every=2.0)


def _row(one: VersionView) -> dict[str, object]:
    state, tone = _state(one)
    return {
        "id": one.name,
        "name": one.name,
        "href": path("catalog", one.workflow),
        "state": state,
        "state_tone": tone,
        "owner": one.owner,
        "changelog": one.changelog,
        "in_flight": one.runs_in_flight,
        "seen": time_of(one.last_seen) if one.last_seen else None,
    }


def _state(one: VersionView) -> tuple[str, Tone]:
    if one.deprecated is not None:
        return "deprecated", "amber"
    return ("live", "green") if one.live else ("no worker", "grey")


@page("/catalog/{workflow:segment}", "Workflow", menu="/catalog")
async def one_workflow(visit: Visit, workflow: str) -> None:
    """A workflow's versions with their matrix."""
    first = await catalog.show_workflow(visit.app, workflow)
    heading(first.workflow, f"{len(first.versions)} versions, the newest first")
    with card("Versions"):
        versions = el("div", "versions")
    with card("Compatibility", "rows: the old version; columns: the new one"):
        matrix = Matrix()
    shown: tuple[VersionView, ...] | None = None

    def show(found: WorkflowView) -> None:
        nonlocal shown
        if found.versions != shown:
            shown = found.versions
            versions.clear()
            with versions:
                for one in found.versions:
                    _version(visit, one)
        matrix.show(found)

    key = ("catalog", workflow)
    await visit.live(lambda: catalog.show_workflow(visit.app, workflow), show, key=key, every=2.0)


def _version(visit: Visit, one: VersionView) -> None:
    with el("div", "version"):
        with el("div", "toolbar"):
            el("strong", "", one.version)
            badge(*_state(one))
            el("span", "muted", one.owner)
            el("span", "spacer")
            el("span", "muted number", f"{one.runs_in_flight:,} runs in flight")
            label, click = _steering(visit, one)
            button(label, click, "", visit.may(NEEDS))
        if one.changelog:
            el("p", "", one.changelog)
        said = one.deprecated
        if said is not None:
            instead = f" Take {said.replacement} in its place." if said.replacement else ""
            by = f" ({said.by})" if said.by else ""
            el("p", "muted", f"Deprecated: {said.why}{by}.{instead} {one.starts:,} starts since.")


def _steering(visit: Visit, one: VersionView) -> tuple[str, Click]:
    async def deprecate() -> None:
        form = Form(
            f"Deprecate {one.name}?",
            "Everybody is asked to start no more runs of it; those in flight go on. The reason is "
            "shown to whoever still starts it.",
            "Deprecate",
            (Field("replacement", f"What to take in its place, such as {one.workflow}@^2"),),
            why_needed=True,
        )
        answer = await ask(visit, form, as_given)
        if answer is not None:
            why, instead = answer.why, str(answer.found.get("replacement", ""))
            target = {"version": one.name} | ({"replacement": instead} if instead else {})
            await visit.act(
                Order("catalog deprecate", NEEDS, target),
                why,
                lambda: catalog.deprecate(
                    visit.app, one.name, by=visit.caller.name, why=why, replacement=instead
                ),
                f"{one.name} is deprecated",
            )

    async def restore() -> None:
        why = await visit.confirm(
            f"Take the deprecation of {one.name} back?", "It may be started as before.",
            label="Take back",
        )  # fmt: skip
        if why is not None:
            await visit.act(
                Order("catalog restore", NEEDS, {"version": one.name}),
                why,
                lambda: catalog.restore(visit.app, one.name),
                f"{one.name} is no longer deprecated",
            )

    return ("Deprecate", deprecate) if one.deprecated is None else ("Take back", restore)


class Matrix:
    """Every pair of versions; a click on one says what was found."""

    def __init__(self) -> None:
        self._box = el("div", "matrix-box", tabindex=0, role="region", aria_label="Compatibility")
        with el("div", "legend"):
            el("span", "", "Each cell: inputs, outputs, runs in flight.")
            el("span", "", "✓ fits")
            el("span", "", "✗ does not")
            el("span", "", "? nobody can tell")
        self._found = el("div", "found", aria_live="polite")
        self._shown: tuple[FitView, ...] | None = None

    def show(self, found: WorkflowView) -> None:
        """This matrix."""
        if found.matrix == self._shown:
            return
        self._shown = found.matrix
        cells = {(one.old, one.new): one for one in found.matrix}
        drawn = found.versions[:MOST_DRAWN]
        self._box.clear()
        with self._box:
            self._table(drawn, cells)
            if len(found.versions) > MOST_DRAWN:
                told = f"The newest {MOST_DRAWN} of {len(found.versions)} versions."
                el("p", "muted", f"{told} All: aura catalog show {found.workflow} --json")

    def _table(self, drawn: Sequence[VersionView], cells: dict[tuple[str, str], FitView]) -> None:
        with el("table", "matrix"):
            with el("thead"), el("tr"):
                el("th", "", "old \\ new", scope="col")
                for one in drawn:
                    el("th", "", one.version, scope="col")
            with el("tbody"):
                for old in drawn:
                    with el("tr"):
                        el("th", "", old.version, scope="row")
                        for new in drawn:
                            with el("td"):
                                self._cell(old, new, cells.get((old.name, new.name)))

    def _cell(self, old: VersionView, new: VersionView, fit: FitView | None) -> None:
        if fit is None or old.name == new.name:
            el("span", "fit self", "–")
            return
        verdicts = [getattr(fit, part).verdict for part in PARTS]
        told = ", ".join(f"{part} {one}" for part, one in zip(PARTS, verdicts, strict=True))
        kind = (
            "incompatible" if "incompatible" in verdicts
            else "unknown" if "unknown" in verdicts
            else "compatible"
        )  # fmt: skip
        with el(
            "button", f"fit {kind}", type="button", title=told,
            aria_label=f"{old.version} to {new.version}: {told}",
        ) as made:  # fmt: skip
            for one in verdicts:
                mark, tone = MARKS[one]
                el("span", tone, mark, aria_hidden="true")
        made.on("click", lambda: self._explain(fit), args=[])

    def _explain(self, fit: FitView) -> None:
        self._found.clear()
        with self._found:
            el("h3", "", f"{fit.old} → {fit.new}")
            if fit.refused:
                el("p", "", "A rollout from the one to the other does not start.")
            for part in PARTS:
                found = getattr(fit, part)
                el("p", "", f"{part.capitalize()}: {found.verdict}")
                if found.findings:
                    with el("ul", "findings"):
                        for one in found.findings:
                            el("li", "", f"{one.path or '(all of it)'}: {one.reason}")
            for over in fit.overrides:
                el("p", "muted", f"Rollout {over.rollout} started all the same: {over.reason}")
