"""Settings: the configuration that is in force, and for admins who may use the API. Secrets are
neither: of keys only how many there are is told, and a token is shown once, where it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import timedelta
from importlib.metadata import version
from typing import Any

from aura.masking import redact
from aura.server import tokens
from aura.server.access import Needs
from aura.server.tokens import TokenView, ranks
from aura.server.ui.pages import page
from aura.server.ui.parts import Click, Column, El, Empty, badge, button, card, el, empty, heading
from aura.server.ui.parts import Table as Rows
from aura.server.ui.visit import Order, Visit
from aura.server.views import database_view
from aura.spans import span

NEEDS = Needs("admin")
HIDDEN = frozenset({"encryption_keys", "database", "masking"})
UNITS = {
    **dict.fromkeys(("lease", "poll", "grace"), " s"),
    **dict.fromkeys(("max_payload", "max_history_bytes"), " bytes"),
}
SETTINGS = (Column("name", "Setting"), Column("value", "Value", "code"))
NO_TOKENS = Empty(
    "No tokens yet",
    "Without tokens only this machine is let in. From the first one on everybody needs one:",
    "aura token create --name ann --role admin",
)


@page("/settings", "Settings")
async def settings(visit: Visit) -> None:
    """What is in force."""
    heading("Settings", "As this process has them; they are given in code or by the environment")
    info = database_view(await visit.app.store.info())
    with card("Configuration", classes="settings"):
        Rows(SETTINGS, _rows(visit, _told_of(info)), label="Configuration")
    if ranks(visit.caller.role, "admin"):
        await _tokens(visit)


def _told_of(info: Any) -> dict[str, str]:
    return {
        "version of Aura": version("aura-workflows"),
        "database": f"{info.kind}: {redact(info.location)}",
        "server of the database": info.server,
        "schema": str(info.schema),
    }


def _rows(visit: Visit, told: dict[str, str]) -> list[dict[str, str]]:
    config = visit.app.config
    keys = len(config.encryption_keys)
    told |= {
        "app": visit.app.name,
        "encryption": f"on, {keys} {'key' if keys == 1 else 'keys'}" if keys else "off",
        "masked fields": ", ".join(config.masking.patterns),
    }
    told |= {
        one.name: written(getattr(config, one.name)) + UNITS.get(one.name, "")
        for one in fields(config)
        if one.name not in HIDDEN and one.repr
    }
    return [{"id": name, "name": name, "value": value} for name, value in told.items()]


def written(value: object) -> str:
    """A setting as people read it."""
    if value is None:
        return "none"
    if isinstance(value, timedelta):
        return span(value.total_seconds())
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={amount:g}" for name, amount in value.items()) or "none"
    if isinstance(value, frozenset | tuple):
        return ", ".join(sorted(map(str, value))) or "none"
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"
    return str(value)


async def _tokens(visit: Visit) -> None:
    with card("Tokens", "made with: aura token create"):
        box = el("div", "tokens")

    async def look() -> list[TokenView]:
        now = visit.app.time.now()
        found = sorted((await tokens.load(visit.app)).values(), key=lambda one: one.created_at)
        return [tokens.view(one, now) for one in found]

    def show(found: list[TokenView]) -> None:
        box.clear()
        with box:
            for one in found:
                _token(visit, one)
            if not found:
                empty(NO_TOKENS)

    await visit.live(look, show, key=("tokens", "admin"))


def _token(visit: Visit, one: TokenView) -> El:
    with el("div", "version") as made, el("div", "toolbar"):
        el("strong", "", one.name)
        badge(one.role, "violet")
        badge(one.state, "green" if one.state == "live" else "grey")
        limits = f"only {', '.join(one.workflows)}" if one.workflows else "all workflows"
        until = f"until {one.expires_at:%Y-%m-%d %H:%M} UTC" if one.expires_at else "no end"
        el("span", "muted", f"{limits}; since {one.created_at:%Y-%m-%d %H:%M} UTC, {until}")
        el("span", "spacer")
        if one.state == "live":
            button("Revoke", _revoke(visit, one), "danger", visit.may(NEEDS))
    return made


def _revoke(visit: Visit, one: TokenView) -> Click:
    async def revoke() -> None:
        why = await visit.confirm(
            f"Revoke the token {one.name}?",
            "For good, a second from now at most. Without any live token nobody is let in.",
            label="Revoke", danger=True,
        )  # fmt: skip
        if why is not None:
            await visit.act(
                Order("token revoke", NEEDS, {"name": one.name}),
                why,
                lambda: tokens.revoke(visit.app, one.id),
                f"The token {one.name} is revoked",
            )

    return revoke
