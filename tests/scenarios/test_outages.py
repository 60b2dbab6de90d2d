"""A store that cannot write: no record, no effect; and an effect that happened is recorded as soon as it can be."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.database import Database
from comptroller_audit.vocabulary import CallState, RecordType
from comptroller_server.upkeep.readiness import UNPROVED_S
from tests.scenarios.kit import Faults, call_of, code_of, opened, until

pytestmark = pytest.mark.anyio
POINTS = ["commit.begin", "commit.before"]


def full() -> None:
    raise sqlite3.OperationalError("database or disk is full")


def read_only() -> None:
    raise sqlite3.OperationalError("attempt to write a readonly database")


def broken_disk() -> None:
    raise OSError(5, "Input/output error")


FAILURES = [full, read_only, broken_disk]


def after_dispatch(faults: Faults, point: str, failure: Callable[[], None]) -> None:
    """From the moment the tool has answered, the store fails."""

    def fail() -> None:
        faults.at[point] = failure

    faults.at["dispatch.after"] = fail


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("failure", FAILURES)
async def test_without_a_record_there_is_no_effect_and_no_answer(
    store_url: str, tmp_path: Path, point: str, failure: Callable[[], None]
) -> None:
    faults = Faults()
    async with opened(tmp_path, url=store_url, faults=faults) as shop:
        invoice = shop.paid()[0]
        size = len(shop.log())
        faults.at[point] = failure
        answers = [
            await shop.refund(invoice, 5),
            await shop.refund(invoice, 30),
            await shop.refund(invoice, 500),
            await shop.call("lookup_invoice", invoice_id=invoice),
            await shop.call("no_such_tool"),
        ]
        assert {code_of(a) for a in answers} == {"store_unavailable"}
        assert all(a.structured is None and "comptroller/receipt" not in a.meta for a in answers)
        assert all("inv_" not in a.text for a in answers)
        assert shop.moved() == []
        faults.at.clear()
        assert len(shop.log()) == size
        assert shop.calls() == []
        assert code_of(await shop.refund(invoice, 5)) is None
        assert len(shop.moved()) == 1


@pytest.mark.parametrize("point", POINTS)
async def test_an_outcome_that_cannot_be_written_is_in_doubt_and_is_written_later(
    store_url: str, tmp_path: Path, point: str
) -> None:
    faults = Faults()
    async with opened(tmp_path, url=store_url, faults=faults) as shop:
        invoice = shop.paid()[0]
        after_dispatch(faults, point, full)
        answer = await shop.refund(invoice, 5)
        assert code_of(answer) == "in_doubt"
        assert "comptroller/receipt" not in answer.meta
        assert answer.structured is None
        call = call_of(answer)
        assert shop.state(call) == "committed"
        assert len(shop.moved()) == 1
        faults.at.clear()
        await until(lambda: shop.state(call) == "done")
        (audit,) = shop.packets(RecordType.AUDIT)
        assert audit["verification"]["result"] == "matched"
        again = await shop.refund(invoice, 5)
        assert call_of(again) == call
        assert len(shop.moved()) == 1


async def test_an_outcome_kept_at_the_end_of_the_process_is_found_by_the_next_start(tmp_path: Path) -> None:
    faults = Faults()
    with pytest.MonkeyPatch.context() as quick:
        quick.setattr("comptroller_server.app.DRAIN_S", 0.1)
        async with opened(tmp_path, faults=faults) as shop:
            after_dispatch(faults, "commit.begin", full)
            answer = await shop.refund(shop.paid()[0], 5)
            assert code_of(answer) == "in_doubt"
    async with opened(tmp_path, clock=shop.clock) as shop:
        (found,) = shop.service.recovered
        assert (found.call, found.state) == (call_of(answer), CallState.DONE)
        assert len(shop.moved()) == 1


async def test_a_read_that_cannot_be_recorded_gives_nothing(tmp_path: Path) -> None:
    faults = Faults()
    async with opened(tmp_path, faults=faults) as shop:
        after_dispatch(faults, "commit.before", full)
        answer = await shop.call("lookup_invoice", invoice_id=shop.paid()[0])
        assert code_of(answer) == "store_unavailable"
        assert answer.structured is None
        assert "inv_" not in answer.text


async def test_a_disk_that_is_really_full_stops_side_effects_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = Database.connect
    pages = 1_000_000

    def limited(self: Database) -> Any:
        connection = connect(self)
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    def no_budgets(config: dict[str, Any]) -> None:
        config["budgets"] = {}

    monkeypatch.setattr(Database, "connect", limited)
    async with opened(tmp_path, no_budgets) as shop:
        invoices = shop.paid()
        assert code_of(await shop.refund(invoices[0], 5)) is None
        pages = 1  # SQLite takes its present size for less; what is free inside the file is used up first
        shop.store._runner._drop()  # pyright: ignore[reportPrivateUsage]  # the next connection is limited
        codes: list[str | None] = []
        while "store_unavailable" not in codes:
            assert len(codes) < 100
            codes.append(code_of(await shop.refund(invoices[len(codes) % 8], (600 + len(codes)) / 100)))
        assert set(codes) <= {None, "in_doubt", "overloaded", "store_unavailable"}
        moved = len(shop.moved())
        assert code_of(await shop.refund(invoices[9], 7)) == "store_unavailable"
        assert len(shop.moved()) == moved
        pages = 1_000_000
        shop.store._runner._drop()  # pyright: ignore[reportPrivateUsage]
        await until(lambda: not shop.calls(CallState.COMMITTED))
        assert code_of(await shop.refund(invoices[9], 7)) is None
        assert len(shop.moved()) == moved + 1
        assert len(shop.calls(CallState.DONE)) == len(shop.moved())


async def test_a_server_that_nobody_calls_finds_out_itself_that_it_cannot_write(
    store_url: str, tmp_path: Path
) -> None:
    faults = Faults()
    async with opened(tmp_path, url=store_url, faults=faults) as shop:
        readiness = shop.service.readiness
        written = shop.store.written[0]
        faults.at["commit.begin"] = read_only
        assert (await readiness.look())[0], "it wrote just now"
        assert shop.store.written[0] == written, "and a look does not write each time"
        shop.clock.pass_s(UNPROVED_S + 1)
        assert (await readiness.look())[0] is False
        faults.at.clear()
        async with asyncio.timeout(30):  # on Postgres its lease is over by then as well, and is renewed
            while not (await readiness.look())[0]:  # noqa: ASYNC110 -- nothing tells of it
                await asyncio.sleep(0.01)


async def test_an_end_that_could_not_be_signed_is_told_as_such(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        service = shop.service
        await shop.refund(shop.paid()[0], 5)
    assert service.unwritten == []
    async with opened(tmp_path, clock=shop.clock) as shop:
        service = shop.service
        await shop.refund(shop.paid()[1], 5)
        for sink in shop.service.installation.config.store.checkpoint_files:
            sink.unlink()
            sink.mkdir()  # a file no more
    assert service.unwritten == ["the last checkpoint"]


async def test_a_store_locked_by_another_program_refuses_and_goes_on_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comptroller_audit.database._BUSY_MS", 200)
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        other = sqlite3.connect(tmp_path / "comptroller.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            answers = await asyncio.gather(shop.refund(invoice, 5), shop.refund(invoice, 6))
            assert {code_of(a) for a in answers} == {"store_unavailable"}
        finally:
            other.execute("ROLLBACK")
            other.close()
        assert shop.moved() == []
        assert code_of(await shop.refund(invoice, 5)) is None


async def test_every_refund_the_desk_made_has_an_action_packet_written_before_it(tmp_path: Path) -> None:
    faults = Faults()
    seen: list[bool] = []
    async with opened(tmp_path, faults=faults) as shop:

        def look() -> None:
            actions = shop.packets(RecordType.ACTION)
            seen.append(len(actions) == len(shop.moved()) + 1)

        faults.at["dispatch.before"] = look
        for invoice in shop.paid()[:4]:
            assert code_of(await shop.refund(invoice, 5)) is None
        assert seen == [True] * 4
        keys = {effect.effect_key for effect in shop.moved()}
        assert keys == {packet["effect_key"] for packet in shop.packets(RecordType.ACTION)}
