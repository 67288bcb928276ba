"""Functions of the user's that compare two values, each in a process that can be killed.

The functions run in one child process, one call at a time. A function that raises, or returns
anything but True or False, is told so; one that does not return in its time is killed with the
process, which is started anew for the next call. One that hangs again and again is given up. So
nothing that such a function does can reach the gateway, which waits for none of them.

The child is this file, run as a script: it imports the standard library and what it is asked for.
It speaks JSON, a line for each call and each answer:

    {"comparer": "rules:close", "left": 1, "right": 2}   →   {"same": true} | {"error": "..."}
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

log = logging.getLogger("aura.gateway")

TIMEOUT = 2.0  # seconds for one call
FIRST_TIMEOUT = 30.0  # seconds for the first call of a process, which imports the function
MOST_HANGS = 3  # so often in a row a function may hang before it is given up
LARGEST = 64 * 1024  # characters of an answer


class ComparerFailed(Exception):
    """A function said nothing usable; the message says what it did."""


class Comparers:
    """Calls comparing functions by their names. `failures` counts what they did wrong."""

    def __init__(self, timeout: float = TIMEOUT, first: float = FIRST_TIMEOUT) -> None:
        self.failures: dict[str, int] = {}
        self._timeout = timeout
        self._first = first
        self._turn = asyncio.Lock()
        self._child: asyncio.subprocess.Process | None = None
        self._known: set[str] = set()
        self._hangs: dict[str, int] = {}

    async def same(self, comparer: str, left: Any, right: Any) -> bool:
        """Whether the function finds the values the same. Raises ComparerFailed."""
        if self._hangs.get(comparer, 0) >= MOST_HANGS:
            raise self._failed(comparer, "it was given up after it had hung again and again")
        call = json.dumps({"comparer": comparer, "left": left, "right": right})
        async with self._turn:
            said = await self._ask(comparer, call.encode() + b"\n")
        if "error" in said:
            raise self._failed(comparer, said["error"])
        self._hangs.pop(comparer, None)
        return bool(said["same"])

    async def close(self) -> None:
        """End the child process."""
        await self._kill()

    async def _ask(self, comparer: str, call: bytes) -> dict[str, Any]:
        child = await self._process()
        if child.stdin is None or child.stdout is None:
            raise self._failed(comparer, "its process cannot be talked to")
        known = comparer in self._known
        try:
            async with asyncio.timeout(self._timeout if known else self._first):
                child.stdin.write(call)
                await child.stdin.drain()
                line = await child.stdout.readline()
            said: dict[str, Any] = json.loads(line)
        except TimeoutError:
            self._hangs[comparer] = self._hangs.get(comparer, 0) + 1
            await self._kill()
            raise self._failed(comparer, "it did not return in its time") from None
        except (OSError, ValueError) as error:
            await self._kill()
            raise self._failed(comparer, f"its process ended: {error}") from None
        except BaseException:
            await self._kill()  # an answer that nobody took must not answer the next call
            raise
        self._known.add(comparer)
        return said

    async def _process(self) -> asyncio.subprocess.Process:
        if self._child is None:
            self._known.clear()
            self._child = await asyncio.create_subprocess_exec(
                sys.executable, "-P", __file__,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(_where())},
                limit=LARGEST,
            )  # fmt: skip
        return self._child

    async def _kill(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        if child.stdin is not None:
            child.stdin.close()
        await asyncio.shield(child.wait())

    def _failed(self, comparer: str, why: str) -> ComparerFailed:
        count = self.failures.get(comparer, 0)
        self.failures[comparer] = count + 1
        if not count:
            log.warning("the comparer %s is of no use: %s", comparer, why)
        return ComparerFailed(f"{comparer}: {why}")


def _where() -> list[str]:
    """Where the child looks for modules: where this process does."""
    here = str(Path.cwd())
    return [one or here for one in sys.path]


# -- the child ---------------------------------------------------------------------------------


def answer(call: dict[str, Any]) -> dict[str, Any]:
    """What the function says of the values, or what it did wrong."""
    try:
        module, _, name = call["comparer"].partition(":")
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        same = found(call["left"], call["right"])
    except BaseException as error:  # noqa: BLE001  (user code: whatever it raises)
        return {"error": f"it raised {type(error).__name__}: {str(error)[:200]}"}
    if not isinstance(same, bool):
        return {"error": f"it returned {same!r:.100} and not True or False"}
    return {"same": same}


def serve() -> None:
    """Answer calls until there are no more; what functions print goes to the error output."""
    said = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        said.write(json.dumps(answer(json.loads(line))).encode() + b"\n")


if __name__ == "__main__":
    serve()
