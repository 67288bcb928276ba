"""False alarms and detection, by simulation: `python -m benchmarks.statistics`.

Streams of requests are drawn, seeded, and judged after every event by the guards' evidence (a copy
for arrays, which tests prove equal to `aura.delivery.guard`), by the guards themselves where units
are sticky, and by what others do: Welch's t with peeking, the Mann-Whitney test of Kayenta's judge,
and a fixed threshold. Each of those is calibrated: its limit is the one at which as many streams
without a regression trip as with the guard. Prints the tables of docs/statistics.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaln, log_ndtr

from aura.delivery.guard import Guard, GuardState
from aura.delivery.observation import Observation
from aura.stats import means
from aura.stats.eprocess import RISKS, WIDE

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CHUNK = 250
"""Streams at a time: what fits into memory."""

SHARES = (0.01, 0.05, 0.10, 0.50)
STAGES = (0.01, 0.05, 0.10, 0.50)
SLA = 0.8
SPREAD = 0.6
"""Standard deviation of the logarithm of a latency; its median is 300 ms."""

WARM_UP = 50
"""Requests of the candidate before Welch's t is asked."""

INTERVAL = 200
"""Requests over both arms in one point of Kayenta's time series."""

WINDOWS = (50, 200, 500)
"""Requests of the candidate in a fixed threshold's window."""


# -- the guards' evidence, for arrays ----------------------------------------------------------


def log_excess(s1: Floats, s0: Floats, null: float) -> Floats:
    """`aura.stats.eprocess.log_excess` for arrays."""
    with np.errstate(divide="ignore"):
        value = betaln(1 + s1, 1 + s0) - s1 * math.log(null) - s0 * math.log1p(-null)
        value += np.log(betainc(1 + s0, 1 + s1, 1 - null)) - math.log1p(-null) + math.log(WIDE)
    for risk, weight in RISKS:
        scale = math.log1p(null * (risk - 1))
        part = s1 * math.log(risk) - (s1 + s0) * scale + math.log(weight)
        value = np.logaddexp(value, part)
    return np.asarray(value)


def log_mixture(segments: Sequence[Floats], planned: int) -> Floats:
    """`aura.stats.eprocess.log_mixture` for arrays of the same shape."""
    total = np.zeros_like(segments[0])
    found = np.full_like(total, -math.inf if len(segments) >= planned else 0.0)
    if planned > len(segments):
        found += math.log(planned - len(segments))
    for index in range(len(segments) - 1, -1, -1):
        total = total + segments[index]
        found = np.logaddexp(found, total)
    return np.asarray(found - math.log(planned))


# -- false alarms ------------------------------------------------------------------------------


def chunks(streams: int) -> Iterator[int]:
    """How many streams to draw at a time."""
    while streams > 0:
        yield min(CHUNK, streams)
        streams -= CHUNK


def failing(generator: np.random.Generator, streams: int, requests: int, pattern: str) -> Floats:
    """Each request's probability to fail, the same on both arms."""
    if pattern == "constant":
        return np.full((streams, requests), 0.05)
    # bursts: now and then everything fails half of the time, for a while
    begins = generator.random((streams, requests)) < 0.002
    since = np.where(begins, np.arange(requests), -requests)
    since = np.arange(requests) - np.maximum.accumulate(since, axis=1)
    return np.where(since < 100, 0.5, 0.01)


def false_alarms(
    share: float, pattern: str, streams: int, *, requests: int, alpha: float, seed: int = 1
) -> float:
    """The part of the streams without a regression that ever trip, looked at at every failure."""
    generator = np.random.default_rng([seed, round(share * 1e4)])
    tripped = 0
    for count in chunks(streams):
        fails = generator.random((count, requests)) < failing(generator, count, requests, pattern)
        on = generator.random((count, requests)) < share
        s1 = np.cumsum(fails & on, axis=1, dtype=np.float64)
        s0 = np.cumsum(fails & ~on, axis=1, dtype=np.float64)
        s1, s0 = at_events(fails, s1), at_events(fails, s0)
        tripped += int((log_excess(s1, s0, share).max(axis=1) >= -math.log(alpha)).sum())
    return tripped / streams


def at_events(events: Bools, values: Floats) -> Floats:
    """The values at each stream's events only; streams with fewer repeat their last one."""
    most = max(1, int(events.sum(axis=1).max()))
    order = np.argsort(~events, axis=1, kind="stable")[:, :most]
    last = np.maximum(events.sum(axis=1, keepdims=True) - 1, 0)
    order = np.where(np.arange(most) <= last, order, np.take_along_axis(order, last, axis=1))
    none = ~events.any(axis=1, keepdims=True)
    return np.where(none, 0.0, np.take_along_axis(values, order, axis=1))


def false_alarms_over_stages(streams: int, *, failures: int, alpha: float, seed: int = 2) -> float:
    """The same over a plan of four stages with as many failures in each."""
    generator = np.random.default_rng(seed)
    tripped = 0
    for count in chunks(streams):
        done: list[Floats] = []
        found = np.full(count, -math.inf)
        for share in STAGES:
            on = generator.random((count, failures)) < share
            s1 = np.cumsum(on, axis=1, dtype=np.float64)
            here = log_excess(s1, np.arange(1, failures + 1) - s1, share)
            before = [np.repeat(each[:, None], failures, axis=1) for each in done]
            found = np.maximum(found, log_mixture([*before, here], len(STAGES)).max(axis=1))
            done.append(here[:, -1])
        tripped += int((found >= -math.log(alpha)).sum())
    return tripped / streams


def false_alarms_of_sticky_units(
    per: str, streams: int, *, alpha: float, units: int = 60, seed: int = 3
) -> float:
    """The guards themselves, over four stages with units that stay where they are.

    A fifth of the units are broken clients: all their requests fail, on either arm. How many
    requests a unit sends in a stage is heavy-tailed (Pareto with the exponent 1.2, at most 50).
    """
    generator = np.random.default_rng(seed)
    tripped = 0
    for _ in range(streams):
        guard = GuardState(
            Guard(kind="errors", alpha=alpha, segments=len(STAGES), per=per),  # type: ignore[arg-type]
            "base",
            "cand",
        )
        places = generator.random(units)
        broken = np.flatnonzero(generator.random(units) < 0.2)
        for share in STAGES:
            often = np.minimum(50, np.ceil(generator.pareto(1.2, units))).astype(int)
            order = generator.permutation(np.repeat(broken, often[broken]))
            for at, unit in enumerate(order):
                arm = "cand" if places[unit] < share else "base"
                guard.fold(Observation("s", 1, arm, str(unit), float(at), False, 0.1, share=share))
        tripped += guard.trip is not None
    return tripped / streams


# -- detection ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A regression of the candidate: its error rate, or what becomes of its latencies (a factor
    for all of them, and the probability to hang for 5 s)."""

    name: str
    share: float
    base: float = 0.05
    cand: float = 0.05
    slower: float = 1.0
    hangs: float = 0.0
    of_latency: bool = False

    @property
    def without(self) -> Case:
        """The same with a candidate as good as the baseline."""
        return replace(self, cand=self.base, slower=1.0, hangs=0.0)


@dataclass
class Looks:
    """What is known at each look: requests of both arms, failures (late requests) of both, and
    sums and sums of squares of what the means are taken of."""

    n1: Floats
    n0: Floats
    s1: Floats
    s0: Floats
    sums: tuple[Floats, Floats]
    squares: tuple[Floats, Floats]
    over: Bools
    """The horizon is over before this look."""


@dataclass
class Scores:
    """A judge's scores at its looks, the higher the worse, and the candidate's requests and
    failures (late requests) by then."""

    scores: Floats
    requests: Floats
    events: Floats


def errors_at_failures(
    generator: np.random.Generator, case: Case, streams: int, horizon: int
) -> Looks:
    """Looks at each failed request: between two of them lie geometrically many good ones."""
    rate = case.share * case.cand + (1 - case.share) * case.base
    most = int(horizon * rate + 6 * math.sqrt(horizon * rate)) + 5
    gap = generator.geometric(rate, (streams, most))
    good = generator.binomial(gap - 1, case.share * (1 - case.cand) / (1 - rate))
    on = generator.random((streams, most)) < case.share * case.cand / rate
    s1 = np.cumsum(on, axis=1, dtype=np.float64)
    s0 = np.arange(1, most + 1) - s1
    n = np.cumsum(gap, axis=1, dtype=np.float64)
    n1 = np.cumsum(good, axis=1) + s1
    return Looks(n1, n - n1, s1, s0, (s1, s0), (s1, s0), n > horizon)


def latencies_at_late_ones(
    generator: np.random.Generator, case: Case, streams: int, horizon: int
) -> Looks:
    """Looks at each late request; latencies are log-normal with a median of 300 ms."""
    on, seconds = latencies(generator, case, streams, horizon)
    late = seconds > SLA
    parts: list[NDArray[Any]] = [on, ~on, late & on, late & ~on]
    parts += [np.where(on, seconds, 0), np.where(on, 0, seconds)]
    parts += [part**2 for part in parts[-2:]]
    found = [at_events(late, np.cumsum(part, axis=1, dtype=np.float64)) for part in parts]
    n1, n0, s1, s0, one, two, one2, two2 = found
    return Looks(n1, n0, s1, s0, (one, two), (one2, two2), np.zeros(n1.shape, dtype=bool))


def latencies(
    generator: np.random.Generator, case: Case, streams: int, horizon: int
) -> tuple[Bools, Floats]:
    """Which requests the candidate got, and the seconds of each."""
    on = generator.random((streams, horizon)) < case.share
    seconds = 0.3 * np.exp(SPREAD * generator.standard_normal((streams, horizon)))
    seconds = np.where(on, seconds * case.slower, seconds)
    hangs = on & (generator.random((streams, horizon)) < case.hangs)
    return on, np.where(hangs, 5.0, seconds)


def _scores(looks: Looks, scores: Floats) -> Scores:
    return Scores(np.where(looks.over, -math.inf, scores), looks.n1, looks.s1)


def by_guard(looks: Looks, case: Case) -> Scores:
    """ln E of the guard."""
    return _scores(looks, log_excess(looks.s1, looks.s0, case.share))


def by_welch(looks: Looks, case: Case) -> Scores:
    """Welch's t, one-sided, after `WARM_UP` requests of the candidate."""
    del case
    off, squared = difference(looks)
    ready = (looks.n1 >= WARM_UP) & (squared > 0)
    return _scores(looks, np.where(ready, off / np.sqrt(np.maximum(squared, 1e-15)), -9.0))


def by_means(looks: Looks, case: Case) -> Scores:
    """ln E of `aura.stats.means`, one-sided."""
    del case
    off, squared = difference(looks)
    x = (looks.n1 + looks.n0) * (means.boundary(0.01) ** 2 - 1) / means.PLANNED
    z = off / np.sqrt(np.maximum(squared, 1e-15))
    log_e = z * z * x / (2 * (x + 1)) - np.log1p(x) / 2
    log_e += math.log(2) + log_ndtr(z * np.sqrt(x / (x + 1)))
    ready = (np.minimum(looks.n1, looks.n0) >= means.EARLIEST) & (squared > 0)
    return _scores(looks, np.where(ready, log_e, 0.0))


def by_z(looks: Looks, case: Case) -> Scores:
    """The pooled two-sample z of the rates: Mann-Whitney's test on single failed-or-not values."""
    del case
    n1, n0 = np.maximum(looks.n1, 1), np.maximum(looks.n0, 1)
    pooled = (looks.s1 + looks.s0) / (n1 + n0)
    spread = np.sqrt(np.maximum(pooled * (1 - pooled) * (1 / n1 + 1 / n0), 1e-15))
    return _scores(
        looks, np.where(looks.n1 >= WARM_UP, (looks.s1 / n1 - looks.s0 / n0) / spread, -9.0)
    )


def by_wald(looks: Looks, case: Case) -> Scores:
    """Wald's sequential test, told by how much the failures would rise: a lower bound."""
    rate = _late(case) if case.of_latency else case.cand
    base = _late(case.without) if case.of_latency else case.base
    risk = rate / base
    score = looks.s1 * math.log(risk)
    return _scores(looks, score - (looks.s1 + looks.s0) * math.log1p(case.share * (risk - 1)))


def _late(case: Case) -> float:
    """The candidate's probability to be late."""
    usual = 1 - NormalDist().cdf(math.log(SLA / 0.3 / case.slower) / SPREAD)
    return case.hangs + (1 - case.hangs) * usual


def difference(looks: Looks) -> tuple[Floats, Floats]:
    """The difference of the arms' means, and its squared standard error as Welch estimates it."""
    n1, n0 = np.maximum(looks.n1, 1), np.maximum(looks.n0, 1)
    one, two = looks.sums[0] / n1, looks.sums[1] / n0
    spread = np.maximum(looks.squares[0] / n1 - one**2, 0) / np.maximum(looks.n1 - 1, 1)
    spread += np.maximum(looks.squares[1] / n0 - two**2, 0) / np.maximum(looks.n0 - 1, 1)
    return one - two, spread


def by_kayenta(generator: np.random.Generator, case: Case, streams: int, horizon: int) -> Scores:
    """Mann-Whitney's z over the arms' means per interval, asked after each from the 5th on."""
    points = horizon // INTERVAL
    shape = (streams, points)
    if case.of_latency:
        on, seconds = latencies(generator, case, streams, points * INTERVAL)
        on, seconds = on.reshape(*shape, INTERVAL), seconds.reshape(*shape, INTERVAL)
        n1 = on.sum(axis=2).astype(np.float64)
        s1 = (on & (seconds > SLA)).sum(axis=2).astype(np.float64)
        one = np.where(on, seconds, 0).sum(axis=2) / np.maximum(n1, 1)
        two = np.where(on, 0, seconds).sum(axis=2) / np.maximum(INTERVAL - n1, 1)
    else:
        n1 = generator.binomial(INTERVAL, case.share, shape).astype(np.float64)
        s1 = generator.binomial(n1.astype(int), case.cand).astype(np.float64)
        one = s1 / np.maximum(n1, 1)
        rest = INTERVAL - n1
        two = generator.binomial(rest.astype(int), case.base) / np.maximum(rest, 1)
    wins = (one[:, :, None] > two[:, None, :]) + np.float32(0.5) * (
        one[:, :, None] == two[:, None, :]
    )
    u = np.diagonal(wins.cumsum(axis=1).cumsum(axis=2), axis1=1, axis2=2)
    n = np.arange(1, points + 1)
    z = np.where(n >= 5, (u - n * n / 2) / np.sqrt(n * n * (2 * n + 1) / 12), -9.0)
    return Scores(z, np.cumsum(n1, axis=1), np.cumsum(s1, axis=1))


def by_threshold(
    generator: np.random.Generator, case: Case, streams: int, horizon: int, window: int
) -> Scores:
    """The mean of the candidate's last `window` requests, asked after each of them."""
    requests = round(horizon * case.share)
    if case.of_latency:
        alone = replace(case, share=1.0)
        _, values = latencies(generator, alone, streams, requests)
        events = values > SLA
    else:
        events = generator.random((streams, requests)) < case.cand
        values = events.astype(np.float64)
    total = np.pad(np.cumsum(values, axis=1), ((0, 0), (1, 0)))
    mean = (total[:, window:] - total[:, :-window]) / window
    seen = np.broadcast_to(np.arange(window, requests + 1, dtype=np.float64), mean.shape)
    return Scores(mean, seen, np.cumsum(events, axis=1, dtype=np.float64)[:, window - 1 :])


OF_LOOKS: dict[str, Callable[[Looks, Case], Scores]] = {
    "guard": by_guard,
    "Welch's t, peeking": by_welch,
    "z of single requests": by_z,
    "means (confidence sequence)": by_means,
    "Wald's test, told the truth": by_wald,
}

CASES = (
    Case("errors 5 to 10 %, share 10 %", 0.10, 0.05, 0.10),
    Case("errors 5 to 7.5 %, share 10 %", 0.10, 0.05, 0.075),
    Case("errors 5 to 10 %, share 50 %", 0.50, 0.05, 0.10),
    Case("errors 1 to 5 %, share 5 %", 0.05, 0.01, 0.05),
    Case("errors 0.5 to 50 %, share 5 %", 0.05, 0.005, 0.50),
    Case("latency: all 25 % slower, share 10 %", 0.10, slower=1.25, of_latency=True),
    Case("latency: 5 % hang for 5 s, share 10 %", 0.10, hangs=0.05, of_latency=True),
)


@dataclass(frozen=True)
class Row:
    """One judge: its limit, the part of the null streams that it trips, the part of the
    regressions that it finds, and the candidate's requests and events until then (means)."""

    judge: str
    limit: float
    alarms: float
    power: float
    requests: float
    events: float


def judged(
    generator: np.random.Generator, case: Case, streams: int, horizon: int, *, null: bool = False
) -> dict[str, Scores]:
    """What every judge says about so many new streams, of that case or without a regression."""
    drawn = case.without if null else case
    draw = latencies_at_late_ones if case.of_latency else errors_at_failures
    looks = draw(generator, drawn, streams, horizon)
    found = {name: judge(looks, case) for name, judge in OF_LOOKS.items()}
    found["Mann-Whitney (Kayenta)"] = by_kayenta(generator, drawn, streams, horizon)
    for window in WINDOWS:
        last = by_threshold(generator, drawn, streams, horizon, window)
        found[f"threshold, last {window}"] = last
    return found


def detection(
    case: Case, streams: int, *, horizon: int, alpha: float = 0.01, seed: int = 5
) -> list[Row]:
    """Every judge on that case; the others' limits are set to the guard's own false alarms."""
    generator = np.random.default_rng(seed)
    worst: dict[str, list[Floats]] = {}
    for count in chunks(streams):
        for name, found in judged(generator, case, count, horizon, null=True).items():
            worst.setdefault(name, []).append(found.scores.max(axis=1))
    scores = {name: np.concatenate(found) for name, found in worst.items()}
    ours = float((scores["guard"] >= -math.log(alpha)).mean())
    limits = {name: _limit(found, ours) for name, found in scores.items()}
    limits["guard"] = -math.log(alpha)
    delays: dict[str, list[Floats]] = {}
    for count in chunks(max(CHUNK, streams // 5)):
        for name, found in judged(generator, case, count, horizon).items():
            delays.setdefault(name, []).append(_delays(found, limits[name]))
    rows = []
    for name, parts in delays.items():
        power, requests, events = (float(x) for x in np.concatenate(parts, axis=1).mean(axis=1))
        alarms = float((scores[name] >= limits[name]).mean())
        rows.append(Row(name, limits[name], alarms, power, requests, events))
    return rows


def _limit(scores: Floats, alarms: float) -> float:
    """The lowest limit that at most that part of the scores reaches."""
    ordered = np.sort(scores)
    return float(np.nextafter(ordered[-math.floor(alarms * len(ordered)) - 1], np.inf))


def _delays(found: Scores, limit: float) -> Floats:
    """For each stream: found or not, and the candidate's requests and events until then (or
    until the horizon)."""
    hit = found.scores >= limit
    last = np.where(np.isneginf(found.scores), -1, np.arange(hit.shape[1])).max(axis=1)
    look = np.where(hit.any(axis=1), hit.argmax(axis=1), np.maximum(last, 0))
    rows = np.arange(len(look))
    return np.stack([hit.any(axis=1), found.requests[rows, look], found.events[rows, look]]).astype(
        np.float64
    )


# -- tables ------------------------------------------------------------------------------------


def print_alarms(streams: int, alpha: float) -> None:
    """False alarms: every pattern at every share, then changing weights and sticky units."""
    print(f"\n| traffic | share | streams that trip (alpha = {alpha:.0%}) |\n| --- | --- | --- |")
    for pattern in ("constant", "bursts"):
        for share in SHARES:
            part = false_alarms(share, pattern, streams, requests=10_000, alpha=alpha)
            print(f"| {pattern} | {share:.0%} | {part:.2%} |", flush=True)
    stages = ", ".join(f"{share:.0%}" for share in STAGES)
    part = false_alarms_over_stages(streams, failures=500, alpha=alpha)
    print(f"| weights change | {stages} | {part:.2%} |", flush=True)
    for per in ("unit", "request"):
        part = false_alarms_of_sticky_units(per, streams, alpha=alpha)
        print(f"| sticky units, per {per} | {stages} | {part:.2%} |", flush=True)


def print_detection(streams: int, horizon: int) -> None:
    """Every case with every judge, the best first."""
    for case in CASES:
        # Latencies are drawn one by one: fewer streams, and a shorter horizon.
        few, short = (streams // 5, horizon // 2) if case.of_latency else (streams, horizon)
        rows = sorted(detection(case, few, horizon=short), key=lambda row: row.requests)
        what = "late requests" if case.of_latency else "failures"
        print(f"\n{case.name} ({few:,} streams of {short:,} requests)\n")
        print(f"| judge | false alarms | found | candidate's requests | {what} |")
        print("| --- | --- | --- | --- | --- |")
        for row in rows:
            figures = f"{row.alarms:.2%} | {row.power:.1%} | {row.requests:.0f} | {row.events:.1f}"
            print(f"| {row.judge} | {figures} |", flush=True)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=10_000, help="per row (default: 10,000)")
    parser.add_argument("--horizon", type=int, default=50_000, help="requests in a stream")
    parser.add_argument("--alpha", type=float, default=0.01, help="for the false alarms")
    given = parser.parse_args()
    print_alarms(given.streams, given.alpha)
    print_detection(given.streams, given.horizon)


if __name__ == "__main__":
    main()
