"""The `decommission:` section of aura.yaml.

decommission:
  target: legacy
  endpoints: [/research, "/search/*"]   # default: the routes that the gateway has for it
  gate: {stable: 48h, drained: true, idle: true}
  policy: gone                          # gone | serve: what callers get in the grace
  grace: 24h                            # for each endpoint
  backup: backups                       # the folder for the copy and the archive
  link: https://example.com/legacy-ends
  alerts: [log]
  start: true                           # `aura apply` begins it, once
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from aura import yamlnodes
from aura.delivery.channels import read_channels
from aura.delivery.decommission import Decommission
from aura.delivery.gates import Gate
from aura.delivery.retirement import Policy
from aura.errors import ConfigError, DecommissionError
from aura.yamlnodes import Node

_KEYS = ("endpoints", "gate", "policy", "grace", "backup", "link", "alerts", "start")


def load_decommission(path: str | Path) -> tuple[Decommission, bool]:
    """The section of a file, and whether it names endpoints. Raises ConfigError with the line."""
    return parse_decommission(yamlnodes.read(Path(path), kind="configuration"), str(path))


def parse_decommission(text: str, source: str = "configuration") -> tuple[Decommission, bool]:
    """The same of a file's text; `source` names it in errors. Raises ConfigError."""
    root = yamlnodes.load(text, file=source, kind="configuration", begin="decommission:")
    top = root.members()
    if "decommission" not in top:
        root.fail("there is no decommission", "begin with `decommission:`")
    found = top["decommission"].fields(_KEYS, required=("target",))
    given: dict[str, Any] = {"target": found["target"].text()}
    if "endpoints" in found:
        given["endpoints"] = tuple(_path(each) for each in found["endpoints"].items("an endpoint"))
    if "gate" in found:
        given["gate"] = _gate(found["gate"])
    if "policy" in found:
        given["policy"] = cast(Policy, found["policy"].choice("gone", "serve"))
    if "grace" in found:
        given["grace"] = found["grace"].seconds()
    if "backup" in found:
        given["backup"] = found["backup"].text()
    if "link" in found:
        given["link"] = _link(found["link"])
    channels = [top["alerts"]] if "alerts" in top else []
    channels += [found["alerts"]] if "alerts" in found else []
    given["alerts"] = tuple(dict.fromkeys(one for each in channels for one in read_channels(each)))
    try:
        return Decommission(**given), "endpoints" in found
    except DecommissionError as error:
        raise ConfigError(f"{source}: {error.message}", hint=error.hint) from error


def _path(node: Node) -> str:
    path = node.text()
    if not path.startswith("/"):
        node.fail(f"the endpoint {path} does not start with /", "write a route's path")
    return path


def _gate(node: Node) -> Gate:
    found = node.fields(("stable", "drained", "idle"))
    given: dict[str, Any] = {}
    if "stable" in found:
        given["stable"] = found["stable"].seconds()
    for name in ("drained", "idle"):
        if name in found:
            given[name] = found[name].boolean()
    return Gate(**given)


def _link(node: Node) -> str:
    text = node.text()
    if not text.isprintable() or any(one in text for one in '<>" '):
        node.fail(f"the link is {node.shown}", "write an address: https://host/page")
    return text
