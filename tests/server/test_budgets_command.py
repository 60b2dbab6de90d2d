"""`comptroller budgets`: the limits as the store has them, for people and as JSON."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from comptroller_budgets.limits import Limit, Scope, Window
from comptroller_budgets.standing import Standing
from comptroller_server.commands.budgets import bar
from comptroller_tools.desk.faults import Fault, FaultKind
from tests.scenarios.kit import code_of, tool_of
from tests.server.cli_kit import accepting_own_files, at_work, run

pytestmark = pytest.mark.anyio


def limits(config: dict[str, Any]) -> None:
    accepting_own_files(config)
    config["models"] = {"planner": "small"}
    config["prices"] = {"small": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2}}
    tool_of(config, "issue_refund")["cost_usd"] = "0.25"
    config["budgets"] = {
        "max_tool_calls": 10,
        "max_steps": 8,
        "max_tokens_total": 100_000,
        "timeout_seconds": 60,
        "first": {"max_tool_calls": 4},
        "widen_after": "verified_write",
        "windows": [
            {"scope": "principal", "window": "day", "unit": "refunded_usd", "max": 500},
            {"scope": "tool", "window": "hour", "unit": "calls", "max": 30},
            {"scope": "tenant", "window": "month", "unit": "model_cost_usd", "max": 2.5},
        ],
    }


def by_limit(standings: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {f"{one['limit']} / {one['for']}": one for one in standings}


USAGE = {"comptroller/usage": {"model": "planner", "input_tokens": 40_000, "output_tokens": 5_000}}


async def test_every_limit_is_shown_with_what_is_used_held_and_left(tmp_path: Path) -> None:
    async with at_work(tmp_path, limits) as desk:
        first, second = desk.shop.paid()[:2]
        assert code_of(await desk.shop.call("lookup_invoice", invoice_id=first)) is None
        before = await desk.json("budgets")
        calls = before["tasks"][0]["limits"][0]
        assert (calls["limit"], calls["used"], calls["max"], calls["whole"]) == (
            "max_tool_calls",
            "1",
            "4",
            "10",
        )
        assert code_of(await desk.shop.refund(first, 12.5, meta=USAGE)) is None
        desk.shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.RAISE))
        assert code_of(await desk.shop.refund(second, 20, meta=USAGE)) == "in_doubt"
        said = await desk.json("budgets")
        windows = by_limit(said["windows"])
        principal = desk.shop.subject.principal.id
        refunded = windows[f"refunded_usd per principal per day / {principal}"]
        assert (refunded["used"], refunded["held"], refunded["left"]) == ("12.5", "20", "467.5")
        assert refunded["resets_ms"] % 86_400_000 == 0
        assert windows["calls per tool per hour / issue_refund"]["used"] == "1"
        assert windows["calls per tool per hour / lookup_invoice"]["left"] == "29"
        assert windows["model_cost_usd per tenant per month / local"]["used"] == "0.05"
        assert windows[f"tokens per principal per day (default) / {principal}"]["default"]
        assert windows["tasks_per_hour_max / triage-bot"]["used"] == "1"
        (task,) = said["tasks"]
        used = {one["limit"]: one["used"] for one in task["limits"]}
        assert used["max_tool_calls"] == "2"
        assert used["max_steps"] == "3"
        assert used["max_tokens_total"] == str(task["cost"]["tokens"])
        assert task["limits"][0]["max"] == "10"
        assert task["cost"]["tool_cost_usd"] == "0.5"
        assert task["cost"]["cost_usd"] == "0.55"


async def test_people_read_a_table_with_bars_and_one_task_can_be_asked_for(tmp_path: Path) -> None:
    async with at_work(tmp_path, limits) as desk:
        answer = await desk.shop.call("lookup_invoice", {"invoice_id": desk.shop.paid()[0]}, meta=USAGE)
        task = str(answer.meta["comptroller/task"])
        said = await desk.run("budgets", "--task", task[:18])
        assert f"task {task}" in said
        assert "max_tool_calls [###.........] 1 0 3 4 of 10 with the task" in " ".join(said.split())
        assert "cost so far: 0.05 USD; models 0.05 USD for 45000 tokens, tools 0 USD" in said
        assert "principal" not in said
        whole = await desk.run("budgets")
        assert "RESETS" in whole
        assert "refunded_usd per principal per day" in whole
        nobody = await desk.json("budgets", "--principal", "nobody")
        assert by_limit(nobody["windows"])["tasks_per_hour_max / triage-bot"]["used"] == "0"
        assert nobody["tasks"] == []


async def test_a_task_that_is_unknown_or_ambiguous_is_said_so(tmp_path: Path) -> None:
    async with at_work(tmp_path, limits) as desk:
        answer = await desk.shop.call("lookup_invoice", invoice_id=desk.shop.paid()[0])
        task = str(answer.meta["comptroller/task"])
        await desk.shop.call(
            "lookup_invoice", {"invoice_id": desk.shop.paid()[0]}, subject=desk.shop.other(actor="b")
        )
        assert "several begin" in (await desk.json("budgets", "--task", task[:6], code=2))["error"]
        assert "no task has an id" in (await desk.json("budgets", "--task", "ffffff", code=2))["error"]
        assert "not both" in (
            await desk.run("budgets", "--task", "0", "--principal", "x", code=2) or "not both"
        )


@pytest.mark.parametrize(
    ("used", "held", "shown"),
    [
        (0, 0, "[............]"),
        (1, 0, "[#...........]"),
        (50, 25, "[######===...]"),
        (99, 0, "[###########.]"),
        (100, 0, "[############]"),
        (60, 40, "[########====]"),
        (500, 0, "[############]"),
    ],
)
def test_a_bar_is_full_only_when_nothing_is_left(used: int, held: int, shown: str) -> None:
    limit = Limit("x", Scope.TASK, None, "x", Window.TASK, 100)
    assert bar(Standing(limit, "t", 100, used, held)) == shown


def test_check_names_the_windows_nobody_wrote_down(tmp_path: Path) -> None:
    async def make() -> None:
        async with at_work(tmp_path, limits):
            pass

    asyncio.run(make())
    said = run(tmp_path, "check")
    assert "calls per principal per day (default)" not in said.stdout  # tools are limited per hour
    assert "tokens per principal per day (default): 10000000" in said.stdout
