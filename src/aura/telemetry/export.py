"""Where spans go: to the provider that the process has, else to one made from OTEL_* variables."""

from __future__ import annotations

import logging
import os

from opentelemetry import trace as api
from opentelemetry.trace import ProxyTracerProvider, TracerProvider

log = logging.getLogger("aura.telemetry")


def provide(service: str) -> TracerProvider:
    """The process's tracer provider. When nobody has set one, and the SDK and its OTLP exporter are
    installed (the extra `otel`), one that exports as the OTEL_* variables say is set: by default to
    http://localhost:4318, under the name of the app."""
    known = api.get_tracer_provider()
    if not isinstance(known, ProxyTracerProvider):
        return known
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return known
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk import trace as sdk
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        log.warning(
            "traces go nowhere: %s is not installed; pip install aura-workflows[otel], or set a "
            "tracer provider of your own", error.name,
        )  # fmt: skip
        return known
    named = os.environ.get("OTEL_SERVICE_NAME") or service
    made = sdk.TracerProvider(resource=Resource.create({"service.name": named}))
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    api.set_tracer_provider(made)
    return made
