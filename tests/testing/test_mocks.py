"""Stand-ins for steps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

import aura
from aura import Aura, Config, Retry, RunFailed, StepFailed, step
from aura.errors import SandboxError
from aura.testing import Sandbox, mock_step

app = Aura("mocked", config=Config(database=":memory:"))


@step(retries=Retry(attempts=2, first=60.0))
async def charge(account: str, cents: int = 100) -> int:
    raise AssertionError("no test may charge anybody")


@step
def render(text: str) -> str:
    raise AssertionError("nor render")


@step
async def refund(receipt: int) -> None:
    raise AssertionError("nor refund")


@app.workflow(version="1.0.0")
async def order(account: str) -> str:
    receipt = await charge(account, cents=500)
    return await render(f"receipt {receipt}")


@app.workflow(version="1.0.0")
async def careful(account: str) -> str:
    try:
        async with aura.saga() as saga:
            receipt = await saga.step(charge, account, compensate=refund)
            [][receipt]  # the scope fails
    except IndexError:
        return "refunded"
    return "kept"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(app) as opened:
        yield opened


async def test_a_step_returns_what_the_test_says(sandbox: Sandbox) -> None:
    with mock_step(charge, returns=17) as charged, mock_step(render, calls=str.upper) as rendered:
        run = await sandbox.start(order, "ada", id="r")
        assert await run.result(timeout=30) == "RECEIPT 17"
    assert (charged.count, rendered.count) == (1, 1)
    assert (charged.last.args, charged.last.kwargs) == (("ada",), {"cents": 500})
    assert (charged.last.run, charged.last.key, charged.last.attempt) == ("r", "0/charge#1", 1)
    assert rendered.last.args == ("receipt 17",)


async def test_a_step_that_raises_is_tried_again_and_gives_up(sandbox: Sandbox) -> None:
    with mock_step(charge, raises=OSError("the bank")) as charged:
        run = await sandbox.start(order, "ada")
        with pytest.raises(RunFailed, match="after 3 attempts: OSError: the bank"):
            await run.result(timeout=30)
    assert [call.attempt for call in charged.calls] == [1, 2, 3]


async def test_an_exception_type_will_do(sandbox: Sandbox) -> None:
    with mock_step(charge, raises=KeyError) as charged:
        run = await sandbox.start(order, "ada")
        with pytest.raises(RunFailed, match="KeyError"):
            await run.result(timeout=30)
    assert charged.count == 3
    with mock_step(charge, raises=aura.NonRetryable("broke")) as charged:
        run = await sandbox.start(order, "ada")
        with pytest.raises(RunFailed, match="NonRetryable: broke"):
            await run.result(timeout=30)
    assert charged.count == 1


async def test_a_function_stands_for_the_step(sandbox: Sandbox) -> None:
    answers: list[Any] = [OSError("busy"), 3]

    async def bank(account: str, cents: int) -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return int(answer) * cents

    with mock_step(charge, calls=bank) as charged, mock_step(render, returns="done"):
        assert await (await sandbox.start(order, "ada")).result(timeout=30) == "done"
    assert charged.count == 2


async def test_what_a_mock_returns_must_fit_the_step(sandbox: Sandbox) -> None:
    with mock_step(charge, returns="not a number"):
        run = await sandbox.start(order, "ada")
        with pytest.raises(RunFailed, match="step charge"):
            await run.result(timeout=30)


async def test_compensations_are_steps_too(sandbox: Sandbox) -> None:
    with mock_step(charge, returns=17), mock_step(refund, returns=None) as refunded:
        assert await (await sandbox.start(careful, "ada")).result(timeout=30) == "refunded"
    assert refunded.last.args == () or refunded.last.args == (17,)
    assert 17 in (*refunded.last.args, *refunded.last.kwargs.values())


async def test_a_replay_does_not_call_the_mock(sandbox: Sandbox) -> None:
    sandbox.crash_at(after="0/charge#1")
    with mock_step(charge, returns=17) as charged, mock_step(render, returns="done"):
        assert await (await sandbox.start(order, "ada")).result(timeout=30) == "done"
    assert sandbox.crashes == 1
    assert charged.count == 1


async def test_outside_a_run_it_stands_in_as_well() -> None:
    with mock_step(charge, returns=5) as charged, mock_step(render, returns="text"):
        assert await charge("ada", 1) == 5
        rendered: Any = render("x")  # a plain def, outside a run, is a plain call
        assert rendered == "text"
    assert charged.last.run == ""
    with pytest.raises(AssertionError, match="charge anybody"):
        await charge("ada", 1)


async def test_the_step_is_itself_again_after_an_error() -> None:
    with pytest.raises(KeyError), mock_step(charge, returns=5):
        raise KeyError
    with pytest.raises(AssertionError, match="charge anybody"):
        await charge("ada")


def test_wrong_use_says_what_to_do() -> None:
    def plain() -> None: ...

    async def later(text: str) -> str:
        return text

    with pytest.raises(SandboxError, match="is not a step"), mock_step(plain, returns=1):  # type: ignore[arg-type]
        pass
    with pytest.raises(SandboxError, match="is not a step"), mock_step("charge", returns=1):  # type: ignore[arg-type]
        pass
    with pytest.raises(SandboxError, match="exactly one"), mock_step(charge):
        pass
    twice = mock_step(charge, returns=1, raises=OSError)
    with pytest.raises(SandboxError, match="exactly one"), twice:
        pass
    first, second = mock_step(charge, returns=1), mock_step(charge, returns=2)
    with pytest.raises(SandboxError, match="mocked already"), first, second:
        pass
    with pytest.raises(SandboxError, match="plain function"), mock_step(render, calls=later):
        pass
    bare = mock_step(charge, raises=aura.NonRetryable)
    with pytest.raises(SandboxError, match="not its type"), bare:
        pass
    with mock_step(charge, returns=1) as mock, pytest.raises(SandboxError, match="not called"):
        _ = mock.last


async def test_none_can_be_returned(sandbox: Sandbox) -> None:
    with mock_step(refund, returns=None) as refunded:
        await refund(1)
    assert refunded.count == 1


def test_a_step_that_fails_says_so_in_the_type() -> None:
    assert issubclass(StepFailed, aura.AuraError)
