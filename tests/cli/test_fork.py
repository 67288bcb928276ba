"""`aura runs fork`."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Aura


def test_a_fork_is_made_and_run(aura: Aura, project: Path) -> None:
    arguments = ('"abc"', "2", "--version", "1.0.0", "--id", "one")
    assert aura("run", "research:app", "research", *arguments).code == 0
    made = aura("runs", "fork", "one", "--at", "0.2/measure#1", "--id", "two")
    assert (made.code, made.out) == (0, "two\n")
    assert "It has 1 entries and 0 signals of one." in made.err
    shown = aura("runs", "show", "two", "--json").json
    assert (shown["run"]["state"], shown["run"]["version"]) == ("pending", "1.0.0")
    assert [call["key"] for call in shown["journal"]] == ["0.1/measure#1"]
    other = aura("runs", "fork", "one", "--version", "1.1.0", "--json").json
    assert (other["entries"], other["run"]["version"]) == (2, "1.1.0")
    assert aura("runs", "show", "one", "--json").json["run"]["state"] == "completed"


def test_nonsense_is_one_paragraph(aura: Aura, project: Path) -> None:
    arguments = ('"abc"', "--version", "1.0.0", "--id", "one")
    aura("run", "research:app", "research", *arguments)
    for options, says in (
        (("nobody",), "no run nobody"),
        (("one", "--at", "0.1/measure#2"), "Keys that are like it: 0.1/measure#1"),
        (("one", "--version", "x"), "semantic version"),
        (("one", "--id", "one"), "there is a run one already"),
    ):
        ended = aura("runs", "fork", *options)
        assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
        assert says in ended.err
