"""Gateways as processes, on a PostgreSQL that is taken away: nobody stays on a bad candidate."""

from __future__ import annotations

from aura.delivery.plan import parse_plan
from benchmarks.fleet import PLAN, fleet, outage, rollback

OUTAGE = 8.0  # seconds; the figures themselves are measured by `python -m benchmarks.fleet`


async def test_a_rollback_and_an_outage_in_a_fleet() -> None:
    plan = parse_plan(PLAN)
    async with fleet(2, 40.0) as one:
        assert await rollback(one, plan) < OUTAGE
        zero, _ = await outage(one, plan, frozen=True, seconds=OUTAGE)
        assert zero < OUTAGE - 1.0
