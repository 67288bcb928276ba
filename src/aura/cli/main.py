"""The command `aura`: its parts, and how it ends.

Exit codes: 0 done, 1 an error (one paragraph on stderr), 2 the command line itself is wrong, 130
and 143 stopped by a signal. With --json an error is a line of JSON on stdout, too.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Annotated, Any, Protocol, cast, runtime_checkable

import typer
import typer.main

from aura.cli import output, process
from aura.cli.audited import watched
from aura.cli.parts import add_parts, wanted_part
from aura.errors import AuraError


def _print_version(wanted: bool) -> None:
    if wanted:
        print(version("aura-workflows"))
        raise typer.Exit


def about(
    _: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Durable AI workflows that you can change in production."""


def command(wanted: str | None = None) -> Any:
    """The command line as a tree: of its parts only the `wanted` one can be used; None: all."""
    cli = typer.Typer(
        name="aura",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    cli.callback()(about)
    add_parts(cli, wanted)
    return watched(typer.main.get_command(cli))


def _wanted(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """The part that is going to be used: by this command line, or by the one that a shell wants to
    have completed."""
    if "_AURA_COMPLETE" not in environment:
        return wanted_part(arguments)
    line = environment.get("COMP_WORDS") or environment.get("_TYPER_COMPLETE_ARGS") or ""
    try:
        words = shlex.split(line)
    except ValueError:  # a quote is open
        words = line.split()
    return wanted_part(words[1:])


@runtime_checkable
class _Usage(Protocol):
    """What typer raises for a wrong command line."""

    exit_code: int
    ctx: Any

    def format_message(self) -> str: ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. Never raises."""
    code = _run(arguments)
    process.leave_if_stuck(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in given
    try:
        tree = command(_wanted(given, os.environ))
        answer = tree.main(args=arguments, prog_name="aura", standalone_mode=False)
    except AuraError as error:
        output.complain(error, as_json=as_json)
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001  (told in a sentence; AURA_DEBUG=1 shows the rest)
        if isinstance(error, _Usage):
            return _misused(cast(_Usage, error), as_json=as_json)
        output.complain(error, as_json=as_json)
        return 1
    return answer if isinstance(answer, int) else 0


def _misused(error: _Usage, *, as_json: bool) -> int:
    where = error.ctx.command_path if error.ctx is not None else "aura"
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message, end="")  # the help, unless it was printed while it was made
    else:
        output.usage(message, where, as_json=as_json)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
