"""Legal holds: payloads that nobody may erase, whatever their age and whoever asks, until a person lifts the hold.

A hold names a call, a task, a principal (as its keyed digest) or a span of time. What cannot be attributed to anybody is
kept while any principal is held. `HoldsUnmoved` goes with every commit that erases, so a hold that is placed while
something erases wins.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, bindparam, select
from sqlmodel import Field, SQLModel

from comptroller_audit.calls import CALLS
from comptroller_audit.database import Relation, table_of
from comptroller_audit.packets import LogRecord
from comptroller_audit.store import Reader
from comptroller_audit.unit import Key, Moved, State, Stop
from comptroller_audit.vocabulary import JsonObject, RecordType

__all__ = [
    "LEGAL_HOLDS",
    "Hold",
    "HoldKind",
    "Holds",
    "HoldsUnmoved",
    "LegalHoldRow",
    "LiftHold",
    "PlaceHold",
]

_COUNT = "count"
"""The row whose `first_ms` is how often holds were placed or lifted."""


class HoldKind(StrEnum):
    """What a hold is about."""

    CALL = "call"
    TASK = "task"
    PRINCIPAL = "principal"
    TIME = "time"


class LegalHoldRow(SQLModel, table=True):
    """One hold. `value` is an id, or a principal's keyed digest; times are of the entries, `end_ms` not included."""

    __tablename__ = "legal_holds"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    kind: str
    value: str
    first_ms: int = Field(sa_type=BigInteger)
    end_ms: int = Field(sa_type=BigInteger)
    placed_ms: int = Field(sa_type=BigInteger)
    lifted_ms: int = Field(sa_type=BigInteger)


LEGAL_HOLDS = Relation(LegalHoldRow)
_H = table_of(LegalHoldRow)
_ALL = (
    select(_H.c.id, _H.c.kind, _H.c.value, _H.c.first_ms, _H.c.end_ms, _H.c.placed_ms, _H.c.lifted_ms)
    .where(_H.c.tenant == bindparam("tenant"), _H.c.id != _COUNT)
    .order_by(_H.c.placed_ms, _H.c.id)
)


@dataclass(frozen=True, slots=True)
class Hold:
    """`lifted_ms` is 0 while it stands."""

    id: str
    kind: HoldKind
    value: str
    first_ms: int
    end_ms: int
    placed_ms: int
    lifted_ms: int = 0


@dataclass(frozen=True, slots=True)
class Holds:
    """The holds that stand, read at one moment; `moves` says which moment. `held` counts what each has kept."""

    standing: Sequence[Hold]
    moves: int
    held: dict[str, int] = field(default_factory=dict[str, int])

    @classmethod
    def read(cls, reader: Reader, tenant: str) -> Holds:
        count = reader.row(tenant, LEGAL_HOLDS, _COUNT)
        standing = [hold for hold in cls.all_of(reader, tenant) if not hold.lifted_ms]
        return cls(standing, count["first_ms"] if count is not None else 0)

    @staticmethod
    def all_of(reader: Reader, tenant: str) -> list[Hold]:
        """Every hold there ever was, oldest first."""
        rows = reader.query(_ALL, tenant=tenant)
        return [Hold(str(row[0]), HoldKind(row[1]), str(row[2]), *map(int, row[3:])) for row in rows]

    def keep(self, reader: Reader, tenant: str, envelope: str) -> bool:
        """Whether some hold keeps the payload of the entry with this envelope (its JSON text)."""
        if not self.standing:
            return False
        told: Mapping[str, Any] = json.loads(envelope)
        kept = False
        for hold in self.standing:
            if _covers(hold, told, reader, tenant):
                self.held[hold.id] = self.held.get(hold.id, 0) + 1
                kept = True
        return kept


def _covers(hold: Hold, told: Mapping[str, Any], reader: Reader, tenant: str) -> bool:
    if hold.kind is HoldKind.TIME:
        return hold.first_ms <= int(told["t"]) < hold.end_ms
    call = told.get("call")
    row = reader.row(tenant, CALLS, call) if call is not None else None
    if hold.kind is HoldKind.CALL:
        return call == hold.value
    if hold.kind is HoldKind.TASK:
        return told.get("task") == hold.value or (row is not None and row["task"] == hold.value)
    return row is None or row["principal"] == hold.value  # nobody can say whose it is, or it is theirs


@dataclass(frozen=True, slots=True)
class HoldsUnmoved:
    """Part: stop with `Moved` when a hold was placed or lifted since `moves` was read."""

    moves: int

    def keys(self) -> Iterable[Key]:
        return [(LEGAL_HOLDS, _COUNT)]

    def apply(self, state: State) -> Stop | None:
        row = state.get(LEGAL_HOLDS, _COUNT)
        return Moved("holds") if (row["first_ms"] if row else 0) != self.moves else None


@dataclass(frozen=True, slots=True)
class PlaceHold:
    """Part: a person holds what `hold` names; `named` is what they call it, for the record alone."""

    hold: Hold
    named: str
    by: str
    reason: str

    def keys(self) -> Iterable[Key]:
        return [(LEGAL_HOLDS, self.hold.id), (LEGAL_HOLDS, _COUNT)]

    def apply(self, state: State) -> Stop | None:
        hold = self.hold
        if state.get(LEGAL_HOLDS, hold.id) is not None:
            return Moved("holds")
        packet: JsonObject = {
            "v": 1,
            "hold": hold.id,
            "kind": hold.kind.value,
            "value": self.named,
            "by": self.by,
            "reason": self.reason,
        }
        if hold.kind is HoldKind.TIME:
            packet |= {"first_ms": hold.first_ms, "end_ms": hold.end_ms}
        state.append(LogRecord(RecordType.HOLD_PLACED, packet))
        state.put(LEGAL_HOLDS, hold.id, _row(hold))
        _count(state)
        return None


@dataclass(frozen=True, slots=True)
class LiftHold:
    """Part: a person lifts a hold that stands."""

    hold: str
    now_ms: int
    by: str
    reason: str

    def keys(self) -> Iterable[Key]:
        return [(LEGAL_HOLDS, self.hold), (LEGAL_HOLDS, _COUNT)]

    def apply(self, state: State) -> Stop | None:
        row = state.get(LEGAL_HOLDS, self.hold)
        if row is None or row["lifted_ms"] or self.hold == _COUNT:
            return Moved("holds")
        packet: JsonObject = {"v": 1, "hold": self.hold, "by": self.by, "reason": self.reason}
        state.append(LogRecord(RecordType.HOLD_LIFTED, packet))
        state.put(LEGAL_HOLDS, self.hold, {**row, "lifted_ms": self.now_ms})
        _count(state)
        return None


def _count(state: State) -> None:
    row = state.get(LEGAL_HOLDS, _COUNT) or _row(Hold(_COUNT, HoldKind.TIME, "", 0, 0, 0))
    state.put(LEGAL_HOLDS, _COUNT, {**row, "first_ms": row["first_ms"] + 1})


def _row(hold: Hold) -> dict[str, Any]:
    return {
        "kind": hold.kind.value,
        "value": hold.value,
        "first_ms": hold.first_ms,
        "end_ms": hold.end_ms,
        "placed_ms": hold.placed_ms,
        "lifted_ms": hold.lifted_ms,
    }
