"""From text to terms: words, dunder names and operators alike."""

from __future__ import annotations

import functools
import re

OPERATOR_NAMES = {
    "*": "star", "/": "slash", "+": "plus", "-": "minus", "%": "percent", "@": "at",
    "&": "amp", "|": "bar", "^": "caret", "~": "tilde", "<": "less", ">": "greater",
    "=": "equals", "!": "not", ":": "colon", ".": "dot",
}  # fmt: skip

_TOKEN = re.compile(
    r"[A-Za-z_]\w*"
    r"|\d+"
    r"|\*\*=?|//=?|<<=?|>>=?|[=!<>]=|:=|->|\.\.\.|[-+*/%@&|^]=|[+*/%@&|^~<>=]|(?<!\w)-"
)
_QUOTED = re.compile(r'"([^"\n]{1,60})"|`([^`\n]{1,60})`')
_DUNDER = re.compile(r"__\w+__")

_STOP_WORDS = """
a about all also an and any are as at be been but by can do does each for from has have how if in
into is it its may more must no not of on one only or other same see so such than that the their
them then there these they this those to two used using was what when where which while who why
will with would you
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


def tokenise(text: str) -> list[str]:
    """The terms of a text in their order; an operator such as ``**`` becomes ``op_star_star``."""
    return [_term(token) for token in _TOKEN.findall(text)]


def content_terms(text: str) -> list[str]:
    """The distinct terms of a text without stop words, in order of first appearance.

    Stop words stay where they are marked as code ("while", "is not") or are all there is.
    """
    terms = list(dict.fromkeys(tokenise(text)))
    asked = {term for word in code_words(text) for term in tokenise(word)}
    return [term for term in terms if term in asked or term not in STOP_WORDS] or terms


def code_words(text: str) -> list[str]:
    """What a text marks as code (in double quotes or backticks), and bare dunder names."""
    marked = [(match.start(), match[1] or match[2]) for match in _QUOTED.finditer(text)]
    bare = [(match.start(), match[0]) for match in _DUNDER.finditer(text)]
    inside = {name for _, word in marked for name in _DUNDER.findall(word)}
    found = marked + [(at, name) for at, name in bare if name not in inside]
    return list(dict.fromkeys(word.strip() for _, word in sorted(found) if word.strip()))


@functools.lru_cache(maxsize=32_768)
def _term(token: str) -> str:
    if not (token[0].isalnum() or token[0] == "_"):
        return "op_" + "_".join(OPERATOR_NAMES[char] for char in token)
    return token if token.startswith("__") else _singular(token.lower())


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word
