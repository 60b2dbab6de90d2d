"""How the command line's process ends when a signal asks it to. It imports next to nothing: every command starts with it."""

from __future__ import annotations

import os
import signal
from types import FrameType

__all__ = ["end_as_interrupted", "end_at_once"]

_ALSO_END = (signal.SIGTERM, signal.SIGHUP)


def end_as_interrupted() -> None:
    """From now on SIGTERM and SIGHUP do here what SIGINT does, instead of ending all at once, with half of a file left behind.

    One that whoever started us has us ignore stays ignored.
    """
    for number in _ALSO_END:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    as_is = signal.getsignal(signal.SIGINT)
    if not callable(as_is):  # interrupts are ignored, as in the background of a shell
        raise KeyboardInterrupt
    as_is(number, frame)


def end_at_once(code: int) -> None:
    """All is done: a signal from now on ends the process with `code`, and not with a trace out of the interpreter's own end."""

    def end(_number: int, _frame: FrameType | None) -> None:
        os._exit(code)

    for number in (signal.SIGINT, *_ALSO_END):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)
