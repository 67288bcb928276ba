"""What another plan would have done with what was observed."""

from __future__ import annotations

from aura.server.backtests import BacktestView
from aura.server.ui.drawn import TONES, percent
from aura.server.ui.forms import dialog
from aura.server.ui.parts import Column, Table, badge, button, el
from aura.server.ui.visit import Visit
from aura.spans import counted, span

COLUMNS = (
    Column("after", "After"),
    Column("what", "What"),
    Column("stage", "Stage"),
    Column("share", "Share", narrow=False),
    Column("reason", "Why"),
)


def show_backtest(visit: Visit, view: BacktestView) -> None:
    """The replay, in a dialog."""
    found, hits, then = view.backtest, view.backtest.hits, view.backtest.recorded
    rows = [
        {
            "id": str(number), "after": span(max(0.0, one.at - found.began)), "what": one.what,
            "stage": one.stage, "share": percent(one.weight), "reason": one.reason,
        }
        for number, one in enumerate(found.history)
    ]  # fmt: skip
    with dialog(visit, f"Plan {found.plan}, tried on what was observed") as made:
        made.props("full-width")
        with el("div", "toolbar"):
            badge(found.state, TONES.get(found.state, "grey"))
            el("span", "", f"after {span(found.ended - found.began)}: {found.reason}")
        el(
            "p", "",
            f"Of {counted(found.observations, 'observation')}, {counted(hits.requests, 'request')} "
            f"of {counted(hits.units, 'unit')} failed on the candidate before that end; about "
            f"{found.expected:,.1f} with this plan's weights. In the whole record: "
            f"{then.requests:,} of {then.units:,}.",
        )  # fmt: skip
        for text in (*found.notes, view.caveat):
            el("p", "muted", text)
        Table(COLUMNS, rows, label="What the plan would have done")
        with el("div", "dialog-actions"):
            button("Close", made.close)
    made.on("hide", made.delete)
    made.open()
