"""Rollouts, experiments and the catalog in a real browser."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.ui.kit import Site, Tabs, fits, picture, show
from tests.ui.shared import Shared

TARGET = "tests.ui.delivery_program:app"
ATTACK = "<script>document.title='taken'</script>"
PLAN: dict[str, Any] = {
    "baseline": "legacy",
    "candidate": "chat-2",
    "guards": ["errors", {"latency": {"max_p95": "10s"}}],
    "sla": "500ms",
    "stages": ["5%", "25%", "60%", "100%"],
    "defaults": {"min_requests": 5_000, "min_time": "1h", "max_time": "30d"},
}
EXPERIMENT = {
    "name": "copy",
    "split": "shop",
    "arms": {"short": "50%", "long": "50%"},
    "primary": {
        "metric": "basket", "from": "observation", "better": "higher", "horizon": "0s",
        "effect": "10%",
    },
    "guards": ["errors"],
    "planned": 4000,
    "min_time": "1h",
    "max_time": "2h",
}  # fmt: skip


@pytest.fixture
def tab(shared: Shared) -> Page:
    return shared.tab()


def post(site: Site, path: str, **body: Any) -> Any:
    answer = site.api.post(path, json=body)
    assert answer.status_code < 300, answer.text
    return answer.json()


def started(site: Site, name: str, **changes: Any) -> None:
    """A rollout that stays in its first stage."""
    plan = PLAN | {"name": name, "split": name} | changes
    post(site, "/rollouts", plan=plan)


def wait_for(site: Site, path: str, condition: Callable[[Any], bool]) -> Any:
    """What the API says once the condition holds."""
    give_up = time.monotonic() + 60
    while True:
        found = site.api.get(path).json()
        if condition(found):
            return found
        assert time.monotonic() < give_up, found
        time.sleep(0.05)


def confirm(tab: Page, label: str, why: str) -> None:
    """Give the reason, and mean it."""
    dialog = tab.get_by_role("dialog").last
    dialog.get_by_label("Reason").fill(why)
    dialog.get_by_role("button", name=label, exact=True).click()
    expect(dialog).to_have_count(0)


def part(tab: Page, arm: int, share: str) -> Locator:
    return tab.locator(f'.hero .traffic-part.arm-{arm}[data-share="{share}"]')


def table(tab: Page, label: str) -> Locator:
    return tab.locator(f'.table-box[aria-label="{label}"]')


def width(tab: Page, arm: int) -> float:
    """The part of the bar that an arm has, as it is drawn."""
    whole = tab.locator(".hero .traffic-bar").bounding_box()
    mine = tab.locator(f".hero .traffic-part.arm-{arm}").bounding_box()
    assert whole is not None
    assert mine is not None
    return float(mine["width"] / whole["width"])


def test_a_rollout_shows_what_its_guards_and_copies_say(site: Site, tab: Page, tabs: Tabs) -> None:
    started(site, "replace-legacy", split="chat")
    assert site.ended(site.start("traffic", "t-1", split="chat", count=1500))["state"] == (
        "completed"
    )
    post(site, "/rollouts/replace-legacy/advance", reason="nothing speaks against it")
    wait_for(site, "/rollouts/replace-legacy", lambda found: found["weight"] == 0.25)
    site.ended(site.start("traffic", "t-2", split="chat", count=1500, failing=30))
    started(site, "search-v3", split="search", baseline="search-2", candidate="search-3")
    site.ended(site.start("traffic", "t-3", split="search", count=700, failing=40))
    site.ended(site.start("copies", "c-1", split="chat", arm="chat-2"))
    wait_for(site, "/shadows/chat", lambda found: bool(found.get("reports")))
    show(tab, "/rollouts/replace-legacy")
    expect(tab.get_by_role("img", name="Guard errors: evidence over time")).to_be_visible()
    expect(tab.get_by_role("img", name="Latencies of both arms")).to_be_visible()
    expect(tab.locator(".latencies .hill")).to_have_count(2)
    field = tab.locator("details", has_text="answer.price")
    expect(field.locator(".badge")).to_have_text("differs")
    field.locator("summary").click()
    expect(field.locator(".example-side.candidate code").first).to_have_text("12.49")
    noise = tab.locator("details", has_text="took_ms")
    expect(noise.locator(".badge")).to_have_text("noise")
    attack = tab.locator("details", has_text=ATTACK)
    attack.locator("summary").click()
    expect(attack.locator(".example-side.baseline code").first).to_have_text(ATTACK)
    expect(tab.locator(".stat", has_text="Requests in this stage")).to_contain_text("1,500 in all")
    assert "taken" not in tab.title()
    assert fits(tab)
    attack.locator("summary").click()
    tab.evaluate("scrollTo(0, 0)")
    picture(tab, "rollout", whole=True)
    show(tab, "/rollouts")
    expect(tab.get_by_role("article", name="Rollout replace-legacy")).to_be_visible()
    picture(tab, "rollouts")
    small(tab)
    dark = tabs.open("/rollouts/replace-legacy", scheme="dark")
    expect(dark.locator(".latencies .hill")).to_have_count(2)
    background = "getComputedStyle(document.querySelector('.card')).backgroundColor"
    assert dark.evaluate(background) != tab.evaluate(background)
    picture(dark, "rollout-dark")
    small(dark)


def small(tab: Page, name: str = "") -> None:
    """What is shown fits a small screen too."""
    tab.set_viewport_size({"width": 400, "height": 800})
    assert fits(tab), tab.url
    if name:
        picture(tab, name)
    tab.set_viewport_size({"width": 1280, "height": 800})


def test_a_bar_moves_with_the_traffic(site: Site, tab: Page) -> None:
    started(site, "moving", candidate="a-candidate-with-a-name-that-is-rather-long")
    show(tab, "/rollouts/moving")
    expect(part(tab, 1, "0.05")).to_be_attached()
    assert width(tab, 1) == pytest.approx(0.05, abs=0.01)
    post(site, "/rollouts/moving/advance", reason="enough seen")
    wait_for(site, "/rollouts/moving", lambda found: found["weight"] == 0.25)
    began = time.monotonic()
    expect(part(tab, 1, "0.25")).to_be_attached()
    print(f"the bar has moved {time.monotonic() - began:.2f} s after the change")
    assert width(tab, 1) == pytest.approx(0.25, abs=0.01)
    expect(tab.get_by_role("img", name="Traffic of split moving: legacy 75 %")).to_be_visible()
    expect(tab.locator('.rung[aria-current="step"] .rung-name')).to_have_text("25%")
    small(tab, "rollout-narrow")


def test_an_operator_steers_with_reasons_and_they_are_kept(site: Site, tab: Page) -> None:
    started(site, "steered")
    show(tab, "/rollouts/steered")
    tab.get_by_role("button", name="Advance").click()
    confirm(tab, "Advance", f"compared by hand {ATTACK}")
    expect(part(tab, 1, "0.25")).to_be_attached()
    for button, state in (("Hold", "held"), ("Resume", "running"), ("Pause", "paused")):
        tab.get_by_role("button", name=button, exact=True).click()
        confirm(tab, button, f"because of {button}")
        expect(tab.locator(".hero .badge")).to_have_text(state)
    tab.get_by_role("button", name="Roll back").click()
    expect(tab.get_by_role("heading", name="Send everybody back to legacy?")).to_be_visible()
    confirm(tab, "Roll back", "wrong prices")
    expect(tab.locator(".hero .badge")).to_have_text("rolled-back")
    expect(part(tab, 1, "0")).to_be_attached()
    expect(tab.get_by_role("button", name="Roll back")).to_have_count(0)
    expect(table(tab, "History")).to_contain_text(f"compared by hand {ATTACK}")
    expect(table(tab, "History")).to_contain_text("local")
    kept = site.api.get("/audit", params={"limit": 500}).json()["entries"]
    mine = [one for one in kept if one["target"].get("name") == "steered"]
    given = [one["what"] for one in mine if one["via"] == "dashboard"]
    orders = ("advance", "hold", "resume", "pause", "rollback")
    assert given == [f"rollout {order}" for order in orders]
    assert mine[-1]["why"] == "wrong prices"
    assert "taken" not in tab.title()


def test_what_is_not_meant_is_not_done(site: Site, tab: Page) -> None:
    started(site, "left-alone")
    show(tab, "/rollouts/left-alone")
    tab.get_by_role("button", name="Roll back").focus()
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("dialog").last).to_be_visible()
    tab.get_by_role("button", name="Not now").click()
    expect(tab.get_by_role("heading", name="Send everybody back to legacy?")).to_have_count(0)
    assert site.api.get("/rollouts/left-alone").json()["state"] == "running"


def test_everybody_goes_to_the_baseline_when_the_word_is_typed(site: Site, tab: Page) -> None:
    started(site, "burning")
    show(tab, "/rollouts/burning")
    tab.get_by_role("button", name="Force the baseline").click()
    dialog = tab.get_by_role("alertdialog")
    dialog.get_by_label("Reason").fill("it is on fire")
    dialog.get_by_label("To confirm").fill("burnin")
    dialog.get_by_role("button", name="Force the baseline").click()
    expect(dialog.get_by_role("alert")).to_have_text("Type burning to confirm.")
    picture(tab, "rollout-emergency")
    dialog.get_by_label("To confirm").fill("burning")
    dialog.get_by_role("button", name="Force the baseline").click()
    expect(tab.get_by_text("Everybody of split burning is on legacy")).to_be_visible()
    expect(tab.get_by_text("it is on fire").first).to_be_visible()
    forced = site.api.get("/splits/burning").json()
    assert forced["forced"]
    tab.get_by_role("button", name="Release").click()
    confirm(tab, "Release", "the fire is out")
    expect(tab.get_by_text("Everybody of split burning is on legacy")).to_have_count(0)
    assert not site.api.get("/splits/burning").json()["forced"]


def test_people_approve_stages(site: Site, tab: Page) -> None:
    stages = [{"5%": {"approval": {"needed": 1}}}, {"50%": {"approval": {"needed": 1}}}, "100%"]
    defaults = {"min_requests": 1, "min_time": "0s", "max_time": "30d"}
    started(
        site, "approved", stages=stages, defaults=defaults, guards=[{"errors": {"min_sample": 1}}]
    )
    site.ended(site.start("traffic", "t-4", split="approved", count=300))
    show(tab, "/rollouts/approved")
    tab.get_by_role("button", name="Approve 5%").click()
    confirm(tab, "Approve", "looks good")
    expect(part(tab, 1, "0.5")).to_be_attached()
    site.ended(site.start("traffic", "t-5", split="approved", count=300))
    tab.get_by_role("button", name="Refuse").click()
    confirm(tab, "Refuse to approve", "wrong prices")
    wait_for(site, "/rollouts/approved", lambda found: found["history"][-1]["by"] == "local")
    expect(table(tab, "History")).to_contain_text("wrong prices")


def test_an_experiment_is_shown_over_time(site: Site, tab: Page) -> None:
    post(site, "/experiments", experiment=EXPERIMENT)
    site.ended(site.start("visits", "v-1", count=500))
    wait_for(
        site, "/experiments/copy",
        lambda found: bool(found["comparisons"]) and len(found["comparisons"][0]["points"]) > 2,
    )  # fmt: skip
    show(tab, "/experiments")
    small(tab)
    tab.get_by_role("link", name="copy").click()
    expect(tab.get_by_role("heading", name="copy", exact=True)).to_be_visible()
    expect(tab.locator(".chart .band")).to_have_count(1)
    expect(table(tab, "Metrics")).to_contain_text("basket (primary)")
    expect(table(tab, "Arms")).to_contain_text("baseline")
    picture(tab, "experiment", whole=True)
    small(tab)
    tab.get_by_role("button", name="Stop").click()
    confirm(tab, "Stop", "seen enough")
    expect(tab.locator(".hero .badge")).to_have_text("stopped")
    expect(table(tab, "History")).to_contain_text("seen enough")


def test_what_a_split_learns_is_shown_and_stopped(site: Site, tab: Page) -> None:
    post(
        site, "/learning", learning={"name": "route", "split": "models", "arms": ["small", "large"]}
    )
    show(tab, "/experiments")
    learner = tab.get_by_role("group", name="route")
    expect(learner.get_by_role("img", name="route: small 50 %, large 50 %")).to_be_visible()
    learner.get_by_role("button", name="Stop").click()
    confirm(tab, "Stop", "learnt enough")
    expect(learner.locator(".badge")).to_have_text("stopped")
    expect(learner.get_by_role("img", name="route: small 100 %, large 0 %")).to_be_visible()


def test_the_catalog_says_what_may_take_whose_place(site: Site, tab: Page) -> None:
    show(tab, "/catalog")
    expect(tab.get_by_text(f"First {ATTACK}")).to_be_visible()
    show(tab, "/catalog/research")
    fits_it = tab.get_by_role("button", name="1.0.0 to 1.1.0")
    expect(fits_it).to_have_accessible_name(
        "1.0.0 to 1.1.0: inputs compatible, outputs compatible, runs unknown"
    )
    tab.get_by_role("button", name="1.0.0 to 2.0.0").click()
    expect(tab.locator(".found")).to_contain_text("does not start")
    expect(tab.locator(".found")).to_contain_text("language: required by 2.0.0")
    picture(tab, "catalog")
    small(tab)
    tab.get_by_role("button", name="Deprecate").last.click()
    confirm(tab, "Deprecate", "it is too slow")
    expect(tab.get_by_text("Deprecated: it is too slow (local).")).to_be_visible()
    assert "taken" not in tab.title()
