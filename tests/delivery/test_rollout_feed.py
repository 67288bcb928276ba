"""What flows around a rollout: observations in, splits and statuses out."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from aura import Aura
from aura.delivery import decide as rules
from aura.delivery import rollouts
from aura.delivery.evidence import Tally
from aura.delivery.observation import Observation
from aura.delivery.odd import MOST, Odd
from aura.delivery.split import Split
from aura.delivery.status import Event, RolloutStatus, Seen, status_of
from aura.delivery.turn import read_order, write_order
from aura.errors import CodecError, StoreUnavailable
from aura.stats.eprocess import as_evidence
from aura.store.base import AppendFeed, FeedItem, Op, PutDocument
from tests.delivery.rollout_kit import (
    PLAN,
    app_on,
    ended,
    forever,
    held,
    observed,
    plan,
    split_of,
    spy_on_commits,
    story,
    traffic,
    until,
    wait_for,
)


async def feed_of(app: Aura, name: str) -> list[FeedItem]:
    found: list[FeedItem] = []
    while items := await app.store.feed(name, len(found)):
        found += items
    return found


def break_database(app: Aura) -> Any:
    """Let every commit fail; the answer mends it."""
    commit = app.store.commit

    async def away(_: object) -> None:
        raise StoreUnavailable("the database is away")

    setattr(app.store, "commit", away)  # noqa: B010  (a method of one object)
    return lambda: setattr(app.store, "commit", commit)


# Observations.


async def test_observations_are_written_in_order(database: str) -> None:
    """Whoever hands them in waits for nothing, also while the database takes its time."""
    app = app_on(database)
    async with app.client():
        writing, go_on = asyncio.Event(), asyncio.Event()
        commit = app.store.commit

        async def slowly(ops: Any) -> Any:
            writing.set()
            await go_on.wait()
            return await commit(ops)

        setattr(app.store, "commit", slowly)  # noqa: B010  (a method of one object)
        app.rollouts.observe(observed(unit="0"))
        await writing.wait()
        for number in range(1, 2_000):
            app.rollouts.observe(observed(unit=str(number)))
        assert app.rollouts.waiting_observations == 2_000
        go_on.set()
        await until(lambda: app.rollouts.waiting_observations == 0)
        items = await feed_of(app, "observations/t")
        units = [Observation.from_json(item.payload).unit for item in items]
        assert units == [str(number) for number in range(2_000)]
        assert app.rollouts.lost_observations == 0


async def test_observations_wait_for_a_database_that_is_away(
    database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rollouts, "_BUFFER", 1_500)
    app = app_on(database, lease=0.1)
    async with app.client():
        mend = break_database(app)
        for number in range(2_000):
            app.rollouts.observe(observed(("t", "s")[number % 2], unit=str(number)))
        await until(lambda: "observations wait, the database is away" in caplog.text)
        assert app.rollouts.waiting_observations == 1_500
        assert app.rollouts.lost_observations == 500
        mend()
        await until(lambda: app.rollouts.waiting_observations == 0)
        for at, split in enumerate(("t", "s")):
            items = await feed_of(app, f"observations/{split}")
            units = [Observation.from_json(item.payload).unit for item in items]
            assert units == [str(number) for number in range(at, 1_500, 2)]


async def test_closing_writes_what_waits_and_says_what_it_cannot(
    caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    path = str(tmp_path / "aura.db")
    app = app_on(path)
    async with app.client():
        for number in range(5_000):
            app.rollouts.observe(observed(unit=str(number)))
    async with app_on(path).client() as again:
        assert len(await feed_of(again, "observations/t")) == 5_000
    lost = app_on(path, lease=0.1)
    async with lost.client():
        break_database(lost)
        lost.rollouts.observe(observed())
    assert lost.rollouts.lost_observations == 1
    assert "1 observations lost so far: the app was closed" in caplog.text


async def test_one_that_cannot_be_encoded_does_not_hold_up_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = app_on(":memory:")
    async with app.client():
        odd: Any = {"a set"}
        for unit in ("u1", odd, "u2"):
            app.rollouts.observe(observed(unit=unit))
        await until(lambda: app.rollouts.waiting_observations == 0)
        assert len(await feed_of(app, "observations/t")) == 2
        assert app.rollouts.lost_observations == 1
        assert "cannot be encoded" in caplog.text


async def test_items_that_cannot_be_read_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    async with app_on(":memory:") as app, traffic(app):
        await app.rollouts.start(PLAN)
        huge = observed(latency=1e300, shadow=True).to_json()  # no histogram takes that
        bad = (b"", b"null", b"{", b'{"split": "t"}', b"[" * 100_000, huge)
        await app.committer.submit(AppendFeed("observations/t", bad))
        assert story(await ended(app))[-1] == "complete"
        assert caplog.text.count("is left out") == len(bad)


async def test_the_feed_is_read_once_and_the_journal_stays_small() -> None:
    """As much as comes in an hour at 10 a second, before and while the rollout looks at it."""
    async with app_on(":memory:") as app:
        read: Counter[int] = Counter()
        fetch = app.store.feed

        async def counting(name: str, after: int = 0, limit: int = 1000) -> list[FeedItem]:
            items = await fetch(name, after, limit)
            if name == "observations/t":
                read.update(item.seq for item in items)
            return items

        setattr(app.store, "feed", counting)  # noqa: B010  (a method of one object)
        old = tuple(observed(unit=f"u{n}").to_json() for n in range(1_000))
        await app.committer.submit(AppendFeed("observations/t", old))
        begun = await app.rollouts.start(forever())
        for hundreds in range(36):
            units = range(hundreds * 1_000, (hundreds + 1) * 1_000)
            batch = tuple(observed(unit=f"u{n}", share=0.0, shadow=True).to_json() for n in units)
            await app.committer.submit(AppendFeed("observations/t", batch))
        status = await wait_for(app, lambda s: s.stages[0].candidate.requests == 36_000)
        assert set(read) == set(range(1_001, 37_001))  # what was there before is not looked at
        assert set(read.values()) == {1}
        assert len(await app.store.journal(begun.run)) == 2  # begin, open
        await app.rollouts.order("t", "advance")
        await wait_for(app, lambda s: s.turn == 1)
        assert set(read.values()) == {1}
        assert status.evidence[0].guard == "errors"


async def test_an_order_to_roll_back_does_not_wait_for_the_feed() -> None:
    """A worker that takes over may have hours of observations to catch up with."""
    async with app_on(":memory:") as app:
        begun = await app.rollouts.start(forever())
        assert begun.opened is not None
        fetch = app.store.feed
        batch = [FeedItem(0, 0.0, observed(share=0.0, shadow=True).to_json())] * 100

        async def endless(name: str, after: int = 0, limit: int = 1000) -> list[FeedItem]:
            if name != "observations/t":
                return await fetch(name, after, limit)
            if (await split_of(app)).epoch > 1:
                return []
            return [item._replace(seq=after + n) for n, item in enumerate(batch, 1)]

        setattr(app.store, "feed", endless)  # noqa: B010
        await app.rollouts.order("t", "rollback")
        assert (await ended(app)).state == "rolled-back"


async def test_a_database_that_is_away_for_a_while_does_not_end_a_rollout() -> None:
    async with app_on(":memory:") as app, traffic(app):
        begun = await app.rollouts.start(forever())
        fetch = app.store.feed
        failed = 0

        async def away(*_: object) -> None:
            nonlocal failed
            failed += 1
            raise StoreUnavailable("the database is away")

        setattr(app.store, "feed", away)  # noqa: B010
        await until(lambda: failed > 20)
        setattr(app.store, "feed", fetch)  # noqa: B010
        await app.rollouts.order("t", "advance")
        await wait_for(app, lambda status: status.turn == 1)
        kinds = [entry.kind for entry in await app.store.journal(begun.run)]
        assert "attempt" not in kinds


# Splits.


async def test_who_follows_hears_every_change_and_survives_its_own_errors(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with app_on(":memory:") as app:
        heard: list[int] = []

        def offer(split: Split) -> None:
            heard.append(split.epoch)
            if split.epoch == 2:
                raise ValueError("not on a Friday")

        app.rollouts.follow("t", offer)
        await app.rollouts.start(forever())
        await until(lambda: 1 in heard)
        split = await split_of(app)
        told = "not on a Friday", "split t cannot be read"
        bodies = split.with_weights({"b": 0.2}).to_json(), b"nonsense"
        for epoch, body, said in zip((1, 2), bodies, told, strict=True):
            assert await app.rollouts.engine.put("split", "t", body, epoch)
            await until(lambda words=said: words in caplog.text)  # type: ignore[misc]
        again = Split("t", 4, split.seed, split.arms)
        assert await app.rollouts.engine.put("split", "t", again.to_json(), 3)
        await until(lambda: 4 in heard)


async def test_who_stops_following_leaves_nothing_behind() -> None:
    async with app_on(":memory:") as app:
        await app.rollouts.start(forever())
        before: list[int] = []

        def steady() -> bool:
            """The rollout's own listener is there, and no other comes or goes."""
            before.append(len(app.store._listeners))  # type: ignore[attr-defined]
            return len(before) > 20 and len(set(before[-20:])) == 1

        await until(steady)
        listeners = before[-1]
        heard: list[Split] = []
        ends = [app.rollouts.follow("t", heard.append) for _ in range(20)]
        await until(lambda: len(heard) == 20)
        for end in ends:
            end()
            end()  # harmless
        await until(lambda: not app.rollouts._followers)
        await until(lambda: len(app.store._listeners) == listeners)  # type: ignore[attr-defined]
        await app.rollouts.order("t", "advance")
        await wait_for(app, lambda status: status.turn == 1)
        await asyncio.sleep(0.05)
        assert len(heard) == 20
        app.rollouts.follow("t", heard.append)  # the app ends this one
    assert not app.rollouts._followers


# Statuses.


async def test_statuses_are_published_while_something_changes() -> None:
    async with app_on(":memory:") as app:
        published: list[Op] = []

        def see(op: Op) -> None:
            if isinstance(op, PutDocument) and op.kind == "rollout":
                published.append(op)

        async def quiet() -> bool:
            """Nothing was published for as long as several times would have been otherwise."""
            published.clear()
            await asyncio.sleep(1.0)
            return not published

        spy_on_commits(app, see)
        async with traffic(app, per_second=200):
            await app.rollouts.start(forever())
            published.clear()
            await until(lambda: len(published) >= 5)
        await app.rollouts.order("t", "hold")
        await wait_for(app, held)
        async with asyncio.timeout(60):
            while not await quiet():
                pass


async def test_a_waiting_stage_is_published_less_and_less() -> None:
    """Only the seconds that are left change."""
    async with app_on(":memory:") as app:
        published: list[tuple[float, str]] = []

        def see(op: Op) -> None:
            if isinstance(op, PutDocument) and op.kind == "rollout":
                reason = RolloutStatus.from_json(op.body).reason
                published.append((time.monotonic(), reason))

        stages = tuple(replace(one, min_time=60.0) for one in PLAN.stages)
        await app.rollouts.start(plan(stages=stages))
        spy_on_commits(app, see)
        await until(lambda: len(published) >= 3)
        assert all(" more in the stage" in reason for _, reason in published)
        assert published[2][0] - published[0][0] > 1.5, "and not at each look, four times a second"


def some_status(tally: Tally) -> RolloutStatus:
    state = rules.start(1000.0)
    event = Event(1000.0, "start", "from a to b", "ann", 1000.5, 0.0, 3)
    seen = (Seen(tally, tally, 1),)
    return status_of(PLAN, "rollout-t-1", state, seen, "begun", (event,))


def test_a_status_comes_back_as_it_was() -> None:
    """Also with as much evidence as a number can hold, and without any latency."""
    tally = Tally(PLAN)
    empty = some_status(tally)
    assert RolloutStatus.from_json(empty.to_json()) == empty
    for number in range(3_000):
        tally.fold(observed(unit=str(number), ok=False, latency=1e5, error="\ud800 ☃"))
    full = some_status(tally)
    assert full.evidence[0].verdict == "trip"
    certain = replace(full.evidence[0], evidence=as_evidence(math.inf))
    full = replace(full, evidence=(certain, *full.evidence[1:]))
    assert RolloutStatus.from_json(full.to_json()) == full
    assert (
        json.loads(json.dumps(full.plain(), allow_nan=False))["stages"][1]["candidate"]["requests"]
        == 3_000
    )


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b"[]", b"\xff"])
def test_what_is_no_status_is_refused(body: bytes) -> None:
    with pytest.raises(CodecError, match="rollout status cannot be read"):
        RolloutStatus.from_json(body)


async def test_one_status_that_cannot_be_read_does_not_hide_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with app_on(":memory:") as app:
        await app.committer.submit(PutDocument("rollout", "broken", b"nonsense"))
        with caplog.at_level(logging.ERROR):
            await app.rollouts.start(forever())
            assert [status.name for status in await app.rollouts.all()] == ["t"]
        assert "rollout broken is left out" in caplog.text


def test_orders_come_back_as_they_were() -> None:
    found = read_order(7, write_order("hold", "ann", "a ☃", 1.0))
    assert (found.seq, found.order, found.by, found.reason) == (7, "hold", "ann", "a ☃")


def test_copies_that_cannot_be_compared_and_fields_that_differ_are_said() -> None:
    odd = Odd()
    for field in ("$.a", "$.a", "$.b", "$.c", "$.d"):
        odd.judge(observed(shadow=True, differences=(field,)), 0.0)
    for _ in range(3):
        odd.judge(observed(shadow=True, error="not compared: suppressed: no answer"), 0.0)
    assert odd.notes() == (
        "3 of 8 copies could not be compared (suppressed: no answer: 3). See: aura shadow report t",
        "copies differ in $.a: 2, $.b: 1, $.c: 1 and 1 more. See: aura shadow report t",
    )
    for number in range(10 * MOST):
        odd.judge(observed(shadow=True, differences=(f"$.x{number}",)), 0.0)
    assert len(odd.fields) == MOST
