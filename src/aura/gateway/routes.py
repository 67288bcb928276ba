"""Which route serves a path and method. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from aura.errors import RequestRefused
from aura.gateway.config import Route


class Routes:
    """Exact paths win over prefixes, longer prefixes over shorter ones."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._exact: dict[str, list[Route]] = {}
        prefixes: dict[str, list[Route]] = {}
        for route in routes:
            if route.path.endswith("/*"):
                prefixes.setdefault(route.path[:-1], []).append(route)
            else:
                self._exact.setdefault(route.path, []).append(route)
        self._prefixes = sorted(prefixes.items(), key=lambda pair: -len(pair[0]))

    def match(self, path: str, method: str) -> Route | Sequence[str]:
        """The route, or the methods that the path is served for (none: it is not served)."""
        for routes in self._serving(path):
            for route in routes:
                if not route.methods or method in route.methods:
                    return route
            return sorted({name for route in routes for name in route.methods})
        return ()

    def names(self, path: str) -> bool:
        """Whether a route is for exactly this path."""
        return path in self._exact

    def _serving(self, path: str) -> list[list[Route]]:
        exact = self._exact.get(path)
        if exact is not None:
            return [exact]
        return [routes for prefix, routes in self._prefixes if path.startswith(prefix)]


def refuse_dots(path: str) -> None:
    """Raise RequestRefused for a decoded path with dot segments: a target that resolves them
    would serve what no route allows."""
    if "/." in path and any(part in (".", "..") for part in path.split("/")):
        raise RequestRefused(
            "the path has dot segments", status=400, code="path-not-normal", hint="Resolve them"
        )
