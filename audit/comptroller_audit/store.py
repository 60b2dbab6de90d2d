"""The store: `await store.commit(tenant, unit)`, and reads. One transaction per batch, under the tenant's head row.

A batch belongs to one tenant: lock its head row, load what the units need in one select per table, run every unit in
order in plain Python, then one executemany per table and the log entries. No savepoints and no other lock order, so
nothing deadlocks and switches, budgets and claims change under the same lock. A batch that fails is retried unit by
unit. One writer thread per process (`ThreadLane`); `InlineLane` runs batches on the caller for the simulation.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from sqlalchemy import bindparam, select, update
from sqlalchemy.sql.schema import Table

from comptroller_audit.ambient import Clock, Ids
from comptroller_audit.database import Database, Relation, Row, table_of
from comptroller_audit.errors import StoreClosed, StoreUnavailable, StoreUnsuitable
from comptroller_audit.log import Frontier, LogEntry, LogHead, LogNode, LogPayload
from comptroller_audit.migrate import schema_is_current, upgrade
from comptroller_audit.packets import Composed, LogRecord, compose
from comptroller_audit.sealing import KeyRing
from comptroller_audit.unit import Committed, Head, Key, Receipt, State, Stopped, Unit

__all__ = ["BATCH_UNITS_MAX", "FaultPoint", "InlineLane", "Reader", "Store", "ThreadLane", "no_fault"]

T = TypeVar("T")
BATCH_UNITS_MAX = 256
"""Units one transaction takes; more wait for the next."""

FaultPoint = Callable[[str], None]
"""Called with the name of a point (`commit.begin`, `commit.before`, `commit.after`, …); the tests' seam for the disk."""


def no_fault(point: str) -> None:
    """The default fault seam: nothing goes wrong."""


@dataclass(slots=True)
class _Waiting:
    tenant: str
    unit: Unit
    future: asyncio.Future[Committed | Stopped]
    loop: asyncio.AbstractEventLoop
    outcome: Committed | Stopped | BaseException | None = field(default=None)


class Reader:
    """Point reads and queries on one connection; each call sees the newest committed state."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.connection = database.connect()

    def rows(self, tenant: str, relation: Relation, ids: Sequence[str]) -> dict[str, Row]:
        return _select_rows(self._database, self.connection.cursor(), tenant, relation, ids)

    def row(self, tenant: str, relation: Relation, row_id: str) -> Row | None:
        return self.rows(tenant, relation, [row_id]).get(row_id)

    def query(self, statement: Any, **parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of a Core select, as tuples."""
        cursor = self.connection.cursor()
        compiled = statement.compile(dialect=self._database.engine.dialect)
        cursor.execute(str(compiled), {**compiled.params, **parameters})
        return list(cursor.fetchall())

    def head(self, tenant: str) -> Head | None:
        return _read_head(self._database, self.connection.cursor(), tenant, lock=False)[0]


class Store:
    """The durable state of one installation. Build with `await Store.open(...)`, end with `await close()`.

    Raises `StoreUnsuitable` when the database cannot keep the promises, `StoreUnavailable` when it does not answer.
    """

    def __init__(
        self,
        database: Database,
        ring: KeyRing,
        clock: Clock,
        ids: Ids,
        fault: FaultPoint = no_fault,
        lane: Callable[[_BatchRunner], Lane] | None = None,
    ) -> None:
        self.database = database
        self.ring = ring
        self._clock = clock
        self._ids = ids
        self._runner = _BatchRunner(database, ring, clock, ids, fault)
        self._lane: Lane = (lane or ThreadLane)(self._runner)
        self._reader = Reader(database)
        self._read_lock = threading.Lock()
        self._closed = False

    @classmethod
    def open(
        cls,
        url: str,
        ring: KeyRing,
        clock: Clock,
        ids: Ids,
        fault: FaultPoint = no_fault,
        lane: Callable[[_BatchRunner], Lane] | None = None,
    ) -> Store:
        """Open `url`, creating or migrating the schema when it is behind this version."""
        database = Database(url)
        if not schema_is_current(database):
            with database.write_lock(30.0):
                upgrade(database)
        return cls(database, ring, clock, ids, fault, lane)

    async def commit(self, tenant: str, unit: Unit) -> Committed | Stopped:
        """Make `unit` durable, or say what stopped it. Raises `StoreUnavailable`: then nothing of it happened."""
        if self._closed:
            raise StoreClosed("The store is closed; start the server again.")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(tenant, unit, loop.create_future(), loop)
        self._lane.submit(waiting)
        return await waiting.future

    async def read(self, work: Callable[[Reader], T]) -> T:
        """Run `work` on the read connection: inline on SQLite (microseconds), in a thread on Postgres."""
        if self.database.is_sqlite:
            return self.read_now(work)
        return await asyncio.to_thread(self.read_now, work)

    def read_now(self, work: Callable[[Reader], T]) -> T:
        """The same without leaving the thread. Raises `StoreUnavailable` when the database does not answer."""
        with self._read_lock:
            try:
                return work(self._reader)
            except (StoreUnavailable, StoreUnsuitable):
                raise
            except Exception as error:
                if not _is_driver_error(error):
                    raise
                with contextlib.suppress(StoreUnavailable):
                    self._reader = Reader(self.database)
                raise StoreUnavailable(f"The store cannot be read ({type(error).__name__}).") from error

    async def close(self) -> None:
        """Finish what was submitted, then close. Later commits raise `StoreClosed`."""
        self._closed = True
        await asyncio.to_thread(self._lane.close)
        self._runner.close(self._reader.connection)


class _BatchRunner:
    """Runs one batch in one transaction on its own connection; used by exactly one thread."""

    def __init__(
        self, database: Database, ring: KeyRing, clock: Clock, ids: Ids, fault: FaultPoint
    ) -> None:
        self._database = database
        self._ring = ring
        self._clock = clock
        self._ids = ids
        self._fault = fault
        self._connection: Any = None
        self._sql = _LogStatements(database)

    def run(self, batch: Sequence[_Waiting]) -> None:
        """Give every waiting unit its outcome: a value, or the error that kept it from becoming durable."""
        try:
            self._transact(batch)
        except Exception as error:
            if len(batch) == 1:
                batch[0].outcome = _as_unavailable(error)
                return
            for waiting in batch:
                waiting.outcome = None
                self.run([waiting])

    def _transact(self, batch: Sequence[_Waiting]) -> None:
        database, tenant = self._database, batch[0].tenant
        with database.write_lock():
            if self._connection is None:
                self._connection = database.connect()
            cursor = self._connection.cursor()
            first_leaf: tuple[int, bytes] | None = None
            try:
                self._fault("commit.begin")
                cursor.execute("BEGIN IMMEDIATE" if database.is_sqlite else "BEGIN")
                head, frontier = self._locked_head(cursor, tenant)
                size = head.size
                state = State(tenant, head, lambda r, ids: _select_rows(database, cursor, tenant, r, ids))
                state.preload(_keys(batch))
                results = [self._apply(state, waiting) for waiting in batch]
                composed = self._write(cursor, state, frontier, size)
                if composed:
                    first_leaf = (size, composed[0].leaf)
                self._fault("commit.before")
                cursor.execute("COMMIT")
            except Exception as error:
                if not self._landed(tenant, first_leaf, error):
                    raise
            self._fault("commit.after")
            for waiting, result in zip(batch, results, strict=True):
                waiting.outcome = _outcome(result, composed, size, tenant, head.record_ms)
            database.fold_wal(self._connection)

    def _apply(self, state: State, waiting: _Waiting) -> tuple[Any, int, int] | Exception:
        try:
            return state.run(waiting.unit)
        except Exception as error:  # a defect in one unit must not take the others of its batch with it
            return error

    def _locked_head(self, cursor: Any, tenant: str) -> tuple[Head, Frontier]:
        head, frontier = _read_head(self._database, cursor, tenant, lock=True)
        if head is None:
            head = Head(0, 0, 0, "")
            cursor.execute(
                self._sql.new_head,
                {"tenant": tenant, "size": 0, "frontier": "", "record_ms": 0, "switch_seq": 0, "bundle": ""},
            )
            head, frontier = _read_head(self._database, cursor, tenant, lock=True)
            assert head is not None
        head.record_ms = max(head.record_ms, self._clock.now_ms())
        return head, frontier

    def _write(self, cursor: Any, state: State, frontier: Frontier, size: int) -> list[Composed]:
        """One executemany per table, then the log entries and the head row."""
        tenant, head = state.tenant, state.head
        for relation, rows in state.dirty().items():
            cursor.executemany(
                self._database.upsert(relation),
                [{"tenant": tenant, "id": row_id, **row} for row_id, row in rows],
            )
        composed: list[Composed] = []
        nodes: list[dict[str, Any]] = []
        for index, record in enumerate(state.records, size):
            entry = compose(self._ring, tenant, index, head.record_ms, record, self._ids.random_bytes)
            composed.append(entry)
            nodes += [
                {"tenant": tenant, "level": level, "idx": at, "hash": value}
                for level, at, value in frontier.append(entry.leaf)
            ]
        if composed:
            self._sql.append(cursor, tenant, size, composed, nodes)
        head.size = frontier.size
        cursor.execute(
            self._sql.move_head,
            {
                "b_tenant": tenant, "b_size": frontier.size, "b_frontier": frontier.encode(),
                "b_record_ms": head.record_ms, "b_switch_seq": head.switch_seq, "b_bundle": head.bundle,
            },
        )
        return composed

    def _landed(self, tenant: str, first_leaf: tuple[int, bytes] | None, error: Exception) -> bool:
        """After a failed COMMIT: did it land all the same? Only a lost Postgres connection can leave that open."""
        with contextlib.suppress(Exception):
            if self._database.is_sqlite or not self._connection.closed:
                self._connection.rollback()
                return False
        self.close()
        if first_leaf is None or self._database.is_sqlite:
            return False
        self._connection = self._database.connect()
        cursor = self._connection.cursor()
        cursor.execute(self._sql.leaf_at, {"tenant": tenant, "idx": first_leaf[0]})
        row = cursor.fetchone()
        return row is not None and bytes(row[0]) == first_leaf[1]

    def close(self, *others: Any) -> None:
        connections = [c for c in (self._connection, *others) if c is not None]
        self._connection = None
        self._database.close(*connections)


class _LogStatements:
    """The log's statements, compiled once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        head = table_of(LogHead)
        entry = table_of(LogEntry)
        moved = update(head).where(head.c.tenant == bindparam("b_tenant"))
        self.new_head = _ignore_existing(database, head)
        self.move_head = database.sql(
            moved.values(
                {name: bindparam(f"b_{name}") for name in ("size", "frontier", "record_ms", "switch_seq", "bundle")}
            )
        )
        self.leaf_at = database.sql(
            select(entry.c.leaf).where(
                entry.c.tenant == bindparam("tenant"), entry.c.idx == bindparam("idx")
            )
        )

    def append(
        self, cursor: Any, tenant: str, size: int, composed: list[Composed], nodes: list[dict[str, Any]]
    ) -> None:
        insert = self._database.insert
        cursor.executemany(
            insert(table_of(LogEntry)),
            [
                {"tenant": tenant, "idx": i, "envelope": c.envelope, "leaf": c.leaf}
                for i, c in enumerate(composed, size)
            ],
        )
        if nodes:
            cursor.executemany(insert(table_of(LogNode)), nodes)
        cursor.executemany(
            insert(table_of(LogPayload)),
            [
                {"tenant": tenant, "idx": i, "key_id": c.sealed.key_id, "wrapped": c.sealed.wrapped,
                 "sealed": c.sealed.sealed}
                for i, c in enumerate(composed, size)
            ],
        )


class Lane(Protocol):
    """Takes units in order and has the runner execute them."""

    def submit(self, waiting: _Waiting) -> None: ...

    def close(self) -> None: ...


class InlineLane:
    """Every unit is its own batch, run at once on the caller's thread: deterministic, for the simulation."""

    def __init__(self, runner: _BatchRunner) -> None:
        self._runner = runner

    def submit(self, waiting: _Waiting) -> None:
        self._runner.run([waiting])
        _resolve([waiting])

    def close(self) -> None:
        """Nothing is kept waiting."""


class ThreadLane:
    """One writer thread; what arrives while a batch commits makes up the next batch (group commit)."""

    def __init__(self, runner: _BatchRunner) -> None:
        self._runner = runner
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="comptroller-store", daemon=True)
        self._thread.start()

    def submit(self, waiting: _Waiting) -> None:
        self._queue.put(waiting)

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        carried: _Waiting | None = None
        while (first := carried or self._queue.get()) is not None:
            batch, carried, ending = self._gather(first)
            self._runner.run(batch)
            batch[0].loop.call_soon_threadsafe(_resolve, batch)
            if ending:
                return

    def _gather(self, first: _Waiting) -> tuple[list[_Waiting], _Waiting | None, bool]:
        """What is queued for the same tenant, in order; a unit of another tenant starts the next batch."""
        batch = [first]
        while len(batch) < BATCH_UNITS_MAX:
            try:
                following = self._queue.get_nowait()
            except queue.Empty:
                break
            if following is None:
                return batch, None, True
            if following.tenant != first.tenant:
                return batch, following, False
            batch.append(following)
        return batch, None, False


def _resolve(batch: Sequence[_Waiting]) -> None:
    for waiting in batch:
        if waiting.future.done():
            continue  # the waiter was cancelled; its unit is durable or not all the same
        if isinstance(waiting.outcome, BaseException):
            waiting.future.set_exception(waiting.outcome)
        elif waiting.outcome is not None:
            waiting.future.set_result(waiting.outcome)


def _outcome(
    result: tuple[Any, int, int] | Exception, composed: list[Composed], size: int, tenant: str, at_ms: int
) -> Committed | Stopped | Exception:
    if isinstance(result, Exception):
        return result
    stop, first, count = result
    receipts = tuple(
        Receipt(tenant, size + i, composed[i].leaf.hex()) for i in range(first, first + count)
    )
    return Committed(at_ms, receipts) if stop is None else Stopped(stop, at_ms, receipts)


def _as_unavailable(error: Exception) -> Exception:
    if isinstance(error, StoreUnavailable):
        return error
    unavailable = StoreUnavailable(
        f"The store could not write ({type(error).__name__}: {str(error)[:120]}). Nothing was done."
    )
    unavailable.__cause__ = error
    return unavailable


def _is_driver_error(error: Exception) -> bool:
    return any(base.__module__.startswith(("sqlite3", "psycopg")) for base in type(error).__mro__)


def _keys(batch: Iterable[_Waiting]) -> Iterable[Key]:
    return (key for waiting in batch for part in waiting.unit.parts for key in part.keys())


def _select_rows(
    database: Database, cursor: Any, tenant: str, relation: Relation, ids: Sequence[str]
) -> dict[str, Row]:
    cursor.execute(database.select_ids(relation), {"tenant": tenant, "ids": database.bind_ids(ids)})
    columns = relation.columns
    return {row[0]: dict(zip(columns, row[1:], strict=True)) for row in cursor.fetchall()}


_HEAD_COLUMNS = ("size", "record_ms", "switch_seq", "bundle", "frontier")


def _read_head(database: Database, cursor: Any, tenant: str, lock: bool) -> tuple[Head | None, Frontier]:
    head = table_of(LogHead)
    wanted = select(*(head.c[name] for name in _HEAD_COLUMNS)).where(head.c.tenant == bindparam("tenant"))
    key = ("head", lock)
    if key not in database.compiled:
        locked = wanted.with_for_update() if lock and not database.is_sqlite else wanted
        database.compiled[key] = database.sql(locked)
    cursor.execute(database.compiled[key], {"tenant": tenant})
    row = cursor.fetchone()
    if row is None:
        return None, Frontier()
    size, record_ms, switch_seq, bundle, frontier = row
    return Head(size, record_ms, switch_seq, bundle), Frontier.decode(size, frontier)


def _ignore_existing(database: Database, table: Table) -> str:
    """`INSERT … ON CONFLICT DO NOTHING`: two processes may meet at a tenant's first commit."""
    from sqlalchemy.dialects import postgresql, sqlite

    insert = (sqlite if database.is_sqlite else postgresql).insert(table)
    return database.sql(insert.on_conflict_do_nothing(index_elements=["tenant"]))
