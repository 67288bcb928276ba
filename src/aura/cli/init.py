"""`aura init`: a small project to begin with."""

from __future__ import annotations

import keyword
import re
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from aura.cli.options import Json
from aura.cli.output import note, print_json
from aura.errors import ConfigError

FILES = {
    "pyproject.toml.txt": "pyproject.toml",
    "README.md.txt": "README.md",
    "gitignore.txt": ".gitignore",
    "env.example.txt": ".env.example",
    "flow.py.txt": "{module}.py",
    "test_flow.py.txt": "tests/test_{module}.py",
}
"""The templates, which lie beside this module, and what becomes of them."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")


def init(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="The project's name, and folder.", show_default=False),
    ],
    as_json: Json = False,
) -> None:
    """Make a project: a workflow with its test, ready to run.

    It is made in a new folder of that name; nothing that is there is changed.

    \b
    Examples:
      aura init research
      aura init my-agents --json
    """
    folder = Path(name)
    module = module_name(folder.name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"there is something at {name} already", hint="Choose another name, or empty it"
        )
    made = []
    try:
        for path, text in contents(folder.name, module).items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, "utf-8")
            made.append(str(target))
    except OSError as error:
        raise ConfigError(f"the project cannot be written: {error}") from error
    if as_json:
        print_json({"project": folder.name, "module": module, "files": made})
        return
    note(f"Made {name} with {len(made)} files. What to do next:")
    for line in (
        f"cd {name}",
        "python -m pip install -e '.[test]'",
        f"aura run {module}:app hello '\"world\"'",
        "python -m pytest",
    ):
        note(f"  {line}")


def module_name(name: str) -> str:
    """The module for a project of that name. Raises ConfigError."""
    module = name.lower().replace("-", "_")
    if not _NAME.fullmatch(name) or keyword.iskeyword(module) or module in _TAKEN:
        raise ConfigError(
            f"{name!r:.80} is no name for a project",
            hint="Use letters, digits, - and _, beginning with a letter, and no name that Python "
            "or Aura has",
        )
    return module


_TAKEN = frozenset({"aura", "asyncio", "pytest", "tests", "typing", "os", "sys"})


def contents(name: str, module: str) -> dict[str, str]:
    """The files of a project by their paths."""
    words = {"{{name}}": name, "{{module}}": module, "{{aura}}": version("aura-workflows")}
    found = {}
    for template, path in FILES.items():
        text = (files("aura.cli") / "template" / template).read_text("utf-8")
        for word, value in words.items():
            text = text.replace(word, value)
        found[path.format(module=module)] = text
    return found
