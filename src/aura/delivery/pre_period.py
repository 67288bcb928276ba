"""What the units of a split have done before an experiment starts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from aura.delivery.experiment import Experiment
from aura.delivery.observation import Observation
from aura.delivery.reward import Reward
from aura.delivery.trial_turn import Mark
from aura.errors import CodecError
from aura.store.base import Store

MOST = 200_000
"""So many items of a feed are read at most: the latest ones."""


async def read_before(
    store: Store, experiment: Experiment, mark: Mark
) -> list[Observation | Reward]:
    """What was observed and rewarded in the pre-period, which ends at the mark."""
    found: list[Observation | Reward] = []
    oldest = mark.at - experiment.pre_period
    reads: tuple[tuple[str, int, Callable[[bytes], Observation | Reward]], ...] = (
        ("observations", mark.observations, Observation.from_json),
        ("rewards", mark.rewards, Reward.from_json),
    )
    for kind, end, read in reads:
        position = max(0, end - MOST)
        while position < end:
            items = await store.feed(f"{kind}/{experiment.split}", position)
            if not items:
                break
            for item in items:
                if item.seq <= end and item.at >= oldest:
                    with contextlib.suppress(CodecError):  # it was told of when it was new
                        found.append(read(item.payload))
            position = items[-1].seq
            await asyncio.sleep(0)
    return found
