"""Changes of many at once, and times by which runs are found."""

from __future__ import annotations

import json

from tests.cli.conftest import Aura


def test_many_runs_that_a_search_finds_are_changed(aura: Aura) -> None:
    for at in range(2):
        assert aura("run", "research:app", "broken", '"x"', "--id", f"bad-{at}").code != 0
    assert aura("run", "research:app", "research", '"x"', "--id", "good").code == 0
    bulk = ("runs", "bulk", "retry", "--workflow", "broken", "--since", "1h")
    tried = aura(*bulk, "--dry-run", "--json")
    assert {(one["run"], one["outcome"]) for one in json.loads(tried.out)["outcomes"]} == {
        ("bad-0", "would be done"),
        ("bad-1", "would be done"),
    }
    assert json.loads(aura(*bulk, "--until", "1h", "--json").out)["outcomes"] == []
    done = aura("runs", "bulk", "retry", "bad-0", "good", "nope", "--reason", "it is mended")
    lines = {line.split()[0]: line for line in done.out.splitlines()}
    assert "goes on as bad-0" in lines["bad-0"]
    assert "it is completed" in lines["good"]
    assert "run-not-found" in lines["nope"]
    assert "1 done, 1 not-needed, 1 run-not-found" in done.err
    told = json.loads(aura("audit", "list", "--what", "bulk", "--json").out)["entries"]
    assert [(one["target"]["action"], one["why"]) for one in told] == [
        ("retry", "it is mended"),
        ("retry", ""),
    ]


def test_runs_are_found_by_when_they_were_created(aura: Aura) -> None:
    assert aura("run", "research:app", "research", '"x"', "--id", "doc-1").code == 0
    ids = [
        one["id"] for one in json.loads(aura("runs", "list", "--since", "1h", "--json").out)["runs"]
    ]
    assert ids == ["doc-1"]
    assert json.loads(aura("runs", "list", "--until", "1h", "--json").out)["runs"] == []
    wrong = aura("runs", "list", "--since", "soon")
    assert wrong.code == 1
    assert "--since is 'soon'. Give a time (2026-05-01T12:00Z) or an age (90m, 2d)" in wrong.err


def test_nothing_is_changed_by_an_order_that_is_not_clear(aura: Aura) -> None:
    assert aura("run", "research:app", "research", '"x"').code == 0
    for words in (("cancle",), ("cancel",), ("cancel", "doc-1", "--state", "failed")):
        ended = aura("runs", "bulk", *words)
        assert (ended.code, ended.out) == (1, "")
    assert aura("dlq", "bulk", "requeue").code == 1
    assert "There are no such." in aura("dlq", "bulk", "drop", "--topic", "orders").err


def test_what_was_sent_or_put_by_hand_is_there(aura: Aura) -> None:
    assert aura("run", "research:app", "research", '"x"').code == 0
    assert (
        aura("topics", "emit", "orders", '{"order": 17}', "--key", "17", "--id", "once").code == 0
    )
    assert aura("topics", "emit", "orders", "{").code == 1
    assert "orders" in aura("topics", "list").out
    (event,) = json.loads(aura("topics", "read", "orders", "--json").out)["events"]
    assert (event["seq"], event["key"]) == (1, "17")
    assert aura("experiment", "reward", "nothing", "user-17", "3").code == 1
    put = ("schedules", "put", "research:app", "nightly", "research", "--cron", "0 3 * * *")
    assert aura(*put, "--input", '{"text": "why"}').code == 0
    assert "nightly" in aura("schedules", "list").out
    assert aura(*put, "--input", '{"words": 1}').code == 1
    assert aura("splits", "list").code == 0
    assert aura("splits", "show", "nowhere").code != 0
    (worker,) = json.loads(aura("workers", "list", "--json").out)["workers"] or [{}]
    assert worker == {} or worker["live"]
