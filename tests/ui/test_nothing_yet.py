"""What pages say where there is nothing yet, or nothing of that name: a sentence, and what to type
next."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.ui.kit import Site, fits, show

TARGET = "tests.ui.empty_program:app"
SAID = {
    "/rollouts": ("No rollouts yet", "aura rollout start aura.yaml --watch"),
    "/experiments": ("No experiments yet", "aura experiment start experiment.yaml"),
    "/catalog": ("The catalog is empty", "aura serve app:app"),
    "/schedules": ("No schedules yet", "app.schedule("),
    "/topics": ("No topics yet", "app.emit("),
    "/dead-letters": ("Nothing waits for a person", "aura dlq list"),
    "/queues": ("No queues yet", "app.queue("),
    "/settings": ("No tokens yet", "aura token create"),
    "/audit": ("Nothing like that is in the log", "Every change"),
}


def test_empty_pages_say_what_to_type_next(site: Site, tab: Page) -> None:
    for path, (title, command) in SAID.items():
        show(tab, path)
        expect(tab.get_by_text(title)).to_be_visible()
        expect(tab.get_by_text(command).first).to_be_visible()
        assert fits(tab), path


@pytest.mark.parametrize(
    "path",
    [
        *("/rollouts/nobody", "/experiments/nobody", "/catalog/nobody", "/schedules/nobody"),
        *("/topics/nobody", "/dead-letters/nobody", "/queues/nobody", "/workers/nobody"),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(site: Site, tab: Page, path: str) -> None:
    answer = tab.goto(path)
    assert answer is not None
    assert 400 <= answer.status < 500
    expect(tab.get_by_role("alert")).to_contain_text("nobody")


def test_names_that_no_database_holds_are_refused_in_a_sentence(site: Site, tab: Page) -> None:
    for kind in ("rollouts", "experiments", "catalog", "schedules", "topics", "dead-letters"):
        answer = tab.goto(f"/{kind}/%00%3Cscript%3E")
        assert answer is not None
        assert 400 <= answer.status < 500, kind
        expect(tab.locator(".problem, body").first).to_be_visible()
