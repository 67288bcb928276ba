"""What people are not shown: values of fields that are secret by their name, passwords in URLs,
and tokens. Only what is shown is masked, never what is stored or what workflows get.

A pattern is the name of a field with `*` for any characters, or the end of a path of names:
`*password*`, `card.number`. Case does not matter, and lists on the way do not count. What a pattern
finds is shown as `***`, whatever it is. AURA_MASK has patterns, separated by commas, in place of
those that are there by default; `default` among them stands for these, `none` for nothing at all.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from fnmatch import translate
from functools import cached_property
from typing import Any

from aura.errors import ConfigError

HIDDEN = "***"

DEFAULT = (
    "*password*", "*passwd*", "*passphrase*", "*secret*", "*token", "*api_key*", "*apikey*",
    "*api-key*", "*private_key*", "*privatekey*", "*access_key*", "*accesskey*", "*credential*",
    "authorization", "proxy-authorization", "cookie", "set-cookie", "*connection_string*",
)  # fmt: skip
"""`*token` and not `*token*`: numbers like `max_tokens` are no secrets."""

_KNOWN = 4_096  # names of fields whose verdict is kept
_TOKEN = re.compile(r"(aura_[0-9a-f]{12}_)[A-Za-z0-9_-]+")
_PASSWORD = re.compile(r"(\w://[^\s:/@]*:)\S*(?=@)|(\bpassword=)[^\s&'\"]+", re.IGNORECASE)
_FIELD = re.compile(
    r"""(?P<name>"(?:[^"\\\n]|\\.)+"|'(?:[^'\\\n]|\\.)+'|\b[\w.-]+)(?P<is>\s*[=:]\s*)"""
    r"""(?P<value>"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?"""
    r"""|(?:(?i:bearer|basic)\s+)?[^\s,;&"'\])}]+)"""
)


def redact(text: str) -> str:
    """The text with the passwords of URLs and the secrets of tokens masked."""
    text = _TOKEN.sub(lambda found: f"{found[1]}{HIDDEN}", text)
    return _PASSWORD.sub(lambda found: f"{found[1] or found[2]}{HIDDEN}", text)


class Mask:
    """Masks plain JSON values, and texts in which such values are quoted."""

    def __init__(self, patterns: Iterable[str] = DEFAULT) -> None:
        self.patterns = tuple(dict.fromkeys(one.strip().lower() for one in patterns))
        for one in self.patterns:
            if not one.strip("*.") or any(not part for part in one.split(".")):
                raise ConfigError(
                    f"the mask {one!r} is no name of a field",
                    hint="Write names with * for any characters, as in *password*,card.number",
                )
        parts = [[_compiled(part) for part in one.split(".")] for one in self.patterns]
        self._names = [names[0] for names in parts if len(names) == 1]
        self._paths = [names for names in parts if len(names) > 1]
        self._known: dict[str, bool] = {}

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def __call__(self, value: Any) -> Any:
        """A plain JSON value as it is shown; the value itself is left as it is."""
        return self._shown(value, ()) if self.patterns else value

    def hides(self, name: str) -> bool:
        """Whether what has this name is not shown at all."""
        return bool(self.patterns) and self._is_secret(name, ())

    def text(self, text: str) -> str:
        """A text as it is shown: tokens and passwords in URLs, and `name=value`, `"name": "value"`
        of the fields, also when the text breaks off inside of the value."""
        if not self.patterns:
            return text
        return redact(_FIELD.sub(self._field, text))

    def json_text(self, text: str) -> str:
        """JSON text as it is shown, as compact as it can be; it is parsed only when something in
        it may have to be masked."""
        if not self.may_find(text):
            return text
        try:
            return json.dumps(self(json.loads(text)), ensure_ascii=False, separators=(",", ":"))
        except (ValueError, RecursionError):
            return self.text(text)

    def may_find(self, text: str) -> bool:
        """False when there is nothing to mask in a JSON text."""
        return bool(self.patterns) and self._hints.search(text) is not None

    @cached_property
    def _hints(self) -> re.Pattern[str]:
        """What every text has that a pattern can find something in."""
        said = [max(one.split(".")[-1].split("*"), key=len) for one in self.patterns]
        every = "|".join(re.escape(one) for one in said if one)
        rest = [] if all(said) else [r"\S"]
        return re.compile("|".join([every, r"\\u", "://", "aura_", *rest]), re.IGNORECASE)

    def _shown(self, value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, Mapping):
            return {name: self._under(str(name), one, path) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [self._shown(one, path) for one in value]
        if isinstance(value, str) and ("://" in value or "aura_" in value):
            return redact(value)
        return value

    def _under(self, name: str, value: Any, path: tuple[str, ...]) -> Any:
        if value is not None and self._is_secret(name, path):
            return HIDDEN
        return self._shown(value, (*path, name) if self._paths else ())

    def _is_secret(self, name: str, path: tuple[str, ...]) -> bool:
        known = self._known.get(name)
        if known is None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            known = any(one.match(name) for one in self._names)
            self._known[name] = known
        if known or not self._paths:
            return known
        whole = (*path, name)
        return any(
            len(names) <= len(whole)
            and all(one.match(at) for one, at in zip(names, whole[-len(names) :], strict=True))
            for names in self._paths
        )

    def _field(self, found: re.Match[str]) -> str:
        name = found["name"].strip("\"'")
        last = [names[-1] for names in self._paths]
        if not any(one.match(name) for one in (*self._names, *last)):
            return found[0]
        value = found["value"]
        if value[:1] in "\"'":
            closed = value[0] if len(value) > 1 and value.endswith(value[0]) else ""
            return f"{found['name']}{found['is']}{value[0]}{HIDDEN}{closed}"
        return f"{found['name']}{found['is']}{HIDDEN}"


def _compiled(part: str) -> re.Pattern[str]:
    plain = part.replace("[", "[[]").replace("?", "[?]")  # only * is more than itself
    return re.compile(translate(plain), re.IGNORECASE)


def read_patterns(text: str | None) -> tuple[str, ...]:
    """The patterns that AURA_MASK says; those by default when it says nothing. Raises
    ConfigError."""
    said = [one.strip() for one in (text or "").split(",") if one.strip()]
    if not said:
        return DEFAULT
    if said == ["none"]:
        return ()
    return Mask(
        one for word in said for one in (DEFAULT if word == "default" else (word,))
    ).patterns


def from_environment() -> tuple[str, ...]:
    """The patterns of this process, unless an app has others."""
    return read_patterns(os.environ.get("AURA_MASK"))


def _unmasked() -> bool:
    said = os.environ.get("AURA_UNMASKED", "").strip().lower()
    if said not in ("", "none", "admin"):
        raise ConfigError(
            f"AURA_UNMASKED is {said!r}", hint='Only "admin" can be shown what is masked'
        )
    return said == "admin"


@dataclass(frozen=True, slots=True)
class Masking:
    """What an app shows: `patterns` are masked for everybody (AURA_MASK), but for admins when
    `admins_see_all` (AURA_UNMASKED=admin). Raises ConfigError."""

    patterns: tuple[str, ...] = field(default_factory=lambda: from_environment())
    admins_see_all: bool = field(default_factory=lambda: _unmasked())

    def __post_init__(self) -> None:
        mask_of(self.patterns)

    def mask(self, role: str = "") -> Mask:
        """What masks what somebody with that role is shown."""
        whole = self.admins_see_all and role == "admin"
        return mask_of(() if whole else self.patterns)


_in_use: ContextVar[Mask | None] = ContextVar("aura_mask", default=None)
_made: dict[tuple[str, ...], Mask] = {}


def mask_of(patterns: tuple[str, ...]) -> Mask:
    """The mask for these patterns; made once."""
    if patterns not in _made:
        _made[patterns] = Mask(patterns)
    return _made[patterns]


def current_mask() -> Mask:
    """What masks what is shown here: that of `shown_with`, else that of the environment."""
    chosen = _in_use.get()
    return mask_of(from_environment()) if chosen is None else chosen


@contextmanager
def shown_with(mask: Mask) -> Iterator[None]:
    """What is shown inside is masked by this."""
    token = _in_use.set(mask)
    try:
        yield
    finally:
        _in_use.reset(token)
