"""Prices: exact sums, rounded up once, and the dearest model for tokens nobody named."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from comptroller_budgets.prices import NO_TOKENS, ModelPrice, PriceSheet, Tokens


def price(read: str, written: str) -> ModelPrice:
    return ModelPrice(input_usd_per_mtok=Decimal(read), output_usd_per_mtok=Decimal(written))


SHEET = PriceSheet(
    {"planner": "small", "writer": "big"},
    {"small": price("0.40", "1.60"), "big": price("2", "8"), "huge": price("15", "75")},
)
TOKENS = st.builds(Tokens, st.integers(0, 2**53), st.integers(0, 2**53))


def test_a_million_tokens_cost_what_the_price_says() -> None:
    assert SHEET.cost_micro({"small": Tokens(1_000_000, 0)}, NO_TOKENS) == 400_000
    assert SHEET.cost_micro({"planner": Tokens(0, 1_000_000)}, NO_TOKENS) == 1_600_000


def test_a_sum_is_rounded_up_once_and_not_for_each_part() -> None:
    assert SHEET.cost_micro({"small": Tokens(1, 0)}, NO_TOKENS) == 1
    assert SHEET.cost_micro({"small": Tokens(1, 1)}, NO_TOKENS) == 2
    assert SHEET.cost_micro({"small": Tokens(1, 1), "planner": Tokens(1, 1)}, NO_TOKENS) == 4


def test_a_role_means_its_model_and_an_unpriced_name_means_none() -> None:
    assert [SHEET.model_of(name) for name in ("planner", "big", "huge", "other")] == [
        "small",
        "big",
        "huge",
        None,
    ]
    assert PriceSheet({"planner": "gone"}, {}).model_of("planner") is None


def test_unnamed_tokens_cost_the_dearest_model_in_use() -> None:
    assert SHEET.cost_micro({}, Tokens(10, 10)) == 100
    assert PriceSheet({}, SHEET.prices).cost_micro({}, Tokens(10, 10)) == 900
    assert PriceSheet().cost_micro({}, Tokens(10, 10)) == 0


def test_a_report_under_a_name_that_is_gone_costs_the_dearest_model() -> None:
    assert SHEET.cost_micro({"retired": Tokens(10, 10)}, NO_TOKENS) == 100


@given(TOKENS, TOKENS)
def test_more_tokens_never_cost_less(some: Tokens, more: Tokens) -> None:
    assert (
        SHEET.cost_micro({"big": some + more}, NO_TOKENS) >= SHEET.cost_micro({"big": some}, NO_TOKENS) >= 0
    )


@pytest.mark.parametrize("wrong", ["-0.01", "0.0000001", "NaN", "Infinity"])
def test_a_price_is_a_finite_amount_of_at_least_nothing(wrong: str) -> None:
    with pytest.raises(ValidationError):
        price(wrong, "1")
