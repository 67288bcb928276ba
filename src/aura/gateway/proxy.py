"""The gateway: one ASGI application in front of targets.

The way of one request:

    route ─► unit ─► split.assign ─► arm ─► race with the baseline ─► answer ─► observation
      │        (body kept or streamed)                                 │
      ╰─ 4xx problem                                                   ╰─► shadow copy

Every request that was sent to an arm gives exactly one observation, whatever becomes of it: the
arm's own outcome (`ok`, `latency`, `error`) and what the user saw (`user_ok`, `fallback`).
`latency` is the time to a whole short answer, or to the head of one that is long or streamed. A
candidate that was overtaken goes on until twice the SLA, so that its own time is learned; then it
is cancelled and counts as failed (`late`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from aura.clock import Clock
from aura.delivery.holder import Known, SplitHolder
from aura.delivery.observation import Observation
from aura.delivery.shadows import ShadowDesk
from aura.delivery.split import Split
from aura.errors import ConfigError, RequestRefused, TargetFailed, TargetTimeout
from aura.gateway import problems
from aura.gateway.client import BodyStream, Client, ClientGone, Receive, Scope, Send
from aura.gateway.config import GatewayConfig, Route
from aura.gateway.contract import Contract, load_contract
from aura.gateway.headers import (
    PairList,
    client_address,
    refuse_large,
    refuse_version,
    wants_upgrade,
)
from aura.gateway.numbers import numbers_of
from aura.gateway.race import Attempt, Race, attempt, discard, race, within
from aura.gateway.respond import Copy, Dates, Responder
from aura.gateway.retired import Retired, fields, gone
from aura.gateway.routes import Routes, refuse_dots
from aura.gateway.shadow import LARGEST, Mirrored, Recorded, Shadows, shadow_of, violations
from aura.gateway.targets import WHOLE, Answer, Target
from aura.gateway.units import find_unit
from aura.gateway.visit import (
    Outcome,
    Visit,
    announced_length,
    assign,
    origin_of,
    request_of,
)
from aura.resilience.hedge import RecentQuantile, patience, start_after

log = logging.getLogger("aura.gateway")

CONTRACT = "contract"
"""The failure of an answer that breaks its route's contract."""


@dataclass(slots=True)
class Counters:
    """What a gateway did since it started, in requests.

    `units_missing`: assigned by the client's address. `fallbacks_error`, `fallbacks_late`: the
    baseline was started for a candidate that failed, or was late. `clients_gone`: the client left
    before its answer was complete. `unfinished`: an answer broke off after its head was sent.
    `lapsed`: the baseline served because nobody could confirm a split that is being moved.
    `metrics_refused`: numbers in answers that were none, or not finite.
    """

    requests: int = 0
    refused: int = 0
    units_missing: int = 0
    fallbacks_error: int = 0
    fallbacks_late: int = 0
    clients_gone: int = 0
    unfinished: int = 0
    lapsed: int = 0
    metrics_refused: int = 0


class Gateway:
    """An ASGI application that sends each request to an arm of its route's split.

    `targets` by arm name, `splits` by split name; `observe` takes each observation and must not
    block; `desk` keeps what copies have shown. Close it when the server stops (its lifespan does).

    Raises ConfigError when a route's baseline or split is not there, or a contract cannot be read.
    """

    def __init__(
        self,
        config: GatewayConfig,
        *,
        targets: Mapping[str, Target],
        splits: Mapping[str, SplitHolder],
        observe: Callable[[Observation], None],
        clock: Clock,
        desk: ShadowDesk | None = None,
    ) -> None:
        for route in config.routes:
            if route.baseline not in targets:
                raise ConfigError(f"the baseline {route.baseline} of {route.path} has no target")
            if route.split not in splits:
                raise ConfigError(f"the split {route.split} of {route.path} has no holder")
        self.config = config
        self.counters = Counters()
        self.shadows = Shadows(observe, clock, config.shadow, desk)
        self._contracts = {
            (route.path, route.methods): load_contract(route.contract)
            for route in config.routes
            if route.contract is not None
        }
        self.retired = Retired()
        self.active = 0
        self.punctual: Counter[tuple[str, str]] = Counter()
        """By split: answers that began within their route's SLA ("in-time"), and after it
        ("late")."""
        self._targets = targets
        self._splits = splits
        self._observe = observe
        self._clock = clock
        self._routes = Routes(config.routes)
        self._dates = Dates(clock)
        self._usual: dict[tuple[str, str], RecentQuantile] = {}
        self._late: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})

    def known(self) -> tuple[Known, ...]:
        """What this process knows of its splits, by name."""
        found = [self._splits[name].known() for name in sorted(self._splits)]
        return tuple(one for one in found if one is not None)

    async def close(self) -> None:
        """End what goes on in the background and let go of all connections."""
        late = list(self._late)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        await self.shadows.close()
        for target in self._targets.values():
            await target.close()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    # -- one request -----------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        respond = Responder(send, scope, self._dates)
        if self.active >= self.config.max_concurrent:
            self.counters.refused += 1
            await respond.problem(problems.too_busy(self.config.max_concurrent))
            return
        self.active += 1
        self.counters.requests += 1
        try:
            await self._admit(scope, receive, respond)
        except RequestRefused as error:
            self.counters.refused += 1
            await respond.problem(problems.refused(error))
        except ClientGone:
            self.counters.clients_gone += 1
        except Exception as error:
            log.exception("the gateway failed on %s", scope["path"])
            if not respond.started:
                await respond.problem(problems.internal(error))
        finally:
            self.active -= 1

    async def _admit(self, scope: Scope, receive: Receive, respond: Responder) -> None:
        """Find the route and the reasons to refuse, then serve."""
        headers = scope["headers"]
        refuse_version(scope.get("http_version", "1.1"), headers)
        if protocol := wants_upgrade(headers):
            await self._refuse(respond, problems.no_upgrade(protocol))
            return
        refuse_large(headers)
        refuse_dots(scope["path"])
        route = self._routes.match(scope["path"], scope["method"])
        if not isinstance(route, Route):
            problem = (
                problems.wrong_method(scope["method"], route)
                if route
                else problems.not_found(scope["path"])
            )
            await self._refuse(respond, problem)
            return
        client = Client(
            receive,
            length=announced_length(scope),
            limit=self.config.max_body,
            patience=self.config.body_timeout,
        )
        visit = await self._visit(route, scope, client)
        notice = self.retired.of(route.path, visit.arm)
        if notice is not None:
            self.retired.count(route.path, visit.arm)
            if not notice.served:
                await self._refuse(respond, gone(notice))
                return
        await self._attend(visit, client, respond)

    async def _refuse(self, respond: Responder, problem: problems.Problem) -> None:
        self.counters.refused += 1
        await respond.problem(problem)

    async def _visit(self, route: Route, scope: Scope, client: Client) -> Visit:
        """Decide unit and arm; the body is kept when something needs all of it, or it is small."""
        origin = origin_of(scope, trusted=self.config.trust_forwarded)
        in_body = route.unit is not None and route.unit.kind == "body"
        small = client.length is not None and client.length <= min(WHOLE, self.config.buffer)
        body = await client.keep(self.config.buffer) if in_body or small else None
        address = client_address(scope["headers"], origin)
        unit = find_unit(route.unit, scope["headers"], body, address)
        self.counters.units_missing += not unit.found
        seed, baseline, mirror = assign(route, self._split_of(route), unit.value)
        if not (in_body or small) and (
            mirror or (route.fallback and seed.arm != baseline) or self._needs_whole(seed.arm)
        ):
            body = await client.keep(self.config.buffer)
        if body is not None:
            client.release()
        request = request_of(route, scope, origin, client.stream() if body is None else body)
        return Visit(route, baseline, mirror, seed, request, self._clock.monotonic())

    def _split_of(self, route: Route) -> Split | None:
        """The split to obey. When everybody was forced to a baseline that this gateway has no
        target for, the route's own serves."""
        holder = self._splits[route.split]
        split = holder.current
        self.counters.lapsed += holder.lapsed
        if split is not None and split.forced and split.baseline not in self._targets:
            return None
        return split

    def _needs_whole(self, arm: str) -> bool:
        target = self._targets.get(arm)
        return target is not None and target.whole

    async def _attend(self, visit: Visit, client: Client, respond: Responder) -> None:
        """Serve while the client is there; when it leaves, so does the call on its behalf."""
        work = asyncio.create_task(self._serve(visit, respond))
        gone = asyncio.create_task(client.gone())
        try:
            await _first_of(work, gone)
        except ClientGone:
            self._tell(visit, Outcome(True, "client-gone", self._elapsed(visit), "", False, False))
            raise
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _serve(self, visit: Visit, respond: Responder) -> None:
        result = await self._race(visit)
        winner = result.winner
        if visit.route.sla is not None:
            late = self._elapsed(visit) > visit.route.sla
            self.punctual[visit.route.split, "late" if late else "in-time"] += 1
        contract = self._contract_of(visit)
        wanted = visit.mirror or (contract and not winner.broken)
        copy = Copy(LARGEST) if wanted and winner.answer is not None else None
        try:
            failure = await self._send(visit, winner, respond, copy)
        except BaseException:
            if result.running is not None:
                discard(result.running)
            raise
        if contract and copy is not None and winner.good and not failure:
            failure = self._checked(visit, contract, winner, copy.whole)
        user_ok = winner.good and not failure
        if result.running is not None:
            self._watch(visit, result.running, user_ok=user_ok)
        elif result.candidate is not None:
            fallback = winner is not result.candidate
            own = result.candidate.failure or ("" if fallback else failure)
            told = _outcome(result.candidate, own, fallback=fallback, user_ok=user_ok)
            self._tell(visit, told, result.candidate.answer)
        if copy is not None and visit.mirror and failure in ("", CONTRACT):
            self._mirror(visit, winner, copy)

    def _contract_of(self, visit: Visit) -> Contract | None:
        return self._contracts.get((visit.route.path, visit.route.methods))

    def _checked(
        self, visit: Visit, contract: Contract, outcome: Attempt, body: bytes | None
    ) -> str:
        """`CONTRACT` when an answer breaks it, else ""; what it breaks is kept for the report."""
        if outcome.answer is None:
            return ""
        answer = Recorded(outcome.answer.status, outcome.answer.headers, body)
        found = violations(contract, visit.request, answer)
        if found:
            self.shadows.desk.violated(visit.route.split, outcome.arm, map(str, found))
        return CONTRACT if found else ""

    async def _send(
        self, visit: Visit, winner: Attempt, respond: Responder, copy: Copy | None
    ) -> str:
        """Answer the client; returns how an answer broke off, "" when it is complete."""
        extra: PairList = [(b"x-aura-arm", winner.arm.encode("latin-1", "replace"))]
        if winner.run:
            extra.append((b"x-aura-run", winner.run.encode("latin-1", "replace")))
        if notice := self.retired.of(visit.route.path, winner.arm):
            extra += fields(notice)
        try:
            if winner.answer is not None:
                await respond.answer(winner.answer, extra, copy)
            else:
                await respond.problem(_problem(winner), extra)
        except TargetFailed as error:
            if not respond.started:
                await respond.problem(problems.failed(winner.arm, error), extra)
            else:
                self.counters.unfinished += 1
            return error.code
        return ""

    # -- candidate and baseline ------------------------------------------------------------

    async def _race(self, visit: Visit) -> Race:
        lone = not visit.candidate or not visit.route.fallback
        if lone or self.retired.gone(visit.route.path, visit.baseline):
            only = await self._call(visit, visit.arm)
            return Race(only, "", only)
        if isinstance(visit.request.body, BodyStream):
            return await self._one_after_the_other(visit, visit.request.body)
        sla = visit.route.sla
        after = None if sla is None else start_after(sla, self._usual_of(visit).value)
        result = await race(
            lambda: self._call(visit, visit.arm),
            lambda: self._call(visit, visit.baseline),
            after,
            self._clock,
        )
        self.counters.fallbacks_error += result.reason == "error"
        self.counters.fallbacks_late += result.reason == "late"
        return result

    async def _one_after_the_other(self, visit: Visit, body: BodyStream) -> Race:
        """A body that is read only once: the baseline's turn comes if nobody began to read."""
        first = await self._call(visit, visit.arm)
        if first.good or body.started:
            return Race(first, "", first)
        self.counters.fallbacks_error += 1
        return Race(await self._call(visit, visit.baseline), "error", first)

    async def _call(self, visit: Visit, arm: str) -> Attempt:
        if arm != visit.arm and self.retired.of(visit.route.path, arm) is not None:
            self.retired.count(visit.route.path, arm)  # in the candidate's place
        target = self._targets.get(arm)
        if target is None:
            error = TargetFailed("the gateway has no target of this name", code="no-target")
            return Attempt(arm, 0.0, error=error)
        outcome = await attempt(arm, target, visit.request, self._clock)
        contract = self._contract_of(visit)
        if contract and contract.on_violation == "fallback" and arm != visit.baseline:
            whole = outcome.answer.body if outcome.answer is not None else None
            if whole is not None and outcome.good:
                broken = bool(self._checked(visit, contract, outcome, whole))
                outcome = replace(outcome, broken=broken)
        if arm == visit.baseline and outcome.good:
            self._usual_of(visit).add(outcome.seconds)
        return outcome

    def _usual_of(self, visit: Visit) -> RecentQuantile:
        key = (visit.route.path, visit.baseline)
        found = self._usual.get(key)
        if found is None:
            found = self._usual[key] = RecentQuantile()
        return found

    def _watch(self, visit: Visit, running: asyncio.Task[Attempt], *, user_ok: bool) -> None:
        """The user has an answer; the late candidate goes on for a while, so that its own
        outcome is learned."""
        task = asyncio.create_task(self._learn(visit, running, user_ok=user_ok))
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _learn(self, visit: Visit, running: asyncio.Task[Attempt], *, user_ok: bool) -> None:
        limit = patience(visit.route.sla or 0.0, self._elapsed(visit))
        outcome = None
        error = "gateway-closed"
        try:
            if await within(running, limit, self._clock):
                outcome = running.result()
                error = outcome.failure
            else:
                error = "late"
        finally:
            discard(running)
            ok = error in ("", "gateway-closed")
            seconds = outcome.seconds if outcome else self._elapsed(visit)
            run = outcome.run if outcome else ""
            told = Outcome(ok, error, seconds, run, fallback=True, user_ok=user_ok)
            self._tell(visit, told, outcome.answer if outcome else None)

    # -- what is told ----------------------------------------------------------------------

    def _tell(self, visit: Visit, outcome: Outcome, answer: Answer | None = None) -> None:
        if not visit.told:
            visit.told = True
            found, refused = numbers_of(visit.route.metrics, answer)
            self.counters.metrics_refused += refused
            outcome = replace(outcome, metrics=found) if found else outcome
            self._observe(outcome.told_of(visit.seed, self._clock.now()))

    def _elapsed(self, visit: Visit) -> float:
        return self._clock.monotonic() - visit.started

    def _mirror(self, visit: Visit, winner: Attempt, copy: Copy) -> None:
        """Offer a copy when the baseline answered and the body can be sent again."""
        target = self._targets.get(visit.mirror)
        if target is None or winner.arm != visit.baseline or winner.answer is None:
            self.shadows.skip(visit.route.split, visit.mirror, "the baseline did not answer it")
            return
        if isinstance(visit.request.body, BodyStream):
            self.shadows.skip(visit.route.split, visit.mirror, "too large to be kept")
            return
        contract, rules, limits = self._contract_of(visit), visit.route.rules, self.config.shadow
        if contract and contract.is_exact(
            visit.request.method, visit.request.target.decode("latin-1")
        ):
            rules = replace(rules, exact=True)
        self.shadows.offer(
            Mirrored(
                shadow_of(visit.request, winner.run, limits.timeout),
                target,
                Recorded(winner.answer.status, winner.answer.headers, copy.whole),
                replace(visit.seed, arm=visit.mirror, shadow=True),
                rules,
                again=self._targets.get(visit.baseline),
                baseline_run=winner.run,
                contract=contract,
            )
        )


async def _first_of(work: asyncio.Task[None], gone: asyncio.Task[None]) -> None:
    """Return when the work is done; raise ClientGone when the client leaves before."""
    await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        raise ClientGone
    work.result()


def _outcome(own: Attempt, error: str, *, fallback: bool, user_ok: bool) -> Outcome:
    return Outcome(not error, error, own.seconds, own.run, fallback, user_ok)


def _problem(winner: Attempt) -> problems.Problem:
    if isinstance(winner.error, RequestRefused):
        return problems.refused(winner.error)
    error = winner.error or TargetTimeout("it did not answer", code="target-timeout")
    return problems.failed(winner.arm, error)
