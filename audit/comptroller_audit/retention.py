"""Retention: payloads of calls whose time is over are erased; envelopes and tree stay, and say that they were (pruning.py goes on).

An erased payload is gone with its wrapped key. An entry of type `erased` names the spans, so that the verifier tells an
erasure from a theft. Payloads that a call still needs are kept, and so is what the log tells about the installation
itself: approvers, switches, bundles.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import BigInteger, bindparam, select
from sqlmodel import Field, SQLModel

from comptroller_audit.calls import log_indexes
from comptroller_audit.database import Relation, table_of
from comptroller_audit.legal_holds import Holds, HoldsUnmoved
from comptroller_audit.log import LogEntry, LogPayload
from comptroller_audit.packets import LogRecord
from comptroller_audit.query import calls_in_state, entry_from
from comptroller_audit.store import Reader
from comptroller_audit.unit import Key, Moved, State, Stop
from comptroller_audit.vocabulary import CallState, RecordType

__all__ = [
    "CLOCK",
    "KEPT",
    "OVERDUE_MAX",
    "RETENTION",
    "AcceptClock",
    "Erase",
    "RetentionRow",
    "first_at",
    "overdue",
    "silence",
    "spans_of",
    "still_needed",
]

_DAY_MS = 86_400_000
OVERDUE_MAX: Final = 500
"""Payloads erased in one commit: a few milliseconds of the writer's time."""
CLOCK: Final = "clock"
KEPT: Final = frozenset(
    {
        RecordType.APPROVER_ADDED,
        RecordType.SWITCH_SET,
        RecordType.SWITCH_CLEARED,
        RecordType.BUNDLE_ACTIVATED,
        RecordType.CLOCK_ACCEPTED,
        RecordType.STORE_ADOPTED,
        RecordType.STREAM_RESET,
        RecordType.KEYS_CHANGED,
        RecordType.HOLD_PLACED,
        RecordType.HOLD_LIFTED,
        RecordType.ERASED,
        RecordType.PRUNED,
    }
)
"""About the installation, not about what it did for somebody."""


class RetentionRow(SQLModel, table=True):
    """The one row `clock`: the moment retention last took for now, 0 if it never did, and how many payloads are erased."""

    __tablename__ = "retention"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    trusted_ms: int = Field(sa_type=BigInteger)
    erased: int = Field(sa_type=BigInteger)


RETENTION = Relation(RetentionRow)
_E, _P = table_of(LogEntry), table_of(LogPayload)
_ITS_ENVELOPE = (
    select(_E.c.envelope)
    .where(_E.c.tenant == _P.c.tenant, _E.c.idx == _P.c.idx)
    .correlate(_P)
    .scalar_subquery()
)
"""No join: SQLite would walk all envelopes, which are there for ever, to find the payloads that still are."""
_THERE = (
    select(_P.c.idx, _ITS_ENVELOPE)
    .where(_P.c.tenant == bindparam("tenant"), _P.c.idx >= bindparam("first"), _P.c.idx < bindparam("end"))
    .order_by(_P.c.idx)
    .limit(OVERDUE_MAX)
)


def first_at(reader: Reader, tenant: str, at_ms: int) -> int:
    """The index of the first entry recorded at `at_ms` or later: record time never decreases along the log."""
    head = reader.head(tenant)
    low, high = 0, head.size if head is not None else 0
    while low < high:
        middle = (low + high) // 2
        found = entry_from(reader, tenant, middle)
        if found is not None and json.loads(found[1])["t"] < at_ms:
            low = middle + 1
        else:
            high = middle
    return low


def silence(reader: Reader, tenant: str, step_ms: int, now_ms: int) -> tuple[int, int] | None:
    """The first two moments of the record, `now_ms` being its last, more than `step_ms` apart with nothing in between.

    None where there are none. Both are milliseconds; a day is the least `step_ms` that is looked for.
    """
    head, step = reader.head(tenant), max(step_ms, _DAY_MS)
    if head is None or head.size == 0:
        return None
    known = _time_of(reader, tenant, 0)
    while True:
        # Never past a silence: what is recorded at most a step after `known` lies before it.
        after = first_at(reader, tenant, known + step + 1)
        last = _time_of(reader, tenant, after - 1)
        if after == head.size:
            return (last, now_ms) if now_ms - last > step else None
        if last == known:
            return known, _time_of(reader, tenant, after)
        known = last


def _time_of(reader: Reader, tenant: str, index: int) -> int:
    found = entry_from(reader, tenant, index)
    assert found is not None  # the newest entry is never pruned
    return int(json.loads(found[1])["t"])


def still_needed(reader: Reader, tenant: str) -> frozenset[int]:
    """Entries of calls that are not over: waiting for a person, running, or in doubt."""
    open_states = (CallState.PENDING, CallState.COMMITTED, CallState.IN_DOUBT)
    return frozenset(
        index for _, row in calls_in_state(reader, tenant, open_states) for index in log_indexes(row)
    )


def overdue(
    reader: Reader, tenant: str, first: int, end: int, kept: Collection[int], holds: Holds
) -> tuple[list[int], int | None]:
    """Payloads from `first` on and before `end` that are to be erased, and where to go on; None at the end."""
    rows = reader.query(_THERE, tenant=tenant, first=first, end=end)
    found = [
        int(index)
        for index, envelope in rows
        if int(index) not in kept
        and RecordType(json.loads(envelope)["type"]) not in KEPT
        and not holds.keep(reader, tenant, envelope)
    ]
    return found, int(rows[-1][0]) + 1 if len(rows) == OVERDUE_MAX else None


def spans_of(indexes: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Ascending indexes as spans, both ends included."""
    spans: list[tuple[int, int]] = []
    for index in indexes:
        if spans and spans[-1][1] == index - 1:
            spans[-1] = (spans[-1][0], index)
        else:
            spans.append((index, index))
    return tuple(spans)


@dataclass(frozen=True, slots=True)
class Erase:
    """Part: erase the payloads at `indexes` and say so in the log; without any, only keep `now_ms` as trusted time.

    `seen_erased` and `seen_holds` say when these were chosen: if another process has erased since, or a hold was placed,
    look again. `subject` is the keyed digest of whom the payloads were about, when a person asked for that.
    """

    indexes: Sequence[int]
    before_ms: int
    now_ms: int
    seen_erased: int
    seen_holds: int = 0
    subject: str = ""
    by: str = ""
    reason: str = ""

    def keys(self) -> Iterable[Key]:
        return [(RETENTION, CLOCK), *HoldsUnmoved(self.seen_holds).keys()]

    def apply(self, state: State) -> Stop | None:
        if self.indexes and (moved := HoldsUnmoved(self.seen_holds).apply(state)) is not None:
            return moved
        row = state.get(RETENTION, CLOCK)
        if (row["erased"] if row else 0) != self.seen_erased:
            return Moved("retention")
        if self.indexes:
            packet: dict[str, Any] = {
                "v": 1,
                "why": "a subject is erased" if self.subject else "retention_days is over",
                "payloads": len(self.indexes),
                "before_ms": self.before_ms,
            }
            if self.subject:
                packet |= {"subject": self.subject, "by": self.by, "reason": self.reason}
            state.append(LogRecord(RecordType.ERASED, packet, erases=spans_of(self.indexes)))
        trusted = row["trusted_ms"] if row else 0
        if not self.subject:  # whoever erases a person's payloads says nothing of the clock
            trusted = max(self.now_ms, trusted)
        state.put(RETENTION, CLOCK, {"trusted_ms": trusted, "erased": self.seen_erased + len(self.indexes)})
        return None


@dataclass(frozen=True, slots=True)
class AcceptClock:
    """Part: a person says that the clock, which had jumped, is right."""

    now_ms: int
    by: str

    def keys(self) -> Iterable[Key]:
        return [(RETENTION, CLOCK)]

    def apply(self, state: State) -> Stop | None:
        row = state.get(RETENTION, CLOCK)
        packet: dict[str, Any] = {
            "v": 1,
            "at_ms": self.now_ms,
            "before_ms": (row["trusted_ms"] or None) if row else None,
            "by": self.by,
        }
        state.append(LogRecord(RecordType.CLOCK_ACCEPTED, packet))
        state.put(RETENTION, CLOCK, {"trusted_ms": self.now_ms, "erased": row["erased"] if row else 0})
        return None
