"""`aura token`: who may use the HTTP API."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json
from aura.cli.output import clean, moment, note, print_json, show, styled, table
from aura.errors import TokenError
from aura.server import tokens
from aura.server.tokens import Token, TokenView
from aura.yamlnodes import DURATION, SECONDS

token = typer.Typer(help="Say who may use the HTTP API.", no_args_is_help=True)


@token.command("create")
def create(
    name: Annotated[str, typer.Option("--name", help="Whose it is: ci, ann@laptop.")],
    role: Annotated[
        str, typer.Option(help="viewer looks, operator changes runs too, admin everything.")
    ] = "viewer",
    workflow: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only for runs of this workflow; may be repeated."),
    ] = None,
    expires: Annotated[
        str, typer.Option(metavar="TIME", help="Such as 12h or 30d, or never.")
    ] = "90d",
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Make a token for the HTTP API. It is shown once, and kept nowhere.

    From the first token on every request needs one: Authorization: Bearer ...

    \b
    Examples:
      aura token create --name ci --role operator --workflow research
      aura token create --name ann --role admin --expires 12h
    """
    seconds = lifetime(expires)

    async def make(app: Aura) -> tuple[TokenView, str]:
        async with opened(app):
            made, text = await tokens.create(
                app, name, role, workflows=tuple(workflow or ()), seconds=seconds
            )
            return tokens.view(made, app.time.now()), text

    made, text = process.run(make(bare_app(database)))
    if as_json:
        print_json({"token": text, **_plain(made)})
        return
    print(text, flush=True)
    until = f"until {moment(made.expires_at)} UTC" if made.expires_at else "until it is revoked"
    note(f"This is {made.name}'s token, {made.role} {until}. It cannot be shown again.")


@token.command("list")
def list_(database: Database = None, as_json: Json = False) -> None:
    """List the tokens, without their secrets.

    \b
    Examples:
      aura token list
    """

    async def look(app: Aura) -> list[TokenView]:
        async with opened(app):
            now = app.time.now()
            found = sorted((await tokens.load(app)).values(), key=_by_age)
            return [tokens.view(one, now) for one in found]

    found = process.run(look(bare_app(database)))
    if as_json:
        print_json({"tokens": found})
        return
    if not found:
        note("There are no tokens. Make one with: aura token create --name NAME")
        return
    columns = ("=NAME", "=ID", "ROLE", "WORKFLOWS", "STATE", "CREATED (UTC)", "EXPIRES (UTC)")
    show(table(columns, map(_row, found)))


@token.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The token's name or id.")],
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "",
    database: Database = None,
    as_json: Json = False,
) -> None:
    """End a token for good. Servers refuse it a second later at most.

    \b
    Examples:
      aura token revoke ci --reason "it was in a log"
    """
    del reason  # the audit log has it

    async def end(app: Aura) -> TokenView:
        async with opened(app):
            return tokens.view(await tokens.revoke(app, name), app.time.now())

    ended = process.run(end(bare_app(database)))
    if as_json:
        print_json(ended)
    else:
        note(f"The token {ended.name} is revoked.")


def lifetime(text: str) -> float | None:
    """The seconds of a duration, None for "never". Raises TokenError."""
    if text == "never":
        return None
    match = DURATION.fullmatch(text)
    seconds = float(match[1]) * SECONDS[match[2]] if match else 0.0
    if not 0 < seconds < 1e9:
        raise TokenError(f"--expires is {text!r:.80}", hint="Give 90m, 12h, 30d or never")
    return seconds


def _by_age(one: Token) -> tuple[float, str]:
    return one.created_at, one.id


def _plain(made: TokenView) -> dict[str, object]:
    names = ("id", "name", "role", "workflows", "state", "created_at", "expires_at")
    return {name: getattr(made, name) for name in names}


def _row(one: TokenView) -> tuple[Text | str, ...]:
    return (
        clean(one.name),
        one.id,
        one.role,
        clean(", ".join(one.workflows)) or "all",
        styled(one.state),
        moment(one.created_at),
        moment(one.expires_at) if one.expires_at else "never",
    )
