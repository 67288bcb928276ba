"""What is counted after the crash: three witnesses, and which worker is chosen."""

from __future__ import annotations

import pytest

from aura.cli.demo.crash import (
    Effect,
    Execution,
    HeldRun,
    Kill,
    busiest,
    crash_figures,
    duplicated_effects,
    results_of,
    steps_repeated,
)
from aura.delivery.rollout import WORKFLOW as ROLLOUT
from aura.store.base import Entry
from tests.cli.demo.kit import BEGAN, entry, record

JOURNAL = {"r": [entry("r", 1, "search", 1.0), entry("r", 2, "bill", 2.0)]}
RESULTS = results_of(JOURNAL)


def ran(at: float, name: str, run: str = "r") -> Execution:
    return Execution(BEGAN + at, run, f"0/{name}#1")


def billed(at: float, key: str = "r:0/bill#1") -> Effect:
    return Effect(key, BEGAN + at)


@pytest.mark.parametrize(
    ("executions", "repeated"),
    [
        ([ran(0.5, "search"), ran(1.5, "bill")], 0),
        ([ran(0.1, "search"), ran(0.5, "search")], 0),  # the first was killed unacknowledged
        ([ran(0.5, "search"), ran(1.1, "search")], 1),
        ([ran(0.5, "never journalled")], 0),
        ([ran(9.0, "search", "another run")], 0),
    ],
)
def test_a_step_is_repeated_when_it_began_after_its_result_was_journalled(
    executions: list[Execution], repeated: int
) -> None:
    assert steps_repeated(JOURNAL, RESULTS, executions) == repeated


def test_a_result_that_is_journalled_twice_is_a_repeat() -> None:
    twice = {"r": [entry("r", 1, "search", 1.0), entry("r", 2, "search", 3.0)]}
    assert steps_repeated(twice, results_of(twice), []) == 1


def test_a_failed_attempt_is_not_a_result() -> None:
    tried = {"r": [entry("r", 1, "search", 1.0, "attempt"), entry("r", 2, "search", 3.0)]}
    assert steps_repeated(tried, results_of(tried), [ran(0.5, "search"), ran(2.0, "search")]) == 0


@pytest.mark.parametrize(
    ("effects", "duplicated"),
    [
        ([billed(1.5)], 0),
        ([billed(1.2), billed(1.5)], 0),  # one key, not acknowledged between
        ([billed(1.5), billed(2.5)], 1),
        ([billed(1.5), billed(1.6, "r:0/bill#2")], 1),
        ([billed(1.5), billed(1.6, "s:0/bill#1")], 0),
    ],
)
def test_an_effect_is_duplicated_after_its_acknowledgement_or_under_a_second_key(
    effects: list[Effect], duplicated: int
) -> None:
    assert duplicated_effects(RESULTS, effects) == duplicated


def held(*entries: Entry) -> Kill:
    return Kill(BEGAN, "worker", 7, (HeldRun("r", "research", 1, BEGAN, entries),))


def test_a_run_is_resumed_when_it_ended_under_a_later_epoch() -> None:
    kill = held(JOURNAL["r"][0])
    found = crash_figures(kill, 1.9, {"r": record("r", epoch=2)}, JOURNAL, [], [billed(1.5)])
    assert (found.killed_runs, found.resumed, found.takeover_ms) == (1, 1, 1900.0)
    assert (found.fates[0].before, found.fates[0].after) == (("search",), ("bill",))
    assert found.fates[0].finished == 2.0


def test_a_run_that_ended_under_the_same_epoch_is_not_resumed() -> None:
    found = crash_figures(held(), None, {"r": record("r")}, JOURNAL, [], [billed(1.5)])
    assert (found.killed_runs, found.resumed) == (1, 0)


def test_a_journal_that_changed_its_past_counts_as_a_repeat() -> None:
    kill = held(entry("r", 1, "search", 0.7))
    found = crash_figures(kill, 1.0, {"r": record("r", epoch=2)}, JOURNAL, [], [billed(1.5)])
    assert not found.fates[0].kept
    assert found.steps_repeated == 1


def test_a_completed_run_without_its_effect_is_missing_it() -> None:
    runs = {"r": record("r"), "s": record("s"), "t": record("t", state="failed")}
    rollout = record("rollout", workflow=ROLLOUT)
    journals = {**JOURNAL, "s": [], "t": [], "rollout": []}
    found = crash_figures(None, None, {**runs, "rollout": rollout}, journals, [], [billed(1.5)])
    assert (found.missing_effects, found.effects, found.effect_attempts) == (1, 1, 1)


def test_the_busiest_worker_has_the_rollout_if_it_can() -> None:
    running = [
        record("1", owner="a", state="running"),
        record("2", owner="b", state="running"),
        record("3", owner="b", state="running"),
        record("4", owner="a", state="running", workflow=ROLLOUT),
        record("5", owner="gone", state="running"),
        record("6", owner=None, state="running"),
    ]
    pids = {"a": 1, "b": 2}
    assert busiest(running, pids, 1) == ("a", 1)
    assert busiest(running, pids, 2) == ("b", 2)
    assert busiest(running, pids, 3) is None


def test_a_worker_with_nothing_but_the_rollout_is_not_busy() -> None:
    assert busiest([record("1", owner="a", workflow=ROLLOUT)], {"a": 1}, 1) is None
