"""Metered usage: it never falls, reports only raise it, and a limit that is reached refuses the next call."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.vocabulary import MICRO, Code, Refusal
from comptroller_budgets.ledger import COUNTERS
from comptroller_budgets.limits import MODEL_COST, TOKENS, Charge, Limit, Scope, Window
from comptroller_budgets.metering import (
    COLUMN_MAX,
    NOTHING_METERED,
    TASK_USAGE,
    CallUsage,
    Meter,
    Metered,
    Usage,
    tokens_of_bytes,
    usage_of,
)
from comptroller_budgets.prices import NO_TOKENS, ModelPrice, PriceSheet, Tokens
from tests.audit.storekit import Bench, bench

SHEET = PriceSheet(
    {"planner": "small"},
    {
        "small": ModelPrice(input_usd_per_mtok=Decimal("0.4"), output_usd_per_mtok=Decimal("1.6")),
        "big": ModelPrice(input_usd_per_mtok=Decimal(2), output_usd_per_mtok=Decimal(8)),
    },
)
COUNTS = st.integers(0, 2**53 - 1)
PAIRS = st.builds(Tokens, COUNTS, COUNTS)
REPORTED = st.dictionaries(st.sampled_from(["planner", "small", "big"]), PAIRS, max_size=3)


def estimate(
    seen: Tokens, reports: dict[str, Tokens] | None = None, judged: dict[str, Tokens] | None = None
) -> Metered:
    return Metered(seen, NO_TOKENS if reports else seen, reports or {}, judged or {})


STEPS = st.lists(st.builds(estimate, PAIRS, REPORTED, REPORTED), max_size=8)


def together(steps: Sequence[Metered]) -> Usage:
    usage = Usage()
    for step in steps:
        usage = usage.after(step, SHEET)
    return usage


def meter(
    own: Metered = NOTHING_METERED,
    *limits: tuple[str, int, Scope],
    before: Metered = NOTHING_METERED,
    listing: int = 0,
    checks: bool = True,
    task: str = "t",
) -> Meter:
    charges = tuple(
        Charge(Limit(f"{unit} limit", scope, None, unit, Window.DAY, most), f"{scope}:{unit}", 1, None)
        for unit, most, scope in limits
    )
    return Meter(task, CallUsage(), SHEET, before, own, charges, listing, checks, call_id="c")


def used(table: Bench, counter: str) -> int:
    return int(table.row(COUNTERS, counter)["used"])


@given(STEPS)
def test_usage_never_falls_and_is_never_negative(steps: list[Metered]) -> None:
    usage = Usage()
    for step in steps:
        after = usage.after(step, SHEET)
        assert after.charged.input >= usage.charged.input >= 0
        assert after.charged.output >= usage.charged.output >= 0
        assert after.total.total - after.charged.total >= usage.total.total - usage.charged.total >= 0
        assert after.cost_micro >= usage.cost_micro >= 0
        assert 0 <= after.estimated <= after.charged.total
        usage = after


@given(STEPS)
def test_usage_covers_all_that_was_seen_and_all_that_was_reported(steps: list[Metered]) -> None:
    usage = together(steps)
    seen = sum((step.seen for step in steps), NO_TOKENS)
    assert usage.charged.input >= seen.input
    assert usage.charged.output >= seen.output
    judged = sum((tokens for step in steps for tokens in step.judged.values()), NO_TOKENS)
    assert usage.total == usage.charged + judged, "what no client reports is added up"
    for step in steps:
        assert usage.charged.total >= sum(tokens.total for tokens in step.reports.values())


@given(STEPS, st.integers(0, 8))
def test_usage_that_waited_in_memory_counts_as_if_it_had_been_charged_one_by_one(
    steps: list[Metered], at: int
) -> None:
    waiting = NOTHING_METERED
    for step in steps[at:]:
        waiting = waiting.then(step)
    folded = together([*steps[:at], waiting])
    apart = together(steps)
    assert (folded.reports, folded.seen, folded.unreported) == (apart.reports, apart.seen, apart.unreported)
    assert folded.judged == apart.judged
    assert folded.charged.total <= apart.charged.total


@given(REPORTED, STEPS)
def test_the_same_report_again_charges_nothing_more(reports: dict[str, Tokens], steps: list[Metered]) -> None:
    once = together([*steps, Metered(reports=reports)])
    assert once.after(Metered(reports=reports), SHEET).charged == once.charged


def test_a_call_without_a_report_is_charged_its_bytes_on_top_of_the_last_report() -> None:
    usage = together([estimate(Tokens(5, 5), {"big": Tokens(1_000, 100)}), estimate(Tokens(30, 20))])
    assert usage.charged == Tokens(1_030, 120)
    assert usage.estimated == 50
    again = usage.after(estimate(Tokens(1, 1), {"big": Tokens(1_040, 130)}), SHEET)
    assert (again.charged, again.estimated) == (Tokens(1_040, 130), 0)


def test_a_client_that_reports_too_little_is_charged_what_was_seen() -> None:
    usage = together([estimate(Tokens(400, 100), {"small": Tokens(1, 1)})] * 3)
    assert usage.charged == Tokens(1_200, 300)
    assert usage.estimated == 1_498


def test_four_bytes_are_a_token_and_part_of_one_counts_whole() -> None:
    assert [tokens_of_bytes(size) for size in (0, 1, 4, 5, 4_000)] == [0, 1, 1, 2, 1_000]


def test_a_task_reads_its_tool_list_once() -> None:
    table = bench()
    for _ in range(3):
        assert table.run(meter(estimate(Tokens(10)), listing=500)) is None
    assert usage_of(table.row(TASK_USAGE, "t")).charged == Tokens(530)


def test_what_is_stored_is_what_was_counted() -> None:
    table = bench()
    step = estimate(Tokens(7, 3), {"planner": Tokens(100, 20), "big": Tokens(5, 5)})
    table.run(meter(step))
    assert usage_of(table.row(TASK_USAGE, "t")) == Usage().after(step, SHEET)
    assert table.row(TASK_USAGE, "t")["model_cost_micro"] == 40 + 32 + 10 + 40


def test_the_call_that_reaches_a_limit_passes_and_the_next_one_does_not() -> None:
    table = bench()
    limit = (TOKENS, 100 * MICRO, Scope.TASK)
    assert table.run(meter(estimate(Tokens(99)), limit)) is None
    assert table.run(meter(estimate(Tokens(500)), limit)) is None
    stop = table.run(meter(estimate(Tokens(1)), limit))
    assert isinstance(stop, Refusal)
    assert (stop.code, stop.retry) == (Code.BUDGET_EXHAUSTED, "person")
    assert "599 of 100 tokens" in stop.text
    assert usage_of(table.row(TASK_USAGE, "t")).charged.total == 599
    assert table.run(meter(estimate(Tokens(1)), limit, checks=False)) is None


def test_a_report_of_what_was_used_before_the_call_counts_before_it() -> None:
    limit = (TOKENS, 100 * MICRO, Scope.TASK)
    before = Metered(reports={"big": Tokens(90, 10)})
    assert isinstance(bench().run(meter(NOTHING_METERED, limit, before=before)), Refusal)


def test_tasks_share_the_windows_around_them() -> None:
    table = bench()
    limits = ((TOKENS, 100 * MICRO, Scope.PRINCIPAL), (MODEL_COST, 10_000, Scope.TENANT))
    assert table.run(meter(estimate(Tokens(60)), *limits, task="a")) is None
    assert table.run(meter(estimate(Tokens(60)), *limits, task="b")) is None
    assert used(table, "principal:tokens") == 120 * MICRO
    assert used(table, "tenant:model_cost_usd") == 48
    assert isinstance(table.run(meter(estimate(Tokens(1)), *limits, task="c")), Refusal)


def test_the_largest_numbers_fit_their_columns() -> None:
    table = bench()
    limit = (TOKENS, 10 * COLUMN_MAX, Scope.PRINCIPAL)
    for _ in range(40):
        table.run(meter(estimate(Tokens(2**53, 2**53), {"big": Tokens(2**53, 2**53)}), limit, checks=False))
    assert used(table, "principal:tokens") == COLUMN_MAX
    assert table.row(TASK_USAGE, "t")["model_cost_micro"] <= COLUMN_MAX
