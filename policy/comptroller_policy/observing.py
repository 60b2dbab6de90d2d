"""Observe mode: for seven days at most, reads and declared creates run although a rule would have stopped them.

When it began is kept in the store, once for each tenant: neither a restart nor another configuration begins it anew. It
ends for good with the first look that finds it over, and no clock that is set back brings it to life again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel

from comptroller_audit.database import Relation, Row
from comptroller_audit.store import Reader
from comptroller_audit.unit import Key, State, Stop
from comptroller_audit.vocabulary import Effect
from comptroller_policy.model import Decision, Verdict

__all__ = [
    "CLOCK_MS_BACK_MAX",
    "OBSERVED",
    "OBSERVE_MS_MAX",
    "OBSERVING",
    "BeginObserving",
    "EndObserving",
    "Mode",
    "ObservingRow",
    "Span",
    "observable",
    "read_span",
]

OBSERVE_MS_MAX: Final = 7 * 86_400_000
"""How long a tenant may be observed, from its first call under the mode."""
CLOCK_MS_BACK_MAX: Final = 60_000
"""Two machines may differ by so much; a clock further behind the record than this is wrong, and nothing is observed."""
OBSERVED: Final = "mode.observe"
"""Stands in a decision for the rule that let a call pass."""
_ID = "mode"


class Mode(StrEnum):
    """`mode:` whether rules stop what they deny, or for a time only say so of reads and creates."""

    ENFORCE = "enforce"
    OBSERVE = "observe"


class ObservingRow(SQLModel, table=True):
    """When observing began, and when it was found to be over; 0 until then. `id` is always the same."""

    __tablename__ = "observing"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    started_ms: int = Field(sa_type=BigInteger)
    ended_ms: int = Field(sa_type=BigInteger)


OBSERVING = Relation(ObservingRow)


@dataclass(frozen=True, slots=True)
class Span:
    """From when to when (milliseconds since the epoch) a tenant is observed."""

    started_ms: int
    is_ended: bool = False

    @property
    def until_ms(self) -> int:
        return self.started_ms + OBSERVE_MS_MAX

    def is_over(self, now_ms: int, record_ms: int) -> bool:
        """By the later of the clock and the newest record."""
        return self.is_ended or max(now_ms, record_ms) >= self.until_ms

    def is_certain(self, now_ms: int, record_ms: int) -> bool:
        """Whether the clock can be what it says: not behind the record, nor before observing began."""
        return now_ms >= max(self.started_ms, record_ms) - CLOCK_MS_BACK_MAX


def read_span(reader: Reader, tenant: str) -> Span | None:
    """None where nothing was ever observed."""
    row = reader.row(tenant, OBSERVING, _ID)
    return _span(row) if row is not None else None


def _span(row: Row) -> Span:
    return Span(int(row["started_ms"]), bool(row["ended_ms"]))


@dataclass(frozen=True, slots=True)
class BeginObserving:
    """Part: from now on, unless it began before. `now_ms` is the clock of the process; the record may be later."""

    now_ms: int

    def keys(self) -> Iterable[Key]:
        return [(OBSERVING, _ID)]

    def apply(self, state: State) -> Stop | None:
        if state.get(OBSERVING, _ID) is None:
            state.put(OBSERVING, _ID, {"started_ms": self.now_ms, "ended_ms": 0})
        return None


@dataclass(frozen=True, slots=True)
class EndObserving:
    """Part: it is over, for good."""

    now_ms: int

    def keys(self) -> Iterable[Key]:
        return [(OBSERVING, _ID)]

    def apply(self, state: State) -> Stop | None:
        row = state.get(OBSERVING, _ID)
        if row is not None and not row["ended_ms"]:
            state.put(OBSERVING, _ID, {**row, "ended_ms": max(1, self.now_ms)})
        return None


def observable(effect: Effect, decision: Decision) -> bool:
    """Whether the mode lets such a call pass all the same. An error in deciding is no rule, and stays a deny."""
    return (
        effect in (Effect.READ, Effect.CREATE)
        and decision.verdict is not Verdict.ALLOW
        and not decision.errors
    )
