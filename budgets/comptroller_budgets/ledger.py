"""The ledger: holds taken before a call and settled or released once after it. Nothing held is ever overspent.

A counter is one (scope, unit, window). A hold is an upper bound: `used + held + amount` must stay within the limit at
the moment of the commit, under the tenant's head lock, so no number of processes can overspend together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import BigInteger, Text
from sqlmodel import Field, SQLModel

from comptroller_audit.database import Relation, Row
from comptroller_audit.unit import Key, State, Stop
from comptroller_audit.vocabulary import MICRO, Code, Json, Refusal
from comptroller_budgets.errors import HoldTaken
from comptroller_budgets.limits import Charge, Limit, verified_writes

__all__ = [
    "COUNTERS",
    "HOLDS",
    "CounterRow",
    "HoldRow",
    "HoldState",
    "NoteVerifiedWrite",
    "Release",
    "Settle",
    "Spend",
    "TakeHold",
    "amount_text",
    "open_micro",
    "widens",
]


class CounterRow(SQLModel, table=True):
    """What was spent and what is held, in micro-units, of one unit in one window of one scope."""

    __tablename__ = "counters"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    used: int = Field(sa_type=BigInteger)
    held: int = Field(sa_type=BigInteger)


class HoldState(StrEnum):
    HELD = "held"
    SETTLED = "settled"
    RELEASED = "released"


class HoldRow(SQLModel, table=True):
    """What one call holds: `items` is JSON `[[counter, amount_micro], …]`."""

    __tablename__ = "holds"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    state: str
    items: str = Field(sa_type=Text)


COUNTERS = Relation(CounterRow)
HOLDS = Relation(HoldRow)


def _counter(state: State, counter: str) -> Row:
    return state.get(COUNTERS, counter) or {"used": 0, "held": 0}


def open_micro(get: Callable[[Relation, str], Row | None], limit: Limit, opened_by: str) -> int:
    """What a limit lets through now: its first part, until the counter `opened_by` counts something."""
    if limit.first_micro is None or (get(COUNTERS, opened_by) or {"used": 0})["used"] > 0:
        return limit.max_micro
    return limit.first_micro


def widens(limit: Limit, most: int) -> str:
    """What a refusal adds while only `most`, the first part of a limit, is open."""
    if most == limit.max_micro:
        return ""
    return f" The rest, up to {amount_text(limit.max_micro)}, opens once a change made in this task was verified."


def _exhausted(state: State, charge: Charge, call: str) -> Refusal | None:
    if charge.amount_micro < 0:
        return Refusal(
            Code.INVALID_ARGUMENTS,
            f"This call would count {amount_text(charge.amount_micro)} `{charge.limit.unit}`; nothing counts below zero.",
            retry="other_arguments",
            call=call,
        )
    row = _counter(state, charge.counter)
    most = open_micro(state.get, charge.limit, charge.opened_by)
    left = most - row["used"] - row["held"]
    if charge.amount_micro <= left:
        return None
    wait_s = None if charge.resets_ms is None else max(1, -(-(charge.resets_ms - state.now_ms) // 1000))
    resets = "It does not reset within this task." if wait_s is None else f"It resets in {wait_s} seconds."
    return Refusal(
        Code.BUDGET_EXHAUSTED,
        f"The budget `{charge.limit.id}` has {amount_text(max(0, left))} of {amount_text(most)} left "
        f"and this call needs {amount_text(charge.amount_micro)}.{widens(charge.limit, most)} {resets} Hand the task to "
        "a person (`hand_off`) if it cannot go on.",
        retry="person" if wait_s is None else f"after:{wait_s}",
        call=call,
        details={
            "budget": charge.limit.id,
            "scope": charge.limit.scope.value,
            "unit": charge.limit.unit,
            "left_micro": max(0, left),
            "needed_micro": charge.amount_micro,
        },
    )


def _counters_of(charges: Iterable[Charge]) -> list[Key]:
    """The counters that charges add to, and those that open them."""
    ids = (row_id for charge in charges for row_id in (charge.counter, charge.opened_by) if row_id)
    return [(COUNTERS, row_id) for row_id in ids]


def _by_counter(charges: Iterable[Charge]) -> dict[str, int]:
    """What each counter takes: once, however many limits look at it."""
    amounts: dict[str, int] = {}
    for charge in charges:
        amounts[charge.counter] = max(charge.amount_micro, amounts.get(charge.counter, 0))
    return amounts


def _add(state: State, amounts: Mapping[str, int], column: str) -> None:
    for counter, amount in amounts.items():
        row = _counter(state, counter)
        state.put(COUNTERS, counter, {**row, column: row[column] + amount})


@dataclass(frozen=True, slots=True)
class TakeHold:
    """Part: reserve every charge for `call`, or refuse with the first budget that does not suffice."""

    call: str
    charges: tuple[Charge, ...]

    def keys(self) -> Iterable[Key]:
        return [(HOLDS, self.call), *_counters_of(self.charges)]

    def apply(self, state: State) -> Stop | None:
        if state.get(HOLDS, self.call) is not None:
            raise HoldTaken(f"Call {self.call} took its hold before; a call is held for once.")
        for charge in self.charges:
            if (refusal := _exhausted(state, charge, self.call)) is not None:
                return refusal
        amounts = _by_counter(self.charges)
        _add(state, amounts, "held")
        items = json.dumps(list(amounts.items()))
        state.put(HOLDS, self.call, {"state": HoldState.HELD.value, "items": items})
        return None


@dataclass(frozen=True, slots=True)
class Spend:
    """Part: charge at once what a read costs, or refuse; there is nothing to hold, the read is over."""

    call: str
    charges: tuple[Charge, ...]

    def keys(self) -> Iterable[Key]:
        return _counters_of(self.charges)

    def apply(self, state: State) -> Stop | None:
        for charge in self.charges:
            if (refusal := _exhausted(state, charge, self.call)) is not None:
                return refusal
        _add(state, _by_counter(self.charges), "used")
        return None


@dataclass(frozen=True, slots=True)
class NoteVerifiedWrite:
    """Part: a side effect of `task` was read back and matched. It opens what `first` keeps closed."""

    task: str

    def keys(self) -> Iterable[Key]:
        return [(COUNTERS, verified_writes(self.task))]

    def apply(self, state: State) -> Stop | None:
        _add(state, {verified_writes(self.task): MICRO}, "used")
        return None


@dataclass(frozen=True, slots=True)
class Settle:
    """Part: turn what `call` holds into spending. `actual` may lower single counters, never raise them."""

    call: str
    actual: Mapping[str, int] | None = None

    def keys(self) -> Iterable[Key]:
        return [(HOLDS, self.call)]

    def apply(self, state: State) -> Stop | None:
        _close(state, self.call, HoldState.SETTLED, self.actual)
        return None


@dataclass(frozen=True, slots=True)
class Release:
    """Part: give back all that `call` holds; its effect did not happen."""

    call: str

    def keys(self) -> Iterable[Key]:
        return [(HOLDS, self.call)]

    def apply(self, state: State) -> Stop | None:
        _close(state, self.call, HoldState.RELEASED, None)
        return None


def _close(state: State, call: str, to: HoldState, actual: Mapping[str, int] | None) -> None:
    hold = state.get(HOLDS, call)
    if hold is None or hold["state"] != HoldState.HELD:
        return
    items: list[tuple[str, int]] = json.loads(hold["items"])
    state.preload((COUNTERS, counter) for counter, _ in items)
    for counter, amount in items:
        row = _counter(state, counter)
        spent = 0 if to is HoldState.RELEASED else min(amount, (actual or {}).get(counter, amount))
        state.put(COUNTERS, counter, {"used": row["used"] + max(0, spent), "held": row["held"] - amount})
    state.put(HOLDS, call, {**hold, "state": to.value})


def amount_text(micro: int) -> str:
    """`1_500_000` as `1.5`, exactly."""
    whole, rest = divmod(abs(micro), MICRO)
    return f"{'-' if micro < 0 else ''}{whole}.{rest:06d}".rstrip("0").rstrip(".")


def holds_in_packet(charges: Iterable[Charge]) -> list[Json]:
    """What the action packet says about its holds."""
    return [
        {"limit": c.limit.id, "counter": c.counter, "unit": c.limit.unit, "amount_micro": c.amount_micro}
        for c in charges
    ]
