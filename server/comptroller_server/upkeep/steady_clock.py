"""A wall clock that is not followed when it leaps ahead: budgets would begin anew, approvals end, payloads be erased."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from comptroller_audit.ambient import Clock, SystemClock

__all__ = ["SteadyClock", "since_boot"]

_STEP_MS = 1_000.0
"""Smaller differences are the slewing of a clock that is kept right."""
_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_log = structlog.stdlib.get_logger()


def since_boot() -> float:
    """Seconds that passed for the machine, asleep or not: a laptop that wakes after ten days has seen no leap."""
    return time.clock_gettime(_SINCE_BOOT)


class SteadyClock:
    """`clock`, unless it is more than `jump_s` ahead of the time that passed. Then time goes on as it passed.

    It follows again when the clock is set right, or when somebody accepts what it says (`reach`). What goes back is
    followed at once: record time, windows and approvals never go back with it.
    """

    def __init__(self, clock: Clock, jump_s: float, elapsed: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._jump_ms = jump_s * 1000
        self._elapsed = elapsed or (since_boot if isinstance(clock, SystemClock) else clock.monotonic)
        self._known = (float(clock.now_ms()), self._elapsed())
        self._told = False
        self.monotonic: Callable[[], float] = clock.monotonic
        """As `Clock.monotonic`: a call asks it two dozen times."""

    def now_ms(self) -> int:
        wall, elapsed = self._clock.now_ms(), self._elapsed()
        ms, at = self._known
        passed = ms + (elapsed - at) * 1000
        if wall - passed > self._jump_ms:
            self._tell(wall, passed)
            return int(passed)
        if wall - passed > _STEP_MS:
            self._known = (float(wall), elapsed)
        self._told = False
        return wall

    @property
    def is_ahead(self) -> bool:
        """Whether the clock has leapt and is not followed."""
        self.now_ms()
        return self._told

    def reach(self, ms: int) -> None:
        """So much time has passed, as the record says, or a person: what comes before it is no leap."""
        known, at = self._known
        elapsed = self._elapsed()
        if ms > known + (elapsed - at) * 1000:
            self._known = (float(ms), elapsed)

    def _tell(self, wall: int, passed: float) -> None:
        if not self._told:
            self._told = True
            _log.error(
                "the clock leapt ahead and is not followed; set it right, or accept it: "
                "comptroller retention run --accept-clock",
                hours=int((wall - passed) // 3_600_000),
            )
