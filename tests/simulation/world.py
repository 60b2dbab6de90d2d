"""One simulated round: processes that share a store file, and everything around them that can go wrong.

The product's own parts run unchanged. The round owns what `Ambient` injects (clock, ids, faults), the lane that
writes, the owner locks, the bank, and every pause; all of it follows from one seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from pydantic import SecretStr

import comptroller_server.app
import comptroller_server.call.watch
from comptroller_audit.ambient import Clock, RandomIds
from comptroller_audit.database import Database
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import InlineLane, Store
from comptroller_policy.engine import Bundle
from comptroller_server.call.proposal import Answer, Proposal
from comptroller_server.config.loading import load_config
from comptroller_server.config.model import Config
from comptroller_server.installation import TENANT, Ambient, Installation
from comptroller_tools.catalogue import Catalogue
from comptroller_tools.source import Action
from tests.simulation.bank import Bank, Switchboard
from tests.simulation.process import CURRENT, Lane, Locks, Process, outside, task_of_a_process
from tests.simulation.virtual import VirtualClock, VirtualLoop

__all__ = ["Heard", "Process", "Stage", "World"]

WATCH_S = 1.0
"""How often a process looks for switches here: less often than the product, since every look costs real time."""
_OFTEN = {
    "commit.begin": 1,
    "commit.before": 1,
    "commit.after": 1,
    "recovery.before": 2,
    "recovery.after": 20,
    "compensation.before": 60,
    "compensation.after": 400,
}
"""How much likelier than in a commit a process dies at a point: the less often it is passed, the more."""
HERE = Path(__file__).parent


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


class World:
    """Everything of one round. `run` plays a scene on a virtual loop and leaves the files for the laws to check."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage = stage
        self.seed = seed
        self.random = random.Random(seed)
        self.clock = VirtualClock()
        self.ids = RandomIds(self.clock, random.Random(f"{seed}/people").randbytes)
        self.locks = Locks()
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
            busy=_at_the_bank,
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
        loop.set_task_factory(task_of_a_process)
        self.stage.switchboard.bank = self.bank
        random.seed(self.seed)  # the pauses between retries are drawn from it

        def simulated(_database: Database, _clock: Clock) -> Locks:
            return self.locks

        try:
            with (
                mock.patch.object(comptroller_server.app, "owner_locks", simulated),
                mock.patch.object(comptroller_server.call.watch, "FRESH_S", WATCH_S),
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

    def log_size(self) -> int:
        head = self.people.read_now(lambda reader: reader.head(TENANT))
        return head.size if head is not None else 0

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
                lambda runner: Lane(runner, process),
            ),
        )
        return opened

    def strikes(self, point: str) -> bool:
        """Whether the process that passes `point` dies there. Points that are passed rarely are struck more often."""
        if self.quiet or not self.kill_chance:
            return False
        often = _OFTEN.get(point, 6)
        return self.random.random() < self.kill_chance * often

    def bury(self, process: Process) -> None:
        self._graves.append(asyncio.get_running_loop().create_task(process.end_tasks(), context=outside()))

    @contextlib.contextmanager
    def _acting_for(self, action: Action) -> Generator[None]:
        """While the bank acts: first what must be true at a dispatch."""
        process = CURRENT.get()
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

        process = CURRENT.get()

        async def go_on() -> None:
            await work
            if process is not None:
                process.at_the_bank -= 1

        if process is not None:
            process.at_the_bank += 1
        if remote or process is None:
            self._loose.append(asyncio.get_running_loop().create_task(go_on(), context=outside()))
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


def _at_the_bank() -> int:
    process = CURRENT.get()
    return process.at_the_bank if process is not None else 0
