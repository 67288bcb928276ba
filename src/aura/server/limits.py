"""Who asks too often: guesses at tokens by address, requests by token. Pure; times are seconds of
any clock that does not go back. Both remember a bounded number of names, the latest ones."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass, field

FREE_GUESSES = 5
LONGEST_LOCK = 300.0
FORGOTTEN_AFTER = 900.0
MOST_ADDRESSES = 10_000
MOST_TOKENS = 16
RATE, BURST = 100.0, 200.0
"""Requests per second of one token, and how many it may save up."""


@dataclass(slots=True)
class _Guesser:
    failures: int = 0
    last: float = 0.0
    locked_until: float = 0.0
    tokens: OrderedDict[str, None] = field(default_factory=OrderedDict)


class Guesses:
    """Locks addresses out that bring wrong tokens: the first 5 are free, then each one locks its
    address for twice as long as the one before, 1 s to 5 minutes. A token that was right from there
    before stays welcome, so that one bad neighbour behind a proxy shuts nobody out."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Guesser] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def locked(self, address: str, now: float, token: str = "") -> float:
        """For how many seconds yet the address is locked out, for this token's id; 0 if not."""
        one = self._known.get(network(address))
        if one is None or token in one.tokens:
            return 0.0
        return max(0.0, one.locked_until - now)

    def wrong(self, address: str, now: float) -> None:
        """A wrong token came from there."""
        one = self._entry(address)
        if now - one.last > FORGOTTEN_AFTER:
            one.failures = 0
        one.failures += 1
        one.last = now
        over = one.failures - FREE_GUESSES
        if over >= 0:
            one.locked_until = now + min(LONGEST_LOCK, 2.0 ** min(over, 30))

    def right(self, address: str, token: str) -> None:
        """The token with that id was right."""
        one = self._entry(address)
        one.tokens[token] = None
        one.tokens.move_to_end(token)
        while len(one.tokens) > MOST_TOKENS:
            one.tokens.popitem(last=False)

    def _entry(self, address: str) -> _Guesser:
        name = network(address)
        one = self._known.setdefault(name, _Guesser())
        self._known.move_to_end(name)
        while len(self._known) > MOST_ADDRESSES:
            self._known.popitem(last=False)
        return one


class Rates:
    """A bucket per token: `burst` requests at once, `rate` per second in the long run."""

    def __init__(
        self, rate: float = RATE, burst: float = BURST, most: int = MOST_ADDRESSES
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._most = most
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, token: str, now: float) -> float:
        """0 when a request may go on; else in how many seconds there is room for it."""
        left, at = self._buckets.get(token, (self._burst, now))
        left = min(self._burst, left + max(0.0, now - at) * self._rate)
        wait = 0.0 if left >= 1 else (1 - left) / self._rate
        self._buckets[token] = (left if wait else left - 1, now)
        self._buckets.move_to_end(token)
        while len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return wait


def network(address: str) -> str:
    """An IPv4 address itself; of an IPv6 one its /64, which is what one client has."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:100]
    if found.version == 4:
        return str(found)
    mapped = found.ipv4_mapped
    return str(mapped or ipaddress.ip_network((int(found), 64), strict=False).network_address)
