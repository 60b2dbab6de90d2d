"""JSON Schema to Cedar types and exact values."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.vocabulary import Effect
from comptroller_policy.actions import actions_of, schema_json
from comptroller_policy.cedar import Schema, ask, entities_of
from comptroller_policy.declarations import FactRule, ToolRules
from comptroller_policy.errors import ValueInexact
from comptroller_policy.model import ToolFacts
from comptroller_policy.paths import is_object
from comptroller_policy.schema import (
    Absent,
    Field,
    Kind,
    RecordOf,
    Scalar,
    SetOf,
    cedar_json,
    cedar_type,
    cedar_value,
    look_up,
    prune,
    record_type,
)
from comptroller_policy.slices import policy_set, uid
from comptroller_policy.syntax import Policy, parse_policy

STRING, LONG, DECIMAL, BOOL = (Scalar(k) for k in (Kind.STRING, Kind.LONG, Kind.DECIMAL, Kind.BOOL))


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, STRING),
        ({"type": "integer"}, LONG),
        ({"type": "number"}, DECIMAL),
        ({"type": "boolean"}, BOOL),
        ({"enum": ["a", "b"]}, STRING),
        ({"enum": [1, 2.5]}, DECIMAL),
        ({"const": True}, BOOL),
        ({"type": "array", "items": {"type": "string"}}, SetOf(STRING)),
        ({"allOf": [{"type": "string"}]}, STRING),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, LONG),
        ({"type": ["integer", "null"]}, LONG),
    ],
)
def test_each_plain_schema_has_its_type(schema: dict[str, Any], expected: object) -> None:
    assert cedar_type(schema) == expected


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({}, "anything"),
        (True, "anything"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "several types"),
        ({"type": ["string", "integer"]}, "no single type"),
        ({"type": "object"}, "without declared fields"),
        ({"enum": ["a", 1]}, "several types"),
        ({"enum": []}, "several types"),
        ({"const": {"a": 1}}, "several types"),
        ({"$ref": "https://elsewhere.example/schema"}, "not in its schema"),
        ({"type": "array", "prefixItems": [{"type": "string"}]}, "tuple"),
        ({"type": "array"}, "cannot be typed"),
        ({"type": "array", "items": {"type": ["string", "null"]}}, "may be null"),
    ],
)
def test_what_cedar_cannot_type_is_absent_with_the_reason(schema: Any, reason: str) -> None:
    found = cedar_type(schema)
    assert isinstance(found, Absent)
    assert reason in found.reason


def test_references_are_followed_and_recursion_is_absent() -> None:
    schema = {
        "properties": {
            "line": {"$ref": "#/$defs/Line"},
            "odd": {"$ref": "#/$defs/a~1b"},
            "node": {"$ref": "#/$defs/Node"},
        },
        "required": ["line"],
        "$defs": {
            "Line": {"type": "object", "properties": {"sku": {"type": "string"}}},
            "a/b": {"type": "integer"},
            "Node": {
                "type": "object",
                "properties": {"next": {"$ref": "#/$defs/Node"}, "v": {"type": "integer"}},
            },
        },
    }
    typed = record_type(schema)
    assert typed.fields["line"] == Field(RecordOf({"sku": Field(STRING, required=False)}), required=True)
    assert typed.fields["odd"] == Field(LONG, required=False)
    assert look_up(typed, ["node", "v"]) == LONG
    assert look_up(typed, ["node", "next"]) == Absent("refers to itself")
    assert look_up(typed, ["node", "nope"]) is None


def test_a_required_field_that_may_be_null_is_optional_because_null_is_left_out() -> None:
    typed = record_type({"properties": {"a": {"type": ["string", "null"]}}, "required": ["a"]})
    assert typed.fields["a"] == Field(STRING, required=False)
    assert cedar_value({"a": None}, typed) == {}


def test_records_deeper_than_the_limit_are_absent() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(12):
        schema = {"type": "object", "properties": {"a": schema}}
    assert isinstance(look_up(record_type(schema), ["a"] * 8), RecordOf)
    assert isinstance(look_up(record_type(schema), ["a"] * 9), Absent)


@pytest.mark.parametrize("name", ["__entity", "__extn", "__expr", "\ud800"])
def test_a_field_that_could_forge_an_entity_is_absent(name: str) -> None:
    typed = record_type({"properties": {name: {"type": "string"}}})
    assert not typed.fields
    assert name in typed.absent


def test_pruning_keeps_what_is_read_and_nothing_else() -> None:
    typed = RecordOf({"a": Field(RecordOf({"x": Field(LONG), "y": Field(LONG)})), "b": Field(STRING)})
    assert prune(typed, [("a", "x")]) == RecordOf({"a": Field(RecordOf({"x": Field(LONG)}))})
    assert prune(typed, [("a",), ("a", "x")]).fields["a"] == typed.fields["a"]
    assert prune(typed, [("nowhere", "x")]).fields == {}
    assert prune(typed, []).fields == {}


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (50, "50.0"),
        (0.1, "0.1"),
        (-2.5, "-2.5"),
        (Decimal("1.50000"), "1.5000"),
        (1e14, "100000000000000.0000"),
    ],
)
def test_numbers_that_fit_four_places_are_written_exactly(value: Any, written: str) -> None:
    assert cedar_value(value, DECIMAL) == written


@pytest.mark.parametrize(
    "value",
    [
        50.00001,
        Decimal("0.00001"),
        1e15,
        pytest.param(10**5000, id="huge"),
        float("nan"),
        float("inf"),
        True,
        "1",
        None,
        Decimal("sNaN"),
    ],
)
def test_numbers_without_an_exact_form_are_refused(value: Any) -> None:
    with pytest.raises(ValueInexact, match=r"^input\.amount"):
        cedar_value({"amount": value}, RecordOf({"amount": Field(DECIMAL)}), "input")


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        (2**63, LONG),
        (1.5, LONG),
        (True, LONG),
        ("x", BOOL),
        (1, STRING),
        ("\ud800", STRING),
        ("a", SetOf(STRING)),
        ([1], SetOf(STRING)),
        ([], RecordOf({})),
        ({"a": "x"}, RecordOf({"a": Field(LONG)})),
        ({}, RecordOf({"a": Field(LONG)})),
    ],
)
def test_values_of_another_type_are_refused(value: Any, type_: Any) -> None:
    with pytest.raises(ValueInexact):
        cedar_value(value, type_)


@given(st.decimals(min_value=-(10**14), max_value=10**14, places=4))
def test_every_decimal_with_four_places_survives(value: Decimal) -> None:
    assert Decimal(cedar_value(value, DECIMAL)) == value


# --------------------------------------------------------------------------------------- any JSON Schema

names = st.one_of(
    st.sampled_from(["a", "b c", "in", "__entity", "", "é", 'q"', "\\", "\x00", "\u2028", "type", "Var"]),
    st.text(max_size=4),
)
leaves: st.SearchStrategy[Any] = st.sampled_from(
    [
        {"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}, {"type": "null"}, {}, True,
        {"enum": ["a", None]}, {"const": 3}, {"$ref": "#/$defs/D"}, {"$ref": "#"}, {"type": ["string", "null"]},
        {"type": "object"}, {"type": "array"}, {"type": "wrong"}, {"enum": [1, "a"]},
    ]
)  # fmt: skip


Json = dict[str, Any]


def _object(properties: Json, every: bool) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties) if every else []}


def _array(items: Any) -> Json:
    return {"type": "array", "items": items}


def _either(branches: list[Any]) -> Json:
    return {"anyOf": branches}


def _document(properties: Json, d: Any) -> Json:
    return {"type": "object", "properties": properties, "$defs": {"D": d}}


def _wider(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.builds(_object, st.dictionaries(names, inner, max_size=4), st.booleans()),
        st.builds(_array, inner),
        st.builds(_either, st.lists(inner, max_size=3)),
    )


schemas = st.recursive(leaves, _wider, max_leaves=12)
documents = st.builds(_document, st.dictionaries(names, schemas, max_size=5), schemas)


def _tool(schema: dict[str, Any]) -> ToolFacts:
    rules = ToolRules(name="t", allow_actions=(Effect.READ,), facts={"f": FactRule(tool="t")})
    return ToolFacts("t", "desk", Effect.READ, schema, schema, rules, fact_schemas={"f": schema})


@given(documents)
def test_cedar_accepts_the_schema_of_any_json_schema(document: Json) -> None:
    Schema.from_json_str(schema_json(actions_of(_tool(document), ["approver"])))


def _fits(schema: Any, document: Json, depth: int = 0) -> Any:
    """Some value of a schema, or None."""
    if not is_object(schema) or depth > 12:
        return None
    if "$ref" in schema:
        target = document if schema["$ref"] == "#" else document["$defs"]["D"]
        return _fits(target, document, depth + 1)
    if "anyOf" in schema:
        return _fits(schema["anyOf"][0], document, depth + 1) if schema["anyOf"] else None
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    if schema.get("type") == "object":
        properties: Json = schema.get("properties", {})
        return {name: _fits(inner, document, depth + 1) for name, inner in properties.items()}
    item = _fits(schema.get("items"), document, depth + 1)
    plain: Json = {"string": "x", "integer": 3, "number": 0.25, "boolean": True, "array": [item]}
    return plain.get(str(schema.get("type")))


@given(documents)
def test_a_value_that_converts_is_a_context_that_cedar_accepts(document: Json) -> None:
    typed = record_type(document)
    try:
        value = cedar_value(_fits(document, document), typed)
    except ValueInexact:
        return
    permit = parse_policy('@id("p") permit (principal, action, resource);', "here")
    assert isinstance(permit, Policy)
    declared = json.dumps(
        {
            "Comptroller": {
                "entityTypes": {"Principal": {}, "Source": {}},
                "actions": {
                    "t": {
                        "appliesTo": {
                            "principalTypes": ["Principal"],
                            "resourceTypes": ["Source"],
                            "context": cedar_json(typed),
                        }
                    }
                },
            }
        }
    )
    answer = ask(
        uid("Principal", "p"), uid("Action", "t"), uid("Source", "s"), json.dumps(value),
        policy_set([permit]), entities_of([]), Schema.from_json_str(declared),
    )  # fmt: skip
    assert answer.allowed, answer.errors
