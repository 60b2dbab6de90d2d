"""Counted history: how many calls of a tool a task or principal has committed within a window.

Policy reads these counts, so a decision's basis is the revision of each row it read; the commit checks them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel

from comptroller_audit.database import Relation
from comptroller_audit.unit import Key, Moved, State, Stop
from comptroller_budgets.limits import Scope, Window, window_start

__all__ = ["HISTORY", "BumpHistory", "HistoryRow", "HistoryUnmoved", "effects_id", "history_id"]


class HistoryRow(SQLModel, table=True):
    __tablename__ = "history"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    count: int
    revision: int = Field(sa_type=BigInteger)


HISTORY = Relation(HistoryRow)


def history_id(scope: Scope, who: str, tool: str, window: Window, now_ms: int) -> str:
    """The row that counts `tool` for one task or principal in the current window."""
    return f"{scope}:{who}:{tool}:{window}:{window_start(window, now_ms)}"


def effects_id(tool: str) -> str:
    """The row of a tool's side effects: `count` of those not known to be over, `revision` of their every move."""
    return f"effects:{tool}"


@dataclass(frozen=True, slots=True)
class HistoryUnmoved:
    """Part: the rows a decision read still have the revisions it read (0: there was no row)."""

    revisions: Mapping[str, int]

    def keys(self) -> Iterable[Key]:
        return [(HISTORY, row_id) for row_id in self.revisions]

    def apply(self, state: State) -> Stop | None:
        for row_id, revision in self.revisions.items():
            row = state.get(HISTORY, row_id)
            if (row["revision"] if row else 0) != revision:
                return Moved(row_id)
        return None


@dataclass(frozen=True, slots=True)
class BumpHistory:
    """Part: count a committed call (+1), or take it back when its effect did not happen (-1); 0 only marks a move."""

    rows: tuple[str, ...]
    by: int = 1

    def keys(self) -> Iterable[Key]:
        return [(HISTORY, row_id) for row_id in self.rows]

    def apply(self, state: State) -> Stop | None:
        for row_id in self.rows:
            row = state.get(HISTORY, row_id) or {"count": 0, "revision": 0}
            state.put(
                HISTORY, row_id, {"count": max(0, row["count"] + self.by), "revision": row["revision"] + 1}
            )
        return None
