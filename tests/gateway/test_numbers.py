"""Numbers in answers: from fields and headers into observations, and what is refused."""

from __future__ import annotations

import pytest

from aura.errors import ConfigError
from aura.gateway import parse_gateway
from aura.gateway.numbers import NumberSource, numbers_of
from aura.gateway.targets import Answer

TEXT = """
gateway:
  routes:
    - path: /r
      split: r
      baseline: a
      metrics: {tokens: {field: usage.total}, cost: {header: X-Cost}}
  targets:
    a: {http: "http://127.0.0.1:1"}
"""
TOKENS = NumberSource("tokens", "field", "usage.total")
COST = NumberSource("cost", "header", "x-cost")


def test_a_route_says_where_they_are() -> None:
    config = parse_gateway(TEXT)
    assert config is not None
    assert config.routes[0].metrics == (TOKENS, COST)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("{tokens: {}}", r":7: a metric has one of header and field"),
        ("{tokens: {field: a, header: b}}", "one of header and field"),
        ("{tokens: {field: a..b}}", "not a path of fields"),
        ("{tokens: {header: 'a b'}}", "not a header's name"),
        ("[tokens]", "a list"),
    ],
)
def test_mistakes_name_the_line(wrong: str, told: str) -> None:
    text = TEXT.replace("{tokens: {field: usage.total}, cost: {header: X-Cost}}", wrong)
    with pytest.raises(ConfigError, match=told):
        parse_gateway(text)


def test_finite_numbers_are_taken() -> None:
    answer = Answer(200, [(b"x-cost", b" 0.25 ")], b'{"usage": {"total": 12}}')
    assert numbers_of((TOKENS, COST), answer) == ({"tokens": 12.0, "cost": 0.25}, 0)
    assert numbers_of((TOKENS, COST), None) == ({}, 0)
    assert numbers_of((), answer) == ({}, 0)


@pytest.mark.parametrize(
    "body",
    [
        b'{"usage": {"total": NaN}}',
        b'{"usage": {"total": 1e999}}',
        b'{"usage": {"total": "many"}}',
        b'{"usage": {"total": true}}',
        b'{"usage": {"total": [1]}}',
        b'{"usage": {"total": "%s"}}' % (b"1" * 50),
        b'{"usage": {"total": 1%s}}' % (b"0" * 400),
    ],
)
def test_others_are_refused_and_counted(body: bytes) -> None:
    assert numbers_of((TOKENS,), Answer(200, [], body)) == ({}, 1)
    header = Answer(200, [(b"x-cost", b"nan")], b"")
    assert numbers_of((COST,), header) == ({}, 1)


@pytest.mark.parametrize("body", [None, b"", b"text", b"[1]", b'{"usage": 3}', b"[" * 100_000])
def test_what_is_not_there_is_not_counted(body: bytes | None) -> None:
    assert numbers_of((TOKENS, COST), Answer(200, [], body)) == ({}, 0)
