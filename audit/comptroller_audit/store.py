"""The store: `await store.commit(tenant, unit)`, and reads. One transaction per batch, under the tenant's head row.

A batch belongs to one tenant and is one transaction (`transaction.py`). No savepoints and no other lock order than
the head row, so nothing deadlocks, and switches, budgets and claims change under the same lock. One writer thread per
process (`ThreadLane`); `InlineLane` runs batches on the caller for the simulation.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from comptroller_audit.ailments import Health, advice_on
from comptroller_audit.ambient import Clock, Ids
from comptroller_audit.database import Database, Relation, Row, is_driver_error
from comptroller_audit.errors import StoreClosed, StoreUnavailable
from comptroller_audit.lanes import BATCH_UNITS_MAX, InlineLane, Lane, ThreadLane
from comptroller_audit.log import Frontier
from comptroller_audit.migrate import schema_is_current, upgrade
from comptroller_audit.sealing import KeyRing
from comptroller_audit.transaction import BatchRunner, FaultPoint, Waiting, no_fault, read_head, select_rows
from comptroller_audit.unit import Committed, Head, Stopped, Unit

__all__ = ["BATCH_UNITS_MAX", "FaultPoint", "InlineLane", "Reader", "Store", "ThreadLane", "no_fault"]

T = TypeVar("T")
MIGRATION_WAIT_S_MAX = 30.0
"""How long opening waits for another process that migrates the same SQLite file."""
_BEGIN_POSTGRES = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class Reader:
    """Point reads and queries on one connection. Within `at_once` all of them see the same moment."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._begin = "BEGIN" if database.is_sqlite else _BEGIN_POSTGRES
        self.connection = database.connect()
        self._file = database.file_id()

    def is_stale(self) -> bool:
        """Whether another file now lies at the store's path."""
        return self._database.file_id() != self._file

    def at_once(self, work: Callable[[Reader], T]) -> T:
        """Run `work` on the newest committed state: what changes in one commit is never seen in part."""
        self.connection.execute(self._begin)
        try:
            return work(self)
        finally:
            self.connection.execute("ROLLBACK")

    def rows(self, tenant: str, relation: Relation, ids: Sequence[str]) -> dict[str, Row]:
        return select_rows(self._database, self.connection.cursor(), tenant, relation, ids)

    def row(self, tenant: str, relation: Relation, row_id: str) -> Row | None:
        return self.rows(tenant, relation, [row_id]).get(row_id)

    def query(self, statement: Any, **parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of a Core select, as tuples. A statement kept as a constant is compiled once."""
        cursor = self.connection.cursor()
        text, constants = self._database.text_of(statement)
        cursor.execute(text, {**constants, **parameters})
        return list(cursor.fetchall())

    def tree(self, tenant: str) -> tuple[Head | None, Frontier]:
        """The head row with the log's frontier, from which the root follows."""
        return read_head(self._database, self.connection.cursor(), tenant, lock=False)

    def head(self, tenant: str) -> Head | None:
        return read_head(self._database, self.connection.cursor(), tenant, lock=False)[0]

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.connection.close()


class Store:
    """The durable state of one installation. Build with `Store.open(...)`, end with `await close()`.

    Raises `StoreUnsuitable` when the database cannot keep the promises, `StoreUnavailable` when it does not answer.
    """

    def __init__(
        self,
        database: Database,
        ring: KeyRing,
        clock: Clock,
        ids: Ids,
        fault: FaultPoint = no_fault,
        lane: Callable[[BatchRunner], Lane] | None = None,
    ) -> None:
        self.database = database
        self.ring = ring
        self._reader = Reader(database)
        self._read_lock = threading.Lock()
        self._runner = BatchRunner(database, ring, clock, ids, fault)
        self._lane: Lane = (lane or ThreadLane)(self._runner)
        self._closed = False

    @classmethod
    def open(
        cls,
        url: str,
        ring: KeyRing,
        clock: Clock,
        ids: Ids,
        fault: FaultPoint = no_fault,
        lane: Callable[[BatchRunner], Lane] | None = None,
    ) -> Store:
        """Open `url`, creating or migrating the schema when it is behind this version."""
        database = Database(url)
        if not schema_is_current(database):
            with database.write_lock(MIGRATION_WAIT_S_MAX):
                upgrade(database)
        return cls(database, ring, clock, ids, fault, lane)

    @property
    def written(self) -> tuple[int, int]:
        """How many batches this process has run, and the units in them."""
        return self._runner.batches, self._runner.units

    @property
    def health(self) -> Health:
        """What this process has learned of its database."""
        return self._runner.health

    async def commit(self, tenant: str, unit: Unit) -> Committed | Stopped:
        """Make `unit` durable, or say what stopped it.

        Raises `StoreUnavailable`: then nothing of it happened, but for its branch `CommitUnknown`, which says that
        nobody knows; `StoreClosed`; and whatever a part's `apply` raised, which then did nothing either.
        """
        if self._closed:
            raise StoreClosed("The store is closed; start the server again.")
        loop = asyncio.get_running_loop()
        waiting = Waiting(tenant, unit, loop.create_future(), loop)
        self._lane.submit(waiting)
        return await waiting.future

    async def read(self, work: Callable[[Reader], T]) -> T:
        """Run `work` on the newest committed state, all of it as of one moment.

        Inline on SQLite (microseconds), in a thread on Postgres.
        """
        if self.database.is_sqlite:
            return self.read_now(work)
        return await asyncio.to_thread(self.read_now, work)

    def read_now(self, work: Callable[[Reader], T]) -> T:
        """The same without leaving the thread; `work` may run twice, on a new connection if the old one is lost.

        Raises `StoreUnavailable` when the database does not answer, `StoreClosed` after close.
        """
        with self._read_lock:
            if self._closed:
                raise StoreClosed("The store is closed; start the server again.")
            if self._reader.is_stale():
                self._read_anew()
            try:
                return self._reader.at_once(work)
            except Exception as error:
                if not is_driver_error(error):
                    raise
            self._read_anew()
            try:
                return self._reader.at_once(work)
            except Exception as error:
                if not is_driver_error(error):
                    raise
                self._runner.health.met(error)
                told = f"The store cannot be read ({type(error).__name__}: {str(error)[:120]}). {advice_on(error)}"
                raise StoreUnavailable(told.rstrip()) from error

    def _read_anew(self) -> None:
        fresh = Reader(self.database)
        self._reader.close()
        self._reader = fresh

    async def scrub(self) -> None:
        """After an erasure, leave none of it in the write-ahead log (SQLite) or in dead rows (Postgres).

        What a reader, a crash or a missing right stands in the way of is left for the next time.
        """
        await asyncio.to_thread(self.database.scrub)

    async def close(self) -> None:
        """Finish what was submitted, then close. Later commits and reads raise `StoreClosed`."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._lane.close)
        with self._read_lock:
            self._runner.close(self._reader.connection)
