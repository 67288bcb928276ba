"""Who waits for a run that is moved: it goes along, or its wait ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import aura
from aura import Aura
from aura.clock import SystemClock
from aura.engine.moving import Export, export
from aura.engine.promotion import promote
from aura.errors import RunMoved
from aura.store.base import PutDocument, StartRun
from aura.store.portable import Fence
from tests.engine.kit import World, declare, until
from tests.engine.test_moving import bundle as bundle
from tests.engine.test_moving import client, into, out, quick
from tests.engine.test_moving import places as places
from tests.engine.test_moving import source as source
from tests.engine.test_moving import target as target
from tests.store.kit import start


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aura.engine.children._FIRST_LOOK", 0.05)
    monkeypatch.setattr("aura.engine.children._AGE_SHARE", 0.0)


async def asked() -> str:
    return str(await aura.receive("go"))


def watching(apps: list[Aura]) -> Any:
    """A workflow that waits for a run of somebody else, asking the app that is the last one."""

    async def watches(run_id: str) -> str:
        try:
            return str(await apps[-1].run(run_id).result())
        except RunMoved as error:
            return f"moved: {error.run_id}"

    return declare(watches)


class Looks:
    """Counts how often a worker reads a run."""

    def __init__(self, app: Aura, run_id: str) -> None:
        assert app._worker is not None
        family = app._worker._family
        self.count = 0
        record = family.record

        async def counted(asked_for: str) -> Any:
            found = await record(asked_for)
            self.count += asked_for == run_id
            return found

        family.record = counted  # type: ignore[method-assign, assignment]

    async def three_more(self) -> None:
        seen = self.count
        await until(lambda: self.count >= seen + 3)


async def _waits(world: World, workflow: Any) -> tuple[Aura, Looks]:
    """A run "w" that waits for the run "s" of somebody else."""
    app = await world.open(declare(asked), workflow)
    looks = Looks(app, "s")
    await app.start("asked", id="s")
    await app.start("watches", "s", id="w")
    await looks.three_more()
    return app, looks


async def test_a_wait_for_a_run_that_was_moved_away_ends(source: World, bundle: Path) -> None:
    app, _ = await _waits(source, watching(source.apps))
    assert (await out(source, bundle, Export(("s",), move="m"))).runs == 1
    assert await app.run("w").result(timeout=60) == "moved: s"
    assert (await source.record("s")).state == "moved"


async def test_the_end_of_the_wait_is_replayed(source: World, bundle: Path) -> None:
    async def watches(run_id: str) -> str:
        found = "nothing"
        try:
            await source.apps[-1].run(run_id).result()
        except RunMoved as error:
            found = f"moved: {error.run_id}"
        return f"{found}, {await aura.receive('go')}"

    workflow = declare(watches)
    app, _ = await _waits(source, workflow)
    await out(source, bundle, Export(("s",), move="m"))

    async def has_ended() -> bool:
        return any(entry.kind == "ended" for entry in await source.journal("w"))

    await until(has_ended)
    await into(source, bundle, take_back=True)
    await source.crash(app)
    app = await source.open(declare(asked), workflow)
    await app.run("w").signal("go", "on")
    assert await app.run("w").result(timeout=60) == "moved: s, on"


async def test_a_wait_does_not_end_before_the_move_is_written(source: World) -> None:
    """Its run may be taken by the same move, a moment later."""
    app, looks = await _waits(source, watching(source.apps))
    assert await app.store.fence(Fence("m", ("s",), force=True)) == ["s"]
    await looks.three_more()
    assert (await source.record("w")).state == "running"
    await app.store.commit([PutDocument("move", "m", b"{}")])
    assert await app.run("w").result(timeout=60) == "moved: s"


async def test_in_a_promotion_the_wait_goes_on_elsewhere(
    source: World, target: World, bundle: Path
) -> None:
    arrived: list[Aura] = []
    app, looks = await _waits(source, watching(source.apps))
    await app.store.commit([PutDocument("promotion", "to", b'{"to": "there"}')])
    assert await app.store.fence(Fence("~promotion", ("s",), force=True)) == ["s"]
    await app.store.commit([PutDocument("move", "~promotion", b"{}")])
    await looks.three_more()
    assert await source.journal("w") == []
    async with client(source) as old, client(target) as new:
        there = (await new.info()).location
        await old.commit([PutDocument("promotion", "to", f'{{"to": "{there}"}}'.encode())])
        done = await promote(old, new, SystemClock(), Export(), bundle)
    assert done.created == 2
    arrived.append(await quick(target, declare(asked), watching(arrived)))
    await arrived[0].run("s").signal("go", "there")
    assert await arrived[0].run("w").result(timeout=60) == "there"


async def test_children_that_are_started_meanwhile_go_along(
    source: World, target: World, bundle: Path
) -> None:
    async with client(source) as store:
        await store.commit([start("p", owner="w")])
        fence = store.fence
        op = StartRun("p/late", "research", "1.0.0", b"1", "f", "o", parent="p", parent_epoch=1)

        async def late(what: Fence) -> list[str]:
            await store.commit([op])
            return await fence(what)

        store.fence = late  # type: ignore[method-assign]
        assert (await export(store, SystemClock(), Export(("p",), move="m"), bundle)).runs == 2
    await into(target, bundle)
    for run_id in ("p", "p/late"):
        assert (await target.record(run_id)).state == "pending"
        assert (await source.record(run_id)).state == "moved"
