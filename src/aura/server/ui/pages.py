"""Which pages there are.

    @page("/queues/{name:segment}", "Queue", role="viewer", menu="Queues")
    async def queue(visit: Visit, name: str) -> None:
        found = await show_queue(visit.app, name)      # raises: the page says it as a sentence
        with card("Limits"):
            facts({"running": found.running})

A module with pages stands in `MODULES`; a page that is in the menu stands in `MENU` too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from aura.server.access import About, Needs
from aura.server.tokens import Role

if TYPE_CHECKING:
    from aura.server.ui.visit import Visit

Build = Callable[..., Awaitable[None]]

MODULES = (
    "aura.server.ui.overview",
    "aura.server.ui.runs",
    "aura.server.ui.run",
    "aura.server.ui.rollouts",
    "aura.server.ui.rollout",
    "aura.server.ui.experiments",
    "aura.server.ui.experiment",
    "aura.server.ui.catalog",
    "aura.server.ui.decommissions",
    "aura.server.ui.schedules",
    "aura.server.ui.topics",
    "aura.server.ui.letters",
    "aura.server.ui.queues",
    "aura.server.ui.settings",
    "aura.server.ui.audit",
)


class Entry(NamedTuple):
    """A line of the menu: what it says, where it leads, and its icon's name in icons.py."""

    label: str
    path: str
    icon: str


MENU: tuple[tuple[str, tuple[Entry, ...]], ...] = (
    (
        "Operate",
        (
            Entry("Overview", "/", "overview"),
            Entry("Runs", "/runs", "runs"),
            Entry("Schedules", "/schedules", "schedules"),
            Entry("Queues", "/queues", "queues"),
            Entry("Workers", "/workers", "workers"),
        ),
    ),
    (
        "Deliver",
        (
            Entry("Rollouts", "/rollouts", "rollouts"),
            Entry("Experiments", "/experiments", "experiments"),
            Entry("Catalog", "/catalog", "catalog"),
            Entry("Decommissions", "/decommissions", "retired"),
        ),
    ),
    (
        "Messages",
        (
            Entry("Topics", "/topics", "topics"),
            Entry("Dead letters", "/dead-letters", "letters"),
        ),
    ),
    (
        "Manage",
        (
            Entry("Audit log", "/audit", "audit"),
            Entry("Settings", "/settings", "settings"),
        ),
    ),
)
"""Entries whose page is not there (yet) are not shown, nor those that the role may not open."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page: its path (with FastAPI's parameters, which the function gets as strings), its title,
    who may see it, the path of the menu's entry to which it belongs, and the function."""

    path: str
    title: str
    needs: Needs
    menu: str
    build: Build


PAGES: dict[str, Page] = {}


def page(
    path: str, title: str, role: Role = "viewer", *, about: About = "all", menu: str = ""
) -> Callable[[Build], Build]:
    """Declare a page. `about` is as for routes (`aura.server.access.Needs`): "all" is not shown to
    tokens that are limited to workflows, "run" is about the run of `run_id`, "body" looks at
    `visit.caller` itself. `menu` is the path of the entry that is marked, if not its own."""

    def keep(build: Build) -> Build:
        PAGES[path] = Page(path, title, Needs(role, about), menu or path, build)
        return build

    return keep


async def build(found: Page, visit: Visit, given: dict[str, Any]) -> None:
    """Build a page's content."""
    await found.build(visit, **given)
