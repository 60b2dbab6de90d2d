"""One batch as one transaction under its tenant's head row, and what a failure on the way means.

Lock the head row, load what the units need in one select per table, run every unit in order in plain Python, then
write all rows of each table at once, and the log entries. A batch whose writes fail is run again unit by unit, so that one bad unit
takes no other with it. A commit whose connection was lost is looked up in the log before anything is said about it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import bindparam, delete, select, update

from comptroller_audit.ailments import Health, advice_on
from comptroller_audit.ambient import Clock, Ids
from comptroller_audit.database import Database, Relation, Row, is_driver_error, table_of
from comptroller_audit.errors import CommitUnknown, StoreError, StoreUnavailable
from comptroller_audit.log import Frontier, LogEntry, LogHead, LogNode, LogPayload
from comptroller_audit.packets import Composed, compose
from comptroller_audit.sealing import KeyRing
from comptroller_audit.unit import Committed, Head, Key, Receipt, State, Stopped, Unit

__all__ = ["BatchRunner", "FaultPoint", "Waiting", "no_fault", "read_head", "select_rows"]

LANDED_WAIT_S_MAX = 5.0
"""How long a commit whose connection was lost is looked for before its outcome counts as unknown."""

FaultPoint = Callable[[str], None]
"""Called with the name of a point: `commit.begin`, `commit.before` (the next step is COMMIT) and `commit.after`
(durable, not yet answered). The tests' seam for the disk, and where a kill is placed."""


def no_fault(point: str) -> None:
    """The default fault seam: nothing goes wrong."""


@dataclass(slots=True)
class Waiting:
    """A unit that waits for its outcome: a value, or the error that kept it from becoming durable."""

    tenant: str
    unit: Unit
    future: asyncio.Future[Committed | Stopped]
    loop: asyncio.AbstractEventLoop
    outcome: Committed | Stopped | BaseException | None = field(default=None)


@dataclass(slots=True)
class _Progress:
    """How far a transaction came, which decides what its failure means."""

    loaded: bool = False
    """From here on a failure may be the fault of one unit."""
    sent: bool = False
    """COMMIT was sent: after a lost connection only the log can tell."""
    durable: bool = False
    """Nothing that fails now can undo it."""
    leaf: tuple[int, bytes] | None = None
    """Index and hash of the first entry, by which the log is asked whether the commit landed."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """`concerns_all`: the database itself does not answer, or nobody knows; running single units does not help."""

    error: Exception
    concerns_all: bool


class BatchRunner:
    """Runs one batch in one transaction on its own connection; used by exactly one thread."""

    def __init__(
        self, database: Database, ring: KeyRing, clock: Clock, ids: Ids, fault: FaultPoint = no_fault
    ) -> None:
        self._database = database
        self._ring = ring
        self._clock = clock
        self._ids = ids
        self._fault = fault
        self._connection: Any = None
        self._file: tuple[int, int] | None = None
        self._sql = _LogStatements(database)
        self.batches = self.units = 0
        """How many batches were run, and the units in them."""
        self.health = Health(database.file_id)

    def run(self, batch: Sequence[Waiting]) -> None:
        """Give every waiting unit its outcome."""
        self.batches += 1
        self.units += len(batch)
        failure = self._failure_of(batch)
        if failure is None:
            return
        if len(batch) == 1 or failure.concerns_all:
            _fail(batch, failure)
            return
        for at, waiting in enumerate(batch):
            failure = self._failure_of([waiting])
            if failure is not None and failure.concerns_all:
                _fail(batch[at:], failure)
                return
            if failure is not None:
                _fail([waiting], failure)

    def _failure_of(self, batch: Sequence[Waiting]) -> _Failure | None:
        progress = _Progress()
        try:
            self._transact(batch, progress)
        except Exception as error:  # noqa: BLE001 - becomes the units' outcome
            if not progress.durable:
                self.health.fails = True
                self.health.met(error)
                return _Failure(error, not progress.loaded or isinstance(error, CommitUnknown))
        self.health.wrote_s = self._clock.monotonic()
        if progress.leaf is not None:
            self.health.fails = False
        return None

    def _transact(self, batch: Sequence[Waiting], progress: _Progress) -> None:
        tenant = batch[0].tenant
        self.health.demand_whole()
        with self._database.write_lock():
            try:
                self._attempt(tenant, batch, progress)
            except BaseException as error:
                if not self._landed(tenant, progress, error):
                    raise
            progress.durable = True
            self._fault("commit.after")
            self._database.fold_wal(self._connection)

    def _attempt(self, tenant: str, batch: Sequence[Waiting], progress: _Progress) -> None:
        """The whole transaction. Outcomes are set before COMMIT; whoever handles its failure replaces them."""
        database = self._database
        self._fault("commit.begin")
        cursor, head, frontier = self._begin(tenant)
        size, before = head.size, (head.switch_seq, head.bundle)
        head.record_ms = max(head.record_ms, self._clock.now_ms())
        state = State(
            tenant, head, lambda relation, ids: select_rows(database, cursor, tenant, relation, ids)
        )
        state.preload(_keys(batch))
        progress.loaded = True
        results = [_apply(state, waiting.unit) for waiting in batch]
        dirty = state.dirty()
        changed = dirty or state.records or (head.switch_seq, head.bundle) != before
        composed = self._write(cursor, state, dirty, frontier) if changed else []
        for waiting, result in zip(batch, results, strict=True):
            waiting.outcome = _outcome(result, composed, size, tenant, head.record_ms)
        self._fault("commit.before")
        progress.leaf = (size, composed[0].leaf) if composed else None
        progress.sent = bool(changed)
        cursor.execute("COMMIT" if changed else "ROLLBACK")
        if not database.is_sqlite and changed and cursor.statusmessage != "COMMIT":
            raise StoreUnavailable("Postgres rolled the commit back. Nothing was done; try again.")

    def _begin(self, tenant: str) -> tuple[Any, Head, Frontier]:
        """Begin, holding the tenant's head row. A connection that died while idle is replaced, once."""
        stale = self._connection is not None
        if stale and self._database.file_id() != self._file:
            self._drop()
            stale = False
        try:
            return self._locked_head(tenant)
        except Exception:
            if not stale or self._database.is_sqlite or not self._connection.closed:
                raise
        self._drop()
        return self._locked_head(tenant)

    def _locked_head(self, tenant: str) -> tuple[Any, Head, Frontier]:
        database = self._database
        if self._connection is None:
            self._connection = database.connect()
            self._file = database.file_id()
        cursor = self._connection.cursor()
        cursor.execute("BEGIN IMMEDIATE" if database.is_sqlite else "BEGIN")
        head, frontier = read_head(database, cursor, tenant, lock=True)
        if head is None:
            values = {"size": 0, "frontier": "", "record_ms": 0, "switch_seq": 0, "bundle": ""}
            cursor.execute(self._sql.new_head, {"tenant": tenant, **values})
            head, frontier = read_head(database, cursor, tenant, lock=True)
            if head is None:
                raise StoreUnavailable("The head row of the log cannot be written. Nothing was done.")
        return cursor, head, frontier

    def _write(
        self, cursor: Any, state: State, dirty: dict[Relation, list[tuple[str, Row]]], frontier: Frontier
    ) -> list[Composed]:
        """All rows of a table at once, then the log entries and the head row."""
        tenant, head = state.tenant, state.head
        database = self._database
        for relation, rows in dirty.items():
            # Of most rows written again nothing moves in an index, and an index that is not named is not touched.
            still, moved = list[dict[str, Any]](), list[dict[str, Any]]()
            for row_id, row in rows:
                named = {"tenant": tenant, "id": row_id, **row}
                (still if state.keeps_its_place(relation, row_id, row) else moved).append(named)
            if moved:
                database.write_rows(cursor, database.upsert(relation), moved)
            if still:
                database.write_rows(cursor, database.upsert(relation, indexed=False), still)
        for record in state.records:
            for first, last in record.erases:
                cursor.execute(self._sql.erase, {"tenant": tenant, "first": first, "last": last})
            for first, last in record.prunes:
                cursor.execute(
                    self._sql.prune, {"b_tenant": tenant, "b_first": first, "b_last": last, "b_envelope": ""}
                )
        size = head.size
        composed: list[Composed] = []
        nodes: list[dict[str, Any]] = []
        for index, record in enumerate(state.records, size):
            entry = compose(self._ring, tenant, index, head.record_ms, record, self._ids.random_bytes)
            composed.append(entry)
            for level, at, value in frontier.append(entry.leaf):
                nodes.append({"tenant": tenant, "level": level, "idx": at, "hash": value})
        if composed:
            self._sql.append(cursor, tenant, size, composed, nodes)
        head.size = frontier.size
        values = {
            "b_tenant": tenant,
            "b_size": frontier.size,
            "b_frontier": frontier.encode(),
            "b_record_ms": head.record_ms,
            "b_switch_seq": head.switch_seq,
            "b_bundle": head.bundle,
        }
        cursor.execute(self._sql.move_head, values)
        return composed

    def _landed(self, tenant: str, progress: _Progress, error: BaseException) -> bool:
        """Clean up after a failed transaction; whether it was committed all the same.

        Only a lost Postgres connection can leave that open, and only once COMMIT was sent. Raises `CommitUnknown`
        when the log cannot be asked within `LANDED_WAIT_S_MAX`, or holds no entry that would tell.
        """
        answered = self._rolled_back()
        if not answered or is_driver_error(error) or not isinstance(error, Exception):
            self._drop()
        if answered or not progress.sent or not isinstance(error, Exception):
            return False
        deadline = time.monotonic() + LANDED_WAIT_S_MAX
        while progress.leaf is not None:
            try:
                return self._holds_leaf(tenant, *progress.leaf)
            except Exception:  # noqa: BLE001 - whatever it is, the log was not read
                self._drop()
                if time.monotonic() > deadline:
                    break
                time.sleep(0.05)
        raise CommitUnknown(
            "The database went away during a commit, and whether that commit stands is not known yet. "
            "Look before anything of it is tried again."
        ) from error

    def _rolled_back(self) -> bool:
        """Whether the database itself said that the open transaction is gone."""
        if self._connection is None:
            return True
        try:
            self._connection.rollback()
        except Exception:  # noqa: BLE001 - nobody confirmed the end
            return self._database.is_sqlite  # what SQLite did not commit goes with the connection
        return self._database.is_sqlite or not self._connection.closed

    def _holds_leaf(self, tenant: str, index: int, leaf: bytes) -> bool:
        cursor, _, _ = self._locked_head(tenant)  # waits for a COMMIT that is still under way
        cursor.execute(self._sql.leaf_at, {"tenant": tenant, "idx": index})
        row = cursor.fetchone()
        cursor.execute("ROLLBACK")
        return row is not None and bytes(row[0]) == leaf

    def _drop(self) -> None:
        """Close the connection; the next batch opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()

    def close(self, *others: Any) -> None:
        """End this runner's connection and `others`, and the database with them."""
        connections = [c for c in (self._connection, *others) if c is not None]
        self._connection = None
        self._database.close(*connections)


class _LogStatements:
    """The log's statements, compiled once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        head, entry, payload = table_of(LogHead), table_of(LogEntry), table_of(LogPayload)
        columns = ("size", "frontier", "record_ms", "switch_seq", "bundle")
        self.new_head = database.insert_unless_there(head, "tenant")
        self.move_head = database.kept(
            "log: move head",
            lambda: (
                update(head)
                .where(head.c.tenant == bindparam("b_tenant"))
                .values({name: bindparam(f"b_{name}") for name in columns})
            ),
        )
        self.erase = database.kept(
            "log: erase",
            lambda: delete(payload).where(
                payload.c.tenant == bindparam("tenant"),
                payload.c.idx >= bindparam("first"),
                payload.c.idx <= bindparam("last"),
            ),
        )
        self.prune = database.kept(
            "log: prune",
            lambda: (
                update(entry)
                .where(
                    entry.c.tenant == bindparam("b_tenant"),
                    entry.c.idx >= bindparam("b_first"),
                    entry.c.idx <= bindparam("b_last"),
                )
                .values(envelope=bindparam("b_envelope"))
            ),
        )
        self.leaf_at = database.kept(
            "log: leaf",
            lambda: select(entry.c.leaf).where(
                entry.c.tenant == bindparam("tenant"), entry.c.idx == bindparam("idx")
            ),
        )

    def append(
        self, cursor: Any, tenant: str, size: int, composed: list[Composed], nodes: list[dict[str, Any]]
    ) -> None:
        insert, write_rows = self._database.insert, self._database.write_rows
        entries: list[dict[str, Any]] = []
        payloads: list[dict[str, Any]] = []
        for index, made in enumerate(composed, size):
            entries.append({"tenant": tenant, "idx": index, "envelope": made.envelope, "leaf": made.leaf})
            payloads.append(
                {
                    "tenant": tenant,
                    "idx": index,
                    "key_id": made.sealed.key_id,
                    "wrapped": made.sealed.wrapped,
                    "sealed": made.sealed.sealed,
                }
            )
        write_rows(cursor, insert(table_of(LogEntry)), entries)
        if nodes:
            write_rows(cursor, insert(table_of(LogNode)), nodes)
        write_rows(cursor, insert(table_of(LogPayload)), payloads)


def _apply(state: State, unit: Unit) -> tuple[Any, int, int] | Exception:
    try:
        return state.run(unit)
    except Exception as error:
        if is_driver_error(error):
            raise  # the database, not the unit
        # A defect in one unit must not take the others of its batch with it. No future takes a StopIteration.
        return RuntimeError(f"apply raised {error!r}") if isinstance(error, StopIteration) else error


def _outcome(
    result: tuple[Any, int, int] | Exception, composed: list[Composed], size: int, tenant: str, at_ms: int
) -> Committed | Stopped | Exception:
    if isinstance(result, Exception):
        return result
    stop, first, count = result
    receipts = tuple([Receipt(tenant, size + i, composed[i].leaf.hex()) for i in range(first, first + count)])
    return Committed(at_ms, receipts) if stop is None else Stopped(stop, at_ms, receipts)


def _fail(batch: Sequence[Waiting], failure: _Failure) -> None:
    error = failure.error
    for waiting in batch:
        if isinstance(error, StoreError):
            waiting.outcome = type(error)(*error.args)
        else:
            what = f"{type(error).__name__}: {str(error)[:120]}"
            told = f"The store could not write ({what}). Nothing was done. {advice_on(error)}"
            waiting.outcome = StoreUnavailable(told.rstrip())
        waiting.outcome.__cause__ = error


def _keys(batch: Iterable[Waiting]) -> Iterable[Key]:
    return (key for waiting in batch for part in waiting.unit.parts for key in part.keys())  # noqa: SIM118 - a method of Part


def select_rows(
    database: Database, cursor: Any, tenant: str, relation: Relation, ids: Sequence[str]
) -> dict[str, Row]:
    """The rows of a relation by id, in one select; ids without a row are left out."""
    if len(ids) == 1:
        cursor.execute(database.select_id(relation), {"tenant": tenant, "id": ids[0]})
    else:
        cursor.execute(database.select_ids(relation), {"tenant": tenant, "ids": database.bind_ids(ids)})
    columns = relation.columns
    return {row[0]: dict(zip(columns, row[1:], strict=True)) for row in cursor.fetchall()}


_HEAD_COLUMNS = ("size", "record_ms", "switch_seq", "bundle", "frontier")


def read_head(database: Database, cursor: Any, tenant: str, lock: bool) -> tuple[Head | None, Frontier]:
    """The tenant's head row and frontier, under its row lock if asked. Raises `LogDamaged`."""
    key = ("head", lock)
    if key not in database.compiled:
        head = table_of(LogHead)
        wanted = select(*(head.c[name] for name in _HEAD_COLUMNS)).where(head.c.tenant == bindparam("tenant"))
        database.compiled[key] = database.sql(
            wanted.with_for_update() if lock and not database.is_sqlite else wanted
        )
    cursor.execute(database.compiled[key], {"tenant": tenant})
    row = cursor.fetchone()
    if row is None:
        return None, Frontier()
    size, record_ms, switch_seq, bundle, frontier = row
    return Head(size, record_ms, switch_seq, bundle), Frontier.decode(size, frontier)
