from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.published import check_packet
from comptroller_audit.vocabulary import RecordType
from comptroller_server.call.took import TOTAL, Took
from tests.scenarios.kit import Clock, Shop, code_of, opened, structured

pytestmark = pytest.mark.anyio
READ_STEPS = {"validate", "decide", "look_up", "wait", "run", "verify", "release", "record"}


async def read_invoice(shop: Shop) -> str:
    invoice = shop.paid()[0]
    answer = await shop.call("lookup_invoice", invoice_id=invoice)
    assert structured(answer)["invoice_id"] == invoice
    return invoice


def took(packet: dict[str, Any]) -> dict[str, float]:
    told: dict[str, float] = packet["took_ms"]
    return told


async def test_a_read_says_how_long_each_of_its_steps_took(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        await read_invoice(shop)
        (packet,) = shop.packets(RecordType.READ)
    assert set(took(packet)) == {TOTAL, *READ_STEPS}
    check_packet(RecordType.READ, packet)


async def test_a_side_effect_tells_its_two_commits_apart(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        answer = await shop.refund(await read_invoice(shop), 5)
        assert not answer.is_error, answer.text
        (packet,) = shop.packets(RecordType.AUDIT)
    assert set(took(packet)) == {TOTAL, "commit", *READ_STEPS}
    check_packet(RecordType.AUDIT, packet)


async def test_steps_add_up_to_the_whole_and_time_that_passes_is_seen(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock=clock) as shop:
        invoice = await read_invoice(shop)
        shop.faults.at["dispatch.before"] = lambda: clock.pass_s(3)
        await shop.refund(invoice, 5)
        (packet,) = shop.packets(RecordType.AUDIT)
    parts = sum(ms for step, ms in took(packet).items() if step != TOTAL)
    assert parts == pytest.approx(took(packet)[TOTAL], abs=0.01)
    assert 3_000 <= took(packet)["run"] < 6_000
    assert took(packet)["decide"] < 3_000


async def test_waiting_for_the_last_commit_counts(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock=clock) as shop:
        shop.faults.at["commit.begin"] = lambda: clock.pass_s(2)
        await read_invoice(shop)
        (packet,) = shop.packets(RecordType.READ)
    assert took(packet)["record"] >= 2_000
    assert took(packet)[TOTAL] >= took(packet)["record"]


async def test_a_refusal_says_how_far_it_came(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = await read_invoice(shop)
        assert code_of(await shop.refund(invoice, 500)) == "denied"
        (packet,) = shop.packets(RecordType.REFUSED)
    assert {TOTAL, "validate"} <= set(took(packet)) < {TOTAL, *READ_STEPS}
    check_packet(RecordType.REFUSED, packet)


def test_a_step_that_comes_again_is_added_to() -> None:
    times = iter([0.0, 1.0, 3.0, 6.0, 10.0])
    watch = Took(lambda: next(times))
    for step in ("decide", "look_up", "decide"):
        watch.mark(step)
    assert watch.in_packet("record") == {
        TOTAL: 10_000.0,
        "decide": 4_000.0,
        "look_up": 2_000.0,
        "record": 4_000.0,
    }
