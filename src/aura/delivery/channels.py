"""Where alerts go: the `alerts:` section of aura.yaml and of plans.

    alerts:                                # beside `rollout:`, or in it
      - log
      - webhook: https://hooks.example.com/aura
      - webhook: {url_env: PAGER_URL, secret_env: PAGER_SECRET, on: [rollback, emergency]}
      - command: [notify-send, "Aura"]
      - command: {run: [/usr/local/bin/page, --team, search], timeout: 30s}

Addresses may be secrets, and so may be taken from the environment of the worker that delivers;
neither they nor the keys are ever written down.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from aura import yamlnodes
from aura.yamlnodes import Node

Kind = Literal["log", "webhook", "command"]
KINDS = (
    *("trip", "rollback", "gradual", "hold", "not-enough", "approval", "advance", "complete"),
    *("emergency", "release", "decommission"),
)
"""What may be told. One alert may be of two kinds: a guard tripped, and so it was rolled back."""

USUAL = frozenset(KINDS) - {"advance", "complete"}
"""What is told when a channel does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """Where alerts go. `on` names their kinds (none: the usual ones), `timeout` is in seconds.

    `url` or the environment variable `url_env`, and `secret_env`, are a webhook's; `command` is a
    program with its arguments, which gets the document on its standard input.
    """

    kind: Kind
    url: str = ""
    url_env: str = ""
    secret_env: str = ""
    command: tuple[str, ...] = ()
    on: tuple[str, ...] = ()
    timeout: float = 10.0

    def wants(self, kinds: tuple[str, ...]) -> bool:
        """Whether an alert of these kinds goes there."""
        return bool((set(self.on) or USUAL) & set(kinds))

    @property
    def shown(self) -> str:
        """How it is named where anybody may read it: without the address's path."""
        if self.kind == "webhook":
            return f"webhook {urlsplit(self.url).hostname or f'${self.url_env}'}"
        return f"command {self.command[0]}" if self.command else "log"


def channels_json(channels: tuple[Channel, ...]) -> bytes:
    """For a document."""
    return json.dumps([asdict(channel) for channel in channels]).encode()


def channels_from(data: bytes) -> tuple[Channel, ...]:
    """What `channels_json` wrote."""
    found: list[dict[str, Any]] = json.loads(data)
    return tuple(
        Channel(**{**one, "command": tuple(one["command"]), "on": tuple(one["on"])})
        for one in found
    )


def load_channels(path: str | Path) -> tuple[Channel, ...]:
    """The `alerts:` section of a file; none when it has none. Raises ConfigError."""
    text = yamlnodes.read(Path(path), kind="configuration")
    root = yamlnodes.load(text, file=str(path), kind="configuration", begin="alerts:")
    section = root.members().get("alerts")
    return read_channels(section) if section is not None else ()


def read_channels(node: Node) -> tuple[Channel, ...]:
    """The channels in the value of `alerts:`. Raises the node's error."""
    return tuple(_channel(each) for each in node.items("an alert"))


def _channel(node: Node) -> Channel:
    if node.scalar == "log":
        return Channel(kind="log")
    key, value = node.pair() or (node, node)
    if key.scalar == "log" and key is not node:
        return Channel(kind="log", **_common(value.fields(_COMMON)))
    if key.scalar == "webhook":
        return _webhook(value)
    if key.scalar != "command":
        hint = "write `- log`, `- webhook: ...` or `- command: ...`"
        node.fail(f"an alert is {node.shown}", hint)
    return _command(value)


def _webhook(value: Node) -> Channel:
    if value.scalar:
        return Channel(kind="webhook", url=_url(value))
    found = value.fields({*_COMMON, "url", "url_env", "secret_env"})
    if ("url" in found) == ("url_env" in found):
        value.fail("a webhook has one of url and url_env", "keep one of them")
    return Channel(
        kind="webhook",
        url=_url(found["url"]) if "url" in found else "",
        url_env=found["url_env"].text() if "url_env" in found else "",
        secret_env=found["secret_env"].text() if "secret_env" in found else "",
        **_common(found),
    )


def _command(value: Node) -> Channel:
    if value.shown == "a list":
        return Channel(kind="command", command=_words(value))
    if value.shown != "a mapping":
        value.fail(f"a command is {value.shown}", "write a list: [program, argument]")
    found = value.fields(_COMMON, required=("run",))
    return Channel(kind="command", command=_words(found["run"]), **_common(found))


def _words(node: Node) -> tuple[str, ...]:
    words = tuple(each.scalar or each.text() for each in node.items("a word of the command"))
    if not words:
        node.fail("the command is empty", "write a list: [program, argument]")
    return words


def _url(node: Node) -> str:
    try:
        parts = urlsplit(node.text())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        node.fail("the webhook's url cannot be used", "write https://host/path, or use url_env")
    return node.text()


def _common(found: dict[str, Node]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if "on" in found:
        given["on"] = tuple(each.choice(*KINDS) for each in found["on"].items("a kind of alert"))
    if "timeout" in found:
        given["timeout"] = found["timeout"].seconds(positive=True)
    return given


_COMMON = frozenset({"on", "timeout"})
