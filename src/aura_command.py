"""The command `aura`, before anything is loaded: Ctrl-C ends it without a word then, too.

It stands beside the package and not in it, because importing anything in the package loads most of
it, and that takes a moment in which people press Ctrl-C.
"""

from __future__ import annotations


def main() -> int:
    """Load the command line and run it; the exit code."""
    try:
        from aura.cli.main import main as run
    except KeyboardInterrupt:
        return 130
    return run()
