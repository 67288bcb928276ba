"""The HTML report: well formed, complete, safe, and drawn right."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from aura.cli.demo import charts
from aura.cli.demo.answers import FieldDifference
from aura.cli.demo.model import Note
from aura.cli.demo.page import page, steps_row
from aura.cli.demo.plots import Axis, Frame, plot, short, stairs, tag
from tests.cli.demo.kit import BEGAN, FATE, observation, story


def parsed(text: str) -> ElementTree.Element:
    """The document as a tree; void elements are closed for the XML parser."""
    assert text.startswith("<!doctype html>")
    closed = text.removeprefix("<!doctype html>").replace('utf-8">', 'utf-8"/>')
    return ElementTree.fromstring(closed.replace('scale=1">', 'scale=1"/>'))  # noqa: S314 - our own


def test_the_page_is_well_formed_and_has_its_plots() -> None:
    tree = parsed(page(story()))
    names = [svg.get("aria-label") for svg in tree.iter("svg")]
    assert len(names) == 5
    assert all(names)
    assert "every promise kept" in "".join(tree.itertext())


def test_the_page_needs_nothing_else() -> None:
    text = page(story())
    assert "http://" not in text
    assert "https://" not in text
    assert "<script" not in text
    assert "<link" not in text
    assert "url(" not in text


def test_a_demo_that_broke_off_at_once_has_a_page_too() -> None:
    empty = story(
        exchanges=(), observations=(), main=None, canaries=(), killed_at=None, errors=("no port",)
    )
    text = "".join(parsed(page(empty)).itertext())
    assert "a promise was broken" in text
    assert "no port" in text


def test_what_comes_from_outside_never_becomes_markup() -> None:
    evil = "<img src=x onerror=alert(1)>"
    differences = (FieldDifference(evil, 1, False, evil, evil),)
    notes = (Note(BEGAN, evil),)
    text = page(story(differences=differences, notes=notes, errors=(evil,)))
    assert "<img" not in text
    parsed(text)


def test_only_the_last_steps_of_a_long_journal_are_shown() -> None:
    long = replace(FATE, before=tuple(f"step-{n}" for n in range(20)), after=("end",) * 20)
    row = steps_row(long)
    assert "11 more" in row
    assert "step-10<" not in row
    assert "step-11<" in row


def test_shares_add_up_to_the_whole() -> None:
    times, shares = charts.shares_over_time(story())
    for place in range(len(times)):
        assert sum(layer[place] for layer in shares.values()) == pytest.approx(100)


def test_no_requests_have_no_shares() -> None:
    only_copies = (observation(1, "legacy", shadow=True),)
    assert charts.shares_over_time(story(observations=only_copies)) == ([], {})


def test_the_stages_of_the_rollout_are_named_where_they_were() -> None:
    assert charts.stage_names(story()) == [(2.5, "shadow"), (7.5, "50%"), (15.0, "100%")]


@pytest.mark.parametrize(
    ("axis", "value", "place"),
    [
        (Axis(0, 10), 5, 0.5),
        (Axis(0, 10), -5, 0.0),
        (Axis(0, 10), 50, 1.0),
        (Axis(1, 100, log=True), 10, 0.5),
        (Axis(1, 100, log=True), 0, 0.0),
        (Axis(3, 3), 3, 0.0),
    ],
)
def test_a_value_has_its_place(axis: Axis, value: float, place: float) -> None:
    assert axis.at(value) == pytest.approx(place)


@pytest.mark.parametrize(
    ("axis", "labels"),
    [
        (Axis(0, 100, unit=" %"), ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]),
        (Axis(0, 0.5), ["0", "0.1", "0.2", "0.3", "0.4", "0.5"]),
        (Axis(4, 4000, log=True), ["10", "100", "1000"]),
        (Axis(1, 1e9, log=True), ["1", "100", "10k", "1M", "100M"]),
        (Axis(2, 2), ["2"]),
    ],
)
def test_ticks_are_round(axis: Axis, labels: list[str]) -> None:
    assert [label for _, label in axis.ticks()] == labels


@pytest.mark.parametrize(
    ("value", "text"), [(0.1, "0.1"), (200, "200"), (1000, "1000"), (10_000, "10k"), (2e6, "2M")]
)
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text


def test_stairs_hold_each_value_until_the_next_point() -> None:
    assert list(stairs([(0, 1), (2, 5)])) == [(0, 1), (2, 1), (2, 5)]


def test_a_plot_without_points_is_still_a_plot() -> None:
    frame = Frame(Axis(0, 1), Axis(0, 1))
    empty = [frame.line([], "a"), frame.dots([], "a"), frame.area([], [], "a", "t")]
    assert empty == ["", "", ""]
    assert "<svg" in plot(frame, empty, name="nothing")


def test_attributes_are_escaped_and_absent_ones_left_out() -> None:
    assert tag("a", "x", class_='"', data_x=1, id=None) == '<a class="&quot;" data-x="1">x</a>'
