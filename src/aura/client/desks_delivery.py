"""Desks about what is found out, and about what goes out of service: `client.flows`,
`client.learning`, `client.rollouts.shadows`, `client.rollouts.decommissions`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aura.client.desk import Desk, Plain
from aura.client.values import read
from aura.client.values_delivery import FlowInfo, LearningInfo
from aura.codec import to_json
from aura.delivery.retirement import Retirement
from aura.delivery.shadow import ShadowReport


class RemoteFlows(Desk):
    """Choices inside workflows; see `aura.delivery.flow.Flows`."""

    noun = "flows"

    async def names(self) -> list[str]:
        """All choices that have been made, by name."""
        return [one["name"] for one in (await self._get())["flows"]]

    async def show(self, name: str) -> FlowInfo:
        """What is known of a choice's arms. Raises UnknownFlow."""
        return _flow(await self._get(name))

    async def evaluate(self, name: str, policy: str, *, alpha: float = 0.05) -> Plain:
        """What a policy would have earned per choice, from the log: "fast=0.2,deep=0.8", or one
        arm. Raises UnknownFlow, FlowError, InvalidInput."""
        return await self._get(name, "worth", policy=policy, alpha=alpha)

    async def release(self, name: str, arm: str, *, reason: str = "") -> None:
        """Let an arm be taken again that was tripped. Raises UnknownFlow, FlowError."""
        await self._post(name, "release", body={"arm": arm, "reason": reason}, again=True)


class RemoteLearning(Desk):
    """Splits that learn; see `aura.delivery.learning.Learning`."""

    noun = "learning"

    async def start(self, plan: Mapping[str, Any]) -> LearningInfo:
        """Let a split learn: `plan` is what a file has below `learning:`. Raises PlanError,
        FlowError."""
        return _learning((await self._post(body={"learning": plan}))["learning"])

    async def check(self, plan: Mapping[str, Any]) -> None:
        """Raises PlanError for a plan that cannot be read."""
        await self._post(body={"learning": plan, "dry_run": True}, again=True)

    async def all(self) -> list[LearningInfo]:
        """All of them, by name."""
        return [_learning(one) for one in (await self._get())["learning"]]

    async def status(self, name: str) -> LearningInfo:
        """One of them. Raises UnknownFlow."""
        return _learning(await self._get(name))

    async def stop(self, name: str, *, keep: bool = False, reason: str = "") -> None:
        """End it: everybody to the baseline, or as they are now (`keep`). Raises UnknownFlow,
        FlowError."""
        await self._post(name, "stop", body={"keep": keep, "reason": reason})


class RemoteShadows(Desk):
    """What copies have shown; see `aura.delivery.shadows.ShadowDesk`."""

    noun = "shadows"

    async def splits(self) -> list[str]:
        """The splits that have reports, by name."""
        found: list[str] = (await self._get())["splits"]
        return found

    async def reports(self, split: str) -> list[ShadowReport]:
        """The reports of a split, or of that of a rollout. Raises UnknownRollout."""
        return [_report(one) for one in (await self._get(split))["reports"]]

    async def shown(self, split: str, **thresholds: float) -> Plain:
        """The same with rates and with what is noise by these thresholds, as JSON values. Raises
        UnknownRollout."""
        return await self._get(split, **thresholds)

    async def clear(self, split: str, *, reason: str = "") -> int:
        """Begin the reports of a split anew; how many these were. Raises UnknownRollout."""
        found = await self._post(split, "clear", body={"reason": reason}, again=True)
        return int(found["cleared"])


class RemoteDecommissions(Desk):
    """Targets that go out of service; see `aura.delivery.decommission.Decommissions`."""

    noun = "decommissions"

    async def start(self, plan: Mapping[str, Any], *, reason: str = "") -> Retirement:
        """Take a target out of service: `plan` is what a file has below `decommission:`. Raises
        PlanError, DecommissionError."""
        found = await self._post(body={"decommission": plan, "reason": reason})
        return _retirement(found["target"])

    async def check(self, plan: Mapping[str, Any]) -> tuple[str, ...]:
        """The endpoints that would be disabled, one after the other. Raises PlanError,
        DecommissionError."""
        found = await self._post(body={"decommission": plan, "dry_run": True}, again=True)
        return tuple(found["endpoints"])

    async def all(self) -> list[Retirement]:
        """All of them, by target."""
        return [_retirement(one) for one in (await self._get())["targets"]]

    async def status(self, target: str) -> Retirement:
        """One of them. Raises UnknownDecommission."""
        return _retirement(await self._get(target))

    async def calls(self, target: str) -> dict[str, int]:
        """Calls of each endpoint since it began to be disabled. Raises UnknownDecommission."""
        found: dict[str, int] = (await self._get(target))["calls"]
        return found

    async def undo(self, target: str, *, reason: str = "") -> Retirement:
        """Bring every endpoint back, until it is archived. Raises UnknownDecommission,
        DecommissionError."""
        found = await self._post(target, "undo", body={"reason": reason})
        return _retirement(found["target"])


def _flow(found: Plain) -> FlowInfo:
    arms: Plain = found["arms"]
    told = {
        "name": found["name"],
        "arms": arms,
        "probabilities": {name: one["probability"] for name, one in arms.items()},
        "pending": found["pending"],
        "ignored": found["ignored"],
    }
    return read(FlowInfo, told)


def _learning(found: Plain) -> LearningInfo:
    arms: Plain = found["arms"]
    shares = {name: one["share"] for name, one in arms.items()}
    return read(LearningInfo, {**found, "arms": tuple(arms), "weights": shares})


def _report(found: Plain) -> ShadowReport:
    fields = {one["field"]: one for one in found["fields"]}
    return ShadowReport.from_json(to_json({**found, "fields": fields}))


def _retirement(found: Plain) -> Retirement:
    return Retirement.from_json(to_json({k: v for k, v in found.items() if k != "calls"}))
