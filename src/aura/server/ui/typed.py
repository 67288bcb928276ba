"""A question that is answered by typing a word: for what concerns everybody at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from nicegui import ui

from aura.server.ui.parts import button, el


@dataclass(frozen=True, slots=True)
class Danger:
    """What is asked: `word` is to be typed before `label` does anything."""

    title: str
    consequence: str
    word: str
    label: str


async def confirm_typed(danger: Danger) -> str | None:
    """The reason that was given, None when it is not meant. A reason is needed."""
    with (
        ui.dialog() as dialog,
        el("div", "dialog", role="alertdialog", aria_label=danger.title),
    ):
        el("h2", "", danger.title)
        el("p", "", danger.consequence)
        with el("label", "field"):
            el("span", "", "Reason")
            reason = ui.textarea().props("outlined dense autogrow rows=2 maxlength=500 autofocus")
        with el("label", "field"):
            el("span", "", f"To confirm, type {danger.word}")
            typed = ui.input().props("outlined dense autocomplete=off spellcheck=false")
        missing = el("p", "dialog-missing", "", role="alert")

        def submit() -> None:
            why, word = str(reason.value or "").strip(), str(typed.value or "").strip()
            if not why:
                missing.show("Say why: others will want to know.")
            elif word != danger.word:
                missing.show(f"Type {danger.word} to confirm.")
            else:
                dialog.submit(why)

        with el("div", "dialog-actions"):
            button("Not now", dialog.close)
            button(danger.label, submit, "danger")
    found = await dialog
    dialog.delete()
    return cast("str | None", found)
