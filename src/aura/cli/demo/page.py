"""The report as one HTML file that needs nothing else. Pure."""

from __future__ import annotations

import importlib.resources
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from aura.cli.demo import charts
from aura.cli.demo.answers import FieldDifference
from aura.cli.demo.crash import RunFate
from aura.cli.demo.figures import (
    Latency,
    Promise,
    Release,
    RollbackFigures,
    StageFigures,
    Story,
    during_main,
    latency_figures,
    passed,
    promises,
    rollbacks,
    stage_figures,
)
from aura.cli.demo.model import Note
from aura.cli.demo.plots import escape, tag

STEPS_SHOWN = 9
"""Journal entries of one run that are shown; the earlier ones are counted."""

WIDE = 4
"""Tables with more columns than this scroll on a narrow screen."""

RUN_SHOWN = 24
"""Characters of a run's id."""


def page(story: Story) -> str:
    """The whole document."""
    style = importlib.resources.files("aura.cli.demo").joinpath("page.css").read_text("utf-8")
    head = tag(
        "head",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        tag("title", "Aura demo: a legacy service is replaced under live traffic"),
        tag("style", style),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', _main(story)), lang='en')}\n"


def _main(story: Story) -> str:
    parts = [
        _header(story),
        tiles(story),
        _section(
            "Who answers",
            "The share of the requests that went to each arm, in the order of events.",
            charts.traffic(story),
            charts.arm_legend(story),
        ),
        _section(
            "Every request, as its user felt it",
            "One dot for each answer. Runs of the killed worker are answered by the legacy "
            "service within the budget; their own result is there when the lease is over.",
            charts.every_request(story),
            charts.arm_legend(story),
        ),
        _latency(story),
        _crash(story),
        *_rollbacks(story),
        _differences(story),
        _section("What was promised", "", promise_table(promises(story))),
        _section("What happened when", "", event_list(story.notes, story.began)),
        _footer(story),
    ]
    return tag("main", *parts)


def _header(story: Story) -> str:
    good = passed(story)
    verdict = tag(
        "span",
        "every promise kept" if good else "a promise was broken",
        class_=f"verdict {'good' if good else 'bad'}",
    )
    day = datetime.fromtimestamp(story.began, UTC).strftime("%Y-%m-%d %H:%M UTC")
    lead = (
        f"A legacy service is replaced by durable workflows, a worker is killed, and two bad "
        f"releases roll back by themselves, under {story.rate:g} requests per second of "
        f"{len({one.unit for one in story.exchanges})} users. "
        f"{day}, {story.ended - story.began:.0f} s, {story.database}."
    )
    title = tag("h1", "Replaced under live traffic")
    return tag("header", title, verdict) + tag("p", escape(lead), class_="lead")


def tiles(story: Story) -> str:
    """The figures that matter most."""
    lost = sum(one.verdict == "lost" for one in story.exchanges)
    wrong = sum(one.verdict in ("status", "invalid") for one in story.exchanges)
    latency = latency_figures(during_main(story))
    crash = story.crash
    found = [
        (f"{len(story.exchanges):,}", "requests answered", False),
        (str(lost), "lost", lost > 0),
        (str(wrong), "errors that a client saw", wrong > 0),
        (_arrow(latency.legacy_p95_ms, latency.new_p95_ms), "p95, legacy → 2.0.0", False),
        (
            f"{crash.resumed} of {crash.killed_runs}",
            "killed runs finished elsewhere",
            crash.resumed != crash.killed_runs,
        ),
        (
            str(crash.steps_repeated + crash.duplicated_effects),
            "journalled steps or effects repeated",
            crash.steps_repeated + crash.duplicated_effects > 0,
        ),
        *(_trip_tile(one) for one in rollbacks(story)),
    ]
    return tag("div", *(_tile(*one) for one in found), class_="tiles")


def _trip_tile(one: RollbackFigures) -> tuple[str, str, bool]:
    text = f"from trip to no traffic, {one.version}"
    if one.trip_to_zero_ms is None:
        return "never", text, True
    return f"{one.trip_to_zero_ms:.0f} ms", text, one.trip_to_zero_ms >= 1000


def _tile(value: str, name: str, bad: bool) -> str:
    return tag(
        "div", tag("b", escape(value)), tag("span", escape(name)), class_=f"tile{' bad' * bad}"
    )


def _latency(story: Story) -> str:
    found = latency_figures(during_main(story))
    stages = stage_figures(story.main.status) if story.main else []
    return tag(
        "section",
        tag("h2", "The rollout of 2.0.0"),
        tag("p", "Each stage ends when it has its evidence and no guard objects.", class_="soft"),
        stage_table(stages),
        tag("h3", "Latency, legacy against new"),
        tag("p", escape(_comparison(found)), class_="soft"),
        charts.quantiles(story),
    )


def _comparison(found: Latency) -> str:
    if found.legacy_p95_ms is None or found.new_p95_ms is None:
        return "One of the two had no requests."
    return (
        "How many of an arm's requests (in percent) took no longer than that. The median went from "
        f"{_ms(found.legacy_p50_ms)} to {_ms(found.new_p50_ms)}, the 95th percentile from "
        f"{_ms(found.legacy_p95_ms)} to {_ms(found.new_p95_ms)}."
    )


def stage_table(stages: Sequence[StageFigures]) -> str:
    """The stages, candidate and baseline side by side."""
    head = ("stage", ">share", ">requests", ">failed", ">p50", ">p95", ">legacy p95", "verdict")
    rows = [
        (
            one.name,
            "copies" if one.weight == 0 else f"{one.weight * 100:g} %",
            str(one.requests),
            str(one.errors),
            _ms(one.p50_ms),
            _ms(one.p95_ms),
            _ms(one.baseline_p95_ms),
            _verdict(one.verdict),
        )
        for one in stages
    ]
    return table(head, rows, raw=(7,))


def _crash(story: Story) -> str:
    crash = story.crash
    if not crash.fates:
        return _section("The crash", "No worker was killed.")
    took = "never" if crash.takeover_ms is None else f"{crash.takeover_ms / 1000:.1f} s"
    lead = (
        f"A worker is killed with SIGKILL in the middle of a stage while it owns "
        f"{crash.killed_runs} runs. Another takes them over when the lease is up ({took} later) "
        "and goes on after the last journalled step."
    )
    rows = [
        (
            tag("code", escape(_short(fate.run)), title=fate.run),
            steps_row(fate),
            str(fate.epoch_before),
            str(fate.epoch_after),
            _verdict("pass" if fate.state == "completed" else fate.state, fate.state),
        )
        for fate in crash.fates
    ]
    checks = (
        f"Checked over all {crash.runs_checked} runs: {crash.steps_executed} executions of steps, "
        f"noted by the workers outside of Aura, of which {crash.steps_repeated} began after the "
        f"step's result was journalled; {crash.effects} effects in the usage ledger by "
        f"{crash.effect_attempts} attempts, of which {crash.duplicated_effects} came after the "
        f"effect was acknowledged, and {crash.missing_effects} runs without their effect."
    )
    head = ("run", "journal: before the kill, after it", ">epoch", ">then", "")
    return _section(
        "The crash", lead, table(head, rows, raw=(0, 1, 4)), tag("p", escape(checks), class_="soft")
    )


def _short(run: str) -> str:
    return run if len(run) <= RUN_SHOWN else f"{run[: RUN_SHOWN - 1]}…"


def steps_row(fate: RunFate) -> str:
    """What was journalled before the kill, and what came after it."""
    before = fate.before[-STEPS_SHOWN:]
    more = len(fate.before) - len(before)
    parts = [tag("span", f"{more} more", class_="soft")] if more else []
    parts += [tag("code", escape(name), class_="before") for name in before]
    parts.append(tag("span", "✕", class_="kill", title="SIGKILL"))
    parts += [tag("code", escape(name), class_="after") for name in fate.after[:STEPS_SHOWN]]
    if len(fate.after) > STEPS_SHOWN:
        parts.append(tag("span", f"{len(fate.after) - STEPS_SHOWN} more", class_="soft"))
    return tag("div", *parts, class_="steps")


def _rollbacks(story: Story) -> list[str]:
    if not story.canaries:
        return []
    cards = [
        _rollback(story, release, found)
        for release, found in zip(story.canaries, rollbacks(story), strict=True)
    ]
    return [
        _section(
            "Two releases that should not have been shipped",
            "Each goes to 15 % of the users first. The evidence grows with every request that "
            "fails or is late, and can be looked at at any time; a hard limit stands beside it.",
            tag("div", *cards, class_="two"),
        )
    ]


def _rollback(story: Story, release: Release, found: RollbackFigures) -> str:
    zero = "–" if found.trip_to_zero_ms is None else f"{found.trip_to_zero_ms:.0f} ms"
    rows = [
        ("from the trip until no request reached it", zero),
        ("requests that reached it", str(found.requests_on_bad_arm)),
        ("of these failed", str(found.failed_on_bad_arm)),
        ("answered by 2.0.0 in its place", str(found.fallbacks)),
        ("users on it", str(found.users_on_bad_arm)),
        ("users who saw an error", str(found.users_with_errors)),
    ]
    return tag(
        "div",
        tag("h3", escape(f"Release {found.version}")),
        tag("p", escape(found.reason), class_="soft"),
        charts.evidence(story, release),
        table(("", ">"), rows),
    )


def _differences(story: Story) -> str:
    copies = [one for one in story.observations if one.shadow]
    differing = sum(bool(one.differences) for one in copies)
    lead = (
        f"In the shadow stage {len(copies)} copies of requests went to 2.0.0; {differing} answers "
        f"differed from what the user got. Afterwards {story.compared} pairs of answers to the "
        f"same query were compared with {story.fields:,} values:"
    )
    return _section("Legacy and new, field by field", lead, difference_table(story.differences))


def difference_table(found: Sequence[FieldDifference]) -> str:
    """The fields that differ, the unexpected ones first."""
    if not found:
        return tag("p", "No field differs.", class_="soft")
    head = ("field", ">pairs", "", "legacy", "2.0.0")
    rows = [
        (
            tag("code", escape(one.path)),
            str(one.count),
            _verdict("pass", "expected") if one.ignored else _verdict("trip", "differs"),
            tag("code", escape(one.legacy)),
            tag("code", escape(one.new)),
        )
        for one in found
    ]
    return table(head, rows, raw=(0, 2, 3, 4))


def promise_table(found: Iterable[Promise]) -> str:
    """Each promise with what was measured."""
    rows = [
        (
            _verdict("pass" if one.kept else "trip", "kept" if one.kept else "broken"),
            one.text,
            one.found,
        )
        for one in found
    ]
    return table(("", "promise", "measured"), rows, raw=(0,))


def event_list(notes: Iterable[Note], began: float) -> str:
    """What happened, with the seconds since the beginning."""
    lines = [
        tag(
            "li",
            tag("time", f"{note.at - began:.1f} s"),
            tag("span", escape(note.text), class_=note.mood),
        )
        for note in notes
    ]
    return tag("ol", *lines, class_="events")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, raw: Sequence[int] = ()) -> str:
    """A table. Columns whose name begins with > hold numbers; `raw` columns are markup already."""
    numbers = [name.startswith(">") for name in head]
    classes = ["number" if number else None for number in numbers]
    top = [
        tag("th", escape(name.removeprefix(">")), class_=class_)
        for name, class_ in zip(head, classes, strict=True)
    ]
    lines = [
        tag(
            "tr",
            *(
                tag("td", cell if place in raw else escape(cell), class_=classes[place])
                for place, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    parts = [tag("thead", tag("tr", *top))] if any(head) and head != ("", ">") else []
    class_ = "wide" if len(head) > WIDE else None
    return tag("div", tag("table", *parts, tag("tbody", *lines), class_=class_), class_="scroll")


def _section(title: str, lead: str, *inside: str) -> str:
    text = [tag("p", escape(lead), class_="soft")] if lead else []
    return tag("section", tag("h2", escape(title)), *text, *inside)


def _verdict(verdict: str, text: str = "") -> str:
    class_ = {"pass": "yes", "trip": "no", "failed": "no"}.get(verdict, "soft")
    return tag("span", escape(text or verdict), class_=class_)


def _footer(story: Story) -> str:
    machine = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    form = ", the shortened form" if story.quick else ""
    return tag("footer", escape(f"Written by aura demo{form}. {machine}."))


def _arrow(old: float | None, new: float | None) -> str:
    if old is None or new is None:
        return "–"
    return f"{old:.0f} → {new:.0f} ms"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} ms"
