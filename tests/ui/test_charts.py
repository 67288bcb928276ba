"""Charts are text: their geometry, their words, and that nothing of a database becomes part of a
page."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from aura.delivery.analysis import Comparison, Point
from aura.delivery.report import plot
from aura.server.ui import charts
from aura.server.ui.charts import Bucket, Hill

ATTACK = "<script>alert(1)</script>\"'&"
SVG = "{http://www.w3.org/2000/svg}"
NAN = float("nan")


def parsed(text: str) -> ElementTree.Element:
    """A chart as XML; a chart that is none fails here."""
    named = text.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ')
    return ElementTree.fromstring(named)  # noqa: S314 - our own text


def kinds(root: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return [one for one in root.iter() if kind in one.get("class", "").split()]


def points_of(root: ElementTree.Element, kind: str) -> list[tuple[float, float]]:
    [found] = kinds(root, kind)
    pairs = (pair.split(",") for pair in found.get("points", "").split())
    return [(float(x), float(y)) for x, y in pairs]


def texts(root: ElementTree.Element) -> list[str]:
    return [one.text or "" for one in root.iter(f"{SVG}text")]


def test_evidence_is_on_a_logarithmic_axis_below_its_limit() -> None:
    root = parsed(charts.evidence("errors", [(0.0, 1.0), (50.0, 10.0), (100.0, 100.0)], 1000))
    line = points_of(root, "line")
    limit = float(kinds(root, "limit")[0].get("y1", "nan"))
    assert [x for x, _ in line] == [charts.LEFT, pytest.approx(342), charts.WIDTH - charts.RIGHT]
    decades = [a[1] - b[1] for a, b in itertools.pairwise(line)]
    assert decades[0] == pytest.approx(decades[1], abs=0.2)  # a power of ten is a power of ten
    assert line[-1][1] - limit == pytest.approx(decades[0], abs=0.2)
    assert "trips at 1,000" in texts(root)


def test_evidence_over_its_limit_is_drawn_above_it_and_said() -> None:
    text = charts.evidence("errors", [(0.0, 1.0), (1.0, 1e300), (2.0, math.inf)], 100)
    root = parsed(text)
    limit = float(kinds(root, "limit")[0].get("y1", "nan"))
    tops = [y for _, y in points_of(root, "line")[1:]]
    assert all(charts.TOP <= top < limit for top in tops)
    assert "it has tripped" in text
    assert "tripped" in root.get("class", "")


def test_evidence_that_is_nothing_stays_on_the_drawing() -> None:
    values = [0.0, 1e-300, NAN, 0.5]
    root = parsed(charts.evidence("x", [(float(at), value) for at, value in enumerate(values)], 20))
    ground = charts.HEIGHT - charts.BOTTOM
    assert all(charts.TOP <= y <= ground for _, y in points_of(root, "line"))
    assert "nan" not in ElementTree.tostring(root, "unicode")


def test_stages_are_marked_where_they_began_and_names_do_not_overlap() -> None:
    marks = [(0.0, "shadow"), (1.0, "5 %"), (50.0, "25 %"), (500.0, "later")]
    root = parsed(charts.evidence("x", [(0.0, 1.0), (100.0, 1.0)], 20, marks))
    assert [one.get("x1") for one in kinds(root, "stage-mark")] == ["64.0", "69.6", "342.0"]
    assert "shadow" in texts(root)
    assert "25 %" in texts(root)
    assert "5 %" not in texts(root)
    assert "later" not in texts(root)


def test_a_rollout_that_has_ended_does_not_say_now() -> None:
    points = [(0.0, 1.0), (7200.0, 1.0)]
    assert "now" in texts(parsed(charts.evidence("x", points, 20)))
    ended = texts(parsed(charts.evidence("x", points, 20, end="the end")))
    assert "the end" in ended
    assert "2 h before" in ended
    assert "now" not in ended


def test_two_distributions_are_compared_by_parts_of_their_own_requests() -> None:
    few = Hill("new", [Bucket(0.1, 0.12, 10)])
    many = Hill("old", [Bucket(0.1, 0.12, 9_000), Bucket(0.12, 0.144, 1_000)])
    root = parsed(charts.latencies([many, few], sla=0.8))
    [one] = [one for one in kinds(root, "arm-0") if "hill" in one.get("class", "")]
    [other] = [one for one in kinds(root, "arm-1") if "hill" in one.get("class", "")]
    ground = charts.HEIGHT - charts.BOTTOM
    tops = [
        min(float(pair.split(",")[1]) for pair in hill.get("points", "").split())
        for hill in (one, other)
    ]
    assert (ground - tops[0]) / (ground - tops[1]) == pytest.approx(0.9, abs=0.01)
    assert "SLA 800 ms" in texts(root)
    assert "9,000" not in charts.latencies([few])
    assert "10,000 requests" in charts.latencies([many])


def test_quantiles_lie_inside_their_bucket() -> None:
    hill = Hill("a", [Bucket(1.0, 2.0, 50), Bucket(4.0, 8.0, 50)])
    assert hill.quantile(0.5) == pytest.approx(2.0)
    assert hill.quantile(0.75) == pytest.approx(math.sqrt(32))
    assert hill.quantile(1.0) == pytest.approx(8.0)


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e-6, 3e5])
def test_latencies_of_any_size_are_drawn_inside(seconds: float) -> None:
    root = parsed(charts.latencies([Hill("a", [Bucket(seconds, seconds * 1.2, 1)])]))
    for part in kinds(root, "hill"):
        for pair in part.get("points", "").split():
            x, y = map(float, pair.split(","))
            assert charts.LEFT <= x <= charts.WIDTH - charts.RIGHT
            assert 0 <= y <= charts.HEIGHT


def test_where_nothing_was_seen_a_sentence_says_so() -> None:
    assert "No evidence yet" in charts.evidence("x", [(0.0, 1.0)], 20)
    assert "No requests yet" in charts.latencies([Hill("a", []), Hill("b", [])])
    assert "<svg" not in charts.latencies([])


def test_a_sparkline_goes_from_left_to_right_and_says_its_last_value() -> None:
    text = charts.sparkline("requests", [0, 5, 10])
    assert points_of(parsed(text), "line") == [(0.0, 26.0), (50.0, 14.0), (100.0, 2.0)]
    assert "requests: now 10, at most 10" in text
    parsed(charts.sparkline("nothing", []))


def test_what_comes_from_a_database_is_text() -> None:
    drawn = [
        charts.evidence(ATTACK, [(0.0, 1.0), (1.0, 2.0)], 20, [(0.0, ATTACK)], end=ATTACK),
        charts.latencies([Hill(ATTACK, [Bucket(1, 2, 3)])], sla=1.0),
        charts.sparkline(ATTACK, [1, 2]),
        charts.nothing(ATTACK),
    ]
    for text in drawn:
        assert "<script" not in text
        names = {one.tag.removeprefix(SVG) for one in parsed(text).iter()}
        assert names <= {
            *("div", "svg", "title", "desc", "polyline", "polygon", "line", "text", "rect"),
            *("circle", "p"),
        }
        assert not re.search(r"\son\w+=", text)
    assert ATTACK in [one.text for one in parsed(drawn[3]).iter()]


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.0, "0"), (0.5, "0.5"), (12.34, "12.3"), (300.0, "300"), (12345.0, "12,345"),
     (2.5e9, "2.5·10⁹"), (1e-5, "1.0·10⁻⁵"), (math.inf, "∞"), (NAN, "–")],
)  # fmt: skip
def test_numbers_are_short(value: float, told: str) -> None:
    assert charts.number(value) == told


def test_the_chart_of_an_experiment_begins_at_its_first_look() -> None:
    points = tuple(Point(1_000.0 + at, 10, 0.1, -0.5, 0.6) for at in (600.0, 900.0, 1_200.0))
    one = Comparison(
        "sales", "b", 10, 10, 1.0, 0.9, 0.1, -0.5, 0.6, None, None, None, 0.05, 0.3, "open",
        0.0, points,
    )  # fmt: skip
    drawn = plot(one, 1_000.0)
    assert re.findall(r">(\d+) min<", drawn) == ["10", "15", "20"]
    middle = re.search(r'class="mid" points="([\d.]+),', drawn)
    first = re.search(r'<line class="grid" x1="([\d.]+)"', drawn)
    assert middle is not None
    assert first is not None
    assert float(middle[1]) == float(first[1]), "the first look is at the left end"


def test_the_chart_of_looks_at_one_moment_is_drawn() -> None:
    points = (Point(1_772_366_400.0, 10, 0.1, -0.5, 0.6),) * 2
    one = Comparison(
        "sales", "b", 10, 10, 1.0, 0.9, 0.1, -0.5, 0.6, None, None, None, 0.05, 0.3, "open",
        0.0, points,
    )  # fmt: skip
    assert "polyline" in plot(one, 1_772_366_399.0)
