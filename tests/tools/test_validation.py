"""Values against JSON Schema: what is refused, in whose words, and what we add to the schemas we advertise."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.vocabulary import Effect
from comptroller_tools.errors import SchemaInvalid
from comptroller_tools.source import ToolDefinition
from comptroller_tools.validation import (
    DEPTH_MAX,
    PROBLEMS_MAX,
    check_why,
    compile_schema,
    for_clients,
    screen,
    split_why,
    with_refs,
    with_why,
)

REFUND: dict[str, Any] = {
    "type": "object",
    "properties": {
        "invoice_id": {"type": "string", "pattern": "^inv_"},
        "amount_usd": {"type": "number", "exclusiveMinimum": 0, "maximum": 50, "multipleOf": 0.01},
        "reason_code": {"enum": ["duplicate", "goodwill"]},
        "note": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]},
        "lines": {"type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/Line"}},
    },
    "required": ["invoice_id", "amount_usd"],
    "additionalProperties": False,
    "$defs": {
        "Line": {
            "type": "object",
            "properties": {"amount": {"type": "integer"}},
            "additionalProperties": False,
        }
    },
}
GOOD: dict[str, Any] = {"invoice_id": "inv_1", "amount_usd": 0.07}


def told(value: Any, schema: dict[str, Any] = REFUND) -> list[str]:
    return [str(problem) for problem in compile_schema(schema).check(value)]


def test_a_value_that_fits_has_no_problem() -> None:
    assert told({**GOOD, "note": None, "lines": [{"amount": 1}], "reason_code": "goodwill"}) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"amount_usd": 0}, "`amount_usd` must be more than 0"),
        ({"amount_usd": 51}, "`amount_usd` must be at most 50"),
        ({"amount_usd": 0.001}, "`amount_usd` must be a multiple of 0.01"),
        ({"amount_usd": "5"}, "`amount_usd` must be `number`"),
        ({"amount_usd": True}, "`amount_usd` must be `number`"),
        ({"invoice_id": "x"}, "`invoice_id` must match the pattern `^inv_`"),
        ({"reason_code": "x"}, "`reason_code` must be one of `duplicate`, `goodwill`"),
        ({"note": "long"}, "`note` must have at most 3 characters"),
        ({"note": 3}, "`note` fits none of the forms it may have"),
        ({"lines": [{"amount": 1}] * 3}, "`lines` must have at most 2 items"),
        ({"lines": [{"amount": 1}, {"amount": "x"}]}, "`lines[1].amount` must be `integer`"),
    ],
)
def test_each_problem_is_one_sentence_with_its_place(change: dict[str, Any], expected: str) -> None:
    assert told({**GOOD, **change}) == [expected]


def test_what_is_missing_is_named() -> None:
    assert told({"amount_usd": 1}) == ["`invoice_id` is required and missing; add it"]


def test_an_unknown_argument_is_named_with_the_nearest_valid_one() -> None:
    assert told({**GOOD, "amount": 1}) == ["has the unknown property `amount`; did you mean `amount_usd`?"]
    assert told({**GOOD, "lines": [{"amuont": 1}]}) == [
        "`lines[0]` has the unknown property `amuont`; did you mean `amount`?"
    ]
    assert "known are `amount_usd`, `invoice_id`" in told({**GOOD, "zzz": 1})[0]


def test_a_hundred_problems_are_told_as_ten() -> None:
    schema = {"type": "object", "additionalProperties": {"type": "integer"}}
    assert len(told({f"k{n}": "x" for n in range(100)}, schema)) == PROBLEMS_MAX
    closed = {"type": "object", "additionalProperties": False}
    assert len(told({f"k{n}": "x" for n in range(100)}, closed)) == PROBLEMS_MAX


def test_a_closed_object_without_properties_still_names_what_is_unknown() -> None:
    closed = {"properties": {"x": {"type": "object", "additionalProperties": False}}}
    assert told({"x": {"a": 1}}, closed) == ["`x` has the unknown property `a`; remove it"]


SECRET = "sk-live-0123456789abcdef"


@given(
    st.dictionaries(
        st.sampled_from([*REFUND["properties"], "other"]),
        st.sampled_from([SECRET, [SECRET], {"amount": SECRET}, [{"amount": SECRET}], {SECRET[:4]: SECRET}]),
    )
)
def test_no_sentence_repeats_a_value(value: dict[str, Any]) -> None:
    assert not any(SECRET in sentence for sentence in told(value))


def test_a_name_from_outside_is_capped_and_made_printable() -> None:
    [sentence] = told({**GOOD, "x`\n\x1b[31m" + "y" * 500: 1})
    assert len(sentence) < 250
    assert "\n" not in sentence
    assert "\x1b" not in sentence
    assert sentence.count("`") % 2 == 0


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), [float("-inf")], {1: 2}, {1, 2}, b"x", object(), "\ud800", [{"a": {1j}}]],
)
def test_what_json_cannot_say_is_refused_even_by_an_empty_schema(value: Any) -> None:
    assert len(compile_schema({}).check(value)) == 1


def test_a_value_nested_too_deep_is_refused_before_the_engine_sees_it() -> None:
    value: Any = []
    for _ in range(200_000):
        value = [value]
    assert told(value, {}) == [f"is nested deeper than {DEPTH_MAX} levels; send a plain JSON value"]


def test_depth_is_refused_only_beyond_the_limit() -> None:
    value: Any = 1
    for _ in range(DEPTH_MAX):
        value = [value]
    assert told(value, {}) == []
    assert told([value], {}) != []


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"$ref": "https://example.com/schema.json"}, "outside itself"),
        ({"properties": {"a": {"items": [{"$ref": "file:///etc/passwd"}]}}}, "outside itself"),
        ({"$dynamicRef": "other.json#x"}, "outside itself"),
        ({"$ref": "#/$defs/absent"}, "not valid JSON Schema"),
        ({"type": "objekt"}, "not valid JSON Schema"),
        ({"pattern": "("}, "not valid JSON Schema"),
        ({"$schema": "https://example.com/mine"}, "not valid JSON Schema"),
    ],
)
def test_a_schema_that_cannot_be_trusted_does_not_load(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(SchemaInvalid, match=says):
        compile_schema(schema)


def test_a_reference_over_the_network_is_never_followed_even_through_an_id() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        base = f"http://127.0.0.1:{server.getsockname()[1]}/"
        with pytest.raises(SchemaInvalid):
            compile_schema({"$id": base, "$ref": "#/$defs/a", "$defs": {"a": {"$ref": base + "b"}}})
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_schema_nested_too_deep_does_not_load() -> None:
    schema: dict[str, Any] = {}
    for _ in range(100_000):
        schema = {"not": schema}
    with pytest.raises(SchemaInvalid, match="nested deeper"):
        compile_schema(schema)


def test_a_pattern_that_explodes_in_a_backtracking_engine_is_harmless() -> None:
    assert told("a" * 5_000 + "!", {"pattern": "^(a+)+$"}) == ["must match the pattern `^(a+)+$`"]


def test_why_is_advertised_and_the_sources_schema_stays_untouched() -> None:
    advertised = with_why(REFUND)
    assert "why" not in REFUND["properties"]
    assert advertised["required"] == ["invoice_id", "amount_usd", "why"]
    validator = compile_schema(advertised)
    assert validator.check({**GOOD, "why": {"reason": "charged twice", "citations": ["ab12"]}}) == []
    assert [str(p) for p in validator.check(GOOD)] == ["`why` is required and missing; add it"]
    assert compile_schema(with_why(REFUND, required=False)).check(GOOD) == []


@pytest.mark.parametrize(
    "why",
    [None, "because", {}, {"reason": ""}, {"reason": "   "}, {"reason": "x" * 501}, {"reason": "x", "a": 1}],
)
def test_a_why_that_says_nothing_is_refused(why: Any) -> None:
    assert all(problem.path.startswith("why") for problem in check_why(why))
    assert check_why(why)


@given(st.dictionaries(st.sampled_from(["a", "b", "why"]), st.integers()))
def test_splitting_off_why_loses_nothing(arguments: dict[str, int]) -> None:
    own, why = split_why(arguments)
    assert "why" not in own
    assert (own if why is None else {**own, "why": why}) == arguments


def test_refs_are_advertised_on_a_closed_output_and_are_optional() -> None:
    closed: dict[str, Any] = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "additionalProperties": False,
    }
    advertised = with_refs(closed)
    assert advertised is not None
    validator = compile_schema(advertised)
    assert validator.check({"a": 1}) == []
    assert validator.check({"a": 1, "refs": [{"ref": "k3v8m2qa", "kind": "invoice", "key": "inv_1"}]}) == []
    assert validator.check({"a": 1, "refs": ["k3v8m2qa"]}) != []
    assert "refs" not in closed["properties"]
    assert with_refs(None) is None


def definition(name: str = "pay", *arguments: str, results: tuple[str, ...] = ()) -> ToolDefinition:
    def schema(names: tuple[str, ...]) -> dict[str, Any]:
        return {"type": "object", "properties": {key: {} for key in names}}

    return ToolDefinition(name, "", schema(arguments), schema(results), "0" * 64)


def test_names_a_client_could_choke_on_are_screened() -> None:
    assert screen(definition("pay_2-x", "a", "b-c")) == []
    for name in ("", "a b", "pay.now", "größe", "x" * 65, "pay\n"):
        assert len(screen(definition(name))) == 1, name
        assert len(screen(definition("pay", name))) == 1, name


def test_the_names_that_are_ours_are_refused_only_where_we_use_them() -> None:
    assert screen(definition("pay", "why"), Effect.CREATE) != []
    assert screen(definition("pay", "why"), Effect.EXECUTE) != []
    assert screen(definition("pay", "why"), Effect.READ) == []
    assert screen(definition("pay", results=("refs",)), Effect.READ) != []
    assert screen(definition("pay", results=("refs",)), Effect.CREATE) == []


def test_the_seam_is_where_this_file_says(tmp_path: Path) -> None:
    """A file reference beside the schema is not read either."""
    (tmp_path / "part.json").write_text('{"type": "integer"}')
    with pytest.raises(SchemaInvalid):
        compile_schema({"$id": (tmp_path / "x.json").as_uri(), "$ref": "part.json"})


def test_clients_get_no_fractional_multiple_to_check_in_floating_point() -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {
            "usd": {"type": "number", "multipleOf": 0.01},
            "dozens": {"type": "array", "items": {"type": "integer", "multipleOf": 12}},
            "multipleOf": {"type": "string"},
        },
    }
    advertised = for_clients(schema)
    assert advertised is not None
    assert advertised["properties"]["usd"] == {"type": "number"}
    assert advertised["properties"]["dozens"]["items"] == {"type": "integer", "multipleOf": 12}
    assert "multipleOf" in advertised["properties"]
    assert schema["properties"]["usd"] == {"type": "number", "multipleOf": 0.01}
    assert for_clients(None) is None
