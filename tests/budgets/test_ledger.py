"""The ledger: nothing held is ever overspent, and a hold is closed once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from comptroller_audit.unit import Committed, Stopped
from comptroller_audit.vocabulary import MICRO, Code, Refusal
from comptroller_budgets.errors import HoldTaken
from comptroller_budgets.ledger import (
    COUNTERS,
    HOLDS,
    HoldState,
    Release,
    Settle,
    Spend,
    TakeHold,
    amount_text,
    holds_in_packet,
)
from comptroller_budgets.limits import Charge, Limit, Scope, Window
from tests.audit.storekit import NOON, Bench, Do, bench, check_log, commit, open_store, rows_of


def charge(
    amount: int, most: int = 10 * MICRO, counter: str = "n", resets_ms: int | None = None, name: str = "calls"
) -> Charge:
    return Charge(Limit(name, Scope.TASK, None, "calls", Window.TASK, most), counter, amount, resets_ms)


def refused(stop: object) -> Refusal:
    assert isinstance(stop, Refusal)
    return stop


def counter(table: Bench, name: str = "n") -> tuple[int, int]:
    row = table.rows.get((COUNTERS, name), {"used": 0, "held": 0})
    return row["used"], row["held"]


def test_a_hold_is_settled_into_spending() -> None:
    table = bench()
    assert table.run(TakeHold("c", (charge(3),))) is None
    assert counter(table) == (0, 3)
    assert table.run(Settle("c")) is None
    assert counter(table) == (3, 0)
    assert table.row(HOLDS, "c")["state"] == HoldState.SETTLED


def test_a_hold_is_released_as_if_it_had_never_been() -> None:
    table = bench()
    table.run(TakeHold("c", (charge(3), charge(5, counter="m"))))
    table.run(Release("c"))
    assert counter(table) == (0, 0)
    assert counter(table, "m") == (0, 0)


def test_what_fits_exactly_is_taken_and_one_millionth_more_is_not() -> None:
    table = bench()
    assert table.run(TakeHold("c", (charge(10 * MICRO),))) is None
    assert refused(table.run(TakeHold("d", (charge(1),)))).code is Code.BUDGET_EXHAUSTED
    assert refused(bench().run(Spend("c", (charge(10 * MICRO + 1),)))).code is Code.BUDGET_EXHAUSTED


def test_used_and_held_count_together() -> None:
    table = bench()
    table.run(Spend("r", (charge(4 * MICRO),)))
    table.run(TakeHold("c", (charge(4 * MICRO),)))
    refusal = refused(table.run(TakeHold("d", (charge(3 * MICRO),))))
    assert refusal.details == {
        "budget": "calls", "scope": "task", "unit": "calls", "left_micro": 2 * MICRO, "needed_micro": 3 * MICRO,
    }  # fmt: skip
    assert "2 of 10 left" in refusal.text
    assert refusal.call == "d"


def test_a_refused_hold_touches_none_of_its_counters() -> None:
    table = bench()
    assert refused(table.run(TakeHold("c", (charge(1, counter="a"), charge(99 * MICRO, counter="b")))))
    assert table.rows == {}


@pytest.mark.parametrize("close", [Settle("c"), Release("c")])
@pytest.mark.parametrize("again", [Settle("c"), Release("c"), Settle("c", {"n": 0})])
def test_a_hold_is_closed_once(close: Settle | Release, again: Settle | Release) -> None:
    table = bench()
    table.run(TakeHold("c", (charge(3),)))
    table.run(close)
    before = dict(table.rows)
    assert table.run(again) is None
    assert table.rows == before


def test_closing_a_hold_nobody_took_changes_nothing() -> None:
    table = bench()
    assert table.run(Settle("c"), Release("d")) is None
    assert table.rows == {}


def test_a_call_takes_its_hold_once() -> None:
    table = bench()
    table.run(TakeHold("c", (charge(3),)))
    with pytest.raises(HoldTaken):
        table.run(TakeHold("c", (charge(3),)))
    table.run(Release("c"))
    with pytest.raises(HoldTaken):
        table.run(TakeHold("c", (charge(3),)))
    assert counter(table) == (0, 0)


@pytest.mark.parametrize(("actual", "spent"), [(0, 0), (2, 2), (3, 3), (4, 3), (-5, 0)])
def test_what_was_spent_may_be_lower_than_the_hold_and_never_higher(actual: int, spent: int) -> None:
    table = bench()
    table.run(TakeHold("c", (charge(3),)))
    table.run(Settle("c", {"n": actual, "other": 99}))
    assert counter(table) == (spent, 0)


def test_two_limits_on_one_counter_count_a_call_once_and_both_hold() -> None:
    table = bench()
    charges = (charge(3, most=10, name="wide"), charge(3, most=5, name="narrow"))
    assert table.run(TakeHold("c", charges)) is None
    assert counter(table) == (0, 3)
    assert refused(table.run(TakeHold("d", charges))).details["budget"] == "narrow"
    table.run(Settle("c"))
    assert counter(table) == (3, 0)
    assert refused(table.run(Spend("r", charges))).details["budget"] == "narrow"


@pytest.mark.parametrize("part", [TakeHold("c", (charge(-1),)), Spend("c", (charge(-1),))])
def test_nothing_counts_below_zero(part: TakeHold | Spend) -> None:
    table = bench()
    refusal = refused(table.run(part))
    assert (refusal.code, refusal.retry) == (Code.INVALID_ARGUMENTS, "other_arguments")
    assert table.rows == {}


@pytest.mark.parametrize(
    ("resets_ms", "retry", "words"),
    [
        (None, "person", "does not reset within this task"),
        (NOON + 60_000, "after:60", "resets in 60 seconds"),
        (NOON + 60_001, "after:61", "resets in 61 seconds"),
        (NOON - 1, "after:1", "resets in 1 seconds"),
    ],
)
def test_a_refusal_says_which_budget_and_when_it_resets(
    resets_ms: int | None, retry: str, words: str
) -> None:
    refusal = refused(bench().run(TakeHold("c", (charge(11 * MICRO, resets_ms=resets_ms),))))
    assert "`calls`" in refusal.text
    assert words in refusal.text
    assert refusal.retry == retry


@pytest.mark.parametrize(
    ("micro", "text"), [(0, "0"), (1, "0.000001"), (1_500_000, "1.5"), (20 * MICRO, "20"), (-500_000, "-0.5")]
)
def test_amounts_are_written_exactly(micro: int, text: str) -> None:
    assert amount_text(micro) == text


def test_the_action_packet_says_what_is_held() -> None:
    assert holds_in_packet([charge(3)]) == [
        {"limit": "calls", "counter": "n", "unit": "calls", "amount_micro": 3}
    ]


class Ledger(RuleBasedStateMachine):
    """Random holds, settlements, releases and spending against a plain account of the same."""

    LIMITS: ClassVar[dict[str, int]] = {"a": 20, "b": 7}

    def __init__(self) -> None:
        super().__init__()
        self.table = bench()
        self.open: dict[str, dict[str, int]] = {}
        self.closed: list[str] = []
        self.used = {"a": 0, "b": 0}
        self.calls = 0

    def fits(self, amounts: dict[str, int]) -> bool:
        held = {name: sum(items.get(name, 0) for items in self.open.values()) for name in self.LIMITS}
        return all(
            self.used[name] + held[name] + amount <= self.LIMITS[name] for name, amount in amounts.items()
        )

    def charges(self, amounts: dict[str, int]) -> tuple[Charge, ...]:
        return tuple(charge(amount, self.LIMITS[name], name) for name, amount in amounts.items())

    amounts = st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 9), min_size=1)

    @rule(amounts=amounts)
    def hold(self, amounts: dict[str, int]) -> None:
        self.calls += 1
        call, fits = f"c{self.calls}", self.fits(amounts)
        assert (self.table.run(TakeHold(call, self.charges(amounts))) is None) == fits
        if fits:
            self.open[call] = amounts

    @rule(amounts=amounts)
    def spend(self, amounts: dict[str, int]) -> None:
        fits = self.fits(amounts)
        assert (self.table.run(Spend("read", self.charges(amounts))) is None) == fits
        if fits:
            for name, amount in amounts.items():
                self.used[name] += amount

    @rule(
        pick=st.integers(0),
        actual=st.none() | st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 12)),
    )
    def settle(self, pick: int, actual: dict[str, int] | None) -> None:
        if self.open:
            call = sorted(self.open)[pick % len(self.open)]
            self.table.run(Settle(call, actual))
            for name, amount in self.open.pop(call).items():
                self.used[name] += min(amount, (actual or {}).get(name, amount))
            self.closed.append(call)

    @rule(pick=st.integers(0))
    def release(self, pick: int) -> None:
        if self.open:
            call = sorted(self.open)[pick % len(self.open)]
            self.table.run(Release(call))
            self.closed.append(call)
            del self.open[call]

    @rule(pick=st.integers(0), settles=st.booleans())
    def close_again(self, pick: int, settles: bool) -> None:
        if self.closed:
            call = self.closed[pick % len(self.closed)]
            self.table.run(Settle(call) if settles else Release(call))

    @invariant()
    def nothing_is_overspent_and_nothing_is_lost(self) -> None:
        for name, most in self.LIMITS.items():
            used, held = counter(self.table, name)
            assert used == self.used[name]
            assert held == sum(items.get(name, 0) for items in self.open.values())
            assert 0 <= used + held <= most


TestLedger = Ledger.TestCase


@pytest.mark.anyio
async def test_64_callers_on_a_budget_of_10_hold_10(store_url: str, tmp_path: Path) -> None:
    async with open_store(store_url, tmp_path) as store:
        outcomes = await asyncio.gather(
            *(commit(store, TakeHold(f"c{at}", (charge(MICRO),))) for at in range(64))
        )
        assert sum(isinstance(outcome, Committed) for outcome in outcomes) == 10
        assert sum(isinstance(outcome, Stopped) for outcome in outcomes) == 54
        assert rows_of(store, COUNTERS, "n")["n"] == {"used": 0, "held": 10 * MICRO}
        held = [f"c{at}" for at, outcome in enumerate(outcomes) if isinstance(outcome, Committed)]
        await asyncio.gather(
            *(commit(store, Settle(call) if at % 2 else Release(call)) for at, call in enumerate(held))
        )
        assert rows_of(store, COUNTERS, "n")["n"] == {"used": 5 * MICRO, "held": 0}
        items = rows_of(store, HOLDS, held[0])[held[0]]["items"]
        assert json.loads(items) == [["n", MICRO]]
        assert check_log(store) == []


@pytest.mark.anyio
async def test_a_hold_and_what_refuses_beside_it_stand_or_fall_together(
    store_url: str, tmp_path: Path
) -> None:
    no = Refusal(Code.DENIED, "No.")
    async with open_store(store_url, tmp_path) as store:
        outcome = await commit(store, TakeHold("c", (charge(1),)), Do(lambda _state: no))
        assert isinstance(outcome, Stopped)
        assert rows_of(store, COUNTERS, "n") == {}
        assert rows_of(store, HOLDS, "c") == {}
