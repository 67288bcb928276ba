"""One question for all who ask at once, and none of them gets an old answer."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from aura.engine.sharing import Shared


class Source:
    """Something that is asked, and that changes."""

    def __init__(self) -> None:
        self.value = 0
        self.asked = 0
        self.go = asyncio.Event()
        self.go.set()

    async def look(self) -> int:
        self.asked += 1
        seen = self.value
        await self.go.wait()
        return seen


async def ticks() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_many_ask_once_and_hear_what_was_there_when_they_asked() -> None:
    shared, source = Shared(), Source()
    source.go.clear()
    first = [asyncio.create_task(shared.ask("k", source.look)) for _ in range(100)]
    await ticks()
    assert source.asked == 1
    source.value = 1
    second = [asyncio.create_task(shared.ask("k", source.look)) for _ in range(100)]
    await ticks()
    assert source.asked == 1, "one question at a time"
    source.go.set()
    early = await asyncio.gather(*first)
    assert early[0] == 0
    assert set(early[1:]) == {1}, "who came after the question was put hears the next answer"
    assert await asyncio.gather(*second) == [1] * 100
    assert source.asked == 2
    assert await shared.ask("k", source.look) == 1
    assert source.asked == 3


async def test_who_is_cancelled_or_fails_takes_nothing_from_others() -> None:
    shared, source = Shared(), Source()
    source.go.clear()
    leaver = asyncio.create_task(shared.ask("k", source.look))
    stayer = asyncio.create_task(shared.ask("k", source.look))
    await ticks()
    leaver.cancel()
    with suppress(asyncio.CancelledError):
        await leaver
    source.go.set()
    assert await stayer == 0

    async def fails() -> int:
        raise LookupError("gone")

    for _ in range(2):
        with pytest.raises(LookupError):
            await shared.ask("k", fails)
    assert await shared.ask("k", source.look) == 0


async def test_under_any_order_an_answer_is_never_older_than_the_question() -> None:
    shared, source = Shared(), Source()

    async def asks(number: int) -> None:
        for turn in range(20):
            source.value += 1
            least = source.value
            assert await shared.ask("k", source.look) >= least
            if (number + turn) % 3 == 0:
                await asyncio.sleep(0)

    await asyncio.gather(*(asks(number) for number in range(20)))
    assert source.asked < 400
