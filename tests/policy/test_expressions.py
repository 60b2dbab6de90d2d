"""Templates and exact arithmetic."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_policy.errors import ExpressionError
from comptroller_policy.expressions import (
    check_expression,
    check_path,
    check_template,
    compile_expression,
    micro,
    paths_in,
    render,
    same_value,
)

SCOPE: dict[str, Any] = {
    "input": {
        "invoice_id": "in_7",
        "amount_usd": 12.5,
        "lines": [{"sku": "a"}],
        "big": 50.0,
        "yes": True,
        "no": None,
    },
    "facts": {"invoice": {"paid_usd": 0.1, "refunded_usd": 0.2}},
    "call": {"id": "c1", "effect_key": "c1"},
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "input": {
        "type": "object",
        "properties": {
            "invoice_id": {"type": "string"},
            "amount_usd": {"type": "number"},
            "note": {"anyOf": [{"$ref": "#/$defs/Note"}, {"type": "null"}]},
            "lines": {"type": "array", "items": {"$ref": "#/$defs/Note"}},
            "loop": {"$ref": "#/$defs/Loop"},
            "free": {},
        },
        "$defs": {
            "Note": {
                "type": "object",
                "properties": {"text": {"type": "string"}, "size": {"type": "integer"}},
            },
            "Loop": {"$ref": "#/$defs/Loop"},
        },
    },
    "facts.invoice": {"type": "object", "properties": {"paid_usd": {"type": ["number", "null"]}}},
}

amounts = st.decimals(min_value=-(10**9), max_value=10**9, places=6, allow_nan=False, allow_infinity=False)


def test_a_string_that_is_one_reference_keeps_the_type_of_its_value() -> None:
    assert render("{input.amount_usd}", SCOPE) == 12.5
    assert render("{input.lines}", SCOPE) == [{"sku": "a"}]
    assert render("{input.no}", SCOPE) is None


def test_other_references_are_written_into_the_string() -> None:
    assert render("invoice:{input.invoice_id}", SCOPE) == "invoice:in_7"
    assert render("{input.amount_usd} of {input.big}, {input.yes}", SCOPE) == "12.5 of 50, true"
    assert render("{{literal}} {input.lines.0.sku}", SCOPE) == "{literal} a"


def test_lists_and_objects_are_rendered_in_depth_and_keys_are_left_alone() -> None:
    template: Any = {"{input.invoice_id}": ["{input.invoice_id}", 3, None]}
    assert render(template, SCOPE) == {"{input.invoice_id}": ["in_7", 3, None]}
    assert paths_in({"a": ["{input.x} {call.id}"], "b": "{input.x}"}) == ("input.x", "call.id")


@pytest.mark.parametrize(
    "template", ["{input.nope}", "x{input.no}", "x{input.lines}", "{input.lines.7}", "{input.}"]
)
def test_a_reference_without_a_value_is_an_error(template: str) -> None:
    with pytest.raises(ExpressionError):
        render(template, SCOPE)


@pytest.mark.parametrize("template", ["{", "a } b", "{secret.x}", "{input.__class__.}", "{}", "{input x}"])
def test_a_template_that_does_not_parse_is_an_error(template: str) -> None:
    with pytest.raises(ExpressionError):
        paths_in(template)


def test_arithmetic_is_exact_where_floats_are_not() -> None:
    expression = compile_expression("facts.invoice.paid_usd + facts.invoice.refunded_usd")
    assert expression.evaluate(SCOPE) == Decimal("0.3")
    assert expression.paths == ("facts.invoice.paid_usd", "facts.invoice.refunded_usd")
    assert compile_expression("-(input.amount_usd * 2 - 1.00000000000000000001)").evaluate(SCOPE) == Decimal(
        "-23.99999999999999999999"
    )


@given(amounts, amounts, amounts)
def test_expressions_agree_with_rational_arithmetic(a: Decimal, b: Decimal, c: Decimal) -> None:
    result = compile_expression("input.a - input.b * (input.c + 2)").evaluate(
        {"input": {"a": a, "b": b, "c": c}}
    )
    assert Fraction(result) == Fraction(a) - Fraction(b) * (Fraction(c) + 2)


@pytest.mark.parametrize(
    "text",
    [
        "", "input", "input.a / 2", "input.a ** 2", "input.a[0]", "f(input.a)", "1e3", "0x10", "1_000", "True",
        "input.a if 1 else 2", "input.a, 2", "'a' + 'b'", "other.a", "input.a < 3", "lambda: 1", "(" * 400,
        "input.a +", "x" * 2000, "+input.a", "__import__('os').x",
    ],
)  # fmt: skip
def test_anything_but_paths_numbers_and_plus_minus_times_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        compile_expression(text)


@pytest.mark.parametrize("value", [True, "12", None, [1], float("nan"), float("inf")])
def test_what_is_not_a_finite_number_cannot_be_computed_with(value: Any) -> None:
    with pytest.raises(ExpressionError):
        compile_expression("input.a + 1").evaluate({"input": {"a": value}})


def test_a_result_with_too_many_digits_is_an_error_and_not_rounded() -> None:
    with pytest.raises(ExpressionError, match="no exact value"):
        compile_expression("input.a + input.b").evaluate({"input": {"a": 1e300, "b": 1e-300}})


def test_the_right_side_of_expect_may_be_any_value() -> None:
    assert compile_expression("input.invoice_id").evaluate_value(SCOPE) == "in_7"
    assert compile_expression("'open'").evaluate_value(SCOPE) == "open"
    assert compile_expression("true").evaluate_value(SCOPE) is True
    assert compile_expression("null").evaluate_value(SCOPE) is None
    assert compile_expression("input.amount_usd + 1").evaluate_value(SCOPE) == Decimal("13.5")


def test_values_are_compared_as_exact_numbers_and_booleans_are_not_numbers() -> None:
    assert same_value(50, 50.0)
    assert same_value(0.3, Decimal("0.3"))
    assert same_value({"a": [1, None]}, {"a": [1.0, None]})
    assert not same_value(0.1 + 0.2, Decimal("0.3"))
    assert not same_value(True, 1)
    assert not same_value("1", 1)
    assert not same_value([1], [1, 2])
    assert not same_value(float("nan"), float("nan"))
    assert not same_value({"a": 1}, {"b": 1})


def test_amounts_in_millionths_are_exact_or_refused() -> None:
    assert micro(Decimal("1.5")) == 1_500_000
    assert micro(Decimal("-0.000001")) == -1
    for value in ("0.0000001", "NaN", "Infinity", "1E+20"):
        with pytest.raises(ExpressionError):
            micro(Decimal(value))


@given(amounts)
def test_millionths_read_back_as_the_same_amount(amount: Decimal) -> None:
    assert Fraction(micro(amount), 1_000_000) == Fraction(amount)


@pytest.mark.parametrize(
    "path",
    [
        "input.invoice_id",
        "input.note.text",
        "input.lines.0.size",
        "input.free.any.thing",
        "facts.invoice.paid_usd",
    ],
)
def test_a_path_that_the_schema_declares_has_no_fault(path: str) -> None:
    assert check_path(path, SCHEMAS) is None


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("input.amount", "amount_usd"),
        ("input.note.size.x", "no fields"),
        ("input.loop.x", "does not exist"),
        ("facts.invoce.paid_usd", "facts.invoice"),
        ("output.x", "not available"),
    ],
)
def test_a_path_that_no_schema_declares_is_named_with_what_there_is(path: str, said: str) -> None:
    assert said in (check_path(path, SCHEMAS) or "")


def test_an_operand_that_cannot_be_a_number_is_a_fault() -> None:
    assert check_expression("facts.invoice.paid_usd - input.amount_usd", SCHEMAS) == ()
    assert check_expression("input.invoice_id + 1", SCHEMAS, number=False) == (
        "`input.invoice_id` is not a number.",
    )
    assert check_expression("input.invoice_id", SCHEMAS, number=False) == ()
    assert len(check_expression("input.invoice_id", SCHEMAS)) == 1
    assert len(check_expression("'open'", SCHEMAS)) == 1
    assert len(check_expression("input.a +", SCHEMAS)) == 1


def test_every_fault_of_a_template_is_told() -> None:
    assert check_template({"id": "{input.invoice_id}"}, SCHEMAS) == ()
    assert len(check_template({"a": "{input.x}", "b": "{input.y}"}, SCHEMAS)) == 2
    assert len(check_template("{", SCHEMAS)) == 1
