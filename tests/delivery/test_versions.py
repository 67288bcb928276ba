"""Ranges mean what they mean to npm.

The facts are those of node-semver's published tables (https://github.com/npm/node-semver,
test/fixtures/range-include.js, range-exclude.js and range-parse.js), without the entries for its
loose mode and for `includePrerelease`, which are left out here.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.delivery.versions import Range, is_exact, newest_first, reference
from aura.errors import RangeError

# range: what is in it / what is not
FACTS = """
1.0.0 - 2.0.0: 1.2.3 / 2.2.3
^1.2.3+build: 1.2.3 1.3.0 / 2.0.0 1.2.0
1.2.3-pre+asdf - 2.4.3-pre+asdf: 1.2.3 1.2.3-pre.2 2.4.3-alpha /
1.2.3+asdf - 2.4.3+asdf: 1.2.3 / 1.2.3-pre.2 2.4.3-alpha
1.0.0: 1.0.0 / 1.0.1
>=*: 0.2.4 /
: 1.0.0 /
*: 1.2.3 /
x: 1.2.3 /
||: 1.3.4 /
>=1.0.0: 1.0.0 1.0.1 1.1.0 / 0.0.0 0.0.1 0.1.0
>1.0.0: 1.0.1 1.1.0 / 0.0.1 0.1.0
<=2.0.0: 2.0.0 1.9999.9999 0.2.9 / 3.0.0 2.9999.9999 2.2.9
<2.0.0: 1.9999.9999 0.2.9 / 2.9999.9999 2.2.9
>=   1.0.0: 1.0.0 1.0.1 1.1.0 /
>  1.0.0: 1.0.1 1.1.0 /
<=   2.0.0: 2.0.0 1.9999.9999 0.2.9 /
<\t2.0.0: 0.2.9 /
>=0.1.97: 0.1.97 / 0.1.93
0.1.20 || 1.2.4: 1.2.4 / 1.2.3
>=0.2.3 || <0.0.1: 0.0.0 0.2.3 0.2.4 / 0.0.3 0.2.2
2.x.x: 2.1.3 / 3.1.3 1.1.3
1.2.x: 1.2.3 / 1.3.3
1.2.x || 2.x: 2.1.3 1.2.3 / 3.1.3 1.1.3
2.*.*: 2.1.3 / 1.1.3 3.1.3
1.2.*: 1.2.3 / 1.3.3
1.2.* || 2.*: 2.1.3 1.2.3 / 3.1.3 1.1.3
2: 2.1.2 / 1.1.2
2.3: 2.3.1 / 2.4.1
~0.0.1: 0.0.1 0.0.2 / 0.1.0-alpha 0.1.0
~x: 0.0.9 /
~2: 2.0.9 /
~2.4: 2.4.0 2.4.5 / 2.5.0 2.3.9
~>3.2.1: 3.2.2 / 3.3.2 3.2.0
~1: 1.2.3 / 0.2.3
~> 1: 1.2.3 / 2.2.3
~1.0: 1.0.2 / 1.1.0
~ 1.0.3: 1.0.12 /
>=1: 1.0.0 /
>= 1: 1.0.0 /
<1.2: 1.1.1 /
< 1.2: 1.1.1 /
<1: / 1.0.0
>=1.2: 1.2.8 / 1.1.1
~v0.5.4-pre: 0.5.5 0.5.4 /
~v0.5.4-beta: / 0.5.4-alpha
=0.7.x: 0.7.2 / 0.7.0-asdf 0.8.2
<=0.7.x: 0.7.2 0.6.2 /
>=0.7.x: 0.7.2 / 0.7.0-asdf 0.6.2
<0.7.x: / 0.7.2
~1.2.1 >=1.2.3: 1.2.3 /
~1.2.1 =1.2.3: 1.2.3 /
~1.2.1 1.2.3 >=1.2.3: 1.2.3 /
>=1.2.1 1.2.3: 1.2.3 /
>=1.2.3 >=1.2.1: 1.2.3 /
^1.2.3: 1.8.1 / 1.2.3-pre 1.2.3-beta 2.0.0-alpha 1.2.2
^0.1.2: 0.1.2 /
^0.1: 0.1.2 /
^0.0.1: 0.0.1 / 0.0.2-alpha 0.0.2
^1.2: 1.4.2 / 1.2.0-pre 1.1.9
^1.2 ^1: 1.4.2 /
^1.2.3-alpha: 1.2.3-pre /
^1.2.0-alpha: 1.2.0-pre /
^0.0.1-alpha: 0.0.1-beta 0.0.1 /
^0.1.1-alpha: 0.1.1-beta /
^x: 1.2.3 /
^1.0.0: / 2.0.0-rc1
x - 1.0.0: 0.9.7 /
x - 1.x: 0.9.7 /
1.0.0 - x: 1.9.7 /
1.x - x: 1.9.7 /
<=7.x: 7.9.9 /
>1.2: / 1.3.0-beta 1.2.8
<=1.2.3: / 1.2.3-beta
<1.2.3: / 1.2.3-beta
=1.2.3: / 1.2.3-beta
>=2: / glorp
"""

# range -> npm's short form
SHORT = {
    "1.0.0 - 2.0.0": ">=1.0.0 <=2.0.0",
    "1 - 2": ">=1.0.0 <3.0.0-0",
    "1.0 - 2.0": ">=1.0.0 <2.1.0-0",
    "1.2 - 3.4.5": ">=1.2.0 <=3.4.5",
    "1.2.3 - 3.4": ">=1.2.3 <3.5.0-0",
    "1.0.0": "1.0.0",
    ">=*": "*",
    "": "*",
    "||": "*",
    "x": "*",
    "1": ">=1.0.0 <2.0.0-0",
    "2.3": ">=2.3.0 <2.4.0-0",
    "2.x.x": ">=2.0.0 <3.0.0-0",
    "1.2.x || 2.x": ">=1.2.0 <1.3.0-0||>=2.0.0 <3.0.0-0",
    "0.1.20 || 1.2.4": "0.1.20||1.2.4",
    "~2.4": ">=2.4.0 <2.5.0-0",
    "~>3.2.1": ">=3.2.1 <3.3.0-0",
    "~ 1.0": ">=1.0.0 <1.1.0-0",
    "^0": "<1.0.0-0",
    "^ 1": ">=1.0.0 <2.0.0-0",
    "^0.1": ">=0.1.0 <0.2.0-0",
    "^0.0.1": ">=0.0.1 <0.0.2-0",
    "^0.0.1-beta": ">=0.0.1-beta <0.0.2-0",
    "^0.1.2": ">=0.1.2 <0.2.0-0",
    "^1.2.3-beta.4": ">=1.2.3-beta.4 <2.0.0-0",
    "^ 1.2 ^ 1": ">=1.2.0 <2.0.0-0 >=1.0.0",
    "<1": "<1.0.0-0",
    "< 1.2": "<1.2.0-0",
    ">1": ">=2.0.0",
    ">1.2": ">=1.3.0",
    ">X": "<0.0.0-0",
    "<X": "<0.0.0-0",
    "<x <* || >* 2.x": "<0.0.0-0",
    ">x 2.x || * || <x": "*",
}


def facts(side: int) -> list[tuple[str, str]]:
    found = []
    for line in FACTS.strip("\n").splitlines():
        text, _, versions = line.partition(": ")
        found += [(text, version) for version in versions.split("/")[side].split()]
    return found


@pytest.mark.parametrize(("text", "version"), facts(0))
def test_in_the_range(text: str, version: str) -> None:
    assert version in Range.parse(text)


@pytest.mark.parametrize(("text", "version"), facts(1))
def test_not_in_the_range(text: str, version: str) -> None:
    assert version not in Range.parse(text)


@pytest.mark.parametrize(("text", "short"), SHORT.items())
def test_the_short_form(text: str, short: str) -> None:
    assert str(Range.parse(text)) == short
    assert Range.parse(short) == Range.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        *(">01.02.03", "~1.2.3beta"),  # of npm's table, as the two below of its range classes
        *("blerg", "git+https://user@host/foo"),
        *(
            "1.2.3.4",
            ">>1",
            "^",
            ">=",
            "1.0.0 -",
            "- 2",
            "1.2.3-01",
            "^1..2",
            "latest",
            "1 - 2 - 3",
        ),
        *("1 - 2 - 3", "9007199254740992", "1" * 300, "1.2.3 & 4", "１.0.0"),
    ],
)
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(RangeError, match="no range of versions"):
        Range.parse(text)


def test_the_highest_version_by_precedence_and_not_as_text() -> None:
    versions = ["1.9.0", "1.10.0", "2.0.0", "1.11.0-rc.1", "1.2.0+build"]
    assert Range.parse("^1.2").highest(versions) == "1.10.0"
    assert Range.parse("^1.11.0-0").highest(versions) == "1.11.0-rc.1"
    assert Range.parse("3").highest(versions) is None
    assert newest_first(versions) == ["2.0.0", "1.11.0-rc.1", "1.10.0", "1.9.0", "1.2.0+build"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("research@^1.2", ("research", "^1.2")),
        ("research@1.0.0", ("research", "1.0.0")),
        ("a@b@>=1 <3", ("a@b", ">=1 <3")),
        ("research", None),
        ("research@", None),
        ("@1.0.0", None),
        ("someone@example.org", None),
    ],
)
def test_names_with_versions(text: str, parts: tuple[str, str] | None) -> None:
    found = reference(text)
    assert (tuple(found) if found else None) == parts
    assert is_exact("1.0.0-rc.1")
    assert not is_exact("^1.0.0")


numbers = st.integers(0, 4)
versions = st.builds("{}.{}.{}".format, numbers, numbers, numbers)


@given(versions, versions)
def test_a_caret_keeps_the_first_number_that_is_not_zero(base: str, other: str) -> None:
    """Against a second formulation: nothing up to the first number that is not 0 changes."""
    mine, theirs = ([int(part) for part in one.split(".")] for one in (base, other))
    first = next((at for at, number in enumerate(mine) if number), 2)
    expected = theirs >= mine and theirs[: first + 1] == mine[: first + 1]
    assert (other in Range.parse(f"^{base}")) is expected


@given(versions, versions, versions)
def test_alternatives_and_pairs_are_or_and_and(low: str, high: str, other: str) -> None:
    up, down = Range.parse(f">={low}"), Range.parse(f"<{high}")
    assert (other in Range.parse(f">={low} <{high}")) is (other in up and other in down)
    assert (other in Range.parse(f"<{high} || >={low}")) is (other in up or other in down)
