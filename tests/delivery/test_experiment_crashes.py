"""Workers that are killed in the middle of an experiment: another one ends it the same way."""

from __future__ import annotations

import pytest

from aura.delivery.layers import Layer
from aura.delivery.split import Split
from tests.delivery.experiment_kit import ended, made, story, visit, wait_for
from tests.delivery.rollout_crew import crew
from tests.delivery.rollout_kit import app_on

LAYERED = made(layer="l", share=1.0)
EARLY = ["after shop:1"]
LATE = ["after shop:2", "after layer:0"]


@pytest.mark.parametrize("point", EARLY + LATE)
async def test_whoever_dies_wherever(database: str, point: str) -> None:
    async with crew() as people, app_on(database).client() as app:
        doomed, heir = await people.hire("worker", database), await people.hire("worker", database)
        run = await app.experiments.engine.announce(LAYERED)
        await app.start(app.experiments.engine.workflow, LAYERED, run, id=run)
        await doomed.begin(*point.split())
        if point in LATE:
            await wait_for(app, lambda status: status.opened is not None)
            await visit(app, 700, {"b": 0.4})
        assert await doomed.end() == -9
        await heir.begin()
        if point in EARLY:
            await wait_for(app, lambda status: status.opened is not None)
            await visit(app, 700, {"b": 0.4})
        status = await ended(app)
        assert (status.state, status.winner) == ("won", "b")
        assert await app.run(status.run).result(timeout=60) == "won"
        assert story(await app.experiments.status("copy")) == ["start", "won"]
        document = await app.store.document("split", "shop")
        assert document is not None
        split = Split.from_json(document.body)
        assert (split.epoch, split.share("b"), split.gate) == (2, 1.0, None)
        assert (await app.experiments.layers())[0] == [Layer("l")]
        keys = [entry.key for entry in await app.store.journal(status.run)]
        assert len(keys) == len(set(keys)) == 4
