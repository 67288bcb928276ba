"""Schedules, topics, dead letters, queues, workers, settings and the audit log in a real browser,
with tokens: who may look, who may change, and that it is written down."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.ui.kit import Site, connected, fits, picture, served, show
from tests.ui.shared import KEY, Shared, token

ATTACK = "<script>document.title='taken'</script>"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """With ten dead letters, and a token for each role."""
    folder: Path = tmp_path_factory.mktemp("site")
    with served(
        folder, "tests.ui.delivery_program:app", environment={"AURA_ENCRYPTION_KEYS": KEY}
    ) as found:
        plan = {
            "name": "watched", "baseline": "legacy", "candidate": "new", "guards": ["errors"],
            "stages": ["5%", "100%"], "defaults": {"min_requests": 1_000_000},
        }  # fmt: skip
        assert found.api.post("/rollouts", json={"plan": plan}).status_code < 300
        found.ended(found.start("orders", "o-1", count=10))
        for role in ("viewer", "operator", "admin"):
            setattr(found, role, token(found, f"an-{role}", role))
        found.limited = token(found, "limited", "operator", "nightly")  # type: ignore[attr-defined]
        found.api.headers["Authorization"] = f"Bearer {found.admin}"  # type: ignore[attr-defined]
        give_up = time.monotonic() + 60
        while len(found.api.get("/letters").json()["letters"]) < 10:
            assert time.monotonic() < give_up
            time.sleep(0.1)
        yield found


def table(tab: Page, label: str) -> Locator:
    return tab.locator(f'.table-box[aria-label="{label}"]')


def small(tab: Page) -> None:
    """What is shown fits a small screen too."""
    tab.set_viewport_size({"width": 400, "height": 800})
    assert fits(tab), tab.url
    assert tab.locator(".problem").count() == 0, tab.url
    tab.set_viewport_size({"width": 1280, "height": 800})


def confirm(tab: Page, label: str, why: str) -> None:
    dialog = tab.get_by_role("dialog").last
    dialog.get_by_label("Reason").fill(why)
    dialog.get_by_role("button", name=label, exact=True).click()
    expect(dialog).to_have_count(0)


def test_dead_letters_are_requeued_and_dropped(site: Site, shared: Shared) -> None:
    tab = shared.tab("operator", "/dead-letters?topic=orders.ready")
    rows = table(tab, "Dead letters").locator("tbody tr")
    expect(rows).to_have_count(10)
    expect(rows.first).to_contain_text(f"ValueError: no account for order 9 {ATTACK}")
    expect(tab.get_by_role("button", name="Requeue")).to_be_disabled()
    picture(tab, "dead-letters")
    small(tab)
    for number in (1, 2, 3):
        tab.get_by_label(f"Choose event:orders.ready/billing/{number}", exact=True).check()
    expect(tab.get_by_text("3 chosen")).to_be_visible()
    tab.get_by_role("button", name="Requeue").click()
    confirm(tab, "Requeue", "the account is there now")
    expect(tab.get_by_text("Requeue: 3 of 3 done.")).to_be_visible()
    expect(rows).to_have_count(7)
    tab.get_by_role("link", name="event:orders.ready/billing/4").click()
    connected(tab)
    expect(tab.get_by_text("no account for order 3").first).to_be_visible()
    expect(tab.locator("pre.code", has_text='"number": 3')).to_be_visible()
    tab.get_by_role("button", name="Drop").click()
    confirm(tab, "Drop", "the order was cancelled")
    expect(table(tab, "Dead letters").locator("tbody tr")).to_have_count(6)
    assert "taken" not in tab.title()
    gone = tab.request.get("/dead-letters/" + quote("event:orders.ready/billing/4", safe=""))
    assert gone.status == 404


def test_schedules_are_paused_triggered_and_resumed(site: Site, shared: Shared) -> None:
    tab = shared.tab("operator", "/schedules")
    expect(table(tab, "Schedules")).to_contain_text("Europe/Berlin")
    small(tab)
    tab.get_by_role("link", name="nightly-report").click()
    connected(tab)
    expect(table(tab, "Next ticks").locator("tbody tr")).to_have_count(5)
    tab.get_by_role("button", name="Pause").click()
    confirm(tab, "Pause", "release freeze")
    expect(tab.locator(".content .toolbar .badge")).to_have_text("paused")
    expect(tab.get_by_text("It does not tick")).to_be_visible()
    tab.get_by_role("button", name="Trigger now").click()
    confirm(tab, "Trigger now", "wanted today")
    expect(table(tab, "History").locator(".badge", has_text="completed")).to_have_count(1)
    picture(tab, "schedule")
    small(tab)
    tab.get_by_role("button", name="Resume").click()
    confirm(tab, "Resume", "go on")
    expect(tab.locator(".content .toolbar .badge")).to_have_text("active")


def test_a_viewer_looks_and_changes_nothing(site: Site, shared: Shared) -> None:
    tab = shared.tab("viewer", "/rollouts/watched")
    for name in ("Advance", "Pause", "Hold", "Roll back", "Force the baseline …"):
        button = tab.get_by_role("button", name=name, exact=True)
        expect(button).to_be_disabled()
        assert "needs the role operator" in str(button.get_attribute("title"))
    tab.evaluate("document.querySelectorAll('button').forEach(one => one.disabled = false)")
    tab.get_by_role("button", name="Roll back").click()
    show(tab, "/dead-letters")
    tab.get_by_label("Choose all on this page").check()
    expect(tab.get_by_role("button", name="Drop")).to_be_disabled()
    show(tab, "/schedules/nightly-report")
    expect(tab.locator(".content button").first).to_be_disabled()
    show(tab, "/settings")
    expect(table(tab, "Configuration")).to_be_visible()
    expect(tab.get_by_role("heading", name="Tokens")).to_have_count(0)
    expect(tab.get_by_role("link", name="Audit log")).to_have_count(0)
    refused = tab.request.get("/audit")
    assert refused.status == 403
    assert "needs the role admin" in refused.text()
    assert site.api.get("/rollouts/watched").json()["state"] == "running"
    kept = site.api.get("/audit", params={"limit": 500}).json()["entries"]
    assert [one for one in kept if one["by"] == "an-viewer"] == []


def test_a_limited_token_sees_its_workflow_and_nothing_else(site: Site, shared: Shared) -> None:
    tab = shared.tab("limited", "/schedules")
    expect(tab.locator(".side-link")).to_have_text(["Runs", "Schedules", "Dead letters"])
    show(tab, "/schedules/nightly-report")
    expect(tab.get_by_role("button", name="Trigger now")).to_be_enabled()
    show(tab, "/dead-letters")
    expect(tab.get_by_text("Nothing waits for a person")).to_be_visible()
    show(tab, "/dead-letters/" + quote("event:orders.ready/billing/9", safe=""))
    expect(tab.get_by_role("alert")).to_contain_text("there is no dead letter")
    for path in ("/rollouts", "/topics", "/queues", "/settings", "/experiments", "/catalog"):
        found = tab.request.get(path)
        assert found.status == 403
        assert "limited to runs of its workflows" in found.text()


def test_admins_read_who_did_what(site: Site, shared: Shared) -> None:
    assert site.api.post("/letters/nonsense/drop", json={}).status_code >= 400
    tab = shared.tab("admin", "/audit")
    rows = table(tab, "Audit log").locator("tbody tr")
    expect(rows.first).to_contain_text("failed")
    expect(rows.nth(1)).to_contain_text("http, admin, 127.0.0.1")
    picture(tab, "audit")
    small(tab)
    tab.get_by_label("What").fill("rollout")
    tab.get_by_role("button", name="Search").click()
    tab.wait_for_url("**/audit?what=rollout")
    connected(tab)
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("rollout start")
    show(tab, "/audit?by=nobody-of-that-name")
    expect(tab.get_by_text("Nothing like that is in the log")).to_be_visible()
    assert tab.request.get("/audit?before=nonsense").status == 200


def test_settings_have_no_secrets_and_tokens_are_revoked(site: Site, shared: Shared) -> None:
    token(site, "a-spare", "viewer")
    tab = shared.tab("admin", "/settings")
    expect(table(tab, "Configuration")).to_contain_text("on, 1 key")
    small(tab)
    shown = tab.content()
    for secret in (
        KEY.partition(":")[2],
        *(getattr(site, role) for role in ("viewer", "operator", "admin")),
    ):
        assert secret not in shown
    line = tab.locator(".version", has_text="a-spare")
    line.get_by_role("button", name="Revoke").click()
    confirm(tab, "Revoke", "nobody needs it")
    expect(line.locator(".badge.grey")).to_have_text("revoked")


def test_topics_workers_and_queues_are_shown(site: Site, shared: Shared) -> None:
    tab = shared.tab("viewer", "/topics")
    expect(table(tab, "Topics")).to_contain_text("orders.ready")
    small(tab)
    tab.get_by_role("link", name="orders.ready").click()
    connected(tab)
    expect(table(tab, "Groups")).to_contain_text("billing")
    expect(table(tab, "Events").locator("tbody tr")).to_have_count(10)
    small(tab)
    show(tab, "/workers")
    small(tab)
    table(tab, "Workers").get_by_role("link").first.click()
    connected(tab)
    expect(tab.get_by_text("research 1.0.0")).to_be_visible()
    small(tab)
    show(tab, "/queues")
    small(tab)
    tab.get_by_role("link", name="gpu").click()
    connected(tab)
    expect(tab.get_by_text("Limits: 2 at once; 1 per key")).to_be_visible()
    small(tab)
