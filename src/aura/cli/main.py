"""The command `aura`: its parts, and how it ends.

Exit codes: 0 done, 1 an error (one paragraph on stderr), 2 the command line itself is wrong, 130
and 143 stopped by a signal. With --json an error is a line of JSON on stdout, too.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Protocol, cast, runtime_checkable

import typer
import typer.main

from aura.cli import output, process
from aura.cli.apply import apply
from aura.cli.audited import watched
from aura.cli.backtest import rollout
from aura.cli.bundles import export_runs, import_runs, promote
from aura.cli.catalog import catalog
from aura.cli.contract import contract
from aura.cli.decommission import decommission
from aura.cli.dlq import dlq
from aura.cli.doctor import doctor
from aura.cli.experiment import experiment
from aura.cli.flows import flows
from aura.cli.fork import fork
from aura.cli.gc import gc
from aura.cli.messages import runs
from aura.cli.options import Json
from aura.cli.queues import queues
from aura.cli.replay import replay
from aura.cli.rollback import rollback
from aura.cli.run import run
from aura.cli.schedules import schedules
from aura.cli.serve import serve
from aura.cli.shadow import shadow
from aura.cli.token import token
from aura.cli.topics import topics
from aura.cli.worker import worker
from aura.errors import AuraError

DEMO = "aura.cli.demo"

cli = typer.Typer(
    name="aura",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli.command()(serve)
cli.command()(worker)
cli.command()(run)
runs.command("fork")(fork)
runs.command("export")(export_runs)
runs.command("import")(import_runs)
cli.add_typer(runs, name="runs")
cli.add_typer(queues, name="queues")
cli.add_typer(rollout, name="rollout")
cli.add_typer(catalog, name="catalog")
cli.command()(apply)
cli.add_typer(experiment, name="experiment")
cli.add_typer(flows, name="flows")
cli.command("rollback")(rollback)
cli.add_typer(decommission, name="decommission")
cli.add_typer(shadow, name="shadow")
cli.add_typer(contract, name="contract")
cli.add_typer(schedules, name="schedules")
cli.add_typer(dlq, name="dlq")
cli.add_typer(topics, name="topics")
cli.add_typer(token, name="token")
cli.command()(doctor)
cli.command()(gc)
cli.command()(replay)
cli.command()(promote)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(version("aura-workflows"))
        raise typer.Exit


@cli.callback()
def about(
    _: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Durable AI workflows that you can change in production."""


if importlib.util.find_spec(DEMO) is not None:

    @cli.command()
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
    command = watched(typer.main.get_command(cli))
    as_json = "--json" in (sys.argv if arguments is None else arguments)
    try:
        answer = command.main(args=arguments, prog_name="aura", standalone_mode=False)
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
