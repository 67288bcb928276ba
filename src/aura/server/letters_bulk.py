"""Requeuing or dropping many dead letters at once: which ones, and what came of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from aura.app import Aura
from aura.errors import AuraError, InvalidInput, NoSuchDeadLetter
from aura.server.bulk import MOST
from aura.server.letters import (
    LetterFilter,
    check_requeue,
    drop_letter,
    list_letters,
    requeue_letter,
    show_letter,
)
from aura.server.problems import problem_of

LetterAction = Literal["requeue", "drop"]


@dataclass(frozen=True, slots=True)
class ChosenLetters:
    """Which ones: these `ids`, or else those that are as `where` says, the newest first, after the
    `cursor` of the answer before."""

    ids: tuple[str, ...] = ()
    where: LetterFilter = field(default_factory=LetterFilter)
    limit: int = MOST
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class LetterOutcome:
    """What came of one: "done", "would be done" in a dry run, or the code of why not."""

    letter: str
    outcome: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LettersChanged:
    """What came of each; `next` is the cursor of those that were not reached, None at the end."""

    action: LetterAction
    dry_run: bool
    outcomes: tuple[LetterOutcome, ...]
    next: str | None


async def change_letters(
    app: Aura,
    action: LetterAction,
    chosen: ChosenLetters,
    *,
    version: str | None = None,
    dry_run: bool,
) -> LettersChanged:
    """Do it to all that are chosen, one after the other; what fails stops nothing. Raises
    InvalidInput when nothing or too much is chosen."""
    if not chosen.ids and chosen.where == LetterFilter():
        raise InvalidInput("all dead letters are meant", hint="Give ids, or what they are like")
    if chosen.ids and (chosen.where != LetterFilter() or chosen.cursor):
        raise InvalidInput("they are chosen twice", hint="Give ids, or what they are like")
    if not 1 <= chosen.limit <= MOST or len(chosen.ids) > MOST:
        raise InvalidInput("that is too much at once", hint=f"Give 1 to {MOST}")
    if version is not None and action != "requeue":
        raise InvalidInput("a version is for a requeue", hint="Leave it out")
    ids, after = list(dict.fromkeys(chosen.ids)), None
    if not ids:
        page = await list_letters(app, chosen.where, chosen.limit, chosen.cursor)
        ids, after = [one.id for one in page.letters], page.next
    outcomes = [await _done(app, one, action, version, dry_run) for one in ids]
    return LettersChanged(action, dry_run, tuple(outcomes), after)


async def _done(
    app: Aura, name: str, action: LetterAction, version: str | None, dry_run: bool
) -> LetterOutcome:
    try:
        if dry_run:
            await show_letter(app, name)
            if action == "requeue":
                await check_requeue(app, name, version)
            return LetterOutcome(name, "would be done")
        if action == "requeue":
            await requeue_letter(app, name, version)
        else:
            await drop_letter(app, name)
    except NoSuchDeadLetter as error:
        return LetterOutcome(name, "dead-letter-not-found", error.message)
    except AuraError as error:
        said = problem_of(error)
        return LetterOutcome(name, said.code, said.detail)
    return LetterOutcome(name, "done")
