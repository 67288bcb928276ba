"""A durable workflow as a target: JSON in, a run, JSON out, through a pair of user functions."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import pydantic
from pydantic_core import to_json

from aura.clock import Clock, SystemClock
from aura.errors import (
    AuraError,
    CodecError,
    ConfigError,
    EffectSuppressed,
    InvalidInput,
    PayloadTooLarge,
    RequestRefused,
    ResultTimeout,
    RunConflict,
    TargetFailed,
    TargetTimeout,
)
from aura.gateway.client import BodyStream
from aura.gateway.headers import VIA, PairList
from aura.gateway.targets import Answer, Request

log = logging.getLogger("aura.gateway")

SAID = 160
"""Characters of why a run failed that the log has: one short line for each."""

SUPPRESSED = "effect-suppressed"
"""The failure of a shadow run that ended at an effect which nothing answers."""

COST_HEADER = "x-cost"
"""The field in which an answer says what it has cost, unless another one is named."""


@dataclass(frozen=True, slots=True)
class CopyOf:
    """What makes a run a shadow: the run `baseline` answered the original ("" when none did); this
    one may take so many seconds."""

    baseline: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Effects:
    """What a shadow run would have done, as (what, name, answered by), and what it cost."""

    effects: tuple[tuple[str, str, str], ...] = ()
    cost: float = 0.0


class WorkflowRunner(Protocol):
    """Starts durable runs; the app implements it."""

    async def run_workflow(
        self,
        workflow: str,
        version: str | None,
        arguments: Mapping[str, Any],
        *,
        run_id: str,
        copy: CopyOf | None = None,
    ) -> Any:
        """Start a run, or join the one with that id, and return its result; with `copy` a shadow
        run. Cancelling the wait leaves the run going. Raises AuraError."""
        ...

    async def effects(self, run_id: str) -> Effects:
        """What a shadow run did not do, and what it cost. Raises AuraError."""
        ...


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What an adapter may put into its answer: the run's id and how many seconds it took."""

    id: str
    seconds: float


class Adapter(Protocol):
    """Translates between a service's JSON and a workflow's arguments and result."""

    def to_input(self, body: Any) -> Mapping[str, Any]:
        """Keyword arguments from a decoded JSON body. A KeyError names the missing field; a
        ValueError, TypeError or pydantic.ValidationError says what is wrong with one."""
        ...

    def to_response(self, result: Any, run: RunInfo) -> Any:
        """Anything pydantic can write as JSON."""
        ...


class PlainAdapter:
    """A JSON object's members are the arguments; the result is the answer."""

    def to_input(self, body: Any) -> Mapping[str, Any]:
        if not isinstance(body, dict):
            raise TypeError("the body must be a JSON object")
        return body

    def to_response(self, result: Any, run: RunInfo) -> Any:  # noqa: ARG002 - the protocol's shape
        return result


def load_adapter(name: str) -> Adapter:
    """The adapter that `module:object` names; a class is called without arguments.

    Raises ConfigError when there is none, or it lacks `to_input` or `to_response`.
    """
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise ConfigError(f"{name!r} names no adapter", hint="Write module:object")
    try:
        found: Any = importlib.import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the adapter {name} cannot be loaded: {error}") from error
    try:
        adapter = found() if isinstance(found, type) else found
    except Exception as error:  # user code: whatever its constructor raises
        raise ConfigError(f"the adapter {name} cannot be made: {error}") from error
    for method in ("to_input", "to_response"):
        if not callable(getattr(adapter, method, None)):
            raise ConfigError(
                f"the adapter {name} has no function {method}",
                hint="An adapter has to_input(body) and to_response(result, run)",
            )
    return cast(Adapter, adapter)


class WorkflowTarget:
    """Answers each request with one durable run of a workflow version.

    The run's id follows from the route, this target's name and the idempotency key, so that a
    repeated request joins the run of the first and a fallback never joins the run that it
    replaces. A shadow copy's runs have ids of their own, with the prefix `shadow-`.
    """

    whole = True

    def __init__(
        self,
        name: str,
        workflow: str,
        version: str | None,
        runner: WorkflowRunner,
        *,
        adapter: Adapter | None = None,
        timeout: float = 30.0,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.workflow = workflow
        self.version = version
        self.timeout = timeout
        self._runner = runner
        self._adapter = adapter or PlainAdapter()
        self._clock = clock or SystemClock()

    async def call(self, request: Request) -> Answer:
        """Run the workflow; see `Target.call`."""
        arguments = arguments_of(self._adapter, request.body)
        run_id = run_id_of(request, self.name, self.workflow)
        started = self._clock.monotonic()
        limit = min(self.timeout, request.limit or self.timeout)
        copy = CopyOf(request.baseline_run, limit) if request.shadow else None
        try:
            async with asyncio.timeout(self.timeout):
                result = await self._runner.run_workflow(
                    self.workflow, self.version, arguments, run_id=run_id, copy=copy
                )
        except (AuraError, TimeoutError) as error:
            raise _translated(error, run_id, self.timeout) from error
        info = RunInfo(run_id, self._clock.monotonic() - started)
        return Answer(200, *self._response(result, info), run=run_id)

    async def effects(self, run_id: str) -> Effects:
        """What a shadow run did not do; nothing when that cannot be read now."""
        try:
            return await self._runner.effects(run_id)
        except AuraError as error:
            log.warning("the effects of shadow run %s cannot be read: %s", run_id, error)
            return Effects()

    def _response(self, result: Any, run: RunInfo) -> tuple[PairList, bytes]:
        try:
            body = to_json(self._adapter.to_response(result, run))
        except Exception as error:  # user code: whatever it raises is this target's failure
            log.exception("the adapter of %s failed on the result of run %s", self.name, run.id)
            raise TargetFailed(
                f"its adapter failed on the result: {type(error).__name__}",
                code="adapter-failed",
                run=run.id,
            ) from error
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            VIA,
        ]
        return headers, body

    async def close(self) -> None:
        """Nothing to let go of: the runner belongs to the app."""


def arguments_of(adapter: Adapter, body: bytes | BodyStream) -> Mapping[str, Any]:
    """A workflow's arguments from a request body.

    Raises RequestRefused: 400 for what is not JSON, 413 for a body that was not kept, 422 for a
    field that is missing or wrong; TargetFailed when the adapter itself is broken.
    """
    if not isinstance(body, bytes):
        raise RequestRefused(
            "the body is too large for a workflow", status=413, code="body-too-large"
        )
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestRefused(
            f"the body is not JSON: {error}", status=400, code="invalid-json"
        ) from error
    try:
        return adapter.to_input(document)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise _invalid(f"{field}: {first['msg']}", field) from error
    except KeyError as error:
        field = str(error.args[0]) if error.args else ""
        raise _invalid(f"the field {field} is missing", field) from error
    except RequestRefused:
        raise
    except (ValueError, TypeError, CodecError) as error:
        raise _invalid(str(error), "") from error
    except Exception as error:  # user code: whatever else it raises is its own fault
        log.exception("an adapter failed on a request")
        raise TargetFailed(
            f"its adapter failed on the request: {type(error).__name__}", code="adapter-failed"
        ) from error


def run_id_of(request: Request, target: str, workflow: str) -> str:
    """A fresh id, or with an idempotency key the same one for the same route, target and key."""
    prefix = f"shadow-{workflow}" if request.shadow else workflow
    if not request.key:
        return f"{prefix}-{uuid.uuid4().hex}"
    source = json.dumps([request.route, target, request.key])
    return f"{prefix}-{hashlib.sha256(source.encode()).hexdigest()[:32]}"


def _invalid(message: str, field: str) -> RequestRefused:
    return RequestRefused(message, status=422, code="invalid-input", field=field)


def _translated(error: AuraError | TimeoutError, run: str, timeout: float) -> Exception:
    if isinstance(error, (ResultTimeout, TimeoutError)):
        return TargetTimeout(
            f"its run has no result after {timeout:g} s and goes on", code="run-timeout", run=run
        )
    if isinstance(error, RunConflict):
        return RequestRefused(
            str(error), status=409, code="idempotency-key-reused", field="idempotency-key"
        )
    if isinstance(error, (InvalidInput, PayloadTooLarge)):
        return _invalid(str(error), "")
    if isinstance(error, EffectSuppressed):
        return TargetFailed("it ended at an effect", code=SUPPRESSED, run=run)
    said = error.message.split("\n", 1)[0]  # the client learns only the kind, the journal has all
    log.warning("run %s gave no result: %s", run, said if len(said) <= SAID else f"{said[:SAID]}…")
    return TargetFailed("its run gave no result", code=_code(error), run=run)


def _code(error: AuraError) -> str:
    """RunFailed -> run-failed, StoreUnavailable -> store-unavailable."""
    name = type(error).__name__
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")
