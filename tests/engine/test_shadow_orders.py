"""A shadow run changes nothing of what runs, in whatever way its code asks for it."""

from __future__ import annotations

import pytest

from aura import step
from aura.delivery.split import Arm, Split
from aura.errors import EffectSuppressed
from aura.store.base import PutDocument
from tests.engine.kit import World, declare


@pytest.mark.parametrize("where", ["workflow", "step"])
async def test_it_gives_no_orders(world: World, where: str) -> None:
    """Not to rollouts, experiments, splits and schedules; the run ends there."""

    async def force() -> int:
        await world.apps[0].rollouts.emergencies.force(None, reason="by a shadow")
        return 1

    async def create() -> int:
        await world.apps[0].schedules.create("nightly", "forces", every=60)
        return 1

    forcing, creating = step(idempotent=True)(force), step(idempotent=True)(create)

    async def forces() -> int:
        return await (force() if where == "workflow" else forcing())

    async def creates() -> int:
        return await (create() if where == "workflow" else creating())

    app = await world.open(declare(forces), declare(creates))
    split = Split("s", 1, "seed", (Arm("a", 0.5), Arm("b", 0.5)))
    await app.store.commit([PutDocument("split", "s", split.to_json(), 0)])
    names = {"forces": "force splits to their baselines", "creates": "create schedule nightly"}
    for workflow, name in names.items():
        run = await app.start(workflow, queue=app.shadow())
        with pytest.raises(EffectSuppressed, match=name):
            await run.result(timeout=60)
        found = [(one.what, one.name, one.answer) for one in await run.suppressed()]
        assert found == [("order", name, "none")]
    assert await app.schedules.list() == []
    assert await app.rollouts.emergencies.forced() == []
