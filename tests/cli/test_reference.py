"""docs/cli.md tells the truth: commands, options, examples and exit codes."""

from __future__ import annotations

import signal
from pathlib import Path

from aura.cli.exits import DONE, EXITS, INTERRUPTED, MISUSED, NOT_WELL, TERMINATED
from tests.cli import reference
from tests.cli.conftest import Aura, Spawn
from tests.cli.test_processes import eventually

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"


def test_the_page_is_current() -> None:
    assert DOCUMENT.read_text() == reference.text(), "run: python -m tests.cli.reference"


def test_commands_end_with_the_codes_of_the_page(aura: Aura, project: Path, spawn: Spawn) -> None:
    seen = {
        aura("--version").code: DONE,
        aura("runs", "show", "nobody").code: NOT_WELL,
        aura("run", "research:app", "broken", '"x"').code: NOT_WELL,
        aura("runs", "destroy").code: MISUSED,
        aura("top", "--every", "0").code: MISUSED,
    }
    gate = str(project / "gate")
    for number in (signal.SIGINT, signal.SIGTERM):
        run = spawn("run", "research:app", "holds", f'"{gate}"')
        log = project / "gate.log"
        eventually(log.exists)
        seen[run.stop(number)] = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}[number]
        log.unlink()
    assert seen == {code: code for code in EXITS}
