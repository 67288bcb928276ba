"""Traces of what runs, by OpenTelemetry: off unless an app is told otherwise.

    app = Aura("research", telemetry=True)      # or AURA_TELEMETRY=1

    with telemetry.model("gpt-5", provider="openai") as call:      # inside a step
        answer = await client.responses.create(...)
        call.used(input_tokens=answer.usage.input_tokens, output_tokens=...)

Spans go to the process's tracer provider. A process that has none gets one from the OTEL_*
variables when the SDK is installed (the extra `otel`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from aura.clock import Clock
from aura.engine.traces import current
from aura.errors import ConfigError

if TYPE_CHECKING:
    from aura.telemetry.tracing import Tracing

_YES, _NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")
RATE = 500.0


@dataclass(frozen=True, slots=True)
class Telemetry:
    """How an app is traced. A process makes at most about `rate` spans a second (None: all of
    them): of what begins above that whole traces are left out, and a run that alone would make more
    says how many tries of its steps have none (`aura.spans_left_out`).
    AURA_TRACE_RATE stands for it when it is not given. `provider` is a tracer provider of
    OpenTelemetry; None: the process's."""

    rate: float | None = field(default_factory=lambda: _rate())
    provider: Any = None

    def __post_init__(self) -> None:
        if self.rate is not None and not self.rate > 0:
            raise ConfigError(f"telemetry has rate={self.rate}", hint="Give spans a second above 0")


def _rate() -> float | None:
    text = os.environ.get("AURA_TRACE_RATE", "")
    if not text:
        return RATE
    if text == "all":
        return None
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(
            f"AURA_TRACE_RATE is {text!r}", hint='Give spans a second, say 1000, or "all"'
        ) from error


def tracing_of(wanted: Telemetry | bool | None, name: str, clock: Clock) -> Tracing | None:
    """What traces the app of that name; None when nothing does. Raises ConfigError."""
    if wanted is None:
        said = os.environ.get("AURA_TELEMETRY", "").lower()
        if said not in (*_YES, *_NO):
            raise ConfigError(f"AURA_TELEMETRY is {said!r}", hint="Give 1 or 0")
        wanted = said in _YES
    if wanted is False:
        return None
    try:
        from aura.telemetry.tracing import Tracing
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"telemetry needs a package that is not installed ({error.name})",
            hint="Install it: pip install aura-workflows[otel]",
        ) from error
    return Tracing(name, clock, Telemetry() if wanted is True else wanted)


class ModelCall(Protocol):
    """A call of a model that is being traced."""

    def used(self, *, input_tokens: int | None = None, output_tokens: int | None = None) -> None:
        """How many tokens it took and gave."""

    def answered(
        self, *, model: str | None = None, id: str | None = None, finish: str | None = None
    ) -> None:
        """Which model answered, under which id, and why it stopped."""

    def note(self, **attributes: str | float | bool | Sequence[str]) -> None:
        """Other attributes of the conventions: `note(request_temperature=0.2)` is
        `gen_ai.request.temperature`, `usage_cache_read_input_tokens` is
        `gen_ai.usage.cache_read.input_tokens`, and `server_address` is `server.address`."""


class _Untraced:
    def used(self, *, input_tokens: int | None = None, output_tokens: int | None = None) -> None:
        pass

    def answered(
        self, *, model: str | None = None, id: str | None = None, finish: str | None = None
    ) -> None:
        pass

    def note(self, **attributes: str | float | bool | Sequence[str]) -> None:
        pass


@contextmanager
def model(
    name: str, *, provider: str | None = None, operation: str = "chat"
) -> Iterator[ModelCall]:
    """A call of a model, inside a step: a span by the GenAI semantic conventions of OpenTelemetry,
    named like `chat gpt-5`. `provider` as in the conventions ("openai", "anthropic"), `operation`
    too ("chat", "embeddings", "text_completion", "generate_content").

    No prompts and no answers are recorded. Without telemetry it does nothing.
    """
    here = current.get()
    begin = getattr(here, "model", None)
    if begin is None:
        yield _Untraced()
        return
    with begin(name, provider, operation) as call:
        yield call
