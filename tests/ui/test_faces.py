"""Whatever the API can change can be changed on a page, too: each route that changes something has
its place there, for who may; and what the forms are given is refused or done as by the API."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, get_args

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from aura.delivery.decide import Order
from aura.server.access import SAFE, Door
from aura.server.api import build_api
from aura.server.tokens import ROLES
from tests.server.kit import make_app
from tests.server.test_authorisation import ROUTES, V, walk, without_convertors
from tests.ui.kit import Site, connected, fits, served, show
from tests.ui.shared import KEY, Shared, token


class Place(NamedTuple):
    """A page, and its button that gives the order. `until` is why even who may cannot press it
    there: something has to be chosen first, or there is nothing to do it to."""

    page: str
    button: str
    until: str = ""


CHOOSE = "Choose some first"
PLACES = {
    ("POST", "/runs"): Place("/runs", "Start a run"),
    ("POST", "/runs/{run_id}/signals/{name}"): Place("/runs/picks", "Signal"),
    ("POST", "/runs/{run_id}/updates/{name}"): Place("/runs/picks", "Update"),
    ("POST", "/runs/{run_id}/rewards/{name}"): Place("/runs/picks", "Reward"),
    ("POST", "/runs/{run_id}/cancel"): Place("/runs/picks", "Cancel"),
    ("POST", "/runs/{run_id}/fork"): Place("/runs/picks", "Fork"),
    ("POST", "/runs/{run_id}/requeue"): Place("/runs/stuck", "Requeue"),
    ("POST", "/runs/{run_id}/retry"): Place("/runs/failed", "Retry"),
    ("POST", "/topics/{name}/events"): Place("/topics/orders.ready", "Emit an event"),
    ("POST", "/topics/{topic}/replay"): Place("/topics/orders.ready", "Replay"),
    ("POST", "/topics/{topic}/forget"): Place("/topics/orders.ready", "Forget a group"),
    ("PUT", "/schedules/{name}"): Place("/schedules", "New schedule"),
    ("POST", "/schedules/{name}/pause"): Place("/schedules/nightly-report", "Pause"),
    ("POST", "/schedules/{name}/resume"): Place("/schedules/resting", "Resume"),
    ("POST", "/schedules/{name}/trigger"): Place("/schedules/nightly-report", "Trigger now"),
    ("POST", "/schedules/{name}/backfill"): Place("/schedules/nightly-report", "Backfill"),
    ("POST", "/schedules/{name}/delete"): Place("/schedules/nightly-report", "Delete"),
    ("POST", "/letters/{letter}/requeue"): Place("/dead-letters/run%3Astuck", "Requeue"),
    ("POST", "/letters/{letter}/drop"): Place("/dead-letters/run%3Astuck", "Drop"),
    ("POST", "/bulk/letters"): Place("/dead-letters", "Requeue", CHOOSE),
    ("POST", "/catalog/versions/{version}/deprecate"): Place("/catalog/nightly", "Deprecate"),
    ("POST", "/catalog/versions/{version}/restore"): Place("/catalog/visits", "Take back"),
    ("POST", "/rollouts"): Place("/rollouts", "Start a rollout"),
    ("POST", "/backtests"): Place("/rollouts/watched", "Try another plan"),
    ("POST", "/rollouts/{name}/approve"): Place("/rollouts/gated", "Approve 5%"),
    ("POST", "/emergencies"): Place("/rollouts", "Everybody to the baseline …"),
    ("POST", "/emergencies/release"): Place("/rollouts", "Release …"),
    ("POST", "/experiments"): Place("/experiments", "Start an experiment"),
    ("POST", "/experiments/{name}/rewards"): Place("/experiments/shop", "Reward a unit"),
    ("POST", "/experiments/{name}/{order}"): Place("/experiments/shop", "Stop"),
    ("POST", "/flows/{name}/release"): Place("/experiments", "Release an arm", "no arm is tripped"),
    ("POST", "/learning"): Place("/experiments", "Let a split learn"),
    ("POST", "/learning/{name}/stop"): Place("/experiments", "Stop"),
    ("POST", "/shadows/{name}/clear"): Place("/rollouts/watched", "Begin anew"),
    ("POST", "/decommissions"): Place("/decommissions", "Take a target out of service …"),
    ("POST", "/decommissions/{target}/undo"): Place("/decommissions/legacy", "Undo"),
}
ORDERS: dict[Order, Place] = {
    "advance": Place("/rollouts/watched", "Advance"),
    "pause": Place("/rollouts/watched", "Pause"),
    "hold": Place("/rollouts/watched", "Hold"),
    "resume": Place("/rollouts/quiet", "Resume"),
    "retry": Place("/rollouts/watched", "Retry the stage"),
    "skip": Place("/rollouts/watched", "Skip to a stage"),
    "rollback": Place("/rollouts/watched", "Roll back"),
}
ELSEWHERE = {
    ("POST", "/bulk/runs"): "its buttons come when runs are ticked: test_pages.py ticks some",
    ("POST", "/rollouts/{name}/{order}"): "it is many buttons: ORDERS",
}
PLAN = {
    "baseline": "legacy", "candidate": "new", "guards": ["errors"],
    "stages": ["5%", "25%", "100%"], "defaults": {"min_requests": 1_000_000, "min_time": "1h"},
}  # fmt: skip


def fill(site: Site) -> None:
    """Something of each kind that can be changed."""

    def post(path: str, **body: Any) -> None:
        answer = site.api.post(path, json=body)
        assert answer.status_code < 300, (path, answer.text)

    for name in ("watched", "quiet", "forced"):
        post("/rollouts", plan=PLAN | {"name": name})
    gate = {
        "name": "gated", "stages": [{"5%": {"approval": {"needed": 1}}}, "100%"],
        "guards": [{"errors": {"min_sample": 1}}],
        "defaults": {"min_requests": 1, "min_time": "0s"},
    }  # fmt: skip
    post("/rollouts", plan=PLAN | gate)
    post("/rollouts/quiet/hold", reason="later")
    post("/emergencies", names=["forced"], reason="to be safe")
    arms = {"short": "50%", "long": "50%"}
    post("/experiments", experiment={"name": "shop", "split": "s", "arms": arms, "primary": "cost"})
    post("/learning", learning={"name": "route", "split": "chat", "arms": ["small", "large"]})
    post("/decommissions", decommission={"target": "legacy"}, reason="nobody is left")
    post("/catalog/versions/visits@1.0.0/deprecate", reason="too slow")
    answer = site.api.put("/schedules/resting", json={"workflow": "nightly", "every": 3600})
    assert answer.status_code < 300, answer.text
    post("/schedules/resting/pause")
    site.start("traffic", "traffic", split="watched", count=300, failing=20)
    site.start("traffic", "gate", split="gated", count=300)
    site.start("copies", "copies", split="watched", arm="new")
    site.start("orders", "orders", count=2)
    site.start("fails", "failed")
    site.start("picks", "picks")
    site.start("stuck", "stuck")
    for id in ("traffic", "copies", "orders", "failed", "stuck"):
        site.ended(id)
    waiting = {"workflow": "picks", "state": "waiting"}
    site.until("/runs", lambda found: found["runs"], **waiting)
    site.until("/rollouts/gated", lambda one: bool((one["approval"] or {}).get("asked_at")))
    site.until("/rollouts/quiet", lambda one: one["state"] == "held")
    site.until("/schedules/resting", lambda one: one["schedule"]["state"] == "paused")
    site.until("/flows", lambda found: found["flows"])

    for role in ROLES:
        setattr(site, role, token(site, f"an-{role}", role))
    site.api.headers["Authorization"] = f"Bearer {site.admin}"  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("site")
    keys = {"AURA_ENCRYPTION_KEYS": KEY}
    with served(folder, "tests.ui.delivery_program:app", environment=keys) as found:
        fill(found)
        yield found


# -- where each route is --------------------------------------------------------------------------


def changing() -> set[tuple[str, str]]:
    """Method and path of each route that changes something, by walking them."""
    app = make_app()
    api = build_api(app, Door(app))
    return {
        (method, without_convertors(path).removeprefix(V))
        for path, route in walk(api)
        if path.startswith(V)
        for method in getattr(route, "methods", None) or ()
        if method not in SAFE
    }


def test_every_route_that_changes_something_has_a_place() -> None:
    named = [*PLACES, *ELSEWHERE]
    assert sorted(named) == sorted(changing()), "a new route needs a button, and a line here"
    assert set(ORDERS) == set(get_args(Order))


class Pages:
    """Pages as roles get them, each once, without a browser: what is in a page is in its text."""

    def __init__(self, site: Site) -> None:
        self._known: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self._as: dict[str, httpx.Client] = {}
        for role in ROLES:
            one = httpx.Client(base_url=site.url, timeout=60, headers={"origin": site.url})
            answer = one.post("/login", data={"token": getattr(site, role)})
            assert answer.status_code == 303, answer.text
            self._as[role] = one

    def buttons(self, role: str, page: str, label: str) -> list[dict[str, Any]]:
        """The properties of the buttons that say so."""
        if (role, page) not in self._known:
            answer = self._as[role].get(page)
            assert answer.status_code == 200, (page, answer.status_code)
            self._known[role, page] = [
                {"text": found[1], "disabled": '"disabled":true' in found[2], "all": found[2]}
                for found in _BUTTON.finditer(answer.text)
            ]
        return [one for one in self._known[role, page] if one["text"] == label]

    def close(self) -> None:
        for one in self._as.values():
            one.close()


_BUTTON = re.compile(r'\{"tag":"button","text":"([^"]*)","class":\[[^]]*\],"props":(\{[^}]*\})')


def test_each_place_is_for_who_may_and_says_to_others_why_not(site: Site) -> None:
    pages = Pages(site)
    routes = PLACES | {("POST", f"/rollouts/{{name}}/{order}"): ORDERS[order] for order in ORDERS}
    for (method, path), place in routes.items():
        asked = ("POST", f"{V}/rollouts/{{name}}/{{order}}")
        role = ROUTES.get((method, V + path), ROUTES[asked])[0]
        below = next(less for less, more in pairwise(ROLES) if more == role)
        mine = pages.buttons(role, place.page, place.button)
        assert mine, (path, place)
        if place.until:
            assert all(place.until in one["all"] for one in mine), (path, mine)
        else:
            assert not any(one["disabled"] for one in mine), (path, mine)
        theirs = pages.buttons(below, place.page, place.button)
        assert theirs, (path, place)
        assert all(f"needs the role {role}" in one["all"] for one in theirs), (path, theirs)
    pages.close()


# -- what forms do --------------------------------------------------------------------------------


def asked(tab: Page, button: str, **given: str) -> Locator:
    """Press a button, and fill in the form that it opens; labels have `_` for spaces."""
    tab.get_by_role("button", name=button, exact=True).click()
    dialog = tab.get_by_role("dialog").last
    for label, text in given.items():
        dialog.get_by_label(re.compile(f"^{label.replace('_', ' ')}")).fill(text)
    return dialog


def answered(dialog: Locator, label: str) -> None:
    """Press the form's button; it is taken."""
    dialog.get_by_role("button", name=label, exact=True).click()
    expect(dialog).to_have_count(0)


def refused(dialog: Locator, label: str, said: str) -> None:
    """Press the form's button; the form stays and says why it is not taken."""
    dialog.get_by_role("button", name=label, exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text(said)


def audited(site: Site, what: str) -> dict[str, Any]:
    """The newest entry of the audit log about that."""
    found = site.api.get("/audit", params={"limit": 500}).json()["entries"]
    return dict(max((one for one in found if one["what"] == what), key=lambda one: one["number"]))


def test_a_run_is_started_updated_and_rewarded(site: Site, shared: Shared) -> None:
    tab = shared.tab("operator", "/runs")
    dialog = asked(tab, "Start a run", Arguments="{oh", Id="by-hand", Reason="a trial")
    dialog.get_by_role("combobox", name="Workflow").click()
    tab.get_by_role("option", name="asked", exact=True).click()
    refused(dialog, "Start", "Arguments by name, as JSON: this is no JSON")
    dialog.get_by_label("Arguments").fill('{"start": "many"}')
    dialog.get_by_label("Attributes").fill("customer: x")
    dialog.get_by_role("button", name="Start").click()
    expect(tab.locator(".notice.problem")).to_contain_text("'start' of workflow asked does not fit")
    dialog.get_by_label("Arguments").fill('{"start": 40}')
    answered(dialog, "Start")
    expect(tab.get_by_role("heading", name="by-hand")).to_be_visible()
    connected(tab)
    entry = audited(site, "runs start")
    assert (entry["why"], entry["by"], entry["via"]) == ("a trial", "an-operator", "dashboard")
    assert entry["target"] == {"workflow": "asked", "id": "by-hand"}
    dialog = asked(tab, "Update", Value="2")
    refused(dialog, "Send", "the update has no name")
    dialog.get_by_label("Name").fill("add")
    answered(dialog, "Send")
    expect(tab.get_by_text("The run answers: 42")).to_be_visible()
    show(tab, "/runs/picks")
    dialog = asked(tab, "Reward", Worth="7")
    refused(dialog, "Reward", "value: Input should be less than or equal to 1")
    dialog.get_by_label("Worth").fill("0.5")
    answered(dialog, "Reward")
    expect(tab.get_by_text("The choice knows what it was worth.")).to_be_visible()


def test_events_are_emitted_and_replayed_and_their_group_kept(site: Site, shared: Shared) -> None:
    tab = shared.tab("operator", "/topics/orders.ready")
    answered(asked(tab, "Emit an event", Payload='{"number": 77}', Key="order-77"), "Emit")
    expect(tab.get_by_role("cell", name="order-77")).to_be_visible()
    dialog = asked(tab, "Replay", Since="yesterday")
    refused(dialog, "Replay", "since: Input should be a valid datetime")
    dialog.get_by_label("Since").fill("2026-01-01T00:00:00Z")
    answered(dialog, "Replay")
    expect(tab.get_by_text(re.compile("billing handles [0-9]+ events again"))).to_be_visible()
    answered(asked(tab, "Forget a group", Reason="an old one"), "Forget")
    expect(tab.locator(".notice.problem")).to_contain_text("live workers take part in group")
    assert audited(site, "topics replay")["target"]["group"] == "billing"


def test_a_schedule_is_made_changed_backfilled_and_deleted(site: Site, shared: Shared) -> None:
    tab = shared.tab("operator", "/schedules")
    dialog = asked(tab, "New schedule", Name="hourly", Workflow="nightly", Cron="61 * * * *")
    dialog.get_by_role("button", name="Create").click()
    expect(tab.locator(".notice.problem")).to_contain_text("61")
    dialog.get_by_label("Cron:").fill("")
    dialog.get_by_label("Or every").fill("3600")
    answered(dialog, "Create")
    expect(tab.get_by_role("heading", name="hourly")).to_be_visible()
    connected(tab)
    dialog = asked(tab, "Backfill", First_tick="2026-01-01T00:00:00")
    refused(dialog, "Backfill", "start: Input should have timezone info")
    tab.set_viewport_size({"width": 400, "height": 800})
    assert fits(tab)
    tab.set_viewport_size({"width": 1280, "height": 800})
    dialog.get_by_label("First tick").fill("2026-01-01T00:00:00Z")
    dialog.get_by_label("Last tick").fill("2026-01-01T02:00:00Z")
    answered(dialog, "Backfill")
    site.until("/schedules/hourly", lambda one: one["schedule"]["counts"]["started"] >= 1)
    answered(asked(tab, "Change", Or_every="7200"), "Save")
    site.until("/schedules/hourly", lambda one: one["schedule"]["every"] == 7200)
    answered(asked(tab, "Delete", Reason="enough"), "Delete")
    tab.wait_for_url("**/schedules")
    site.until("/schedules", lambda all: "hourly" not in [one["name"] for one in all["schedules"]])
    assert audited(site, "schedules delete")["why"] == "enough"


def test_plans_are_typed_tried_and_steered(site: Site, shared: Shared) -> None:
    tab = shared.tab("operator", "/rollouts")
    dialog = asked(tab, "Start a rollout")
    refused(dialog, "Start", "name is empty")
    text = "name: typed\nbaseline: legacy\ncandidate: new\nstages: [5%, 50%, 100%]\n"
    dialog.get_by_label("Plan").fill("a: &x 1\nb: *x\n")
    refused(dialog, "Start", "the plan has an alias")
    dialog.get_by_label("Plan").fill(text + "alerts: [{command: rm}]\n")
    refused(dialog, "Start", "has no alerts of its own")
    dialog.get_by_label("Plan").fill(text + "defaults: {min_requests: 1000000}\n")
    dialog.get_by_label("Reason").fill("it is time")
    answered(dialog, "Start")
    expect(tab.get_by_role("heading", name="typed")).to_be_visible()
    connected(tab)
    dialog = asked(tab, "Skip to a stage")
    dialog.get_by_role("combobox").click()
    tab.get_by_role("option", name="100%").click()
    answered(dialog, "Skip")
    expect(tab.locator(".rung[aria-current=step]")).to_contain_text("100%")
    show(tab, "/rollouts/watched")
    other = f"split: watched\nguards: [errors]\n{text}"
    answered(asked(tab, "Try another plan", Plan=other), "Try it")
    result = tab.get_by_role("dialog", name=re.compile("tried on what was observed"))
    expect(result).to_contain_text(re.compile(r"Of [0-9]+ observations"))
    result.get_by_role("button", name="Close").click()
    expect(result).to_have_count(0)
    answered(asked(tab, "Begin anew", Reason="it is mended"), "Begin anew")
    expect(tab.get_by_role("region", name="Response differences")).to_have_count(0)
    show(tab, "/rollouts")
    dialog = asked(tab, "Release …")
    dialog.get_by_label("Serve again what it served before").check()
    answered(dialog, "Release")
    expect(tab.get_by_role("button", name="Release …")).to_have_count(0)
    assert audited(site, "rollback release")["target"] == {"names": "forced", "restore": "True"}


def test_targets_come_back_and_splits_stop_learning(site: Site, shared: Shared) -> None:
    tab = shared.tab("admin", "/decommissions/legacy")
    answered(asked(tab, "Undo", Reason="a caller came back"), "Undo")
    expect(tab.locator(".content .toolbar .badge")).to_have_text("undone")
    tab.get_by_role("navigation", name="Main").get_by_role("link", name="Decommissions").click()
    connected(tab)
    dialog = asked(tab, "Take a target out of service …", Reason="nobody calls")
    refused(dialog, "Begin", "target")
    dialog.get_by_label("Target").fill("target: nobody\n")
    refused(dialog, "Begin", "no split has an arm nobody")
    dialog.get_by_role("button", name="Not now").click()
    show(tab, "/experiments")
    dialog = asked(tab, "Stop")
    dialog.get_by_label("Leave the shares as they are").check()
    answered(dialog, "Stop")
    expect(tab.get_by_role("group", name="route").locator(".badge")).not_to_have_text("running")
    assert audited(site, "flows stop")["target"] == {"name": "route", "keep": "True"}
    show(tab, "/experiments/shop")
    dialog = asked(tab, "Reward a unit", Unit="u-1", Metric="cost", Value="a lot")
    refused(dialog, "Reward", "Value: 'a lot' is no number")
    dialog.get_by_label("Value").fill("3.5")
    answered(dialog, "Reward")
    expect(tab.get_by_text("The reward is durable.")).to_be_visible()
