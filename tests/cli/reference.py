"""docs/cli.md, made from the commands: `python -m tests.cli.reference > docs/cli.md`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from aura.cli.exits import EXITS
from aura.cli.main import command

HEAD = """# The command line

This page is made from `aura --help` and the help of each command; a test compares them.

- Commands look at the database that `--database` or `AURA_DATABASE_URL` names, `./aura.db` by
  default.
- With `--json` stdout has JSON and nothing else; commands that go on write one object per line. An
  error is there, too: `{"error": {"type": "RunNotFound", "message": "...", "hint": "...",
  "run": null}}`.
- Output goes to stdout, remarks and errors to stderr. `AURA_DEBUG=1` shows the traceback of an
  error.
- `aura --install-completion` teaches bash, zsh or fish to complete commands, options, ids of runs,
  names of rollouts and versions; `aura --show-completion` prints what it would install. Names are
  read from the database within half a second, or within `AURA_COMPLETE_SECONDS`.

## Exit codes

They are kept: scripts may rely on them.

| code | meaning |
| --- | --- |
"""


def text() -> str:
    """The whole page."""
    codes = "".join(f"| {code} | {meaning} |\n" for code, meaning in EXITS.items())
    return HEAD + codes + "\n" + "\n".join(_parts(command(), ("aura",)))


def _parts(node: Any, path: tuple[str, ...]) -> Iterator[str]:
    for name in sorted(node.commands):
        below = node.commands[name]
        here = (*path, name)
        if getattr(below, "commands", None):
            yield f"## `{' '.join(here)}`\n\n{_prose(below.help or '')}\n"
            yield from _parts(below, here)
        else:
            yield _command(below, here)


def _command(node: Any, path: tuple[str, ...]) -> str:
    about, _, examples = (node.help or "").partition("\b")
    level = "##" if len(path) == 2 else "###"
    lines = [f"{level} `{' '.join(path)}`\n", f"{_prose(about)}\n"]
    shown = [line.strip() for line in examples.splitlines() if line.strip()[:5] == "aura "]
    lines += ["    " + one for one in shown] + ([""] if shown else [])
    for one in node.params:
        if "--help" not in one.opts:
            lines.append(f"- `{_name(one)}`: {_prose(getattr(one, 'help', '') or '')}".rstrip(": "))
    return "\n".join(lines) + "\n"


def _name(one: Any) -> str:
    if one.param_type_name == "argument":
        return str(one.metavar or one.name.upper())
    metavar = "" if one.is_flag else f" {one.metavar or one.name.upper().replace('AS_', '')}"
    return f"{max(one.opts, key=len)}{metavar}"


def _prose(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


if __name__ == "__main__":
    print(text(), end="")
