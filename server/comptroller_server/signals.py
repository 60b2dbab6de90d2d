"""Signals that ask for an end: a transport drains and returns, a command stops where it is and cleans up."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

__all__ = ["interrupted_at_once", "stop_on_signals"]


@contextmanager
def stop_on_signals(stop: asyncio.Event | None) -> Generator[asyncio.Event]:
    """Yield the event that ends a transport: `stop` as given, else one that SIGINT, SIGTERM and SIGHUP set.

    Call it inside the running loop. Outside the main thread no signal can be watched, and none is.
    """
    if stop is not None:
        yield stop
        return
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    watched: list[signal.Signals] = []
    try:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                    continue  # under nohup it is meant to outlive its terminal
                loop.add_signal_handler(number, asked.set)
                watched.append(number)
        yield asked
    finally:
        for number in watched:
            loop.remove_signal_handler(number)


@contextmanager
def interrupted_at_once() -> Generator[None]:
    """Inside, an interrupt also ends what the current task does between two awaits: a long reading, a question to a person.

    `asyncio.run` alone cancels the task, which hears of it at its next await: when all is read, or answered.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if asyncio.current_task(loop) is task:
            raise KeyboardInterrupt
        before(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
