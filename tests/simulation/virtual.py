"""Time that the simulation owns: a clock, and an event loop that waits by moving that clock.

The loop runs one round alone: nothing outside can wake it, so with nothing scheduled it says `Deadlock` instead of
waiting for ever. What the product gives to threads runs at once on the loop, so that a seed fixes every order.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

__all__ = ["Deadlock", "VirtualClock", "VirtualLoop"]

NOON_MS = 1_795_003_200_000
"""2026-11-18T12:00:00Z, milliseconds."""
ROUND_S_MAX = 200_000.0
"""Virtual seconds after which a round counts as hanging."""


class Deadlock(BaseException):
    """Everybody waits and nothing is scheduled. Not an Exception, so that no handler of the product takes it."""


class VirtualClock:
    """Both clocks of the product. Waiting moves both; `jump_ms` moves the wall clock only."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._wall_ms = NOON_MS

    def now_ms(self) -> int:
        return self._wall_ms + int(self.seconds * 1000)

    def monotonic(self) -> float:
        return self.seconds

    def jump_ms(self, by: int) -> None:
        self._wall_ms += by


class _VirtualSelector(selectors.SelectSelector):
    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None or self._clock.seconds > ROUND_S_MAX:
            raise Deadlock(
                "nothing is left that could happen" if timeout is None else "the round does not end"
            )
        if timeout > 0:
            self._clock.seconds += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on a `VirtualClock`. An hour of waiting takes no time at all."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        super().__init__(_VirtualSelector(clock))

    def time(self) -> float:
        return self._clock.seconds

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]  # typeshed wants TypeVarTuple
        """Run `func` now, on the loop."""
        done: asyncio.Future[Any] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 -- handed on to whoever awaits it
            done.set_exception(error)
        return done
