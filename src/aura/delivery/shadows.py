"""The shadow reports of an app: gathered in memory, kept in documents, one for each split and arm.

Several gateways add to one report, each what it has seen since it last wrote. What others have
added is read with that, so all of them know the same noise.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from aura.clock import Clock
from aura.delivery.shadow import (
    Finding,
    ShadowReport,
    Thresholds,
    add,
    merged,
    real,
    skip,
    violate,
)
from aura.errors import CodecError, DatabaseMoved, EpochConflict, StoreUnavailable
from aura.store.base import PutDocument, Store, Writer

log = logging.getLogger("aura.delivery")

KIND = "shadow"
_PERIOD = 1.0  # seconds between two writes
_TRIES = 20  # so often a write is made anew because another gateway was first

Place = tuple[str, str]


class ShadowDesk:
    """What copies have shown. It gathers also while it is not open; open, it writes."""

    def __init__(self, clock: Clock, limits: Thresholds = Thresholds()) -> None:  # noqa: B008
        self.limits = limits
        self._clock = clock
        self._known: dict[Place, ShadowReport] = {}
        self._new: dict[Place, ShadowReport] = {}
        self._pen: asyncio.Task[None] | None = None

    def open(self, store: Store, writer: Writer) -> None:
        """Begin to write."""
        self._store = store
        self._writer = writer
        self._pen = asyncio.create_task(self._keep(), name="aura-shadow-reports")

    async def close(self) -> None:
        """Write what is left. What the database does not take is lost, and logged."""
        if self._pen is None:
            return
        self._pen.cancel()
        await asyncio.gather(self._pen, return_exceptions=True)
        self._pen = None
        try:
            await self._write()
        except (StoreUnavailable, EpochConflict, DatabaseMoved) as error:
            log.warning("what shadow copies have shown last is lost: %s", error)
            self._new.clear()

    def found(self, split: str, arm: str, what: Finding) -> tuple[str, ...]:
        """Take in what a copy has shown; the fields that differ and are no noise. Never blocks."""
        place = (split, arm)
        now = self._clock.now()
        blank = ShadowReport(split, arm)
        self._new[place] = add(self._new.get(place, blank), what, now, self.limits)
        known = add(self._known.get(place, blank), what, now, self.limits)
        self._known[place] = known
        return real(known, what, self.limits)

    def skipped(self, split: str, arm: str, why: str) -> None:
        """Take in that a copy was not sent."""
        place = (split, arm)
        self._new[place] = skip(self._new.get(place, ShadowReport(split, arm)), why)

    def known(self, split: str, arm: str) -> ShadowReport:
        """The report as this process knows it."""
        return self._known.get((split, arm), ShadowReport(split, arm))

    def violated(self, split: str, arm: str, what: Iterable[str]) -> None:
        """Take in how an answer that a user got broke the contract."""
        place = (split, arm)
        self._new[place] = violate(self._new.get(place, ShadowReport(split, arm)), what)

    def paired(self, split: str, arm: str) -> int:
        """How many copies had a second answer of the baseline, as far as is known here."""
        return self.known(split, arm).paired

    async def reports(self, split: str) -> list[ShadowReport]:
        """The reports of a split, by arm, as they were last written."""
        documents = await self._store.documents(KIND)
        found = [ShadowReport.from_json(one.body) for one in documents]
        return sorted((one for one in found if one.split == split), key=lambda one: one.arm)

    async def splits(self) -> list[str]:
        """The splits that have a report, by name."""
        documents = await self._store.documents(KIND)
        return sorted({ShadowReport.from_json(one.body).split for one in documents})

    async def clear(self, split: str) -> int:
        """Begin the reports of a split anew; how many there were."""
        found = await self.reports(split)
        for one in found:
            blank = ShadowReport(one.split, one.arm)
            await self._writer.submit(PutDocument(KIND, _name(one), blank.to_json()))
            self._known.pop((one.split, one.arm), None)
        return len(found)

    async def _keep(self) -> None:
        while True:
            await self._clock.sleep(_PERIOD)
            try:
                await self._write()
            except DatabaseMoved as error:
                log.warning("shadow reports are not written any more: %s", error)
                return
            except (StoreUnavailable, EpochConflict) as error:
                log.debug("shadow reports are written later: %s", error)
            except Exception:
                log.exception("shadow reports could not be written in an unknown way")

    async def _write(self) -> None:
        for place in list(self._new):
            new = self._new.pop(place)
            try:
                whole = await self._add(new)
            except BaseException:
                self._new[place] = merged(new, self._new.get(place, ShadowReport(*place)))
                raise
            since = self._new.get(place)
            self._known[place] = whole if since is None else merged(whole, since)

    async def _add(self, new: ShadowReport) -> ShadowReport:
        """Add to what is written; the whole. Raises StoreUnavailable, EpochConflict."""
        for last in range(_TRIES - 1, -1, -1):
            document = await self._store.document(KIND, _name(new))
            epoch = 0 if document is None else document.epoch
            whole = new if document is None else merged(_read(document.body, new), new)
            try:
                await self._writer.submit(PutDocument(KIND, _name(new), whole.to_json(), epoch))
            except EpochConflict:
                if not last:
                    raise
            else:
                return whole
        raise AssertionError  # the loop ends by returning or raising


def _read(body: bytes, new: ShadowReport) -> ShadowReport:
    try:
        return ShadowReport.from_json(body)
    except CodecError as error:
        log.warning("a shadow report is begun anew: %s", error)
        return ShadowReport(new.split, new.arm)


def _name(report: ShadowReport) -> str:
    return f"{report.split}/{report.arm}"
