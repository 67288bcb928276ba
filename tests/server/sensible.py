"""Requests that were made up from the OpenAPI document, with sense put into what JSON Schema has no
word for: then the server must accept them (`positive_data_acceptance`), on every route.

What is left as it was made up: everything else of the request, and which of the sensible values is
taken. `MEANING` says for each route what the document cannot say, and puts it right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote, unquote
from zlib import crc32

V = "/api/v1"
VERSIONS = ("research@1.0.0", "research@^1", "naps@1.0.0", "nobody@1.0.0", "research@>=9")
SLEEPS = ("nap-1", "nap-2", "doc-17", "nobody")
"""Runs, of which the first two wait."""
NUMBERS = (None, "1.0.0", "1.0.1")
NAMED = "names and ids are printable, by Unicode, and names of signals have no / and #"
PLANNED = "a plan is read by the rules of files"
RANGED = "a version may be a range: workflow@range"
CHOSEN = "ids, or what they are like, but not both and not neither"

Route = tuple[str, str]
Mend = Callable[[Any], None]


def one_of(values: Sequence[Any], made_up: object) -> Any:
    """One of the sensible values, the same for the same nonsense."""
    return values[crc32(repr(made_up).encode()) % len(values)]


def printable(text: str, most: int = 200, instead: str = "approval") -> str:
    """What can be printed of it."""
    return "".join(one for one in text if one.isprintable() and one not in "/#")[:most] or instead


def _paths(*names: str) -> Mend:
    def mend(case: Any) -> None:
        for name in names:
            given = printable(unquote(case.path_parameters[name]))
            case.path_parameters[name] = quote(given, safe="")

    return mend


def _texts(*names: str) -> Mend:
    def mend(case: Any) -> None:
        for name in names:
            if isinstance(case.body.get(name), str):
                case.body[name] = printable(case.body[name])

    return mend


def _body(name: str, values: Sequence[Any]) -> Mend:
    def mend(case: Any) -> None:
        if name in case.body:
            case.body[name] = one_of(values, case.body[name])

    return mend


def _plan(*names: str, **examples: Any) -> Mend:
    def mend(case: Any) -> None:
        for name in names:
            case.body.pop(name, None)
        case.body |= examples

    return mend


def _version(case: Any) -> None:
    given = one_of(VERSIONS, case.path_parameters["version"])
    case.path_parameters["version"] = quote(given, safe="")


def _versions(case: Any) -> None:
    for name in ("old", "new"):
        case.query[name] = one_of(VERSIONS, case.query[name])


def _start(case: Any) -> None:
    if case.body.get("id") is not None:
        case.headers.pop("idempotency-key", None)
        case.headers.pop("Idempotency-Key", None)
    if case.body.get("id") == "doc-17":  # there is one, of another workflow
        case.body.pop("id")
    for name, values in (
        ("workflow", ("research", "research@^1", "broken", "nobody")),
        ("version", (None, "1.0.0", "9.0.0")),
        ("queue", (None, "slow", "nowhere")),
    ):
        case.body[name] = one_of(values, case.body.get(name))
    if "@" in case.body["workflow"]:
        case.body.pop("version")
    given = case.body.get("attributes", {})
    case.body["attributes"] = {name: printable(one) for name, one in given.items()}
    if case.body.get("key") or case.body.get("priority", "normal") != "normal":
        case.body["queue"] = case.body["queue"] or "slow"  # the default queue has neither
    waits = [one for one in ("delay", "at", "debounce") if case.body.get(one) is not None]
    for one in waits[1:]:  # a run has one time to wait for
        case.body.pop(one)
    if case.body.get("dedup") is None:
        case.body.pop("debounce", None)
    if case.body.get("debounce") is None:
        case.body.pop("debounce_limit", None)
    case.body |= {"input": {"text": "durable"}, "arguments": []}


def _sleeper(case: Any) -> None:
    """A run that takes signals, the one that has ended, or none."""
    case.path_parameters["run_id"] = one_of(SLEEPS, case.path_parameters["run_id"])


def _letter_version(case: Any) -> None:
    if case.body["action"] != "requeue":
        case.body.pop("version", None)


def _schedule(case: Any) -> None:
    case.body["workflow"] = one_of(("research", "naps@^1", "nobody"), case.body["workflow"])
    naps = case.body["workflow"].startswith("naps")
    case.body["input"] = {"seconds": 0.0} if naps else {"text": "durable"}
    case.body["version"] = None
    case.body["queue"] = one_of((None, "slow", "nowhere"), case.body.get("queue"))
    case.body["timezone"] = one_of(("UTC", "Europe/Berlin"), case.body.get("timezone"))
    cron = one_of(("0 3 * * *", "*/5 * 1 * MON", ""), case.body.get("cron"))
    case.body |= {"cron": cron, "every": 0.0 if cron else 3600.0}


def _letters(told: dict[str, Any]) -> None:
    """Events have a topic and a group, runs a workflow."""
    for name in ("topic", "group", "workflow"):
        if isinstance(told.get(name), str):
            told[name] = printable(told[name])
    if told.get("workflow") is not None or told.get("kind") == "run":
        for name in ("topic", "group"):
            told.pop(name, None)
        if told.get("kind") == "event":
            told.pop("kind")


def _policy(case: Any) -> None:
    case.query["policy"] = one_of(("fast=0.2,deep=0.8", "fast"), case.query["policy"])


def _listed(case: Any) -> None:
    _letters(case.query)


def _chosen(instead: dict[str, Any], *words: str) -> Mend:
    def mend(case: Any) -> None:
        case.body["ids"] = [printable(one) for one in case.body.get("ids", ())]
        if case.body["ids"]:
            for word in set(case.body) - {"action", "ids", "dry_run", "limit", "version"}:
                case.body.pop(word)
            return
        _letters(case.body)
        if not any(case.body.get(word) for word in words):
            case.body |= instead

    return mend


ROLLOUT = {
    "name": "replace-legacy", "baseline": "research@1.0.0", "candidate": "naps@1.0.0",
    "stages": ["10%", "100%"], "defaults": {"min_requests": 100, "min_time": "10m"},
}  # fmt: skip
EXPERIMENT = {
    "name": "checkout-copy", "split": "checkout", "arms": {"old": "50%", "new": "50%"},
    "primary": "outcome",
}  # fmt: skip
SEEN = {
    "split": "replace-legacy", "epoch": 1, "arm": "naps@1.0.0", "unit": "u", "at": 1.0, "ok": True,
    "latency": 0.1,
}  # fmt: skip
LEARNING = {"name": "model-route", "split": "chat", "arms": ["small", "large"], "every": "30s"}

MEANING: dict[Route, tuple[str, tuple[Mend, ...]]] = {
    ("POST", f"{V}/rollouts"): (PLANNED, (_plan(plan=ROLLOUT, dry_run=True),)),
    ("POST", f"{V}/backtests"): (
        f"{PLANNED}; a rollout is named or observations are sent",
        (_plan("on", "run", plan=ROLLOUT, observations=[SEEN]),),
    ),
    ("POST", f"{V}/experiments"): (PLANNED, (_plan("rollout", experiment=EXPERIMENT),)),
    ("POST", f"{V}/learning"): (PLANNED, (_plan(learning=LEARNING),)),
    ("POST", f"{V}/decommissions"): (PLANNED, (_plan(decommission={"target": "legacy"}),)),
    ("GET", f"{V}/catalog/diff"): (RANGED, (_versions,)),
    ("GET", f"{V}/catalog/versions/{{version}}"): (RANGED, (_version,)),
    ("POST", f"{V}/catalog/versions/{{version}}/deprecate"): (
        RANGED,
        (_version, _body("replacement", ("", "^2", "2.0.0"))),
    ),
    ("POST", f"{V}/catalog/versions/{{version}}/restore"): (RANGED, (_version,)),
    ("POST", f"{V}/runs/{{run_id}}/signals/{{name}}"): (
        NAMED,
        (_paths("name"), _texts("id"), _sleeper),
    ),
    ("POST", f"{V}/runs/{{run_id}}/updates/{{name}}"): (NAMED, (_paths("name"), _texts("id"))),
    ("POST", f"{V}/runs/{{run_id}}/rewards/{{name}}"): (NAMED, (_paths("name"),)),
    ("POST", f"{V}/runs/{{run_id}}/fork"): (
        NAMED,
        (_paths("run_id"), _texts("id"), _plan("at"), _body("version", NUMBERS)),
    ),
    ("POST", f"{V}/topics/{{name}}/events"): (NAMED, (_paths("name"), _texts("id", "key"))),
    ("PUT", f"{V}/schedules/{{name}}"): (
        f"{NAMED}; a cron must have a day to come, the input is the workflow's",
        (_paths("name"), _schedule),
    ),
    ("POST", f"{V}/runs"): (
        f"{NAMED}; the input is the workflow's, a run has an id or a key",
        (_texts("id", "key", "dedup"), _start),
    ),
    ("POST", f"{V}/runs/{{run_id}}/requeue"): (
        "a version is semantic",
        (_body("version", NUMBERS),),
    ),
    ("POST", f"{V}/letters/{{letter}}/requeue"): (
        "a version is semantic",
        (_body("version", NUMBERS),),
    ),
    ("POST", f"{V}/runs/{{run_id}}/retry"): (NAMED, (_texts("id"),)),
    ("POST", f"{V}/bulk/runs"): (
        CHOSEN,
        (_texts("workflow"), _chosen({"state": "failed"}, "state", "workflow")),
    ),
    ("POST", f"{V}/bulk/letters"): (
        CHOSEN,
        (
            _chosen({"kind": "run"}, "kind", "topic", "group", "workflow"),
            _body("version", NUMBERS),
            _letter_version,
        ),
    ),
    ("GET", f"{V}/flows/{{name}}/worth"): ("a policy is weights by arm, or one arm", (_policy,)),
    ("GET", f"{V}/letters"): ("events have a topic and a group, runs a workflow", (_listed,)),
}
"""What the document cannot say of a route, and how sense is put into it."""


def make_sense(route: Route, case: Any) -> None:
    """Put sense into a request that fits the document. Which cursors there are only the server
    knows, so it has none."""
    for part in (case.query, case.body):
        if isinstance(part, dict):
            part.pop("cursor", None)
            for name, one in part.items():  # JSON Schema counts 111.0 as an integer
                if isinstance(one, float) and one.is_integer():
                    part[name] = int(one)
    for mend in MEANING.get(route, ("", ()))[1]:
        mend(case)
