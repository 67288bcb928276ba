"""Experiment files: what can be written, and what each mistake is answered with."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from aura.delivery.experiment import Metric, load_experiment, parse_experiment
from aura.delivery.plan import PlanFlaw, parse_plan
from aura.errors import PlanError

ROOT = Path(__file__).resolve().parents[2]

FULL = """
gateway: {}
experiment:
  name: copy
  split: shop
  arms: {old: 50%, new: 30%, newer: 20%}
  primary: {metric: revenue, from: reward, horizon: 7d, better: higher, effect: 5%}
  secondary:
    - latency
    - {metric: cost, horizon: 0s, effect: 0.02}
    - {metric: basket, from: observation, better: higher, aggregate: sum, missing: zero}
  guards:
    - errors: {max_error_rate: 10%}
    - latency: {max_p95: 2s}
  sla: 1s
  alpha: 0.1
  guard_alpha: 0.02
  min_time: 1d
  max_time: 20d
  min_units: 500
  on_win: hold
  on_not_enough: hold
  share: 40%
  layer: {name: checkout, from: 20%}
  holdout: 5%
  unit: {name: customer, missing: include}
  planned: 5000
  pre_period: 7d
"""

SMALL = """
experiment:
  name: copy
  arms: {old: 50%, new: 50%}
  primary: latency
"""


def test_everything_that_can_be_written() -> None:
    one = parse_experiment(FULL)
    assert one.arms == (("old", 0.5), ("new", 0.3), ("newer", 0.2))
    assert (one.baseline, one.candidates) == ("old", ("new", "newer"))
    assert one.primary == Metric(
        name="revenue", source="reward", better="higher", aggregate="sum",
        horizon=7 * 86400.0, missing="zero", effect=0.05, relative=True,
    )  # fmt: skip
    latency, cost, basket = one.secondary
    assert (latency.better, latency.source, latency.aggregate) == ("lower", "latency", "mean")
    assert (cost.effect, cost.relative, cost.horizon, cost.better) == (0.02, False, 0.0, "lower")
    assert (basket.aggregate, basket.missing, basket.source) == ("sum", "zero", "observation")
    assert [guard.kind for guard in one.guards] == ["errors", "latency"]
    assert {guard.alpha for guard in one.guards} == {0.02 / 2 / 2}  # two guards, two candidates
    assert (one.layer, one.begin, one.share, one.holdout) == ("checkout", 0.2, 0.4, 0.05)
    assert (one.unit, one.keyless, one.planned, one.pre_period) == (
        "customer", "include", 5000, 7 * 86400.0,
    )  # fmt: skip
    assert (one.on_win, one.on_not_enough, one.min_units) == ("hold", "hold", 500)


def test_the_least_that_can_be_written() -> None:
    one = parse_experiment(SMALL)
    assert (one.split, one.on_win, one.layer, one.holdout, one.keyless) == (
        "copy", "promote", "", None, "exclude",
    )  # fmt: skip
    assert [guard.kind for guard in one.guards] == ["errors"]


def test_a_rollout_may_stand_in_the_same_file() -> None:
    text = """
experiment:
  name: copy
  split: shop
  arms: {old: 50%, new: 50%}
  primary: latency
  on_win: rollout
rollout:
  name: go
  split: shop
  baseline: old
  candidate: new
  stages: [50%, 100%]
"""
    assert parse_experiment(text).then == parse_plan(text)
    with pytest.raises(PlanError, match=r":7: its rollout is from old on split go.*split: shop"):
        parse_experiment(text.replace("  name: go\n  split: shop\n", "  name: go\n"))
    with pytest.raises(PlanError, match=r"there is no rollout"):
        parse_experiment(text.partition("rollout:\n  name")[0])


WRONG = {
    "arms: {old: 50%, new: 40%}": r":4: the weights of the arms add up to 90 %.*100 %",
    "arms: {old: 50%, new: 60%}": r"add up to 110 %",
    "arms: {old: 100%}": r"two arms or more",
    "arms: {old: 100%, new: 0%}": r"arm new has the weight 0",
    "arms: {old: half, new: 50%}": r"old is 'half'.*percentage",
    "arms: [old, new]": r"a list",
    "primary: speed": r":5: there is no metric 'speed'.*outcome, latency, cost, tokens",
    "primary: {metric: speed}": r"the metric speed has no from",
    "primary: {metric: speed, from: reward}": r"the metric speed has no better",
    "primary: {metric: speed, from: moon, better: higher}": r"from is 'moon'",
    "primary: {metric: speed, from: reward, better: higher}": r"no horizon.*7d",
    "primary: {metric: speed, from: reward, better: higher, horizon: 0s}": r"no horizon",
    "primary: {metric: s, from: reward, better: up, horizon: 1d}": r"better is 'up'",
    "primary: {metric: latency, from: reward}": r"where latency comes from is known",
    "primary: {metric: latency, horizon: 20d}": r"horizon of latency .* longer than max_time",
    "primary: {metric: latency, effect: much}": r"effect is 'much'",
    "primary: {metric: latency, efect: 5%}": r"no setting 'efect'.*effect",
    "primary: {metric: latency, effect: .nan}": r"effect is '.nan'",
    "secondary: [latency]": r":6: the metric latency stands twice",
    "guards: [differences]": r"the guard differences compares shadows",
    "guards: [assignment]": r"the guard assignment is always checked",
    "guards: [errors, errors]": r"two guards of kind errors",
    "guards: [latency]": r"no SLA",
    "guards: [noise]": r"there is no guard 'noise'",
    "alpha: 0.9": r"alpha is 0.9",
    "guard_alpha: 3": r"guard_alpha is out of range",
    "max_time: 1h": r"max_time .* is shorter than min_time",
    "share: 0%": r"no unit takes part",
    "holdout: 100%": r"hold-out",
    "on_win: celebrate": r"on_win is 'celebrate'",
    "layer: {from: 20%}": r"layer has no name",
    "layer: {name: l, from: 20%}": r"100 % of its layer from 20 % on",
    "min_units: 0": r"1 or more",
    "unit: {name: u, missing: guess}": r"missing is 'guess'",
    "planed: 3": r"Did you mean 'planned'",
}


@pytest.mark.parametrize("line", WRONG)
def test_mistakes_are_told_with_their_line(line: str) -> None:
    name = line.partition(":")[0]
    lines = [each for each in SMALL.strip("\n").split("\n") if not each.startswith(f"  {name}:")]
    if name in ("arms", "primary"):
        lines.insert({"arms": 2, "primary": 3}[name], f"  {line}")
    else:
        lines.append(f"  {line}")
    text = "\n" + "\n".join(lines)
    with pytest.raises(PlanError) as found:
        parse_experiment(text, "copy.yaml")
    assert re.search(WRONG[line], str(found.value)), found.value
    assert re.match(r"copy\.yaml:\d+: ", str(found.value))


@pytest.mark.parametrize(
    "text", ["", "experiment:", "gateway: {}", "experiment: [1]", "\x00", "a: &b [*b]"]
)
def test_files_that_are_none(text: str) -> None:
    with pytest.raises(PlanError):
        parse_experiment(text)


def test_a_file_that_is_not_there(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PlanError, match="cannot be read"):
        load_experiment(tmp_path / "none.yaml")


def test_made_in_code_the_same_is_checked() -> None:
    with pytest.raises(PlanFlaw, match="add up to"):
        replace(parse_experiment(SMALL), arms=(("old", 0.5), ("new", 0.1)))
    with pytest.raises(PlanFlaw, match="weight of arm new is nan"):
        replace(parse_experiment(SMALL), arms=(("old", 0.5), ("new", float("nan"))))
    with pytest.raises(PlanFlaw, match="needs a plan"):
        replace(parse_experiment(SMALL), on_win="rollout")


def test_the_experiment_of_the_guide() -> None:
    text = (ROOT / "docs/how-to/experiments.md").read_text()
    block = text.partition("```yaml\n")[2].partition("```")[0]
    one = parse_experiment(block)
    assert [metric.name for metric in one.metrics] == ["revenue", "latency", "cost", "basket"]
