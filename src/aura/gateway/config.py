"""The `gateway:` section of aura.yaml, validated once and passed whole.

    gateway:
      routes:
        - path: /research              # exact, or a prefix that ends in /*
          methods: [POST]              # all when left out; GET brings HEAD along
          split: research
          unit: {header: x-user-id}    # or {cookie: uid} or {body: user.id}
          baseline: legacy             # who answers while no split exists
          sla: 800ms
          metrics: {tokens: {field: usage.total_tokens}, cost: {header: x-cost}}
          fallback: true               # the baseline may be asked in the candidate's place
          ignore: ["$.workflow_id"]    # for the comparison with shadow answers
          tolerances: {"$.score": 0.01}
          unordered: ["$.tags"]
          comparers: {"$.text": "rules:close"}   # functions of (baseline's, candidate's) value
          masked: ["$.email"]          # never shown in reports
          contract: {openapi: legacy.yaml, on_violation: fallback, bytes: ["/receipts/{id}"]}
          # or {examples: ["pairs/*.json"]}; bytes: true for all paths
      targets:
        legacy: {http: "http://127.0.0.1:9001", timeout: 10s, connect: 2s, connections: 200}
        fragile:
          http: "http://127.0.0.1:9002"
          breaker: {failures: 50%, least: 20, consecutive: 10, slow: 2s, open_for: 1s, longest: 60s}
        research@2.0.0: {workflow: research, version: 2.0.0, adapter: "workflows:LegacyAdapter"}
      buffer: 1MiB                     # requests up to this size can be sent again, or copied
      max_body: 32MiB
      max_concurrent: 1000
      body_timeout: 30s                # for each part of a request's body
      freshness: 2s                    # so long a split is obeyed that nobody can confirm
      trust_forwarded: false           # believe X-Forwarded-* of who connects
      shadow:
        {concurrent: 8, queue: 100, timeout: 10s, noise: 10%, relative: 20%, absolute: 0.03%,
         max_cost: 5.0, cost_window: 1h, cost_header: x-cost}

`fallback: true` means that the baseline may see a request which the candidate has begun to
serve. For methods that are not idempotent it must then tolerate that: both get the same
Idempotency-Key field, the client's own or a fresh one. A request larger than `buffer` is passed
on as it arrives and has no fallback once that began.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from aura.delivery.holder import FRESHNESS
from aura.delivery.plan import Plan
from aura.delivery.shadow import Thresholds
from aura.errors import ConfigError
from aura.gateway.contract import ContractSpec
from aura.gateway.diff import NO_RULES, Pattern, Rules
from aura.gateway.headers import OWN
from aura.gateway.http_target import Limits, parse_url
from aura.gateway.numbers import NumberSource
from aura.gateway.shadow import ShadowLimits
from aura.gateway.units import UnitSource
from aura.resilience.breaker import BreakerRules
from aura.yamlnodes import Node, load, meant, read

LEAST_FRESHNESS = 1.0  # seconds: two looks
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110 5.6.2


@dataclass(frozen=True, slots=True)
class Route:
    """Which requests go to which split. Empty `methods` are all of them; `sla` is in seconds."""

    path: str
    split: str
    baseline: str
    methods: tuple[str, ...] = ()
    unit: UnitSource | None = None
    sla: float | None = None
    fallback: bool = True
    rules: Rules = NO_RULES
    contract: ContractSpec | None = None
    metrics: tuple[NumberSource, ...] = ()


@dataclass(frozen=True, slots=True)
class HttpSpec:
    """An HTTP target: see `http_target.HttpTarget`."""

    url: str
    limits: Limits = field(default_factory=Limits)
    max_response: int = 0
    breaker: BreakerRules | None = None


@dataclass(frozen=True, slots=True)
class WorkflowSpec:
    """A workflow target: see `adapters.WorkflowTarget`. `adapter` is module:object or ""."""

    workflow: str
    version: str | None = None
    adapter: str = ""
    timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Everything about a gateway. Sizes in bytes, times in seconds.

    A split that is being moved is obeyed for `freshness` after it was last known to be the newest;
    then its baseline serves until it is confirmed again.
    """

    routes: tuple[Route, ...]
    targets: dict[str, HttpSpec | WorkflowSpec]
    buffer: int = 1024 * 1024
    max_body: int = 32 * 1024 * 1024
    max_concurrent: int = 1000
    body_timeout: float = 30.0
    trust_forwarded: bool = False
    freshness: float = FRESHNESS
    shadow: ShadowLimits = field(default_factory=ShadowLimits)


def load_gateway(path: str | Path) -> GatewayConfig | None:
    """The `gateway:` section of a file, None when it has none. Raises ConfigError with file, line
    and what to do."""
    return parse_gateway(read(Path(path), kind="configuration"), file=str(path))


def parse_gateway(text: str, *, file: str = "aura.yaml") -> GatewayConfig | None:
    """The `gateway:` section of a file's text, None when it has none. Raises ConfigError."""
    root = load(text, file=file, kind="configuration", begin="gateway:")
    section = root.members().get("gateway")
    return gateway_config(section) if section is not None else None


def missing_targets(config: GatewayConfig, plan: Plan) -> list[str]:
    """The arms that a plan names and the gateway has no target for: those would always fail."""
    return [
        arm
        for pair in plan.pairs
        for arm in (pair.baseline, pair.candidate)
        if arm not in config.targets
    ]


def gateway_config(node: Node) -> GatewayConfig:
    """The configuration in the value of `gateway:`. Raises ConfigError."""
    found = node.fields(GATEWAY, required=("routes", "targets"))
    targets = {name: _target(spec) for name, spec in found["targets"].members().items()}
    routes = [_route(each, targets) for each in found["routes"].items("a route")]
    if not routes:
        found["routes"].fail("a gateway needs at least one route", "add one below `routes:`")
    _refuse_twins(found["routes"], routes)
    config = GatewayConfig(tuple(routes), targets, **_given(found, GATEWAY))
    if config.buffer > config.max_body:
        node.fail("buffer is larger than max_body", "requests over max_body are refused")
    return config


def _route(node: Node, targets: dict[str, HttpSpec | WorkflowSpec]) -> Route:
    found = node.fields({*ROUTE, *RULES}, required=("path", "split", "baseline"))
    baseline = found["baseline"].text()
    if baseline not in targets:
        found["baseline"].fail(f"there is no target {baseline!r}", meant(baseline, targets))
    _refuse_hidden(found)
    return Route(
        path=_path(found["path"]),
        split=found["split"].text(),
        baseline=baseline,
        rules=Rules(**_given(found, RULES)),
        **_given(found, ROUTE),
    )


def _path(node: Node) -> str:
    path = node.text()
    if not path.startswith("/"):
        node.fail(f"the path {path} does not start with /", "write /exact or /prefix/*")
    if "*" in path.removesuffix("/*") or "?" in path or "#" in path:
        node.fail(f"the path {path} cannot be read", "write /exact or /prefix/*")
    return path


def _methods(node: Node) -> tuple[str, ...]:
    methods: list[str] = []
    for each in node.items("a method"):
        method = each.text()
        if not TOKEN.match(method) or method != method.upper():
            each.fail(f"{method} is not a method", "write GET, POST, ...")
        methods.append(method)
    if not methods:
        node.fail("no methods", "leave `methods` out to serve all of them")
    if "GET" in methods and "HEAD" not in methods:
        methods.append("HEAD")
    return tuple(methods)


def _unit(node: Node) -> UnitSource:
    found = node.fields(("header", "cookie", "body"))
    if len(found) != 1:
        node.fail("a unit has one of header, cookie and body", "keep one of them")
    kind, named = next(iter(found.items()))
    name = named.text()
    if kind == "header":
        if not TOKEN.match(name):
            named.fail(f"{name} is not a header's name", "write x-user-id")
        return UnitSource("header", name.lower())
    if kind == "cookie":
        return UnitSource("cookie", name)
    if not all(name.split(".")):
        named.fail(f"{name} is not a path of fields", "write user.id")
    return UnitSource("body", name)


def _metrics(node: Node) -> tuple[NumberSource, ...]:
    """Where an answer tells numbers for observations."""
    return tuple(_metric(name, each) for name, each in node.members().items())


def _metric(metric: str, node: Node) -> NumberSource:
    found = node.fields(("header", "field"))
    if len(found) != 1:
        node.fail("a metric has one of header and field", "keep one of them")
    kind, named = next(iter(found.items()))
    name = named.text()
    if kind == "header":
        if not TOKEN.match(name):
            named.fail(f"{name} is not a header's name", "write x-cost")
        return NumberSource(metric, "header", name.lower())
    if not all(name.split(".")):
        named.fail(f"{name} is not a path of fields", "write usage.total_tokens")
    return NumberSource(metric, "field", name)


def _patterns(node: Node) -> tuple[Pattern, ...]:
    return tuple(_pattern(each) for each in node.items("a path"))


def _tolerances(node: Node) -> tuple[tuple[Pattern, float], ...]:
    return tuple((_pattern(each, path), each.number()) for path, each in node.members().items())


def _comparers(node: Node) -> tuple[tuple[Pattern, str], ...]:
    return tuple((_pattern(each, path), _adapter(each)) for path, each in node.members().items())


def _refuse_hidden(found: dict[str, Node]) -> None:
    """A list without order is compared as a whole, so that nothing in it has its own comparer."""
    bags = _patterns(found["unordered"]) if "unordered" in found else ()
    for pattern, name in _comparers(found["comparers"]) if "comparers" in found else ():
        for bag in bags:
            if len(pattern.steps) > len(bag.steps) and bag.covers(pattern.steps):
                found["comparers"].fail(
                    f"{name} compares {pattern.text}, which lies in the unordered {bag.text}",
                    f"compare {bag.text} itself, or give it an order",
                )


def _contract(node: Node) -> ContractSpec:
    found = node.fields(("openapi", "examples", "on_violation", "bytes"))
    if ("openapi" in found) == ("examples" in found):
        node.fail("a contract has either openapi or examples", "name a document, or files of pairs")
    here = Path(node.file).parent
    names = found["examples"].items("a file") if "examples" in found else []
    policy = found["on_violation"].choice("pass", "fallback") if "on_violation" in found else "pass"
    return ContractSpec(
        openapi=str(here / found["openapi"].text()) if "openapi" in found else "",
        examples=tuple(str(here / each.text()) for each in names),
        on_violation="fallback" if policy == "fallback" else "pass",
        exact=_exact(found["bytes"]) if "bytes" in found else None,
    )


def _exact(node: Node) -> tuple[str, ...] | None:
    if isinstance(node.node, yaml.SequenceNode):
        paths = tuple(each.text() for each in node.items("a path"))
        return paths or node.fail("bytes names no path", "write true for all of them")
    return () if node.boolean() else None


def _pattern(node: Node, text: str | None = None) -> Pattern:
    try:
        return Pattern.parse(node.text() if text is None else text)
    except ConfigError as error:
        node.fail(error.message, error.hint)


def _target(node: Node) -> HttpSpec | WorkflowSpec:
    kinds = node.members().keys() & {"http", "workflow"}
    if len(kinds) != 1:
        node.fail("a target has either http or workflow", "write one of the two")
    return _http(node) if "http" in kinds else _workflow(node)


def _http(node: Node) -> HttpSpec:
    found = node.fields({*LIMITS, "max_response", "breaker"}, required=("http",))
    url = found["http"].text()
    try:
        parse_url(url)
    except ConfigError as error:
        found["http"].fail(error.message, error.hint)
    limits = Limits(**_given(found, LIMITS))
    breaker = _breaker(found["breaker"]) if "breaker" in found else None
    return HttpSpec(url, limits, **_given(found, {"max_response": Node.size}), breaker=breaker)


def _breaker(node: Node) -> BreakerRules:
    found = node.fields(BREAKER)
    try:
        return BreakerRules(**_given(found, BREAKER))
    except ValueError as error:
        node.fail(str(error), "see docs/how-to/breakers.md")


def _workflow(node: Node) -> WorkflowSpec:
    found = node.fields(WORKFLOW, required=("workflow",))
    return WorkflowSpec(found["workflow"].text(), **_given(found, WORKFLOW))


def _adapter(node: Node) -> str:
    module, _, name = node.text().partition(":")
    if not (module and name):
        node.fail(f"{node.scalar} names no adapter", "write module:object")
    return node.scalar


def _shadow(node: Node) -> ShadowLimits:
    found = node.fields({*SHADOW, *THRESHOLDS})
    try:
        thresholds = Thresholds(**_given(found, THRESHOLDS))
    except ConfigError as error:
        node.fail(error.message, error.hint)
    return ShadowLimits(thresholds=thresholds, **_given(found, SHADOW))


def _cost(node: Node) -> float:
    cost = node.number()
    if not cost > 0:
        node.fail(f"max_cost is {node.scalar}", "write a number above 0, or leave it out")
    return cost


def _header(node: Node) -> str:
    name = node.text()
    if not TOKEN.match(name):
        node.fail(f"{name} is not a header's name", "write x-cost")
    if name.lower().startswith(OWN.decode()):
        node.fail(f"{name} is a field of Aura's own, which targets cannot set", "write x-cost")
    return name.lower()


def _refuse_twins(node: Node, routes: list[Route]) -> None:
    seen: set[tuple[str, str]] = set()
    for each, route in zip(node.items(), routes, strict=True):
        for method in route.methods or ("",):
            if {(route.path, method), (route.path, "")} & seen or (
                not method and any(path == route.path for path, _ in seen)
            ):
                each.fail(f"{route.path} is served by an earlier route already", "remove one")
            seen.add((route.path, method))


def _time(node: Node) -> float:
    return node.seconds(positive=True)


def _freshness(node: Node) -> float:
    seconds = node.seconds(positive=True)
    if seconds < LEAST_FRESHNESS:
        node.fail(
            f"freshness is {node.scalar}",
            f"splits are confirmed twice a second; write {LEAST_FRESHNESS:g}s or more",
        )
    return seconds


def _count(node: Node) -> int:
    return node.integer(least=1)


def _given(found: dict[str, Node], readers: Readers) -> dict[str, Any]:
    """What is set, read; the rest keeps the default of the class that it is for."""
    return {name: read(found[name]) for name, read in readers.items() if name in found}


Readers = Mapping[str, Callable[[Node], Any]]

GATEWAY: Readers = {
    "buffer": Node.size,
    "max_body": Node.size,
    "max_concurrent": _count,
    "body_timeout": _time,
    "trust_forwarded": Node.boolean,
    "freshness": _freshness,
    "shadow": _shadow,
}
ROUTE: Readers = {
    "methods": _methods,
    "unit": _unit,
    "metrics": _metrics,
    "sla": _time,
    "fallback": Node.boolean,
    "contract": _contract,
}
RULES: Readers = {
    "ignore": _patterns,
    "tolerances": _tolerances,
    "unordered": _patterns,
    "comparers": _comparers,
    "masked": _patterns,
}
LIMITS: Readers = {"timeout": _time, "connect": _time, "idle": _time, "connections": _count}
WORKFLOW: Readers = {"version": Node.text, "adapter": _adapter, "timeout": _time}
BREAKER: Readers = {
    "window": _time,
    "least": _count,
    "failures": Node.percent,
    "consecutive": _count,
    "slow": _time,
    "slows": Node.percent,
    "open_for": _time,
    "longest": _time,
    "probes": _count,
}
SHADOW: Readers = {
    "concurrent": _count,
    "queue": Node.integer,
    "timeout": _time,
    "noise": Node.percent,
    "first": Node.integer,
    "max_cost": _cost,
    "cost_window": _time,
    "cost_header": _header,
}
THRESHOLDS: Readers = {
    "relative": Node.percent,
    "absolute": Node.percent,
    "evidence": Node.number,
}
