"""Errors as problem documents (RFC 9457): one table from the errors of Aura to status and code."""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from aura import errors
from aura.errors import AuraError
from aura.gateway.problems import Problem
from aura.server.invalid import refused_input, unsaid

log = logging.getLogger("aura.server")

HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "content-security-policy": "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}
"""Answers are for who asked, now; browsers neither guess at them nor show them in frames."""

CODES: dict[type[AuraError], tuple[int, str]] = {
    AuraError: (500, "failed"),
    errors.ConfigError: (422, "config-invalid"),
    errors.PlanError: (422, "plan-invalid"),
    errors.SplitError: (422, "split-invalid"),
    errors.UnknownSplit: (404, "split-not-found"),
    errors.RangeError: (422, "range-invalid"),
    errors.CatalogError: (422, "catalog-refused"),
    errors.UnknownVersion: (404, "version-not-found"),
    errors.ApplyRefused: (409, "apply-refused"),
    errors.LayerError: (409, "layer-full"),
    errors.MissingExtra: (501, "extra-missing"),
    errors.RegistrationError: (422, "invalid-input"),
    errors.DuplicateVersion: (422, "duplicate-version"),
    errors.UnknownWorkflow: (404, "workflow-not-found"),
    errors.UnknownQueue: (404, "queue-not-found"),
    errors.UnknownTopic: (404, "topic-not-found"),
    errors.UnknownWorker: (404, "worker-not-found"),
    errors.CodecError: (422, "invalid-input"),
    errors.InvalidInput: (422, "invalid-input"),
    errors.DecryptionFailed: (500, "decryption-failed"),
    errors.KeyMissing: (500, "key-missing"),
    errors.PayloadTooLarge: (413, "payload-too-large"),
    errors.StoreError: (500, "store-failed"),
    errors.StoreUnavailable: (503, "store-unavailable"),
    errors.TransactionInDoubt: (503, "transaction-in-doubt"),
    errors.ServerUnavailable: (503, "server-unavailable"),
    errors.TransactionConflict: (503, "transaction-conflict"),
    errors.DatabaseMoved: (409, "database-moved"),
    errors.SchemaTooNew: (500, "schema-too-new"),
    errors.SchemaMismatch: (500, "schema-mismatch"),
    errors.EpochConflict: (409, "changed-meanwhile"),
    errors.RunNotFound: (404, "run-not-found"),
    errors.RunConflict: (409, "run-conflict"),
    errors.RunEnded: (409, "run-ended"),
    errors.RunError: (409, "run-without-result"),
    errors.RunFailed: (409, "run-failed"),
    errors.RunCancelled: (409, "run-cancelled"),
    errors.EffectSuppressed: (409, "effect-suppressed"),
    errors.RunParked: (409, "run-parked"),
    errors.RunMoved: (409, "run-moved"),
    errors.ResultTimeout: (504, "no-answer-yet"),
    errors.StepFailed: (500, "step-failed"),
    errors.StepTimeout: (500, "step-timeout"),
    errors.TransactionError: (500, "transaction-failed"),
    errors.OtherDatabase: (500, "other-database"),
    errors.BreakerOpen: (503, "breaker-open"),
    errors.DeadlineExceeded: (504, "deadline-exceeded"),
    errors.SignalTimeout: (504, "signal-timeout"),
    errors.UpdateRejected: (409, "update-rejected"),
    errors.SagaError: (500, "saga-failed"),
    errors.CompensationFailed: (500, "compensation-failed"),
    errors.NonRetryable: (500, "not-retryable"),
    errors.NonDeterminism: (409, "non-determinism"),
    errors.PoisonRun: (409, "poison-run"),
    errors.NoSuchDeadLetter: (404, "dead-letter-not-found"),
    errors.HistoryTooLong: (409, "history-too-long"),
    errors.BundleError: (409, "bundle-refused"),
    errors.BundleDamaged: (422, "bundle-damaged"),
    errors.RunsBusy: (409, "runs-busy"),
    errors.GatewayError: (500, "gateway-error"),
    errors.RequestRefused: (400, "request-refused"),
    errors.TargetFailed: (502, "target-failed"),
    errors.TargetTimeout: (504, "target-timeout"),
    errors.RolloutError: (409, "rollout-refused"),
    errors.UnknownRollout: (404, "rollout-not-found"),
    errors.Incompatible: (409, "incompatible"),
    errors.ExperimentError: (409, "experiment-refused"),
    errors.UnknownExperiment: (404, "experiment-not-found"),
    errors.FlowError: (409, "flow-refused"),
    errors.UnknownFlow: (404, "flow-not-found"),
    errors.DecommissionError: (409, "decommission-refused"),
    errors.UnknownDecommission: (404, "decommission-not-found"),
    errors.AlertFailed: (502, "alert-failed"),
    errors.ScheduleError: (409, "schedule-refused"),
    errors.UnknownSchedule: (404, "schedule-not-found"),
    errors.TokenError: (422, "token-refused"),
    errors.AccessDenied: (403, "access-denied"),
    errors.SandboxError: (500, "sandbox-failed"),
    errors.DemoFailed: (500, "demo-failed"),
}
"""Every public error has a line; a subclass of a user's own is what its nearest ancestor is."""


class Refused(HTTPException):
    """A request that is answered with this problem and nothing else."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.status, problem.code)


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of routes that answer with problem documents of these statuses."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {"application/problem+json": {"schema": {"$ref": _SCHEMA}}},
        }
        for status in statuses
    }


_SCHEMA = "#/components/schemas/Problem"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457; programs look at `code`, people at `detail`.",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "field": {"type": "string"},
    },
    "example": {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "there is no run doc-17. List runs with: aura runs list",
        "code": "run-not-found",
    },
}


def problem_of(error: BaseException) -> Problem:
    """What a client reads of an error. Faults of the server do not show their inside."""
    if isinstance(error, Refused):
        return error.problem
    if isinstance(error, errors.RequestRefused):
        return Problem(error.status, error.code, unsaid(str(error)), field=error.field)
    if isinstance(error, AuraError):
        status, code = next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)
        return Problem(status, code, unsaid(str(error)))
    if isinstance(error, RequestValidationError):  # its answer is `refused_input`, which says more
        return Problem(422, "invalid-input", "the request does not fit")
    return Problem(500, "failed", f"the server failed: {type(error).__name__}")


def answer(problem: Problem) -> Response:
    """A problem as a response."""
    response = Response(problem.body(), problem.status, media_type="application/problem+json")
    for name, value in problem.headers:
        response.headers[name.decode()] = value.decode()
    response.headers.update(HEADERS)
    return response


def handle_errors(api: FastAPI) -> None:
    """Let an application answer errors with problem documents."""
    for kind in (AuraError, Refused, Exception):
        api.add_exception_handler(kind, _failed)
    api.add_exception_handler(RequestValidationError, _does_not_fit)
    api.add_exception_handler(HTTPException, _no_such_page)


async def _failed(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    if problem.status == 500:
        log.error("the API failed on %s", request.url.path[:200], exc_info=error)
    return answer(problem)


async def _does_not_fit(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  (registered for it)
    return answer(refused_input(request, error))


async def _no_such_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  (registered for it)
    path = request.url.path[:200]
    if error.status_code == 404:
        return answer(Problem(404, "not-found", f"nothing is served at {path}"))
    given = dict(error.headers or {})
    if error.status_code == 405:  # each method has a route of its own, and the framework saw one
        given["Allow"] = ", ".join(_methods(request))
    headers = [(name.encode(), value.encode()) for name, value in given.items()]
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    return answer(Problem(error.status_code, code, _said(request, error), headers=tuple(headers)))


def _said(request: Request, error: HTTPException) -> str:
    """What the framework has refused, and what to do."""
    asked = f"{request.method} {request.url.path[:200]}"
    if error.status_code == 405:
        return f"{asked}: it is served to {', '.join(_methods(request))}"
    if error.status_code == 400:
        return f"{asked}: the body cannot be read. Send JSON in UTF-8"
    return f"{asked}: {error.detail}"


def _methods(request: Request) -> list[str]:
    """By which methods a path is served."""
    paths = request.app.state.openapi()["paths"]
    return sorted(
        method.upper()
        for path, methods in paths.items()
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), request.url.path)
        for method in methods
    )
