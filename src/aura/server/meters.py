"""The same metrics for OpenTelemetry: each is defined once, for Prometheus, and offered to a meter.

    Spec ──▶ /metrics
       └───▶ meter: counters and gauges are observed when its reader asks, durations recorded

Only when the process has a meter provider: its own code has set one, or AURA_TELEMETRY is on and
OTEL_METRICS_EXPORTER=otlp asks for one.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client.core import Metric

from aura.server import metrics as of_process
from aura.server import store_metrics as of_store
from aura.server.instruments import Durations, Key, Spec
from aura.telemetry.export import provide_meters

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Histogram, Observation

log = logging.getLogger("aura.server")

_ONE_LOOK = 0.5  # seconds in which the callbacks of one collection come


def specs() -> list[Spec]:
    """All metrics, in the order of their definitions."""
    return [
        one
        for module in (of_process, of_store)
        for one in vars(module).values()
        if isinstance(one, Spec)
    ]


class Meters:
    """Offers the metrics of a process to a meter. To be made on its event loop; `close` ends it."""

    def __init__(self, metrics: of_process.Metrics, provider: Any) -> None:
        self._metrics: of_process.Metrics | None = metrics
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._families: dict[str, Metric] = {}
        self._looked: float | None = None
        meter = provider.get_meter("aura")
        for one in metrics.durations:
            _record(one, meter)
        for spec in specs():
            if spec.kind == "histogram":
                continue
            counts = spec.kind == "counter"
            create = meter.create_observable_counter if counts else meter.create_observable_gauge
            create(spec.name, callbacks=[_Asked(self, spec)], description=spec.help)

    def close(self) -> None:
        """Observe nothing more."""
        metrics, self._metrics = self._metrics, None
        for one in metrics.durations if metrics else ():
            one.also = None

    def look(self, name: str) -> Metric | None:
        """That metric as it stood when this collection began, in the thread of the reader."""
        with self._lock:
            metrics = self._metrics
            now = 0.0 if metrics is None else metrics.apps[0].clock.monotonic()
            if metrics is None:
                return None
            if self._looked is None or now - self._looked > _ONE_LOOK:
                self._refresh(metrics)
                self._families = {one.name: one for one in metrics.others()}
                self._looked = metrics.apps[0].clock.monotonic()
            return self._families.get(name.removesuffix("_total")) or self._families.get(name)

    def _refresh(self, metrics: of_process.Metrics) -> None:
        """Read the store; a reader that is asked on the event loop gets what was read last."""
        if threading.get_ident() == self._thread or not self._loop.is_running():
            return
        looking = asyncio.run_coroutine_threadsafe(metrics.store.refresh(), self._loop)
        try:
            looking.result(of_store.PATIENCE + 1)
        except TimeoutError:
            looking.cancel()
            log.debug("the meters are without the store")


class _Asked:
    """What a reader calls for one metric."""

    def __init__(self, meters: Meters, spec: Spec) -> None:
        self._meters = meters
        self._spec = spec

    def __call__(self, _: CallbackOptions) -> Iterable[Observation]:
        family = self._meters.look(self._spec.name)
        return () if family is None else _observed(family)


def _observed(family: Metric) -> Iterator[Observation]:
    from opentelemetry.metrics import Observation

    for sample in family.samples:
        yield Observation(sample.value, dict(sample.labels))


def _record(durations: Durations, meter: Any) -> None:
    spec = durations.spec
    histogram: Histogram = meter.create_histogram(
        spec.name, unit="s", description=spec.help,
        explicit_bucket_boundaries_advisory=list(durations.limits),
    )  # fmt: skip
    named: dict[Key, dict[str, str]] = {}

    def record(key: Key, seconds: float) -> None:
        labels = named.get(key)
        if labels is None:
            labels = named[key] = dict(zip(spec.labels, key, strict=True))
        histogram.record(seconds, labels)

    durations.also = record


def offered(metrics: of_process.Metrics) -> Meters | None:
    """The metrics offered to the process's meter provider; None when it has none."""
    app = metrics.apps[0]
    provider = None
    if app.traced or "opentelemetry.metrics" in sys.modules:
        provider = provide_meters(app.name if app.traced else None)
    return None if provider is None else Meters(metrics, provider)
