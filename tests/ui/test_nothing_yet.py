"""What pages say where there is nothing yet, or nothing of that name: a sentence, and what to type
next."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import httpx
from playwright.sync_api import Browser, Page, expect

from tests.ui.kit import Site, Tabs, fits, served, show

TARGET = "tests.ui.empty_program:app"
SAID = {
    "/rollouts": ("No rollouts yet", "aura rollout start aura.yaml --watch"),
    "/experiments": ("No experiments yet", "aura experiment start experiment.yaml"),
    "/catalog": ("The catalog is empty", "aura serve app:app"),
    "/decommissions": ("Nothing is taken out of service", "aura decommission aura.yaml"),
    "/schedules": ("No schedules yet", "app.schedule("),
    "/topics": ("No topics yet", "app.emit("),
    "/dead-letters": ("Nothing waits for a person", "aura dlq list"),
    "/queues": ("No queues yet", "app.queue("),
    "/settings": ("No tokens yet", "aura token create"),
    "/audit": ("Nothing like that is in the log", "Every change"),
}


NOBODY = (
    *("rollouts", "experiments", "catalog", "decommissions", "schedules", "topics"),
    *("dead-letters", "queues"),
)


def test_empty_pages_say_what_to_type_next(site: Site, tab: Page) -> None:
    for path, (title, command) in SAID.items():
        if path in ("/rollouts", "/schedules", "/settings"):
            show(tab, path)
            expect(tab.get_by_text(title)).to_be_visible()
            expect(tab.get_by_text(command).first).to_be_visible()
            assert fits(tab), path
        else:  # the same parts
            told = tab.request.get(path).text()
            assert title in told, path
            assert command in told, path


def test_what_is_not_there_is_said_in_a_sentence(site: Site, tab: Page) -> None:
    answer = tab.goto("/rollouts/nobody")
    assert answer is not None
    assert answer.status == 404
    expect(tab.get_by_role("alert")).to_contain_text("there is no rollout nobody")
    with httpx.Client(base_url=site.url, timeout=60) as client:
        for kind in (*NOBODY, "workers"):
            for name in ("nobody", "%00%3Cscript%3E", "x" * 3000):
                found = client.get(f"/{kind}/{name}")
                assert 400 <= found.status_code < 500, (kind, name)
                assert "This cannot be shown" in found.text
                assert "<script>" + name not in found.text


def test_a_page_says_that_the_server_is_away_and_comes_back_with_it(
    browser: Browser, tmp_path: Path
) -> None:
    with served(tmp_path, TARGET) as first:
        tabs = Tabs(browser, first.url)
        tab = tabs.open("/runs")
        tab.evaluate("window.before = true")
    expect(tab.get_by_text("Connection lost.")).to_be_visible()
    port = str(urlsplit(first.url).port)
    with served(tmp_path, TARGET, "--port", port):
        tab.wait_for_function("window.before === undefined && window.did_handshake === true")
        expect(tab.get_by_text("No runs here")).to_be_visible()
        expect(tab.get_by_text("Connection lost.")).to_be_hidden()
    tabs.close()
    others = [one for one in tabs.faults if "WebSocket" not in one and "ERR_CONN" not in one]
    assert others == []
