"""What a page is given: the app, who looks at it, values that stay current, and a way to change
things.

    async def queue(visit: Visit, name: str) -> None:
        table = Table(COLUMNS, label="Queues")
        await visit.live(lambda: list_queues(visit.app), lambda found: table.show(rows(found)))
        button("Requeue", lambda: requeue(visit, name))

    async def requeue(visit: Visit, name: str) -> None:
        why = await visit.confirm(f"Requeue {name}?", "It goes on where it stopped.")
        if why is not None:
            order = Order("runs requeue", Needs("operator", "run"), {"run_id": name}, run_id=name)
            await visit.act(order, why, lambda: requeue_run(visit.app, name, visit.by))
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast
from urllib.parse import quote

from fastapi import Request
from nicegui import context, ui

from aura.app import Aura
from aura.errors import AuraError
from aura.server.access import Caller, Needs, admit, carry_out
from aura.server.audit import LONGEST, Change
from aura.server.problems import Refused
from aura.server.tokens import ranks
from aura.server.trends import Trends
from aura.server.ui.parts import El, button, el, sentence

if TYPE_CHECKING:
    from aura.gateway import GatewayConfig

T = TypeVar("T")
log = logging.getLogger("aura.server")

EVERY = 0.3
"""Seconds between two looks at what a page shows. What was looked at for another tab may be half as
old, so a change is on the screen after 0.25 s on average and 0.5 s at most, on an idle machine."""

LOOKS_TAKE = 0.1
"""The largest share of time that a page looks: on a process that is busy it looks less often."""

MOST_SHARED = 1000


@dataclass(frozen=True, slots=True)
class Order:
    """A change: `what` as the audit log names it (the route's name: "runs cancel"), what it needs,
    `target` as the audit log shows it, and the run that it is about, for tokens with limits."""

    what: str
    needs: Needs
    target: Mapping[str, str] = field(default_factory=dict)
    run_id: str | None = None


class Looks:
    """What pages look at, read once for all who look at the same."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._known: OrderedDict[Hashable, tuple[float, asyncio.Future[Any]]] = OrderedDict()

    async def at(self, key: Hashable, load: Callable[[], Awaitable[T]], fresh: float) -> T:
        """What `load` says, or has said to somebody no longer than `fresh` seconds ago."""
        now = self._monotonic()
        known = self._known.get(key)
        if known is None or (known[1].done() and now - known[0] >= fresh):
            known = now, asyncio.ensure_future(load())
            self._known[key] = known
            self._known.move_to_end(key)
            while len(self._known) > MOST_SHARED:
                self._known.popitem(last=False)
        return cast("T", await asyncio.shield(known[1]))


class Session(Protocol):
    """Who looks, asked again with each change and each look: tokens are revoked meanwhile."""

    async def caller(self) -> Caller:
        """Raises Refused when the session is over."""


@dataclass(slots=True)
class Visit:
    """One page in one browser tab. `caller` is who opened it, `query` what stood behind the `?`,
    `gateway` what this process says of targets."""

    app: Aura
    trends: Trends
    gateway: GatewayConfig | None
    caller: Caller
    request: Request
    session: Session
    looks: Looks
    said: El
    over: bool = False
    behind: bool = False

    @property
    def query(self) -> Mapping[str, str]:
        return self.request.query_params

    @property
    def by(self) -> str:
        """The caller, in logs."""
        return f"{self.caller.name}, dashboard from {self.caller.address or 'a socket'}"

    def may(self, needs: Needs) -> str:
        """Why the caller may not do something with these needs, or "": for buttons, which are shown
        but disabled. What is allowed is decided in `act`."""
        if not ranks(self.caller.role, needs.role):
            return f"needs the role {needs.role}; you are {self.caller.role}"
        if self.caller.workflows and needs.about == "all":
            return "your token is limited to runs of its workflows"
        return ""

    async def live(
        self,
        load: Callable[[], Awaitable[T]],
        show: Callable[[T], object],
        *,
        key: Hashable | None = None,
        every: float = EVERY,
    ) -> None:
        """Show what `load` says now, and again each time it says something else. Visitors with the
        same `key` (which must name all that the answer depends on, also who may see it) share one
        look. Raises what the first look raises; later a look that fails is said, and repeated."""
        shown = await self._look(load, key, every / 2)
        show(shown)

        async def again() -> None:
            nonlocal shown
            found = await self._look(load, key, every / 2)
            if found is not shown and found != shown:
                shown = found
                show(found)

        self.repeat(again, every)

    def repeat(self, do: Callable[[], Awaitable[None]], every: float = EVERY) -> None:
        """Look again and again, as long as the session is good. A look that fails is said."""

        async def again() -> None:
            if self.over:
                return
            began = self.app.clock.monotonic()
            try:
                await do()
                if self.behind:
                    self.behind = False
                    self.say("")
            except (AuraError, Refused) as error:
                self.behind = True
                self.say(f"Not current: {sentence(error)}", "problem")
            timer.interval = max(every, (self.app.clock.monotonic() - began) / LOOKS_TAKE)

        timer = ui.timer(every, again, immediate=False)

    async def _look(
        self, load: Callable[[], Awaitable[T]], key: Hashable | None, fresh: float
    ) -> T:
        return await load() if key is None else await self.looks.at(key, load, fresh)

    async def act(
        self, order: Order, why: str, do: Callable[[], Awaitable[T]], done: str = ""
    ) -> T | None:
        """Change something: if the caller may, and with an entry in the audit log. `done` is said
        afterwards. What goes wrong is said as a sentence, then this is None."""
        with self.said.client:
            return await self._act(order, why, do, done)

    async def _act(
        self, order: Order, why: str, do: Callable[[], Awaitable[T]], done: str
    ) -> T | None:
        try:
            self.caller = await self.session.caller()
            await admit(self.app, self.caller, order.needs, order.what, order.run_id)
            change = Change(
                order.what, self.caller.name, self.caller.role, "dashboard", self.caller.address,
                why[:LONGEST], dict(order.target),
            )  # fmt: skip
            found = await carry_out(self.app, change, do)
        except (AuraError, Refused) as error:
            notify(sentence(error), "problem")
            return None
        except Exception as error:
            log.exception("the dashboard failed on %s", order.what)
            notify(sentence(error), "problem")
            return None
        if done:
            notify(done)
        return found

    async def confirm(
        self, title: str, consequence: str, *, label: str = "Confirm", danger: bool = False
    ) -> str | None:
        """Ask whether it is meant, and why: the reason ("" for none), None when it is not meant."""
        with self.said.client:  # not where the button is, which may be drawn anew meanwhile
            dialog = ui.dialog()
        with dialog, el("div", "dialog", role="dialog", aria_label=title):
            el("h2", "", title)
            el("p", "", consequence)
            with el("label", "field"):
                el("span", "", "Reason, for the audit log")
                reason = ui.textarea().props("outlined dense autogrow rows=2 maxlength=500")
            with el("div", "dialog-actions"):
                button("Not now", dialog.close)
                tone = "danger" if danger else "primary"
                button(label, lambda: dialog.submit(str(reason.value or "")), tone)
        found = await dialog
        dialog.delete()
        return cast("str | None", found)

    def say(self, text: str, tone: str = "") -> None:
        """One line above the page's content, until something else is said there."""
        self.said.show(text)
        self.said.classes(replace=f"said {tone}" if text else "said hidden")

    def tell(self, text: str) -> None:
        """A few words that pass, also when the button that was pressed is not there any more."""
        with self.said.client:
            notify(text)

    def go(self, target: str) -> None:
        """Open another page of the dashboard."""
        with self.said.client:
            ui.navigate.to(target)

    def here(self, target: str) -> None:
        """Write into the address bar where one is now, to be shared and gone back to."""
        ui.navigate.history.push(target)

    async def watch(self) -> None:
        """Whether the session is still good; once it is not, nothing more is shown or done."""
        if self.over:
            return
        try:
            self.caller = await self.session.caller()
        except Refused as error:
            self.over = True
            self.say(f"{sentence(error)}. Log in again to go on.", "problem")
            query = f"?{self.request.url.query}" if self.request.url.query else ""
            here = quote(self.request.url.path + query, safe="")
            context.client.open(f"/login?next={here}")
        except AuraError as error:
            self.say(f"Not current: {sentence(error)}", "problem")


def notify(text: str, tone: str = "") -> None:
    """A few words that pass."""
    ui.notify(
        text, position="bottom-right", classes=f"notice {tone}", timeout=8000 if tone else 3000,
        close_button="Close" if tone else False,
    )  # fmt: skip
