"""The structural difference of two JSON documents."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.errors import ConfigError
from aura.gateway.diff import EXAMPLE, Pattern, Rules, diff_json, path_text, rules_of

documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)


def listed(left: Any, right: Any, rules: Rules | None = None) -> list[tuple[str, str, str, str]]:
    found = diff_json(left, right, rules or Rules())
    return [(d.path, d.kind, d.left, d.right) for d in found]


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": 1}, {"a": 2}, [("$.a", "value", "1", "2")]),
        ({"a": 1}, {}, [("$.a", "missing", "1", "")]),
        ({}, {"a": None}, [("$.a", "added", "", "null")]),
        ({"a": True}, {"a": 1}, [("$.a", "type", "true", "1")]),
        ({"a": "1"}, {"a": 1}, [("$.a", "type", '"1"', "1")]),
        ([1, 2], [1, 3], [("$[1]", "value", "2", "3")]),
        ([1, 2], [1], [("$", "length", "2", "1")]),
        ({"a b": {"c": 1}}, {"a b": {"c": 2}}, [('$["a b"].c', "value", "1", "2")]),
        ([float("nan")], [float("nan")], []),
    ],
)
def test_each_kind(left: Any, right: Any, expected: list[tuple[str, str, str, str]]) -> None:
    assert listed(left, right) == expected


@given(documents)
def test_a_document_does_not_differ_from_itself(document: Any) -> None:
    assert diff_json(document, json.loads(json.dumps(document))) == []


@given(documents, documents)
def test_two_documents_differ_exactly_when_the_difference_of_the_other_way_says_so(
    left: Any, right: Any
) -> None:
    assert bool(diff_json(left, right)) == bool(diff_json(right, left))


@given(st.lists(documents, max_size=5), st.randoms())
def test_unordered_arrays_are_bags(elements: list[Any], random: Any) -> None:
    shuffled = list(elements)
    random.shuffle(shuffled)
    rules = rules_of(unordered=["$.x"])
    assert diff_json({"x": elements}, {"x": shuffled}, rules) == []


def test_bags_name_what_has_no_partner() -> None:
    rules = rules_of(unordered=["$"], ignore=["$[*].id"])
    left = [{"id": 1, "n": 1}, {"id": 2, "n": 2}]
    right = [{"id": 7, "n": 2}, {"id": 8, "n": 3}]
    assert listed(left, right, rules) == [
        ("$[*]", "missing", '{"id": 1, "n": 1}', ""),
        ("$[*]", "added", "", '{"id": 8, "n": 3}'),
    ]


@pytest.mark.parametrize(
    ("pattern", "hidden"),
    [
        ("$.metrics", True),
        ("$.metrics.*", True),
        ("$.*.total", True),
        ("$.metrics.total", True),
        ("$", True),
        ("$.metrics.count", False),
        ("$.metric", False),
        ("$.*.total.deeper", False),
    ],
)
def test_ignored_paths(pattern: str, hidden: bool) -> None:
    left, right = {"metrics": {"total": 1}}, {"metrics": {"total": 2}}
    assert (diff_json(left, right, rules_of(ignore=[pattern])) == []) is hidden


def test_wildcards_over_arrays() -> None:
    left = {"hits": [{"id": 1, "at": 5}, {"id": 2, "at": 6}]}
    right = {"hits": [{"id": 1, "at": 7}, {"id": 2, "at": 8}]}
    assert len(diff_json(left, right)) == 2
    assert diff_json(left, right, rules_of(ignore=["$.hits[*].at"])) == []
    assert [d.path for d in diff_json(left, right, rules_of(ignore=["$.hits[0]"]))] == [
        "$.hits[1].at"
    ]


def test_tolerances_are_absolute_and_only_for_their_path() -> None:
    rules = rules_of(tolerances=[("$.score", 0.01)])
    assert diff_json({"score": 0.5}, {"score": 0.509}, rules) == []
    assert [d.path for d in diff_json({"score": 0.5}, {"score": 0.52}, rules)] == ["$.score"]
    assert [d.path for d in diff_json({"rank": 0.5}, {"rank": 0.509}, rules)] == ["$.rank"]


def test_examples_and_lists_are_bounded() -> None:
    left = {str(i): "x" * 10_000 for i in range(1000)}
    found = diff_json(left, {}, Rules(limit=7))
    assert len(found) == 7
    assert all(len(d.left) <= EXAMPLE for d in found)
    big = diff_json({"a": list(range(100_000))}, {"a": 1})
    assert len(big[0].left) == EXAMPLE


def test_depth_is_no_danger() -> None:
    left: Any = 1
    right: Any = 2
    for _ in range(5000):
        left, right = [left], [right]
    assert [d.kind for d in diff_json(left, right)] == ["value"]


def test_large_bags_are_compared_in_sorted_order() -> None:
    rules = rules_of(unordered=["$"])
    left: list[Any] = list(range(1000))
    assert diff_json(left, left[::-1], rules) == []
    assert diff_json(left, [*left[:-1], "x"][::-1], rules) != []


@pytest.mark.parametrize("text", ["a.b", "$.", "$.a[", "$.a[x]", "$a", ""])
def test_paths_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="path"):
        Pattern.parse(text)


@given(st.lists(st.text(max_size=6) | st.integers(0, 99), max_size=5).map(tuple))
def test_a_written_path_reads_back_as_itself(path: tuple[str | int, ...]) -> None:
    assert Pattern.parse(path_text(path)).steps == path
