"""Stores of any size: real calls of the warehouse, copied under other ids by the product's own writer, over the year before now."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comptroller_audit.ambient import RandomIds
from comptroller_audit.calls import CALLS, CLAIMS
from comptroller_audit.database import Row
from comptroller_audit.packets import LogRecord
from comptroller_audit.query import Logged, entries
from comptroller_audit.store import Reader
from comptroller_audit.unit import Committed, Key, State, Unit
from comptroller_audit.vocabulary import JsonObject, RecordType
from comptroller_budgets.ledger import HOLDS
from comptroller_budgets.tasks import TASKS
from comptroller_server.app import Service, running
from comptroller_server.call.proposal import Answer, Proposal
from comptroller_server.config.loading import load_config
from comptroller_server.installation import TENANT, Ambient, Installation
from tests.benchmarks.governed_server import CONFIG

__all__ = ["YEAR_MS", "Asker", "grow", "installation"]

YEAR_MS = 365 * 86_400_000
CALLS_OF_TASK = 20
MOVES_OF_TASK = 4
"""Of `CALLS_OF_TASK`, how many have a side effect."""
BATCH_CALLS = 1_000


class SetClock:
    """Wall time as it was: where the copies are put."""

    def __init__(self) -> None:
        self.ms = 0

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return time.monotonic()


def installation(folder: Path, ambient: Ambient | None = None) -> Installation:
    return Installation(load_config(CONFIG, data_dir=folder), ambient or Ambient())


class Asker:
    """Proposes calls of the warehouse to a running service, no two alike."""

    def __init__(self, service: Service, seed: int = 1) -> None:
        self._service = service
        self._subject = service.installation.identity.stdio_subject("bench")
        self._random = random.Random(seed)

    async def read(self) -> Answer:
        return await self._ask("read_item", {"item_id": f"item_{self._random.getrandbits(40):x}"})

    async def move(self) -> Answer:
        item, quantity = f"item_{self._random.getrandbits(40):x}", self._random.randint(1, 900)
        why = {"reason": "the shelf was counted"}
        return await self._ask(
            "move_stock", {"item_id": item, "quantity": quantity, "reason_code": "count", "why": why}
        )

    async def _ask(self, tool: str, arguments: dict[str, Any]) -> Answer:
        answer = await self._service.pipeline.call(Proposal(self._subject, tool, arguments, {}))
        if answer.is_error:
            raise RuntimeError(answer.text)
        return answer


@dataclass(frozen=True, slots=True)
class Model:
    """What is copied: the rows and records of one read and of one side effect, and their task."""

    task: Row
    calls: tuple[Row, Row]
    hold: Row
    claim: Row
    records: tuple[tuple[Logged, ...], tuple[Logged, ...]]


@dataclass(slots=True)
class Copies:
    """Part: `count` calls in tasks of twenty, one in five of them with a side effect."""

    model: Model
    ids: RandomIds
    count: int
    made: list[str] = field(default_factory=list[str])

    def keys(self) -> Iterable[Key]:
        return ()

    def apply(self, state: State) -> None:
        task = ""
        for number in range(self.count):
            if number % CALLS_OF_TASK == 0:
                task = self._task(state)
            self._call(state, task, number % CALLS_OF_TASK < MOVES_OF_TASK)

    def _task(self, state: State) -> str:
        task, now = self.ids.uuid7(), state.now_ms
        ended = {"state": "finished", "outcome": "abandoned", "steps": CALLS_OF_TASK}
        times = {"since_ms": now, "started_ms": now, "ended_ms": now}
        state.put(TASKS, task, {**self.model.task, **ended, **times})
        return task

    def _call(self, state: State, task: str, moves: bool) -> None:
        call, model, now = self.ids.uuid7(), self.model, state.now_ms
        indexes: list[int] = []
        for logged in model.records[moves]:
            packet: JsonObject = {**(logged.packet or {}), "call": call, "task": task}
            output = b"output" if logged.type is not RecordType.ACTION else None
            arguments = b"arguments" if logged.type is not RecordType.AUDIT else None
            indexes.append(state.append(LogRecord(logged.type, packet, call, call, task, arguments, output)))
        changed: Row = {
            "task": task,
            "records": ",".join(map(str, indexes)),
            "created_ms": now,
            "updated_ms": now,
        }
        if moves:
            claim = self.ids.random_bytes(32).hex()
            changed["claims"] = claim
            state.put(CLAIMS, claim, {**model.claim, "call": call, "at_ms": now})
            state.put(HOLDS, call, model.hold)
        state.put(CALLS, call, {**model.calls[moves], **changed})


async def _model(folder: Path) -> Model:
    """Two real calls, and all that they left."""
    async with running(installation(folder)) as service:
        asker = Asker(service)
        ids = [str((await ask()).meta["comptroller/call"]) for ask in (asker.read, asker.move)]
        store = service.installation.store

        def read(reader: Reader) -> Model:
            rows = reader.rows(TENANT, CALLS, ids)
            one, two = rows[ids[0]], rows[ids[1]]
            task, claim = reader.row(TENANT, TASKS, one["task"]), reader.row(TENANT, CLAIMS, two["claims"])
            hold = reader.row(TENANT, HOLDS, ids[1])
            assert task is not None and claim is not None and hold is not None
            logged = [
                tuple(entries(reader, store.ring, TENANT, [int(i) for i in row["records"].split(",")]))
                for row in (one, two)
            ]
            return Model(task, (one, two), hold, claim, (logged[0], logged[1]))

        return await store.read(read)


async def _grow(folder: Path, calls: int, first_ms: int, last_ms: int) -> None:
    clock = SetClock()
    clock.ms = first_ms
    model = await _model(folder.with_name(f"{folder.name}-model"))
    one = installation(folder, Ambient(clock=clock, ids=RandomIds(clock)))
    ids, left = RandomIds(clock), calls
    try:
        while left > 0:
            count = min(left, BATCH_CALLS)
            done = await one.store.commit(TENANT, Unit([Copies(model, ids, count)]))
            assert isinstance(done, Committed)
            left -= count
            clock.ms = first_ms + (last_ms - first_ms) * (calls - left) // calls
    finally:
        await one.store.close()


def grow(folder: Path, calls: int) -> float:
    """A new store of `calls` calls, spread over the year before now; the seconds it took."""
    began, now = time.perf_counter(), int(time.time() * 1000)
    asyncio.run(_grow(folder, calls, now - YEAR_MS, now - 60_000))
    return time.perf_counter() - began
