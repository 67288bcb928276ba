"""Alerts: who is told when a rollout, an emergency or a decommission does something.

Each alert is a run of its own (`aura.alert`): one step per channel, tried again for hours while the
other side is away. So nothing that it tells of waits for it, and it outlives the process that
noticed. All channels get the same JSON document, whose `id` stays the same over repetitions; a
webhook's is signed with HMAC-SHA256 (`X-Aura-Signature: sha256=<hex>`) when there is a secret.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from aura.clock import Clock
from aura.delivery.channels import Channel
from aura.delivery.status import RolloutStatus
from aura.engine import Retry, Step, Workflow, own_step
from aura.errors import AlertFailed, NonRetryable, StepFailed
from aura.store.base import Store

log = logging.getLogger("aura.alerts")

WORKFLOW, VERSION = "aura.alert", "1.0.0"
NO_COMMANDS = "AURA_ALERT_COMMANDS"
"""The environment variable that forbids a worker to run the commands of alerts, when it is off."""

_RETRY = Retry(attempts=40, first=0.5, longest=600.0)  # for about five hours
_TAIL = 400  # characters of what a failing command said

Start = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """What happened. `id` is unique; `at` is in epoch seconds (0: when it is told); `name` is the
    rollout, split or target that it is about, `rollout` the rollout whose evidence belongs to it
    ("": none)."""

    id: str
    kinds: tuple[str, ...]
    name: str
    reason: str
    at: float = 0.0
    by: str = ""
    guard: str = ""
    split: str = ""
    rollout: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def body(self) -> bytes:
        """The document that all channels get."""
        found = {name: value for name, value in asdict(self).items() if value not in ("", {})}
        return json.dumps({"aura": "alert", "kind": self.kinds[0], **found}).encode()


class Alerts:
    """Tells of things, durably. One per app; it registers `workflow`."""

    def __init__(self) -> None:
        self.workflow: Workflow[..., Any] = Workflow(WORKFLOW, VERSION, self._tell_all)
        self._gather: Step[..., Any] = own_step(
            self._with_evidence, name="gather", retry=_RETRY, idempotent=True
        )
        self._deliver: Step[..., Any] = own_step(deliver, name="deliver", retry=_RETRY)

    def attach(self, store: Store, clock: Clock, start: Start) -> None:
        """Use this store, and this way to start runs, from now on."""
        self._store = store
        self._clock = clock
        self._start = start

    async def tell(self, alert: Alert, channels: tuple[Channel, ...]) -> None:
        """Begin to tell; durable when this returns, also inside a run. The same id: once."""
        chosen = tuple(channel for channel in channels if channel.wants(alert.kinds))
        if chosen:
            await self._start(
                self.workflow, alert, chosen, id=f"alert-{alert.id}"[:500], detached=True
            )

    async def _tell_all(self, alert: Alert, channels: tuple[Channel, ...]) -> str:
        whole = await self._gather(alert)
        outcomes = await asyncio.gather(
            *(self._deliver(whole, channel, at) for at, channel in enumerate(channels)),
            return_exceptions=True,
        )
        failures = [one for one in outcomes if isinstance(one, BaseException)]
        for failure in failures:
            if not isinstance(failure, StepFailed):
                raise failure
        if failures:
            raise AlertFailed(
                f"{len(failures)} of {len(channels)} channels could not be told of "
                f"{alert.kinds[0]} of {alert.name}: {'; '.join(map(str, failures))}",
                hint=f"Mend them, then: aura runs retry alert-{alert.id}",
            )
        return f"told {', '.join(channel.shown for channel in channels)}"

    async def _with_evidence(self, alert: Alert) -> Alert:
        """The alert with what the rollout's status says of its guards and arms."""
        alert = alert if alert.at else replace(alert, at=self._clock.now())
        document = None
        if alert.rollout:
            document = await self._store.document("rollout", alert.rollout)
        if document is None:
            return alert
        status = RolloutStatus.from_json(document.body).plain()
        known = {name: status[name] for name in _EVIDENCE}
        stages = status["stages"]
        if status["stage_index"] < len(stages):
            known["arms"] = {
                status["candidate"]: stages[status["stage_index"]]["candidate"],
                status["baseline"]: stages[status["stage_index"]]["baseline"],
            }
        return replace(alert, details={**known, **alert.details})


_EVIDENCE = ("run", "state", "stage", "baseline", "candidate", "weights", "epoch", "evidence")


async def deliver(alert: Alert, channel: Channel, number: int) -> None:
    """Tell one channel once. Raises AlertFailed, or NonRetryable where trying again is no use."""
    if channel.kind == "log":
        log.warning(
            "%s of %s: %s%s", " and ".join(alert.kinds), alert.name, alert.reason,
            f" (by {alert.by})" if alert.by else "",
        )  # fmt: skip
    elif channel.kind == "webhook":
        await _post(alert, channel, number)
    else:
        await _run(alert, channel)


async def _post(alert: Alert, channel: Channel, number: int) -> None:
    import aiohttp

    url = channel.url or _from_environment(channel.url_env)
    body = alert.body()
    headers = {
        "content-type": "application/json",
        "user-agent": "aura",
        "x-aura-event": alert.kinds[0],
        "x-aura-delivery": f"{alert.id}/{number}",
    }
    if channel.secret_env:
        headers["x-aura-signature"] = signature(body, _from_environment(channel.secret_env))
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(channel.timeout)) as session,
            session.post(url, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        # The error's own text may have the address in it.
        raise AlertFailed(f"{channel.shown}: {type(error).__name__}") from None
    if 300 <= status < 500 and status not in (408, 425, 429):
        raise NonRetryable(f"{channel.shown} refused the alert: status {status}")
    if status >= 300:
        raise AlertFailed(f"{channel.shown} did not take the alert: status {status}")


def signature(body: bytes, secret: str) -> str:
    """What the header X-Aura-Signature must be for a body."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


async def _run(alert: Alert, channel: Channel) -> None:
    if os.environ.get(NO_COMMANDS, "").lower() in ("off", "no", "0", "false"):
        raise NonRetryable(f"{channel.shown} is not run: {NO_COMMANDS} is off on this worker")
    try:
        process = await asyncio.create_subprocess_exec(
            *channel.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except (OSError, ValueError) as error:
        raise AlertFailed(f"{channel.shown} cannot be run: {error}") from error
    try:
        async with asyncio.timeout(channel.timeout):
            _, said = await process.communicate(alert.body())
    except TimeoutError:
        raise AlertFailed(f"{channel.shown} took more than {channel.timeout:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        end = said.decode("utf-8", "replace").strip()[-_TAIL:]
        raise AlertFailed(f"{channel.shown} ended with {process.returncode}: {end}")


def _from_environment(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise AlertFailed(
            f"the environment variable {name} is not set on this worker",
            hint="Set it where workers run; the alert is tried again",
        )
    return value
