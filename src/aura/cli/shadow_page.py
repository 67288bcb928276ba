"""A shadow report as a page: one file, without scripts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; width: 100%; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; vertical-align: top; }
th { border-bottom: 1px solid #999; font-weight: 600; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.noise { color: #888; }
code { font: 13px/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
"""


def page(name: str, reports: Sequence[dict[str, Any]]) -> str:
    """The page for the reports of a split, as `aura.delivery.shadow.shown` gives them."""
    parts = "".join(map(_report, reports)) or "<p>No copies were sent yet.</p>"
    title = escape(f"Shadow report of {name}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>{parts}</body></html>\n"
    )


def _report(one: dict[str, Any]) -> str:
    facts = (
        f"{one['copies']:,} copies, {one['compared']:,} compared, {one['paired']:,} with the "
        f"baseline's own noise; {one['differing']:,} differ in a field that is no noise. "
        f"Cost {one['cost']:g}."
    )
    heads = ("Field", "Verdict", "Differs", "Noise", "Evidence", "Uncompared", "Examples")
    fields = _table(heads, map(_field, one["fields"])) if one["fields"] else ""
    counts = "".join(
        _counts(title, one[key])
        for title, key in (
            ("Suppressed effects", "effects"),
            ("Violations of the contract", "violations"),
            ("Not compared", "reasons"),
            ("Not sent", "skipped"),
        )
    )
    return f"<h2>{escape(one['arm'])}</h2><p>{escape(facts)}</p>{fields}{counts}"


def _field(one: dict[str, Any]) -> str:
    noise, evidence = one["noise_rate"], one["evidence"]
    verdict = "noise" if one["noise_field"] else "differs" if one["raw"] else "unclear"
    cells = [
        _cell(one["field"], code=True),
        _cell(verdict),
        _cell(f"{one['raw_rate']:.2%}", number=True),
        _cell("–" if noise is None else f"{noise:.2%}", number=True),
        _cell("–" if evidence is None else f"{evidence:.3g}", number=True),
        _cell(f"{one['uncompared']:,}", number=True),
        "<td>" + "<br>".join(map(_example, one["examples"])) + "</td>",
    ]
    return f'<tr class="{verdict}">{"".join(cells)}</tr>'


def _example(one: dict[str, Any]) -> str:
    where = f" ({escape(one['run'])})" if one["run"] else ""
    left, right = one["left"] or "nothing", one["right"] or "nothing"
    return f"<code>{escape(left)}</code> / <code>{escape(right)}</code>{where}"


def _counts(title: str, counts: dict[str, int]) -> str:
    if not counts:
        return ""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    rows = (f"<tr>{_cell(name)}{_cell(f'{count:,}', number=True)}</tr>" for name, count in ordered)
    return _table((title, "Count"), rows)


def _table(heads: Sequence[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _cell(text: str, *, code: bool = False, number: bool = False) -> str:
    inner = f"<code>{escape(text)}</code>" if code else escape(text)
    return f'<td class="number">{inner}</td>' if number else f"<td>{inner}</td>"
