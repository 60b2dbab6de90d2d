"""JSON Schema (2020-12) to Cedar types, and JSON values to Cedar values of those types.

What Cedar cannot type is left out with the reason, so that a policy that reads it gets an explained load error:
unions, free-form objects, recursion, more than `DEPTH_MAX` levels. Numbers become `decimal` with four places,
integers `Long`. A value without an exact form raises `ValueInexact`, and the call is denied.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeAlias, cast

from comptroller_policy.errors import ValueInexact
from comptroller_policy.paths import is_list, is_object, resolve_pointer

__all__ = [
    "NAMESPACE",
    "Absent",
    "CedarType",
    "Field",
    "Kind",
    "RecordOf",
    "Scalar",
    "SetOf",
    "cedar_json",
    "cedar_type",
    "cedar_value",
    "enum_of",
    "look_up",
    "prune",
    "record_type",
]

NAMESPACE = "Comptroller"
DEPTH_MAX = 8
"""Levels of records and sets below the root that are typed."""

_DECIMAL_PLACES = Decimal("0.0001")
_DECIMAL_MAX = Decimal("922337203685477.5807")
_DECIMAL_MIN = Decimal("-922337203685477.5808")
# The common case, safely inside the range: no arithmetic needed.
_SHORT_DECIMAL = re.compile(r"-?[0-9]{1,14}(?:\.[0-9]{1,4})?")
_LONG_MAX, _LONG_MIN = 2**63 - 1, -(2**63)
# Cedar's JSON forms give these keys a meaning of their own; as attribute names they could forge an entity.
_RESERVED = frozenset({"__entity", "__extn", "__expr", "__cedar"})


class Kind(StrEnum):
    STRING = "String"
    LONG = "Long"
    BOOL = "Bool"
    DECIMAL = "decimal"
    DATETIME = "datetime"
    TENANT = "Tenant"
    ACTOR = "Actor"


@dataclass(frozen=True, slots=True)
class Scalar:
    kind: Kind


@dataclass(frozen=True, slots=True)
class SetOf:
    item: CedarType


@dataclass(frozen=True, slots=True)
class Field:
    type: CedarType
    required: bool = True


@dataclass(frozen=True, slots=True)
class RecordOf:
    """Attributes by name. `absent` maps each field that Cedar cannot type to the reason."""

    fields: Mapping[str, Field]
    absent: Mapping[str, str] = field(default_factory=lambda: MappingProxyType(dict[str, str]()))


@dataclass(frozen=True, slots=True)
class Absent:
    """A schema that has no Cedar type, and why: "may be of several types"."""

    reason: str


CedarType: TypeAlias = Scalar | SetOf | RecordOf

_BY_NAME: Mapping[str, Kind] = {
    "string": Kind.STRING,
    "integer": Kind.LONG,
    "number": Kind.DECIMAL,
    "boolean": Kind.BOOL,
}


# ------------------------------------------------------------------------------------------ schema to type


def record_type(schema: Mapping[str, Any]) -> RecordOf:
    """The record type of an object schema that is a document of its own: a tool's arguments or output."""
    return _record(schema, _Place(schema))


def enum_of(schema: Mapping[str, Any], name: str) -> list[Any] | None:
    """The values that the property `name` of an object schema is restricted to, or None. References are followed."""
    properties: Any = schema.get("properties")
    node: Any = properties.get(name) if is_object(properties) else None
    for _ in range(DEPTH_MAX):
        if not is_object(node):
            return None
        if "const" in node:
            return [node["const"]]
        if is_list(node.get("enum")):
            return list(node["enum"])
        if isinstance(node.get("$ref"), str):
            node = resolve_pointer(node["$ref"], schema)
            continue
        combined = next((word for word in ("anyOf", "oneOf", "allOf") if is_list(node.get(word))), None)
        branches: list[Any] = node[combined] if combined is not None else []
        others = [branch for branch in branches if not _is_null(branch)]
        node = others[0] if len(others) == 1 else None
    return None


def cedar_type(schema: Any, document: Mapping[str, Any] | None = None) -> CedarType | Absent:
    """The Cedar type of values of `schema`; `document` is where its `$ref`s point (default: itself)."""
    own: Mapping[str, Any] = schema if is_object(schema) else {}
    return _typed(schema, _Place(own if document is None else document))[0]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the translation is: the document, the level, and the `$ref`s being followed."""

    document: Mapping[str, Any]
    depth: int = 0
    following: tuple[str, ...] = ()

    def deeper(self) -> _Place:
        return _Place(self.document, self.depth + 1, self.following)

    def through(self, reference: str) -> _Place:
        return _Place(self.document, self.depth, (*self.following, reference))


_Typed: TypeAlias = tuple["CedarType | Absent", bool]
"""A type, and whether the value may be null (then the attribute is optional)."""


def _typed(node: Any, place: _Place) -> _Typed:
    if not is_object(node) or not node:
        return Absent("may be anything"), False
    reference = node.get("$ref")
    if isinstance(reference, str):
        return _referred(reference, place)
    for word in ("anyOf", "oneOf", "allOf"):
        if word in node:
            return _alternatives(word, node[word], place)
    if "const" in node or "enum" in node:
        return _listed([node["const"]] if "const" in node else node["enum"])
    return _by_type(node, place)


def _referred(reference: str, place: _Place) -> _Typed:
    if reference in place.following:
        return Absent("refers to itself"), False
    target = resolve_pointer(reference, place.document)
    if target is None:
        return Absent(f"refers to {reference}, which is not in its schema"), False
    return _typed(target, place.through(reference))


def _alternatives(word: str, branches: Any, place: _Place) -> _Typed:
    listed = branches if is_list(branches) else []
    others = [branch for branch in listed if not _is_null(branch)]
    if len(others) != 1:
        return Absent("combines several schemas" if word == "allOf" else "may be of several types"), False
    found, nullable = _typed(others[0], place)
    return found, nullable or len(others) < len(listed)


def _is_null(schema: Any) -> bool:
    return is_object(schema) and schema.get("type") == "null"


def _listed(values: Any) -> _Typed:
    listed = values if is_list(values) else []
    present = [value for value in listed if value is not None]
    kinds = {_kind_of(value) for value in present}
    if kinds == {Kind.LONG, Kind.DECIMAL}:
        kinds = {Kind.DECIMAL}
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is None:
        return Absent("lists values of several types"), False
    return Scalar(kind), len(present) < len(listed)


def _kind_of(value: Any) -> Kind | None:
    # A boolean is an int in Python, so it is asked for first.
    kinds = ((bool, Kind.BOOL), (str, Kind.STRING), (int, Kind.LONG), (float, Kind.DECIMAL))
    return next((kind for python, kind in kinds if isinstance(value, python)), None)


def _by_type(node: Mapping[str, Any], place: _Place) -> _Typed:
    declared = node.get("type")
    names = declared if is_list(declared) else [declared]
    others = [name for name in names if name != "null"]
    nullable = len(others) < len(names)
    name = others[0] if len(others) == 1 else None
    if isinstance(name, str) and name in _BY_NAME:
        return Scalar(_BY_NAME[name]), nullable
    if name not in ("array", "object"):
        return Absent("has no single type"), nullable
    if place.depth >= DEPTH_MAX:
        return Absent(f"lies deeper than {DEPTH_MAX} levels"), nullable
    if name == "array":
        return _set(node, place.deeper()), nullable
    if not is_object(node.get("properties")) or not node["properties"]:
        return Absent("is an object without declared fields"), nullable
    return _record(node, place.deeper()), nullable


def _set(node: Mapping[str, Any], place: _Place) -> CedarType | Absent:
    if "prefixItems" in node:
        return Absent("is a tuple")
    item, nullable = _typed(node.get("items"), place)
    if isinstance(item, Absent):
        return Absent(f"is a list whose items cannot be typed (each {item.reason})")
    if nullable:
        return Absent("is a list whose items may be null")
    return SetOf(item)


def _record(node: Mapping[str, Any], place: _Place) -> RecordOf:
    properties: Any = node.get("properties")
    required: Any = node.get("required")
    needed = {name for name in required if isinstance(name, str)} if is_list(required) else set[str]()
    fields: dict[str, Field] = {}
    absent: dict[str, str] = {}
    for name, schema in cast(
        "Mapping[str, Any]", properties if isinstance(properties, Mapping) else {}
    ).items():
        if name in _RESERVED or not _encodable(name):
            absent[name] = "has a name that Cedar reserves"
            continue
        found, nullable = _typed(schema, place)
        if isinstance(found, Absent):
            absent[name] = found.reason
        else:
            fields[name] = Field(found, required=name in needed and not nullable)
    return RecordOf(MappingProxyType(fields), MappingProxyType(absent))


def _encodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


# -------------------------------------------------------------------------------------------------- types


def look_up(type_: CedarType, path: Iterable[str]) -> CedarType | Absent | None:
    """The type at `path` below `type_`; Absent with the reason when it has none; None when nothing declares it."""
    found: CedarType = type_
    for name in path:
        if not isinstance(found, RecordOf):
            return None
        if name in found.absent:
            return Absent(found.absent[name])
        if name not in found.fields:
            return None
        found = found.fields[name].type
    return found


def prune(type_: RecordOf, paths: Iterable[tuple[str, ...]]) -> RecordOf:
    """Only what `paths` read. A path that ends at a record keeps it whole; a set is kept or left out whole."""
    by_name: dict[str, list[tuple[str, ...]]] = {}
    for path in paths:
        if not path:
            return type_
        by_name.setdefault(path[0], []).append(path[1:])
    fields: dict[str, Field] = {}
    for name in sorted(by_name.keys() & type_.fields.keys()):
        kept = type_.fields[name]
        if isinstance(kept.type, RecordOf):
            kept = Field(prune(kept.type, by_name[name]), kept.required)
        fields[name] = kept
    return RecordOf(MappingProxyType(fields))


def cedar_json(type_: CedarType) -> dict[str, Any]:
    """The type in Cedar's JSON schema format (https://docs.cedarpolicy.com/schema/json-schema.html)."""
    if isinstance(type_, SetOf):
        return {"type": "Set", "element": cedar_json(type_.item)}
    if isinstance(type_, RecordOf):
        return {
            "type": "Record",
            "attributes": {
                name: {**cedar_json(kept.type), "required": kept.required}
                for name, kept in type_.fields.items()
            },
        }
    if type_.kind in (Kind.DECIMAL, Kind.DATETIME):
        return {"type": "Extension", "name": type_.kind.value}
    if type_.kind in (Kind.TENANT, Kind.ACTOR):
        return {"type": "Entity", "name": type_.kind.value}
    return {"type": "Boolean" if type_.kind is Kind.BOOL else type_.kind.value}


# ------------------------------------------------------------------------------------------------- values


def cedar_value(value: Any, type_: CedarType, where: str = "value") -> Any:
    """`value` in Cedar's JSON form, to be read with the schema. Fields outside the type are left out.

    Raises ValueInexact, naming the place, for another type, a missing required field, an integer beyond 64 bits
    or a number that four decimal places cannot hold exactly.
    """
    try:
        return _converted(value, type_)
    except _Fault as fault:
        raise ValueInexact(f"{where}{fault}") from None


class _Fault(Exception):
    """What is wrong below the root; the path is put together only on the way out, because it is rarely needed."""


def _converted(value: Any, type_: CedarType) -> Any:
    if isinstance(type_, Scalar):
        return _CONVERTERS[type_.kind](value)
    if isinstance(type_, RecordOf):
        return _record_value(value, type_)
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise _Fault(" is not a list.")
    result: list[Any] = []
    for at, item in enumerate(cast("Iterable[Any]", value)):
        try:
            result.append(_converted(item, type_.item))
        except _Fault as fault:
            raise _Fault(f"[{at}]{fault}") from None
    return result


def _record_value(value: Any, type_: RecordOf) -> dict[str, Any]:
    if not is_object(value):
        raise _Fault(" is not an object.")
    result: dict[str, Any] = {}
    for name, kept in type_.fields.items():
        item = value.get(name)
        if item is None:
            if kept.required:
                raise _Fault(f".{name} is missing.")
            continue
        try:
            result[name] = _converted(item, kept.type)
        except _Fault as fault:
            raise _Fault(f".{name}{fault}") from None
    return result


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise _Fault(" is not text.")
    if not value.isascii() and not _encodable(value):
        raise _Fault(" is not valid Unicode text.")
    return value


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Fault(" is not a boolean.")
    return value


def _long(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _Fault(" is not a whole number.")
    if not _LONG_MIN <= value <= _LONG_MAX:
        raise _Fault(" does not fit in 64 bits.")
    return value


def _decimal(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise _Fault(" is not a number.")
    if isinstance(value, int) and not _DECIMAL_MIN <= value <= _DECIMAL_MAX:
        # Asked first: Python refuses to write an integer of thousands of digits.
        raise _Fault(" is outside the range policies can compare.")
    written = repr(value) if isinstance(value, float) else str(value)
    if _SHORT_DECIMAL.fullmatch(written) is not None:
        return written if "." in written else f"{written}.0"
    number = Decimal(written)
    if not number.is_finite() or not _DECIMAL_MIN <= number <= _DECIMAL_MAX:
        raise _Fault(" is outside the range policies can compare.")
    rounded = number.quantize(_DECIMAL_PLACES)
    if rounded != number:
        raise _Fault(" has more than four decimal places, so policy cannot compare it exactly.")
    return f"{rounded:f}"


def _entity(kind: Kind) -> Callable[[Any], dict[str, str]]:
    return lambda value: {"type": f"{NAMESPACE}::{kind.value}", "id": _string(value)}


_CONVERTERS: Mapping[Kind, Callable[[Any], Any]] = {
    Kind.STRING: _string,
    Kind.DATETIME: _string,
    Kind.BOOL: _bool,
    Kind.LONG: _long,
    Kind.DECIMAL: _decimal,
    Kind.TENANT: _entity(Kind.TENANT),
    Kind.ACTOR: _entity(Kind.ACTOR),
}
