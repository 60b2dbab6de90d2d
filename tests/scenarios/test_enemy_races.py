"""An enemy with good timing: what happens between two looks of one process, while another one works on the same store."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from comptroller_audit.database import Row
from comptroller_audit.vocabulary import CallState
from comptroller_server.call.case import Case
from comptroller_server.call.proposal import Answer
from comptroller_server.call.repeats import Repeats
from comptroller_server.tasks.handing_over import HandOvers
from comptroller_server.tasks.record import TaskRecord
from tests.scenarios.kit import code_of, opened

pytestmark = pytest.mark.anyio


async def test_a_yes_that_comes_while_a_resume_looks_is_no_forged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, voted = asyncio.Event(), asyncio.Event()
    pending = Repeats._pending  # pyright: ignore[reportPrivateUsage] -- between the look at the call and at its approval

    async def slow(self: Repeats, case: Case, call: str, row: Row, replay: bool) -> Answer | None:
        looked.set()
        await voted.wait()
        return await pending(self, case, call, row, replay)

    monkeypatch.setattr(Repeats, "_pending", slow)
    async with opened(tmp_path) as shop:
        call = await shop.pending(shop.paid()[0])
        resuming = asyncio.create_task(shop.resume(call))
        await looked.wait()
        await shop.vote(call)
        voted.set()
        assert code_of(await resuming) is None
        assert shop.state(call) == CallState.DONE
        assert len(shop.moved()) == 1


async def test_a_call_that_begins_to_wait_while_its_task_is_handed_off_is_closed_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, asked = asyncio.Event(), asyncio.Event()
    read = HandOvers.read

    async def slow(self: HandOvers, tenant: str, task: str) -> TaskRecord:
        found = await read(self, tenant, task)
        looked.set()
        await asked.wait()
        return found

    monkeypatch.setattr(HandOvers, "read", slow)
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        await shop.call("lookup_invoice", invoice_id=invoice)
        ending = asyncio.create_task(shop.call("hand_off", reason="It is beyond me."))
        await looked.wait()
        call = await shop.pending(invoice)
        asked.set()
        assert code_of(await ending) is None
        assert shop.state(call) == CallState.VOID
