"""Runs that move into another database: each goes on in one place, and no step is made twice."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import aura
from aura import Aura, step
from aura.clock import SystemClock
from aura.engine import arriving, moving
from aura.engine.arriving import Imported, import_bundle
from aura.engine.bundle import Encoder, OfRun, by_run
from aura.engine.moving import Export, export
from aura.errors import (
    BundleError,
    KeyMissing,
    RunEnded,
    RunMoved,
    RunNotFound,
    RunParked,
    RunsBusy,
)
from aura.store.base import (
    AppendFeed,
    PutDocument,
    RequestCancel,
    RunFilter,
    SendSignal,
    StartRun,
    Store,
)
from aura.store.portable import Row
from tests.engine.kit import PAIRS, Ledger, World, declare, until
from tests.engine.test_encryption import K1, K2
from tests.store.kit import append, settle, start

LEDGER = Ledger()
CLOCK = SystemClock()
MARKER = "tell-nobody-4712"


@pytest.fixture(autouse=True)
def ledger() -> Ledger:
    LEDGER.ran.clear()
    return LEDGER


@pytest.fixture(params=["sqlite-postgres", "postgres-sqlite"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[World, World]:
    """Where runs come from, and where they go."""
    worlds = []
    servers = ["postgres_url", "other_postgres_url"]
    for number, kind in enumerate(request.param.split("-")):
        path = str(tmp_path / f"{number}.db")
        place = request.getfixturevalue(servers.pop(0)) if kind == "postgres" else path
        worlds.append(World(str(place)))
    return worlds[0], worlds[1]


@pytest.fixture
async def source(places: tuple[World, World]) -> AsyncIterator[World]:
    yield places[0]
    await places[0].close()


@pytest.fixture
async def target(places: tuple[World, World]) -> AsyncIterator[World]:
    yield places[1]
    await places[1].close()


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[World, World]]:
    """Two databases of the kind that opens fast."""
    worlds = World(str(tmp_path / "one.db")), World(str(tmp_path / "two.db"))
    yield worlds
    for world in worlds:
        await world.close()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tmp_path / "app.bundle"


class Gate:
    """Lets a step wait for the test."""

    open: asyncio.Event
    reached: asyncio.Event


@step
async def charge(name: str) -> str:
    LEDGER(f"charge {name}")
    return name


@step
async def refund(receipt: str) -> None:
    LEDGER(f"refund {receipt}")


@step
async def gated(name: str) -> str:
    LEDGER(f"gated {name}")
    Gate.reached.set()
    await Gate.open.wait()
    return name


async def sleeps() -> str:
    await charge("before")
    await aura.sleep(1.5)
    return await charge("after")


async def asks() -> list[Any]:
    aura.set_state("asked", True)
    aura.stream("log").write("one")
    found = [await aura.receive("early"), await charge("asked")]
    return [*found, await aura.receive("go")]


async def saga() -> str:
    async with aura.saga("order") as scope:
        await scope.step(charge, "order", compensate=refund)
        if await aura.receive("verdict") == "fail":
            raise ValueError("sold out")
    return "bought"


async def works() -> list[str]:
    return [await gated("work"), await charge("worked")]


CODE = [declare(one) for one in (sleeps, asks, saga, works)]


async def _state(app: Aura, run_id: str, state: str) -> bool:
    return await app.run(run_id).status() == state


async def quick(world: World, *code: Any, **settings: Any) -> Aura:
    """An app whose runs leave memory as soon as they wait."""
    app = await world.open(*code, keep_in_memory=0.0, **settings)
    worker = app._worker
    assert worker is not None
    worker._services = replace(worker._services, suspend_after=0.05, linger=0.05)
    return app


async def fleet(world: World) -> Aura:
    """An app with runs in all kinds of flight."""
    Gate.open, Gate.reached = asyncio.Event(), asyncio.Event()
    app = await quick(world, *CODE)
    for name in ("sleeps", "asks", "saga", "works"):
        await app.start(name, id=name)
    done = await app.start("saga", id="done")
    await done.signal("verdict", "ok")
    await done.result(timeout=60)
    await app.run("asks").signal("early", 1)
    for name in ("sleeps", "asks", "saga"):
        await until(partial(_state, app, name, "waiting"), 20)
    await app.run("asks").signal("other", "unread")
    await Gate.reached.wait()
    return app


@asynccontextmanager
async def client(world: World, **settings: Any) -> AsyncIterator[Store]:
    app = world.app(**settings)
    async with app.client():
        yield app.store


async def out(world: World, bundle: Path, what: Export, **settings: Any) -> moving.Exported:
    async with client(world, **settings) as store:
        return await export(store, CLOCK, what, bundle)


async def into(world: World, bundle: Path, take_back: bool = False, **settings: Any) -> Imported:
    async with client(world, **settings) as store:
        return await import_bundle(store, bundle, take_back=take_back)


@pytest.mark.parametrize("places", PAIRS, indirect=True)
async def test_a_whole_app_moves_with_runs_in_flight(
    source: World, target: World, bundle: Path
) -> None:
    """Asleep, waiting, in the middle of a saga and of a step, under the hands of live workers."""
    old = await fleet(source)
    await old.committer.submit(PutDocument("split", "s", b'"split"'))
    await old.committer.submit(AppendFeed("observations/s", (b"1", b"2")))
    moved = asyncio.create_task(out(source, bundle, Export(app=True, move="m")))
    await until(lambda: _state(old, "saga", "moved"), 20)
    assert await _state(old, "works", "running")  # its step is under way and nobody takes it
    Gate.open.set()
    assert (await moved).runs == 5
    imported = await into(target, bundle)
    assert imported.created == 5
    assert imported.rows >= 3  # and what the catalog has of its workflows
    new = await target.open(*CODE)
    assert await new.run("asks").state() == {"asked": True}
    await new.run("asks").signal("go", 2)
    await new.run("saga").signal("verdict", "fail")
    assert await new.run("asks").result(timeout=60) == [1, "asked", 2]
    assert await new.run("works").result(timeout=60) == ["work", "worked"]
    with pytest.raises(aura.RunFailed, match="sold out"):
        await new.run("saga").result(timeout=60)
    assert await new.run("sleeps").result(timeout=60) == "after"
    made = ["charge before", "charge after", "charge asked", "charge order", "refund order"]
    made += ["gated work", "charge worked", "charge order"]
    assert sorted(LEDGER.ran) == sorted(made)
    assert await new.run("done").result() == "bought"
    document = await new.store.document("split", "s")
    assert document is not None
    assert document.body == b'"split"'
    assert [item.payload for item in await new.store.feed("observations/s")] == [b"1", b"2"]
    with pytest.raises(RunMoved, match="another database"):
        await old.run("asks").result(timeout=60)
    with pytest.raises(RunEnded, match="signal it there"):
        await old.run("asks").signal("go", 3)
    await old.run("asks").cancel()
    assert await old.run("asks").status() == "moved"


async def test_a_step_that_is_under_way_is_waited_for_or_forced(
    source: World, target: World, bundle: Path
) -> None:
    old = await fleet(source)
    with pytest.raises(RunsBusy, match="works"):
        await out(source, bundle, Export(("works", "saga"), move="m", patience=0.0))
    assert not bundle.exists()
    assert await _state(old, "saga", "moved")
    assert await _state(old, "works", "running")
    await out(source, bundle, Export(("works", "saga"), move="m", patience=0.0, force=True))
    await into(target, bundle)
    Gate.open.set()
    new = await target.open(*CODE)
    assert await new.run("works").result(timeout=60) == ["work", "worked"]
    assert LEDGER.count("gated work") == 2  # as after a crash
    assert LEDGER.count("charge worked") == 1  # the first worker got nowhere after it


async def busy(run: str) -> int:
    """Two branches that make one effect after the other."""

    async def branch(lane: int) -> int:
        return len([await charge(f"{run} {lane} {number}") for number in range(25)])

    return sum(await asyncio.gather(branch(1), branch(2)))


async def test_no_effect_is_made_twice_however_busy_the_runs_are(
    source: World, target: World, bundle: Path
) -> None:
    """They are never idle: their workers have to make room between two effects."""
    code = declare(busy)
    old = await source.open(code)
    for number in range(20):
        await old.start(code, f"r{number}", id=f"r{number}")
    await until(lambda: len(LEDGER.ran) > 100)
    assert (await out(source, bundle, Export(move="m"))).runs == 20
    await into(target, bundle)
    before = len(LEDGER.ran)
    new = await target.open(code)
    for number in range(20):
        assert await new.run(f"r{number}").result(timeout=60) == 50
    assert sorted(LEDGER.ran) == sorted(
        f"charge r{run} {lane} {n}" for run in range(20) for lane in (1, 2) for n in range(25)
    )
    assert before >= 100


async def test_what_was_not_taken_goes_on(source: World, bundle: Path) -> None:
    """A run that was let go for nobody is taken up again."""
    old = await fleet(source)
    Gate.open.set()
    await old.run("works").result(timeout=60)
    assert (await out(source, bundle, Export(("done",)))).runs == 1


class Killed(BaseException):
    """As SIGKILL: nothing after it happens."""


class Mortal:
    """A store whose process dies before its n-th write, which is after the one before."""

    def __init__(self, store: Store, calls: int) -> None:
        self._store = store
        self._left = calls

    @property
    def key_ids(self) -> tuple[str, ...]:
        return self._store.key_ids

    def __getattr__(self, name: str) -> Callable[..., Any]:
        verb: Callable[..., Any] = getattr(self._store, name)
        if name not in ("commit", "fence", "adopt", "add_rows"):
            return verb

        async def call(*args: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                raise Killed
            return await verb(*args, **options)

        return call


async def _able(world: World) -> set[str]:
    """The runs that a worker of this database could take."""
    async with world.store() as store:
        runs = await store.runs(RunFilter(limit=100))
    return {run.id for run in runs if run.state in ("pending", "running", "waiting")}


async def _moved_with_kills(source: World, target: World, bundle: Path, calls: int) -> bool:
    """Move everything; die once at that call. Whether there was such a call."""
    died = False
    what = Export(app=True, move="m", again=True)
    for mortal in (True, False):
        try:
            async with source.store() as store:
                out_of: Any = Mortal(store, calls) if mortal else store
                if not bundle.exists():
                    await export(out_of, CLOCK, what, bundle)
                left = getattr(out_of, "_left", 0)
            async with target.store() as store:
                into: Any = Mortal(store, left) if mortal else store
                await import_bundle(into, bundle)
        except Killed:
            died = True
        assert not (await _able(source) & await _able(target)), calls
        if not died:
            break
    return died


async def test_a_move_survives_a_kill_at_every_write(tmp_path: Path) -> None:
    """Never can two sides have a run; and the same commands again finish the move."""
    calls = 0
    while True:
        folder = tmp_path / str(calls)
        folder.mkdir()
        source, target = World(str(folder / "one.db")), World(str(folder / "two.db"))
        async with source.store() as store:
            await _three_runs(store)
        died = await _moved_with_kills(source, target, folder / "b", calls)
        assert await _able(source) == set()
        assert await _able(target) == {"a", "b", "c"}
        async with target.store() as store:
            assert len(await store.journal("b")) == 2
            assert len(await store.signals([("c", 0)])) == 1
            assert [item.seq for item in await store.feed("f")] == [1, 2]
        if not died:
            break
        calls += 1
    assert calls >= 10


async def _three_runs(store: Store) -> None:
    await store.commit([start("a"), start("b", owner="w"), start("c", owner="w")])
    await store.commit([append("b", 1), append("b", 2)])
    await store.commit([settle("b", "waiting", wake_at=5e9), settle("c", "waiting", wake_at=None)])
    await store.commit([SendSignal("c", "go", b"1", "s1"), AppendFeed("f", (b"1", b"2"))])
    await store.commit([PutDocument("split", "s", b"1")])


async def test_importing_twice_does_no_harm(two: tuple[World, World], bundle: Path) -> None:
    source, target = two
    async with client(source) as store:
        await _three_runs(store)
    await out(source, bundle, Export(app=True, move="m"))
    assert await into(target, bundle) == Imported(created=3, rows=3)
    assert await into(target, bundle) == Imported(present=3, kept=3)


async def test_a_copy_is_parked_until_somebody_says_so(
    source: World, target: World, bundle: Path
) -> None:
    old = await fleet(source)
    await out(source, bundle, Export())
    assert (await into(target, bundle)) == Imported(created=5, parked=4)
    new = await target.open(*CODE)
    with pytest.raises(RunParked, match="goes on where it was copied from"):
        await new.run("asks").result(timeout=60)
    await old.run("asks").signal("go", "here")
    assert await old.run("asks").result(timeout=60) == [1, "asked", "here"]
    await new.run("asks").requeue()
    await new.run("asks").signal("go", "there")
    assert await new.run("asks").result(timeout=60) == [1, "asked", "there"]
    assert LEDGER.count("charge asked") == 1
    assert await new.run("done").result() == "bought"
    Gate.open.set()


async def test_only_unfinished_runs(two: tuple[World, World], bundle: Path) -> None:
    source, target = two
    await fleet(source)
    Gate.open.set()
    done = await out(source, bundle, Export(unfinished=True, move="m"))
    assert done.runs in (3, 4)  # the one whose step ended may have ended, too
    await into(target, bundle)
    async with client(target) as store:
        assert await store.run("done") is None


async def test_a_run_comes_back_from_where_it_was_moved(
    source: World, target: World, bundle: Path, tmp_path: Path
) -> None:
    await fleet(source)
    Gate.open.set()
    await out(source, bundle, Export(("saga",), move="there"))
    with pytest.raises(BundleError, match=r"this very bundle.*--take-back"):
        await into(source, bundle)
    await into(target, bundle)
    new = await quick(target, *CODE)
    await new.run("saga").signal("unknown", 1)
    back = tmp_path / "back.bundle"
    await until(lambda: _state(new, "saga", "waiting"), 20)
    await out(target, back, Export(("saga",), move="back"))
    assert (await into(source, back)).returned == 1
    assert (await into(source, back)).present == 1
    assert (await into(target, bundle)).present == 1  # an older state of what was here
    [old] = source.apps
    await old.run("saga").signal("verdict", "ok")
    assert await old.run("saga").result(timeout=60) == "bought"
    assert LEDGER.count("charge order") == 2  # of "saga" and of "done"


async def test_a_move_that_nobody_imported_is_taken_back(
    two: tuple[World, World], bundle: Path
) -> None:
    source, _ = two
    old = await fleet(source)
    Gate.open.set()
    await out(source, bundle, Export(("saga",), move="m"))
    assert (await into(source, bundle, take_back=True)).returned == 1
    await old.run("saga").signal("verdict", "ok")
    assert await old.run("saga").result(timeout=60) == "bought"


async def test_the_id_of_another_run_is_refused_before_anything_is_written(
    two: tuple[World, World], bundle: Path
) -> None:
    source, target = two
    async with client(source) as store:
        await _three_runs(store)
    async with client(target) as store:
        await store.commit([start("b")])
    await out(source, bundle, Export(move="m"))
    with pytest.raises(
        BundleError, match="1 runs of the bundle have the ids of other runs here: b"
    ):
        await into(target, bundle)
    assert await _able(target) == {"b"}


async def test_an_app_moves_into_an_empty_database_only(
    two: tuple[World, World], bundle: Path
) -> None:
    source, target = two
    async with client(source) as store:
        await _three_runs(store)
    async with client(target) as store:
        await store.commit([PutDocument("split", "mine", b"1")])
    await out(source, bundle, Export(app=True, move="m"))
    with pytest.raises(BundleError, match="documents of its own"):
        await into(target, bundle)
    assert await _able(target) == set()


async def test_parents_and_children_move_together(two: tuple[World, World], bundle: Path) -> None:
    source, target = two
    async with client(source) as store:
        await _family_of_three(store)
    assert (await out(source, bundle, Export(("p/child",), move="m"))).runs == 2
    await into(target, bundle)
    assert await _able(target) == {"p", "p/child"}
    assert await _able(source) == {"free"}


async def _family_of_three(store: Store) -> None:
    await store.commit([start("p", owner="w")])
    for name, detached in (("p/child", False), ("free", True)):
        op = StartRun(
            name, "research", "1.0.0", b"1", "f", "o", parent="p", parent_epoch=1,
            detached=detached,
        )  # fmt: skip
        [outcome] = await store.commit([op])
        assert not isinstance(outcome, BaseException)
    await store.commit([settle("p", "waiting")])


async def test_a_parent_is_told_of_a_child_that_ended_before_it_arrived(
    two: tuple[World, World], bundle: Path
) -> None:
    """Workers may be at work while an import goes on."""
    source, target = two
    async with client(source) as store:
        await _family_of_three(store)
    await out(source, bundle, Export(move="m"))
    async with client(target) as store:
        adopt = store.adopt

        async def and_ends(run: Row, rest: Any, *, take_back: bool = False) -> Any:
            """The child is taken up and ends at once; its parent comes last."""
            verdict = await adopt(run, rest, take_back=take_back)
            if run["id"] == "p/child":
                await store.commit([RequestCancel("p/child")])
            return verdict

        before = [part async for part in _reversed(bundle)]
        bundle.write_bytes(b"".join(before))
        store.adopt = and_ends  # type: ignore[method-assign]
        await import_bundle(store, bundle)
        child = await store.run("p/child")
        assert child is not None
        assert child.state == "cancelled"
        assert [one.id for one in await store.signals([("p", 0)])] == ["~child:p/child"]
        parent = await store.run("p")
        assert parent is not None
        assert parent.state == "pending"


async def _reversed(bundle: Path) -> AsyncIterator[bytes]:
    """The same bundle with its last run first."""
    with arriving.opened(bundle) as file:
        found = arriving.decoded(file)
        runs = [(part.run, list(part.rest)) for part in by_run(found) if isinstance(part, OfRun)]
        lines = Encoder()
        text = [lines.header(found.header)]
        for run, rest in reversed(runs):
            text += [lines.row("runs", run), *(lines.row(*line) for line in rest)]
        yield gzip.compress(b"".join([*text, lines.end()]))


async def test_runs_that_are_not_there(two: tuple[World, World], bundle: Path) -> None:
    source, _ = two
    for move in ("", "m"):
        with pytest.raises(RunNotFound, match="nobody"):
            await out(source, bundle, Export(("nobody",), move=move))
    assert not bundle.exists()


async def speaks(text: str) -> str:
    await charge(text)
    aura.set_state("text", text)
    return text + str(await aura.receive("go"))


async def _encrypted(world: World) -> None:
    app = await quick(world, declare(speaks), encryption_keys=(K1,))
    await app.start("speaks", MARKER, id="speaks")
    await app.committer.submit(PutDocument("split", "s", MARKER.encode()))
    await until(lambda: _state(app, "speaks", "waiting"), 20)
    await app.run("speaks").signal("other", MARKER)
    await app.close()
    world.apps.clear()


async def test_a_bundle_of_an_encrypted_database_is_encrypted(
    source: World, target: World, bundle: Path
) -> None:
    """With what was written before there were keys, and with keys that were rotated since."""
    async with client(source) as store:
        await store.commit([PutDocument("split", "old", MARKER.encode())])
    await _encrypted(source)
    what = Export(app=True, move="m")
    await out(source, bundle, what, encryption_keys=(K2, K1))
    text = gzip.decompress(bundle.read_bytes())
    assert b"0/charge#1" in text
    assert MARKER.encode() not in text
    assert MARKER.encode().hex() not in text.hex()
    for keys in ((), (K2,)):
        with pytest.raises(KeyMissing, match="Nothing was imported"):
            await into(target, bundle, encryption_keys=keys)
    assert await _able(target) == set()
    await into(target, bundle, encryption_keys=(K2, K1))
    new = await target.open(declare(speaks), encryption_keys=(K2, K1))
    await new.run("speaks").signal("go", "!")
    assert await new.run("speaks").result(timeout=60) == MARKER + "!"
    assert LEDGER.count(f"charge {MARKER}") == 1
    for name in ("s", "old"):
        document = await new.store.document("split", name)
        assert document is not None
        assert document.body == MARKER.encode()
