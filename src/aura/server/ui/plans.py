"""Plans that are typed on a page, as they stand in files: rollouts, experiments, splits that learn,
targets that are taken out of service. Each is checked as by a dry run before it is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aura.delivery.decommission import Decommission
from aura.delivery.experiment import Experiment
from aura.delivery.learning import LearningPlan
from aura.delivery.plan import Plan
from aura.errors import InvalidInput
from aura.server import backtests, decommissions, experiments, flows, rollouts
from aura.server.access import Needs
from aura.server.backtests import BacktestView, Bounds
from aura.server.drivers import NOBODY
from aura.server.rollouts import Begin
from aura.server.ui.forms import Field, Form, ask
from aura.server.ui.paths import path
from aura.server.ui.visit import Order, Visit

NEEDS = Needs("operator")
ADMIN = Needs("admin")
PLAN = Field("plan", "Plan, as in a file", "plan")

ROLLOUT = """name:
baseline:
candidate:
guards: [errors]
stages: [5%, 25%, 100%]
defaults: {min_requests: 200, min_time: 10m}
"""
EXPERIMENT = """experiment:
  name:
  split:
  arms: {old: 50%, new: 50%}
  primary: outcome
"""
LEARNING = """name:
split:
arms: []
every: 30s
"""
"""What stands in a form at first: what has to be said is left open, so that nothing begins that
nobody has meant."""


def section(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The plan in a document: what is below `name:`, as in a file, or all of it."""
    inner = document.get(name)
    return dict(inner) if isinstance(inner, dict) and len(document) == 1 else dict(document)


def _typed(given: Mapping[str, Any]) -> dict[str, Any]:
    found = given.get("plan")
    if not isinstance(found, dict):
        raise InvalidInput("the plan is empty", hint="Write it as in a file")
    return found


async def start_rollout(visit: Visit) -> None:
    """Ask for a plan, and begin it."""
    form = Form(
        "Start a rollout",
        "Workers drive it until the plan has ended. A plan that runs commands as alerts is started "
        "from a file: aura rollout start FILE.",
        "Start",
        (
            Field("plan", "Plan, as in a file", "plan", ROLLOUT),
            Field("again", "Again, although it has completed before", "yes"),
            Field("replace", "Although its baseline is not what serves now", "yes"),
            Field("incompatible", "Why, although its versions do not fit"),
        ),
    )

    async def check(given: dict[str, Any]) -> Begin:
        plan = await rollouts.read_plan(section(_typed(given), "rollout"))
        incompatible = str(given.get("incompatible", ""))
        begin = Begin(plan, "again" in given, "replace" in given, incompatible, visit.gateway)
        await rollouts.check_rollout(visit.app, begin)
        return begin

    answer = await ask(visit, form, check)
    if answer is None:
        return
    begin, name = answer.found, answer.found.plan.name
    flags = {one: str(value) for one, value in answer.given.items() if one != "plan"}
    made = await visit.act(
        Order("rollout start", NEEDS, {"name": name} | flags), answer.why,
        lambda: rollouts.start_rollout(visit.app, begin, by=visit.caller.name),
    )  # fmt: skip
    if made is not None:
        visit.go(path("rollouts", name))


async def start_experiment(visit: Visit) -> None:
    """Ask for an experiment, and begin it."""
    form = Form(
        "Start an experiment",
        "Workers watch it until it has ended. How long it takes: aura experiment plan FILE.",
        "Start",
        (Field("plan", "Experiment, as in a file", "plan", EXPERIMENT),),
    )

    async def check(given: dict[str, Any]) -> Experiment:
        document = _typed(given)
        inner = document.get("experiment")
        if isinstance(inner, dict) and set(document) <= {"experiment", "rollout"}:
            wanted = await experiments.read_experiment(inner, document.get("rollout"))
        else:
            wanted = await experiments.read_experiment(document, None)
        await experiments.forecast_of(visit.app, wanted)
        return wanted

    answer = await ask(visit, form, check)
    if answer is None:
        return
    wanted = answer.found
    made = await visit.act(
        Order("experiment start", NEEDS, {"name": wanted.name}), answer.why,
        lambda: experiments.start_experiment(visit.app, wanted, by=visit.caller.name),
    )  # fmt: skip
    if made is not None:
        visit.go(path("experiments", wanted.name))


async def start_learning(visit: Visit) -> None:
    """Ask for a split that is to learn, and let it."""
    form = Form(
        "Let a split learn",
        "More and more of its traffic goes to the arm that earns more.",
        "Start",
        (Field("plan", "Plan, as in a file", "plan", LEARNING),),
    )

    async def check(given: dict[str, Any]) -> LearningPlan:
        plan = await flows.read_learning(section(_typed(given), "learning"))
        await flows.start_learning(visit.app, plan, dry_run=True)
        return plan

    answer = await ask(visit, form, check)
    if answer is not None:
        plan = answer.found
        await visit.act(
            Order("flows start", NEEDS, {"name": plan.name}), answer.why,
            lambda: flows.start_learning(visit.app, plan), f"{plan.name} learns.",
        )  # fmt: skip


async def start_decommission(visit: Visit) -> None:
    """Ask which target is taken out of service, and begin."""
    form = Form(
        "Take a target out of service?",
        "It waits for its gates, then each endpoint is disabled with a grace time, then the target "
        "is archived; until then all of it can be undone.",
        "Begin",
        (Field("plan", "Target, as in a file", "plan", "target:\ngrace: 24h\n"),),
        danger=True,
        why_needed=True,
    )

    async def check(given: dict[str, Any]) -> Decommission:
        found = section(_typed(given), "decommission")
        plan = await decommissions.read_decommission(found, visit.gateway)
        await decommissions.start_decommission(visit.app, plan, by=visit.caller.name, dry_run=True)
        return plan

    answer = await ask(visit, form, check)
    if answer is None:
        return
    plan = answer.found
    made = await visit.act(
        Order("decommission start", ADMIN, {"target": plan.target}), answer.why,
        lambda: decommissions.start_decommission(visit.app, plan, by=visit.caller.name),
    )  # fmt: skip
    if made is not None:
        visit.go(path("decommissions", plan.target))
        if not made.driven:
            visit.say(f"No live worker is there to carry it out. {NOBODY}", "problem")


async def backtest(visit: Visit, on: str) -> BacktestView | None:
    """Ask for another plan, and replay what was observed of that rollout with it."""
    form = Form(
        f"What would another plan have done with {on}?",
        "What was observed is replayed with it. Nothing is changed; it may take a minute.",
        "Try it",
        (Field("plan", "Plan, as in a file", "plan", ROLLOUT),),
    )

    async def check(given: dict[str, Any]) -> Plan:
        return await rollouts.read_plan(section(_typed(given), "rollout"))

    answer = await ask(visit, form, check)
    if answer is None:
        return None
    plan = answer.found
    return await visit.act(
        Order("rollout backtest", NEEDS, {"name": plan.name, "on": on}), answer.why,
        lambda: backtests.backtest_rollout(visit.app, plan, on, "", Bounds()),
    )  # fmt: skip
