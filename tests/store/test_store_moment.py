"""The database's time, and deadlines that are kept with runs."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.engine.storeclock import StoreClock, believed
from aura.store.base import Claim, Store
from aura.store.queues import Placement
from tests.engine.jumps import ClockAhead
from tests.store.kit import start, started, the_run


async def test_the_moment_goes_on(store: Store) -> None:
    first = await store.moment()
    second = await store.moment()
    assert first <= second
    assert abs(second - time.time()) < 60


async def test_a_claim_says_what_time_it_is(store: Store) -> None:
    before = await store.moment()
    found = await store.claim(Claim("w", (("flow", "1.0.0"),), 10))
    assert found.moment is not None
    assert before <= found.moment <= await store.moment()


@pytest.mark.parametrize("place", [None, Placement(delay=0.0), Placement(queue="q", key="k")])
async def test_a_deadline_is_kept(store: Store, place: Placement | None) -> None:
    op = replace(start("r"), deadline=12_345.5, place=place)
    (first,) = await store.commit([op])
    assert started(first).run.deadline == 12_345.5
    (again,) = await store.commit([replace(op, deadline=1.0)])
    assert started(again).run.deadline == 12_345.5
    assert (await the_run(store, "r")).deadline == 12_345.5
    (other,) = await store.commit([start("s")])
    assert started(other).run.deadline is None


async def test_a_clock_learns_the_databases_time(store: Store) -> None:
    clock = StoreClock(ClockAhead(5_000.0))
    await clock.ask(store)
    assert abs(clock.now() - await store.moment()) < 30


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0, 100))
def test_what_is_believed_lies_within_the_bounds(offset: float, least: float, wide: float) -> None:
    found = believed(offset, least, least + wide)
    assert least <= found <= least + wide
    assert believed(found, least, least + wide) == found
