"""Typed JSON: what may be stored, and how it comes back.

A function's annotations say how its arguments and result are written (anything that pydantic can
describe). What cannot be read back as it was is refused when it is written, not when it is needed:
a result is decoded right after it was encoded, and the caller is given the decoded value, so a run
sees the same value live and on replay.

Stored bytes are JSON text, or a byte 0x01 and zlib-compressed JSON text, or one of these encrypted
(`aura.store.keys`): a byte 0x02, the length of the key's id, the id, and what follows. 0x03 in
place of 0x02 marks, in memory only, what was tried and did not open. The payload of an event that
belongs to a trace begins with a byte 0x04, the length of the trace context, and the context. 0x05
begins what stands in a database for a large value that is stored apart (`aura.store.payloads`).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pydantic_core
from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from pydantic_core import (
    CoreConfig,
    CoreSchema,
    ErrorDetails,
    SchemaSerializer,
    SchemaValidator,
)

from aura.errors import (
    CodecError,
    DecryptionFailed,
    InvalidInput,
    KeyMissing,
    PayloadTooLarge,
    RegistrationError,
)

_COMPRESSED = b"\x01"
SEALED, CLOSED = b"\x02", b"\x03"
_TRACED = b"\x04"
APART = b"\x05"
_LAST_MARK = APART  # no JSON text begins with so low a byte
_EXACT_SCALARS = (type(None), bool, int, str)
_CONFIG = CoreConfig(ser_json_inf_nan="constants", ser_json_bytes="base64", val_json_bytes="base64")
_WITH_CONFIG = ("model", "dataclass", "typed-dict")
_NO_SCHEMAS = ("default", "metadata", "expected")  # parts of a schema that hold other things
_UNTYPED = (Any, object, list, dict, tuple, set, frozenset)
_TOLD = 5  # problems of one value that are told
_ANNOTATE = "Annotate the function with a type that pydantic can describe"


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_bytes` bounds one encoded value; longer than `compress_over` bytes is compressed."""

    max_bytes: int = 8 * 1024 * 1024
    compress_over: int = 4 * 1024


def pack(data: bytes, limits: Limits, what: str) -> bytes:
    """JSON text as it is stored. Raises PayloadTooLarge naming `what`."""
    if len(data) <= limits.compress_over and len(data) <= limits.max_bytes:
        return data
    if len(data) > limits.max_bytes:
        raise PayloadTooLarge(
            f"{what} is {len(data):,} bytes long, the limit is {limits.max_bytes:,}",
            hint="Store it elsewhere and pass a reference, or raise Config.max_payload",
        )
    return _COMPRESSED + zlib.compress(data, 1)


def unpack(data: bytes) -> bytes:
    """The JSON text of stored bytes. Raises CodecError, DecryptionFailed, KeyMissing."""
    mark = data[:1]
    if mark > _LAST_MARK:
        return data
    if is_encrypted(data):
        raise _not_open(data)
    if mark == _TRACED:
        return unpack(data[2 + data[1] :])
    if mark == APART:
        raise CodecError("a value is missing that was stored apart", hint="Restore a backup")
    if mark != _COMPRESSED:
        return data
    try:
        return zlib.decompress(data[1:])
    except zlib.error as error:
        raise CodecError(
            f"stored bytes cannot be decompressed: {error}", hint="The row is damaged"
        ) from error


def traced(data: bytes, context: str) -> bytes:
    """Stored bytes together with the context of a trace (ASCII), 255 characters to a frame."""
    for start in reversed(range(0, len(context), 255)):
        part = context[start : start + 255].encode("ascii")
        data = _TRACED + bytes([len(part)]) + part + data
    return data


def trace_in(data: bytes) -> str | None:
    """The context of the trace that stored bytes belong to; None when they are in none, or
    encrypted."""
    found = b""
    while data[:1] == _TRACED and len(data) >= 2:
        found += data[2 : 2 + data[1]]
        data = data[2 + data[1] :]
    return found.decode("ascii", "replace") or None


def is_encrypted(data: bytes | None) -> bool:
    """Whether stored bytes are encrypted, and have not been opened."""
    return data is not None and data[:1] in (SEALED, CLOSED)


def _not_open(data: bytes) -> DecryptionFailed:
    key_id = data[2 : 2 + data[1]].decode("ascii", "replace") if len(data) > 1 else ""
    if data.startswith(SEALED):
        return KeyMissing(
            f"a value is encrypted with the key {key_id}, which this process does not have",
            key_id=key_id,
            hint="Add it to AURA_ENCRYPTION_KEYS or Config.encryption_keys; nothing is lost",
        )
    return DecryptionFailed(
        f"a value does not open with the key {key_id}: it is another key than the one that "
        "encrypted it, or the value was changed or moved",
        key_id=key_id,
        hint="Give the key that was used; the value is kept as it is",
    )


def digest(data: bytes) -> str:
    """A short fingerprint of encoded bytes, as 16 hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def plain(data: bytes | None) -> Any:
    """Stored bytes as plain JSON values, for showing and for untyped callers."""
    return None if data is None else pydantic_core.from_json(unpack(data))


def same_json(one: bytes, other: bytes) -> bool:
    """Whether stored bytes say the same, whatever the order of keys."""
    return json.dumps(plain(one), sort_keys=True) == json.dumps(plain(other), sort_keys=True)


def to_json(value: Any) -> bytes:
    """Plain values as JSON text (records of errors and the like)."""
    return pydantic_core.to_json(value, inf_nan_mode="constants")


class Slot:
    """How one argument or result is written and read. `what` names it in errors."""

    def __init__(self, annotation: Any, what: str) -> None:
        self.annotation = annotation
        self.what = what
        self._typed = annotation not in (Any, inspect.Parameter.empty)
        self._exact = annotation if annotation in _EXACT_SCALARS else None
        self.loose = not self._typed or _loose(annotation)
        schema = _schema(annotation if self._typed else Any, what)
        self.unordered = _mentions_sets(schema)
        self._serializer, self._validator = _compile(schema)

    def dump(self, value: Any) -> bytes:
        """JSON text of the value. Raises CodecError."""
        try:
            return self._serializer.to_json(value, warnings=False, by_alias=False, round_trip=True)
        except (pydantic_core.PydanticSerializationError, ValueError, RecursionError) as error:
            raise CodecError(
                f"{self.what} cannot be stored: {type(value).__name__}: {error}", hint=_ANNOTATE
            ) from error

    def load(self, data: bytes) -> Any:
        """The value of JSON text. Raises CodecError."""
        try:
            return self._validator.validate_json(data, by_alias=False, by_name=True)
        except ValidationError as error:
            raise CodecError(f"{self.what} cannot be read back: {_first(error)}") from error

    def check(self, value: Any) -> Any:
        """The value, coerced to the declared type. Raises InvalidInput."""
        try:
            return self._validator.validate_python(value)
        except ValidationError as error:
            raise InvalidInput(f"{self.what} does not fit: {_problems(error)}") from error

    def accept(self, data: bytes) -> Any:
        """A value from outside, as JSON text. Raises InvalidInput."""
        try:
            return self._validator.validate_json(data, by_alias=True, by_name=True)
        except ValidationError as error:
            raise InvalidInput(f"{self.what} does not fit: {_problems(error)}") from error

    def round_trip(self, value: Any) -> tuple[bytes, Any]:
        """The JSON text and the value that a replay will get. Raises CodecError."""
        data = self.dump(value)
        kind = type(value)
        if kind is self._exact or (
            not self._typed and (kind in _EXACT_SCALARS or (kind is float and math.isfinite(value)))
        ):
            return data, value
        back = self.load(data)
        if self.loose and not _same(value, back):
            raise CodecError(
                f"{self.what} would come back as another value ({kind.__name__} as JSON)",
                hint=_ANNOTATE,
            )
        return data, back


class Signature:
    """The arguments and the result of a workflow or step, compiled at first use."""

    def __init__(self, function: Callable[..., Any], what: str) -> None:
        self._function = function
        self.what = what

    @cached_property
    def _slots(self) -> Mapping[str, Slot]:
        hints = self._hints
        found = {}
        for name, parameter in self._signature.parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise RegistrationError(
                    f"{self.what} takes *{name}; its arguments must have names",
                    hint="Pass a list or a dict as an ordinary argument",
                )
            found[name] = Slot(hints.get(name, Any), f"argument {name!r} of {self.what}")
        return found

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(self._slots)

    @cached_property
    def _hints(self) -> Mapping[str, Any]:
        try:
            return get_type_hints(self._function, include_extras=True)
        except (NameError, TypeError) as error:
            raise RegistrationError(
                f"the annotations of {self.what} cannot be resolved: {error}",
                hint="Import the type at the top of the module, outside `if TYPE_CHECKING`",
            ) from error

    @cached_property
    def result(self) -> Slot:
        return Slot(self._hints.get("return", Any), f"the result of {self.what}")

    def compile(self) -> None:
        """Resolve all types now, so that mistakes show at start and not at the first call."""
        _ = self._slots, self.result

    @cached_property
    def _writers(self) -> tuple[tuple[bytes, Callable[[Any], bytes]], ...]:
        return tuple((b'"%s":' % name.encode(), slot.dump) for name, slot in self._slots.items())

    @cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self._function)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by name, as they were passed. Raises InvalidInput."""
        if not kwargs and len(args) == len(self._names):
            return dict(zip(self._names, args, strict=True))
        try:
            return self._signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            names = ", ".join(self._names) or "none"
            raise InvalidInput(f"{self.what}: {error}", hint=f"Its arguments: {names}") from error

    def dump(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """JSON object of the arguments as passed, without validating them."""
        writers = self._writers
        if kwargs or len(args) != len(writers):
            return self._join(self.bind(args, kwargs))
        parts = [name + dump(value) for (name, dump), value in zip(writers, args, strict=True)]
        return b"{" + b",".join(parts) + b"}"

    @cached_property
    def _unordered(self) -> bool:
        return any(slot.unordered for slot in self._slots.values())

    def fingerprint(self, data: bytes) -> str:
        """The digest of dumped arguments, the same in every process."""
        return digest(canonical(data) if self._unordered else data)

    def dump_checked(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], limits: Limits
    ) -> bytes:
        """JSON object of validated arguments. Raises InvalidInput, PayloadTooLarge."""
        bound = self.bind(args, kwargs)
        checked = {name: self._slots[name].check(value) for name, value in bound.items()}
        for name, value in checked.items():
            slot = self._slots[name]
            data = slot.round_trip(value)[0] if slot.loose else slot.dump(value)
            pack(data, limits, slot.what)
        return self._join(checked)

    def load(self, data: bytes) -> dict[str, Any]:
        """Typed arguments by name, from a stored JSON object. Raises InvalidInput."""
        try:
            values = pydantic_core.from_json(data)
        except ValueError as error:
            raise InvalidInput(f"the input of {self.what} is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise InvalidInput(f"the input of {self.what} must be a JSON object of its arguments")
        self.bind((), values)  # names and number of the arguments
        return {
            name: self._slots[name].accept(pydantic_core.to_json(value, inf_nan_mode="constants"))
            for name, value in values.items()
        }

    def _join(self, bound: Mapping[str, Any]) -> bytes:
        parts = [
            b'"' + name.encode() + b'":' + self._slots[name].dump(value)
            for name, value in bound.items()
        ]
        return b"{" + b",".join(parts) + b"}"


def canonical(data: bytes) -> bytes:
    """JSON text in one form, whatever the order of keys and of what is in lists.

    Two processes write the members of one set in different orders.
    """
    return pydantic_core.to_json(_sorted(pydantic_core.from_json(data)), inf_nan_mode="constants")


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return sorted(map(_sorted, value), key=to_json)
    return value


def _schema(annotation: Any, what: str) -> CoreSchema:
    try:
        schema = TypeAdapter(annotation).core_schema
        if type(schema) is dict:
            found: CoreSchema = _storable(schema)
            return found
        reason, cause = "it names a type that is not defined", None
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        reason, cause = str(error).splitlines()[0], error
    raise RegistrationError(
        f"{what} has a type that cannot be stored: {annotation!r} ({reason})", hint=_ANNOTATE
    ) from cause


def _storable(schema: Any) -> Any:
    """The schema with Aura's settings in all models, whose own are for other readers.

    JSON as pydantic writes it by default has no NaN, and only bytes that are UTF-8.
    """
    if type(schema) is dict:
        made = {
            key: part if key in _NO_SCHEMAS else _storable(part) for key, part in schema.items()
        }
        if schema.get("type") in _WITH_CONFIG:
            made["config"] = {**(schema.get("config") or {}), **_CONFIG}
        return made
    if type(schema) in (list, tuple):
        return type(schema)(map(_storable, schema))
    return schema


def _compile(schema: CoreSchema) -> tuple[SchemaSerializer, SchemaValidator]:
    """Not those that pydantic made with the models' classes, which know their own settings only."""
    return (
        SchemaSerializer(schema, _CONFIG, _use_prebuilt=False),
        SchemaValidator(schema, _CONFIG, _use_prebuilt=False),
    )


def _mentions_sets(schema: Any) -> bool:
    if type(schema) is dict:
        return schema.get("type") in ("set", "frozenset") or any(
            _mentions_sets(part) for key, part in schema.items() if key not in _NO_SCHEMAS
        )
    return type(schema) in (list, tuple) and any(map(_mentions_sets, schema))


def _loose(annotation: Any) -> bool:
    """Whether JSON of that type may be read back as another one: `Any`, `dict`, `str | bytes`."""
    if annotation in _UNTYPED:
        return True
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return False
    if get_origin(annotation) is Annotated:
        return _loose(arguments[0])
    if get_origin(annotation) in (Union, UnionType):
        return len([one for one in arguments if one is not type(None)]) > 1 or any(
            map(_loose, arguments)
        )
    return any(_loose(one) for one in arguments if one is not Ellipsis)


def _same(one: Any, other: Any) -> bool:
    """Whether they are equal, where NaN counts as equal to itself."""
    if isinstance(one, float) and one != one:  # only NaN is so
        return isinstance(other, float) and other != other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _first(error: ValidationError) -> str:
    return _told(error.errors(include_url=False)[0])


def _problems(error: ValidationError) -> str:
    """All that does not fit, so that it is mended at once; of many the first ones."""
    found = [_told(detail) for detail in error.errors(include_url=False)]
    more = len(found) - _TOLD
    return "; ".join(found[:_TOLD]) + (f"; and {more} more" if more > 0 else "")


def _told(detail: ErrorDetails) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    return f"{where}: {detail['msg']}" if where else str(detail["msg"])
