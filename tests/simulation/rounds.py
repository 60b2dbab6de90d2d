"""Playing rounds: `python -m tests.simulation.rounds FIRST STOP` plays the seeds of that range, without STOP.

On a broken law it says the seed and the round's trace on stderr. In the end it prints what happened, counted, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import structlog

from comptroller_audit.query import calls_in_state
from comptroller_audit.vocabulary import CallState
from comptroller_server.installation import TENANT
from tests.simulation.actors import Approvals, Client, Halts, luck, outsiders, supervise
from tests.simulation.laws import AtDispatch, Evidence, check_all
from tests.simulation.record import must
from tests.simulation.world import Stage, World

__all__ = ["folder_in_memory", "play", "rounds"]

SETTLE_S = 12.0
"""Virtual seconds after the last client's last answer: late wires land, recovery looks again."""
_MEMORY = Path("/dev/shm")


def folder_in_memory() -> tempfile.TemporaryDirectory[str]:
    """Files in memory where there is such a place: the rounds are about order, not about the disk."""
    return tempfile.TemporaryDirectory(dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None)


async def _scene(world: World) -> None:
    clients = [Client(world, who, name) for who, name in (("ann", "a"), ("ann", "b"), ("bob", "a"))]
    approvals, halts = Approvals(world), Halts(world, clients)
    at_dispatch = AtDispatch(world, halts)
    world.asks.append(at_dispatch)
    around = [supervise(world), approvals.run(), halts.run(), outsiders(world), luck(world)]
    background = [asyncio.create_task(one) for one in around]
    playing = asyncio.create_task(_all(clients))
    try:
        done, _ = await asyncio.wait([playing, *background], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        await playing
    finally:
        for task in [playing, *background]:
            task.cancel()
        await asyncio.gather(playing, *background, return_exceptions=True)
    try:
        await _settle(world)
        check_all(Evidence(world, approvals))
    finally:
        at_dispatch.close()


async def _all(clients: list[Client]) -> None:
    await asyncio.gather(*(client.run() for client in clients))


async def _settle(world: World) -> None:
    """Faults end; some processes end well and some do not; one more starts and recovers what they left."""
    world.disk_full, world.quiet, world.bank.trouble = False, True, 0.0
    await asyncio.sleep(SETTLE_S)
    _nothing_that_lives_forgets(world)
    for process in world.processes:
        if world.random.random() < 0.5:
            await process.stop()
        else:
            process.die("at the end")
    last = world.start()
    await asyncio.sleep(SETTLE_S)
    must(last.service is not None, "a fresh process serves")
    await last.stop()


def _nothing_that_lives_forgets(world: World) -> None:
    """A process keeps an outcome that the store did not take, and writes it as soon as it does."""
    committed = world.people.read_now(lambda reader: calls_in_state(reader, TENANT, (CallState.COMMITTED,)))
    left = [call for call, row in committed if not world.locks.is_free(row["owner"])]
    must(not left, "an outcome is written as soon as the store takes it", calls=left)


def play(stage: Stage, seed: int) -> World:
    """One round; on a broken law its seed and trace are printed."""
    world = World(stage, seed)
    try:
        with structlog.testing.capture_logs() as logs:
            world.run(_scene)
        defects = [line for line in logs if "defect" in str(line["event"])]
        must(not world.broken, str(next(iter(world.broken), "")))
        must(not defects, "the pipeline has no defect", logs=defects)
    except BaseException as error:
        sys.stderr.write(f"\nround COMPTROLLER_SIM_SEED={seed}: {error}\n" + "\n".join(world.trace) + "\n")
        raise
    finally:
        shutil.rmtree(world.folder)
    return world


def rounds(stage: Stage, seeds: range) -> Counter[str]:
    """Play many rounds; what happened in them, counted, so that a test can tell that its rounds were not empty."""
    sys.stderr.write(f"rounds of seeds {seeds.start} to {seeds.stop - 1}\n")
    seen: Counter[str] = Counter()
    for seed in seeds:
        world = play(stage, seed)
        seen.update(f"answer {heard.code}" for heard in world.heard)
        seen["kept reads"] += sum("comptroller/cached" in heard.answer.meta for heard in world.heard)
        seen.update(f"death {why}" for why in world.deaths)
        seen.update(f"manner {manner}" for manner in world.bank.manners.values())
        seen.update(f"effect {line.tool}" for line in world.bank.ledger)
        seen["edits"] += sum(" edits " in line for line in world.trace)
    return seen


def main(words: list[str]) -> None:
    first, stop = map(int, words)
    with folder_in_memory() as folder:
        seen = rounds(Stage.build(Path(folder)), range(first, stop))
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
