"""What a shell completes: in a real bash, and by the words that zsh and fish ask with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Aura


def ask(shell: str, line: str, **more: str) -> str:
    """What `aura` tells a shell about the last word of the line."""
    words = line.split(" ")
    given = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    done = subprocess.run(
        [sys.executable, "-m", "aura.cli.main"], capture_output=True, text=True, timeout=60,
        env={**os.environ, "AURA_COMPLETE_SECONDS": "60", **given,
             "_AURA_COMPLETE": f"complete_{shell}", **more},
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_commands_options_and_names_are_completed(aura: Aura, project: Path, shell: str) -> None:
    for run_id in ("first", "fourth", "second"):
        assert aura("run", "research:app", "research", '"a"', "--id", run_id).code == 0
    if shell == "bash":  # these are typer's own
        assert "worker" in ask(shell, "aura wor")
        assert "--workflow" in ask(shell, "aura runs list --w")
    found = ask(shell, "aura runs show f")
    assert "first" in found
    assert "fourth" in found
    assert "second" not in found
    if shell == "zsh":
        assert "research@1.1.0" in ask(shell, "aura catalog show research@1")


def test_without_a_database_nothing_is_offered_and_nothing_is_said(project: Path) -> None:
    assert "first" not in ask("zsh", "aura runs show f")
    assert not (project / "aura.db").exists()
    assert "x" not in ask("bash", "aura rollout status x", AURA_DATABASE_URL="postgresql://\x01")


def test_bash_takes_it(aura: Aura, project: Path) -> None:
    assert aura("run", "research:app", "research", '"a"', "--id", "first").code == 0
    program = project / "bin" / "aura"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m aura.cli.main "$@"\n')
    program.chmod(0o755)
    script = """
        set -e
        eval "$(_AURA_COMPLETE=source_bash aura)"
        COMP_WORDS=(aura runs show f) COMP_CWORD=3
        _aura_completion aura
        printf 'offered: %s\\n' "${COMPREPLY[@]}"
    """
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60,
        env={**os.environ, "AURA_COMPLETE_SECONDS": "60", "PATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "offered: first" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_installed_and_shown(project: Path, shell: str) -> None:
    given = {
        **os.environ, "HOME": str(project), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }  # fmt: skip
    for option in ("--show-completion", "--install-completion"):
        done = subprocess.run(
            [sys.executable, "-m", "aura.cli.main", option, shell],
            env=given, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        if option == "--show-completion":
            assert "_AURA_COMPLETE=complete_" in done.stdout
    written = [one for one in project.rglob("*") if one.is_file() and "aura" in one.name]
    assert any("_AURA_COMPLETE" in one.read_text(errors="replace") for one in written
               if one.suffix not in (".yaml", ".db"))  # fmt: skip
