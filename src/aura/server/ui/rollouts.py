"""Rollouts: those under way with their traffic, what is forced to its baseline, and those that have
ended."""

from __future__ import annotations

from collections.abc import Sequence

from aura.delivery.status import GuardStatus, PairStatus, RolloutStatus
from aura.server import emergencies, rollouts
from aura.server.access import Needs
from aura.server.emergencies import ForcedView, Which
from aura.server.ui.drawn import Ladder, Meter, Share, Traffic, Word, nearness
from aura.server.ui.forms import Field, Form, as_given, ask
from aura.server.ui.pages import page
from aura.server.ui.parts import Column, Empty, Table, badge, button, card, el, empty, heading, link
from aura.server.ui.paths import path
from aura.server.ui.plans import start_rollout
from aura.server.ui.typed import Danger, confirm_typed
from aura.server.ui.visit import Order, Visit
from aura.server.views import time_of

LOOK = 0.4
"""Seconds between two looks: a bar is to move within a second of the change."""

NEEDS = Needs("operator")
NOTHING = Empty(
    "No rollouts yet",
    "A rollout moves the traffic of a split from a baseline to a candidate, stage by stage, and "
    "takes it back when a guard trips. Write its plan into a file, then type:",
    "aura rollout start aura.yaml --watch",
)
ENDED = (
    Column("name", "Rollout", "link"),
    Column("state", "Ended", "badge"),
    Column("split", "Split", narrow=False),
    Column("arms", "From and to", narrow=False),
    Column("reason", "Why"),
    Column("at", "When", "time"),
)
RED_WORD = {"completed": "green", "rolled-back": "red"}


@page("/rollouts", "Rollouts")
async def all_rollouts(visit: Visit) -> None:
    """All of them, those under way first."""
    with heading("Rollouts", "Traffic that moves from a baseline to a candidate"):
        button("Start a rollout", lambda: start_rollout(visit), "primary", visit.may(NEEDS))
        button(
            "Everybody to the baseline …", lambda: to_the_baseline(visit, ()), "danger",
            visit.may(NEEDS),
        )  # fmt: skip
    forced_box, under_way, ended = el("div", "stack"), UnderWay(), Ended()

    async def look() -> tuple[list[RolloutStatus], tuple[ForcedView, ...]]:
        found = await rollouts.list_rollouts(visit.app)
        return list(found.rollouts), (await emergencies.forced(visit.app)).splits

    forced_now: tuple[ForcedView, ...] | None = None

    def show(found: tuple[list[RolloutStatus], tuple[ForcedView, ...]]) -> None:
        nonlocal forced_now
        if found[1] != forced_now:
            forced_now = found[1]
            forced_box.clear()
            with forced_box:
                for one in found[1]:
                    forced_line(visit, one)
        under_way.show([one for one in found[0] if not one.ended], none_at_all=not found[0])
        ended.show([one for one in found[0] if one.ended])

    await visit.live(look, show, key="rollouts", every=LOOK)


class UnderWay:
    """A card for each rollout that is under way."""

    def __init__(self) -> None:
        self._box = el("div", "stack")
        self._cards: dict[str, _Card] = {}
        self._said: bool | None = None

    def show(self, found: Sequence[RolloutStatus], *, none_at_all: bool) -> None:
        """These; a card stays as long as its rollout moves the same arms."""
        wanted = [_identity(one) for one in found]
        if list(self._cards) != wanted or (not found and self._said != none_at_all):
            self._said = none_at_all
            self._box.clear()
            with self._box:
                self._cards = {_identity(one): _Card(one) for one in found}
                if not found:
                    self._nobody(none_at_all)
        for one in found:
            self._cards[_identity(one)].show(one)

    def _nobody(self, none_at_all: bool) -> None:
        with card():
            quiet = Empty("Nothing is moving", "No rollout is under way.", NOTHING.command)
            empty(NOTHING if none_at_all else quiet)


def _identity(status: RolloutStatus) -> str:
    return f"{status.run} {status.baseline} {status.candidate}"


class _Card:
    def __init__(self, status: RolloutStatus) -> None:
        with el("article", "card rollout", aria_label=f"Rollout {status.name}"):
            with el("div", "rollout-head"):
                link(status.name, path("rollouts", status.name), "link strong")
                self._state = Word(status.state)
                el("span", "muted", f"split {status.split}")
                el("span", "spacer")
                el("span", "arms", f"{status.baseline} → {status.candidate}")
            self._bars = [Traffic(shares(pair), pair.split) for pair in status.pairs]
            with el("div", "rollout-foot"):
                self._ladder = Ladder(small=True)
                self._meters: dict[str, Meter] = {}
                self._guards = el("div", "meters")
            self._reason = el("p", "rollout-reason muted", "")

    def show(self, status: RolloutStatus) -> None:
        self._state.show(status.state)
        for bar, pair in zip(self._bars, status.pairs, strict=True):
            bar.show(shares(pair))
        self._ladder.show(status.stages)
        self._reason.show("; ".join((status.reason, *status.notes)))
        for guard in worst(status)[:2]:
            if guard.guard not in self._meters:
                with self._guards:
                    self._meters[guard.guard] = Meter(guard.guard)
            self._meters[guard.guard].show(guard)


def shares(pair: PairStatus) -> list[Share]:
    """The split's arms with their shares, the baseline first."""
    arms = (pair.baseline, pair.candidate)
    weights = pair.weights or {pair.baseline: 1.0}
    return [Share(arm, weights.get(arm, 0.0)) for arm in arms]


def worst(status: RolloutStatus) -> list[GuardStatus]:
    """Each guard once, in its worst split, in the plan's order."""
    found: dict[str, GuardStatus] = {}
    for pair in status.pairs:
        for one in pair.evidence:
            known = found.get(one.guard)
            if known is None or _badness(one) > _badness(known):
                found[one.guard] = one
    return list(found.values())


def _badness(one: GuardStatus) -> tuple[bool, float]:
    return one.verdict == "trip", nearness(one.evidence, one.limit)


class Ended:
    """Those that have ended, the newest first."""

    def __init__(self) -> None:
        self._box = el("div", "stack")
        self._table: Table | None = None

    def show(self, found: Sequence[RolloutStatus]) -> None:
        if not found:
            self._box.clear()
            self._table = None
            return
        if self._table is None:
            with self._box, card("Ended"):
                self._table = Table(ENDED, label="Rollouts that have ended")
        newest = sorted(found, key=ended_at, reverse=True)
        self._table.show(map(_ended_row, newest))


def ended_at(status: RolloutStatus) -> float:
    """When it was last changed, epoch seconds; 0.0 when it never was."""
    return status.history[-1].at if status.history else 0.0


def _ended_row(status: RolloutStatus) -> dict[str, object]:
    return {
        "id": status.run,
        "name": status.name,
        "href": path("rollouts", status.name),
        "state": status.state,
        "state_tone": RED_WORD.get(status.state, "grey"),
        "split": status.split,
        "arms": f"{status.baseline} → {status.candidate}",
        "reason": status.reason,
        "at": time_of(ended_at(status)) if status.history else None,
    }


def forced_line(visit: Visit, one: ForcedView) -> None:
    """That a split is forced to its baseline, and a way to release it."""
    last = one.history[-1] if one.history else None
    with el("div", "notice-line amber", role="status"):
        badge("forced", "amber")
        with el("div", "grow"):
            el("strong", "", f"Everybody of split {one.split} is on {one.baseline}")
            by = f" ({last.by})" if last and last.by else ""
            el("p", "muted", f"{one.reason}{by}. Nothing moves it until it is released.")
        button("Release …", lambda: release(visit, one.split), "", visit.may(NEEDS))


async def to_the_baseline(visit: Visit, names: tuple[str, ...]) -> None:
    """Force splits to their baselines; all of them when none is named."""
    which = Which(names, everything=not names)
    who = f"Everybody of {', '.join(names)}" if names else "Everybody, of all splits,"
    danger = Danger(
        title=f"{who} to the baseline?",
        consequence="At once, and until somebody releases it. Rollouts and experiments of these "
        "splits end with it.",
        word=names[0] if names else "everybody",
        label="Force the baseline",
    )
    why = await confirm_typed(danger)
    if why is None:
        return
    target = {"names": " ".join(names)} if names else {"everything": "True"}
    done = await visit.act(
        Order("rollback", NEEDS, target),
        why,
        lambda: emergencies.force(visit.app, which, reason=why, by=visit.caller.name),
    )
    if done is not None:
        changed = [one.split for one in done.splits if one.changed]
        left = "; ".join(f"{one.split}: {one.note}" for one in done.splits if one.note)
        told = f"Forced to the baseline: {', '.join(changed) or 'nothing'}"
        visit.say(f"{told}. {left}" if left else f"{told}.", "" if changed else "problem")


async def release(visit: Visit, split: str) -> None:
    """Let a split be moved again."""
    form = Form(
        f"Release split {split}?",
        "It stays at its baseline, and rollouts and experiments may move it again.",
        "Release",
        (Field("restore", "Serve again what it served before, if nothing was moving it", "yes"),),
    )
    answer = await ask(visit, form, as_given)
    if answer is None:
        return
    which, why, restore = Which((split,)), answer.why, "restore" in answer.found
    target = {"names": split} | ({"restore": "True"} if restore else {})
    await visit.act(
        Order("rollback release", NEEDS, target),
        why,
        lambda: emergencies.release(
            visit.app, which, reason=why, by=visit.caller.name, restore=restore
        ),
        f"Split {split} is released",
    )
