"""How the command line's process ends when a signal asks it to. It imports next to nothing: every command starts with it."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn, TextIO

__all__ = ["end_as_interrupted", "leave"]

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


def leave(code: int, failed: int) -> NoReturn:
    """End the process with `code`, once what it printed is written; `failed` where that cannot be.

    A signal from here on changes nothing of it. Python's own way out would set all handlers back first, and end by SIGINT
    where an interrupt met code that was made from text (a dataclass), though somebody caught it.
    """
    _end_at_once(failed)  # its last words may still be on their way
    out: TextIO | None = sys.stdout  # None where it was closed before we began
    try:
        if out is not None:
            out.flush()
    except BrokenPipeError:  # the reader of our output had enough
        pass
    except (OSError, ValueError) as error:
        code = failed
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"comptroller: standard output cannot be written to: {error}\n")
    _end_at_once(code)
    main = threading.main_thread()
    if any(thread is not main and not thread.daemon for thread in threading.enumerate()):
        sys.exit(code)  # which waits for a tool that still runs
    atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]  # as Python's way out does
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(code)


def _end_at_once(code: int) -> None:
    def end(_number: int, _frame: FrameType | None) -> None:
        os._exit(code)

    for number in (signal.SIGINT, *_ALSO_END):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)
