"""`aura runs bulk` and `aura dlq bulk`: the same change to many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.moments import Since, Until, maybe_moment
from aura.cli.options import Database, Json, taking
from aura.cli.output import clean, note, print_json, show, table
from aura.errors import InvalidInput
from aura.server import bulk, letters_bulk
from aura.server.bulk import MOST, Action, BulkView, Chosen, Outcome
from aura.server.letters import LetterFilter
from aura.server.letters_bulk import ChosenLetters, LetterAction, LetterOutcome, LettersChanged

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what would come of it; nothing is changed.")
]
Limit = Annotated[int, typer.Option(min=1, max=MOST, help="At most so many at once.")]
Cursor = Annotated[
    str | None, typer.Option(help="Go on after an earlier answer.", show_default=False)
]
RUN_ACTIONS: tuple[Action, ...] = ("cancel", "requeue", "retry")
LETTER_ACTIONS: tuple[LetterAction, ...] = ("requeue", "drop")


@dataclass(frozen=True, slots=True)
class BulkRuns:
    action: Annotated[
        str, typer.Argument(metavar="ACTION", help="cancel, requeue or retry.", show_default=False)
    ]
    run_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="These.", show_default=False)
    ] = None
    state: Annotated[
        str | None, typer.Option(help="Or those in this state.", show_default=False)
    ] = None
    workflow: Annotated[str | None, typer.Option(help="Of this workflow.", show_default=False)] = (
        None
    )
    attribute: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:VALUE", help="With this attribute.", show_default=False),
    ] = None
    since: Since = None
    until: Until = None
    limit: Limit = MOST
    cursor: Cursor = None
    dry_run: DryRun = False
    database: Database = None
    as_json: Json = False

    def chosen(self, now: float) -> Chosen:
        return Chosen(
            tuple(self.run_ids or ()), self.state, self.workflow, tuple(self.attribute or ()),
            maybe_moment(self.since, now, "--since"), maybe_moment(self.until, now, "--until"),
            self.limit, self.cursor,
        )  # fmt: skip


@taking(BulkRuns)
def bulk_runs(given: BulkRuns) -> None:
    """Cancel, requeue or retry many runs: those that are named, or that a search finds.

    \b
    Examples:
      aura runs bulk retry --state failed --workflow research --since 2h --dry-run
      aura runs bulk cancel --attribute customer:x --reason "they left"
      aura runs bulk requeue doc-17 doc-18
    """
    action = _known(given.action, RUN_ACTIONS)

    async def act(app: Aura) -> BulkView:
        async with opened(app):
            return await bulk.change_many(
                app, action, given.chosen(app.clock.now()), dry_run=given.dry_run,
                by=process.user(),
            )  # fmt: skip

    _tell(process.run(act(bare_app(given.database))), "=RUN", "run", given.as_json)


@dataclass(frozen=True, slots=True)
class BulkLetters:
    action: Annotated[
        str, typer.Argument(metavar="ACTION", help="requeue or drop.", show_default=False)
    ]
    letters: Annotated[
        list[str] | None, typer.Argument(metavar="[LETTER]...", help="These.", show_default=False)
    ] = None
    topic: Annotated[
        str | None, typer.Option(help="Or events of this topic.", show_default=False)
    ] = None
    group: Annotated[str | None, typer.Option(help="Left by this group.", show_default=False)] = (
        None
    )
    workflow: Annotated[
        str | None, typer.Option(help="Or runs of this workflow.", show_default=False)
    ] = None
    version: Annotated[
        str | None, typer.Option(help="With this version, for a requeue.", show_default=False)
    ] = None
    limit: Limit = MOST
    cursor: Cursor = None
    dry_run: DryRun = False
    database: Database = None
    as_json: Json = False

    def chosen(self) -> ChosenLetters:
        where = LetterFilter(topic=self.topic, group=self.group, workflow=self.workflow)
        return ChosenLetters(tuple(self.letters or ()), where, self.limit, self.cursor)


@taking(BulkLetters)
def bulk_letters(given: BulkLetters) -> None:
    """Requeue or drop many dead letters: those that are named, or that a search finds.

    \b
    Examples:
      aura dlq bulk requeue --topic orders --group billing --dry-run
      aura dlq bulk drop event:orders/billing/17 event:orders/billing/18
    """
    action = _known(given.action, LETTER_ACTIONS)

    async def act(app: Aura) -> LettersChanged:
        async with opened(app):
            return await letters_bulk.change_letters(
                app, action, given.chosen(), version=given.version, dry_run=given.dry_run
            )

    _tell(process.run(act(bare_app(given.database))), "=LETTER", "letter", given.as_json)


def _known(given: str, actions: Sequence[Any]) -> Any:
    if given not in actions:
        raise InvalidInput(f"there is no action {given!r}", hint=f"Give {', '.join(actions)}")
    return given


def _tell(found: BulkView | LettersChanged, column: str, attribute: str, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    rows = [(clean(getattr(one, attribute)), one.outcome, _why(one)) for one in found.outcomes]
    if rows:
        show(table((column, "=OUTCOME", "WHY"), rows))
    counts = Counter(one.outcome for one in found.outcomes)
    note(", ".join(f"{count:,} {what}" for what, count in counts.items()) or "There are no such.")
    if found.next:
        note(f"There are more; give the same command with --cursor {found.next}")


def _why(one: Outcome | LetterOutcome) -> str:
    if isinstance(one, Outcome) and one.becomes:
        return f"goes on as {clean(one.becomes)}"
    return clean(one.detail)
