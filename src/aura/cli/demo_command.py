"""`aura demo`: the main job, end to end."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from aura.cli.options import Json
from aura.cli.parts import DEMO


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave everything running at the end.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A shortened form.")] = False,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Where its files go. Default: demo/ in the checkout."),
    ] = None,
    as_json: Json = False,
) -> None:
    """See the main job end to end: a legacy service is replaced under live traffic.

    \b
    Examples:
      aura demo
      aura demo --keep
    """
    module = importlib.import_module(DEMO)
    raise typer.Exit(module.run(keep=keep, quick=quick, as_json=as_json, folder=folder))
