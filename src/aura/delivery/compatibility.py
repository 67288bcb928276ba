"""Whether what one side sends can be read by the other, from two JSON schemas. Pure.

    inputs     callers of the old version send, the new version reads
    outputs    the new version sends, readers of the old version read

`compare` asks whether each value that is valid for the sender's schema is valid for the reader's
one, keyword by keyword (JSON Schema 2020-12, as pydantic writes it, and what people write by hand).
This is the subschema problem, which is not decidable in general (Habib et al., "Finding data
compatibility bugs with JSON subschema checking", ISSTA 2021), so there are three answers:

    compatible      it follows from the schemas
    incompatible    there are values that the sender may send and the reader refuses
    unknown         one side says nothing (no annotation), or says it by means that are not
                    compared (`not`, `if`, two different patterns ...)

One assumption beyond the schemas: nobody sends fields that a schema does not name, unless it has
`additionalProperties`. Without it no optional field could ever be added.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any, Literal, NamedTuple

from aura.delivery.schema import (
    INFINITY,
    TYPES,
    UNIONS,
    UNREAD,
    Document,
    Schema,
    alternatives,
    bounds,
    foreign,
    holds,
    is_multiple,
    is_note,
    item,
    item_lengths,
    join,
    listed_values,
    merged,
    other_fields,
    overlap,
    says_something,
    string_lengths,
    types_of,
)

Verdict = Literal["compatible", "incompatible", "unknown"]
Level = Literal["incompatible", "unknown", "note"]
MOST_STEPS = 20_000
"""So many pairs of subschemas are compared; what is left then is unknown."""


class Finding(NamedTuple):
    """Something that one side sends and the other may not take. `path` is the field, as in
    `facts.items[].id`; a `note` does no harm."""

    level: Level
    kind: str
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path or '(all of it)'}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of comparing two schemas; `findings` in the order of the fields."""

    findings: tuple[Finding, ...] = ()

    @property
    def verdict(self) -> Verdict:
        levels = {finding.level for finding in self.findings}
        if "incompatible" in levels:
            return "incompatible"
        return "unknown" if "unknown" in levels else "compatible"

    def plain(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"verdict": self.verdict, "findings": [one._asdict() for one in self.findings]}


def compare_inputs(old: Schema | None, new: Schema | None, names: tuple[str, str]) -> Comparison:
    """Whether the new version takes what callers of the old one send; `names` are the versions."""
    return compare(sender=old, reader=new, who=(f"callers of {names[0]}", names[1]))


def compare_outputs(old: Schema | None, new: Schema | None, names: tuple[str, str]) -> Comparison:
    """Whether readers of the old version can read what the new one gives."""
    found = compare(sender=new, reader=old, who=(names[1], f"readers of {names[0]}"), root="result")
    return Comparison(tuple(one for one in found.findings if one.kind != "default"))


def compare(
    *, sender: Schema | None, reader: Schema | None, who: tuple[str, str], root: str = ""
) -> Comparison:
    """Whether the reader takes all that the sender may send; None is a side without a schema.

    `who` names sender and reader in the reasons, `root` is the path of the whole.
    """
    for schema, name in ((sender, who[0]), (reader, who[1])):
        if schema is None:
            return Comparison((Finding("unknown", "untyped", root, f"no schema of {name}"),))
    try:
        found = _Comparer(Document(sender), Document(reader), who).fits(reader, sender, root)
    except (AttributeError, TypeError, KeyError, ValueError, ArithmeticError, RecursionError) as e:
        reason = f"a schema cannot be read: {type(e).__name__}: {e}"  # not a schema, or a maze
        return Comparison((Finding("unknown", "unreadable", root, reason),))
    return Comparison(tuple(dict.fromkeys(found)))


class _Comparer:
    """`wide` is always a schema of the reader, `narrow` one of the sender."""

    def __init__(self, sender: Document, reader: Document, who: tuple[str, str]) -> None:
        self._sender = sender
        self._reader = reader
        self._from, self._by = who
        self._open: set[tuple[str, str]] = set()
        self._steps = 0

    def fits(self, wide: Schema, narrow: Schema, path: str) -> list[Finding]:
        """What of `narrow` does not fit into `wide`. A pair that is being compared further up
        counts as fitting: schemas that contain themselves are compared to their first repetition.
        """
        pair = (self._reader.text(wide), self._sender.text(narrow))
        if pair[0] == pair[1] or pair in self._open:
            return []
        self._steps += 1
        if self._steps > MOST_STEPS:
            return [Finding("unknown", "size", path, "the schemas are too large to be compared")]
        self._open.add(pair)
        try:
            return self._resolved(wide, narrow, path)
        finally:
            self._open.discard(pair)

    def _resolved(self, wide: Schema, narrow: Schema, path: str) -> list[Finding]:
        wide, narrow = self._reader.resolve(wide), self._sender.resolve(narrow)
        for schema, name in ((wide, self._by), (narrow, self._from)):
            if not isinstance(schema, (dict, bool)):
                return [self._unknown("reference", path, f"the schema of {name} has a gap")]
        if narrow is False or not says_something(wide):
            return []
        if wide is False:
            return [self._refused("field", path, f"sent by {self._from}, refused by {self._by}")]
        narrow = {} if narrow is True else narrow
        found = self._by_parts(wide, narrow, path)
        # it may be narrower than what was compared
        return found if UNREAD.isdisjoint(narrow) else _weakened(found)

    def _by_parts(self, wide: Any, narrow: Any, path: str) -> list[Finding]:
        parts = alternatives(narrow)
        if parts is not None:
            found = [*chain.from_iterable(self.fits(wide, part, path) for part in parts)]
            return found if self._may_each_come(narrow, parts) else _weakened(found)
        if "allOf" in wide:
            rest = {key: value for key, value in wide.items() if key != "allOf"}
            members = [*wide["allOf"], rest]
            return [*chain.from_iterable(self.fits(one, narrow, path) for one in members)]
        if "allOf" in narrow:
            return self._one_of_all(wide, narrow, path)
        values = listed_values(narrow)
        if values is not None:
            return self._finite(wide, narrow, values, path)
        union = next((kind for kind in UNIONS if kind in wide), None)
        if union is not None:
            return self._union(wide, union, narrow, path)
        return self._simple(wide, narrow, path)

    def _may_each_come(self, narrow: Any, parts: list[Schema]) -> bool:
        """Whether there are values of each part: of `oneOf`, those of two parts are none."""
        own = _Comparer(self._sender, self._sender, (self._from, self._from))
        return "oneOf" not in narrow or all(
            own._apart(one, other, 4) for one, other in combinations(parts, 2)
        )

    def _one_of_all(self, wide: Any, narrow: Any, path: str) -> list[Finding]:
        """What is valid for several schemas at once is valid for each of them."""
        rest = {key: value for key, value in narrow.items() if key != "allOf"}
        members = [one for one in (*narrow["allOf"], rest) if says_something(one)]
        whole = merged([self._sender.resolve(one) for one in members])
        if whole is not None:
            return self.fits(wide, whole, path)
        if any(not _harm(self.fits(wide, one, path)) for one in members):
            return []
        return [self._unknown("allOf", path, f"several schemas at once from {self._from}")]

    def _union(self, wide: Any, union: str, narrow: Any, path: str) -> list[Finding]:
        rest = {key: value for key, value in wide.items() if key != union}
        found = self.fits(rest, narrow, path)
        choices = [one for one in wide[union] if not self._apart(one, narrow, 4)]
        tried = [self.fits(choice, narrow, path) for choice in choices]
        if not choices:
            return [*found, self._types(wide, narrow, path)]
        if len(choices) == 1:
            return found + tried[0]
        if any(not _harm(one) for one in tried) and union == "anyOf":
            return found
        reason = f"which of {len(choices)} alternatives of {self._by} it meets cannot be told"
        return [*found, self._unknown("union", path, reason)]

    def _finite(self, wide: Any, narrow: Any, values: list[Any], path: str) -> list[Finding]:
        sent = [one for one in values if self._sender_holds(narrow, one) is not False]
        answers = [(one, holds(self._reader, wide, one)) for one in sent]
        refused = [one for one, answer in answers if answer is False]
        if refused and len(refused) == len(sent) and not {"enum", "const"} & narrow.keys():
            return [self._types(wide, narrow, path)]
        if refused:
            shown = ", ".join(json.dumps(one, default=str)[:40] for one in refused[:5])
            more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
            reason = f"{shown}{more} from {self._from}, not accepted by {self._by}"
            return [self._refused("enum", path, reason)]
        if any(answer is None for _, answer in answers):
            return [self._unknown("enum", path, f"whether {self._by} takes the values is not told")]
        return []

    def _sender_holds(self, narrow: Any, value: Any) -> bool | None:
        return holds(self._sender, {k: v for k, v in narrow.items() if k != "enum"}, value)

    def _simple(self, wide: Any, narrow: Any, path: str) -> list[Finding]:
        """Neither side has alternatives, and the sender's values are not listed."""
        kind = narrow.get("type")
        if kind not in TYPES:
            return [self._unknown("untyped", path, f"{self._from}: no type is given")]
        taken = types_of(wide)
        if kind not in taken and not (kind == "integer" and "number" in taken):
            return [self._types(wide, narrow, path)]
        if "enum" in wide or "const" in wide:
            listed = wide.get("enum", [wide.get("const")])
            shown = ", ".join(json.dumps(one, default=str)[:40] for one in listed[:5])
            reason = f"any {kind} from {self._from}, only {shown} accepted by {self._by}"
            return [self._refused("enum", path, reason)]
        compared = {
            "object": self._objects, "array": self._arrays, "string": self._strings,
            "integer": self._numbers, "number": self._numbers,
        }  # fmt: skip
        found = compared[kind](wide, narrow, path)
        for keyword in sorted(UNREAD & wide.keys()):
            mine = self._reader.text(wide[keyword])
            if keyword not in narrow or mine != self._sender.text(narrow[keyword]):
                reason = f"`{keyword}` of {self._by} is not compared"
                found.append(self._unknown("keyword", path, reason))
        return found

    # -- types ---------------------------------------------------------------------------------

    def _objects(self, wide: Any, narrow: Any, path: str) -> list[Finding]:
        read, sent = wide.get("properties", {}), narrow.get("properties", {})
        more, rest = wide.get("additionalProperties", True), other_fields(narrow)
        found: list[Finding] = []
        for name in wide.get("required", ()):
            if name not in narrow.get("required", ()):
                what = (
                    "not sent by" if name not in sent and rest is False else "may be missing from"
                )
                reason = f"required by {self._by}, {what} {self._from}"
                found.append(self._refused("required", join(path, name), reason))
        for name, schema in sent.items():
            below = join(path, name)
            if name in read:
                found += self.fits(read[name], schema, below)
                found += self._defaults(read[name], schema, below)
            elif more is False:
                reason = f"sent by {self._from}, not accepted by {self._by}"
                found.append(self._refused("field", below, reason))
            else:
                found += self.fits(more, schema, below)
        if rest is not False:
            for name in read.keys() - sent.keys():
                found += self.fits(read[name], rest, join(path, name))
            found += self.fits(more, rest, join(path, "*"))
        return found + self._names(wide, narrow, path) + self._property_counts(wide, narrow, path)

    def _defaults(self, wide: Any, narrow: Any, path: str) -> list[Finding]:
        if not (isinstance(wide, dict) and isinstance(narrow, dict)) or "default" not in narrow:
            return []
        old, new = (json.dumps(one.get("default"), default=str) for one in (narrow, wide))
        if "default" not in wide or old == new:
            return []
        return [Finding("note", "default", path, f"left out it was {old[:60]}, now {new[:60]}")]

    def _names(self, wide: Any, narrow: Any, path: str) -> list[Finding]:
        wanted = wide.get("propertyNames", True)
        if not says_something(wanted):
            return []
        wanted = self._reader.resolve(wanted)
        found: list[Finding] = []
        for name in narrow.get("properties", {}):
            held = holds(self._reader, wanted, name)
            if held is not True:
                told = self._unknown if held is None else self._refused
                reason = f"the name, from {self._from}, is not accepted by {self._by}"
                found.append(told("names", join(path, name), reason))
        if other_fields(narrow) is not False:
            names = self._sender.resolve(narrow.get("propertyNames", {}))
            strings = {"type": "string", **names} if isinstance(names, dict) else names
            found += self.fits(wanted, strings, join(path, "(names)"))
        return found

    def _property_counts(self, wide: Any, narrow: Any, path: str) -> list[Finding]:
        least = max(narrow.get("minProperties", 0), len(narrow.get("required", ())))
        closed = len(narrow.get("properties", {})) if other_fields(narrow) is False else INFINITY
        most = min(narrow.get("maxProperties", INFINITY), closed)
        return self._within(
            (wide.get("minProperties", 0), wide.get("maxProperties", INFINITY)),
            (least, most), path, "fields",
        )  # fmt: skip

    def _arrays(self, wide: Any, narrow: Any, path: str) -> list[Finding]:
        lengths = item_lengths(narrow)
        found = self._within(item_lengths(wide), lengths, path, "items")
        if wide.get("uniqueItems") and not narrow.get("uniqueItems") and lengths[1] > 1:
            reason = f"the same item twice from {self._from}, refused by {self._by}"
            found.append(self._refused("unique", path, reason))
        places = max(len(wide.get("prefixItems", ())), len(narrow.get("prefixItems", ())))
        for at in range(int(min(places, lengths[1]))):
            found += self.fits(item(wide, at), item(narrow, at), f"{path}[{at}]")
        if lengths[1] > places:
            found += self.fits(item(wide, places), item(narrow, places), f"{path}[]")
        return found

    def _strings(self, wide: Any, narrow: Any, path: str) -> list[Finding]:
        found = self._within(string_lengths(wide), string_lengths(narrow), path, "characters")
        for keyword in ("pattern", "format"):
            wanted, given = wide.get(keyword), narrow.get(keyword)
            if wanted in (None, given) or (keyword == "format" and is_note(wanted)):
                continue
            if given is None:
                reason = f"any text from {self._from}, only {wanted} accepted by {self._by}"
                found.append(self._refused(keyword, path, reason))
            else:
                reason = f"{given} from {self._from}, {wanted} wanted by {self._by}"
                told = self._refused if foreign(wanted, given) else self._unknown
                found.append(told(keyword, path, reason))
        return found

    def _numbers(self, wide: Any, narrow: Any, path: str) -> list[Finding]:
        whole = narrow["type"] == "integer"
        mine, theirs = bounds(narrow, whole=whole), bounds(wide, whole=whole)
        found: list[Finding] = []
        if theirs[0] > mine[0]:
            reason = f"less possible from {self._from} than the least of {self._by}"
            found.append(self._refused("minimum", path, f"{reason} ({theirs[0][0]:g})"))
        if theirs[1] < mine[1]:
            reason = f"more possible from {self._from} than the most of {self._by}"
            found.append(self._refused("maximum", path, f"{reason} ({theirs[1][0]:g})"))
        step = wide.get("multipleOf")
        own = narrow.get("multipleOf", 1 if whole else None)
        if step is not None and (own is None or not is_multiple(own, step)):
            reason = f"multiples of {step} wanted by {self._by}"
            bounded = math.isfinite(mine[0][0]) and math.isfinite(mine[1][0])
            told = self._unknown if bounded else self._refused
            found.append(told("multiple", path, reason))
        return found

    def _within(
        self, wide: tuple[float, float], narrow: tuple[float, float], path: str, what: str
    ) -> list[Finding]:
        found = []
        if wide[0] > narrow[0]:
            reason = f"at least {wide[0]:g} {what} wanted by {self._by}, fewer may come"
            found.append(self._refused("length", path, f"{reason} from {self._from}"))
        if wide[1] < narrow[1]:
            reason = f"at most {wide[1]:g} {what} accepted by {self._by}, more may come"
            found.append(self._refused("length", path, f"{reason} from {self._from}"))
        return found

    def _types(self, wide: Any, narrow: Any, path: str) -> Finding:
        taken = " or ".join(sorted(self._kinds(wide)))
        kind = " or ".join(sorted(types_of(narrow)))
        if kind == taken:
            reason = f"another {kind} from {self._from} than {self._by} accepts"
        else:
            reason = f"{kind} from {self._from}, only {taken or 'others'} accepted by {self._by}"
        return self._refused("type", path, reason)

    def _kinds(self, wide: Any) -> set[str]:
        parts = next((wide[union] for union in UNIONS if union in wide), None)
        if parts is None:
            return set(types_of(wide))
        resolved = [self._reader.resolve(part) for part in parts]
        return {kind for part in resolved if isinstance(part, dict) for kind in types_of(part)}

    def _apart(self, wide: Schema, narrow: Schema, depth: int) -> bool:
        """Whether no value can meet both; False also when that cannot be told."""
        wide, narrow = self._reader.resolve(wide), self._sender.resolve(narrow)
        if not isinstance(wide, dict) or not isinstance(narrow, dict) or depth == 0:
            return wide is False or narrow is False
        values = listed_values(narrow)
        if values is not None:
            return all(holds(self._reader, wide, one) is False for one in values)
        listed = listed_values(wide)
        if listed is not None:
            return all(holds(self._sender, narrow, one) is False for one in listed)
        if any(union in one for one in (wide, narrow) for union in (*UNIONS, "allOf")):
            return False
        kinds = overlap(types_of(wide), types_of(narrow))
        return not kinds or (kinds == {"object"} and self._objects_apart(wide, narrow, depth))

    def _objects_apart(self, wide: Any, narrow: Any, depth: int) -> bool:
        read, sent = wide.get("properties", {}), narrow.get("properties", {})
        needed, certain = set(wide.get("required", ())), set(narrow.get("required", ()))
        if other_fields(narrow) is False and needed - sent.keys():
            return True
        if wide.get("additionalProperties") is False and certain - read.keys():
            return True
        shared = read.keys() & sent.keys() & (needed | certain)
        return any(self._apart(read[name], sent[name], depth - 1) for name in shared)

    def _refused(self, kind: str, path: str, reason: str) -> Finding:
        return Finding("incompatible", kind, path, reason)

    def _unknown(self, kind: str, path: str, reason: str) -> Finding:
        return Finding("unknown", kind, path, reason)


def _weakened(found: list[Finding]) -> list[Finding]:
    """The same for a sender that perhaps never sends what was refused."""
    return [one._replace(level="note" if one.level == "note" else "unknown") for one in found]


def _harm(found: list[Finding]) -> bool:
    return any(one.level != "note" for one in found)
