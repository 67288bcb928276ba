"""The old API as a contract: what answers must look like, whoever gives them.

    OpenAPI 3.0, 3.1 or Swagger 2.0 ──┐
                                      ├─► Contract.check(method, path, answer) ─► [Violation]
    example pairs ─► infer ───────────┘

An answer is checked for its status, content type, required fields of its head, and its JSON body
against the schema: required fields, types, enumerations, nullability. Fields that the contract does
not know pass: `additionalProperties: false` is not held against an answer. What the contract does
not declare (a path, a method) is not checked.

Schemas are compiled once, by jsonschema-rs (the extra `contract`): 3 µs for an answer of 1.3 kB,
where jsonschema takes 970 and fastjsonschema 52.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml

from aura.errors import ConfigError, MissingExtra
from aura.gateway.diff import path_text
from aura.gateway.headers import Pairs, value
from aura.gateway.inferring import Example, infer, read_examples

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
MOST_VIOLATIONS = 20
LARGEST = 8 * 1024 * 1024  # bytes of a document
DEEPEST = 100
MASK = "the value"

OnViolation = Literal["pass", "fallback"]
Validator = Any


@dataclass(frozen=True, slots=True)
class ContractSpec:
    """What the configuration says. Either `openapi` names a document or `examples` files of pairs.

    With `on_violation` "fallback" the baseline is asked in place of an answer that breaks the
    contract. `exact`: answers must have the same bytes as the baseline's; None: none must, () all,
    else those of these paths.
    """

    openapi: str = ""
    examples: tuple[str, ...] = ()
    on_violation: OnViolation = "pass"
    exact: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Violation:
    """Where an answer breaks the contract: `path` is `status`, `content-type`, `header NAME`,
    `body` or a place in the JSON (`$.a[0]`). The message has no values of the answer in it."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@dataclass(frozen=True, slots=True)
class Response:
    """One declared answer: the fields that it must have, and a schema for each type of content
    (None: any content of that type)."""

    required: tuple[str, ...]
    content: Mapping[str, Validator | None]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path, with its answers by status (`200`, `4XX`, `default`)."""

    method: str
    template: str
    pattern: re.Pattern[str]
    responses: Mapping[str, Response]


class Contract:
    """The compiled contract. `on_violation` is what the gateway does when it is broken."""

    def __init__(
        self,
        operations: Sequence[Operation],
        on_violation: OnViolation = "pass",
        exact: tuple[str, ...] | None = None,
        examples: Sequence[Example] = (),
    ) -> None:
        self.on_violation = on_violation
        # Paths without parameters go first, as OpenAPI says.
        self._operations = sorted(operations, key=lambda one: one.template.count("{"))
        self._exact = exact
        self._bytes = {_mark(one.method, one.target, one.sent): one.said for one in examples}

    def check(
        self, method: str, target: str, status: int, headers: Pairs, body: bytes
    ) -> list[Violation]:
        """Where an answer breaks it; `target` is the request's path and query, `body` is without
        compression."""
        operation = self._operation(method, target)
        if operation is None:
            return []
        response = _of_status(operation.responses, status)
        if response is None:
            known = ", ".join(operation.responses) or "none"
            return [Violation("status", f"{status} is not declared: {known}")]
        found = [
            Violation(f"header {name}", "it is required and missing")
            for name in response.required
            if value(headers, name.lower().encode()) is None
        ]
        return [*found, *_check_body(response, headers, body)] if method != "HEAD" else found

    def check_example(self, method: str, target: str, sent: bytes, said: bytes) -> list[Violation]:
        """Whether an answer has the bytes that the example of the same request has, if bytes count
        and there is one."""
        expected = self._bytes.get(_mark(method, target, sent)) if self._bytes else None
        if expected is None or expected == said or not self.is_exact(method, target):
            return []
        return [Violation("bytes", f"{len(said)} bytes are not the example's {len(expected)}")]

    def is_exact(self, method: str, target: str) -> bool:
        """Whether answers must have the baseline's bytes."""
        if not self._exact:
            return self._exact is not None
        operation = self._operation(method, target)
        return operation is not None and operation.template in self._exact

    def _operation(self, method: str, target: str) -> Operation | None:
        path = target.partition("?")[0]
        wanted = method.lower()
        for one in self._operations:
            if one.method == wanted and one.pattern.fullmatch(path):
                return one
        return None


def load_contract(spec: ContractSpec) -> Contract:
    """Read and compile what a configuration names. Raises ConfigError, MissingExtra."""
    if spec.openapi:
        return compile_contract(read_document(spec.openapi), spec)
    examples = read_examples(spec.examples)
    return compile_contract(infer(examples), spec, examples)


def read_document(file: str) -> dict[str, Any]:
    """An OpenAPI document from a JSON or YAML file. Raises ConfigError."""
    path = Path(file)
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"{file} is larger than {LARGEST} bytes", hint="Is it a contract?")
        text = path.read_text()
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"the contract {file} cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"the contract {file} cannot be read: {error}") from error
    if not isinstance(found, dict) or not ({"openapi", "swagger"} & found.keys()):
        raise ConfigError(
            f"{file} is no OpenAPI document", hint="It begins with `openapi: 3.1.0` or the like"
        )
    return found


def compile_contract(
    document: Mapping[str, Any],
    spec: ContractSpec = ContractSpec(),
    examples: Sequence[Example] = (),
) -> Contract:
    """The contract of an OpenAPI document. Raises ConfigError, MissingExtra."""
    made = _Compiler(document)
    operations = list(made.operations())
    if not operations:
        raise ConfigError("the contract declares no answers", hint="Add `paths:` to it")
    unknown = set(spec.exact or ()) - {one.template for one in operations}
    if unknown:
        raise ConfigError(
            f"`bytes` names the path {min(unknown)}, which the contract does not have",
            hint="Write it as the contract does, with its {parameters}",
        )
    return Contract(operations, spec.on_violation, spec.exact, examples)


# -- checking ----------------------------------------------------------------------------------


def _of_status(responses: Mapping[str, Response], status: int) -> Response | None:
    for name in (str(status), f"{status // 100}XX", f"{status // 100}xx", "default"):
        if name in responses:
            return responses[name]
    return None


def _check_body(response: Response, headers: Pairs, body: bytes) -> list[Violation]:
    if not response.content:
        return []
    kind = (value(headers, b"content-type") or b"").partition(b";")[0].strip().lower().decode()
    for name in (kind, f"{kind.partition('/')[0]}/*", "*/*"):
        if name in response.content:
            schema = response.content[name]
            return [] if schema is None or not _is_json(kind) else _check_json(schema, body)
    known = ", ".join(response.content)
    return [Violation("content-type", f"{kind[:80] or 'none'} is not declared: {known}")]


def _check_json(schema: Validator, body: bytes) -> list[Violation]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return [Violation("body", "it is not JSON")]
    if schema.is_valid(document):
        return []
    found = []
    for error in schema.iter_errors(document):
        found.append(Violation(path_text(tuple(error.instance_path)), error.message[:200]))
        if len(found) >= MOST_VIOLATIONS:
            break
    return found


def _is_json(kind: str) -> bool:
    return kind == "application/json" or kind.endswith("+json")


def _mark(method: str, target: str, sent: bytes) -> bytes:
    """What makes two requests the same: JSON bodies whatever their layout."""
    with contextlib.suppress(ValueError, RecursionError):
        sent = json.dumps(json.loads(sent), sort_keys=True).encode()
    whole = b"\0".join((method.upper().encode(), target.encode("utf-8", "replace"), sent))
    return hashlib.sha256(whole).digest()


# -- compiling ---------------------------------------------------------------------------------


@dataclass(slots=True)
class _Compiler:
    document: Mapping[str, Any]
    _root: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        components = _mapping(self.document.get("components"), "components")
        schemas = _member("schemas", components.get("schemas", {}), 0)
        definitions = _member("definitions", self.document.get("definitions", {}), 0)
        self._root = {"components": {"schemas": schemas}, "definitions": definitions}

    def operations(self) -> Iterable[Operation]:
        for template, item in _mapping(self.document.get("paths"), "paths").items():
            methods = _mapping(self._resolved(item), template)
            for method in METHODS:
                if method in methods:
                    operation = _mapping(methods[method], f"{method} {template}")
                    responses = _mapping(operation.get("responses"), f"{method} {template}")
                    declared = {
                        str(status): self._response(self._resolved(one), operation)
                        for status, one in responses.items()
                    }
                    yield Operation(method, template, self._pattern(template), declared)

    def _pattern(self, template: str) -> re.Pattern[str]:
        parts = re.split(r"\{[^{}/]+\}", template)
        return re.compile(f"(?:{'|'.join(map(re.escape, self._bases()))})" + "[^/]+".join(
            re.escape(part) for part in parts
        ))  # fmt: skip

    def _bases(self) -> list[str]:
        """The paths below which the API may be, and none."""
        servers = self.document.get("servers") or [{"url": self.document.get("basePath", "")}]
        urls = [str(one.get("url", "")) for one in servers if isinstance(one, dict)]
        return list(dict.fromkeys([urlsplit(url).path.rstrip("/") for url in urls] + [""]))

    def _response(self, given: Any, operation: Mapping[str, Any]) -> Response:
        said = _mapping(given, "a response")
        declared = _mapping(said.get("headers"), "headers")
        required = [
            name for name, one in declared.items() if _mapping(self._resolved(one), name).get(
                "required"
            )
        ]  # fmt: skip
        content: dict[str, Any] = _mapping(said.get("content"), "content")
        if "schema" in said:  # Swagger 2.0
            produces = operation.get("produces") or self.document.get("produces")
            kinds = produces or ["application/json"]
            content = {kind: {"schema": said["schema"]} for kind in kinds}
        return Response(
            tuple(required),
            {
                kind.partition(";")[0].strip().lower(): self._validator(_mapping(one, kind))
                for kind, one in content.items()
            },
        )

    def _validator(self, media: Mapping[str, Any]) -> Validator | None:
        if "schema" not in media:
            return None
        rust = _library()
        schema = {**self._root, "allOf": [_schema(media["schema"])]}
        try:
            return rust.Draft202012Validator(schema, mask=MASK)
        except (ValueError, TypeError, RecursionError, rust.ReferencingError) as error:
            raise ConfigError(f"a schema of the contract cannot be used: {error}") from error

    def _resolved(self, given: Any, depth: int = 0) -> Any:
        """What a reference within the document stands for."""
        if not isinstance(given, dict) or "$ref" not in given:
            return given
        there = _local(given["$ref"])
        found: Any = self.document
        try:
            for part in there.lstrip("#/").split("/"):
                found = found[part.replace("~1", "/").replace("~0", "~")]
        except (KeyError, TypeError):
            raise ConfigError(f"the contract has no {there}", hint="Mend the reference") from None
        if depth > DEEPEST:
            raise ConfigError(f"{there} refers to itself", hint="Mend the reference")
        return self._resolved(found, depth + 1)


def _library() -> Any:
    try:
        import jsonschema_rs
    except ImportError as error:
        raise MissingExtra(
            "contracts need the package jsonschema-rs",
            hint='Install it with: pip install "aura-workflows[contract]"',
        ) from error
    return jsonschema_rs


def _mapping(given: Any, what: str) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise ConfigError(f"{what} of the contract is no mapping", hint="See the OpenAPI document")
    return given


def _local(reference: Any) -> str:
    if not isinstance(reference, str) or not reference.startswith("#/"):
        raise ConfigError(
            f"the contract refers to {str(reference)[:100]}, which lies outside of it",
            hint="Put everything into one file",
        )
    return reference


def _schema(given: Any, depth: int = 0) -> Any:
    """A schema as JSON Schema 2020-12 says it: OpenAPI 3.0's `nullable` and exclusive bounds, and
    without what would forbid fields that nobody knows."""
    if depth > DEEPEST:
        raise ConfigError("a schema of the contract is too deep", hint="Mend it")
    if isinstance(given, list):
        return [_schema(one, depth + 1) for one in given]
    if not isinstance(given, dict):
        return given
    made = {name: _member(name, one, depth + 1) for name, one in given.items()}
    for rule in _RULES:
        rule(made)
    return made


def _member(name: str, given: Any, depth: int) -> Any:
    if name in _VERBATIM:
        return given
    if name in _NAMED and isinstance(given, dict):
        return {key: _schema(one, depth) for key, one in given.items()}
    return _schema(given, depth)


_VERBATIM = ("enum", "const", "example", "examples", "default", "required")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "schemas")


def _follow(schema: dict[str, Any]) -> None:
    if isinstance(schema.get("$ref"), str):
        _local(schema["$ref"])


def _let_pass(schema: dict[str, Any]) -> None:
    for name in ("additionalProperties", "unevaluatedProperties"):
        if schema.get(name) is False:
            del schema[name]


def _allow_null(schema: dict[str, Any]) -> None:
    if schema.pop("nullable", None) is not True:
        return
    if isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
    if isinstance(schema.get("enum"), list) and None not in schema["enum"]:
        schema["enum"] = [*schema["enum"], None]
    if "$ref" in schema or "allOf" in schema or "oneOf" in schema or "anyOf" in schema:
        inner = dict(schema)
        schema.clear()
        schema["anyOf"] = [inner, {"type": "null"}]


def _exclude(schema: dict[str, Any]) -> None:
    for bound, name in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(schema.get(name), bool) and schema.pop(name) and bound in schema:
            schema[name] = schema.pop(bound)


_RULES: tuple[Callable[[dict[str, Any]], None], ...] = (_follow, _let_pass, _allow_null, _exclude)
