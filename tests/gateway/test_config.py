"""The `gateway:` section: what it says, and what is wrong with it, by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from aura.delivery.plan import parse_plan
from aura.errors import ConfigError
from aura.gateway.config import (
    GatewayConfig,
    HttpSpec,
    Route,
    WorkflowSpec,
    load_gateway,
    missing_targets,
    parse_gateway,
)
from aura.gateway.routes import Routes, refuse_dots
from aura.gateway.units import UnitSource

FULL = """\
plan: something else
gateway:
  routes:
    - path: /research
      methods: [POST]
      split: research
      unit: {header: X-User-Id}
      baseline: legacy
      sla: 800ms
      ignore: ["$.workflow_id", "$.performance_metrics"]
      tolerances: {"$.score": 0.01}
      unordered: ["$.tags"]
    - path: /files/*
      methods: [GET]
      split: files
      unit: {body: user.id}
      baseline: legacy
      fallback: false
  targets:
    legacy: {http: "http://127.0.0.1:9001", timeout: 10s, connect: 500ms, connections: 7}
    research@2.0.0: {workflow: research, version: 2.0.0, adapter: "workflows:LegacyAdapter"}
  buffer: 64KiB
  max_body: 2MiB
  max_concurrent: 50
  body_timeout: 5s
  trust_forwarded: true
  shadow: {concurrent: 2, queue: 0, timeout: 3s}
"""


def parsed(text: str) -> GatewayConfig:
    config = parse_gateway(text)
    assert config is not None
    return config


def test_everything_is_read() -> None:
    config = parsed(FULL)
    first, second = config.routes
    assert (first.path, first.methods, first.split) == ("/research", ("POST",), "research")
    assert first.unit == UnitSource("header", "x-user-id")
    assert (first.sla, first.fallback, first.baseline) == (0.8, True, "legacy")
    assert [pattern.text for pattern in first.rules.ignore] == [
        "$.workflow_id",
        "$.performance_metrics",
    ]
    assert [(p.text, t) for p, t in first.rules.tolerances] == [("$.score", 0.01)]
    assert [pattern.text for pattern in first.rules.unordered] == ["$.tags"]
    assert (second.methods, second.fallback) == (("GET", "HEAD"), False)
    assert second.unit == UnitSource("body", "user.id")
    legacy = config.targets["legacy"]
    assert isinstance(legacy, HttpSpec)
    assert (legacy.limits.timeout, legacy.limits.connect, legacy.limits.connections) == (10, 0.5, 7)
    assert config.targets["research@2.0.0"] == WorkflowSpec(
        "research", "2.0.0", "workflows:LegacyAdapter", 30.0
    )
    assert (config.buffer, config.max_body) == (65536, 2 * 1024 * 1024)
    assert (config.max_concurrent, config.body_timeout, config.trust_forwarded) == (50, 5, True)
    assert (config.shadow.concurrent, config.shadow.queue, config.shadow.timeout) == (2, 0, 3)


def test_a_file_without_a_gateway() -> None:
    assert parse_gateway("plan: x\n") is None


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("/research\n", "research\n", 4, "does not start with /"),
        ("/files/*", "/fi*les/*", 13, "cannot be read"),
        ("methods: [POST]", "methods: [post]", 5, "not a method"),
        ("methods: [POST]", "methods: []", 5, "no methods"),
        ("methods: [POST]", "metods: [POST]", 5, "did you mean 'methods'"),
        ("split: research", "split: ''", 6, "split is ''"),
        ("{header: X-User-Id}", "{header: a, cookie: b}", 7, "one of header, cookie"),
        ("{header: X-User-Id}", "{header: 'a b'}", 7, "not a header's name"),
        ("{body: user.id}", "{body: user..id}", 16, "path of fields"),
        (
            "baseline: legacy\n      sla",
            "baseline: legcy\n      sla",
            8,
            "no target 'legcy'. did you mean 'legacy'",
        ),
        ("800ms", "800", 9, "sla is '800'. write a time with its unit"),
        ("800ms", "0ms", 9, "sla is 0ms. write a positive time"),
        ('"$.workflow_id"', '"workflow_id"', 10, "does not start with \\$"),
        ("0.01", "-1", 11, "is '-1'. write a number"),
        ("fallback: false", "fallback: maybe", 18, "fallback is 'maybe'. write true or false"),
        ("http://127.0.0.1:9001", "127.0.0.1:9001", 20, "not an address"),
        ("http://127.0.0.1:9001", "http://u:p@h:1", 20, "cannot use"),
        ("connections: 7", "connections: 0", 20, "is '0'. write a whole number, 1 or more"),
        ("connections: 7", "connections: 1.5", 20, "is '1.5'. write a whole number"),
        ("version: 2.0.0", "version: 2.0", 21, "version is '2.0'. .* in quotes"),
        ("workflows:LegacyAdapter", "LegacyAdapter", 21, "names no adapter"),
        ("workflow: research,", "flow: research,", 21, "either http or workflow"),
        ("buffer: 64KiB", "buffer: 64", 22, "buffer is '64'. write a size"),
        ("buffer: 64KiB", "buffer: 64MiB", 3, "larger than max_body"),
        ("path: /files/*", "path: /research", 13, "served by an earlier route"),
        ("trust_forwarded: true", "buffer: 1MiB", 26, "'buffer' stands twice in gateway"),
        ("[POST]", "[POST", 6, "not valid YAML"),
        ("      split: files\n", "", 13, "a route has no split. add `split"),
        (
            "{concurrent: 2, queue: 0, timeout: 3s}",
            "yes",
            27,
            "shadow is 'yes'. write `key",
        ),
    ],
)
def test_errors_name_line_and_remedy(old: str, new: str, line: int, words: str) -> None:
    assert FULL.count(old) >= 1
    text = FULL.replace(old, new, 1)
    if "path: /research" in new:
        text = text.replace("methods: [GET]", "methods: [GET, POST]")
    with pytest.raises(ConfigError, match=f"(?i){words}") as caught:
        parse_gateway(text, file="a.yaml")
    assert str(caught.value).startswith(f"a.yaml:{line}: ")


def test_a_gateway_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "aura.yaml"
    file.write_text(FULL)
    assert load_gateway(file) == parsed(FULL)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_gateway(tmp_path / "none.yaml")


def test_arms_of_a_plan_that_have_no_target() -> None:
    def missing(baseline: str, candidate: str) -> list[str]:
        rollout = f"{{name: r, baseline: {baseline}, candidate: {candidate}, stages: [100%]}}"
        return missing_targets(parsed(FULL), parse_plan(f"rollout: {rollout}"))

    assert missing("legacy", "research@2.0.0") == []
    assert missing("legacy", "research@2.1.0") == ["research@2.1.0"]
    assert missing("old", "new") == ["old", "new"]


def test_a_gateway_without_routes() -> None:
    with pytest.raises(ConfigError, match="at least one route"):
        parse_gateway("gateway: {routes: [], targets: {}}")


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "\t", "{"])
def test_files_that_are_no_mapping(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_gateway(text)


def route(path: str, *methods: str) -> Route:
    return Route(path, split=path, baseline="b", methods=methods)


def test_exact_paths_win_over_prefixes_and_long_prefixes_over_short_ones() -> None:
    routes = Routes([route("/*"), route("/a/*"), route("/a/b"), route("/a/b/*")])

    def split(path: str) -> str:
        found = routes.match(path, "GET")
        assert isinstance(found, Route)
        return found.split

    assert split("/a/b") == "/a/b"
    assert split("/a/b/c") == "/a/b/*"
    assert split("/a/c") == "/a/*"
    assert split("/ab") == "/*"


def test_paths_and_methods_that_nobody_serves() -> None:
    routes = Routes([route("/a", "GET"), route("/a", "PUT"), route("/b/*", "POST")])
    assert routes.match("/c", "GET") == ()
    assert routes.match("/b", "POST") == ()
    assert routes.match("/a", "POST") == ["GET", "PUT"]
    assert routes.match("/a", "PUT") == route("/a", "PUT")


@pytest.mark.parametrize("path", ["/a/../b", "/..", "/a/.", "/./a"])
def test_dot_segments_are_refused(path: str) -> None:
    with pytest.raises(Exception, match="dot segments"):
        refuse_dots(path)


@pytest.mark.parametrize("path", ["/a/..b", "/.well-known/x", "/a.b/c..", "/..."])
def test_dots_in_names_are_not_segments(path: str) -> None:
    refuse_dots(path)
