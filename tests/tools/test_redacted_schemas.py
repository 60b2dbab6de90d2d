"""A released answer always fits the schema that clients were given, and a token every argument that takes one."""

from __future__ import annotations

from typing import Any, cast

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comptroller_audit.fields import FieldRule
from comptroller_audit.redaction import Audience, Pattern, Release
from comptroller_audit.tokens import TokenBook
from comptroller_audit.vocabulary import Json
from comptroller_tools.redacted_schemas import redacted, taking_tokens

PATTERNS = frozenset(Pattern)
SECRET = "hunter2-swordfish"
PERSONAL = ["ann@example.org", "+44 20 7946 0958", "4111 1111 1111 1111", "GB82WEST12345698765432"]
RULES = [FieldRule("note"), FieldRule("$.inner.deep"), FieldRule("$.map.*", "entry")]


def fits(value: Any, schema: Any) -> bool:
    engine = jsonschema_rs.validator_for(schema, offline=True, validate_formats=True)
    return bool(engine.is_valid(value))


def text_schemas() -> st.SearchStrategy[tuple[dict[str, Any], st.SearchStrategy[Any]]]:
    """A schema of a text that is as narrow as its values, with the values."""
    shapes: list[tuple[dict[str, Any], list[Any]]] = [
        ({"type": "string", "format": "email"}, ["ann@example.org"]),
        ({"type": "string", "maxLength": 17, "minLength": 3}, ["ann@example.org", SECRET]),
        ({"type": "string", "pattern": r"^[+\d ]+$"}, ["+44 20 7946 0958", "4111 1111 1111 1111"]),
        ({"enum": ["ann@example.org", "bob@example.org", 7]}, ["ann@example.org", 7]),
        ({"type": "string", "enum": ["open", "closed"]}, ["open", "closed"]),
        ({"type": ["string", "null"], "format": "email"}, ["ann@example.org", None]),
        ({"type": "string", "format": "date-time"}, ["2026-11-22T14:12:25Z"]),
        ({"type": "integer", "minimum": 0}, [4_111_111_111_111_111, 12]),
        ({"type": "number"}, [442079460958, 0.5]),
        ({"type": "integer", "maximum": 999}, [42]),
        ({"oneOf": [{"const": "ann@example.org"}, {"const": "x@example.org"}]}, ["x@example.org"]),
        ({"not": {"pattern": r"withheld|⟦"}, "type": "string"}, ["ann@example.org"]),
        (
            {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 20}]},
            [4_111_111_111_111_111, "ann@example.org"],
        ),
        ({"if": {"type": "string"}, "then": {"pattern": "@example"}}, ["ann@example.org", 3]),
    ]
    return st.sampled_from(shapes).map(lambda shape: (shape[0], st.sampled_from(shape[1])))


@st.composite
def answers(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A closed object schema, and a value that fits it."""
    names = draw(
        st.lists(st.sampled_from(["a", "phone", "card_last4", "note", "to"]), unique=True, max_size=4)
    )
    properties: dict[str, Any] = {}
    value: dict[str, Any] = {}
    for name in names:
        schema, values = draw(text_schemas())
        properties[name], value[name] = schema, draw(values)
    schema, values = draw(text_schemas())
    properties["inner"] = {"$ref": "#/$defs/Inner"}
    inner: dict[str, Any] = {"deep": draw(values)}
    value["inner"] = inner
    listed, items = draw(text_schemas())
    properties["list"] = {"type": "array", "items": listed, "uniqueItems": True, "maxItems": 3}
    value["list"] = draw(st.lists(items, max_size=2, unique_by=str))
    properties["map"] = {
        "type": "object",
        "patternProperties": {r"@example\.org$": {"type": "integer"}},
        "additionalProperties": False,
        "propertyNames": {"format": "email"},
    }
    value["map"] = draw(st.dictionaries(st.sampled_from(["ann@example.org", "x@example.org"]), st.just(4)))
    whole = {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
        "$defs": {"Inner": {"type": "object", "properties": {"deep": schema}, "additionalProperties": False}},
    }
    return whole, value


@settings(deadline=None)
@given(answers(), st.booleans(), st.sampled_from([[], RULES]))
def test_whatever_is_released_fits_the_advertised_schema(
    answer: tuple[dict[str, Any], dict[str, Any]], tokens: bool, rules: list[FieldRule]
) -> None:
    schema, value = answer
    assert fits(value, schema)
    book = TokenBook(b"k" * 32, "task") if tokens else None
    released = Release([SECRET], PATTERNS, rules).release(cast("Json", value), Audience.MODEL, book)
    assert fits(released.value, redacted(schema, PATTERNS, rules)), (released.value, schema)


@pytest.mark.parametrize("value", PERSONAL)
def test_without_the_change_those_answers_would_not_fit(value: str) -> None:
    schema = {"type": "object", "properties": {"a": {"const": value}}}
    shown = Release([SECRET], PATTERNS).release({"a": value}, Audience.MODEL).value
    assert not fits(shown, schema)
    assert fits(shown, redacted(schema, PATTERNS, ()))


def test_what_no_pattern_can_touch_keeps_its_schema() -> None:
    schema = {
        "type": "object",
        "properties": {
            "status": {"type": "string", "enum": ["open", "waiting", "closed"]},
            "updated_at": {"type": "string", "format": "date-time", "description": "When it changed"},
            "pages": {"type": "integer", "maximum": 500},
            "done": {"type": "boolean"},
        },
        "required": ["status"],
        "additionalProperties": False,
    }
    assert redacted(schema, PATTERNS, ()) == schema


def test_a_field_under_a_rule_keeps_its_words_alone() -> None:
    schema = {
        "type": "object",
        "properties": {
            "account": {"type": "object", "description": "Theirs", "properties": {"iban": {"type": "string"}}}
        },
    }
    shown = redacted(schema, (), [FieldRule("account")])
    assert shown == {"type": "object", "properties": {"account": {"description": "Theirs"}}}


def test_an_argument_that_takes_tokens_says_so_and_lets_one_through() -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {
            "to": {"type": "string", "format": "email", "maxLength": 20, "description": "The address"},
            "cc": {"type": "array", "items": {"type": "string", "format": "email"}},
            "card": {"type": "integer", "minimum": 1},
            "message": {"$ref": "#/$defs/Message"},
            "kind": {"$ref": "#/$defs/Kind"},
            "other": {"type": "string", "format": "email"},
        },
        "additionalProperties": False,
        "$defs": {
            "Message": {
                "type": "object",
                "properties": {"body": {"anyOf": [{"type": "string", "maxLength": 9}, {"type": "null"}]}},
            },
            "Kind": {"enum": ["a", "b"]},
        },
    }
    token = TokenBook(b"k" * 32, "task").token("email", "ann@example.org")
    taken = taking_tokens(schema, ["to", "cc", "card", "message.body", "kind"])
    arguments = {
        "to": token,
        "cc": [token],
        "card": token,
        "message": {"body": f"Dear {token}"},
        "kind": token,
    }
    assert not fits(arguments, schema)
    assert fits(arguments, taken)
    assert "The address" in taken["properties"]["to"]["description"]
    assert "token" in taken["properties"]["to"]["description"]
    assert taken["properties"]["other"] == schema["properties"]["other"]
    assert not fits({"other": token}, taken)
    assert not fits({"kind": "c"}, taken)


def test_a_choice_stays_closed_unless_a_pattern_takes_it_under_some_name_of_the_schema() -> None:
    def state(name: str) -> Any:
        schema = {
            "type": "object",
            "properties": {name: {"$ref": "#/$defs/State"}},
            "$defs": {"State": {"enum": ["expired9", "renewed9"]}},
        }
        shown = Release((), PATTERNS).release({name: "expired9"}, Audience.MODEL)
        relaxed = redacted(schema, PATTERNS, ())
        assert fits(shown.value, relaxed)
        return shown.withheld, relaxed == schema

    assert state("status") == (0, True)
    assert state("password") == (1, False)
