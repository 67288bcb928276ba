"""Following a split: every process that obeys it hears of each new epoch, or learns that it cannot.

A message of the store tells that there is something new; twice a second a look makes up for lost
ones and confirms that what is obeyed is still the newest. A look that is not answered in time
confirms nothing: whoever needs to know obeys a split that is being moved only for a while then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from aura.clock import Clock
from aura.delivery.retirement import Notice, called, notices, retirements
from aura.delivery.split import Split
from aura.errors import AuraError

if TYPE_CHECKING:
    from aura.delivery.rollout import Engine

log = logging.getLogger("aura.delivery")

POLL = 0.5
"""Seconds between looks at a split, in case a message was lost."""

PATIENCE = 1.0
"""Seconds in which the database must answer; then it is asked anew, on another connection."""


class Follower:
    """Offers the epochs of one split to whoever obeys it; see `Rollouts.follow`."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        name: str,
        offer: Callable[[Split], object],
        confirm: Callable[[int, float], object] | None,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._name = name
        self._offer = offer
        self._confirm = confirm or (lambda _epoch, _moment: None)
        self._failing = False

    async def run(self) -> None:
        """Follow until it is cancelled."""
        async with self._engine.news(f"doc:split/{self._name}") as news:
            while True:
                news.clear()
                await self._look()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        await news.wait()

    async def _look(self) -> None:
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                document = await self._engine.store.document("split", self._name)
            if document is not None:
                self._offer(Split.from_json(document.body))
            self._confirm(document.epoch if document else 0, began)
        except (AuraError, TimeoutError) as error:
            self._say(str(error) or f"no answer within {PATIENCE:g} s")
        except Exception:  # the next epoch must be heard all the same
            log.exception("whoever follows split %s refused it", self._name)
        else:
            self._say("")

    def _say(self, failure: str) -> None:
        """Once when it begins to fail, and once when that is over."""
        if failure and not self._failing:
            log.warning("split %s cannot be read: %s", self._name, failure)
        elif self._failing and not failure:
            log.info("split %s can be read again", self._name)
        self._failing = bool(failure)


class Witness:
    """Keeps a gateway's notices of targets that are taken out of service, and writes down how often
    those were called. What is counted and not written when the process dies is lost."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        obey: Callable[[Mapping[tuple[str, str], Notice]], None],
        take: Callable[[], Counter[tuple[str, str]]],
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._obey = obey
        self._take = take
        self._kept: Counter[tuple[str, str]] = Counter()

    async def run(self) -> None:
        """Look and write until it is cancelled; what is counted by then is written."""
        news = asyncio.Event()
        stop = self._engine.store.listen(
            lambda topic: news.set() if topic.startswith("doc:retirement/") else None
        )
        try:
            while True:
                news.clear()
                await self.look()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(2 * POLL):
                        await news.wait()
        finally:
            stop()

    async def look(self) -> None:
        """Once. While the database is away the last notices hold, and calls wait."""
        try:
            self._obey(notices(await retirements(self._engine.store)))
            await self.write()
        except AuraError as error:
            log.debug("retirements cannot be read now: %s", error)

    async def write(self) -> None:
        """Write down what was counted. Raises StoreUnavailable; then it is kept."""
        self._kept += self._take()
        if self._kept:
            ops = called(self._kept, self._clock.now())
            await asyncio.gather(*(self._engine.writer.submit(op) for op in ops))
            self._kept.clear()
