from __future__ import annotations

import math
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import aura.delivery.plan as module
from aura.delivery.approval import ApprovalRule
from aura.delivery.descent import Descent
from aura.delivery.guard import Guard
from aura.delivery.hashed import hashing_for
from aura.delivery.plan import SIZE_LIMIT, Pair, Plan, PlanFlaw, Stage, load_plan, parse_plan
from aura.delivery.split import Hashing
from aura.delivery.windows import Window
from aura.errors import PlanError

SMALLEST = "rollout: {name: r, baseline: old, candidate: new, stages: [100%]}"


def documented() -> str:
    """The plan in the module's own docstring."""
    text = module.__doc__ or ""
    return textwrap.dedent(text[text.index("    rollout:") : text.index("Rates are written")])


def test_the_documented_plan() -> None:
    plan = parse_plan(documented())
    assert (plan.name, plan.split) == ("replace-legacy", "research")
    assert (plan.baseline, plan.candidate) == ("legacy", "research@2.0.0")
    assert (plan.alpha, plan.sla) == (0.01, 0.8)
    assert (plan.on_trip, plan.on_not_enough) == ("rollback", "hold")
    sixth = pytest.approx(0.01 / 3 / 2)  # three guards, two splits
    errors, latency, differences = plan.guards
    assert (errors.kind, errors.segments) == ("errors", 4)
    assert [guard.alpha for guard in plan.guards] == [sixth, sixth, sixth]
    assert (errors.max_error_rate, errors.min_sample, errors.window) == (0.1, 20, 60.0)
    assert errors.allowed_rate == 0.1
    assert (latency.kind, latency.sla, latency.max_p95, latency.min_sample) == (
        "latency",
        0.8,
        1.2,
        50,
    )
    assert (differences.kind, differences.allowed_rate, differences.segments) == (
        "differences",
        0.02,
        1,
    )
    assert plan.stage_names() == ("shadow", "10%", "25%", "half", "100%")
    shadow, tenth, quarter, half, full = plan.stages
    assert shadow == Stage(name="shadow", weight=0.0, min_requests=40, min_time=2.0, max_time=300.0)
    assert shadow.shadow
    assert not tenth.shadow
    assert tenth == replace(quarter, name="10%", weight=0.1)
    assert (half.weight, half.min_requests, half.min_units) == (0.5, 100, 10)
    assert (full.weight, full.max_time) == (1.0, 600.0)
    assert full.approval == ApprovalRule(1, ("ann", "bob"), 172_800.0, "rollback")
    assert plan.windows == (Window((0, 1, 2, 3), 540, 960, "Europe/Berlin"),)
    assert plan.windows_of(full) == plan.windows
    assert plan.together == (Pair("billing", "billing@1.4.0", "billing@2.0.0"),)
    assert [pair.split for pair in plan.pairs] == ["research", "billing"]
    assert plan.gradual == Descent(steps=(0.75, 0.5, 0.25, 0.1))


def test_the_smallest_plan_has_sensible_defaults() -> None:
    plan = parse_plan(SMALLEST)
    assert plan.split == "r"
    assert [guard.kind for guard in plan.guards] == ["errors"]
    assert plan.guards[0].max_error_rate == 0.1
    assert plan.stages == (Stage(name="100%", weight=1.0),)
    with_sla = parse_plan(SMALLEST.replace("name: r", "name: r, sla: 1s"))
    assert [guard.kind for guard in with_sla.guards] == ["errors", "latency"]


def test_the_ways_to_write_a_stage_are_equal() -> None:
    text = SMALLEST.replace("[100%]", "[{}]")
    ways = ["25%", "25%: ", "25%: {}", "{weight: 25%}", "{weight: 25 %}"]
    plans = [parse_plan(text.replace("{}", way, 1)) for way in ways]
    assert plans == [plans[0]] * len(ways)
    assert plans[0].stages[0].weight == 0.25


def test_anchors_and_merge_keys_work() -> None:
    plan = parse_plan(
        """
        rollout:
          name: r
          baseline: old
          candidate: new
          stages:
            - 10%: &few {min_requests: 7, min_time: 1m}
            - 20%: *few
            - {weight: 30%, <<: *few, min_requests: 8}
            - {<<: [*few], weight: 40%}
        """
    )
    assert [stage.min_requests for stage in plan.stages] == [7, 7, 8, 7]
    assert [stage.min_time for stage in plan.stages] == [60.0] * 4


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("1.5s", 1.5), ("2 m", 120.0), ("48h", 172_800.0), ("2d", 172_800.0)],
)
def test_durations(text: str, seconds: float) -> None:
    plan = parse_plan(SMALLEST.replace("name: r", f"name: r, sla: {text}"))
    assert plan.sla == seconds


def test_assignment_counts_per_unit_unless_told_otherwise() -> None:
    text = SMALLEST.replace("stages", "guards: [assignment], stages")
    assert parse_plan(text).guards[0].per == "unit"
    text = text.replace("[assignment]", "[{assignment: {per: request}}]")
    assert parse_plan(text).guards[0].per == "request"


def changed(old: str, new: str) -> str:
    """The documented plan with a change."""
    assert old in documented()
    return documented().replace(old, new)


BAD: list[tuple[str, int, str, str]] = [
    # text, line, what, hint
    ("", 1, "empty", "begin with"),
    ("# nothing", 1, "empty", "begin with"),
    ("7", 1, "the plan is '7'", "key: value"),
    ("- a", 1, "the plan is a list", "key: value"),
    ("rollout:", 1, "rollout has no name", "add"),
    ("rollout: 7", 1, "rollout is '7'", "key: value"),
    ("rolout: {}", 1, "no setting 'rolout'", "did you mean 'rollout'?"),
    ("{}", 1, "there is no rollout", "begin with"),
    ("a: b: c", 1, "not valid YAML", "indentation"),
    ("rollout: {", 1, "not valid YAML", "indentation"),
    ("rollout:\n  name: x\n\ttab: y", 3, "not valid YAML", "indentation"),
    ("rollout:\n  name: \x07", 2, "not valid YAML", "control character"),
    ("a: 1\n---\nb: 2", 2, "not valid YAML", ""),
    ("rollout: *nobody", 1, "not valid YAML", ""),
    ("[" * 5_000, 1, "nested too deeply", ""),
    ("rollout: " + "[" * 30 + "]" * 30, 1, "nested too deeply", "no plan needs that"),
    ("rollout: !!python/object:os.system {}", 1, "tag", "plain values"),
    ("rollout:\n  name: !mine r", 2, "tag '!mine'", "plain values"),
    ("rollout: &a [*a]", 1, "rollout is a list", ""),
    ("rollout: {? [a] : b}", 1, "no setting 'a list'", "it has"),
    (changed("sla: 800ms", "slo: 800ms"), 7, "no setting 'slo'", "did you mean 'sla'?"),
    (changed("sla: 800ms", "sla: 800"), 7, "sla is '800'", "with its unit"),
    (changed("sla: 800ms", "sla: 0s"), 7, "sla is 0", "positive"),
    (changed("sla: 800ms", "sla: [1s]"), 7, "sla is a list", "with its unit"),
    (changed("sla: 800ms", "sla:"), 7, "sla is empty", "with its unit"),
    (changed("sla: 800ms", "name: b"), 7, "'name' stands twice", "remove one"),
    (changed("sla: 800ms", ""), 10, "latency guard has no SLA", "set sla"),
    (changed("sla: 800ms", "sla: " + "9" * 400 + "s"), 7, "sla is '9999", "shorter"),
    (changed("alpha: 0.01 ", "alpha: 1% "), 6, "alpha is '1%'", "0.01"),
    (changed("alpha: 0.01 ", "alpha: 0 "), 6, "alpha is 0", "0.01 is usual"),
    (changed("alpha: 0.01 ", "alpha: 0.9 "), 6, "alpha is 0.9", "0.01 is usual"),
    (changed("alpha: 0.01 ", "alpha: .nan "), 6, "alpha is '.nan'", "0.01"),
    (changed("baseline: legacy", "baseline: 7"), 4, "baseline is '7'", "in quotes"),
    (changed("baseline: legacy", "baseline:"), 4, "baseline is empty", "write a name"),
    (changed("baseline: legacy", "baseline: ''"), 4, "baseline is ''", "write a name"),
    (changed("baseline: legacy", ""), 2, "rollout has no baseline", "add `baseline"),
    (changed("candidate: research@2.0.0", "candidate: legacy"), 5, "both 'legacy'", "take over"),
    (changed("- errors:", "- eror:"), 9, "no guard 'eror'", "did you mean 'errors'?"),
    (changed("- errors:", "- 7:"), 9, "no guard '7'", "it has"),
    (changed("- errors: {", "- errors: {x: 1, "), 9, "errors has no setting 'x'", "it has"),
    (changed("- errors: {max_error_rate: 10%", "- [{x: 1"), 10, "not valid YAML", ""),
    (changed("- differences: {allowed: 2%}", "- errors"), 11, "two guards", "join"),
    (changed("- differences: {allowed: 2%}", "- [errors]"), 11, "a guard is a list", "write"),
    (changed("- differences: {allowed: 2%}", "- {}"), 11, "a guard is a mapping", "write"),
    (changed("allowed: 2%", "allowed: 0.02"), 11, "allowed is '0.02'", "5%"),
    (changed("allowed: 2%", "allowed: 0%"), 11, "allowed of the differences", "between 0 and 1"),
    (changed("allowed: 2%", "max_p95: 1s"), 11, "no setting 'max_p95'", "it has allowed"),
    (changed("min_sample: 50", "min_sample: 0"), 10, "min_sample is below 1", "whole numbers"),
    (changed("min_sample: 50", "min_sample: 5.5"), 10, "min_sample is '5.5'", "whole number"),
    (changed("min_sample: 50", "min_sample: true"), 10, "min_sample is 'true'", "whole number"),
    (changed("min_sample: 50", "per: units"), 10, "per is 'units'", "did you mean 'unit'?"),
    (changed("max_error_rate: 10%", "max_error_rate: 100%"), 9, "max_error_rate is 1", "below 1"),
    (changed("window: 60s", "window: 0s"), 9, "window of the errors guard", "positive"),
    (changed("- 25%\n", "- 25\n"), 15, "weight is '25'", "percentage such as 5%"),
    (changed("- 25%\n", "- 25: {}\n"), 15, "weight is '25'", "percentage such as 5%"),
    (changed("- 25%\n", "- -5%\n"), 15, "weight is '-5%'", "percentage"),
    (changed("- 25%\n", "- 101%\n"), 15, "weight is 101%", "between 0% and 100%"),
    (changed("- 25%\n", "- 0%\n"), 15, "weight 0%", "use `shadow`"),
    (changed("- 25%\n", "- 25.123%\n"), 15, "weight is 25.123%", "0.01%"),
    (changed("- 25%\n", "- 10%\n"), 15, "named '10%'", "rename"),
    (changed("- 25%\n", "- 5%\n"), 15, "stage 5% does not rise above stage 10%", "more weight"),
    (changed("- 25%\n", "- shadow: {name: s}\n"), 15, "does not rise", "shadow comes first"),
    (changed("- 25%\n", "- {name: x}\n"), 15, "a stage has no weight", "write `- shadow`"),
    (changed("- 25%\n", "- {weigth: 25%, name: x}\n"), 15, "'weigth'", "mean 'weight'?"),
    (changed("- 25%\n", "- [25%]\n"), 15, "a stage is a list", "write `- shadow`"),
    (changed("- 25%\n", "- {}\n"), 15, "a stage is a mapping", "write `- shadow`"),
    (changed("- 25%\n", "- 25%: 30\n"), 15, "stage 25% is '30'", "key: value"),
    (changed("- 25%\n", "- 25%: {sample: 5%}\n"), 15, "only the shadow stage", "remove"),
    (changed("- 25%\n", "- 25%: {name: [a]}\n"), 15, "name is a list", "write a name"),
    (changed("- 25%\n", "- 25%: {<<: [a]}\n"), 15, "<< merges something", "anchored"),
    (changed("- 25%\n", "- 25%: {name: half}\n"), 16, "two stages are named 'half'", "rename"),
    (changed("min_time: 2s}\n", "min_time: 1h}\n"), 14, "shorter than its min_time", "raise"),
    (changed("min_requests: 40", "min_requests: -4"), 13, "min_requests is '-4'", "whole"),
    (changed("min_requests: 40", "min_request: 4"), 13, "'min_request'", "mean 'min_requests'?"),
    (changed("sample: 100%", "sample: 0%"), 13, "sample is 0%", "at least"),
    (changed("defaults: {", "defaults: {name: x, "), 18, "no setting 'name'", "it has max_time"),
    (changed("on_trip: rollback", "on_trip: rolback"), 21, "'rolback'", "mean 'rollback'?"),
    (changed("on_trip: rollback", "on_trip: {}"), 21, "on_trip is a mapping", "use rollback or"),
    (changed("days: mon-thu", "days: mon-thr"), 19, "no day 'thr'", "mean 'thu'?"),
    (changed("09:00-16:00", "9-16"), 19, "hours is '9-16'", "as 09:00-17:00"),
    (changed("09:00-16:00", "09:00-25:00"), 19, "hours are none of a day", "09:00-17:00"),
    (changed("09:00-16:00", "09:00-09:00"), 19, "ends when it begins", "00:00-24:00"),
    (changed("Europe/Berlin", "Europe/Berlln"), 19, "no time zone 'Europe/Berlln'", "such as"),
    (changed("Europe/Berlin", "../etc"), 19, "no time zone '../etc'", "such as"),
    (changed("timezone:", "zone:"), 19, "no setting 'zone'", "mean 'timezone'?"),
    (changed("split: billing,", "split: research,"), 20, "'research' is moved twice", "remove"),
    (changed("split: billing,", ""), 20, "has no split", "add"),
    (changed("billing@2.0.0", "billing@1.4.0"), 20, "both 'billing@1.4.0'", "take over"),
    (changed("[75%, 50%,", "[50%, 75%,"), 22, "do not fall from 50.00% to 75.00%", "falling"),
    (changed("[75%,", "[100%,"), 22, "do not fall from 100.00% to 100.00%", "below 100%"),
    (changed("25%, 10%]", "25%, 0%]"), 22, "do not fall from 0.00% to 0.00%", "by itself"),
    (changed("[75%, 50%, 25%, 10%]", "[]"), 22, "has no steps", "on_trip: rollback"),
    (changed("min_time: 1m, max_time: 10m}", "min_time: 1h}"), 22, "shorter than its", "raise"),
    (changed("needed: 1", "needed: 0"), 17, "needed is '0'", "whole number"),
    (changed("needed: 1", "needed: 3"), 17, "3 approvals are needed from 2 people", "more people"),
    (changed("on_refusal: rollback", "on_refusal: cry"), 17, "on_refusal is 'cry'", "hold"),
    (SMALLEST.replace("[100%]", "[]"), 1, "no stages", "at least one"),
    (SMALLEST.replace("[100%]", ""), 1, "no stages", "at least one"),
    (SMALLEST.replace("[100%]", "100%"), 1, "stages is '100%'", "write a list"),
    (SMALLEST.replace("stages", "guards: [], stages"), 1, "no guards", "at least one"),
    (
        SMALLEST.replace("stages", "guards: [differences], stages"),
        1,
        "a differences guard without a shadow stage",
        "put `- shadow`",
    ),
]


@pytest.mark.parametrize(("text", "line", "what", "hint"), BAD, ids=range(len(BAD)))
def test_bad_plans(text: str, line: int, what: str, hint: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_plan(text, "aura.yaml")
    assert str(caught.value).startswith(f"aura.yaml:{line}: ")
    assert what in caught.value.message
    assert hint.casefold() in caught.value.hint.casefold()
    assert caught.value.hint
    assert not caught.value.hint[0].islower()


@given(st.text(max_size=200))
def test_any_text_is_a_plan_or_a_plan_error(text: str) -> None:
    with pytest.raises(PlanError, match="plan:"):
        parse_plan(text)


@given(
    st.sampled_from(documented().splitlines()),
    st.sampled_from(["", "x", "[", "{a: b}", "- ", "~", ": ", "%", "!!x ", "&a ", "*a"]),
    st.integers(0, 60),
)
def test_a_damaged_plan_is_a_plan_or_a_plan_error(line: str, damage: str, at: int) -> None:
    damaged = documented().replace(line, line[:at] + damage + line[at + 1 :])
    problem = "plan:"
    try:
        parse_plan(damaged)
    except PlanError as error:
        problem = error.message
    assert problem.startswith("plan:")


def test_load_plan(tmp_path: Path) -> None:
    file = tmp_path / "aura.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + documented().encode())
    assert load_plan(file) == parse_plan(documented()) == load_plan(str(file))


def test_files_that_are_no_plans(tmp_path: Path) -> None:
    file = tmp_path / "aura.yaml"
    with pytest.raises(PlanError, match=r"aura\.yaml: the plan cannot be read: No such file"):
        load_plan(file)
    with pytest.raises(PlanError, match="cannot be read: Is a directory"):
        load_plan(tmp_path)
    file.write_bytes(b"rollout:\n  name: caf\xe9\n")
    with pytest.raises(PlanError, match=r"aura\.yaml:2: the plan is not UTF-8"):
        load_plan(file)
    file.write_bytes(b"#" * (SIZE_LIMIT + 1))
    with pytest.raises(PlanError, match="larger than 256 KiB"):
        load_plan(file)
    with pytest.raises(PlanError, match="larger than 256 KiB"):
        parse_plan("#" * (SIZE_LIMIT + 1))


def test_aliases_do_not_explode() -> None:
    lines = ["rollout:", "  a: &a0 [x]"]
    lines += [f"  k{n}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]" for n in range(15)]
    with pytest.raises(PlanError, match="no setting 'a'"):
        parse_plan("\n".join(lines))


def test_plans_built_in_code_are_checked_too() -> None:
    def plan(**settings: Any) -> Plan:
        fields: dict[str, Any] = {
            "name": "r",
            "split": "r",
            "baseline": "old",
            "candidate": "new",
            "guards": (Guard(kind="errors"),),
            "stages": (Stage(name="all", weight=1.0),),
        }
        return Plan(**(fields | settings))

    assert plan().on_trip == "rollback"
    with pytest.raises(PlanFlaw) as caught:
        plan(stages=(Stage(name="a", weight=0.5), Stage(name="b", weight=1.5)))
    assert caught.value.where == ("stages", 1)
    for weight in (math.nan, -0.5):
        with pytest.raises(PlanFlaw, match="Weights lie between 0 and 1"):
            plan(stages=(Stage(name="a", weight=weight),))
    with pytest.raises(PlanFlaw, match="no stages"):
        plan(stages=())


def with_hash(text: str, stages: str = "[10%, 100%]") -> Plan:
    return parse_plan(SMALLEST.replace("stages: [100%]", f"hash: {text}, stages: {stages}"))


def test_the_hash_of_another_system() -> None:
    assert parse_plan(SMALLEST).hashing is None
    assert hashing_for("r", None) == Hashing()
    bare = with_hash("unleash").hashing
    assert hashing_for("r", bare) == Hashing("unleash", "r")
    named = with_hash("{algorithm: flagd, seed: welcome}").hashing
    assert hashing_for("r", named) == Hashing("flagd", "welcome")


@pytest.mark.parametrize(
    ("text", "stages", "says"),
    [
        ("md5", "[100%]", "md5.*growthbook"),
        ("{seed: x}", "[100%]", "no algorithm"),
        ("{algorithm: flagd, salt: x}", "[100%]", "salt"),
        ("[unleash]", "[100%]", "a list"),
        ("unleash", "[0.5%, 100%]", "0.005, between two places of unleash.*1%"),
    ],
)
def test_hashes_that_cannot_be(text: str, stages: str, says: str) -> None:
    with pytest.raises(PlanError, match=rf"plan:1.*{says}"):
        with_hash(text, stages)


def test_steps_down_that_a_hash_cannot_tell() -> None:
    text = "unleash, on_trip: gradual, gradual: {steps: [50%, 12.5%]}"
    with pytest.raises(PlanError, match=r"0\.125, between two places"):
        with_hash(text)
