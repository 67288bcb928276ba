"""Changing many runs at once: which ones, and what came of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aura.app import Aura
from aura.errors import AuraError, InvalidInput
from aura.server import messages, operations
from aura.server.problems import problem_of
from aura.server.views import RunView
from aura.store.base import TERMINAL

Action = Literal["cancel", "requeue", "retry"]
MOST = 200
"""So many runs at once; `next` goes on."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which runs: these `ids`, or else those that `operations.list_runs` finds, newest first, after
    the `cursor` of the answer before."""

    ids: tuple[str, ...] = ()
    state: str | None = None
    workflow: str | None = None
    attributes: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    limit: int = MOST
    cursor: str | None = None

    @property
    def filtered(self) -> bool:
        """Whether not all runs are meant."""
        found = (self.state, self.workflow, self.attributes or None, self.since, self.until)
        return any(one is not None for one in found)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one run: "done", "would be done" in a dry run, or the code of why not. `becomes`
    is the run that goes on, where that is another one."""

    run: str
    outcome: str
    detail: str = ""
    becomes: str | None = None


@dataclass(frozen=True, slots=True)
class BulkView:
    """What came of each run; `next` is the cursor of those that were not reached, None at the
    end."""

    action: Action
    dry_run: bool
    outcomes: tuple[Outcome, ...]
    next: str | None


async def change_many(
    app: Aura, action: Action, chosen: Chosen, *, dry_run: bool, by: str = ""
) -> BulkView:
    """Do it to every chosen run, one after the other; what fails stops nothing. Raises InvalidInput
    when nothing or too much is chosen."""
    if not chosen.ids and not chosen.filtered:
        raise InvalidInput("all runs are meant", hint="Give ids, or a state, workflow or attribute")
    if chosen.ids and (chosen.filtered or chosen.cursor):
        raise InvalidInput("runs are chosen twice", hint="Give ids, or what they have in common")
    if not 1 <= chosen.limit <= MOST or len(chosen.ids) > MOST:
        raise InvalidInput("that is too much at once", hint=f"Give 1 to {MOST}")
    found, after = await _found(app, chosen)
    outcomes = [
        _judged(one, action) if dry_run else await _done(app, one, action, by) for one in found
    ]
    return BulkView(action, dry_run, tuple(outcomes), after)


async def _found(app: Aura, chosen: Chosen) -> tuple[list[RunView | str], str | None]:
    if not chosen.ids:
        page = await operations.list_runs(
            app, state=chosen.state, workflow=chosen.workflow, attributes=chosen.attributes,
            since=chosen.since, until=chosen.until, limit=chosen.limit, cursor=chosen.cursor,
        )  # fmt: skip
        return list(page.runs), page.next
    unique = list(dict.fromkeys(chosen.ids))
    known = await operations.runs_of(app, unique)
    return [known.get(one, one) for one in unique], None


def _judged(run: RunView | str, action: Action) -> Outcome:
    """What would come of it as it stands now."""
    if isinstance(run, str):
        return Outcome(run, "run-not-found", "there is no such run")
    wanted = {
        "cancel": run.state not in TERMINAL and run.state != "moved",
        "requeue": run.state == "parked",
        "retry": run.state in ("parked", "failed"),
    }
    if wanted[action]:
        return Outcome(run.id, "would be done")
    return Outcome(run.id, "not-needed", f"it is {run.state}")


async def _done(app: Aura, run: RunView | str, action: Action, by: str) -> Outcome:
    judged = _judged(run, action)
    if isinstance(run, str) or judged.outcome != "would be done":
        return judged
    try:
        if action == "cancel":
            after = await operations.cancel_run(app, run.id)
        elif action == "requeue":
            after = await messages.requeue_run(app, run.id, by)
        else:
            after = await messages.retry_run(app, run.id, by)
    except AuraError as error:
        said = problem_of(error)
        return Outcome(run.id, said.code, said.detail)
    return Outcome(run.id, "done", becomes=None if after.id == run.id else after.id)
