"""Whatever the API offers the command line offers, too: a route is named as its command is."""

from __future__ import annotations

from aura.server.serving import build
from tests.cli.test_help import LEAVES
from tests.server.kit import make_app
from tests.server.test_authorisation import V, walk

ELSEWHERE = {
    "runs start": "run",
    "runs result": "run",  # with the same --id it waits for the same run
    "status": "top",
    "changes": "runs watch",
    "audit": "audit list",
    "workflows list": "catalog list",
    "workflows show": "catalog show",
    "catalog restore": "catalog deprecate",  # --undo
    "rollout list": "rollout status",
    "rollout curve": "rollout history",
    "rollout {order}": "rollout advance",
    "rollback list": "rollback",  # --list
    "rollback release": "rollback",  # --release
    "experiment {order}": "experiment stop",
    "healthz": "doctor",
    "readyz": "doctor",
}
OF_ONE_PROCESS = {"gateway", "metrics", "build", "openapi"}
"""What a server tells of itself; a command has the database alone."""


def test_every_route_has_its_command() -> None:
    commands = {" ".join(path) for path in LEAVES}
    routes = {route.name for path, route in walk(build(make_app()).api) if path.startswith(V)}
    assert {name for name in routes if name not in commands} == {*ELSEWHERE, *OF_ONE_PROCESS}
    assert set(ELSEWHERE.values()) <= commands
