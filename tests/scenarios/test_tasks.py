"""Tasks: begun, named, ended and handed over, as agents and client programs see them."""

from __future__ import annotations

from pathlib import Path

import pytest

from comptroller_audit.vocabulary import RecordType
from comptroller_budgets.tasks import TASKS
from comptroller_server.proposal import Answer
from tests.scenarios.kit import opened, structured

pytestmark = pytest.mark.anyio


def task_of(answer: Answer) -> str:
    return str(answer.meta["comptroller/task"])


async def test_a_begun_task_is_where_the_calls_after_it_belong_until_it_is_finished(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        before = await shop.call("lookup_invoice", invoice_id=invoice)
        began = await shop.call("task_begin", request="Refund the customer.", plan="Look, then refund.")
        task = structured(began)["task"]
        inside = await shop.call("lookup_invoice", invoice_id=invoice)
        done = await shop.call("task_finish", claim="succeeded", summary="All done.")
        after = await shop.call("lookup_invoice", invoice_id=invoice)
        assert task_of(began) == task_of(inside) == task_of(done) == task
        assert len({task_of(before), task, task_of(after)}) == 3
        assert structured(done)["outcome"] == "claimed"
        row = shop.rows(TASKS, task)[task]
        assert (row["state"], row["outcome"], row["steps"]) == ("finished", "claimed", 1)
        (packet,) = shop.packets(RecordType.TASK_BEGUN)
        assert packet["request"] == {"text": "Refund the customer.", "trusted": False}
        assert packet["plan"] == "Look, then refund."
