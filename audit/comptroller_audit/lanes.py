"""Lanes: what takes units in order and has the runner execute them, on a thread of its own or on the caller's."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from comptroller_audit.transaction import BatchRunner, Waiting

__all__ = ["BATCH_UNITS_MAX", "BUSY_UNITS", "InlineLane", "Lane", "ThreadLane"]

BATCH_UNITS_MAX = 256
"""Units one transaction takes; more wait for the next."""
TURN_UNITS_MAX = 16
"""Units of one turn of an event loop that are handed over before it ends, so that the writer works beside a long one."""

BUSY_UNITS = 8
"""A batch of so many says that many calls run at once, and each of them takes far longer than `GATHER_S`."""
GATHER_S = 0.001


class Lane(Protocol):
    """Takes units in order and has the runner execute them."""

    def submit(self, waiting: Waiting) -> None: ...

    def close(self) -> None:
        """Finish what was submitted."""
        ...


class InlineLane:
    """Every unit is its own batch, run at once on the caller's thread: deterministic, for the simulation."""

    def __init__(self, runner: BatchRunner) -> None:
        self._runner = runner

    def submit(self, waiting: Waiting) -> None:
        self._runner.run([waiting])
        _resolve([waiting])

    def close(self) -> None:
        """Nothing is kept waiting."""


class ThreadLane:
    """One writer thread; what arrives while a batch commits makes up the next batch (group commit).

    What one turn of an event loop submits is handed over at its end, or `TURN_UNITS_MAX` at a time, and behind a batch of
    `BUSY_UNITS` the next one waits a moment for more: under load that makes few large batches instead of many that fight
    the loop for the interpreter. `pause` is called with that moment, seconds.
    """

    def __init__(self, runner: BatchRunner, pause: Callable[[float], None] = time.sleep) -> None:
        self._runner = runner
        self._pause = pause
        self._queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._of_turn: dict[asyncio.AbstractEventLoop, list[Waiting]] = {}
        self._thread = threading.Thread(target=self._work, name="comptroller-store", daemon=True)
        self._thread.start()

    def submit(self, waiting: Waiting) -> None:
        together = self._of_turn.get(waiting.loop)
        if together is not None:
            together.append(waiting)
            if len(together) >= TURN_UNITS_MAX:
                self._end_turn(waiting.loop)
            return
        self._of_turn[waiting.loop] = [waiting]
        waiting.loop.call_soon(self._end_turn, waiting.loop)

    def _end_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        for waiting in self._of_turn.pop(loop, ()):
            self._queue.put(waiting)

    def close(self) -> None:
        for loop in list(self._of_turn):
            self._end_turn(loop)
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        carried: Waiting | None = None
        before = 0
        while (first := carried or self._queue.get()) is not None:
            if before >= BUSY_UNITS:
                self._pause(GATHER_S)
            batch, carried, ending = self._gather(first)
            before = len(batch)
            try:
                self._runner.run(batch)
            except BaseException as error:  # noqa: BLE001 - every later commit waits on this thread, so it outlives it
                for waiting in batch:
                    waiting.outcome = error
            _hand_over(batch)
            if ending:
                return

    def _gather(self, first: Waiting) -> tuple[list[Waiting], Waiting | None, bool]:
        """What is queued for the same tenant, in order; a unit of another tenant starts the next batch."""
        batch = [first]
        while len(batch) < BATCH_UNITS_MAX:
            try:
                following = self._queue.get_nowait()
            except queue.Empty:
                break
            if following is None:
                return batch, None, True
            if following.tenant != first.tenant:
                return batch, following, False
            batch.append(following)
        return batch, None, False


def _hand_over(batch: Sequence[Waiting]) -> None:
    """Resolve each future on its own event loop; one that is closed meanwhile has nobody waiting."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Waiting]] = {}
    for waiting in batch:
        by_loop.setdefault(waiting.loop, []).append(waiting)
    for loop, waiters in by_loop.items():
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_resolve, waiters)


def _resolve(batch: Sequence[Waiting]) -> None:
    for waiting in batch:
        if waiting.future.done():
            continue  # the waiter was cancelled; its unit is durable or not all the same
        if isinstance(waiting.outcome, BaseException):
            waiting.future.set_exception(waiting.outcome)
        elif waiting.outcome is not None:
            waiting.future.set_result(waiting.outcome)
