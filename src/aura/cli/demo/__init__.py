"""`aura demo`: a legacy service is replaced under live traffic, with real processes only.

command     what the command does, from the checkout to the exit code
story       the main job: start, replace, crash, two bad releases
processes   the children: legacy service, gateway, workers; none outlives the demo
traffic     clients that send requests at a steady rate, and what they see
crash       SIGKILL at the right moment, and what became of the runs
figures     what happened, as numbers (pure)
live        the terminal while it runs
page, plots the HTML report (pure)
"""

from __future__ import annotations

from pathlib import Path


def run(*, keep: bool, quick: bool, as_json: bool, folder: Path | None = None) -> int:
    """Run the demo; the exit code. `folder` takes its files, `demo/` in the checkout by default.

    Raises ConfigError when this is no checkout or another demo is running in the folder.
    """
    from aura.cli.demo.command import Options, run_demo

    return run_demo(Options(keep=keep, quick=quick, as_json=as_json, folder=folder))
