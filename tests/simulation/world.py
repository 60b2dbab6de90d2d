"""One simulated round: processes that share a store file, and everything around them that can go wrong.

The product's own parts run unchanged. The round owns what `Ambient` injects (clock, ids, faults), the lane that
writes, the owner locks, the bank, and every pause; all of it follows from one seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from pydantic import SecretStr

import comptroller_server.app
import comptroller_server.watch
from comptroller_audit.ambient import Clock, RandomIds
from comptroller_audit.database import Database
from comptroller_audit.errors import StoreUnavailable
from comptroller_audit.owners import OwnerLock
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import InlineLane, Store
from comptroller_audit.transaction import BatchRunner, Waiting
from comptroller_policy.engine import Bundle
from comptroller_server.app import Service, running
from comptroller_server.config import load_config
from comptroller_server.config_model import Config
from comptroller_server.installation import Ambient, Installation
from comptroller_server.proposal import Answer, Proposal
from comptroller_tools.catalogue import Catalogue
from comptroller_tools.source import Action
from tests.simulation.bank import Bank, Switchboard
from tests.simulation.virtual import VirtualClock, VirtualLoop

__all__ = ["Heard", "Killed", "Process", "Stage", "World"]

_PROCESS: ContextVar[Process | None] = ContextVar("_PROCESS", default=None)
WATCH_S = 0.5
"""How often a process looks for switches here: less often than the product, since every look costs real time."""
HERE = Path(__file__).parent


class Killed(BaseException):
    """SIGKILL, as code of that process sees it: not an Exception, so nothing handles it."""


@dataclass(frozen=True)
class Stage:
    """What all rounds share: the compiled configuration, keys, and a migrated store file to copy."""

    config: Config
    catalogue: Catalogue
    policy: Bundle
    ring: KeyRing
    switchboard: Switchboard
    folder: Path
    bundle: str
    database: Database
    """One for all rounds, whose files take turns at its path: what it compiled is used again."""

    @classmethod
    def build(cls, folder: Path) -> Stage:
        config = load_config(HERE / "bank.yaml", data_dir=folder / "template")
        switchboard = Switchboard()
        first = Installation(config, Ambient(threaded=False), {"bank": switchboard})
        first.check()
        asyncio.run(first.store.close())
        (folder / "round").mkdir()
        database = Database(f"sqlite:///{folder / 'round' / 'comptroller.db'}")
        (folder / "round" / "comptroller.db").unlink()
        (folder / "round").rmdir()
        return cls(
            config,
            first.catalogue,
            first.policy,
            first.ring,
            switchboard,
            folder,
            first.bundle_digest,
            database,
        )


@dataclass(frozen=True)
class Heard:
    """An answer that reached its client."""

    client: str
    proposal: Proposal
    answer: Answer
    asked_s: float

    @property
    def code(self) -> str:
        refusal = self.answer.meta.get("comptroller/refusal")
        return str(refusal["code"]) if isinstance(refusal, dict) else "done"


class _Lock:
    def __init__(self, locks: _Locks, owner: str) -> None:
        self._locks, self._owner = locks, owner

    def held(self) -> bool:
        return self._owner in self._locks.taken

    def release(self) -> None:
        self._locks.taken.pop(self._owner, None)


class _Locks:
    """Owner locks as the kernel keeps them: gone with the process, however it ended."""

    def __init__(self) -> None:
        self.taken: dict[str, Process | None] = {}

    def take(self, owner: str) -> OwnerLock:
        if owner in self.taken:
            raise StoreUnavailable("taken")
        process = _PROCESS.get()
        assert process is not None
        process.owner = owner
        self.taken[owner] = process
        return _Lock(self, owner)

    def is_free(self, owner: str) -> bool:
        return owner not in self.taken


class _Lane:
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
        for waiting in batch:
            if waiting.future.done():
                continue
            if isinstance(waiting.outcome, BaseException):
                waiting.future.set_exception(waiting.outcome)
            elif waiting.outcome is not None:
                waiting.future.set_result(waiting.outcome)
        if self._queue:
            self._later()


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
        self._stopping = asyncio.Event()
        self._installation = world.installation(self)
        self._main = self.spawn(self._live())

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `work` as code of this process."""
        context = copy_context()
        context.run(_PROCESS.set, self)
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
        self.world.locks.taken.pop(self.owner, None)
        self.world.bury(self)

    def lose_lock(self) -> None:
        """The lock is gone and the process is not: its connection was cut, or its file removed.

        Not while the bank acts for it: nobody else can tell then that it is not dead, and `not_done` would be a guess.
        """
        if self.alive and not self.at_the_bank:
            self.world.note(f"{self.name} loses its lock")
            self.world.locks.taken.pop(self.owner, None)

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
                self.random.choice((0.0, 0.5))
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


class World:
    """Everything of one round. `run` plays a scene on a virtual loop and leaves the files for the laws to check."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage = stage
        self.seed = seed
        self.random = random.Random(seed)
        self.clock = VirtualClock()
        self.ids = RandomIds(self.clock, random.Random(f"{seed}/people").randbytes)
        self.locks = _Locks()
        self.trace: list[str] = []
        self.passes: dict[str, int] = {}
        self.deaths: list[str] = []
        self.heard: list[Heard] = []
        self.unheard = 0
        self.dispatches: list[tuple[str, str]] = []
        self.broken: list[Exception] = []
        self.asks: list[Callable[[Action], None]] = []
        self.processes: list[Process] = []
        self.disk_full = False
        self.quiet = False
        self.kill_chance = self.random.choice((0.0, 0.001, 0.004, 0.01))
        self.folder = stage.folder / "round"
        self.config = self._config()
        self.bank = Bank(
            random=random.Random(f"{seed}/bank"),
            trouble=self.random.choice((0.0, 0.1, 0.25, 0.6)),
            acting_for=self._acting_for,
            now_s=self.clock.monotonic,
            detach=self._detach,
            accounts={f"acc-{letter}": (self.random.choice((40.0, 90.0, 500.0)), 1) for letter in "abc"},
        )
        self._graves: list[asyncio.Task[None]] = []
        self._loose: list[asyncio.Task[Any]] = []
        self.people: Store

    # -- running --------------------------------------------------------------------------------------------------

    def run(self, scene: Callable[[World], Awaitable[None]]) -> None:
        loop = VirtualLoop(self.clock)
        loop.set_task_factory(_task_of_a_process)
        self.stage.switchboard.bank = self.bank

        def simulated(_database: Database, _clock: Clock) -> _Locks:
            return self.locks

        try:
            with (
                mock.patch.object(comptroller_server.app, "owner_locks", simulated),
                mock.patch.object(comptroller_server.watch, "FRESH_S", WATCH_S),
            ):
                loop.run_until_complete(self._play(scene))
        finally:
            self.stage.switchboard.bank = None
            loop.close()

    async def _play(self, scene: Callable[[World], Awaitable[None]]) -> None:
        self.people = Store(self.stage.database, self.stage.ring, self.clock, self.ids, lane=InlineLane)
        try:
            await scene(self)
        finally:
            self.quiet = True
            for process in self.processes:
                process.die("by the end of the round")
            await asyncio.gather(*self._graves)
            for task in self._loose:
                task.cancel()
            await asyncio.gather(*self._loose, return_exceptions=True)
            await self.people.close()

    def start(self) -> Process:
        process = Process(self, len(self.processes) + 1)
        self.processes.append(process)
        return process

    @property
    def serving(self) -> list[Process]:
        return [process for process in self.processes if process.service is not None]

    def note(self, text: str) -> None:
        self.trace.append(f"{self.clock.seconds:10.3f} {text}")

    # -- seams ----------------------------------------------------------------------------------------------------

    def installation(self, process: Process) -> Installation:
        """The installation as `process` opens it: everything compiled is shared, the store is its own."""
        ids = RandomIds(self.clock, process.random.randbytes)
        ambient = Ambient(self.clock, ids, process.fault, threaded=False)
        opened = Installation(self.config, ambient, {"bank": self.stage.switchboard})
        ring = self.stage.ring
        vars(opened).update(
            catalogue=self.stage.catalogue,
            policy=self.stage.policy,
            ring=ring,
            bundle_digest=self.stage.bundle,
            store=Store(
                self.stage.database,
                ring,
                self.clock,
                ids,
                process.fault,
                lambda runner: _Lane(runner, process),
            ),
        )
        return opened

    def strikes(self, point: str) -> bool:
        """Whether the process that passes `point` dies there. Points that are passed rarely are struck more often."""
        if self.quiet or not self.kill_chance:
            return False
        often = 1 if point.startswith("commit") else 2 if point.startswith("recovery") else 6
        return self.random.random() < self.kill_chance * often

    def bury(self, process: Process) -> None:
        self._graves.append(asyncio.get_running_loop().create_task(process.end_tasks(), context=_outside()))

    @contextlib.contextmanager
    def _acting_for(self, action: Action) -> Generator[None]:
        """While the bank acts: first what must be true at a dispatch."""
        process = _PROCESS.get()
        assert process is not None, "the bank was asked from outside"
        process.must_live()
        self.dispatches.append((action.effect_key, action.tool))
        process.at_the_bank += 1
        try:
            for ask in self.asks:
                ask(action)
        except Exception as error:
            self.broken.append(error)  # the product would take it for the bank's own failure
            raise
        else:
            yield
        finally:
            process.at_the_bank -= 1

    def _detach(self, work: Awaitable[None], remote: bool) -> None:
        """What a tool still does after its deadline: on a thread of its process, or at a bank far away."""

        process = _PROCESS.get()

        async def go_on() -> None:
            await work
            if process is not None:
                process.at_the_bank -= 1

        if process is not None:
            process.at_the_bank += 1
        if remote or process is None:
            self._loose.append(asyncio.get_running_loop().create_task(go_on(), context=_outside()))
        else:
            process.spawn(go_on())

    def _config(self) -> Config:
        self.folder.mkdir()
        file = self.folder / "comptroller.db"
        shutil.copyfile(self.stage.folder / "template" / "comptroller.db", file)
        settings = replace(
            self.stage.config.store,
            url=SecretStr(f"sqlite:///{file}"),
            checkpoint_files=(self.folder / "checkpoints.log",),
        )
        return replace(self.stage.config, store=settings, data_dir=self.folder)


def _outside() -> Any:
    context = copy_context()
    context.run(_PROCESS.set, None)
    return context


def _task_of_a_process(loop: asyncio.AbstractEventLoop, work: Any, context: Any = None) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
    process = context.get(_PROCESS) if context is not None else _PROCESS.get()
    if process is not None:
        process.tasks[task] = None
        task.add_done_callback(lambda done: process.tasks.pop(done, None))
    return task
