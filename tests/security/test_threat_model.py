"""Each line of the threat model names tests that cover it, and they exist."""

from __future__ import annotations

import ast
import re

from tests.tidy_rules import FUNCTIONS, ROOT

PAGE = ROOT / "docs" / "security.md"
HEADING = "## What could go wrong, and the test that covers it"
TEST = re.compile(r"`(test_\w+)`")


def rows(text: str) -> list[list[str]]:
    """The lines of the table below the heading: threat, what holds it off, tests."""
    table = text[text.index(HEADING) :].split("\n\n")[1]
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
    return lines[2:]


def known_tests() -> set[str]:
    """The names of all test functions."""
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, FUNCTIONS) and node.name.startswith("test_"):
                found.add(node.name)
    return found


def test_every_threat_names_tests_that_exist() -> None:
    table = rows(PAGE.read_text())
    assert len(table) > 20
    there = known_tests()
    for row in table:
        assert len(row) == 3, row
        threat, held, tests = row
        assert threat
        assert held
        named = TEST.findall(tests)
        assert named, f"no test covers: {threat}"
        assert set(named) <= there, f"{threat}: {sorted(set(named) - there)} do not exist"
        assert re.sub(r"[,\s]", "", TEST.sub("", tests)) == "", row


def test_a_line_without_a_test_is_found() -> None:
    page = f"{HEADING}\n\n| threat | what | test |\n| --- | --- | --- |\n| a | b | none |\n\nend"
    assert rows(page) == [["a", "b", "none"]]
    assert TEST.findall(rows(page)[0][2]) == []
    assert "test_a_line_without_a_test_is_found" in known_tests()
    assert "test_that_nobody_wrote" not in known_tests()
