"""Where spans and metrics go: to the provider that the process has, else to one made from OTEL_*
variables. Nothing of OpenTelemetry is imported before it is asked."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

log = logging.getLogger("aura.telemetry")


def provide(service: str) -> TracerProvider:
    """The process's tracer provider. When nobody has set one, and the SDK and its OTLP exporter are
    installed (the extra `otel`), one that exports as the OTEL_* variables say is set: by default to
    http://localhost:4318, under the name of the app."""
    from opentelemetry import trace as api
    from opentelemetry.trace import ProxyTracerProvider

    known = api.get_tracer_provider()
    if not isinstance(known, ProxyTracerProvider):
        return known
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return known
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk import trace as sdk
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        log.warning(
            "traces go nowhere: %s is not installed; pip install aura-workflows[otel], or set a "
            "tracer provider of your own", error.name,
        )  # fmt: skip
        return known
    made = sdk.TracerProvider(resource=_resource(service))
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    api.set_tracer_provider(made)
    return made


def provide_meters(service: str | None) -> Any:
    """The process's meter provider, or None. When nobody has set one, OTEL_METRICS_EXPORTER is
    "otlp" and a service is named, one that exports as the OTEL_* variables say is set."""
    from opentelemetry import metrics

    known = metrics.get_meter_provider()
    if not type(known).__module__.startswith("opentelemetry.metrics"):  # the API's own do nothing
        return known
    if service is None or os.environ.get("OTEL_METRICS_EXPORTER", "").strip() != "otlp":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    except ModuleNotFoundError as error:
        log.warning("metrics go nowhere: %s is not installed", error.name)
        return None
    made = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], _resource(service))
    metrics.set_meter_provider(made)
    return made


def _resource(service: str) -> Any:
    from opentelemetry.sdk.resources import Resource

    return Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME") or service})
