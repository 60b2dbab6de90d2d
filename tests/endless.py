"""What takes more than linear time does not end on large input: a bound on processor time that only that reaches.

Not a measure of speed. Those who use it take input so large that the honest way needs a hundredth of the bound, and a
quadratic one many times as much, on any machine. Speed is measured in `tests/benchmarks`.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Generator
from types import FrameType

__all__ = ["CPU_S_MAX", "ends"]

CPU_S_MAX = 60.0


@contextlib.contextmanager
def ends(cpu_s: float = CPU_S_MAX) -> Generator[None]:
    """Raises `AssertionError` inside once this process has worked `cpu_s` seconds there. For the main thread."""

    def give_up(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise AssertionError(f"not done after {cpu_s} seconds of work: this is not linear")

    before = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
