"""The frame around every page: skip link, menu, theme, who is logged in, and the place where pages
build. A page that fails says so in a sentence, inside the frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nicegui import context, ui

from aura.server.access import Caller
from aura.server.tokens import ranks
from aura.server.ui.pages import MENU, PAGES, Entry, Page
from aura.server.ui.parts import El, el, icon


@contextmanager
def frame(page: Page, caller: Caller, app_name: str, *, logged_in: bool) -> Iterator[El]:
    """The frame; what is built inside becomes the page's content. Gives the line above it."""
    ui.query("body").classes("aura")
    _only_one_main()
    el("a", "skip", "Skip to the content", href="#content")
    with el("div", "frame"):
        _top(app_name)
        with el("nav", "side", id="menu", aria_label="Main"):
            _brand(app_name)
            for title, entries in MENU:
                _group(title, [one for one in entries if _shown(one, caller)], page)
            _foot(caller, logged_in=logged_in)
        with el("main", "main", id="content", tabindex=-1):
            said = el("p", "said hidden", "", role="status")
            with el("div", "content"):
                yield said


def _only_one_main() -> None:
    """NiceGUI's own page is a `main` too; ours is the one that people are to be led to."""
    slot = context.client.content.parent_slot
    if slot is not None:
        slot.parent.props["role"] = "presentation"


def _top(app_name: str) -> None:
    """What a small screen has instead of the menu at the side."""
    with el("div", "top"):
        with el(
            "button", "plain", type="button", id="menu-button", aria_label="Menu",
            aria_expanded="false", aria_controls="menu",
        ):  # fmt: skip
            icon("menu")
        el("span", "top-name", app_name)


def _brand(app_name: str) -> None:
    with el("a", "brand", href="/", aria_label=f"Aura, {app_name}: overview"):
        icon("mark")
        with el("span", "brand-text"):
            el("strong", "", "Aura")
            el("span", "muted", app_name)


def _group(title: str, entries: list[Entry], page: Page) -> None:
    if not entries:
        return
    el("h2", "side-title", title)
    with el("ul", "side-list"):
        for one in entries:
            here = "page" if one.path == page.menu else None
            with el("li"), el("a", "side-link", href=one.path, aria_current=here):
                icon(one.icon)
                el("span", "", one.label)


def _shown(entry: Entry, caller: Caller) -> bool:
    found = PAGES.get(entry.path)
    if found is None or not ranks(caller.role, found.needs.role):
        return False
    return not caller.workflows or found.needs.about == "body"


def _foot(caller: Caller, *, logged_in: bool) -> None:
    with el("div", "side-foot"):
        with el("div", "who"):
            el("span", "", caller.name)
            el("span", "muted", caller.role)
        with el("button", "plain", type="button", id="theme-button", aria_label="Theme"):
            icon("theme")
        if logged_in:
            with (
                el("form", "", method="post", action="/logout"),
                el("button", "plain", type="submit", aria_label="Log out", title="Log out"),
            ):
                icon("out")
