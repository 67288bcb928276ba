"""What an app in this process and the client of a server have in common.

Code that is written for these protocols runs against both:

    async def order(app: App) -> Receipt:
        run = await app.start(checkout, "basket-17", id="order-17")
        await run.signal("approval", Approval(ok=True))
        return await run.result(timeout=60)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from aura.engine import (
    Deadline,
    Placement,
    Priority,
    Queue,
    RunFilter,
    RunState,
    Sent,
    Workflow,
)

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class RunHandle(Protocol[R_co]):
    """A run, wherever it is executed; see `aura.Run` for what each verb does and raises."""

    id: str

    async def result(self, timeout: float | None = None) -> R_co: ...
    async def status(self) -> RunState: ...
    async def cancel(self) -> RunState: ...
    async def requeue(self, version: str | None = None) -> RunState: ...
    async def fork(
        self, *, at: str | None = None, version: str | None = None, id: str | None = None
    ) -> RunHandle[R_co]: ...
    async def reward(self, name: str, value: float) -> None: ...
    async def signal(
        self,
        name: str,
        payload: Any = None,
        *,
        priority: Priority = "normal",
        deadline: Deadline = None,
        id: str | None = None,
    ) -> Sent: ...
    async def update(
        self,
        name: str,
        value: Any = None,
        *,
        type: object = Any,
        timeout: float | None = None,
        id: str | None = None,
    ) -> Any: ...
    async def state(self) -> dict[str, Any]: ...
    def stream(self, name: str, *, after: int = 0, type: object = Any) -> AsyncIterator[Any]: ...


class RunFacts(Protocol):
    """What lists tell of a run: times in epoch seconds."""

    @property
    def id(self) -> str: ...
    @property
    def workflow(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def state(self) -> RunState: ...
    @property
    def created_at(self) -> float: ...
    @property
    def finished_at(self) -> float | None: ...


class App(Protocol):
    """An app: `aura.Aura` in this process, `aura.client.Client` over HTTP."""

    @overload
    async def start(
        self,
        workflow: Workflow[..., R],
        *args: Any,
        id: str | None = None,
        version: str | None = None,
        queue: Queue | Placement | str | None = None,
        deadline: Deadline = None,
        detached: bool = False,
        **kwargs: Any,
    ) -> RunHandle[R]: ...
    @overload
    async def start(
        self,
        workflow: str,
        *args: Any,
        id: str | None = None,
        version: str | None = None,
        queue: Queue | Placement | str | None = None,
        deadline: Deadline = None,
        detached: bool = False,
        **kwargs: Any,
    ) -> RunHandle[Any]: ...
    def run(self, run_id: str, workflow: Workflow[P, R] | None = None) -> RunHandle[Any]: ...
    async def runs(self, where: RunFilter = ...) -> Sequence[RunFacts]: ...
    async def emit(
        self, topic: str, payload: Any = None, *, key: str | None = None, id: str | None = None
    ) -> None: ...
