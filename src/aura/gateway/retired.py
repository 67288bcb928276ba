"""Targets that are taken out of service, as the gateway's callers see it.

Sunset and its link are those of RFC 8594, Deprecation is that of RFC 9745.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from email.utils import formatdate

from aura.delivery.retirement import EVERYWHERE, Notice
from aura.gateway.headers import PairList
from aura.gateway.problems import Problem


class Retired:
    """The notices of now, and how often each target was called in spite of them, by (path,
    target)."""

    def __init__(self) -> None:
        self._notices: Mapping[tuple[str, str], Notice] = {}
        self._calls: Counter[tuple[str, str]] = Counter()

    def obey(self, notices: Mapping[tuple[str, str], Notice]) -> None:
        """From the next request on."""
        self._notices = notices

    def of(self, path: str, target: str) -> Notice | None:
        """The notice for a target on a route's path."""
        if not self._notices:
            return None
        return self._notices.get((path, target)) or self._notices.get((EVERYWHERE, target))

    def gone(self, path: str, target: str) -> bool:
        """Whether the target may not be asked there any more."""
        notice = self.of(path, target)
        return notice is not None and not notice.served

    def count(self, path: str, target: str) -> None:
        """One more call of it."""
        key = (path, target) if (path, target) in self._notices else (EVERYWHERE, target)
        self._calls[key] += 1

    def take(self) -> Counter[tuple[str, str]]:
        """The calls since this was asked for last."""
        taken, self._calls = self._calls, Counter()
        return taken


def fields(notice: Notice) -> PairList:
    """What goes with an answer, given or refused."""
    found = [
        (b"deprecation", b"@%d" % notice.since),
        (b"sunset", formatdate(notice.until, usegmt=True).encode()),
    ]
    if notice.link:
        found.append((b"link", f'<{notice.link}>; rel="sunset"'.encode("latin-1", "replace")))
    return found


def gone(notice: Notice) -> Problem:
    """410 for callers of what is not served any more."""
    more = f"; see {notice.link}" if notice.link else ""
    detail = f"what served this path was taken out of service{more}"
    return Problem(410, "gone", detail, headers=tuple(fields(notice)))
