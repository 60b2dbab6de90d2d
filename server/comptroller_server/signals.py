"""Turn SIGINT and SIGTERM into an orderly end: the transport drains and returns, and its caller cleans up."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager

__all__ = ["stop_on_signals"]


@contextmanager
def stop_on_signals(stop: asyncio.Event | None) -> Generator[asyncio.Event]:
    """Yield the event that ends a transport: `stop` as given, else one that SIGINT and SIGTERM set.

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
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, asked.set)
                watched.append(number)
        yield asked
    finally:
        for number in watched:
            loop.remove_signal_handler(number)
