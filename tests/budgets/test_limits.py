"""Limits as declared, and which counters one call touches."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from comptroller_audit.vocabulary import MICRO
from comptroller_budgets.limits import (
    BudgetsConfig,
    Limit,
    Scope,
    Window,
    charges_for,
    window_end_ms,
    window_start,
)
from tests.audit.storekit import NOON

SCOPED = {
    Scope.TASK: "t1", Scope.PRINCIPAL: "p1", Scope.ACTOR: "a1", Scope.TOOL: "issue_refund", Scope.TENANT: "local",
}  # fmt: skip


def config(**fields: Any) -> BudgetsConfig:
    return BudgetsConfig.model_validate(fields)


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def test_the_sample_config_becomes_limits_in_millionths() -> None:
    limits = config(
        max_steps=8, max_tool_calls=10, timeout_seconds=60,
        windows=[
            {"scope": "principal", "window": "day", "unit": "refunded_usd", "max": 500},
            {"scope": "tool", "name": "issue_refund", "window": "hour", "unit": "calls", "max": "30"},
        ],
    ).limits()  # fmt: skip
    assert limits == (
        Limit("max_tool_calls", Scope.TASK, None, "calls", Window.TASK, 10 * MICRO),
        Limit(
            "refunded_usd per principal per day",
            Scope.PRINCIPAL,
            None,
            "refunded_usd",
            Window.DAY,
            500 * MICRO,
        ),
        Limit(
            "calls per issue_refund per hour", Scope.TOOL, "issue_refund", "calls", Window.HOUR, 30 * MICRO
        ),
        Limit(
            "calls per principal per day (default)",
            Scope.PRINCIPAL,
            None,
            "calls",
            Window.DAY,
            1_000 * MICRO,
            is_default=True,
        ),
    )


@pytest.mark.parametrize("scope", ["principal", "actor", "tool", "tenant"])
def test_a_unit_with_a_window_of_its_own_gets_no_other(scope: str) -> None:
    wider = {"scope": scope, "window": "month", "unit": "tokens", "max": 5}
    limits = config(max_tokens_total=10, max_model_cost_usd="0.5", windows=[wider]).limits()
    assert [limit.id for limit in limits] == [
        "max_tokens_total",
        "max_model_cost_usd",
        f"tokens per {scope} per month",
        "model_cost_usd per principal per day (default)",
    ]
    assert limits[-1].max_micro == 50 * MICRO


@pytest.mark.parametrize(
    "window",
    [
        {"scope": "task", "window": "day", "unit": "x", "max": 1},
        {"scope": "principal", "window": "task", "unit": "x", "max": 1},
        {"scope": "principal", "window": "day", "unit": "x:y", "max": 1},
        {"scope": "principal", "window": "day", "unit": "x", "max": -1},
        {"scope": "principal", "window": "day", "unit": "x", "max": "0.0000001"},
        {"scope": "principal", "window": "day", "unit": "x", "max": "1e12"},
        {"scope": "principal", "window": "day", "unit": "x", "max": "NaN"},
        {"scope": "principal", "window": "day", "unit": "x", "max": 1, "more": 2},
    ],
)
def test_a_window_that_means_nothing_is_refused(window: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(windows=[window])


@given(st.decimals(0, 999_999_999, places=6))
def test_a_limit_is_exact_and_fits_the_database(most: Decimal) -> None:
    [limit] = config(windows=[{"scope": "tenant", "window": "day", "unit": "x", "max": most}]).limits()
    assert Decimal(limit.max_micro) / MICRO == most
    assert limit.max_micro < 2**62


@pytest.mark.parametrize(
    ("window", "now", "label", "end"),
    [
        (Window.HOUR, "2026-11-22T23:59:59.999", "2026-11-22T23", "2026-11-23T00:00:00"),
        (Window.HOUR, "2026-11-23T00:00:00", "2026-11-23T00", "2026-11-23T01:00:00"),
        (Window.DAY, "2026-11-22T23:59:59.999", "2026-11-22", "2026-11-23T00:00:00"),
        (Window.MONTH, "2026-12-31T23:00:00", "2026-12", "2027-01-01T00:00:00"),
        (Window.MONTH, "2028-02-29T12:00:00", "2028-02", "2028-03-01T00:00:00"),
        (Window.MONTH, "2026-01-31T12:00:00", "2026-01", "2026-02-01T00:00:00"),
    ],
)
def test_windows_begin_and_end_in_utc(window: Window, now: str, label: str, end: str) -> None:
    assert window_start(window, at(now)) == label
    assert window_end_ms(window, at(now)) == at(end)


@given(st.integers(0, 4_000_000_000_000), st.sampled_from([Window.HOUR, Window.DAY, Window.MONTH]))
def test_a_window_lasts_until_its_end_and_not_beyond(now_ms: int, window: Window) -> None:
    end = window_end_ms(window, now_ms)
    assert end is not None
    assert end > now_ms
    assert window_start(window, end - 1) == window_start(window, now_ms)
    assert window_start(window, end) != window_start(window, now_ms)


def test_the_task_window_has_no_end() -> None:
    assert window_end_ms(Window.TASK, NOON) is None
    assert window_start(Window.TASK, NOON) == "task"


LIMITS = (
    Limit("task calls", Scope.TASK, None, "calls", Window.TASK, 10 * MICRO),
    Limit("money", Scope.PRINCIPAL, None, "refunded_usd", Window.DAY, 500 * MICRO),
    Limit("this tool", Scope.TOOL, "issue_refund", "calls", Window.HOUR, 30 * MICRO),
    Limit("other tool", Scope.TOOL, "send_mail", "calls", Window.HOUR, 30 * MICRO),
)


def test_a_call_touches_the_limits_whose_scope_and_unit_it_has() -> None:
    charges = charges_for(LIMITS, {"calls": MICRO, "refunded_usd": 20 * MICRO}, SCOPED, NOON)
    assert [(charge.limit.id, charge.counter, charge.amount_micro) for charge in charges] == [
        ("task calls", "task:t1:calls:task", MICRO),
        ("money", "principal:p1:refunded_usd:2026-11-18", 20 * MICRO),
        ("this tool", "tool:issue_refund:calls:2026-11-18T12", MICRO),
    ]
    assert [charge.resets_ms for charge in charges] == [
        None,
        at("2026-11-19T00:00:00"),
        at("2026-11-18T13:00:00"),
    ]


def test_a_unit_the_call_does_not_spend_is_not_charged() -> None:
    assert [charge.limit.id for charge in charges_for(LIMITS, {"calls": MICRO}, SCOPED, NOON)] == [
        "task calls", "this tool",
    ]  # fmt: skip


def test_an_amount_below_zero_is_charged_and_so_refused_by_the_ledger() -> None:
    [charge] = charges_for(LIMITS, {"refunded_usd": -MICRO}, SCOPED, NOON)
    assert charge.amount_micro == -MICRO
