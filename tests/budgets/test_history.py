"""Counted history: what a decision read has not moved, or it decides again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from comptroller_audit.unit import Committed, Moved, Stopped
from comptroller_budgets.history import HISTORY, BumpHistory, HistoryUnmoved, history_id
from comptroller_budgets.limits import Scope, Window
from tests.audit.storekit import NOON, bench, commit, open_store, rows_of


def test_a_committed_call_counts_and_moves_the_revision() -> None:
    table = bench()
    table.run(BumpHistory(("h",)))
    table.run(BumpHistory(("h",)))
    assert table.row(HISTORY, "h") == {"count": 2, "revision": 2}


def test_taking_a_call_back_lowers_the_count_and_still_moves_the_revision() -> None:
    table = bench()
    table.run(BumpHistory(("h",)))
    table.run(BumpHistory(("h",), by=-1))
    assert table.row(HISTORY, "h") == {"count": 0, "revision": 2}
    table.run(BumpHistory(("h",), by=-1))
    assert table.row(HISTORY, "h")["count"] == 0


def test_a_decision_on_the_newest_revisions_stands_and_on_older_ones_does_not() -> None:
    table = bench()
    assert table.run(HistoryUnmoved({"h": 0, "g": 0})) is None
    table.run(BumpHistory(("h",)))
    assert table.run(HistoryUnmoved({"h": 1})) is None
    assert table.run(HistoryUnmoved({"g": 0, "h": 0})) == Moved("h")
    assert table.run(HistoryUnmoved({"h": 2})) == Moved("h")


@pytest.mark.anyio
async def test_a_policy_over_history_is_not_passed_by_two_calls_in_parallel(
    store_url: str, tmp_path: Path
) -> None:
    async with open_store(store_url, tmp_path) as store:
        outcomes = await asyncio.gather(
            *(commit(store, HistoryUnmoved({"h": 0}), BumpHistory(("h",))) for _ in range(8))
        )
        assert sum(isinstance(outcome, Committed) for outcome in outcomes) == 1
        assert [outcome.stop for outcome in outcomes if isinstance(outcome, Stopped)] == [Moved("h")] * 7
        assert rows_of(store, HISTORY, "h")["h"] == {"count": 1, "revision": 1}


def test_each_window_principal_and_tool_has_a_row_of_its_own() -> None:
    rows = {
        history_id(scope, who, tool, window, at)
        for scope in (Scope.TASK, Scope.PRINCIPAL)
        for who in ("p", "q", "p:x")
        for tool in ("x", "y")
        for window in Window
        for at in (NOON, NOON + 32 * 86_400_000)
    }
    assert len(rows) == 2 * 3 * 2 * (3 * 2 + 1)
