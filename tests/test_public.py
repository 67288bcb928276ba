"""The public face: which names there are, and that each is documented."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import aura
from aura import errors


def test_there_are_at_most_thirty_names_and_all_exist() -> None:
    assert len(aura.__all__) == len(set(aura.__all__)) <= 30
    for name in aura.__all__:
        assert hasattr(aura, name), name


def test_no_other_public_names_leak() -> None:
    modules = {name for name in vars(aura) if inspect.ismodule(getattr(aura, name))}
    public = {name for name in vars(aura) if not name.startswith("_")}
    assert public - modules == set(aura.__all__)


def test_every_public_name_is_documented() -> None:
    for name in aura.__all__:
        found = getattr(aura, name)
        assert inspect.getdoc(found), f"{name} has no docstring"
        if inspect.isclass(found):
            for attribute, member in vars(found).items():
                if inspect.isfunction(member) and not attribute.startswith("_"):
                    assert inspect.getdoc(member), f"{name}.{attribute} has no docstring"


def test_every_error_is_in_the_drawn_tree() -> None:
    drawn = set(re.findall(r"\b[A-Z][A-Za-z]+\b", errors.__doc__ or ""))
    classes = [one for one in vars(errors).values() if inspect.isclass(one)]
    assert {one.__name__ for one in classes} <= drawn


def test_what_users_must_not_swallow_is_no_exception() -> None:
    assert not issubclass(errors.ControlFlow, Exception)
    assert issubclass(errors.LeaseLost, errors.ControlFlow)
    assert issubclass(errors.Suspended, errors.ControlFlow)


def test_hints_end_the_message() -> None:
    error = aura.AuraError("It broke.", hint="Mend it")
    assert str(error) == "It broke. Mend it"
    assert (error.message, error.hint) == ("It broke.", "Mend it")
    assert str(aura.AuraError("It broke")) == "It broke"


def test_importing_aura_does_not_load_drivers_or_servers() -> None:
    script = (
        "import sys, aura\n"
        "heavy = {'asyncpg', 'fastapi', 'uvicorn', 'httpx', 'aiohttp', 'typer', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"
