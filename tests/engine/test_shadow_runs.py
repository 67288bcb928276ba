"""Shadow runs: what they would have done is written down, and not done."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

import aura
from aura import Run, RunFailed, StepFailed, step
from aura.cli.main import main
from aura.engine.queues import place
from aura.engine.rehearsal import rehearse
from aura.engine.replay import Replay
from aura.engine.shadow import SHADOW, Baseline, is_shadow, shadow_place, suppressed
from aura.errors import EffectSuppressed, RegistrationError
from aura.store.base import Claimed, Entry
from tests.engine.bank import Bank, opened
from tests.engine.kit import World, declare, until

done: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    done.clear()


@step
async def charge(account: str, cents: int) -> dict[str, Any]:
    done.append(f"charge {account} {cents}")
    return {"receipt": len(done), "cents": cents}


@step(idempotent=True)
async def look(account: str) -> str:
    done.append(f"look {account}")
    return account.upper()


def stub(account: str, text: str) -> str:
    return f"stub {account} {text}"


def free(account: str, cents: int) -> dict[str, Any]:
    return {"account": account, "stubbed": cents}


@step(shadow=stub)
async def mail(account: str, text: str) -> str:
    done.append(f"mail {account}")
    return "sent"


@step
async def refuse() -> None:
    done.append("refuse")
    raise ValueError("no")


async def shadow_of(run: Run[Any], app: aura.Aura, workflow: Any, *args: Any) -> Run[Any]:
    return await app.start(workflow, *args, id=f"copy-of-{run.id}", queue=app.shadow(run.id))


async def list_of(run: Run[Any]) -> list[tuple[str, str, str]]:
    return [(one.what, one.name, one.answer) for one in await run.suppressed()]


@declare
async def order(account: str) -> list[Any]:
    name = await look(account)
    receipt = await charge(account, 500)
    await aura.emit("orders.paid", {"account": account})
    return [name, receipt, await mail(account, "thanks"), str(aura.uuid())]


async def test_effects_are_listed_and_answered_by_the_baseline(world: World) -> None:
    app = await world.open(order)
    events: list[Any] = []

    baseline = await app.start(order, "ada", id="r")
    expected = await baseline.result(timeout=60)
    before = list(done)
    shadow = await shadow_of(baseline, app, order, "ada")
    assert await shadow.result(timeout=60) == expected
    assert done == [*before, "look ada"]
    assert await list_of(shadow) == [
        ("step", "charge", "baseline"),
        ("event", "orders.paid", "nothing"),
        ("step", "mail", "baseline"),
    ]
    first = (await shadow.suppressed())[0]
    assert first.key == "0/charge#1"
    assert first.arguments == {"account": "ada", "cents": 500}
    assert await baseline.suppressed() == []
    assert is_shadow((await shadow.record()).queue)
    async with world.store() as store:
        events = await store.events.topics()
        assert [one.events for one in events if one.topic == "orders.paid"] == [1]


async def test_a_stub_answers_what_the_baseline_has_not(world: World) -> None:
    app = await world.open()

    @app.workflow(version="1.0.0", shadow={"charge": free})
    async def declared(account: str) -> list[Any]:
        return [await charge(account, 1), await mail(account, "hello")]

    run = await app.start(declared, "ada", queue=app.shadow())
    assert await run.result(timeout=60) == [
        {"account": "ada", "stubbed": 1},
        "stub ada hello",
    ]
    assert await list_of(run) == [("step", "charge", "stub"), ("step", "mail", "stub")]
    assert done == []


@declare
async def unanswered() -> str:
    try:
        await charge("ada", 1)
    except Exception:  # noqa: BLE001  (what code may do, and must not go on after)
        await mail("ada", "it failed")
    return "over"


async def test_where_nothing_answers_the_run_ends_and_has_not_failed(world: World) -> None:
    app = await world.open(unanswered)
    run = await app.start(unanswered, queue=app.shadow())
    with pytest.raises(EffectSuppressed, match=r"charge at 0/charge#1 has no answer.*stub"):
        await run.result(timeout=60)
    assert await run.status() == "cancelled"
    assert await list_of(run) == [("step", "charge", "none")]
    assert done == []


def test_the_command_line_lists_them(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    database = str(tmp_path / "aura.db")

    async def begin() -> None:
        world = World(database)
        app = await world.open(unanswered)
        run = await app.start(unanswered, id="s", queue=app.shadow())
        with pytest.raises(EffectSuppressed):
            await run.result(timeout=60)
        await world.close()

    def show(*options: str) -> str:
        capfdbinary.readouterr()
        assert main(["runs", "show", "s", "--database", database, *options]) == 0
        return capfdbinary.readouterr().out.decode()

    asyncio.run(begin())
    shown = show()
    assert "EffectSuppressed" in shown
    assert ["step", "charge", "none"] in [line.split()[:3] for line in shown.splitlines()]
    assert '{"account": "ada", "cents": 1}' in shown
    as_json = json.loads(show("--json"))
    assert as_json["suppressed"][0]["arguments"]["value"] == {"account": "ada", "cents": 1}
    assert as_json["journal"] == []


async def test_other_arguments_are_not_answered_with_the_baselines_result(world: World) -> None:
    @declare
    async def pays(cents: int) -> Any:
        return await charge("ada", cents)

    app = await world.open(pays)
    baseline = await app.start(pays, 5)
    await baseline.result(timeout=60)
    shadow = await app.start(pays, 6, queue=app.shadow(baseline.id))
    with pytest.raises(EffectSuppressed):
        await shadow.result(timeout=60)
    assert done == ["charge ada 5"]


async def test_the_baselines_failure_is_the_shadows(world: World) -> None:
    @declare
    async def careful() -> str:
        try:
            await refuse()
        except StepFailed as error:
            return f"{error.type} {error.reason}"
        return "no error"

    app = await world.open(careful)
    baseline = await app.start(careful)
    expected = await baseline.result(timeout=60)
    shadow = await shadow_of(baseline, app, careful)
    assert await shadow.result(timeout=60) == expected == "ValueError no"
    assert done == ["refuse"]


@declare
async def inner(account: str) -> Any:
    return await charge(account, 7)


@declare
async def outer(account: str) -> list[Any]:
    first = await inner(account)
    run: Run[Any] = await the_app[0].start(inner, account, id="chosen", detached=True)
    return [first, await run.result()]


the_app: list[aura.Aura] = []


async def test_children_are_shadows_of_the_baselines_children(world: World) -> None:
    app = await world.open(inner, outer)
    the_app[:] = [app]
    baseline = await app.start(outer, "ada", id="base")
    expected = await baseline.result(timeout=60)
    shadow = await shadow_of(baseline, app, outer, "ada")
    assert await shadow.result(timeout=60) == expected
    assert done == ["charge ada 7"] * 2
    children = [f"{shadow.id}/0/inner#1", f"{shadow.id}/0/start:inner#1"]
    keys = [await app.run(child).record() for child in children]
    assert [one.queue for one in keys] == [SHADOW] * 2
    assert [one.key for one in keys] == ["base/0/inner#1", "chosen"]


async def test_a_child_that_nothing_answers_ends_its_parent(world: World) -> None:
    app = await world.open(inner, outer)
    the_app[:] = [app]
    shadow = await app.start(outer, "ada", queue=app.shadow())
    with pytest.raises(EffectSuppressed, match="its child"):
        await shadow.result(timeout=60)
    assert done == []


@declare
async def waits() -> Any:
    return await aura.receive("go")


@declare
async def tells(target: str, own: bool) -> list[str]:
    run = the_app[0].run(target)
    if own:
        child: Run[Any] = await the_app[0].start(waits)
        await child.signal("go", 2)
        return [str(await child.result())]
    await run.signal("go", 1)
    await the_app[0].emit("told", 1)
    return [await run.cancel()]


async def test_signals_reach_shadows_only(world: World) -> None:
    app = await world.open(waits, tells)
    the_app[:] = [app]
    production = await app.start(waits)
    run = await app.start(tells, production.id, False, queue=app.shadow())
    assert (await run.result(timeout=60))[0] in ("running", "waiting", "pending")
    assert await list_of(run) == [
        ("signal", "go", "nothing"),
        ("event", "told", "nothing"),
        ("cancel", production.id, "nothing"),
    ]
    assert (await production.record()).signals == 0
    assert not (await production.record()).cancel_requested
    mine = await app.start(tells, production.id, True, queue=app.shadow())
    assert await mine.result(timeout=60) == ["2"]
    assert await list_of(mine) == []
    await production.cancel()


async def test_an_update_has_no_answer(world: World) -> None:
    @declare
    async def asks(target: str) -> Any:
        return await the_app[0].run(target).update("name", 1)

    app = await world.open(waits, asks)
    the_app[:] = [app]
    production = await app.start(waits)
    run = await app.start(asks, production.id, queue=app.shadow())
    with pytest.raises(EffectSuppressed, match="update name"):
        await run.result(timeout=60)
    assert (await production.record()).signals == 0
    await production.cancel()


@step
def undo(receipt: Any) -> None:
    done.append("undo")


@declare
async def fails_late(account: str) -> None:
    async with aura.saga() as saga:
        await saga.step(charge, account, 3, compensate=undo)
        raise ValueError("late")


async def test_compensations_are_suppressed_too(world: World) -> None:
    app = await world.open(fails_late)
    baseline = await app.start(fails_late, "ada")
    with pytest.raises(RunFailed):
        await baseline.result(timeout=60)
    assert done == ["charge ada 3", "undo"]
    run = await app.start(
        declare(fails_late.function, "2.0.0", "fails_late"), "ada", queue=app.shadow(baseline.id)
    )
    with pytest.raises(RunFailed, match="late"):
        await run.result(timeout=60)
    assert await list_of(run) == [
        ("step", "charge", "baseline"), ("compensation", "undo", "baseline")
    ]  # fmt: skip
    assert done == ["charge ada 3", "undo"]


async def test_a_compensation_needs_no_answer(world: World) -> None:
    app = await world.open()

    @app.workflow(version="1.0.0", shadow={"charge": free})
    async def undone(account: str) -> None:
        async with aura.saga() as saga:
            await saga.step(charge, account, 3, compensate=undo)
            raise ValueError("late")

    run = await app.start(undone, "ada", queue=app.shadow())
    with pytest.raises(RunFailed, match="late"):
        await run.result(timeout=60)
    assert await list_of(run) == [
        ("step", "charge", "stub"), ("compensation", "undo", "nothing")
    ]  # fmt: skip
    assert done == []


async def test_a_transaction_is_not_made_twice(bank: Bank) -> None:
    @step.transaction
    async def deposit(tx: aura.engine.Transaction, cents: int) -> int:
        return await bank.add(tx, cents)

    @declare
    async def deposits() -> list[int]:
        async with aura.saga() as saga:
            return [await deposit(5), await saga.step(deposit, 6)]

    app = await opened(bank, deposits)
    baseline = await app.start(deposits)
    assert await baseline.result(timeout=60) == [105, 111]
    shadow = await app.start(deposits, queue=app.shadow(baseline.id))
    assert await shadow.result(timeout=60) == [105, 111]
    assert await bank.balance(app) == 111
    assert bank.ran == ["add 5", "add 6"]


async def test_the_apps_own_transaction_is_rolled_back(bank: Bank) -> None:
    """In an idempotent step, which runs, and with the events that it emits."""

    @step(idempotent=True)
    async def deposit(cents: int) -> int:
        async with bank.world.apps[0].transaction() as tx:
            await aura.emit("deposits", {"cents": cents})
            return await bank.add(tx, cents)

    @declare
    async def deposits() -> int:
        return await deposit(5)

    app = await opened(bank, deposits)
    shadow = await app.start(deposits, queue=app.shadow())
    assert await shadow.result(timeout=60) == 105  # it has seen what it would have done
    assert await bank.balance(app) == 100
    assert await app.store.events.topics() == []
    assert ("transaction", "app.transaction", "nothing") in [
        (one.what, one.name, one.answer) for one in await shadow.suppressed()
    ]
    real = await app.start(deposits)
    assert await real.result(timeout=60) == 105
    assert await bank.balance(app) == 105


async def test_events_of_idempotent_steps_are_held(world: World) -> None:
    @step(idempotent=True)
    async def chatty() -> int:
        await aura.emit("chat", {"n": 1})
        return 1

    @declare
    async def talks() -> int:
        return await chatty()

    app = await world.open(talks)
    run = await app.start(talks, queue=app.shadow())
    assert await run.result(timeout=60) == 1
    assert [(one.name, one.arguments) for one in await run.suppressed()] == [("chat", {"n": 1})]
    async with world.store() as store:
        assert [one.topic for one in await store.events.topics()] == []


async def test_a_run_started_in_a_step_is_a_shadow_too(world: World) -> None:
    @step(idempotent=True)
    async def begins() -> str:
        run: Run[Any] = await the_app[0].start(inner, "ada", id="side")
        return run.id

    @declare
    async def starts() -> str:
        return await begins()

    app = await world.open(inner, starts)
    the_app[:] = [app]
    run = await app.start(starts, queue=app.shadow())
    assert await run.result(timeout=60) == "shadow-side"
    with pytest.raises(EffectSuppressed):
        await app.run("shadow-side").result(timeout=60)
    assert done == []


async def test_a_shadow_goes_on_after_a_crash_and_lists_each_effect_once(world: World) -> None:
    @declare
    async def long(account: str) -> list[Any]:
        receipt = await charge(account, 500)
        await aura.receive("go")
        return [receipt, await mail(account, "thanks")]

    app = await world.open(long, lease=60.0)
    baseline = await app.start(long, "ada")
    await baseline.signal("go")
    expected = await baseline.result(timeout=60)
    shadow = await shadow_of(baseline, app, long, "ada")

    async def has_begun() -> bool:
        return len(await shadow.suppressed()) == 1

    await until(has_begun)
    before = list(done)
    await world.crash(app)
    app = await world.open(long)
    shadow = app.run(shadow.id)
    await shadow.signal("go")
    assert await shadow.result(timeout=60) == expected
    assert await list_of(shadow) == [("step", "charge", "baseline"), ("step", "mail", "baseline")]
    assert done == before
    keys = [one.key for one in await world.journal(shadow.id) if one.kind == "suppressed"]
    assert keys == ["0/charge#1", "0/mail#1"]


async def test_forks_and_new_executions_stay_shadows(world: World) -> None:
    @declare
    async def again(left: int) -> int:
        await charge("ada", left)
        if left:
            aura.continue_as_new(left - 1)
        return left

    app = await world.open(again)
    baseline = await app.start(again, 0)
    await baseline.result(timeout=60)
    shadow = await app.start(again, 0, queue=app.shadow(baseline.id))
    await shadow.result(timeout=60)
    fork = await shadow.fork(at="0/charge#1")
    assert await fork.result(timeout=60) == 0
    assert await list_of(fork) == [("step", "charge", "baseline")]
    continued = await app.start(again, 1, queue=app.shadow(baseline.id))
    with pytest.raises(EffectSuppressed):
        await continued.result(timeout=60)
    assert done == ["charge ada 0"]


async def test_production_is_not_delayed_by_shadows(world: World) -> None:
    """A queue full of shadows that never end leaves room for everything else."""

    @declare
    async def stuck() -> None:
        await aura.receive("never")

    app = await world.open(stuck, inner, capacity=20)
    app.queue("aura.shadow.slow", concurrency=2)
    place_ = app.shadow(line="slow")
    shadows = [await app.start(stuck, queue=place_) for _ in range(6)]
    for _ in range(5):
        run = await app.start(inner, "ada")
        assert (await run.result(timeout=60))["cents"] == 7
    for one in shadows:
        await one.cancel()


async def test_a_shadow_has_a_deadline(world: World) -> None:
    app = await world.open(waits)
    run = await app.start(waits, queue=app.shadow(), deadline=0.2)
    with pytest.raises(RunFailed, match="DeadlineExceeded"):
        await run.result(timeout=60)


async def test_the_queue_is_declared_by_its_first_use_and_limits_of_others_stay(
    world: World,
) -> None:
    app = await world.open(inner)
    app.queue(SHADOW, concurrency=3)
    run = await app.start(inner, "ada", queue=app.shadow())
    with pytest.raises(EffectSuppressed):
        await run.result(timeout=60)
    other = await world.open(inner)
    await (await other.start(inner, "ada")).result(timeout=60)
    await other.start(inner, "ada", queue=other.shadow())
    limits = {one.name: one.limits.concurrency for one in await other.store.queues()}
    assert limits[SHADOW] == 3
    run = await other.start(inner, "ada", queue=other.shadow(line="b"))
    limits = {one.name: one.limits.concurrency for one in await other.store.queues()}
    assert limits["aura.shadow.b"] == 8


async def test_a_shadow_is_replayed_against_other_code(world: World) -> None:
    app = await world.open(order)
    baseline = await app.start(order, "ada")
    await baseline.result(timeout=60)
    shadow = await shadow_of(baseline, app, order, "ada")
    await shadow.result(timeout=60)
    before = list(done)
    history = Claimed(await shadow.record(), await world.journal(shadow.id))

    async def other(account: str) -> Any:
        return await mail(account, "first")

    same = await rehearse(order, history)
    assert (same.diverges, same.result_differs, same.reason) == (False, False, ""), same
    differs = await rehearse(declare(other, name="order"), history)
    assert differs.diverges
    assert done == before


@pytest.mark.parametrize("key", ["a:" + "A" * 43 + "="])
async def test_an_encrypted_list_is_shown_as_such(tmp_path: Path, key: str) -> None:
    world = World(str(tmp_path / "aura.db"))
    app = await world.open(unanswered, encryption_keys=(key,))
    run = await app.start(unanswered, id="s", queue=app.shadow())
    with pytest.raises(EffectSuppressed):
        await run.result(timeout=60)
    assert (await run.suppressed())[0].name == "charge"
    await world.close()
    blind = await world.open(unanswered, worker=False)
    (one,) = await blind.run("s").suppressed()
    assert (one.name, one.answer, one.arguments) == ("charge", "encrypted", None)
    await world.close()


def test_the_mark_is_the_queue() -> None:
    assert is_shadow(SHADOW)
    assert is_shadow("aura.shadow.x")
    assert not any(is_shadow(one) for one in (None, "", "shadow", "aura.shadows"))
    assert shadow_place("r") == place(SHADOW, key="r")


def test_what_cannot_be_a_stub() -> None:
    with pytest.raises(RegistrationError, match="needs a function"):
        step(shadow=5)(charge.function)  # type: ignore[call-overload]
    app = aura.Aura("stubs", config=aura.Config(database=":memory:"))
    with pytest.raises(RegistrationError, match="needs a function"):
        app.workflow(version="1.0.0", shadow={"charge": None})  # type: ignore[dict-item]


def entry(seq: int, key: str, kind: str = "step", fingerprint: str = "f") -> Entry:
    return Entry("r", seq, key, kind, fingerprint, None, b"%d" % seq, None, 1, 0.0, 0.0)


def test_the_baseline_answers_by_key_then_by_name() -> None:
    baseline = Baseline(
        [entry(1, "0.1/charge#1"), entry(2, "0/charge#2"), entry(3, "0/now#1", "value", "")]
    )
    exact, alike = baseline.step("0/charge#2", "f"), baseline.step("0/charge#9", "f")
    assert exact is not None
    assert alike is not None
    assert (exact.output, alike.output) == (b"2", b"1")
    assert baseline.step("0/charge#2", "other") is None
    assert baseline.step("0/refund#1", "f") is None
    assert baseline.value("0/now#1") is not None


def test_nobody_is_asked_for_what_was_suppressed() -> None:
    journal = [entry(1, "0/a#1", "suppressed"), entry(2, "0/a#1")]
    replay = Replay(journal)
    assert replay.take("0/a#1", "step", "f", None) == journal[1]
    assert replay.exhausted


def test_each_effect_is_listed_once() -> None:
    said = b'{"what":"step","name":"a","answer":"stub"}'
    journal = [entry(n, "0/a#1", "suppressed")._replace(output=said) for n in (1, 2)]
    assert [one.key for one in suppressed(journal)] == ["0/a#1"]
