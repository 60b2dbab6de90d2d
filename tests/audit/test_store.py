"""The store's contract, the same on SQLite and on Postgres."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from comptroller_audit.calls import CALLS, Lost, MoveCall
from comptroller_audit.database import Row, table_of
from comptroller_audit.errors import StoreClosed, StoreUnavailable, StoreUnsuitable
from comptroller_audit.lanes import BUSY_UNITS, ThreadLane
from comptroller_audit.log import LogEntry, LogPayload
from comptroller_audit.sealing import Sealed
from comptroller_audit.store import Reader, Store
from comptroller_audit.transaction import BatchRunner
from comptroller_audit.unit import Committed, Moved, State, Stop, Stopped, Unit
from comptroller_audit.vocabulary import CallState, Code, RecordType, Refusal
from comptroller_budgets.ledger import COUNTERS, HOLDS
from tests.audit.storekit import (
    NOON,
    TENANT,
    Clock,
    Do,
    bench,
    check_log,
    commit,
    count_up,
    ids_of,
    inline,
    key_ring,
    open_call,
    open_store,
    record,
    rows_of,
    write_record,
)

pytestmark = pytest.mark.anyio

NO = Refusal(Code.DENIED, "No.")
WAIT_S_MAX = 10.0


def stop_with(stop: Stop) -> Do:
    return Do(lambda _state: stop)


def broken(_state: State) -> None:
    raise ZeroDivisionError("a defect")


def refusal_record(refusal: Refusal) -> Do:
    return write_record(RecordType.REFUSED, code=refusal.code.value)


async def test_a_unit_is_durable_when_commit_returns(store_url: str, tmp_path: Path) -> None:
    async with open_store(store_url, tmp_path) as store:
        done = await commit(store, open_call("c1"))
        assert isinstance(done, Committed)
    async with open_store(store_url, tmp_path) as again:
        row = rows_of(again, CALLS, "c1")["c1"]
        assert (row["state"], row["epoch"], row["records"]) == ("committed", 1, "0")
        assert row["created_ms"] == row["updated_ms"] == done.at_ms == NOON
        assert len(check_log(again)) == 1


async def test_a_receipt_names_the_entry_and_its_leaf(store_url: str, tmp_path: Path) -> None:
    async with open_store(store_url, tmp_path) as store:
        first = await commit(store, count_up(), count_up())
        second = await commit(store, count_up())
        assert isinstance(first, Committed)
        assert isinstance(second, Committed)
        assert [receipt.index for receipt in (*first.receipts, *second.receipts)] == [0, 1, 2]
        assert {receipt.log for receipt in first.receipts} == {TENANT}
        leaves = store.read_now(_leaves)
        assert [receipt.leaf for receipt in (*first.receipts, *second.receipts)] == leaves


def _leaves(reader: Reader) -> list[str]:
    table = table_of(LogEntry)
    return [bytes(leaf).hex() for (leaf,) in reader.query(select(table.c.leaf).order_by(table.c.idx))]


async def test_a_payload_opens_with_the_key_ring_and_only_at_its_place(
    store_url: str, tmp_path: Path
) -> None:
    async with open_store(store_url, tmp_path) as store:
        await commit(store, write_record(secret="4711"))

        def sealed(reader: Reader) -> list[tuple[Any, ...]]:
            table = table_of(LogPayload)
            return reader.query(select(table.c.key_id, table.c.wrapped, table.c.sealed))

        [(key_id, wrapped, payload)] = store.read_now(sealed)
        assert b"4711" not in bytes(payload)
        opened = key_ring(tmp_path).unseal(TENANT, 0, Sealed(key_id, bytes(wrapped), bytes(payload)))
        assert b'"secret":"4711"' in opened


async def test_a_unit_that_stops_leaves_nothing_but_the_record_of_its_refusal(
    store_url: str, tmp_path: Path
) -> None:
    async with open_store(store_url, tmp_path) as store:
        stopped = await commit(store, count_up(), open_call("c"), stop_with(NO), on_refusal=refusal_record)
        assert isinstance(stopped, Stopped)
        assert stopped.stop is NO
        assert [receipt.index for receipt in stopped.receipts] == [0]
        assert rows_of(store, COUNTERS, "n") == {}
        assert rows_of(store, CALLS, "c") == {}
        assert [envelope["type"] for envelope in check_log(store)] == ["refused"]


async def test_a_moved_basis_leaves_nothing_at_all(store_url: str, tmp_path: Path) -> None:
    async with open_store(store_url, tmp_path) as store:
        stopped = await commit(store, count_up(), stop_with(Moved("history")), on_refusal=refusal_record)
        assert stopped == Stopped(Moved("history"), NOON, ())
        assert check_log(store) == []
        assert rows_of(store, COUNTERS, "n") == {}


async def test_a_stopped_unit_takes_back_what_it_did_to_the_head(store_url: str, tmp_path: Path) -> None:
    def turn(state: State) -> None:
        state.head.switch_seq += 1
        state.head.bundle = "other"

    async with open_store(store_url, tmp_path) as store:
        await commit(store, count_up())
        await commit(store, Do(turn), stop_with(NO), on_refusal=refusal_record)
        head = store.read_now(lambda reader: reader.head(TENANT))
        assert head is not None
        assert (head.switch_seq, head.bundle) == (0, "")
        await commit(store, Do(turn))
        head = store.read_now(lambda reader: reader.head(TENANT))
        assert head is not None
        assert (head.size, head.switch_seq, head.bundle) == (2, 1, "other")


async def test_many_at_once_share_batches_and_each_sees_what_was_written_before(
    store_url: str, tmp_path: Path
) -> None:
    begun: list[str] = []
    async with open_store(store_url, tmp_path, fault=begun.append) as store:
        await asyncio.gather(*(commit(store, count_up()) for _ in range(100)))
        assert rows_of(store, COUNTERS, "n")["n"]["used"] == 100
        assert begun.count("commit.begin") < 100
        assert len(check_log(store)) == 100


async def test_one_refusal_in_a_batch_does_not_touch_the_others(store_url: str, tmp_path: Path) -> None:
    async with open_store(store_url, tmp_path) as store:
        outcomes = await asyncio.gather(
            *(
                commit(
                    store, count_up(), *([stop_with(NO)] if at % 3 == 0 else []), on_refusal=refusal_record
                )
                for at in range(30)
            )
        )
        assert [isinstance(outcome, Stopped) for outcome in outcomes] == [at % 3 == 0 for at in range(30)]
        assert rows_of(store, COUNTERS, "n")["n"]["used"] == 20
        assert sorted(envelope["type"] for envelope in check_log(store)) == ["action"] * 20 + ["refused"] * 10
        assert sorted(outcome.receipts[0].index for outcome in outcomes) == list(range(30))


async def test_an_apply_that_raises_fails_only_its_own_unit(store_url: str, tmp_path: Path) -> None:
    async with open_store(store_url, tmp_path) as store:
        outcomes = await asyncio.gather(
            commit(store, count_up()),
            commit(store, count_up(), Do(broken)),
            commit(store, count_up()),
            return_exceptions=True,
        )
        assert isinstance(outcomes[1], ZeroDivisionError)
        assert isinstance(outcomes[0], Committed)
        assert isinstance(outcomes[2], Committed)
        assert rows_of(store, COUNTERS, "n")["n"]["used"] == 2
        assert len(check_log(store)) == 2


async def test_a_stop_iteration_in_a_part_reaches_the_caller_as_an_error(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/s.db", tmp_path) as store:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wait_for(commit(store, Do(lambda _state: next(iter(())))), 30)


async def test_when_the_record_of_a_refusal_fails_nothing_of_it_stays(store_url: str, tmp_path: Path) -> None:
    def write_then_break(state: State) -> None:
        state.append(record())
        state.put(COUNTERS, "n", {"used": 99, "held": 0})
        broken(state)

    async with open_store(store_url, tmp_path) as store:
        failed, fine = await asyncio.gather(
            commit(store, stop_with(NO), on_refusal=lambda _refusal: Do(write_then_break)),
            commit(store, count_up("other")),
            return_exceptions=True,
        )
        assert isinstance(failed, ZeroDivisionError)
        assert isinstance(fine, Committed)
        assert rows_of(store, COUNTERS, "n") == {}
        assert len(check_log(store)) == 1


async def test_a_batch_whose_writes_fail_is_run_again_unit_by_unit(store_url: str, tmp_path: Path) -> None:
    def too_big(state: State) -> None:
        state.put(COUNTERS, "huge", {"used": 1 << 70, "held": 0})
        state.append(record())

    async with open_store(store_url, tmp_path) as store:
        outcomes = await asyncio.gather(
            *(commit(store, count_up()) for _ in range(5)),
            commit(store, Do(too_big)),
            *(commit(store, count_up()) for _ in range(5)),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [Committed] * 5 + [StoreUnavailable] + [
            Committed
        ] * 5
        assert rows_of(store, COUNTERS, "n")["n"]["used"] == 10
        assert rows_of(store, COUNTERS, "huge") == {}
        assert len(check_log(store)) == 10


async def test_a_packet_without_json_fails_its_unit_only(store_url: str, tmp_path: Path) -> None:
    async with open_store(store_url, tmp_path) as store:
        outcomes = await asyncio.gather(
            commit(store, count_up()),
            commit(store, write_record(x=float("nan"))),
            return_exceptions=True,
        )
        assert isinstance(outcomes[0], Committed)
        assert isinstance(outcomes[1], StoreUnavailable)
        assert len(check_log(store)) == 1


async def test_record_time_never_decreases_when_the_clock_goes_back(store_url: str, tmp_path: Path) -> None:
    clock = Clock()
    async with open_store(store_url, tmp_path, clock) as store:
        await commit(store, count_up())
        clock.wall_ms -= 3_600_000
        back = await commit(store, count_up())
        assert isinstance(back, Committed)
        assert back.at_ms == NOON
        clock.wall_ms = NOON + 5
        await commit(store, count_up())
        assert [envelope["t"] for envelope in check_log(store)] == [NOON, NOON, NOON + 5]


async def test_tenants_have_logs_rows_and_heads_of_their_own(store_url: str, tmp_path: Path) -> None:
    async with open_store(store_url, tmp_path) as store:
        await asyncio.gather(*(commit(store, count_up(), tenant=f"tenant-{at % 3}") for at in range(30)))
        for tenant in ("tenant-0", "tenant-1", "tenant-2"):
            assert len(check_log(store, tenant)) == 10
            assert rows_of(store, COUNTERS, "n", tenant=tenant)["n"]["used"] == 10


async def test_the_tree_is_right_at_every_size(store_url: str, tmp_path: Path) -> None:
    async with open_store(store_url, tmp_path) as store:
        for size in range(1, 34):
            await commit(store, count_up())
            if size in (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33):
                assert len(check_log(store)) == size


async def test_odd_text_survives_in_every_column(store_url: str, tmp_path: Path) -> None:
    names = ["", "ß 🧾 ", "'; DROP TABLE calls; --", "%(tenant)s :ids ?", '["x"]', "a" * 4000]

    def write(state: State) -> None:
        for name in names:
            state.put(HOLDS, name, {"state": name, "items": name})

    async with open_store(store_url, tmp_path) as store:
        await commit(store, Do(write))
        assert rows_of(store, HOLDS, *names) == {name: {"state": name, "items": name} for name in names}


async def test_a_row_that_no_part_named_is_still_found(store_url: str, tmp_path: Path) -> None:
    seen: list[int] = []

    def look(state: State) -> None:
        row = state.get(COUNTERS, "n")
        seen.append(row["used"] if row else -1)

    async with open_store(store_url, tmp_path) as store:
        await commit(store, count_up(by=7))
        await commit(store, Do(look))
        assert seen == [7]


async def test_the_unit_of_a_cancelled_waiter_is_durable_all_the_same(store_url: str, tmp_path: Path) -> None:
    async with open_store(store_url, tmp_path) as store:
        await commit(store, count_up())
        waiter = asyncio.create_task(commit(store, count_up()))
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        await commit(store, count_up())
        assert rows_of(store, COUNTERS, "n")["n"]["used"] == 3
        assert len(check_log(store)) == 3


async def test_close_finishes_what_was_submitted_and_refuses_what_comes_after(
    store_url: str, tmp_path: Path
) -> None:
    async with open_store(store_url, tmp_path) as store:
        pending = [asyncio.create_task(commit(store, count_up())) for _ in range(20)]
        await asyncio.sleep(0)
        await store.close()
        assert all(isinstance(outcome, Committed) for outcome in await asyncio.gather(*pending))
        with pytest.raises(StoreClosed):
            await commit(store, count_up())
        with pytest.raises(StoreClosed):
            rows_of(store, COUNTERS, "n")
    async with open_store(store_url, tmp_path) as again:
        assert rows_of(again, COUNTERS, "n")["n"]["used"] == 20


def test_a_loop_that_is_gone_does_not_end_the_writer(tmp_path: Path) -> None:
    clock = Clock()
    store = Store.open(f"sqlite:///{tmp_path}/s.db", key_ring(tmp_path), clock, ids_of(clock))

    async def leave_without_waiting() -> None:
        waiter = asyncio.create_task(commit(store, count_up()))
        await asyncio.sleep(0)
        waiter.cancel()

    async def use() -> None:
        await asyncio.wait_for(commit(store, count_up()), 30)
        await store.close()

    asyncio.run(leave_without_waiting())
    asyncio.run(use())


async def test_behind_a_large_batch_the_next_one_waits_a_moment_for_more_and_a_lone_commit_never(
    tmp_path: Path,
) -> None:
    pauses: list[float] = []
    running, go_on = threading.Event(), threading.Event()

    def hold(_state: State) -> None:
        running.set()
        assert go_on.wait(30)

    def paused(runner: BatchRunner) -> ThreadLane:
        return ThreadLane(runner, pauses.append)

    async with open_store(f"sqlite:///{tmp_path}/s.db", tmp_path, lane=paused) as store:
        held = asyncio.create_task(commit(store, Do(hold)))
        assert await asyncio.to_thread(running.wait, 30)
        together = [asyncio.create_task(commit(store, count_up())) for _ in range(BUSY_UNITS)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the turn in which they were submitted is over
        go_on.set()
        await asyncio.gather(held, *together)
        assert pauses == []
        await commit(store, count_up())
        assert len(pauses) == 1
        await commit(store, count_up())
        assert len(pauses) == 1
        assert rows_of(store, COUNTERS, "n")["n"]["used"] == BUSY_UNITS + 2


async def test_the_inline_lane_commits_before_it_returns(store_url: str, tmp_path: Path) -> None:
    async with open_store(store_url, tmp_path, lane=inline) as store:
        for _ in range(3):
            await commit(store, count_up())
        assert rows_of(store, COUNTERS, "n")["n"]["used"] == 3
        assert len(check_log(store)) == 3


async def test_reads_see_the_newest_commit_at_once(store_url: str, tmp_path: Path) -> None:
    async with open_store(store_url, tmp_path) as store:
        for expected in range(1, 20):
            await commit(store, count_up())
            rows = await store.read(lambda reader: reader.row(TENANT, COUNTERS, "n"))
            assert rows is not None
            assert rows["used"] == expected


async def test_what_one_commit_changed_is_never_read_in_part(store_url: str, tmp_path: Path) -> None:
    async with open_store(store_url, tmp_path) as store, open_store(store_url, tmp_path) as other:
        await commit(store, count_up("a"), count_up("b"))

        def read(reader: Reader) -> tuple[Row | None, ...]:
            first = reader.row(TENANT, COUNTERS, "a")
            committed = asyncio.run_coroutine_threadsafe(commit(other, count_up("a"), count_up("b")), loop)
            committed.result(WAIT_S_MAX)
            return first, reader.row(TENANT, COUNTERS, "b")

        loop = asyncio.get_running_loop()
        first, second = await asyncio.to_thread(store.read_now, read)
        assert first == second == {"used": 1, "held": 0}
        assert store.read_now(lambda reader: reader.row(TENANT, COUNTERS, "b")) == {"used": 2, "held": 0}


async def test_the_newest_of_two_writers_of_a_row_wins_within_a_batch(store_url: str, tmp_path: Path) -> None:
    """A compare-and-set in one batch is decided by order, not by the row's state before the batch."""

    def finish(to: CallState) -> MoveCall:
        return MoveCall("c", CallState.COMMITTED, to, 1, record(RecordType.AUDIT))

    async with open_store(store_url, tmp_path) as store:
        await commit(store, open_call("c"))
        outcomes = await asyncio.gather(
            commit(store, finish(CallState.DONE)), commit(store, finish(CallState.IN_DOUBT))
        )
        assert isinstance(outcomes[0], Committed)
        assert isinstance(outcomes[1], Stopped)
        assert isinstance(outcomes[1].stop, Lost)
        assert rows_of(store, CALLS, "c")["c"]["state"] == "done"
        assert len(check_log(store)) == 2


def test_units_without_a_store_behave_the_same() -> None:
    """The bench used by the other tests keeps the same semantics."""
    table = bench()
    assert table.run(count_up(), stop_with(NO), on_refusal=refusal_record) is NO
    assert table.rows == {}
    assert [entry.type for entry in table.log] == [RecordType.REFUSED]
    assert table.run(count_up()) is None
    assert table.row(COUNTERS, "n")["used"] == 1


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("sqlite://", "file path"),
        ("sqlite:///:memory:", "file path"),
        ("mysql+pymysql://x/y", "mysql"),
        ("sqlite:////tmp/Dropbox/x.db", "synchronised"),
        ("sqlite:////dev/null/x.db", "cannot be created"),
    ],
)
def test_a_place_that_cannot_keep_the_promises_is_refused(url: str, part: str, tmp_path: Path) -> None:
    with pytest.raises(StoreUnsuitable, match=part):
        Store.open(url, key_ring(tmp_path), Clock(), ids_of(Clock()))


async def test_sqlite_is_durable_and_its_file_is_private(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/deep/s.db", tmp_path) as store:
        assert (tmp_path / "deep" / "s.db").stat().st_mode & 0o777 == 0o600

        def pragmas(reader: Reader) -> list[Any]:
            names = ("journal_mode", "synchronous", "wal_autocheckpoint", "mmap_size")
            return [reader.connection.execute(f"PRAGMA {name}").fetchone() for name in names]

        journal, synchronous, automatic, mapped = store.read_now(pragmas)
        assert (journal[0], synchronous[0], automatic[0]) == ("wal", 2, 0)
        assert not mapped or mapped[0] == 0


async def test_the_write_ahead_log_is_folded_and_a_reader_does_not_stop_writers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comptroller_audit.database.WAL_BYTES_MAX", 100_000)
    wal = tmp_path / "s.db-wal"

    def bulky(state: State) -> None:
        state.append(record(text="x" * 50_000))

    async with open_store(f"sqlite:///{tmp_path}/s.db", tmp_path) as store:
        for _ in range(10):
            await commit(store, Do(bulky))
        assert wal.stat().st_size < 300_000
        reader = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM log_entry").fetchone()
        for _ in range(10):
            await asyncio.wait_for(commit(store, Do(bulky)), 30)
        assert wal.stat().st_size > 300_000
        reader.execute("COMMIT")
        reader.close()
        for _ in range(10):
            await commit(store, Do(bulky))
        assert wal.stat().st_size < 300_000
        assert len(check_log(store)) == 30


def test_a_unit_may_have_no_parts() -> None:
    assert bench().run(*Unit(()).parts) is None
