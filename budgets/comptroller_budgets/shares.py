"""Shares of budget windows: how far a call that nobody is asked about may fill them.

A window (hour, day, month) may be filled to its limit with people watching; without them only to `SHARE_PERCENT`.
Task limits have no share: a fresh task has fresh ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from comptroller_audit.database import Row
from comptroller_audit.unit import Key, Moved, State, Stop
from comptroller_budgets.ledger import COUNTERS
from comptroller_budgets.limits import Charge, Window

__all__ = ["SHARE_PERCENT", "WithinShare", "beyond_share"]

SHARE_PERCENT = 50
"""Percent of a window's limit."""


def beyond_share(charges: Iterable[Charge], counter: Callable[[str], Row | None]) -> Charge | None:
    """The first charge whose window, with what is used, held and charged, would be beyond its share."""
    for charge in charges:
        if charge.limit.window is Window.TASK:
            continue
        row = counter(charge.counter) or {"used": 0, "held": 0}
        filled = row["used"] + row["held"] + charge.amount_micro
        if filled * 100 > charge.limit.max_micro * SHARE_PERCENT:
            return charge
    return None


@dataclass(frozen=True, slots=True)
class WithinShare:
    """Part: no window is beyond its share; else the decision moved. Stands before the hold is taken."""

    charges: tuple[Charge, ...]

    def keys(self) -> Iterable[Key]:
        return [(COUNTERS, charge.counter) for charge in self.charges]

    def apply(self, state: State) -> Stop | None:
        found = beyond_share(self.charges, lambda counter: state.get(COUNTERS, counter))
        return None if found is None else Moved("share")
