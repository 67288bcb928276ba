"""What a process says of its own gateway: the splits that it obeys, and its counters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import APIRouter

from aura.delivery.holder import Known
from aura.gateway import Gateway
from aura.server.access import GuardedRoute, needs
from aura.server.runs_api import READS


@dataclass(frozen=True, slots=True)
class GatewayView:
    """`splits` are as this process knows them; `lapsed` ones serve their baseline because nobody
    could confirm them. `counters` count since the process began."""

    active: int
    counters: dict[str, Any]
    splits: tuple[Known, ...]


def about_gateway(gateway: Callable[[], Gateway | None]) -> APIRouter:
    """The route `/gateway`."""
    router = APIRouter(tags=["read"], route_class=GuardedRoute, responses=READS)

    @router.get("/gateway", name="gateway", openapi_extra=needs("viewer"))
    async def show() -> GatewayView | None:
        """This process's gateway; null when it has none. Answers without the database."""
        found = gateway()
        if found is None:
            return None
        return GatewayView(found.active, asdict(found.counters), found.known())

    return router
