"""The example's app with a witness beside every step: `aura worker aura.cli.demo.witness:app`.

Each time the code of a step begins, one line `<epoch seconds> <run>:<key>` goes to a file, past
all that Aura knows. So the demo can say whether a step ran again after its result was journalled.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aura
from aura.clock import SystemClock
from aura.engine.step import Step
from examples.research import release_bad, workflows
from examples.research.release_bad import app

__all__ = ["app"]

FOLDER = "AURA_DEMO_STEPS"
"""The environment variable that names the folder for the files."""


class Witness:
    """Writes down when steps begin, each line in one piece."""

    def __init__(self, folder: Path) -> None:
        self._clock = SystemClock()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._file = os.open(folder / f"{os.getpid()}.log", flags, 0o644)

    def watch(self, step: Step[..., Any]) -> None:
        """Note each execution of a step from now on."""
        step.function = self._noting(step.function)

    def _noting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def noted(*args: Any, **kwargs: Any) -> Any:
            line = f"{self._clock.now():.6f} {aura.idempotency_key()}\n"
            os.write(self._file, line.encode())
            return function(*args, **kwargs)

        return noted


def _steps() -> list[Step[..., Any]]:
    found = [*vars(workflows).values(), *vars(release_bad).values()]
    return list({id(one): one for one in found if isinstance(one, Step)}.values())


if FOLDER in os.environ:
    _witness = Witness(Path(os.environ[FOLDER]))
    for _step in _steps():
        _witness.watch(_step)
