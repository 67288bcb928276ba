"""A journal's entries as calls, and the calls as a tree of lanes."""

from __future__ import annotations

from aura.server.journal import Call, LaneTree, calls, lane_tree
from aura.store.base import Entry


def entry(
    seq: int,
    key: str,
    kind: str = "step",
    *,
    output: bytes | None = b"1",
    error: bytes | None = None,
    attempt: int = 1,
) -> Entry:
    at = float(seq)
    return Entry("r", seq, key, kind, "f", b"{}", output, error, attempt, at, at + 0.25)


def shape(tree: LaneTree) -> list[object]:
    return [item.key if isinstance(item, Call) else {item.id: shape(item)} for item in tree.items]


def test_attempts_and_their_step_are_one_call() -> None:
    (call,) = calls(
        [
            entry(1, "0/charge#1", "attempt", output=None, error=b'{"type":"E"}'),
            entry(2, "0/charge#1", "attempt", output=None, error=b'{"type":"E"}', attempt=2),
            entry(3, "0/charge#1", attempt=3),
        ]
    )
    assert (call.lane, call.name, call.number, call.kind) == ("0", "charge", 1, "step")
    assert (call.state, call.last.attempt, len(call.entries)) == ("done", 3, 3)
    assert (call.started_at, call.seconds) == (1.0, 2.25)


def test_a_call_between_attempts_is_retrying_and_has_no_duration() -> None:
    (call,) = calls([entry(1, "0/charge#1", "attempt", output=None, error=b"{}")])
    assert (call.kind, call.state, call.seconds) == ("step", "retrying", None)


def test_a_step_that_gave_up_has_failed() -> None:
    (call,) = calls([entry(1, "0/charge#1", output=None, error=b"{}")])
    assert call.state == "failed"


def test_a_child_and_its_end_are_one_call() -> None:
    child = entry(1, "0.2/part#1", "child", output=b'{"id":"r/0.2/part#1"}')
    (runs,) = calls([child])
    assert (runs.kind, runs.name, runs.state, runs.seconds) == ("child", "part", "waiting", None)
    (over,) = calls([child, entry(4, "0.2/part#1/ended", "ended")])
    assert (over.key, over.kind, over.state, over.seconds) == ("0.2/part#1", "child", "done", 3.25)
    (failed,) = calls([child, entry(4, "0.2/part#1/ended", "ended", output=None, error=b"{}")])
    assert failed.state == "failed"


def test_a_sleep_waits_until_it_woke() -> None:
    asleep = entry(1, "0/sleep#1", "sleep", output=b"9.0")
    (waiting,) = calls([asleep])
    assert (waiting.state, waiting.seconds) == ("waiting", None)
    (over,) = calls([asleep, entry(5, "0/sleep#1/woke", "woke", output=None)])
    assert (over.kind, over.state, over.seconds) == ("sleep", "done", 4.25)


def test_a_time_limit_and_that_it_was_over_are_one_call() -> None:
    limit = entry(1, "0/timeout#1", "timeout", output=b"9.0")
    (over,) = calls([limit, entry(5, "0/timeout#1/over", "over", output=None)])
    assert (over.key, over.kind, over.state) == ("0/timeout#1", "timeout", "done")


def test_lanes_stand_where_their_first_call_was_made() -> None:
    found = calls(
        [
            entry(1, "0/a#1"),
            entry(2, "0.2.1/deep#1"),
            entry(3, "0.1/b#1"),
            entry(4, "0.2/c#1"),
            entry(5, "0/d#1"),
            entry(6, "0.1/b#2"),
        ]
    )
    assert shape(lane_tree(found)) == [
        "0/a#1",
        {"0.2": [{"0.2.1": ["0.2.1/deep#1"]}, "0.2/c#1"]},
        {"0.1": ["0.1/b#1", "0.1/b#2"]},
        "0/d#1",
    ]


def test_lane_10_is_not_below_lane_1() -> None:
    found = calls([entry(1, "0.1/a#1"), entry(2, "0.10/b#1")])
    assert shape(lane_tree(found)) == [{"0.1": ["0.1/a#1"]}, {"0.10": ["0.10/b#1"]}]


def test_odd_keys_are_shown_and_not_lost() -> None:
    found = calls([entry(1, "odd"), entry(2, "x.y/name"), entry(3, "0/with#hash#2")])
    assert [(call.lane, call.name, call.number) for call in found] == [
        ("odd", "", 1),
        ("x.y", "name", 1),
        ("0", "with#hash", 2),
    ]
    assert shape(lane_tree(found)) == [{"odd": ["odd"]}, {"x.y": ["x.y/name"]}, "0/with#hash#2"]


def test_an_empty_journal_is_an_empty_tree() -> None:
    assert lane_tree(calls([])) == LaneTree("0", ())
