"""Refusals by the hundred: stopped early, recorded singly up to a number, counted beyond it, never lost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.vocabulary import CallState, RecordType
from comptroller_server.app import flush_counted
from comptroller_tools.desk.faults import Fault, FaultKind
from tests.scenarios.kit import Changes, Faults, Shop, call_of, code_of, details_of, opened, tool_of, until

pytestmark = pytest.mark.anyio


def quotas(attempts: int, records: int) -> Changes:
    def change(config: dict[str, Any]) -> None:
        config["limits"] = {"attempts_per_minute_max": attempts, "refusal_records_per_minute_max": records}

    return change


async def recorded(shop: Shop) -> int:
    """Refusals on record, singly and counted."""
    await flush_counted(shop.service)
    counted = sum(sum(p["refusals"].values()) for p in shop.packets(RecordType.REFUSALS_COUNTED))
    return counted + len(shop.packets(RecordType.REFUSED))


async def test_every_refusal_of_a_flood_is_in_exactly_one_record(store_url: str, tmp_path: Path) -> None:
    async with opened(tmp_path, quotas(1_000, 10), url=store_url) as shop:
        answers = [await shop.call(f"nothing_{at}") for at in range(100)]
        assert {code_of(a) for a in answers} == {"unknown_tool"}
        assert await recorded(shop) == 100
        assert len(shop.packets(RecordType.REFUSED)) == 10
        assert sum("comptroller/receipt" in a.meta for a in answers) == 10
        assert len(shop.packets(RecordType.REFUSALS_COUNTED)) <= 10


@pytest.mark.parametrize("tool", ["nothing", "resume_call", "issue_refund", "lookup_invoice"])
async def test_a_principal_that_gets_nowhere_is_stopped_at_once_whatever_it_tries(
    tmp_path: Path, tool: str
) -> None:
    async with opened(tmp_path, quotas(20, 5)) as shop:
        answers = [await shop.call(tool, {"call": "x"}) for _ in range(40)]
        assert [code_of(a) for a in answers].count("overloaded") == 20
        assert details_of(answers[-1])["retry"].startswith("after:")
        assert code_of(await shop.call("lookup_invoice", invoice_id=shop.paid()[0])) == "overloaded"
        other = shop.other(subject="someone")
        assert code_of(await shop.call("lookup_invoice", invoice_id=shop.paid()[0], subject=other)) is None
        assert await recorded(shop) == 41
        shop.clock.pass_s(61)
        assert code_of(await shop.call("lookup_invoice", invoice_id=shop.paid()[0])) is None


async def test_replays_are_attempts_too(tmp_path: Path) -> None:
    def patient(config: dict[str, Any]) -> None:
        quotas(5, 5)(config)
        config["limits"]["identical_calls_max"] = 100

    async with opened(tmp_path, patient) as shop:
        invoice = shop.paid()[0]
        call = call_of(await shop.refund(invoice, 5))
        answers = [await shop.refund(invoice, 5) for _ in range(7)]
        assert [code_of(a) for a in answers] == [None] * 5 + ["overloaded"] * 2
        assert code_of(await shop.resume(call)) == "overloaded"
        assert len(shop.moved()) == 1


async def test_counts_that_could_not_be_written_are_kept(tmp_path: Path) -> None:
    faults = Faults()
    async with opened(tmp_path, quotas(1_000, 0), faults=faults) as shop:
        for at in range(7):
            await shop.call(f"nothing_{at}")

        def broken() -> None:
            raise OSError(28, "No space left on device")

        faults.at["commit.begin"] = broken
        await asyncio.sleep(0)
        with pytest.raises(Exception, match="could not write"):
            await flush_counted(shop.service)
        faults.at.clear()
        assert await recorded(shop) == 7


async def test_too_many_calls_at_once_are_refused_before_their_commit(tmp_path: Path) -> None:
    def narrow(config: dict[str, Any]) -> None:
        tool_of(config, "issue_refund")["limits"]["concurrency_max"] = 1
        config["limits"] = {"in_flight_max": 1, "queue_max": 1}

    async with opened(tmp_path, narrow) as shop:
        reached, go = tmp_path / "reached", tmp_path / "go"
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.HANG, until=go, reached=reached, times=1))
        invoices = shop.paid()
        running = asyncio.create_task(shop.refund(invoices[0], 5))
        await until(reached.exists)
        others = [asyncio.create_task(shop.refund(invoice, 5)) for invoice in invoices[1:5]]
        await until(lambda: sum(task.done() for task in others) == 3)
        go.touch()
        answers = [await running, *await asyncio.gather(*others)]
        assert sorted(str(code_of(a)) for a in answers) == ["None", "None"] + ["overloaded"] * 3
        assert len(shop.moved()) == len(shop.calls(CallState.DONE)) == 2
