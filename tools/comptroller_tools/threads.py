"""Daemon worker threads with a hard bound and no queue.

A thread whose function hangs keeps its slot until the function ends: nothing can kill it. The threads are
daemons, because `ThreadPoolExecutor` joins its own at exit and one hung tool would then hold up shutdown.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

__all__ = ["WorkerThreads"]

Job = Callable[[], Callable[[], None]]
"""The work; it returns what to do once its slot is free again: announce the result."""


class WorkerThreads:
    """At most `count_max` jobs at once; idle threads are used again, newest first."""

    def __init__(self, name: str, count_max: int) -> None:
        self._name = name
        self._count_max = count_max
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[Job | None]] = []
        self._started = 0
        self._busy = 0
        self._closed = False

    @property
    def busy(self) -> int:
        """How many threads run a job now."""
        return self._busy

    def start(self, job: Job) -> bool:
        """Run `job` now on a thread of its own; False when every slot is taken. `job` must not raise."""
        with self._lock:
            if self._closed or self._busy >= self._count_max:
                return False
            self._busy += 1
            if self._idle:
                self._idle.pop().put(job)
                return True
            self._started += 1
            number = self._started
        inbox: SimpleQueue[Job | None] = SimpleQueue()
        inbox.put(job)
        thread = threading.Thread(
            target=self._work, args=(inbox,), name=f"{self._name}-{number}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # the operating system has no more threads to give
            with self._lock:
                self._busy -= 1
            return False
        return True

    def close(self) -> None:
        """Let idle threads end; busy ones end after their job. Starts nothing more."""
        with self._lock:
            self._closed = True
            for inbox in self._idle:
                inbox.put(None)
            self._idle.clear()

    def _work(self, inbox: SimpleQueue[Job | None]) -> None:
        going_on = True
        while going_on and (job := inbox.get()) is not None:
            announce: Callable[[], None] | None = None
            try:
                announce = job()
            finally:
                del job  # an idle thread must not keep the last call's arguments alive
                going_on = self._give_back(inbox)
            announce()
            del announce

    def _give_back(self, inbox: SimpleQueue[Job | None]) -> bool:
        """Free the slot; True while this thread should wait for more."""
        with self._lock:
            self._busy -= 1
            if not self._closed:
                self._idle.append(inbox)
            return not self._closed
