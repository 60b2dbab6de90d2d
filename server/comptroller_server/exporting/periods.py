"""Periods that auditors ask for: a quarter, a month, a year, or days from and to. All in UTC."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from comptroller_server.errors import CommandError

__all__ = ["Period", "period_from"]

_NAMED = re.compile(r"([0-9]{4})(?:-(?:Q([1-4])|(0[1-9]|1[0-2])))?")


@dataclass(frozen=True, slots=True)
class Period:
    """From the first moment, milliseconds since 1970, to before `end_ms`."""

    name: str
    first_ms: int
    end_ms: int


def period_from(text: str) -> Period:
    """`2026`, `2026-Q3`, `2026-07`, or `2026-07-01..2026-09-30` with the last day included. Raises `CommandError`."""
    try:
        first, end = _days(text)
        return Period(text, _ms(first), _ms(end))
    except (ValueError, OverflowError):
        raise CommandError(
            f"--period {text!r} is no period; write one like 2026-Q3, 2026-07, 2026, or 2026-07-01..2026-09-30"
        ) from None


def _days(text: str) -> tuple[date, date]:
    """The first day, and the day after the last."""
    if (named := _NAMED.fullmatch(text)) is not None:
        year, quarter, month = int(named[1]), named[2], named[3]
        begins = int(month) if month else 3 * int(quarter) - 2 if quarter else 1
        after = begins + (1 if month else 3 if quarter else 12)
        return date(year, begins, 1), date(year + (after > 12), after - 12 if after > 12 else after, 1)
    begin, found, last = text.partition("..")
    first, end = date.fromisoformat(begin), date.fromisoformat(last) + timedelta(days=1)
    if not found or end <= first:
        raise ValueError(text)
    return first, end


def _ms(day: date) -> int:
    return max(0, int(datetime.combine(day, time(), UTC).timestamp() * 1000))
