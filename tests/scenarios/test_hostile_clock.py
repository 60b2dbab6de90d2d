"""A machine that starts with a clock far ahead: nothing is erased by it, and nothing is given twice once it is mended."""

from __future__ import annotations

import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comptroller_audit.errors import StoreUnsuitable
from comptroller_audit.retention import Erase, silence
from comptroller_audit.vocabulary import RecordType
from comptroller_server.upkeep.retention import DAY_MS, UNUSED_DAYS_MAX, Retention
from tests.audit.storekit import TENANT, commit, inline, open_store, write_record
from tests.audit.storekit import Clock as SetClock
from tests.audit.test_retention import payloads
from tests.scenarios.kit import NOON, Clock, code_of, opened
from tests.server.cli_kit import accepting_own_files, run_in_thread

pytestmark = pytest.mark.anyio
DAY_S = 86_400.0
WEEK_S = 7 * DAY_S


def daily(config: dict[str, Any]) -> None:
    """Forty dollars of refunds a day, and what is older than a month is erased."""
    accepting_own_files(config)
    config["budgets"] = {"windows": [{"scope": "tenant", "window": "day", "unit": "refunded_usd", "max": 40}]}
    config["logging"] = {"retention_days": 30}


# -- retention --------------------------------------------------------------------------------------------------------


async def test_a_first_round_under_a_clock_that_is_years_ahead_erases_nothing(
    tmp_path: Path, store_url: str
) -> None:
    """`retention_days` is new, or the store is: no earlier round says what time it can be."""
    clock = SetClock()
    async with open_store(store_url, tmp_path, clock) as store:
        for _ in range(3):
            await commit(store, write_record(RecordType.READ))
            clock.pass_ms(DAY_MS)
        clock.pass_ms(4_000 * DAY_MS)
        await commit(store, write_record(RecordType.READ))  # what a process writes when it starts
        retention = Retention(store, clock, 30, WEEK_S)
        done = await retention.round(TENANT)
        assert done.stopped is not None
        assert "--accept-clock" in done.stopped
        clock.pass_ms(DAY_MS)
        assert (await retention.round(TENANT)).stopped  # time that goes on proves nothing
        assert payloads(store) == [0, 1, 2, 3]
        clock.pass_ms(-4_001 * DAY_MS)  # mended
        assert (await retention.round(TENANT)).erased == 0
        assert payloads(store) == [0, 1, 2, 3]


async def test_a_store_that_is_used_every_day_is_tidied_in_its_first_round(tmp_path: Path) -> None:
    clock = SetClock()
    async with open_store(f"sqlite:///{tmp_path / 's.db'}", tmp_path, clock) as store:
        for _ in range(40):
            await commit(store, write_record(RecordType.READ))
            clock.pass_ms(DAY_MS)
        done = await Retention(store, clock, 30, WEEK_S).round(TENANT)
        assert (done.erased, done.stopped) == (10, None)


async def test_erasing_one_persons_payloads_does_not_vouch_for_the_clock(
    tmp_path: Path, store_url: str
) -> None:
    """It would be the first word on what time it is, and the next round erased everything."""
    clock = SetClock()
    async with open_store(store_url, tmp_path, clock) as store:
        for _ in range(3):
            await commit(store, write_record(RecordType.READ))
        clock.pass_ms(4_000 * DAY_MS)
        now = clock.now_ms()
        await commit(store, Erase([1], now, now, 0, subject="digest", by="uid:7", reason="asked"))
        done = await Retention(store, clock, 30, WEEK_S).round(TENANT)
        assert done.stopped is not None
        assert payloads(store) == [0, 2, 3]


@settings(max_examples=40)
@given(st.lists(st.integers(0, 5 * DAY_MS), min_size=1, max_size=12), st.integers(0, 5 * DAY_MS))
async def test_a_silence_of_the_record_is_found_wherever_it_is(steps: list[int], rest: int) -> None:
    clock = SetClock()
    with tempfile.TemporaryDirectory() as folder:
        async with open_store(f"sqlite:///{folder}/s.db", Path(folder), clock, lane=inline) as store:
            times: list[int] = []
            for step in steps:
                clock.pass_ms(step)
                await commit(store, write_record(RecordType.READ))
                times.append(clock.now_ms())
            times.append(clock.now_ms() + rest)
            wanted = [(one, two) for one, two in pairwise(times) if two - one > 2 * DAY_MS]
            found = store.read_now(lambda reader: silence(reader, TENANT, 2 * DAY_MS, times[-1]))
            assert found == (wanted[0] if wanted else None)


# -- serving ----------------------------------------------------------------------------------------------------------


async def test_a_store_is_not_served_in_a_time_that_nobody_would_believe(tmp_path: Path) -> None:
    async with opened(tmp_path, daily) as shop:
        waiting = await shop.pending(shop.paid()[1])
        assert code_of(await shop.refund(shop.paid()[6], 18)) is None
        size = len(shop.log())
    ahead = Clock(NOON + (UNUSED_DAYS_MAX + 10) * DAY_MS)
    with pytest.raises(StoreUnsuitable, match="--accept-clock"):
        async with opened(tmp_path, daily, clock=ahead):
            pass
    async with opened(tmp_path, daily, clock=Clock(NOON + 60_000)) as shop:  # mended
        assert not any(entry.at_ms > NOON + DAY_MS for entry in shop.log())
        assert len(shop.log()) - size <= 1  # that it began
        assert shop.state(waiting) == "pending"
        assert code_of(await shop.refund(shop.paid()[7], 18)) is None
        assert code_of(await shop.refund(shop.paid()[8], 9)) == "budget_exhausted"
        assert len(shop.moved()) == 2


async def test_a_store_that_lay_for_years_is_served_on_a_persons_word(tmp_path: Path) -> None:
    began = Clock(int((time.time() - (UNUSED_DAYS_MAX + 10) * DAY_S) * 1000))
    async with opened(tmp_path, daily, clock=began) as shop:
        assert code_of(await shop.refund(shop.paid()[0], 5)) is None
    today = Clock(int(time.time() * 1000))
    with pytest.raises(StoreUnsuitable):
        async with opened(tmp_path, daily, clock=today):
            pass
    assert (await run_in_thread(tmp_path, "retention", "run", "--accept-clock")).exit_code == 0
    async with opened(tmp_path, daily, clock=Clock(int(time.time() * 1000))) as shop:
        assert len(shop.log(RecordType.CLOCK_ACCEPTED)) == 1
        assert code_of(await shop.refund(shop.paid()[1], 5)) is None


async def test_what_a_clock_that_was_ahead_gave_is_not_given_again_when_it_is_mended(tmp_path: Path) -> None:
    """Ten days ahead at the start is believed, as ten days without work are: one window more, never two."""
    async with opened(tmp_path, daily) as shop:
        waiting = await shop.pending(shop.paid()[1])
        for invoice in shop.paid()[6:8]:
            assert code_of(await shop.refund(invoice, 18)) is None
    async with opened(tmp_path, daily, clock=Clock(NOON + 10 * DAY_MS)) as shop:
        for invoice in shop.paid()[8:10]:
            assert code_of(await shop.refund(invoice, 18)) is None
        payload = len(shop.log())
        assert (await shop.service.retention.round(TENANT)).erased == 0
        assert shop.state(waiting) in ("pending", "expired")
    async with opened(tmp_path, daily, clock=Clock(NOON + 60_000)) as shop:
        assert code_of(await shop.refund(shop.paid()[2], 9)) == "budget_exhausted"
        times = [entry.at_ms for entry in shop.log()]
        assert times == sorted(times)
        assert len(times) > payload
        assert len(shop.moved()) == 4


async def test_what_ends_by_a_clock_that_was_ahead_is_recorded_and_asked_for_again(tmp_path: Path) -> None:
    async with opened(tmp_path, daily) as shop:
        invoice = shop.paid()[1]
        waiting = await shop.pending(invoice)
    async with opened(tmp_path, daily, clock=Clock(NOON + 60 * DAY_MS)) as shop:
        assert code_of(await shop.resume(waiting)) == "approval_expired"
        assert shop.state(waiting) == "expired"
        (closed,) = shop.packets(RecordType.CALL_CLOSED)
        assert (closed["call"], closed["state"]) == (waiting, "expired")
    async with opened(tmp_path, daily, clock=Clock(NOON + 60_000)) as shop:
        assert shop.state(waiting) == "expired"
        assert code_of(await shop.resume(waiting)) == "approval_expired"
        again = await shop.pending(invoice)
        assert again != waiting
        assert shop.moved() == []
