"""What is shown has no secrets in it; what is stored, and what workflows get, is as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.errors import ConfigError
from aura.masking import (
    DEFAULT,
    HIDDEN,
    Mask,
    Masking,
    current_mask,
    mask_of,
    read_patterns,
    redact,
    shown_with,
)
from aura.server.views import PREVIEW, error_view, payload_view


def test_fields_are_found_at_any_depth_whatever_their_case_and_value() -> None:
    value = {
        "user": "ada",
        "Password": "p",
        "deep": [{"accessToken": "t", "list": [{"API_KEY": 7}]}],
        "credentials": {"id": 1, "key": ["a"]},
        "Set-Cookie": False,
    }
    assert Mask()(value) == {
        "user": "ada",
        "Password": HIDDEN,
        "deep": [{"accessToken": HIDDEN, "list": [{"API_KEY": HIDDEN}]}],
        "credentials": HIDDEN,
        "Set-Cookie": HIDDEN,
    }
    assert list(value.values())[1] == "p"


def test_numbers_of_tokens_and_absent_secrets_are_shown() -> None:
    value = {"max_tokens": 100, "input_tokens": 7, "password": None, "tokenizer": "bpe"}
    assert Mask()(value) == value


def test_a_path_is_the_end_of_one_and_lists_do_not_count() -> None:
    mask = Mask(["card.number", "*.secret*.a"])
    value = {
        "number": 1,
        "card": {"number": 2, "name": "x"},
        "cards": {"number": 3},
        "orders": [{"card": [{"number": 4}]}],
        "x": {"secrets": {"a": 5, "b": 6}},
        "secrets": {"a": 7},
    }
    assert mask(value) == {
        "number": 1,
        "card": {"number": HIDDEN, "name": "x"},
        "cards": {"number": 3},
        "orders": [{"card": [{"number": HIDDEN}]}],
        "x": {"secrets": {"a": HIDDEN, "b": 6}},
        "secrets": {"a": 7},
    }


def test_only_a_star_is_more_than_itself() -> None:
    mask = Mask(["a?c", "[ab]", "x*"])
    assert mask({"a?c": 1, "abc": 2, "[ab]": 3, "a": 4, "xyz": 5}) == {
        "a?c": HIDDEN,
        "abc": 2,
        "[ab]": HIDDEN,
        "a": 4,
        "xyz": HIDDEN,
    }


def test_passwords_in_addresses_and_tokens_are_masked_in_any_field() -> None:
    shown = Mask()({"dsn": "postgresql://ada:love@db/x", "note": "aura_0123456789ab_Secret-1"})
    assert shown == {
        "dsn": f"postgresql://ada:{HIDDEN}@db/x",
        "note": f"aura_0123456789ab_{HIDDEN}",
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('bad {"password": "a\\"b", "user": "u"}', 'bad {"password": "***", "user": "u"}'),
        ("{'api_key': 'abc'}", "{'api_key': '***'}"),
        ("login(password=hunter2, user=u)", "login(password=*** user=u)"),
        ('{"client_secret":"never clo', '{"client_secret":"***'),
        ("token: abc def", "token: *** def"),
        ("max_tokens=100", "max_tokens=100"),
        ("redis://:pw@h:1 is away", "redis://:***@h:1 is away"),
        ("authorization: Bearer abc.def more", "authorization: *** more"),
        ("nothing", "nothing"),
    ],
)
def test_texts(text: str, shown: str) -> None:
    assert Mask().text(text) == shown


def test_without_patterns_nothing_is_masked() -> None:
    mask = Mask(())
    value = {"password": "p"}
    assert mask(value) is value
    assert mask.text("password=p") == "password=p"
    assert redact("password=p") == "password=***"


@pytest.mark.parametrize("patterns", ["*", "a..b", ".a", "**", "a,*."])
def test_what_is_no_pattern_is_refused(patterns: str) -> None:
    with pytest.raises(ConfigError, match="no name of a field"):
        read_patterns(patterns)


def test_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_patterns(None) == read_patterns(" , ") == DEFAULT
    assert read_patterns("none") == ()
    assert read_patterns("Card.Number, iban") == ("card.number", "iban")
    assert read_patterns("default,iban") == (*DEFAULT, "iban")
    monkeypatch.setenv("AURA_MASK", "iban")
    assert current_mask()({"iban": 1, "password": 2}) == {"iban": HIDDEN, "password": 2}
    monkeypatch.setenv("AURA_UNMASKED", "operator")
    with pytest.raises(ConfigError, match="AURA_UNMASKED"):
        Masking()


def test_admins_see_all_only_when_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"password": "p"}
    for role in ("viewer", "operator", "admin", ""):
        assert Masking().mask(role)(value) == {"password": HIDDEN}
    monkeypatch.setenv("AURA_UNMASKED", "admin")
    assert Masking().mask("admin")(value) == value
    for role in ("viewer", "operator", ""):
        assert Masking().mask(role)(value) == {"password": HIDDEN}


def test_views_mask_what_they_show() -> None:
    stored = json.dumps({"api_key": "abc", "text": "x" * 3_000}).encode()
    short = payload_view(b'{"password":"p","n":1}')
    preview, full = payload_view(stored), payload_view(stored, full=True)
    assert short is not None
    assert short.value == {"password": HIDDEN, "n": 1}
    assert preview is not None
    assert preview.preview == ('{"api_key":"***","text":"' + "x" * PREVIEW)[:PREVIEW]
    assert full is not None
    assert full.value["api_key"] == HIDDEN
    error = error_view(b'{"type":"E","message":"password=p","traceback":"f(token=\'t\')"}')
    assert error is not None
    assert (error.message, error.traceback) == ("password=***", "f(token='***')")
    with shown_with(mask_of(())):
        assert payload_view(b'{"password":"p"}').value == {"password": "p"}  # type: ignore[union-attr]


NAMES = st.sampled_from(["password", "user", "myToken", "card", "number", "a"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
PROPERTY = Mask(["*password*", "*token", "card.number"])


def secrets_of(value: Any, path: tuple[str, ...] = ()) -> list[Any]:
    """The values that the patterns of `PROPERTY` are for, found in another way."""
    if isinstance(value, list):
        return [found for one in value for found in secrets_of(one, path)]
    if not isinstance(value, dict):
        return []
    found = []
    for name, one in value.items():
        if name in ("password", "myToken") or (path[-1:] == ("card",) and name == "number"):
            found.append(one)
        else:
            found += secrets_of(one, (*path, name))
    return found


@given(VALUES)
def test_all_secrets_are_masked_and_nothing_else(value: Any) -> None:
    shown = PROPERTY(value)
    assert all(one is None or one == HIDDEN for one in secrets_of(shown))
    assert len(secrets_of(shown)) == len(secrets_of(value))
    assert PROPERTY(shown) == shown
    text = json.dumps(value)
    assert json.loads(PROPERTY.json_text(text)) == shown
    if not secrets_of(value):
        assert shown == value


@given(st.text())
def test_texts_of_any_kind_are_shown(text: str) -> None:
    PROPERTY.text(text)
    PROPERTY.json_text(text)
