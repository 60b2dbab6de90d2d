"""Which call is to be reversed by which other one, and how far that has come.

A row is written in the same commit that says a call went wrong, before anything is reversed: what a process that died
has left behind is found here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Index, bindparam, select
from sqlmodel import Field, SQLModel

from comptroller_audit.database import Relation, Row, table_of
from comptroller_audit.store import Reader

__all__ = [
    "COMPENSATIONS",
    "CompensationRow",
    "CompensationState",
    "Owed",
    "claim_id",
    "cover_id",
    "is_open",
    "owed",
]


class CompensationState(StrEnum):
    """OWED: nothing has begun. BEGUN: the compensating call is committed. DOUBTED: nobody knows its effect. OVER."""

    OWED = "owed"
    BEGUN = "begun"
    DOUBTED = "doubted"
    OVER = "over"


class CompensationRow(SQLModel, table=True):
    """`id` is the call that is reversed, `call` the one that reverses it, empty until that is committed.

    `guard` is the row that keeps other writers off the record until this is over. `ordered` says that a person wants
    a good call reversed; otherwise it was found to be wrong.
    """

    __tablename__ = "compensations"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (Index("compensations_by_state", "tenant", "state"),)
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    state: str
    call: str
    owner: str
    guard: str
    ordered: bool


COMPENSATIONS = Relation(CompensationRow)
_T = table_of(CompensationRow)
_IN_STATE = select(_T.c.id, _T.c.call, _T.c.owner).where(
    _T.c.tenant == bindparam("tenant"), _T.c.state == bindparam("state")
)


@dataclass(frozen=True, slots=True)
class Owed:
    """A call that waits to be reversed by process `owner`."""

    call: str
    owner: str


def owed(reader: Reader, tenant: str) -> Sequence[Owed]:
    """Every call that is to be reversed and whose reversal has not begun."""
    found: Sequence[tuple[Any, ...]] = reader.query(
        _IN_STATE, tenant=tenant, state=CompensationState.OWED.value
    )
    return [Owed(str(row[0]), str(row[2])) for row in sorted(found)]


def claim_id(call: str) -> str:
    """The claim key of the one call that may reverse `call`."""
    return f"comp:{call}"


def cover_id(call: str) -> str:
    """The hold that covers the reversal of `call`, taken together with the call's own."""
    return f"comp:{call}"


def is_open(row: Row | None) -> bool:
    """Whether something is still to come of it."""
    return row is not None and row["state"] != CompensationState.OVER
