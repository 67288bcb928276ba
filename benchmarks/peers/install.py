"""Installs the peers into `.bench-venv/`, an environment of their own.

python benchmarks/peers/install.py
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".bench-venv"
PACKAGES = (
    "absurd-sdk",
    "absurdctl",
    "dbos",
    "langgraph",
    "langgraph-checkpoint-postgres",
    "langgraph-checkpoint-sqlite",
    "psycopg[binary,pool]",
)


def install() -> Path:
    """The peers' Python, after installing them if that has not been done. Needs a package index."""
    python = ENVIRONMENT / "bin" / "python"
    done = ENVIRONMENT / ".installed"
    wanted = "\n".join(PACKAGES)
    if not done.exists() or done.read_text() != wanted:
        venv.create(ENVIRONMENT, with_pip=True)
        quiet = ("--quiet", "--disable-pip-version-check")
        subprocess.run([python, "-m", "pip", "install", *quiet, *PACKAGES], check=True)
        done.write_text(wanted)
    return python


if __name__ == "__main__":
    sys.stdout.write(f"{install()}\n")
