"""A unit of work: what one transaction step reads, decides and writes, as a pure function of loaded state.

A unit is made of parts, one from each package that takes part. Parts name the rows they need, so that a batch loads
them in one select per table; `apply` then runs in plain Python under the tenant's head-row lock and sees what earlier
units of the batch wrote. When a part stops the unit, everything the unit wrote is dropped and at most one record of
the refusal is appended in the same transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol, TypeAlias

from comptroller_audit.database import Relation, Row
from comptroller_audit.packets import LogRecord
from comptroller_audit.vocabulary import Refusal

__all__ = [
    "Committed",
    "Head",
    "Key",
    "Moved",
    "Part",
    "Receipt",
    "Refuse",
    "State",
    "Stop",
    "Stopped",
    "Together",
    "Unit",
    "WriteRecord",
]

Key: TypeAlias = tuple[Relation, str]
_UNREAD: Row = {}
"""Stands, by identity, for a row that was written and never loaded."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What the decision was based on has changed; decide again. Never recorded by itself."""

    what: str


Stop: TypeAlias = "Refusal | Moved | Any"
"""Why a part stopped its unit: a refusal, a moved basis, or a part's own value (such as `calls.Existing`)."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a record stands in its tenant's log: index and leaf hash (hex)."""

    log: str
    index: int
    leaf: str


@dataclass(slots=True)
class Head:
    """The tenant's head row as the batch sees it. Parts may move `switch_seq` and `bundle`."""

    size: int
    record_ms: int
    switch_seq: int
    bundle: str


class State:
    """Rows of one tenant, loaded for a batch, shared and mutable inside it."""

    def __init__(
        self, tenant: str, head: Head, load: Callable[[Relation, Sequence[str]], dict[str, Row]]
    ) -> None:
        self.tenant = tenant
        self.head = head
        self._load = load
        self._rows: dict[Key, Row | None] = {}
        self._places: dict[Key, tuple[Any, ...]] = {}
        self._dirty: dict[Key, None] = {}
        self._undo: list[tuple[Key, Row | None, bool]] = []
        self.records: list[LogRecord] = []
        self._first_index = head.size

    @property
    def now_ms(self) -> int:
        """Record time of this batch; never decreases within a tenant's log."""
        return self.head.record_ms

    def preload(self, keys: Iterable[Key]) -> None:
        """Load many rows in one select per table."""
        wanted: dict[Relation, list[str]] = {}
        for relation, row_id in dict.fromkeys(keys):
            if (relation, row_id) not in self._rows:
                wanted.setdefault(relation, []).append(row_id)
        for relation, ids in wanted.items():
            self._note(relation, ids, self._load(relation, ids))

    def get(self, relation: Relation, row_id: str) -> Row | None:
        """The row, or None. One that no part named costs a select of its own."""
        key = (relation, row_id)
        if key not in self._rows:
            self._note(relation, [row_id], self._load(relation, [row_id]))
        return self._rows[key]

    def _note(self, relation: Relation, ids: Sequence[str], found: Mapping[str, Row]) -> None:
        for row_id in ids:
            row = self._rows[relation, row_id] = found.get(row_id)
            if row is not None and relation.indexed:
                self._places[relation, row_id] = tuple([row[name] for name in relation.indexed])

    def keeps_its_place(self, relation: Relation, row_id: str, row: Row) -> bool:
        """Whether the database holds the row already, with the same values in every column that an index has."""
        place = self._places.get((relation, row_id))
        return place is not None and place == tuple([row[name] for name in relation.indexed])

    def put(self, relation: Relation, row_id: str, row: Row) -> None:
        """Insert or replace a row. `row` holds every column but `tenant` and `id`. One that nobody named is not loaded."""
        key = (relation, row_id)
        self._undo.append((key, self._rows.get(key, _UNREAD), key in self._dirty))
        self._rows[key] = row
        self._dirty[key] = None

    def append(self, record: LogRecord) -> int:
        """Append a record to the log; returns its index. Time, sealing and leaf hash are the store's."""
        self.records.append(record)
        return self._first_index + len(self.records) - 1

    @property
    def newest_index(self) -> int:
        """The index of the record that this batch appended last."""
        return self._first_index + len(self.records) - 1

    def dirty(self) -> dict[Relation, list[tuple[str, Row]]]:
        """What the batch writes, by table."""
        writes: dict[Relation, list[tuple[str, Row]]] = {}
        for relation, row_id in self._dirty:
            row = self._rows[relation, row_id]
            if row is not None:  # always: `put` takes no None
                writes.setdefault(relation, []).append((row_id, row))
        return writes

    def run(self, unit: Unit) -> tuple[Stop | None, int, int]:
        """Apply a unit's parts in order; returns (stop, first record, number of records)."""
        first = len(self.records)
        seq, bundle = self.head.switch_seq, self.head.bundle
        self._undo.clear()
        try:
            stop = next((s for part in unit.parts if (s := part.apply(self)) is not None), None)
            if stop is not None:
                self._roll_back(first, seq, bundle)
                if isinstance(stop, Refusal) and unit.on_refusal is not None:
                    unit.on_refusal(stop).apply(self)
        except BaseException:
            self._roll_back(first, seq, bundle)
            raise
        return stop, first, len(self.records) - first

    def _roll_back(self, first: int, switch_seq: int, bundle: str) -> None:
        for key, row, was_dirty in reversed(self._undo):
            if row is _UNREAD:
                del self._rows[key]
            else:
                self._rows[key] = row
            if not was_dirty:
                self._dirty.pop(key, None)
        self._undo.clear()
        del self.records[first:]
        self.head.switch_seq, self.head.bundle = switch_seq, bundle


class Part(Protocol):
    """One package's share of a unit."""

    def keys(self) -> Iterable[Key]:
        """The rows `apply` will read or write."""
        ...

    def apply(self, state: State) -> Stop | None:
        """Check and write. Pure but for `state`; may run again when a batch is retried."""
        ...


@dataclass(frozen=True, slots=True)
class Unit:
    """Parts that stand or fall together. `on_refusal` gives the part that records a refusal decided in the commit."""

    parts: Sequence[Part]
    on_refusal: Callable[[Refusal], Part] | None = None


@dataclass(frozen=True, slots=True)
class Together:
    """Part: several parts where one is asked for."""

    parts: Sequence[Part]

    def keys(self) -> Iterable[Key]:
        return list(chain.from_iterable(part.keys() for part in self.parts))

    def apply(self, state: State) -> Stop | None:
        return next((stop for part in self.parts if (stop := part.apply(state)) is not None), None)


@dataclass(frozen=True, slots=True)
class WriteRecord:
    """Part: append a record that belongs to no single call."""

    record: LogRecord

    def keys(self) -> Iterable[Key]:
        return ()

    def apply(self, state: State) -> Stop | None:
        state.append(self.record)
        return None


@dataclass(frozen=True, slots=True)
class Refuse:
    """Part: refuse. Last in a unit whose other parts may have another answer."""

    refusal: Refusal

    def keys(self) -> Iterable[Key]:
        return ()

    def apply(self, state: State) -> Stop | None:
        del state
        return self.refusal


@dataclass(frozen=True, slots=True)
class Committed:
    """The unit is durable."""

    at_ms: int
    receipts: tuple[Receipt, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Stopped:
    """A part stopped the unit. A refusal's record, if any, is durable."""

    stop: Stop
    at_ms: int
    receipts: tuple[Receipt, ...] = field(default=())
