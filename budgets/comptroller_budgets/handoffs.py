"""Hand-offs: work given to a person. One a task, named like it; what it says stands in the log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import BigInteger, Text
from sqlmodel import Field, SQLModel

from comptroller_audit.database import Relation
from comptroller_audit.packets import LogRecord
from comptroller_audit.unit import Key, State, Stop
from comptroller_audit.vocabulary import Code, Refusal

__all__ = ["HANDOFFS", "CloseHandoff", "HandoffCause", "HandoffRow", "HandoffState", "NoteHandoff"]


class HandoffState(StrEnum):
    OPEN = "open"
    CLOSED = "closed"


class HandoffCause(StrEnum):
    """Why a person is needed: the agent asked, a call's effect is not as it should be, or a budget ran out."""

    ASKED = "asked"
    CALL_HANDED_OFF = "call_handed_off"
    EXHAUSTED = "exhausted"


class HandoffRow(SQLModel, table=True):
    """One hand-off; its id is the task's. `records` are its log entries, the newest of which is what holds."""

    __tablename__ = "handoffs"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    state: str
    cause: str
    actor: str
    records: str = Field(sa_type=Text)
    created_ms: int = Field(sa_type=BigInteger)
    updated_ms: int = Field(sa_type=BigInteger)


HANDOFFS = Relation(HandoffRow)


@dataclass(frozen=True, slots=True)
class NoteHandoff:
    """Part: the task's hand-off says what `record` says from now on, and is open.

    `record` None: the part before it in this unit has appended it.
    """

    task: str
    cause: HandoffCause
    actor: str
    record: LogRecord | None = None

    def keys(self) -> Iterable[Key]:
        return [(HANDOFFS, self.task)]

    def apply(self, state: State) -> Stop | None:
        index = state.append(self.record) if self.record is not None else state.newest_index
        row = state.get(HANDOFFS, self.task)
        state.put(
            HANDOFFS,
            self.task,
            {
                "state": HandoffState.OPEN.value,
                "cause": self.cause.value,
                "actor": self.actor,
                "records": f"{row['records']},{index}" if row is not None else str(index),
                "created_ms": row["created_ms"] if row is not None else state.now_ms,
                "updated_ms": state.now_ms,
            },
        )
        return None


@dataclass(frozen=True, slots=True)
class CloseHandoff:
    """Part: a person has dealt with it."""

    task: str
    record: LogRecord

    def keys(self) -> Iterable[Key]:
        return [(HANDOFFS, self.task)]

    def apply(self, state: State) -> Stop | None:
        row = state.get(HANDOFFS, self.task)
        if row is None or row["state"] == HandoffState.CLOSED:
            return Refusal(Code.CALL_UNKNOWN, "There is no open hand-off of this id.")
        index = state.append(self.record)
        closed = {
            "state": HandoffState.CLOSED.value,
            "records": f"{row['records']},{index}",
            "updated_ms": state.now_ms,
        }
        state.put(HANDOFFS, self.task, {**row, **closed})
        return None
