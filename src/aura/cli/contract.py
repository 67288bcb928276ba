"""`aura contract`: the old API as a contract, from examples, and a service checked against it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.text import Text

from aura.cli import process
from aura.cli.options import Json
from aura.cli.output import clean, note, one_line, print_json, show, table
from aura.errors import ConfigError

if TYPE_CHECKING:
    import aiohttp

    from aura.gateway.contract import Contract, Violation
    from aura.gateway.inferring import Example

contract = typer.Typer(help="What answers of the old API look like.", no_args_is_help=True)

Files = Annotated[
    list[str],
    typer.Argument(metavar="FILE...", help="Pairs of request and answer.", show_default=False),
]


@contract.command("infer")
def infer_(
    files: Files,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Where to write it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the contract that all examples fit, as an OpenAPI document.

    \b
    Examples:
      aura contract infer pairs/*.json -o legacy.yaml
      aura contract infer recorded.jsonl --json
    """
    from aura.gateway.contract import compile_contract
    from aura.gateway.inferring import infer, read_examples

    document = infer(read_examples(files))
    compile_contract(document)  # what is written can be used
    if as_json:
        print_json(document)
        return
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    if output is None:
        print(text, end="")
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}") from error
    note(f"The contract of {len(document['paths'])} paths is {output}.")


@dataclass(frozen=True, slots=True)
class Checked:
    """A request that was sent, and how its answer breaks the contract."""

    request: str
    status: int
    violations: tuple[Violation, ...]


@contract.command("check")
def check(
    files: Files,
    against: Annotated[
        str, typer.Option("--against", metavar="URL", help="The service.", show_default=False)
    ],
    document: Annotated[
        Path | None,
        typer.Option("--contract", metavar="FILE", help="An OpenAPI document; else the examples'."),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--bytes", help="Answers must have the examples' bytes.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one answer.")] = 30.0,
    as_json: Json = False,
) -> None:
    """Send the requests of examples to a service and check what it answers. Requests that change
    something change it there.

    Exit code 1 when an answer breaks the contract.

    \b
    Examples:
      aura contract check pairs/*.json --against http://127.0.0.1:9002
      aura contract check pairs/*.json --against http://127.0.0.1:9002 --contract legacy.yaml
    """
    from aura.gateway.contract import ContractSpec, compile_contract, read_document
    from aura.gateway.inferring import infer, read_examples

    examples = read_examples(files)
    spec = ContractSpec(exact=() if exact else None)
    found = read_document(str(document)) if document is not None else infer(examples)
    compiled = compile_contract(found, spec, examples)
    results = process.run(_ask(against.rstrip("/"), timeout, compiled, examples))
    broken = sum(bool(one.violations) for one in results)
    if as_json:
        print_json(results)
    else:
        _show(results)
        note(f"{len(results) - broken} of {len(results)} answers fit the contract.")
    if broken:
        raise typer.Exit(1)


async def _ask(
    url: str, timeout: float, compiled: Contract, examples: list[Example]
) -> list[Checked]:
    import aiohttp

    limit = aiohttp.ClientTimeout(total=timeout)
    async with aiohttp.ClientSession(timeout=limit) as client:
        return [await _checked(client, url, compiled, one) for one in examples]


async def _checked(
    client: aiohttp.ClientSession, url: str, compiled: Contract, one: Example
) -> Checked:
    import aiohttp

    headers = {"content-type": "application/json"} if _is_json(one.sent) else {}
    sent = one.sent or None
    try:
        async with client.request(
            one.method, url + one.target, data=sent, headers=headers, allow_redirects=False
        ) as answer:
            said = await answer.read()  # which is decompressed
    except (TimeoutError, aiohttp.ClientError, ValueError) as error:
        raise ConfigError(
            f"{one.method} {url}{one.target} has no answer: {type(error).__name__} {error}",
            hint="Is the service running there?",
        ) from error
    raw = tuple((name.lower(), text) for name, text in answer.raw_headers)
    found = [
        *compiled.check(one.method, one.target, answer.status, raw, said),
        *compiled.check_example(one.method, one.target, one.sent, said),
    ]
    return Checked(f"{one.method} {one.target}", answer.status, tuple(found))


def _show(results: list[Checked]) -> None:
    rows = [
        (clean(one.request), str(one.status), Text(clean(each.path)), one_line(each.message, 100))
        for one in results
        for each in one.violations
    ]
    if rows:
        show(table(("=REQUEST", "STATUS", "=WHERE", "WHAT"), rows))


def _is_json(sent: bytes) -> bool:
    try:
        json.loads(sent)
    except (ValueError, RecursionError):
        return False
    return True
