"""The menu's icons: lines in squares of 16 by 16. Ours, so that no font is needed."""

from __future__ import annotations

ICONS: dict[str, str] = {
    "overview": "M2 9h4v5H2zM6 5h4v9H6zM10 2h4v12h-4z",
    "runs": "M3 3h10M3 8h10M3 13h6M12.5 11.5l2 1.5-2 1.5z",
    "schedules": "M8 2a6 6 0 1 0 .01 0zM8 4.5V8l2.5 1.5",
    "queues": "M2 4h12M2 8h12M2 12h12M5 2.5v3M9 6.5v3M12 10.5v3",
    "workers": "M3 3h10v4H3zM3 9h10v4H3zM5.5 5h.01M5.5 11h.01",
    "rollouts": "M2 13h3v-3h3V7h3V4h3",
    "experiments": "M6 2h4M7 2v4L3 13.5h10L9 6V2M5 10h6",
    "catalog": "M3 2.5h4v11H3zM9 2.5h4v11H9zM4.5 5h1M10.5 5h1",
    "retired": "M8 2v6M4.5 4.5a5 5 0 1 0 7 0",
    "topics": "M8 8h.01M5 5a4.2 4.2 0 0 0 0 6M11 5a4.2 4.2 0 0 1 0 6"
    "M3 3a7 7 0 0 0 0 10M13 3a7 7 0 0 1 0 10",
    "letters": "M2 4h12v9H2zM2 4l6 5 6-5",
    "audit": "M4 2h8v12H4zM6 5h4M6 8h4M6 11h2",
    "settings": "M2 5h7M13 5h1M11 3.5v3M2 11h1M7 11h7M5 9.5v3",
    "menu": "M2 4h12M2 8h12M2 12h12",
    "theme": "M8 2a6 6 0 1 0 .01 0zM8 2v12A6 6 0 0 0 8 2z",
    "out": "M6 2H3v12h3M10 5l3 3-3 3M13 8H6",
    "close": "M4 4l8 8M12 4l-8 8",
    "right": "M6 3l5 5-5 5",
    "search": "M7 2.5a4.5 4.5 0 1 0 .01 0zM10.5 10.5L14 14",
    "mark": "M2 13L8 2l6 11M5 9.5h6",
}
