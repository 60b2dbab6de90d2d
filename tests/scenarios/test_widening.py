"""The first part of a budget, opened to the whole once a change of the task was verified; windows nobody wrote down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.vocabulary import MICRO, RecordType
from comptroller_budgets.costs import TaskCost, task_cost
from comptroller_server.errors import ConfigInvalid
from comptroller_server.installation import TENANT
from comptroller_tools.desk.faults import Fault, FaultKind
from tests.scenarios.kit import WHY, Changes, Shop, code_of, details_of, opened, tool_of

pytestmark = pytest.mark.anyio
PRICES = {"small": {"input_usd_per_mtok": 0.4, "output_usd_per_mtok": 1.6}}


def budgets(**named: Any) -> Changes:
    def change(config: dict[str, Any]) -> None:
        config["models"], config["prices"] = {"planner": "small"}, PRICES
        config["budgets"] = {"widen_after": "verified_write", **named}
        config["limits"] = {"identical_calls_max": 1_000}

    return change


async def look(shop: Shop, **options: Any) -> Any:
    return await shop.call("lookup_invoice", {"invoice_id": shop.paid()[0]}, **options)


def report(read: int) -> dict[str, Any]:
    return {"comptroller/usage": {"model": "planner", "input_tokens": read, "output_tokens": 500}}


async def spend(shop: Shop, times: int) -> list[str | None]:
    return [code_of(await look(shop)) for _ in range(times)]


FIRST_CALLS = budgets(max_tool_calls=6, first={"max_tool_calls": 3})
FIRST_STEPS = budgets(max_steps=6, first={"max_steps": 3})


@pytest.mark.parametrize("limits", [FIRST_CALLS, FIRST_STEPS], ids=["calls", "steps"])
async def test_a_verified_write_opens_the_rest_of_a_budget(tmp_path: Path, limits: Changes) -> None:
    async with opened(tmp_path, limits) as shop:
        assert await spend(shop, 2) == [None, None]
        assert code_of(await shop.refund(shop.paid()[0], 5)) is None
        assert await spend(shop, 4) == [None, None, None, "budget_exhausted"]


@pytest.mark.parametrize("limits", [FIRST_CALLS, FIRST_STEPS], ids=["calls", "steps"])
async def test_reads_alone_never_get_beyond_the_first_part(tmp_path: Path, limits: Changes) -> None:
    async with opened(tmp_path, limits) as shop:
        assert await spend(shop, 3) == [None, None, None]
        refused = await look(shop)
        assert code_of(refused) == "budget_exhausted"
        assert "opens once a change made in this task was verified" in refused.text
        assert code_of(await shop.refund(shop.paid()[0], 5)) == "budget_exhausted"
        assert shop.moved() == []


async def test_tokens_and_their_cost_are_opened_too(tmp_path: Path) -> None:
    whole = {"max_tokens_total": 100_000, "max_model_cost_usd": 0.03}
    first = {"max_tokens_total": 50_000, "max_model_cost_usd": 0.02}
    async with opened(tmp_path, budgets(**whole, first=first)) as shop:
        assert code_of(await look(shop, meta=report(45_000))) is None
        assert code_of(await look(shop, meta=report(50_000))) == "budget_exhausted"
    async with opened(tmp_path / "two", budgets(**whole, first=first)) as shop:
        assert code_of(await shop.refund(shop.paid()[0], 5, meta=report(20_000))) is None
        assert code_of(await look(shop, meta=report(70_000))) is None
        assert details_of(await look(shop, meta=report(74_000)))["budget"] == "max_model_cost_usd"


@pytest.mark.parametrize("kind", [FaultKind.REFUSE, FaultKind.NOT_WRITTEN])
async def test_a_write_that_failed_or_is_not_what_it_should_be_opens_nothing(
    tmp_path: Path, kind: FaultKind
) -> None:
    async with opened(tmp_path, FIRST_CALLS) as shop:
        shop.misbehave(Fault(tool="issue_refund", kind=kind))
        assert code_of(await shop.refund(shop.paid()[0], 5)) is not None
        shop.behave()
        codes = await spend(shop, 4)
        assert codes[-1] == "budget_exhausted"


async def test_a_config_in_which_no_change_is_verified_could_never_open_the_rest(tmp_path: Path) -> None:
    def unchecked(config: dict[str, Any]) -> None:
        FIRST_CALLS(config)
        for tool in config["tools"]:
            tool.pop("verify", None)

    with pytest.raises(ConfigInvalid, match="no tool that changes something has `verify`"):
        async with opened(tmp_path, unchecked):
            pass


async def test_a_change_that_nothing_verified_opens_nothing(tmp_path: Path) -> None:
    def one_checked(config: dict[str, Any]) -> None:
        FIRST_CALLS(config)
        for name in ("cancel_refund", "draft_reply", "send_reply", "set_ticket_status"):
            if any(tool["name"] == name for tool in config["tools"]):
                tool_of(config, name).pop("approval", None)

    async with opened(tmp_path, one_checked, bare=True) as shop:
        (refund,) = shop.sql("SELECT id FROM refunds LIMIT 1")
        answer = await shop.call("cancel_refund", {"refund_id": refund[0], "why": WHY})
        assert code_of(answer) is None, answer.text
        assert await spend(shop, 3) == [None, None, "budget_exhausted"]


async def test_what_one_task_verified_opens_nothing_for_another(tmp_path: Path) -> None:
    async with opened(tmp_path, FIRST_CALLS) as shop:
        assert code_of(await shop.refund(shop.paid()[0], 5)) is None
        shop.clock.pass_s(400)
        assert await spend(shop, 4) == [None, None, None, "budget_exhausted"]


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ({"first": {"max_tool_calls": 3}}, ["`budgets.first.max_tool_calls` is part of"]),
        (
            {"max_steps": 3, "first": {"max_steps": 3}},
            ["`budgets.first.max_steps` must be less than `budgets.max_steps`, which is 3"],
        ),
        ({"max_steps": 3}, ["`budgets.widen_after` opens what"]),
        (
            {"max_steps": 3, "first": {"max_steps": 2}, "widen_after": "hope"},
            ["`budgets.widen_after` must be"],
        ),
    ],
)
async def test_a_first_part_that_means_nothing_does_not_load(
    tmp_path: Path, named: dict[str, Any], told: list[str]
) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        async with opened(tmp_path, budgets(**named)):
            pass
    findings = [str(finding) for finding in caught.value.findings]
    assert all(any(text in finding for finding in findings) for text in told), findings


async def test_a_first_part_that_nothing_opens_does_not_load(tmp_path: Path) -> None:
    def closed(config: dict[str, Any]) -> None:
        config["budgets"] = {"max_steps": 3, "first": {"max_steps": 2}}

    with pytest.raises(ConfigInvalid, match="never opened"):
        async with opened(tmp_path, closed):
            pass


async def test_a_limit_per_task_brings_a_window_of_a_hundred_tasks_a_day(tmp_path: Path) -> None:
    def one(config: dict[str, Any]) -> None:
        config["budgets"] = {"max_tool_calls": 1, "tasks_per_hour_max": 1_000, "task_idle_s": 1}

    async with opened(tmp_path, one) as shop:
        for at in range(100):
            assert code_of(await look(shop, subject=shop.other(actor=f"bot-{at}"))) is None
        refused = await look(shop, subject=shop.other(actor="one more"))
        assert code_of(refused) == "budget_exhausted"
        assert details_of(refused)["budget"] == "calls per principal per day (default)"
        assert details_of(refused)["retry"].startswith("after:")


async def test_a_task_costs_what_its_models_and_its_tools_cost(tmp_path: Path) -> None:
    def paid(config: dict[str, Any]) -> None:
        config["models"], config["prices"], config["budgets"] = {"planner": "small"}, PRICES, {}
        tool_of(config, "issue_refund")["cost_usd"] = "0.25"

    async with opened(tmp_path, paid) as shop:
        first, second = shop.paid()[:2]
        answer = await shop.refund(first, 5, meta=report(9_500))
        task = str(answer.meta["comptroller/task"])
        expected = TaskCost(10_000, 0, 3_800 + 800, MICRO // 4)
        assert shop.store.read_now(lambda reader: task_cost(reader, TENANT, task)) == expected
        (packet,) = shop.packets(RecordType.AUDIT)
        assert packet["usage"]["cost_usd"] == packet["usage"]["task"]["cost_usd"] == "0.2546"
        assert packet["usage"]["estimated"] is False
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.REFUSE))
        assert code_of(await shop.refund(second, 5)) == "tool_failed"
        assert shop.packets(RecordType.AUDIT)[-1]["usage"]["tool_cost_usd"] == "0"
        shop.behave()
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.RAISE))
        assert code_of(await shop.refund(second, 5)) == "in_doubt"
        cost = shop.store.read_now(lambda reader: task_cost(reader, TENANT, task))
        assert cost.tool_cost_micro == MICRO // 2
        assert cost.as_json()["tool_cost_usd"] == "0.5"
