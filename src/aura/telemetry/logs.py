"""Logs that say in which run, step and trace they were written: as JSON, or for people.

The fields come from where the code runs when it logs, so a `logging` call in a step, in a thread of
one, or in a library that a step uses, has them too:

    run, workflow, version, lane or step, key, attempt, trace_id, span_id, trace_flags

The last three are named as OpenTelemetry wants them in logs that are not its own.

What a workflow logs again while it is replayed is left out: it was said when it was live. (What
came after its last entry may be said twice: whether it was, nobody knows.) Values in
`extra` are masked like everything that people are shown, and passwords in URLs and tokens never
appear.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from aura.engine.lanes import Lane, StepScope, scope
from aura.engine.traces import current
from aura.errors import ConfigError
from aura.masking import Mask, current_mask, redact

Format = Literal["pretty", "json"]
FORMATS: tuple[Format, ...] = ("pretty", "json")
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}


def chosen_format(wanted: str | None, stream: TextIO) -> Format:
    """What is wanted, else what AURA_LOG_FORMAT says, else pretty on a terminal and JSON elsewhere.
    Raises ConfigError."""
    said = wanted or os.environ.get("AURA_LOG_FORMAT", "")
    for one in FORMATS:
        if said == one:
            return one
    if said:
        raise ConfigError(f"there is no log format {said!r}", hint="Give pretty or json")
    return "pretty" if stream.isatty() else "json"


def context_here() -> dict[str, Any]:
    """Where the code that runs now belongs to."""
    found: dict[str, Any] = {}
    at = scope.get()
    if at is not None:
        run = at.execution.record
        found |= {"run": run.id, "workflow": run.workflow, "version": run.version}
    if isinstance(at, StepScope):
        name = at.key[at.key.find("/") + 1 : at.key.rfind("#")]
        found |= {"step": name, "key": at.key, "attempt": at.attempt}
    elif isinstance(at, Lane):
        found["lane"] = at.id
    trace = current.get()
    if trace is not None:
        parts = trace.traceparent.split("-")
        _, found["trace_id"], found["span_id"], found["trace_flags"] = parts
    return found


class NotAgain(logging.Filter):
    """Leaves out what a workflow logs while its journal answers: it was logged before."""

    def filter(self, record: logging.LogRecord) -> bool:
        at = scope.get()
        ours = record.name == "aura" or record.name.startswith("aura.")
        return ours or not isinstance(at, Lane) or not at.execution.behind


class Structured(logging.Formatter):
    """One JSON object on a line. `mask` is for `extra`; None: that of the environment."""

    def __init__(self, mask: Mask | None = None) -> None:
        super().__init__()
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        mask = self._mask or current_mask()
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": mask.text(redact(record.getMessage())),
        }
        said |= context_here()
        more = extra_of(record)
        said |= {name if name not in said else f"{name}_": one for name, one in mask(more).items()}
        if record.exc_info:
            said["error"] = mask.text(redact(self.formatException(record.exc_info)))
        if record.stack_info:
            said["stack"] = redact(record.stack_info)
        return json.dumps(said, ensure_ascii=True, default=_as_text)


class Pretty(logging.Formatter):
    """A readable line, with the run and step at its end."""

    def __init__(self, mask: Mask | None = None) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        mask = self._mask or current_mask()
        first, *rest = mask.text(redact(super().format(record))).split("\n")
        here = context_here()
        where = [f"{name}={here[name]}" for name in ("run", "step", "attempt") if name in here]
        more = [f"{name}={one}" for name, one in mask(extra_of(record)).items()]
        line = "  ".join([first, " ".join([*where, *map(redact, more)])]).rstrip()
        return "\n".join(_clean(one) for one in (line, *rest))


def extra_of(record: logging.LogRecord) -> dict[str, Any]:
    """What was given as `extra`."""
    return {
        name: redact(one) if isinstance(one, str) else one
        for name, one in vars(record).items()
        if name not in _PLAIN
    }


def handler_for(stream: TextIO, wanted: str | None = None) -> logging.Handler:
    """A handler that writes to a stream in that format. Raises ConfigError."""
    handler = logging.StreamHandler(stream)
    kind = chosen_format(wanted, stream)
    handler.setFormatter(Structured() if kind == "json" else Pretty())
    handler.addFilter(NotAgain())
    return handler


def configure(wanted: str | None = None, level: int = logging.INFO) -> None:
    """Log to stderr: Aura from that level on, everything else from warnings on, or from
    AURA_LOG_LEVEL. Raises ConfigError."""
    root = logging.getLogger()
    root.handlers[:] = [handler_for(sys.stderr, wanted)]
    root.setLevel(_level(os.environ.get("AURA_LOG_LEVEL", "WARNING")))
    logging.getLogger("aura").setLevel(level)


def _level(said: str) -> int:
    known = logging.getLevelNamesMapping().get(said.upper())
    if known is None:
        raise ConfigError(f"AURA_LOG_LEVEL is {said!r}", hint="Give DEBUG, INFO, WARNING or ERROR")
    return known


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode().translate(_CONTROL)


def _as_text(value: object) -> str:
    return redact(str(value))
