"""Text for people: no passwords, no control characters, one paragraph."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from aura.cli.output import clean, one_line, paragraph, redact, table
from aura.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://aura:s3cret@db/x", "postgresql://aura:***@db/x"),
        ("at postgres://:s3cret@db:5432/x now", "at postgres://:***@db:5432/x now"),
        (
            "postgresql:///x?user=a&password=s3cret&ssl=on",
            "postgresql:///x?user=a&password=***&ssl=on",
        ),
        ("postgresql://a:p:a:s3cret@db/x", "postgresql://a:***@db/x"),
        ("postgresql://a:p@ss/w@db/x is away", "postgresql://a:***@db/x is away"),
        ("host=db PASSWORD=s3cret", "host=db PASSWORD=***"),
        ("http://127.0.0.1:8080/x", "http://127.0.0.1:8080/x"),
        ("write to a:b@c", "write to a:b@c"),
    ],
)
def test_passwords_are_masked(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_control_characters_are_shown_and_not_obeyed() -> None:
    assert clean("a\x1b[31mb\x07\x9b\u202ec\ud800") == "a\\x1b[31mb\\x07\\x9b\\x202ec\\ud800"
    assert clean("two\nlines\tand a tab") == "two\nlines\tand a tab"
    assert one_line("two\n  lines", 20) == "two lines"
    assert one_line("abcdef", 4) == "abc…"


def test_a_narrow_terminal_leaves_ids_whole() -> None:
    run = "01a1fc3a-e8f7-7cd8-8810-7378758b8455"
    screen = Console(width=80, file=io.StringIO(), markup=False)
    columns = ("=RUN", "WORKFLOW", "CREATED (UTC)", ">TOOK", "ERROR")
    screen.print(table(columns, [(run, "research", "2026-11-21 03:51:21", "1 ms", "word " * 20)]))
    text = screen.file.getvalue() if isinstance(screen.file, io.StringIO) else ""
    assert run in text
    assert max(map(len, text.splitlines())) <= 80


def test_an_error_is_one_paragraph() -> None:
    error = ConfigError("the first\n  line", hint="Do\nthat")
    assert paragraph(error) == "Error: the first line. Do that."
    assert paragraph(KeyError("x")).startswith("Error: unexpected KeyError: 'x'. ")
