"""What the store's tests share: a clock they set, small parts, an open store, its log checked, and rows read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import bindparam, select

from comptroller_audit.ambient import RandomIds
from comptroller_audit.calls import OpenCall
from comptroller_audit.database import Relation, Row, table_of
from comptroller_audit.log import Frontier, LogEntry, LogNode, LogPayload, leaf_hash
from comptroller_audit.packets import LogRecord
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import FaultPoint, InlineLane, Reader, Store, no_fault
from comptroller_audit.transaction import read_head
from comptroller_audit.unit import Committed, Head, Key, Part, State, Stop, Stopped, Unit
from comptroller_audit.vocabulary import CallState, RecordType, Refusal
from comptroller_budgets.ledger import COUNTERS
from comptroller_budgets.limits import Charge, Limit, Scope, Window

__all__ = [
    "BUDGET_OF_10",
    "NOON",
    "TENANT",
    "Clock",
    "Do",
    "Lane",
    "bench",
    "call_fields",
    "check_log",
    "commit",
    "count_up",
    "ids_of",
    "inline",
    "key_ring",
    "open_call",
    "open_store",
    "record",
    "rows_of",
    "write_record",
]

TENANT = "local"
NOON = 1_795_003_200_000
"""2026-11-18T12:00:00Z, milliseconds."""
Lane = Callable[[Any], Any]
BUDGET_OF_10 = Charge(Limit("calls", Scope.TASK, None, "calls", Window.TASK, 10), "budget", 1, None)


@dataclass
class Clock:
    """A clock that moves only when a test says so."""

    wall_ms: int = NOON
    seconds: float = 0.0

    def now_ms(self) -> int:
        return self.wall_ms

    def monotonic(self) -> float:
        return self.seconds

    def pass_ms(self, milliseconds: int) -> None:
        self.wall_ms += milliseconds
        self.seconds += milliseconds / 1000


@dataclass(frozen=True)
class Do:
    """A part from a function."""

    work: Callable[[State], Stop | None]
    reads: tuple[Key, ...] = ()

    def keys(self) -> Iterable[Key]:
        return self.reads

    def apply(self, state: State) -> Stop | None:
        return self.work(state)


def record(kind: RecordType = RecordType.ACTION, **packet: Any) -> LogRecord:
    return LogRecord(kind, {"v": 1, **packet})


def write_record(kind: RecordType = RecordType.ACTION, **packet: Any) -> Do:
    """A part that only appends a record."""

    def work(state: State) -> None:
        state.append(record(kind, **packet))

    return Do(work)


def count_up(name: str = "n", by: int = 1) -> Do:
    """A part that adds to one counter and appends a record of it."""

    def work(state: State) -> None:
        row = state.get(COUNTERS, name) or {"used": 0, "held": 0}
        state.put(COUNTERS, name, {**row, "used": row["used"] + by})
        state.append(record(by=by, name=name))

    return Do(work, ((COUNTERS, name),))


def call_fields(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "owner": "owner-1", "principal": "p", "actor": "a", "task": "t", "step": 1, "tool": "refund",
        "effect": "create", "claims": "", "approval": "", "code": "",
    }  # fmt: skip
    return {**fields, **changes}


def open_call(call: str, to: CallState = CallState.COMMITTED, **changes: Any) -> OpenCall:
    return OpenCall(call, to, call_fields(**changes), record(to=to.value))


@dataclass
class Bench:
    """Units run in plain Python on rows held in a dict: the store's semantics without a store."""

    clock: Clock = field(default_factory=Clock)
    head: Head = field(default_factory=lambda: Head(0, 0, 0, ""))
    rows: dict[Key, Row] = field(default_factory=dict[Key, Row])
    log: list[LogRecord] = field(default_factory=list[LogRecord])

    def run(self, *parts: Part, on_refusal: Callable[[Refusal], Part] | None = None) -> Stop | None:
        """One unit, its own transaction; returns what stopped it, or None."""
        self.head.record_ms = max(self.head.record_ms, self.clock.now_ms())
        state = State(TENANT, self.head, self._load)
        state.preload(key for part in parts for key in part.keys())  # noqa: SIM118 - a method of Part
        stop, _, _ = state.run(Unit(parts, on_refusal))
        for relation, written in state.dirty().items():
            for row_id, row in written:
                assert set(row) == set(relation.columns), (
                    f"{relation} takes {relation.columns}, not {set(row)}"
                )
                self.rows[relation, row_id] = row
        self.log += state.records
        self.head.size += len(state.records)
        return stop

    def row(self, relation: Relation, row_id: str) -> Row:
        return self.rows[relation, row_id]

    def _load(self, relation: Relation, ids: Iterable[str]) -> dict[str, Row]:
        return {row_id: self.rows[relation, row_id] for row_id in ids if (relation, row_id) in self.rows}


def bench(clock: Clock | None = None) -> Bench:
    return Bench(clock or Clock())


def key_ring(folder: Path) -> KeyRing:
    path = folder / "keys.json"
    return KeyRing.load(path) if path.exists() else KeyRing.create(path)


@contextlib.asynccontextmanager
async def open_store(
    url: str,
    folder: Path,
    clock: Clock | None = None,
    fault: FaultPoint = no_fault,
    lane: Lane | None = None,
) -> AsyncGenerator[Store]:
    """A store on `url` with a key file in `folder`, closed at the end."""
    clock = clock or Clock()
    store = Store.open(url, key_ring(folder), clock, RandomIds(clock), fault, lane)
    try:
        yield store
    finally:
        await store.close()


async def commit(
    store: Store, *parts: Part, tenant: str = TENANT, on_refusal: Callable[[Refusal], Part] | None = None
) -> Committed | Stopped:
    return await store.commit(tenant, Unit(parts, on_refusal))


def rows_of(store: Store, relation: Relation, *ids: str, tenant: str = TENANT) -> dict[str, Row]:
    return store.read_now(lambda reader: reader.rows(tenant, relation, ids))


def check_log(store: Store, tenant: str = TENANT) -> list[Mapping[str, Any]]:
    """Recompute the tenant's tree from its entries, compare every stored node and the head; return the envelopes."""

    def read(reader: Reader) -> list[Mapping[str, Any]]:
        entry, node, payload = table_of(LogEntry), table_of(LogNode), table_of(LogPayload)
        entries = reader.query(
            select(entry.c.idx, entry.c.envelope, entry.c.leaf)
            .where(entry.c.tenant == bindparam("tenant"))
            .order_by(entry.c.idx),
            tenant=tenant,
        )
        tree, nodes = Frontier(), set[tuple[int, int, bytes]]()
        for at, (index, envelope, leaf) in enumerate(entries):
            assert index == at, f"entry {at} is missing"
            assert bytes(leaf) == leaf_hash(envelope.encode())
            nodes |= set(tree.append(bytes(leaf)))
        stored = reader.query(
            select(node.c.level, node.c.idx, node.c.hash).where(node.c.tenant == bindparam("tenant")),
            tenant=tenant,
        )
        assert {(level, index, bytes(value)) for level, index, value in stored} == nodes
        payloads = reader.query(
            select(payload.c.idx).where(payload.c.tenant == bindparam("tenant")), tenant=tenant
        )
        assert sorted(index for (index,) in payloads) == list(range(len(entries)))
        found, frontier = read_head(store.database, reader.connection.cursor(), tenant, lock=False)
        assert (found.size if found else 0) == len(entries)
        assert frontier.hashes == tree.hashes
        envelopes: list[Mapping[str, Any]] = [json.loads(envelope) for _, envelope, _ in entries]
        times = [envelope["t"] for envelope in envelopes]
        assert times == sorted(times), "record time went back"
        assert [envelope["i"] for envelope in envelopes] == list(range(len(entries)))
        return envelopes

    return store.read_now(read)


def ids_of(clock: Clock) -> RandomIds:
    return RandomIds(clock)


def inline(runner: Any) -> InlineLane:
    return InlineLane(runner)
