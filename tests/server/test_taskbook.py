"""Steps and tasks as one process sees them, through calls."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from comptroller_budgets.tasks import TASKS
from tests.scenarios.kit import Shop, opened

pytestmark = pytest.mark.anyio


def step_of(shop: Shop, call: object) -> int:
    return int(shop.row(str(call))["step"])


async def test_calls_in_flight_together_are_one_step_and_the_next_begins_after_the_last_answer(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as shop:
        invoices = shop.paid()[:4]
        first = await asyncio.gather(*(shop.call("lookup_invoice", invoice_id=i) for i in invoices[:3]))
        second = await shop.call("lookup_invoice", invoice_id=invoices[3])
        assert {step_of(shop, a.meta["comptroller/call"]) for a in first} == {1}
        assert step_of(shop, second.meta["comptroller/call"]) == 2
        (task,) = {str(a.meta["comptroller/task"]) for a in (*first, second)}
        assert shop.rows(TASKS, task)[task]["steps"] == 2


async def test_clients_have_tasks_of_their_own_and_processes_share_one(
    store_url: str, tmp_path: Path
) -> None:
    async with (
        opened(tmp_path, url=store_url) as shop,
        opened(tmp_path, url=store_url, clock=shop.clock) as second,
    ):
        invoice = shop.paid()[0]
        mine = await shop.call("lookup_invoice", invoice_id=invoice)
        shop.clock.pass_s(2)
        elsewhere = await second.call("lookup_invoice", invoice_id=invoice)
        other = await shop.call("lookup_invoice", invoice_id=invoice, subject=shop.other(actor="other-bot"))
        assert mine.meta["comptroller/task"] == elsewhere.meta["comptroller/task"]
        assert mine.meta["comptroller/task"] != other.meta["comptroller/task"]


async def test_two_processes_that_begin_a_task_at_once_end_in_one(store_url: str, tmp_path: Path) -> None:
    async with (
        opened(tmp_path, url=store_url) as shop,
        opened(tmp_path, url=store_url, clock=shop.clock) as second,
    ):
        invoice = shop.paid()[0]
        answers = await asyncio.gather(
            *(s.call("lookup_invoice", invoice_id=invoice) for s in (shop, second, shop, second))
        )
        assert [a.text for a in answers if a.is_error] == []
        assert len({str(a.meta["comptroller/task"]) for a in answers}) == 1


async def test_more_clients_than_are_remembered_do_not_lose_their_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comptroller_server.tasks.taskbook.VIEWS_MAX", 3)

    def roomy(config: dict[str, Any]) -> None:
        config["budgets"] = {}

    async with opened(tmp_path, roomy) as shop:
        invoice = shop.paid()[0]
        tasks: list[list[str]] = []
        for _ in range(2):
            answers = [
                await shop.call("lookup_invoice", invoice_id=invoice, subject=shop.other(actor=f"bot-{at}"))
                for at in range(8)
            ]
            tasks.append([str(a.meta["comptroller/task"]) for a in answers])
        assert tasks[0] == tasks[1]
        assert len(set(tasks[0])) == 8
