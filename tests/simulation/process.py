"""A simulated process: the running service, its lane, its lock, and its death.

The product's own code runs unchanged inside. A death ends its tasks where they stand, frees its lock, and nothing else.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import deque
from collections.abc import Coroutine
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

from comptroller_audit.errors import StoreUnavailable
from comptroller_audit.owners import OwnerLock
from comptroller_audit.transaction import BatchRunner, Waiting
from comptroller_server.app import Service, running
from comptroller_server.call.proposal import Answer, Proposal

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["CURRENT", "Killed", "Lane", "Locks", "Process", "outside", "task_of_a_process"]

CURRENT: ContextVar[Process | None] = ContextVar("CURRENT", default=None)
"""The process whose code runs now; None for the world around."""


_PAUSES_S = (0.0, 0.0, 0.0, 0.0, 0.0005, 0.003, 0.003, 1.2)
"""Between a commit and its news: mostly none, sometimes long enough for a halt to be set and acknowledged."""


class Killed(BaseException):
    """SIGKILL, as code of that process sees it: not an Exception, so nothing handles it."""


class _Lock:
    def __init__(self, locks: Locks, owner: str) -> None:
        self._locks, self._owner = locks, owner

    def held(self) -> bool:
        return self._owner in self._locks.taken

    def release(self) -> None:
        self._locks.free(self._owner)


class Locks:
    """Owner locks as the kernel keeps them: gone with the process, however it ended."""

    def __init__(self) -> None:
        self.taken: dict[str, Process] = {}
        self.freed_at: dict[str, int] = {}
        """How long the log was when a lock came free: nothing before that may take its owner for dead."""

    def take(self, owner: str) -> OwnerLock:
        if owner in self.taken:
            raise StoreUnavailable("taken")
        process = CURRENT.get()
        assert process is not None
        process.owner = owner
        self.taken[owner] = process
        return _Lock(self, owner)

    def is_free(self, owner: str) -> bool:
        return owner not in self.taken

    def free(self, owner: str) -> None:
        process = self.taken.pop(owner, None)
        if process is not None:
            self.freed_at[owner] = process.world.log_size()


class Lane:
    """Commits take a moment, and what arrives meanwhile may share a transaction: order and batches by the seed."""

    def __init__(self, runner: BatchRunner, process: Process) -> None:
        self._runner = runner
        self._process = process
        self._queue: deque[Waiting] = deque()

    def submit(self, waiting: Waiting) -> None:
        self._process.must_live()
        self._queue.append(waiting)
        if len(self._queue) == 1:
            self._later()

    def close(self) -> None:
        while self._queue and self._process.alive:
            self._work()

    def _later(self) -> None:
        pause = self._process.random.choice((0.0, 0.0005, 0.004))
        asyncio.get_running_loop().call_later(pause, self._work)

    def _work(self) -> None:
        if not self._process.alive or not self._queue:
            return
        count = self._process.random.randint(1, len(self._queue))
        batch = [self._queue.popleft() for _ in range(count)]
        try:
            self._runner.run(batch)
        except Killed:
            return
        # Durable, and not known to anybody yet: here a halt may come, the lock may go, the process may die.
        pause = self._process.random.choice(_PAUSES_S)
        if self._process.loses_lock and pause:
            self._process.lose_lock()
        asyncio.get_running_loop().call_later(pause, self._hand_over, batch)
        if self._queue:
            self._later()

    def _hand_over(self, batch: list[Waiting]) -> None:
        for waiting in batch:
            if waiting.future.done() or not self._process.alive:
                continue
            if isinstance(waiting.outcome, BaseException):
                waiting.future.set_exception(waiting.outcome)
            elif waiting.outcome is not None:
                waiting.future.set_result(waiting.outcome)


class Process:
    """A serving process. Its death ends its tasks where they stand and frees its lock, and nothing else."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.name = f"P{number}"
        self.random = random.Random(f"{world.seed}/{number}")
        self.owner = ""
        self.alive = True
        self.service: Service | None = None
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.calls: dict[asyncio.Task[Answer], None] = {}
        self.at_the_bank = 0
        self.loses_lock = False
        """The next commit that is not heard of at once costs the lock."""
        self._stopping = asyncio.Event()
        self._installation = world.installation(self)
        self._main = self.spawn(self._live())

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `work` as code of this process."""
        context = copy_context()
        context.run(CURRENT.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)

    def must_live(self) -> None:
        if not self.alive:
            raise Killed

    def call(self, proposal: Proposal) -> asyncio.Task[Answer]:
        assert self.service is not None
        task: asyncio.Task[Answer] = self.spawn(self.service.pipeline.call(proposal))
        self.calls[task] = None
        task.add_done_callback(lambda done: self.calls.pop(done, None))
        return task

    def fault(self, point: str) -> None:
        """The product's fault seam: here a process dies, or the disk is full."""
        self.must_live()
        self.world.passes[point] = self.world.passes.get(point, 0) + 1
        if self.world.strikes(point):
            self.die(f"at {point}")
            raise Killed
        if self.world.disk_full and point in ("commit.begin", "commit.before"):
            raise sqlite3.OperationalError("database or disk is full")

    def die(self, why: str) -> None:
        if not self.alive:
            return
        self.alive, self.service = False, None
        self.world.note(f"{self.name} is killed {why}")
        self.world.deaths.append(why)
        self.world.locks.free(self.owner)
        self.world.bury(self)

    def lose_lock(self) -> None:
        """The lock is gone and the process is not: its connection was cut, or its file removed.

        Not while the bank acts for it: nobody else can tell then that it is not dead, and `not_done` would be a guess.
        """
        if self.alive and not self.at_the_bank:
            self.loses_lock = False
            self.world.note(f"{self.name} loses its lock")
            self.world.locks.free(self.owner)

    async def stop(self) -> None:
        """SIGTERM: take no more calls, wait for those in hand, write the rest, end."""
        if not self.alive:
            return
        service, self.service = self.service, None
        self.world.note(f"{self.name} stops")
        if service is not None and self.calls:
            await asyncio.wait(list(self.calls), timeout=10)
        self._stopping.set()
        await asyncio.wait([self._main])
        if self.alive:
            await asyncio.sleep(
                self.random.choice((0.0, 0.5, 8.0))
            )  # between the last line and the end of the process
            self.die("by its own end")

    async def _live(self) -> None:
        try:
            async with running(self._installation) as service:
                self.service = service
                self.world.note(
                    f"{self.name} serves as {self.owner[-6:]}, recovered {self._recovered(service)}"
                )
                await self._stopping.wait()
                self.service = None
        except StoreUnavailable as error:
            self.world.note(f"{self.name} cannot start: {str(error)[:60]}")
            self.die("because it could not start")
        except Killed:
            return

    def _recovered(self, service: Service) -> list[str]:
        return [f"{found.call[-6:]}={found.state}" for found in service.recovered]

    async def end_tasks(self) -> None:
        """What the kernel does: nothing of the process goes on."""
        while left := [task for task in self.tasks if not task.done()]:
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        await self._installation.store.close()


def outside() -> Any:
    context = copy_context()
    context.run(CURRENT.set, None)
    return context


def task_of_a_process(loop: asyncio.AbstractEventLoop, work: Any, context: Any = None) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
    process = context.get(CURRENT) if context is not None else CURRENT.get()
    if process is not None:
        process.tasks[task] = None
        task.add_done_callback(lambda done: process.tasks.pop(done, None))
    return task
