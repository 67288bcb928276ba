"""Who takes part in an experiment: its places in a layer, and the hold-out, as documents.

`layer/<layer>` says which run owns which places of it, `holdout/global` how many places of all
units are in no experiment. Both are replaced by compare-and-set, so two experiments that begin at
the same moment in different processes never get the same place.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence

from aura.delivery.experiment import Experiment
from aura.delivery.layers import Gate, Layer
from aura.errors import LayerError
from aura.stats.hashing import BUCKETS
from aura.store.base import Document, Store

Put = Callable[[str, str, bytes, int], Awaitable[bool]]
"""Replace a document of that kind and name at that epoch; False when it was another one."""


class Enrolment:
    """Gives experiments their places and takes them back. It may be repeated after a crash."""

    def __init__(self, store: Store, put: Put) -> None:
        self._store = store
        self._put = put

    async def gate(self, experiment: Experiment, run: str, others: Sequence[str]) -> Gate | None:
        """Who takes part, None for everybody. `others` are the experiments under way.

        Raises LayerError when the layer has no such places, or the hold-out would change.
        """
        holdout = await self._set_holdout(experiment, others)
        if not experiment.layer:
            if experiment.share >= 1 and not holdout:
                return None
            own = Layer(f"~{run}").admit(run, experiment.name, experiment.share)
        else:
            own = await self._change(
                experiment.layer,
                lambda layer: layer.admit(run, experiment.name, experiment.share, experiment.begin),
            )
        mine = own.of(run)
        return Gate(own.seed, mine.ranges if mine else (), holdout)

    async def release(self, experiment: Experiment, run: str) -> None:
        """Give the run's places back."""
        if experiment.layer:
            await self._change(experiment.layer, lambda layer: layer.release(run))

    async def layers(self) -> list[Layer]:
        """All layers, by name."""
        return [Layer.from_json(one.body) for one in await self._store.documents("layer")]

    async def holdout(self) -> int:
        """The places of the hold-out, of 10,000."""
        return _places(await self._store.document("holdout", "global"))

    async def _change(self, name: str, change: Callable[[Layer], Layer]) -> Layer:
        while True:
            document = await self._store.document("layer", name)
            layer = Layer.from_json(document.body) if document else Layer(name)
            new = change(layer)
            epoch = document.epoch if document else 0
            if new == layer or await self._put("layer", name, new.to_json(), epoch):
                return new

    async def _set_holdout(self, experiment: Experiment, others: Sequence[str]) -> int:
        """The hold-out is set by the first experiment that names one. Changing it while others run
        would move units into them, or out."""
        while True:
            document = await self._store.document("holdout", "global")
            there = wanted = _places(document)
            if experiment.holdout is not None:
                wanted = round(experiment.holdout * BUCKETS)
            if wanted == there:
                return there
            if others:
                raise LayerError(
                    f"the hold-out is {there / BUCKETS:.2%}, experiment {experiment.name} wants "
                    f"{wanted / BUCKETS:.2%}",
                    hint=f"It is the same for all: change it when {', '.join(others)} has ended",
                )
            body = json.dumps({"places": wanted}).encode()
            if await self._put("holdout", "global", body, document.epoch if document else 0):
                return wanted


def _places(document: Document | None) -> int:
    return int(json.loads(document.body)["places"]) if document else 0
