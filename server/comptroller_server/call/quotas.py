"""Floods: attempts that lead to nothing are limited per principal, and their records are counted, not multiplied."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from comptroller_audit.ambient import Clock
from comptroller_audit.vocabulary import Code, Refusal

__all__ = ["Quotas"]

MINUTE_S = 60.0
COUNTED_PER_FLUSH_MAX = 1_000
"""Principals whose refusals are counted apart; further ones share one count."""


@dataclass(slots=True)
class _Minute:
    began: float
    attempts: int = 0
    records: int = 0


@dataclass(slots=True)
class Quotas:
    """Per principal: `attempts_max` fruitless attempts a minute, `records_max` singly recorded refusals a minute."""

    clock: Clock
    attempts_max: int
    records_max: int
    _minutes: dict[str, _Minute] = field(default_factory=dict[str, _Minute])
    _uncounted: dict[str, int] = field(default_factory=dict[str, int])

    def check(self, principal: str) -> Refusal | None:
        """The refusal when this principal's fruitless attempts of the minute are used up."""
        minute = self._minute(principal)
        if minute.attempts < self.attempts_max:
            return None
        wait_s = max(1, int(minute.began + MINUTE_S - self.clock.monotonic()) + 1)
        return Refusal(
            Code.OVERLOADED,
            f"{self.attempts_max} attempts in a minute led to nothing. Wait {wait_s} seconds and do something else.",
            retry=f"after:{wait_s}",
        )

    def spend(self, principal: str) -> None:
        """A refused, pending, replayed or resumed attempt."""
        self._minute(principal).attempts += 1

    def records_singly(self, principal: str) -> bool:
        """Whether this refusal gets a record of its own; otherwise it is counted for the next flush."""
        minute = self._minute(principal)
        if minute.records < self.records_max:
            minute.records += 1
            return True
        key = (
            principal
            if len(self._uncounted) < COUNTED_PER_FLUSH_MAX or principal in self._uncounted
            else "others"
        )
        self._uncounted[key] = self._uncounted.get(key, 0) + 1
        return False

    def take_counted(self) -> Iterable[tuple[str, int]]:
        """Counts since the last flush, by principal; the caller records them."""
        counted, self._uncounted = self._uncounted, {}
        return counted.items()

    def put_back(self, counted: Iterable[tuple[str, int]]) -> None:
        """Counts that could not be recorded."""
        for principal, count in counted:
            self._uncounted[principal] = self._uncounted.get(principal, 0) + count

    def _minute(self, principal: str) -> _Minute:
        now = self.clock.monotonic()
        minute = self._minutes.get(principal)
        if minute is None or now - minute.began >= MINUTE_S:
            if len(self._minutes) > 10 * COUNTED_PER_FLUSH_MAX:
                self._minutes = {k: m for k, m in self._minutes.items() if now - m.began < MINUTE_S}
            minute = self._minutes[principal] = _Minute(now)
        return minute
