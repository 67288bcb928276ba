"""The desks of a server: `client.rollouts`, `client.schedules` and so on.

Their verbs are those of the desks of an app. Who gives an order is the token's name, so there is no
`by`. Plans and the like are what a file has below its first word (`rollout:`, `experiment:`), as
plain values. What they answer are plain values as docs/api.md has them, but for the statuses of
rollouts and experiments, which are the same as in process.

Orders that would count twice are sent again only when the server cannot have carried them out; see
`aura.client.wire`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from aura.client.desk import BODY, Desk, Many, Plain
from aura.client.desks_delivery import RemoteDecommissions, RemoteShadows
from aura.client.wire import Ask, Wire
from aura.codec import to_json
from aura.delivery.experiment_status import ExperimentStatus
from aura.delivery.status import RolloutStatus


class RemoteRollouts(Desk):
    """Rollouts; see `aura.delivery.rollouts.Rollouts` for what each verb does and raises."""

    noun = "rollouts"

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self.shadows = RemoteShadows(wire)
        self.decommissions = RemoteDecommissions(wire)

    async def start(
        self,
        plan: Mapping[str, Any],
        *,
        again: bool = False,
        replace: bool = False,
        incompatible: str = "",
    ) -> RolloutStatus:
        """Begin a rollout: `plan` is what a file has below `rollout:`."""
        body = {"plan": plan, "again": again, "replace": replace, "incompatible": incompatible}
        return _rollout((await self._post(body=body))["rollout"])

    async def check(self, plan: Mapping[str, Any]) -> Plain:
        """What a start would do, and what would hinder it, without beginning it."""
        found: Plain = (await self._post(body={"plan": plan, "dry_run": True}, again=True))[
            "checked"
        ]
        return found

    async def all(self) -> list[RolloutStatus]:
        """All rollouts, by name."""
        return [_rollout(one) for one in (await self._get())["rollouts"]]

    async def status(self, name: str) -> RolloutStatus:
        """The rollout as it is now. Raises UnknownRollout."""
        return _rollout(await self._get(name))

    async def order(
        self, name: str, order: str, *, reason: str = "", to: str = ""
    ) -> RolloutStatus:
        """Tell a rollout what to do: advance, hold, pause, resume, retry, rollback, or skip to the
        later stage `to`. Raises RolloutError."""
        found = await self._post(name, order, body={"reason": reason, "stage": to})
        return _rollout(found["rollout"])

    async def approve(
        self, name: str, *, stage: str = "", reason: str = "", ok: bool = True
    ) -> RolloutStatus:
        """Approve the stage that a rollout is in, or (`ok` is False) refuse to."""
        body = {"stage": stage, "reason": reason, "ok": ok}
        return _rollout((await self._post(name, "approve", body=body))["rollout"])

    async def backtest(
        self,
        plan: Mapping[str, Any],
        *,
        on: str = "",
        run: str = "",
        observations: Sequence[Mapping[str, Any]] | None = None,
    ) -> Plain:
        """What the plan would have done with what was observed of the rollout `on` (of several
        rollouts of that name, the one with this `run`), or with these observations. It changes
        nothing. Raises PlanError, RolloutError, UnknownRollout."""
        body: Plain = {"plan": plan, "on": on, "run": run}
        if observations is not None:
            body["observations"] = list(observations)
        ask = Ask("POST", ("backtests",), body=BODY.dump(body))
        return await self._send(ask)

    async def history(self, name: str) -> Plain:
        """Who did what, when and why, also in earlier rollouts of that name."""
        return await self._get(name, "history")

    async def curve(self, name: str, run: str = "") -> Plain:
        """How a rollout went over time."""
        return await self._get(name, "curve", run=run)


class RemoteExperiments(Desk):
    """Experiments; see `aura.delivery.experiments.Experiments`."""

    noun = "experiments"

    async def start(
        self, experiment: Mapping[str, Any], *, rollout: Mapping[str, Any] | None = None
    ) -> ExperimentStatus:
        """Begin an experiment: what a file has below `experiment:`, and below `rollout:`."""
        found = await self._post(body={"experiment": experiment, "rollout": rollout})
        return _experiment(found["experiment"])

    async def plan(
        self, experiment: Mapping[str, Any], traffic: Mapping[str, float] | None = None
    ) -> Plain:
        """How long it takes and what it can find. It starts nothing."""
        body = {"experiment": experiment, "traffic": traffic, "dry_run": True}
        found: Plain = (await self._post(body=body, again=True))["forecast"]
        return found

    async def all(self) -> list[ExperimentStatus]:
        """All experiments, by name."""
        return [_experiment(one) for one in (await self._get())["experiments"]]

    async def status(self, name: str) -> ExperimentStatus:
        """The experiment as it is now. Raises UnknownExperiment."""
        return _experiment(await self._get(name))

    async def order(
        self, name: str, order: str, *, arm: str | None = None, reason: str = ""
    ) -> ExperimentStatus:
        """Tell an experiment to `stop`, or to `promote` an arm."""
        found = await self._post(name, order, body={"arm": arm, "reason": reason})
        return _experiment(found["experiment"])

    async def reward(
        self, name: str, unit: str, value: float, *, metric: str, id: str = ""
    ) -> None:
        """Tell what a unit turned out to be worth. Two rewards of the same `id` are one."""
        told = {"unit": unit, "value": value, "metric": metric, "id": id or uuid.uuid4().hex}
        await self._post(name, "rewards", body=told, again=True)


class RemoteSchedules(Desk):
    """Schedules; see `aura.engine.schedules.Schedules`."""

    noun = "schedules"

    async def list(self) -> Many:
        """All schedules, by name."""
        return _listed(await self._get(), "schedules")

    async def show(self, name: str, *, ticks: int = 5) -> Plain:
        """A schedule with its next ticks and its latest runs. Raises UnknownSchedule."""
        return await self._get(name, ticks=ticks)

    async def create(self, name: str, **schedule: Any) -> Plain:
        """Create a schedule, or change the one of that name: `workflow`, `input`, `cron` or `every`
        (seconds), `timezone` and so on."""
        ask = Ask("PUT", (self.noun, name), body=BODY.dump(schedule))
        return await self._send(ask)

    async def pause(self, name: str) -> Plain:
        """Start nothing until it is resumed."""
        return await self._post(name, "pause", body={}, again=True)

    async def resume(self, name: str) -> Plain:
        """Go on with the next tick."""
        return await self._post(name, "resume", body={}, again=True)

    async def trigger(self, name: str, *, id: str | None = None) -> Plain:
        """Start its workflow now; once per `id`."""
        given = {"id": uuid.uuid4().hex if id is None else id}
        return await self._post(name, "trigger", body=given, again=True)

    async def backfill(self, name: str, start: datetime, end: datetime | None = None) -> Plain:
        """Start the ticks of a time that has passed (aware datetimes), which have no run yet."""
        given = {"start": start.isoformat(), "end": None if end is None else end.isoformat()}
        return await self._post(name, "backfill", body=given, again=True)

    async def delete(self, name: str) -> Plain:
        """Start nothing any more."""
        return await self._post(name, "delete", body={}, again=True)


class RemoteTopics(Desk):
    """Topics and their groups."""

    noun = "topics"

    async def list(self) -> Many:
        """All topics, by name."""
        return _listed(await self._get(), "topics")

    async def show(self, topic: str) -> Plain:
        """A topic with its groups. Raises UnknownTopic."""
        return await self._get(topic)

    async def events(self, topic: str, **query: Any) -> Plain:
        """A page of a topic's events."""
        return await self._get(topic, "events", **query)

    async def replay(self, topic: str, group: str, since: datetime) -> int:
        """Let a group handle again what was emitted since then; how many events that is."""
        found = await self._post(topic, "replay", body={"group": group, "since": since.isoformat()})
        return int(found["events"])

    async def forget(self, topic: str, group: str) -> None:
        """Forget a group."""
        await self._post(topic, "forget", body={"group": group}, again=True)


class RemoteLetters(Desk):
    """Dead letters: events that could not be handled, and parked runs."""

    noun = "letters"

    async def list(self, **query: Any) -> Plain:
        """A page of dead letters, the newest first; filters as in docs/api.md."""
        return await self._get(**query)

    async def show(self, letter: str, *, full: bool = False) -> Plain:
        """A dead letter with its payload. Raises NoSuchDeadLetter."""
        return await self._get(letter, full=full)

    async def requeue(self, letter: str, version: str | None = None) -> None:
        """Let it be handled again."""
        await self._post(letter, "requeue", body={"version": version})

    async def drop(self, letter: str) -> None:
        """Give it up."""
        await self._post(letter, "drop", body={})

    async def bulk(self, action: str, ids: Sequence[str] = (), **chosen: Any) -> Plain:
        """Requeue or drop many; `dry_run=True` only says what would come of it."""
        body = {"action": action, "ids": list(ids), **chosen}
        again = bool(chosen.get("dry_run"))
        ask = Ask("POST", ("bulk", self.noun), body=BODY.dump(body), again=again)
        return await self._send(ask)


class RemoteEmergencies(Desk):
    """Splits that go back to their baselines at once and stay there."""

    noun = "emergencies"

    async def forced(self) -> Plain:
        """The splits that are forced now."""
        return await self._get()

    async def rollback(
        self, names: Sequence[str] = (), *, everything: bool = False, reason: str = ""
    ) -> Plain:
        """Send all traffic of these splits or rollouts back, now."""
        body = {"names": list(names), "everything": everything, "reason": reason}
        return await self._post(body=body, again=True)

    async def release(
        self, names: Sequence[str] = (), *, everything: bool = False, restore: bool = False,
        reason: str = "",
    ) -> Plain:  # fmt: skip
        """Let them be moved again."""
        body = {"names": list(names), "everything": everything, "restore": restore}
        return await self._post("release", body={**body, "reason": reason})


class RemoteCatalog(Desk):
    """Versions of workflows."""

    noun = "catalog"

    async def list(self, workflow: str | None = None) -> Many:
        """Versions, the newest first."""
        return _listed(await self._get(workflow=workflow), "versions")

    async def show(self, version: str) -> Plain:
        """A version, such as research@1.0.0. Raises UnknownVersion."""
        return await self._get("versions", version)

    async def diff(self, old: str, new: str) -> Plain:
        """Whether one version can stand in for another one."""
        return await self._get("diff", old=old, new=new)

    async def deprecate(self, version: str, *, reason: str, replacement: str = "") -> Plain:
        """Say that nobody should start it any more."""
        body = {"reason": reason, "replacement": replacement or None}
        return await self._post("versions", version, "deprecate", body=body, again=True)

    async def restore(self, version: str, *, reason: str = "") -> Plain:
        """Take a deprecation back."""
        return await self._post("versions", version, "restore", body={"reason": reason}, again=True)

    async def matrix(self, workflow: str) -> Plain:
        """A workflow's versions with their compatibility matrix. Raises UnknownVersion."""
        return await self._get("workflows", workflow)


class RemoteWorkflows(Desk):
    """Workflows with their versions: schemas, who has them, and how many runs."""

    noun = "workflows"

    async def list(self) -> Many:
        """All of them, by name."""
        return _listed(await self._get(), "workflows")

    async def show(self, workflow: str) -> Plain:
        """One of them. Raises UnknownWorkflow."""
        return await self._get(workflow)


class RemoteWorkers(Desk):
    """Who executes runs."""

    noun = "workers"

    async def list(self, *, gone: bool = False) -> Many:
        """The workers that live, with `gone` also those whose lease is over."""
        return _listed(await self._get(gone=gone), "workers")

    async def show(self, worker: str) -> Plain:
        """A worker with the runs that it has now. Raises UnknownWorker."""
        return await self._get(worker)


class RemoteSplits(Desk):
    """Who is sent where now, and by whose order."""

    noun = "splits"

    async def list(self) -> Many:
        """All splits, by name."""
        return _listed(await self._get(), "splits")

    async def show(self, split: str) -> Plain:
        """One of them. Raises UnknownSplit."""
        return await self._get(split)


def _listed(found: Plain, name: str) -> Many:
    listed: Many = found[name]
    return listed


def _rollout(found: Any) -> RolloutStatus:
    return RolloutStatus.from_json(to_json(found))


def _experiment(found: Any) -> ExperimentStatus:
    return ExperimentStatus.from_json(to_json(found))
