"""How far each stream has come, in the store: it moves when its sink took the records, and by nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sqlalchemy import BigInteger, Text
from sqlmodel import Field, SQLModel

from comptroller_audit.database import Relation, Row
from comptroller_audit.packets import LogRecord
from comptroller_audit.store import Reader
from comptroller_audit.unit import Key, Moved, State, Stop
from comptroller_audit.vocabulary import JsonObject, RecordType

__all__ = ["STREAMS", "NotTaken", "Reset", "StreamRow", "Taken", "delivered_to", "fresh"]

ERROR_CHARS_MAX = 500


class StreamRow(SQLModel, table=True):
    """A stream by its name. `position` is the index of the first entry that its sink has not taken.

    `moves` counts every change, so that of two who deliver the same only one moves it. `refused` are records that a
    collector said it would not keep.
    """

    __tablename__ = "streams"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    position: int = Field(sa_type=BigInteger)
    moves: int = Field(sa_type=BigInteger)
    taken_ms: int = Field(sa_type=BigInteger)
    tried_ms: int = Field(sa_type=BigInteger)
    failures: int
    refused: int = Field(sa_type=BigInteger)
    error: str = Field(sa_type=Text)


STREAMS = Relation(StreamRow)


def fresh() -> Row:
    """A stream that has delivered nothing."""
    return {
        "position": 0,
        "moves": 0,
        "taken_ms": 0,
        "tried_ms": 0,
        "failures": 0,
        "refused": 0,
        "error": "",
    }


@dataclass(frozen=True, slots=True)
class Taken:
    """Part: the sink took everything before `position`; `moves` is what was read before it was asked."""

    name: str
    moves: int
    position: int
    now_ms: int
    refused: int = 0

    def keys(self) -> Iterable[Key]:
        return [(STREAMS, self.name)]

    def apply(self, state: State) -> Stop | None:
        row = state.get(STREAMS, self.name) or fresh()
        if row["moves"] != self.moves:
            return Moved("stream")
        state.put(
            STREAMS,
            self.name,
            {
                **row,
                "position": self.position,
                "moves": self.moves + 1,
                "taken_ms": self.now_ms,
                "tried_ms": self.now_ms,
                "failures": 0,
                "refused": row["refused"] + self.refused,
                "error": "",
            },
        )
        return None


@dataclass(frozen=True, slots=True)
class NotTaken:
    """Part: the sink did not take the records; `error` is released."""

    name: str
    moves: int
    error: str
    now_ms: int

    def keys(self) -> Iterable[Key]:
        return [(STREAMS, self.name)]

    def apply(self, state: State) -> Stop | None:
        row = state.get(STREAMS, self.name) or fresh()
        if row["moves"] != self.moves:
            return Moved("stream")
        state.put(
            STREAMS,
            self.name,
            {
                **row,
                "moves": self.moves + 1,
                "tried_ms": self.now_ms,
                "failures": row["failures"] + 1,
                "error": self.error[:ERROR_CHARS_MAX],
            },
        )
        return None


@dataclass(frozen=True, slots=True)
class Reset:
    """Part: a person sends a stream on from `position`, which is no further than the log."""

    name: str
    position: int
    by: str

    def keys(self) -> Iterable[Key]:
        return [(STREAMS, self.name)]

    def apply(self, state: State) -> Stop | None:
        if not 0 <= self.position <= state.head.size:
            return Moved("log")
        row = state.get(STREAMS, self.name) or fresh()
        packet: JsonObject = {
            "v": 1,
            "stream": self.name,
            "before": row["position"],
            "position": self.position,
            "by": self.by,
        }
        state.append(LogRecord(RecordType.STREAM_RESET, packet))
        state.put(
            STREAMS,
            self.name,
            {
                **row,
                "position": self.position,
                "moves": row["moves"] + 1,
                "failures": 0,
                "refused": 0,
                "error": "",
            },
        )
        return None


def delivered_to(reader: Reader, tenant: str, names: Collection[str]) -> int:
    """Every stream of `names` has delivered what stands before this index; 0 without any."""
    rows = reader.rows(tenant, STREAMS, list(names)) if names else {}
    return min((int(rows[name]["position"]) if name in rows else 0 for name in names), default=0)
