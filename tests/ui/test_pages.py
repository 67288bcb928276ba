"""Overview, runs and a run, in a real browser: what they show, what can be done, how they bear
much, little, and what is meant ill."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.ui.kit import Site, Tabs, connected, fits, picture, pictured, show, texts

TARGET = "tests.ui.program:app"
WITHIN = 20.0
"""Seconds on a slow machine for what takes less than one."""

EVIL = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


@pytest.fixture(scope="module")
def empty(site: Site) -> Site:
    """Asked for first, by the tests at the top of this file: nothing has run yet."""
    return site


@pytest.fixture(scope="module")
def busy(site: Site) -> Site:
    """With runs of all kinds."""
    site.start("pages", "big", count=10_000)
    for number in range(55):
        site.start("research", f"doc-{number:02}", text=f"durable execution {number}", branches=3)
    for number in range(5):
        site.start("approval", f"ask-{number}", text=f"please {number}")
    site.start("broken", "evil", text=EVIL)
    site.start("family", "family", names=["ann", "bob"])
    site.start("letter", "letter", size=5_000_000)
    body = {"workflow": "research", "input": {"text": "x"}, "id": "for-x"}
    assert site.api.post("/runs", json={**body, "attributes": {"customer": "x"}}).is_success
    docs = [f"doc-{number:02}" for number in range(55)]
    for id in ("big", "evil", "family", "letter", "for-x", *docs):
        site.ended(id)
    asking = {"workflow": "approval", "state": "waiting"}
    site.until("/runs", lambda found: len(found["runs"]) == 5, **asking)
    return site


def audited(site: Site) -> list[dict[str, Any]]:
    """The audit log's entries."""
    return list(site.api.get("/audit", params={"limit": 1000}).json()["entries"])


# -- with nothing, and with little ---------------------------------------------------------------


def test_what_is_empty_says_what_to_type_next(empty: Site, tab: Page) -> None:
    show(tab, "/")
    expect(tab.get_by_text("Nothing has run yet")).to_be_visible()
    expect(tab.get_by_text("aura run tests.ui.program:app research")).to_be_visible()
    picture(tab, "empty")
    show(tab, "/runs")
    expect(tab.get_by_text("No runs here")).to_be_visible()


def test_pages_follow_what_happens(empty: Site, tabs: Tabs) -> None:
    overview, runs = tabs.open("/"), tabs.open("/runs")
    began = time.monotonic()
    empty.start("approval", "now", text="please")
    expect(runs.get_by_role("link", name="now", exact=True)).to_be_visible()
    took = time.monotonic() - began
    print(f"a new run was in the list after {took:.2f} s")
    assert took < WITHIN
    expect(overview.locator(".state-line", has_text="waiting")).to_contain_text("1")
    began = time.monotonic()
    empty.api.post("/runs/now/signals/approval", json={"payload": True}).raise_for_status()
    expect(runs.locator("tr", has_text="now").locator(".badge")).to_have_text("completed")
    print(f"its end was in the list after {time.monotonic() - began:.2f} s")
    expect(overview.locator(".state-line", has_text="completed")).to_contain_text("1")


# -- the list ------------------------------------------------------------------------------------


def test_the_overview_shows_how_it_stands(busy: Site, tab: Page) -> None:
    show(tab, "/")
    for label in ("Throughput", "Latency, 95 %", "Errors", "Under way", "Parked", "Workers"):
        expect(tab.locator(".stat", has_text=label).first).to_be_visible()
    expect(tab.locator(".state-line", has_text="failed")).to_contain_text("1")
    expect(tab.get_by_role("link", name="evil", exact=True)).to_be_visible()
    assert tab.locator("svg.spark").count() == 3
    tab.locator(".state-line", has_text="failed").click()
    expect(tab).to_have_url(re.compile(r"/runs\?state=failed$"))


def test_filters_are_in_the_address_and_the_back_button_takes_them_back(
    busy: Site, tab: Page
) -> None:
    show(tab, "/runs")
    expect(tab.locator("tbody tr")).to_have_count(50)
    picture(tab, "runs")
    tab.get_by_role("link", name="failed", exact=True).click()
    expect(tab).to_have_url(re.compile(r"state=failed"))
    expect(tab.locator("tbody tr")).to_have_count(1)
    tab.get_by_role("link", name="waiting", exact=True).click()
    expect(tab.locator("tbody tr")).to_have_count(5)
    expect(tab).to_have_url(re.compile(r"state=waiting"))
    tab.go_back()
    expect(tab).to_have_url(re.compile(r"state=failed"))
    expect(tab.locator("tbody tr")).to_have_count(1)
    tab.reload()
    connected(tab)
    expect(tab.locator("tbody tr .badge")).to_have_text("failed")


def test_older_runs_are_on_the_next_page(busy: Site, tab: Page) -> None:
    show(tab, "/runs?workflow=research&state=completed")
    first = texts(tab, "tbody td.k-link")
    assert len(first) == 50
    tab.get_by_role("link", name="Older").click()
    expect(tab.get_by_role("link", name="Newest")).to_be_visible()
    connected(tab)
    second = texts(tab, "tbody td.k-link")
    assert second
    assert not set(first) & set(second)
    tab.get_by_role("link", name="Newest").click()
    expect(tab.locator("tbody tr")).to_have_count(50)


def test_runs_are_found_by_id_and_attribute(busy: Site, tab: Page) -> None:
    show(tab, "/runs")
    find = tab.get_by_role("textbox", name="Find runs")
    tab.keyboard.press("/")
    expect(find).to_be_focused()
    find.fill("customer:x")
    find.press("Enter")
    expect(tab.locator("tbody tr")).to_have_count(1)
    expect(tab).to_have_url(re.compile("attribute=customer%3Ax"))
    find = tab.get_by_role("textbox", name="Find runs")
    find.fill("nobody")
    find.press("Enter")
    expect(tab.get_by_text("There is no run nobody")).to_be_visible()
    find.fill("doc-07")
    find.press("Enter")
    expect(tab.get_by_role("heading", name="doc-07")).to_be_visible()


def test_many_runs_are_changed_after_a_dry_run_and_a_question(busy: Site, tab: Page) -> None:
    show(tab, "/runs?workflow=approval&state=waiting")
    for id in ("ask-0", "ask-1"):
        tab.get_by_role("checkbox", name=f"Choose {id}").check()
    expect(tab.get_by_text("2 chosen")).to_be_visible()
    tab.get_by_role("button", name="Requeue").click()
    expect(tab.get_by_text("Nothing to requeue: 2 × it is waiting.")).to_be_visible()
    tab.get_by_role("button", name="Cancel", exact=True).click()
    asked = tab.get_by_role("dialog", name="Cancel 2 runs?")
    expect(asked).to_contain_text("2 of 2 runs would be changed.")
    picture(tab, "bulk")
    asked.get_by_label("Reason").fill("they are not needed")
    asked.get_by_role("button", name="Cancel 2").click()
    assert busy.ended("ask-0")["state"] == busy.ended("ask-1")["state"] == "cancelled"
    expect(tab.locator("tbody tr")).to_have_count(3)
    [entry] = [one for one in audited(busy) if one["what"] == "runs bulk"]
    assert (entry["why"], entry["via"], entry["by"]) == (
        "they are not needed", "dashboard", "local",
    )  # fmt: skip


# -- one run -------------------------------------------------------------------------------------


def test_a_run_is_a_time_line_a_graph_and_a_journal(busy: Site, tab: Page) -> None:
    show(tab, "/runs/family%2F0.1%2Fresearch%231")
    assert texts(tab, ".step-name")[0] == "extract"
    expect(tab.locator(".step.lane")).to_have_count(3)
    tab.locator(".step", has_text="charge").first.click()
    detail = tab.locator(".detail-place")
    expect(detail.get_by_role("heading", name="charge")).to_be_visible()
    expect(detail).to_contain_text('"account": "account-0"')
    picture(tab, "run", whole=True)
    tab.get_by_role("tab", name="Graph").click()
    expect(tab.locator(".node")).to_have_count(3)
    expect(tab.locator(".node", has_text="charge")).to_contain_text("3 lanes")
    picture(tab, "graph")
    tab.get_by_role("tab", name="Journal").click()
    expect(tab.locator(".journal .step")).to_have_count(7)
    expect(tab).to_have_url(re.compile("view=journal.*step="))
    tab.reload()
    connected(tab)
    expect(tab.get_by_role("tab", name="Journal")).to_have_attribute("aria-selected", "true")
    expect(detail.get_by_role("heading", name="charge")).to_be_visible()
    tab.get_by_role("link", name="family", exact=True).click()
    expect(tab.get_by_role("region", name="Children").first).to_contain_text("research#1")


def test_a_failed_run_says_why_and_is_retried(busy: Site, tab: Page) -> None:
    show(tab, "/runs/evil")
    why = tab.get_by_role("region", name="Why it failed")
    expect(why).to_contain_text("ConnectionError: nobody answers about <script>")
    tab.locator(".step", has_text="unreliable").click()
    expect(tab.locator(".detail-place")).to_contain_text("try 1: ConnectionError")
    picture(tab, "failed")
    why.get_by_text("Traceback", exact=True).click()
    expect(why.locator("pre")).to_contain_text("raise ConnectionError")
    tab.get_by_role("button", name="Retry").click()
    tab.get_by_role("dialog").get_by_label("Reason").fill("they answer now")
    tab.get_by_role("dialog").get_by_role("button", name="Retry").click()
    expect(tab).to_have_url(re.compile(r"/runs/evil~"))
    [entry] = [one for one in audited(busy) if one["what"] == "runs retry"]
    assert (entry["target"], entry["why"]) == ({"run_id": "evil"}, "they answer now")


def test_a_signal_is_sent_and_its_run_followed(busy: Site, tab: Page) -> None:
    show(tab, "/runs/ask-2")
    expect(tab.get_by_role("region", name="State")).to_contain_text("asking")
    expect(tab.get_by_role("log")).to_contain_text('{"draft": "please 2"}')
    expect(tab).to_have_title("ask-2 · Run · Aura")
    waits = tab.get_by_role("region", name="Waits for")
    expect(waits).to_contain_text("the signal approval")
    waits.get_by_role("button", name="Signal approval").click()
    asked = tab.get_by_role("dialog", name="Signal")
    expect(asked.get_by_label("Name")).to_have_value("approval")
    asked.get_by_label("Payload, as JSON").fill("{oh")
    asked.get_by_role("button", name="Send").click()
    expect(asked).to_contain_text("The payload is no JSON")
    asked.get_by_label("Payload, as JSON").fill('{"ok": true}')
    picture(tab, "signal")
    asked.get_by_role("button", name="Send").click()
    expect(tab.locator(".run-id .badge")).to_have_text("completed")
    expect(tab.get_by_role("log")).to_contain_text("answered")
    expect(tab.get_by_role("region", name="Signals").first).to_contain_text('"ok": true')
    expect(tab.get_by_role("button", name="Signal", exact=True)).to_have_count(0)
    expect(waits).to_have_count(0)
    expect(tab.locator(".bar.of-signal")).to_have_count(1)


def test_a_fork_begins_where_it_is_told(busy: Site, tab: Page) -> None:
    show(tab, "/runs/doc-01")
    tab.get_by_role("button", name="Fork").click()
    tab.get_by_role("dialog", name="Fork").get_by_role("button", name="Fork").click()
    expect(tab).to_have_url(re.compile(r"/runs/doc-01~"))
    connected(tab)
    expect(tab.locator(".run-id .badge")).to_have_text("completed")


def test_what_a_user_gives_is_text(busy: Site, tab: Page) -> None:
    for path in ("/runs/evil", "/runs?state=failed", "/", "/runs/%3Cscript%3Ealert(1)"):
        show(tab, path)
        expect(tab.get_by_text("<script>").first).to_be_visible()
    assert tab.evaluate("window.hacked") is None


def test_a_large_entry_is_shown_when_asked_for(busy: Site, tab: Page) -> None:
    show(tab, "/runs/letter?step=0%2Flong_text%231")
    detail = tab.locator(".detail-place")
    assert len(detail.locator("pre").last.inner_text()) < 1000
    sent = tab.evaluate("JSON.stringify(mounted_app.elements).length")
    assert sent < 100_000
    detail.get_by_role("button", name="Show all (4.8 MB)").click()
    tab.wait_for_function(
        "document.querySelector('.detail-place pre:has(.piece)')?.textContent.length > 4999990"
    )


def test_ten_thousand_steps_are_drawn_as_they_are_seen(busy: Site, tab: Page) -> None:
    began = time.monotonic()
    show(tab, "/runs/big")
    expect(tab.get_by_text("10,000 calls")).to_be_visible()
    print(f"10,000 steps were there after {time.monotonic() - began:.2f} s")
    assert time.monotonic() - began < WITHIN
    assert tab.locator(".step").count() < 100
    tab.evaluate("document.querySelector('.steps').scrollTop = 1e9")
    expect(tab.locator(".step").last).to_have_attribute("title", "0.10/page_of#1000")
    assert tab.locator(".step").count() < 100
    tab.get_by_role("searchbox", name="Find a step").fill("0.7/page_of#44")
    expect(tab.locator(".step:not(.lane)")).to_have_count(11)
    tab.get_by_role("searchbox", name="Find a step").fill("")
    tab.get_by_role("tab", name="Graph").click()
    expect(tab.locator(".node")).to_contain_text("1000× · 10 lanes")


# -- how it looks and how it is reached ----------------------------------------------------------


def test_the_theme_is_the_systems_until_it_is_chosen(busy: Site, tabs: Tabs) -> None:
    tab = tabs.open("/", scheme="dark")

    def ground() -> str:
        return str(tab.evaluate("getComputedStyle(document.body).backgroundColor"))

    assert ground() == "rgb(14, 16, 20)"
    picture(tab, "overview-dark")
    if pictured():
        picture(tabs.open("/"), "overview")
    show(tab, "/runs/family%2F0.1%2Fresearch%231")
    picture(tab, "run-dark")
    tab.get_by_role("button", name="Theme: system").click()
    assert ground() == "rgb(246, 247, 249)"
    tab.reload()
    connected(tab)
    expect(tab.get_by_role("button", name="Theme: light")).to_be_visible()
    assert ground() == "rgb(246, 247, 249)"


def test_a_small_screen_has_all_of_it(busy: Site, tabs: Tabs) -> None:
    tab = tabs.open(width=400, height=800)
    for path in ("/", "/runs", "/runs/evil", "/runs/big?view=journal", "/runs/letter", "/nowhere"):
        show(tab, path)
        expect(tab.locator(".content > *").first).to_be_visible()
        assert fits(tab), path
        name = {"/": "overview-narrow", "/runs/evil": "run-narrow"}.get(path)
        if name:
            picture(tab, name)
    expect(tab.get_by_role("link", name="Settings")).to_be_hidden()
    tab.get_by_role("button", name="Menu").click()
    tab.get_by_role("link", name="Runs").click()
    expect(tab.get_by_role("heading", name="Runs", exact=True)).to_be_visible()


def test_a_keyboard_is_enough(busy: Site, tab: Page) -> None:
    show(tab, "/runs?workflow=approval&state=waiting")
    tab.keyboard.press("Tab")
    expect(tab.get_by_text("Skip to the content")).to_be_focused()
    ring = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert ring == "solid"
    tab.keyboard.press("Enter")
    expect(tab.locator("#content")).to_be_focused()
    run = tab.get_by_role("link", name="ask-3", exact=True)
    for _ in range(60):
        tab.keyboard.press("Tab")
        if run.evaluate("(one) => one === document.activeElement"):
            break
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("heading", name="ask-3")).to_be_visible()
    connected(tab)
    tab.get_by_role("button", name="Cancel").focus()
    tab.keyboard.press("Enter")
    asked = tab.get_by_role("dialog", name="Cancel run ask-3?")
    expect(asked).to_be_visible()
    tab.keyboard.press("Escape")
    expect(asked).to_be_hidden()
    tab.get_by_role("button", name="Cancel").focus()
    tab.keyboard.press("Enter")
    tab.get_by_role("dialog").get_by_role("button", name="Cancel the run").focus()
    tab.keyboard.press("Enter")
    assert busy.ended("ask-3")["state"] == "cancelled"
    expect(tab.locator(".run-id .badge").first).to_have_text("cancelled")
    show(tab, "/runs/big")
    tab.locator(".step:not(.lane)").first.focus()
    for _ in range(30):
        tab.keyboard.press("ArrowDown")
    expect(tab.locator(".step:focus")).to_have_attribute("title", "0.1/page_of#31")


def test_what_is_not_there_is_said_in_a_sentence(busy: Site, tab: Page) -> None:
    for path, said in (
        ("/runs/nobody", "there is no run nobody"),
        ("/nowhere", "there is no page at /nowhere"),
        ("/runs?state=odd", "there is no state 'odd'"),
        ("/runs?cursor=odd", "the cursor cannot be read"),
        ("/runs?attribute=odd", "'odd' is no attribute"),
    ):
        answer = tab.goto(path)
        assert answer is not None
        assert answer.status in (404, 422), path
        expect(tab.get_by_role("alert")).to_contain_text(said)
        expect(tab.get_by_role("navigation", name="Main")).to_be_visible()
    show(tab, "/runs/doc-01?step=odd")
    expect(tab.get_by_role("alert")).to_contain_text("has no entry 'odd'")


def test_the_journal_of_a_run_that_goes_on_is_followed(busy: Site, tab: Page) -> None:
    show(tab, "/runs/ask-4")
    before = tab.locator(".step").count()
    busy.api.post("/runs/ask-4/signals/approval", json={"payload": 1}).raise_for_status()
    expect(tab.locator(".run-id .badge")).to_have_text("completed")
    expect(tab.locator(".step", has_text="approval").first).to_be_visible()
    assert tab.locator(".step").count() > before
    expect(tab.locator(".payload").last).to_have_text("1")
