"""YAML values with lines: what they read, and how they say what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.errors import ConfigError, PlanError
from aura.yamlnodes import SIZE_LIMIT, Node, load, meant, read


def root(text: str) -> Node:
    return load(text, file="a.yaml", kind="file", begin="x:")


def value(text: str) -> Node:
    """The value of `x`, written on line 2."""
    return root(f"# a file\nx: {text}\n").members()["x"]


@pytest.mark.parametrize(
    ("text", "get", "expected"),
    [
        ("word", Node.text, "word"),
        ("'7'", Node.text, "7"),
        ("b", lambda node: node.choice("a", "b"), "b"),
        ("true", Node.boolean, True),
        ("no", Node.boolean, False),
        ("0", Node.integer, 0),
        ("7", lambda node: node.integer(least=7), 7),
        ("1", Node.number, 1.0),
        (".5", Node.number, 0.5),
        ("1e-3", Node.number, 0.001),
        ("0%", Node.percent, 0.0),
        ("0.01 %", Node.percent, 0.0001),
        ("33.33%", Node.percent, 0.3333),
        ("100%", Node.percent, 1.0),
        ("250ms", Node.seconds, 0.25),
        ("1.5s", Node.seconds, 1.5),
        ("2 m", Node.seconds, 120.0),
        ("48h", Node.seconds, 172_800.0),
        ("2d", Node.seconds, 172_800.0),
        ("0s", Node.seconds, 0.0),
        ("512B", Node.size, 512),
        ("64 KiB", Node.size, 65_536),
        ("2GiB", Node.size, 2 * 1024**3),
        ("[]", lambda node: node.items(), []),
        ("", lambda node: node.items(), []),
        ("", Node.members, {}),
        ("", lambda node: node.fields({"a"}), {}),
        ("", lambda node: node.empty, True),
        ("~", lambda node: node.empty, True),
        ("''", lambda node: node.empty, False),
        ("[1]", lambda node: node.scalar, ""),
        ("{a: 1, b: 2}", Node.pair, None),
        ("[1]", Node.pair, None),
    ],
)
def test_values(text: str, get: Callable[[Node], Any], expected: object) -> None:
    assert get(value(text)) == expected


@pytest.mark.parametrize(
    ("text", "get", "message"),
    [
        ("7", Node.text, "x is '7'. write a name, in quotes if need be"),
        ("' '", Node.text, "x is ' '. write a name"),
        ("[a]", Node.text, "x is a list. write a name"),
        ("bb", lambda node: node.choice("aaa", "bbb"), "x is 'bb'. did you mean 'bbb'?"),
        ("z", lambda node: node.choice("a", "b"), "x is 'z'. use a or b"),
        ("'true'", Node.boolean, "x is 'true'. write true or false"),
        ("-1", Node.integer, "x is '-1'. write a whole number, 0 or more"),
        ("'1'", Node.integer, "x is '1'. write a whole number"),
        ("1_0", Node.integer, "x is '1_0'. write a whole number"),
        ("6", lambda node: node.integer(least=7), "x is '6'. write a whole number, 7 or more"),
        ("9" * 5000, Node.integer, "write a whole number"),
        (".inf", Node.number, "x is '.inf'. write a number such as 0.01"),
        ("9" * 400, Node.number, "write a number such as 0.01"),
        ("-1", Node.number, "x is '-1'. write a number"),
        ("5", Node.percent, "x is '5'. write a percentage such as 5%"),
        ("100.01%", Node.percent, "x is 100.01%. it must be between 0% and 100%"),
        ("0.005%", Node.percent, "x is 0.005%. the finest step is 0.01%"),
        ("10", Node.seconds, "x is '10'. write a time with its unit"),
        ("1s1m", Node.seconds, "x is '1s1m'. write a time with its unit"),
        ("9" * 400 + "d", Node.seconds, "write a shorter time"),
        ("0ms", lambda node: node.seconds(positive=True), "x is 0ms. write a positive time"),
        ("0B", Node.size, "x is '0B'. write a size with its unit"),
        ("1MB", Node.size, "x is '1MB'. write a size with its unit"),
        ("5", lambda node: node.items(), "x is '5'. write a list, each line with `- `"),
        ("5", Node.members, "x is '5'. write `key: value` lines there"),
        ("{[a]: 1}", Node.members, "a key of x is a list. write a name"),
        ("{a: 1, 'a': 2}", Node.members, "'a' stands twice in x. remove one"),
        ("{colour: 1}", lambda n: n.fields({"color"}), "no setting 'colour'. did you mean 'color'"),
        ("{z: 1}", lambda node: node.fields({"b", "a"}), "x has no setting 'z'. it has a, b"),
        ("{a: 1}", lambda node: node.fields({"a"}, ["b"]), "x has no b. add `b: ...`"),
        ("{<<: 1}", Node.members, "<< merges something that is no mapping"),
        ("!mine 1", Node.text, "the tag '!mine' is not allowed. write plain values only"),
        ("!!python/name:os.system", Node.text, "is not allowed"),
        ("[" * 30 + "]" * 30, Node.items, "nested too deeply. no file needs that"),
        ("{a: b", Node.members, "not valid YAML"),
        ("\x07", Node.text, "not valid YAML: special characters are not allowed. remove"),
    ],
)
def test_errors(text: str, get: Callable[[Node], object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get(value(text))
    line = 3 if text == "{a: b" else 2
    assert str(caught.value).startswith(f"a.yaml:{line}: ")
    assert message.casefold() in str(caught.value).casefold()
    assert caught.value.hint
    assert not caught.value.hint[0].islower()


def test_each_value_has_its_own_line_and_name() -> None:
    routes = root("a:\n  - b: 1\n    c: [x,\n      2]\n").members()["a"].items("a route")
    (route,) = routes
    assert route.what == "a route"
    second = route.members()["c"].items()[1]
    with pytest.raises(ConfigError, match=r"a\.yaml:4: one of c is '2'\."):
        second.text()
    with pytest.raises(ConfigError, match=r"a\.yaml:4: its name is '2'\."):
        second.named("its name").text()


def test_a_single_pair() -> None:
    pair = value("{25%: {a: 1}}").pair()
    assert pair is not None
    key, inner = pair
    assert (key.percent(), inner.what, inner.members()["a"].integer()) == (0.25, "25%", 1)


MERGED = """
one: &one {a: 1, b: 1}
two: &two {a: 2, c: 2}
both: {<<: [*one, *two], b: 3}
first: {<<: *two, <<: *one}
nested: {<<: {d: 4}}
"""


def test_merge_keys() -> None:
    members = root(MERGED).members()

    def numbers(found: dict[str, Node]) -> dict[str, int]:
        return {name: node.integer() for name, node in found.items()}

    assert numbers(members["both"].members()) == {"a": 1, "b": 3, "c": 2}
    assert numbers(members["first"].members()) == {"a": 2, "b": 1, "c": 2}
    assert numbers(members["nested"].members()) == {"d": 4}
    assert numbers(members["both"].fields({"a", "b"})) == {"a": 1, "b": 3}
    with pytest.raises(ConfigError, match="no setting 'b'"):
        members["both"].fields({"a", "c"})


def test_documents_that_are_none() -> None:
    for text in ("", "# nothing"):
        with pytest.raises(ConfigError, match=r"(?i)a\.yaml:1: the file is empty. begin with `x:`"):
            root(text)
    with pytest.raises(ConfigError, match=r"nested too deeply\. Is it a file"):
        root("[" * 20_000)
    with pytest.raises(PlanError, match="p:1: not valid YAML"):
        load("{", file="p", kind="plan", begin="rollout:", error=PlanError)
    with pytest.raises(PlanError, match=r"p: the plan is larger than 256 KiB\. Is it a plan"):
        load("#" * (SIZE_LIMIT + 1), file="p", kind="plan", begin="rollout:", error=PlanError)


def test_aliases_do_not_explode() -> None:
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]" for n in range(15)]
    assert len(root("\n".join(lines)).members()) == 16


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(b"\xef\xbb\xbfx: \xc3\xa9\n")
    assert read(file, kind="file") == "x: é\n"
    with pytest.raises(ConfigError, match=r"none: the plan cannot be read: No such file"):
        read(tmp_path / "none", kind="plan")
    file.write_bytes(b"x: 1\ny: caf\xe9\n")
    with pytest.raises(PlanError, match=r"a\.yaml:2: the file is not UTF-8 text. Save it as"):
        read(file, kind="file", error=PlanError)
    file.write_bytes(b"#" * (SIZE_LIMIT + 1))
    with pytest.raises(ConfigError, match="the file is larger than 256 KiB"):
        read(file, kind="file")


def test_hints_for_unknown_names() -> None:
    assert meant("sla", ["slo", "name"]) == "did you mean 'slo'?"
    assert meant("z", ["b", "a"]) == "it has a, b"
    assert meant("z", ["b"], otherwise="use b") == "use b"


@given(st.text(max_size=200))
def test_any_text_is_a_document_or_an_error_with_its_place(text: str) -> None:
    try:
        node = root(text)
    except ConfigError as error:
        assert str(error).startswith("a.yaml:")  # noqa: PT017 - either way is right
    else:
        assert node.what == "the file"
