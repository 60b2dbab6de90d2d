"""Tokens and the cost of models: reported or estimated, charged in the commits there are, refused once reached."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.vocabulary import RecordType
from comptroller_budgets.metering import TASK_USAGE, Usage, usage_of
from comptroller_server.errors import ConfigInvalid
from tests.scenarios.kit import Changes, Clock, Shop, code_of, details_of, opened, structured

pytestmark = pytest.mark.anyio
PRICES = {
    "small": {"input_usd_per_mtok": 0.4, "output_usd_per_mtok": 1.6},
    "big": {"input_usd_per_mtok": 2, "output_usd_per_mtok": 8},
}


def budgets(**named: Any) -> Changes:
    """The desk with two models, and no budgets but these."""

    def change(config: dict[str, Any]) -> None:
        config["models"] = {"planner": "small", "writer": "big"}
        config["prices"] = PRICES
        config["budgets"] = named
        config["limits"] = {"identical_calls_max": 1_000}

    return change


def window(unit: str, most: float, scope: str = "principal", **more: Any) -> dict[str, Any]:
    return {"scope": scope, "window": "day", "unit": unit, "max": most, **more}


def usage(name: str, read: int, written: int, **more: Any) -> dict[str, Any]:
    return {"comptroller/usage": {"model": name, "input_tokens": read, "output_tokens": written, **more}}


async def look(shop: Shop, **options: Any) -> Any:
    return await shop.call("lookup_invoice", {"invoice_id": shop.paid()[0]}, **options)


def used(shop: Shop, task: str) -> Usage:
    return usage_of(shop.rows(TASK_USAGE, task)[task])


def task_of(answer: Any) -> str:
    return str(answer.meta["comptroller/task"])


async def test_a_task_that_reported_its_tokens_is_refused_its_next_call(tmp_path: Path) -> None:
    async with opened(tmp_path, budgets(max_tokens_total=50_000)) as shop:
        invoice = shop.paid()[0]
        first = await look(shop, meta=usage("planner", 20_000, 1_000))
        assert code_of(first) is None
        assert used(shop, task_of(first)).charged.total == 21_000
        refused = await shop.refund(invoice, 5, meta=usage("planner", 49_000, 1_000))
        assert code_of(refused) == "budget_exhausted"
        assert details_of(refused)["budget"] == "max_tokens_total"
        assert details_of(refused)["retry"] == "person"
        assert "50000 of 50000 tokens, 0 left" in refused.text
        assert "Hand the task to a person" in refused.text
        assert shop.moved() == []
        assert code_of(await look(shop)) == "budget_exhausted"  # though this one reports nothing


async def test_a_call_that_passes_the_limit_on_its_way_is_answered(tmp_path: Path) -> None:
    async with opened(tmp_path, budgets(max_tokens_total=50_000)) as shop:
        assert code_of(await look(shop, meta=usage("planner", 49_000, 990))) is None
        answer = await look(shop)
        assert structured(answer)["invoice_id"] == shop.paid()[0]
        assert used(shop, task_of(answer)).charged.total > 50_000
        assert code_of(await look(shop)) == "budget_exhausted"


async def test_reports_of_roles_and_models_add_up_and_only_raise(tmp_path: Path) -> None:
    async with opened(tmp_path, budgets(max_tokens_total=1_000_000)) as shop:
        both = [
            {"model": "planner", "input_tokens": 100_000, "output_tokens": 10_000},
            {"model": "writer", "input_tokens": 50_000, "output_tokens": 1_000, "total_tokens": 60_000},
        ]
        answer = await look(shop, meta={"comptroller/usage": both})
        assert used(shop, task_of(answer)).charged.total == 170_000
        await look(shop, meta=usage("planner", 5, 5))
        told = used(shop, task_of(answer))
        assert (told.charged.total, told.estimated) == (170_000, 0)
        assert told.cost_micro == 40_000 + 16_000 + 100_000 + 80_000


async def test_a_client_that_does_not_report_is_charged_an_estimate_of_bytes(tmp_path: Path) -> None:
    async with opened(tmp_path, budgets(max_tokens_total=100_000)) as shop:
        first = await look(shop)
        before = used(shop, task_of(first))
        assert before.estimated == before.charged.total > len(first.text) // 4
        second = await look(shop)
        after = used(shop, task_of(first))
        assert after.charged.input - before.charged.input == -(-len(second.text.encode()) // 4)
        assert after.charged.output - before.charged.output == -(-len('{"invoice_id": "inv_12345678"}') // 4)
        packet = shop.packets(RecordType.READ)[-1]["usage"]
        assert packet["reported"] == []
        assert packet["task"]["estimated_tokens"] == packet["task"]["tokens"] == after.charged.total
        assert packet["tokens"] == after.charged.total - before.charged.total


async def test_refusals_cost_tokens_and_write_no_more_than_their_record(tmp_path: Path) -> None:
    async with opened(tmp_path, budgets(max_tokens_total=100_000)) as shop:
        first = await look(shop)
        before, records = used(shop, task_of(first)), len(shop.log())
        for _ in range(5):
            refused = await shop.call("lookup_invoice", invoice_id="x" * 4_000)
            assert code_of(refused) is not None
        assert used(shop, task_of(first)) == before
        assert len(shop.log()) == records + 5
        await look(shop)
        assert used(shop, task_of(first)).charged.output - before.charged.output > 5 * 1_000


async def test_what_a_refused_call_reported_counts_at_the_next_one(tmp_path: Path) -> None:
    async with opened(tmp_path, budgets(max_tokens_total=50_000)) as shop:
        assert code_of(await look(shop)) is None
        assert code_of(await shop.call("no_such_tool", meta=usage("big", 60_000, 0))) == "unknown_tool"
        assert code_of(await look(shop)) == "budget_exhausted"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (usage("gpt-unheard-of", 1, 1), "use one of `big`, `planner`, `small`, `writer`"),
        (usage("planner", -1, 1), "whole numbers"),
        (usage("planner", 1, True), "whole numbers"),
        (usage("planner", 1, 2**53), "whole numbers"),
        (usage("planner", 10, 10, total_tokens=19), "total_tokens"),
        (usage("planner", 1, 1, cost=0), "must be {model"),
        ({"comptroller/usage": []}, "a list of 1 to"),
        ({"comptroller/usage": ["planner"]}, "must be {model"),
        ({"comptroller/usage": [usage("planner", 1, 1)["comptroller/usage"]] * 2}, "twice"),
    ],
    ids=str,
)
async def test_a_report_that_cannot_be_counted_is_refused_in_words(
    tmp_path: Path, given: dict[str, Any], told: str
) -> None:
    async with opened(tmp_path, budgets(max_tokens_total=1_000_000)) as shop:
        refused = await look(shop, meta=given)
        assert code_of(refused) == "invalid_arguments"
        assert told in refused.text
        assert "gpt-unheard-of" not in refused.text


async def test_the_cost_of_models_is_limited_exactly_to_the_millionth(tmp_path: Path) -> None:
    async with opened(tmp_path, budgets(max_model_cost_usd=0.08)) as shop:
        answer = await look(shop, meta=usage("writer", 39_599, 100))
        assert code_of(answer) is None
        assert used(shop, task_of(answer)).cost_micro == 79_998
        packet = shop.packets(RecordType.READ)[-1]["usage"]
        assert packet["task"]["model_cost_usd"] == packet["model_cost_usd"] == "0.079998"
        assert packet["reported"] == [
            {"name": "writer", "model": "big", "input_tokens": 39_599, "output_tokens": 100}
        ]
        refused = await look(shop, meta=usage("writer", 39_600, 100))
        assert details_of(refused)["budget"] == "max_model_cost_usd"


@pytest.mark.parametrize("scope", ["principal", "actor", "tool", "tenant"])
async def test_a_window_counts_the_tokens_of_every_task_in_its_scope(tmp_path: Path, scope: str) -> None:
    async with opened(tmp_path, budgets(windows=[window("tokens", 100_000, scope)])) as shop:
        assert code_of(await look(shop, meta=usage("planner", 59_000, 1_000))) is None
        shop.clock.pass_s(400)  # another task
        assert code_of(await look(shop, meta=usage("planner", 38_000, 1_000))) is None
        refused = await look(shop, meta=usage("planner", 45_000, 1_000))
        assert code_of(refused) == "budget_exhausted"
        assert details_of(refused)["retry"].startswith("after:")
        assert "It resets in" in refused.text
        other = {"subject": shop.other(actor="other"), "meta": usage("planner", 9_000, 1_000)}
        assert (code_of(await look(shop, **other)) is None) == (scope == "actor")
        tickets = await shop.call(
            "search_tickets", subject=shop.other(subject="eve"), meta=usage("big", 9_000, 1_000)
        )
        assert (code_of(tickets) is None) == (scope in ("principal", "tool"))


async def test_two_processes_and_many_calls_lose_no_token(store_url: str, tmp_path: Path) -> None:
    limits = budgets(windows=[window("tokens", 2_000_000)])
    async with (
        opened(tmp_path, limits, url=store_url) as shop,
        opened(tmp_path, limits, url=store_url, clock=shop.clock) as second,
    ):
        answers = await asyncio.gather(
            *(
                look(
                    (shop, second)[at % 2],
                    meta=usage("planner", 50_000, 1_000 + at),
                    subject=shop.other(actor=f"a{at}"),
                )
                for at in range(30)
            )
        )
        assert {code_of(a) for a in answers} == {None}
        tasks = {task_of(a) for a in answers}
        assert sum(used(shop, task).charged.total for task in tasks) == sum(51_000 + at for at in range(30))
        more = [
            look(shop, meta=usage("planner", 299_000, 1_000), subject=shop.other(actor=actor))
            for actor in "yz"
        ]
        assert {code_of(a) for a in await asyncio.gather(*more)} == {None, "budget_exhausted"}


async def test_usage_outlives_the_process_that_charged_it(store_url: str, tmp_path: Path) -> None:
    clock, limits = Clock(), budgets(max_tokens_total=50_000)
    async with opened(tmp_path, limits, url=store_url, clock=clock) as shop:
        assert code_of(await shop.refund(shop.paid()[0], 5, meta=usage("planner", 49_000, 950))) is None
        assert code_of(await look(shop)) is None
    async with opened(tmp_path, limits, url=store_url, clock=clock) as shop:
        assert code_of(await look(shop)) == "budget_exhausted"


async def test_a_side_effect_says_in_its_packet_what_it_cost(tmp_path: Path) -> None:
    async with opened(tmp_path, budgets(max_tokens_total=500_000)) as shop:
        answer = await shop.refund(shop.paid()[0], 5, meta=usage("writer", 100_000, 1_000))
        assert code_of(answer) is None
        (packet,) = shop.packets(RecordType.AUDIT)
        assert packet["usage"]["tokens"] == packet["usage"]["task"]["tokens"] == 101_000
        assert packet["usage"]["model_cost_usd"] == "0.208"
        assert packet["usage"]["task"]["estimated_tokens"] == 0


async def test_a_task_can_ask_what_it_has_left_and_what_was_estimated(tmp_path: Path) -> None:
    async with opened(tmp_path, budgets(max_tokens_total=50_000)) as shop:
        await look(shop, meta=usage("planner", 20_000, 1_000))
        await look(shop)
        status = structured(await shop.call("task_status"))
        cost = status["cost"]
        assert cost["tokens"] > 21_000
        assert cost["estimated_tokens"] == cost["tokens"] - 21_000
        assert status["left"]["max_tokens_total"] == str(50_000 - cost["tokens"])
        assert await reported_by_status(shop) > cost["tokens"] + 5_000


async def reported_by_status(shop: Shop) -> int:
    """What a report that comes with a call of Comptroller's own tools has made of the task, once it is charged."""
    await shop.call("task_status", meta=usage("planner", 27_000, 1_000))
    answer = await look(shop)
    return used(shop, task_of(answer)).total.total


async def test_a_person_is_not_asked_for_a_task_that_has_no_tokens_left(tmp_path: Path) -> None:
    async with opened(tmp_path, budgets(max_tokens_total=1_000)) as shop:
        refused = await shop.refund(shop.paid()[0], 30, meta=usage("planner", 1_000, 0))
        assert code_of(refused) == "budget_exhausted"


async def test_without_models_and_limits_nothing_is_metered_and_no_report_is_taken(tmp_path: Path) -> None:
    def bare(config: dict[str, Any]) -> None:
        config.pop("models", None)
        config.pop("prices", None)
        config["budgets"] = {}

    async with opened(tmp_path, bare) as shop:
        answer = await look(shop)
        assert shop.rows(TASK_USAGE, task_of(answer)) == {}
        assert "usage" not in shop.packets(RecordType.READ)[-1]
        refused = await look(shop, meta=usage("planner", 1, 1))
        assert code_of(refused) == "invalid_arguments"
        assert "names no model" in refused.text


def unpriced(config: dict[str, Any]) -> None:
    config["models"] = {"planner": "small", "writer": "gpt-9"}
    config["prices"] = {"small": PRICES["small"]}


def costs_without_prices(config: dict[str, Any]) -> None:
    config["models"], config["prices"] = {}, {}
    config["budgets"] = {"max_model_cost_usd": 1, "windows": [window("model_cost_usd", 5)]}


def role_named_like_a_model(config: dict[str, Any]) -> None:
    config["models"], config["prices"] = {"big": "small"}, PRICES


def steps_in_a_window(config: dict[str, Any]) -> None:
    config["budgets"] = {"windows": [window("steps", 5)]}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (unpriced, ["`models.writer` is `gpt-9`, whose price is not known"]),
        (
            costs_without_prices,
            ["`budgets.max_model_cost_usd` counts", "`budgets.windows[0].unit` counts the cost"],
        ),
        (role_named_like_a_model, ["`models.big` is also the name of a model"]),
        (steps_in_a_window, ["`budgets.windows[0].unit` is `steps`"]),
    ],
)
async def test_what_could_not_be_counted_does_not_load(
    tmp_path: Path, changes: Changes, told: list[str]
) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        async with opened(tmp_path, changes):
            pass
    findings = [str(finding) for finding in caught.value.findings]
    assert len(findings) == len(told)
    for finding, text in zip(findings, told, strict=True):
        assert text in finding
        assert "comptroller.yaml:1" in finding
