"""Reading back after a call: matched, differs, or unknown, and never matched by accident."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.vocabulary import Verification
from comptroller_tools.declarations import VerifyRule
from comptroller_tools.errors import RecordPathError
from comptroller_tools.verification import compare, compile_expectations

NUMBER = {"type": "number"}
SCHEMAS: dict[str, Any] = {
    "input": {"type": "object", "properties": {"amount_usd": NUMBER}, "additionalProperties": False},
    "output": {
        "type": "object",
        "properties": {"refund_id": {"type": "string"}},
        "additionalProperties": False,
    },
    "facts.invoice": {
        "type": "object",
        "properties": {"refunded_usd": NUMBER, "status": {"type": "string"}, "last": {"type": "string"}},
        "additionalProperties": False,
    },
}
REFUNDED = VerifyRule(
    fact="invoice", expect={"refunded_usd": "facts.invoice.refunded_usd + input.amount_usd"}
)


def verify(rule: VerifyRule, before: Any, amount: Any, after: Any, output: Any = None) -> Any:
    expectations = compile_expectations([rule], SCHEMAS, "tools.x")
    scope = {"input": {"amount_usd": amount}, "facts": {"invoice": before}, "output": output}
    return compare(expectations, scope, after)


def test_after_equal_to_before_and_amount_is_matched() -> None:
    result = verify(REFUNDED, {"refunded_usd": 0.1}, 0.2, {"invoice": {"refunded_usd": 0.3}})
    assert result.result is Verification.MATCHED
    [check] = result.checks
    assert (check.expected, check.found, check.equal) == (0.3, 0.3, True)


def test_one_cent_less_differs() -> None:
    result = verify(REFUNDED, {"refunded_usd": 5}, 12.35, {"invoice": {"refunded_usd": 17.34}})
    assert result.result is Verification.DIFFERS
    assert result.checks[0].expected == 17.35


@given(st.integers(0, 10**8), st.integers(1, 10**8), st.integers(-(10**8), 10**8))
def test_cents_are_compared_exactly(before: int, amount: int, after: int) -> None:
    def usd(cents: int) -> float:
        return float(Decimal(cents) / 100)

    result = verify(
        REFUNDED, {"refunded_usd": usd(before)}, usd(amount), {"invoice": {"refunded_usd": usd(after)}}
    )
    expected = Verification.MATCHED if before + amount == after else Verification.DIFFERS
    assert result.result is expected
    exact = verify(
        REFUNDED,
        {"refunded_usd": usd(before)},
        usd(amount),
        {"invoice": {"refunded_usd": usd(before + amount)}},
    )
    assert exact.result is Verification.MATCHED


@pytest.mark.parametrize("after", [{}, {"invoice": None}, {"invoice": {}}, {"invoice": {"status": "paid"}}])
def test_a_read_back_that_failed_or_lacks_the_path_is_unknown(after: Any) -> None:
    result = verify(REFUNDED, {"refunded_usd": 5}, 1, after)
    assert result.result is Verification.UNKNOWN
    assert result.checks[0].equal is None
    assert result.checks[0].problem


def test_an_expected_value_that_cannot_be_computed_is_unknown() -> None:
    result = verify(REFUNDED, {}, 1, {"invoice": {"refunded_usd": 1}})
    assert result.result is Verification.UNKNOWN


def test_a_number_is_never_equal_to_its_text_or_to_a_boolean() -> None:
    for found in ("1", True, None, [1]):
        assert verify(REFUNDED, {"refunded_usd": 0}, 1, {"invoice": {"refunded_usd": found}}).result is (
            Verification.DIFFERS
        )


def test_one_difference_outweighs_what_is_unknown() -> None:
    rule = VerifyRule(fact="invoice", expect={"status": "'refunded'", "last": "output.refund_id"})
    result = verify(rule, {}, 1, {"invoice": {"status": "open"}}, {"refund_id": "r1"})
    assert [check.equal for check in result.checks] == [False, None]
    assert result.result is Verification.DIFFERS
    good = verify(rule, {}, 1, {"invoice": {"status": "refunded", "last": "r1"}}, {"refund_id": "r1"})
    assert good.result is Verification.MATCHED


def test_without_expectations_nothing_is_claimed() -> None:
    assert compare((), {}, {}).result is Verification.NOT_DECLARED


def test_every_fault_is_told_at_load_with_its_field() -> None:
    rules = [
        VerifyRule(fact="nothing", expect={"a": "1"}),
        VerifyRule(fact="invoice", expect={}),
        VerifyRule(
            fact="invoice", expect={"refundd": "1", "refunded_usd": "input.amount + 1", "status": "1 +"}
        ),
    ]
    with pytest.raises(RecordPathError) as caught:
        compile_expectations(rules, SCHEMAS, "tools.x")
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        "tools.x.verify[0].fact",
        "tools.x.verify[1].expect",
        "tools.x.verify[2].expect.refundd",
        "tools.x.verify[2].expect.refunded_usd",
        "tools.x.verify[2].expect.status",
    ]
