"""Where the curves of rollouts are kept: documents `rollout-curve/<run>`.

A curve is written in the commit of the status, so it costs no round trip of its own, and read once,
by whoever takes the rollout over.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from aura.delivery.curve import Curve, added, is_due, latencies_of, point_of
from aura.delivery.live import Live
from aura.delivery.plan import Plan
from aura.delivery.status import RolloutStatus
from aura.errors import CodecError
from aura.store.base import PutDocument, Store, Writer

log = logging.getLogger("aura.delivery")

KIND = "rollout-curve"


async def read(store: Store, run: str) -> Curve | None:
    """The curve of a run; None when there is none, or it cannot be read (then that is logged)."""
    document = await store.document(KIND, run)
    if document is None:
        return None
    try:
        return Curve.from_json(document.body)
    except CodecError as error:
        log.warning("the curve of %s is left out: %s", run, error)
        return None


class Pen:
    """Writes curves beside statuses. One per engine."""

    def __init__(self, store: Store, writer: Writer) -> None:
        self._store = store
        self._writer = writer

    async def put(
        self, plan: Plan, status: RolloutStatus, live: Live, at: float, expected: int
    ) -> None:
        """Replace the status whose document has the `expected` epoch, and write the curve in the
        same commit when a point is due (`at`, epoch seconds). Raises EpochConflict,
        StoreUnavailable."""
        shown = PutDocument("rollout", plan.name, status.to_json(), expected)
        curve = await self._next(plan, status, live, at)
        if curve is None:
            await self._writer.submit(shown)
            return
        outcomes = await asyncio.gather(
            self._writer.submit(shown),
            self._writer.submit(PutDocument(KIND, curve.run, curve.to_json())),
            return_exceptions=True,
        )
        for failed in outcomes:
            if isinstance(failed, BaseException):
                raise failed
        live.curve = curve

    async def _next(self, plan: Plan, status: RolloutStatus, live: Live, at: float) -> Curve | None:
        known: Curve | None = live.curve
        if known is None:
            limits: dict[str, float] = {guard.kind: 1 / guard.alpha for guard in plan.guards}
            known = await read(self._store, status.run) or Curve(status.run, limits)
            live.curve = known
        point = point_of(status, at)
        if not is_due(known, point):
            return None
        return replace(
            added(known, point),
            latencies=latencies_of(plan, status, [one.counts for one in live.tracks]),
        )
