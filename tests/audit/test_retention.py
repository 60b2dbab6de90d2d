"""Retention on both databases: what is erased, what never is, and that the verifier can tell an erasure from a theft."""

from __future__ import annotations

import contextlib
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import bindparam, create_engine, delete, select

from comptroller_audit.calls import CALLS, MoveCall
from comptroller_audit.checkpoint import vkey_of
from comptroller_audit.database import table_of
from comptroller_audit.log import LogPayload
from comptroller_audit.packets import LogRecord
from comptroller_audit.retention import first_at, spans_of
from comptroller_audit.store import Reader, Store
from comptroller_audit.verify import verify
from comptroller_audit.vocabulary import CallState, RecordType
from comptroller_server.upkeep.retention import DAY_MS, Retention
from tests.audit.storekit import (
    TENANT,
    Clock,
    commit,
    inline,
    key_ring,
    open_call,
    open_store,
    record,
    write_record,
)

pytestmark = pytest.mark.anyio
SECRET = "the-customers-own-words"


def payloads(store: Store) -> list[int]:
    table = table_of(LogPayload)
    there = select(table.c.idx).where(table.c.tenant == bindparam("tenant")).order_by(table.c.idx)
    return [int(index) for (index,) in store.read_now(lambda reader: reader.query(there, tenant=TENANT))]


def kept(store: Store, clock: Clock, days: int | None = 30, jump_days: float = 365) -> Retention:
    return Retention(store, clock, days, jump_days * 86_400)


def proved(url: str, folder: Path) -> int:
    """Payloads erased, by the independent verifier; fails on any finding."""
    report = verify(url, vkey=vkey_of(key_ring(folder).signer), ring=folder / "keys.json")
    assert report.ok, list(report.lines())
    return sum(tenant.erased for tenant in report.tenants)


async def test_payloads_older_than_the_days_are_erased_and_the_log_still_verifies(
    tmp_path: Path, store_url: str
) -> None:
    clock = Clock()
    async with open_store(store_url, tmp_path, clock) as store:
        for day in range(40):
            await commit(store, write_record(RecordType.READ, call=f"c{day}", said=SECRET))
            clock.pass_ms(DAY_MS)
        done = await kept(store, clock).round(TENANT)
        assert (done.overdue, done.erased, done.stopped) == (10, 10, None)
        assert payloads(store) == list(range(10, 41))  # the eleventh day is exactly thirty days old
        assert (await kept(store, clock).round(TENANT)).erased == 0
    assert proved(store_url, tmp_path) == 10


async def test_a_payload_is_kept_until_it_is_as_old_as_the_days_say(tmp_path: Path, store_url: str) -> None:
    clock = Clock()
    async with open_store(store_url, tmp_path, clock) as store:
        await commit(store, write_record(RecordType.READ))
        clock.pass_ms(30 * DAY_MS)
        assert (await kept(store, clock).round(TENANT)).erased == 0
        clock.pass_ms(1)
        assert (await kept(store, clock).round(TENANT)).erased == 1


async def test_calls_that_are_not_over_keep_their_payloads(tmp_path: Path, store_url: str) -> None:
    clock = Clock()
    async with open_store(store_url, tmp_path, clock) as store:
        await commit(store, open_call("waits", CallState.PENDING))
        await commit(store, open_call("runs"))
        await commit(store, open_call("unknown"))
        doubt = MoveCall("unknown", CallState.COMMITTED, CallState.IN_DOUBT, 1, record(RecordType.AUDIT))
        await commit(store, doubt)
        await commit(store, open_call("over", CallState.DONE))
        clock.pass_ms(31 * DAY_MS)
        assert (await kept(store, clock).round(TENANT)).erased == 1
        assert payloads(store) == [0, 1, 2, 3, 5]
        settled = MoveCall("unknown", CallState.IN_DOUBT, CallState.DONE, 1, record(RecordType.RESOLVED))
        await commit(store, settled)
        assert (await kept(store, clock).round(TENANT)).erased == 2
    assert proved(store_url, tmp_path) == 3


async def test_what_the_log_says_of_the_installation_is_kept(tmp_path: Path, store_url: str) -> None:
    clock = Clock()
    about = (RecordType.APPROVER_ADDED, RecordType.SWITCH_SET, RecordType.BUNDLE_ACTIVATED, RecordType.READ)
    async with open_store(store_url, tmp_path, clock) as store:
        for kind in about:
            await commit(store, write_record(kind))
        clock.pass_ms(31 * DAY_MS)
        assert (await kept(store, clock).round(TENANT)).erased == 1
        assert payloads(store) == [0, 1, 2, 4]


async def test_more_payloads_than_fit_one_commit_are_erased_in_several(tmp_path: Path) -> None:
    clock = Clock()
    async with open_store(f"sqlite:///{tmp_path / 's.db'}", tmp_path, clock) as store:
        for _ in range(11):
            await commit(store, *(write_record(RecordType.READ) for _ in range(100)))
        clock.pass_ms(31 * DAY_MS)
        looked: list[tuple[int, int]] = []
        done = await kept(store, clock).round(TENANT, progress=lambda found, at: looked.append((found, at)))
        assert done.erased == 1100
        assert [found for found, _ in looked] == [500, 1000, 1100]
        assert payloads(store) == [1100, 1101, 1102]  # the erasures' own
    assert proved(f"sqlite:///{tmp_path / 's.db'}", tmp_path) == 1100


async def test_a_dry_run_erases_nothing(tmp_path: Path, store_url: str) -> None:
    clock = Clock()
    async with open_store(store_url, tmp_path, clock) as store:
        await commit(store, write_record(RecordType.READ))
        clock.pass_ms(31 * DAY_MS)
        done = await kept(store, clock).round(TENANT, dry=True)
        assert (done.overdue, done.erased, payloads(store)) == (1, 0, [0])


async def test_without_days_nothing_is_ever_erased(tmp_path: Path, store_url: str) -> None:
    clock = Clock()
    async with open_store(store_url, tmp_path, clock) as store:
        await commit(store, write_record(RecordType.READ))
        clock.pass_ms(36_500 * DAY_MS)
        assert (await kept(store, clock, days=None).round(TENANT)).overdue == 0
        assert payloads(store) == [0]


async def test_a_clock_that_jumped_ahead_erases_nothing_until_a_person_accepts_it(
    tmp_path: Path, store_url: str
) -> None:
    clock = Clock()
    async with open_store(store_url, tmp_path, clock) as store:
        await commit(store, write_record(RecordType.READ))
        await kept(store, clock, jump_days=7).round(TENANT)
        clock.pass_ms(400 * DAY_MS)
        await commit(store, write_record(RecordType.READ))
        again = kept(store, clock, jump_days=7)  # another process, which never saw the clock before
        done = await again.round(TENANT)
        assert done.erased == 0
        assert done.stopped is not None and "--accept-clock" in done.stopped
        assert payloads(store) == [0, 1]
        await again.accept_clock(TENANT, "uid:7")
        assert (await again.round(TENANT)).erased == 1
    assert proved(store_url, tmp_path) == 1


async def test_two_processes_erase_each_payload_once(tmp_path: Path, store_url: str) -> None:
    clock = Clock()
    async with open_store(store_url, tmp_path, clock) as one, open_store(store_url, tmp_path, clock) as two:
        await commit(one, *(write_record(RecordType.READ) for _ in range(20)))
        clock.pass_ms(31 * DAY_MS)
        rounds = [await kept(store, clock).round(TENANT) for store in (one, two)]
        assert sorted(done.erased for done in rounds) == [0, 20]
    assert proved(store_url, tmp_path) == 20


async def test_a_round_tells_how_far_it_is_of_what_it_looks_at(tmp_path: Path, store_url: str) -> None:
    clock = Clock()
    async with open_store(store_url, tmp_path, clock) as store:
        for _ in range(3):
            await commit(store, *(write_record(RecordType.READ) for _ in range(400)))
        clock.pass_ms(31 * DAY_MS)
        await commit(store, *(write_record(RecordType.READ) for _ in range(7)))
        for dry in (True, False):
            told: list[tuple[int, int]] = []

            def tell(looked_at: int, of: int, told: list[tuple[int, int]] = told) -> None:
                told.append((looked_at, of))

            done = await kept(store, clock).round(TENANT, dry=dry, progress=tell)
            assert told == [(500, 1200), (1000, 1200), (1200, 1200)]
            assert (done.overdue, done.erased) == (1200, 0 if dry else 1200)


async def test_a_payload_that_goes_without_an_erasure_entry_is_found(tmp_path: Path, store_url: str) -> None:
    async with open_store(store_url, tmp_path) as store:
        await commit(store, *(write_record(RecordType.READ) for _ in range(3)))
    engine, table = create_engine(store_url), table_of(LogPayload)
    with engine.begin() as connection:
        connection.execute(delete(table).where(table.c.idx == 1))
    engine.dispose()
    report = verify(store_url, vkey=vkey_of(key_ring(tmp_path).signer), ring=tmp_path / "keys.json")
    assert not report.ok
    assert any("no later erasure entry names them" in line for line in report.lines())


@pytest.mark.parametrize("stopped", [False, True], ids=["to its end", "stopped after the first commit"])
async def test_an_erased_payload_is_in_no_page_of_the_files(tmp_path: Path, stopped: bool) -> None:
    """By its ciphertext, which is what a thief with the key file would look for."""
    clock, file = Clock(), tmp_path / "s.db"
    async with open_store(f"sqlite:///{file}", tmp_path, clock) as store:
        await commit(store, *(write_record(RecordType.READ, said=SECRET * 20, at=n) for n in range(50)))
        table = table_of(LogPayload)
        of = select(table.c.sealed).where(table.c.tenant == bindparam("tenant"))
        sealed = [bytes(one) for (one,) in store.read_now(lambda reader: reader.query(of, tenant=TENANT))]
        clock.pass_ms(31 * DAY_MS)

        def told(_looked_at: int, _of: int) -> None:
            if stopped:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt) if stopped else contextlib.nullcontext():
            await kept(store, clock).round(TENANT, progress=told)
        assert payloads(store) == [50]  # the erasure's own
        left = _bytes_of(file)
        assert len(sealed) == 50
        assert not [one for one in sealed if one[40:200] in left]


@settings(max_examples=15)
@given(st.lists(st.integers(0, 3), max_size=20), st.integers(0, 30))
async def test_the_first_entry_of_a_moment_is_found(steps: list[int], ahead: int) -> None:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        async with open_store(f"sqlite:///{folder}/s.db", Path(folder), clock, lane=inline) as store:
            times: list[int] = []
            for step in steps:
                clock.pass_ms(step)
                await commit(store, write_record(RecordType.READ))
                times.append(clock.now_ms())
            moment = Clock().now_ms() + ahead
            wanted = sum(time < moment for time in times)
            assert store.read_now(lambda reader: first_at(reader, TENANT, moment)) == wanted


@given(st.sets(st.integers(0, 60)))
def test_spans_hold_exactly_their_indexes(indexes: set[int]) -> None:
    spans = spans_of(sorted(indexes))
    assert [index for first, last in spans for index in range(first, last + 1)] == sorted(indexes)
    assert all(after[0] > before[1] + 1 for before, after in pairwise(spans))


_STEPS = st.lists(
    st.sampled_from(["read", "open", "close", "wait", "round", "day", "week", "forty days"]), max_size=25
)


@settings(max_examples=15)
@given(_STEPS)
async def test_whatever_happens_the_log_verifies_and_open_calls_are_whole(steps: list[str]) -> None:
    clock, calls = Clock(), 0
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = f"sqlite:///{folder}/s.db"
        open_calls: dict[str, list[int]] = {}
        async with open_store(url, folder, clock, lane=inline) as store:
            for step in steps:
                size = store.read_now(_size)
                if step == "read":
                    await commit(store, write_record(RecordType.READ))
                elif step in ("open", "wait"):
                    calls += 1
                    state = CallState.COMMITTED if step == "open" else CallState.PENDING
                    await commit(store, open_call(f"c{calls}", state))
                    open_calls[f"c{calls}"] = [size]
                elif step == "close" and (running := [c for c in open_calls if open_calls[c]]):
                    call = running[0]
                    row = _state(store, call)
                    to = CallState.DONE if row == CallState.COMMITTED else CallState.VOID
                    closed = LogRecord(RecordType.CALL_CLOSED, {"v": 1})
                    await commit(store, MoveCall(call, row, to, 1, closed))
                    del open_calls[call]
                elif step == "round":
                    await kept(store, clock).round(TENANT)
                    there = set(payloads(store))
                    assert all(index in there for indexes in open_calls.values() for index in indexes)
                clock.pass_ms({"day": 1, "week": 7, "forty days": 40}.get(step, 0) * DAY_MS)
        proved(url, folder)


def _bytes_of(file: Path) -> bytes:
    return b"".join(Path(f"{file}{end}").read_bytes() for end in ("", "-wal"))


def _size(reader: Reader) -> int:
    head = reader.head(TENANT)
    return head.size if head is not None else 0


def _state(store: Store, call: str) -> CallState:
    row = store.read_now(lambda reader: reader.row(TENANT, CALLS, call))
    assert row is not None
    return CallState(row["state"])
