"""Makes Grafana's JSON of dashboards.yml: `python deploy/grafana/make.py`.

What every panel has in common is said once, here. The schema is pinned; Grafana brings older ones
up to date by itself.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SCHEMA = 39  # Grafana 10.4 and later
HERE = Path(__file__).resolve().parent
SOURCES = HERE / "dashboards.yml"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT = 24, 8  # of the grid, of a panel


@dataclass(frozen=True, slots=True)
class Panel:
    """`shows`: pairs of a PromQL expression and the legend of its lines. `unit` is Grafana's."""

    title: str
    shows: tuple[tuple[str, str], ...]
    unit: str = "short"
    about: str = ""
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Dashboard:
    """`asks`: what its variables are, label by metric."""

    uid: str
    title: str
    about: str
    rows: dict[str, list[Panel]]
    asks: dict[str, str] = field(default_factory=dict)


def dashboards() -> list[Dashboard]:
    """As they are written down."""
    return [_dashboard(uid, body) for uid, body in yaml.safe_load(SOURCES.read_text()).items()]


def _dashboard(uid: str, body: dict[str, Any]) -> Dashboard:
    rows = {
        title: [
            Panel(shows=tuple((e, legend) for legend, e in one.pop("shows").items()), **one)
            for one in row
        ]
        for title, row in body["rows"].items()
    }
    return Dashboard(uid, body["title"], body["about"], rows, body["asks"])


# -- as Grafana wants it -----------------------------------------------------------------------


def document(board: Dashboard) -> dict[str, Any]:
    """The dashboard as JSON for Grafana's provisioning and import."""
    return {
        "uid": board.uid,
        "title": board.title,
        "description": board.about,
        "tags": ["aura"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [_link()],
        "templating": {"list": _variables(board)},
        "panels": _panels(board),
    }


def _link() -> dict[str, Any]:
    return {
        "title": "Aura", "type": "dashboards", "tags": ["aura"], "asDropdown": True,
        "includeVars": True, "keepTime": True, "targetBlank": False, "icon": "external link",
        "tooltip": "", "url": "",
    }  # fmt: skip


def _variables(board: Dashboard) -> list[dict[str, Any]]:
    source = {
        "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus",
        "refresh": 1, "hide": 0, "regex": "", "multi": False, "includeAll": False,
    }  # fmt: skip
    asks = {"job": "aura_store_up", **board.asks}
    return [source, *(_variable(label, metric) for label, metric in asks.items())]


def _variable(label: str, metric: str) -> dict[str, Any]:
    query = f"label_values({metric}, {label})"
    return {
        "name": label, "label": label, "type": "query", "datasource": SOURCE,
        "query": {"query": query, "refId": label}, "definition": query, "refresh": 2, "sort": 1,
        "multi": True, "includeAll": True, "allValue": ".*", "hide": 0, "regex": "",
        "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip


def _panels(board: Dashboard) -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in board.rows.items():
        place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False,
             "gridPos": place, "panels": []}
        )  # fmt: skip
        x, y = 0, y + 1
        height = 4 if all(one.kind == "stat" for one in row) else HEIGHT
        for one in row:
            if x + one.width > WIDTH:
                x, y = 0, y + height
            place = {"x": x, "y": y, "w": one.width, "h": height}
            panels.append({"id": len(panels) + 1, "gridPos": place, **_panel(one)})
            x += one.width
        y += height
    return panels


def _panel(panel: Panel) -> dict[str, Any]:
    custom: dict[str, Any] = {}
    options: dict[str, Any] = {}
    if panel.kind == "timeseries":
        mode = "normal" if panel.stacked else "none"
        custom = {"fillOpacity": 10, "showPoints": "never", "stacking": {"mode": mode}}
        options = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    elif panel.kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none"}
    limits = {"min": 0} if panel.most is None else {"min": 0, "max": panel.most}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "custom": custom, **limits},
            "overrides": [],
        },
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + at), "datasource": SOURCE, "expr": expression,
                "legendFormat": legend, "instant": panel.kind == "table",
                "range": panel.kind != "table",
            }
            for at, (expression, legend) in enumerate(panel.shows)
        ],
    }  # fmt: skip


def files() -> dict[str, str]:
    """The text of each file by its name."""
    return {
        f"{board.uid}.json": json.dumps(document(board), indent=2, ensure_ascii=False) + "\n"
        for board in dashboards()
    }


if __name__ == "__main__":
    for name, text in files().items():
        path = HERE / "dashboards" / name
        path.write_text(text)
        sys.stdout.write(f"{path}\n")
