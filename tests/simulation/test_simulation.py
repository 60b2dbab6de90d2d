"""Seeded rounds of the whole product on a bank that fails, with crashes, full disks and clocks that jump.

`COMPTROLLER_SIM_SEED=n` plays the round of seed n alone, and prints its trace.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from comptroller_audit.query import calls_in_state
from comptroller_audit.vocabulary import CallState
from comptroller_server.installation import TENANT
from tests.simulation.actors import Approvals, Client, Halts, luck, outsiders, supervise
from tests.simulation.bank import Manner
from tests.simulation.laws import AtDispatch, Evidence, check_all
from tests.simulation.record import must
from tests.simulation.world import Stage, World

QUICK_ROUNDS = 500
LONG_ROUNDS = 10_000
SETTLE_S = 12.0
"""Virtual seconds after the last client's last answer: late wires land, recovery looks again."""
_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Files in memory where there is such a place: the rounds are about order, not about the disk."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None) as folder:
        yield Stage.build(Path(folder))


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


def _rounds(stage: Stage, seeds: range) -> Counter[str]:
    """Play many rounds; what happened in them, counted, so that a test can tell that its rounds were not empty."""
    sys.stderr.write(f"rounds of seeds {seeds.start} to {seeds.stop - 1}\n")
    seen: Counter[str] = Counter()
    for seed in seeds:
        world = play(stage, seed)
        seen.update(f"answer {heard.code}" for heard in world.heard)
        seen.update(f"death {why}" for why in world.deaths)
        seen.update(f"manner {manner}" for manner in world.bank.manners.values())
        seen["effects"] += len(world.bank.ledger)
    return seen


def test_every_law_holds_in_seeded_rounds(stage: Stage) -> None:
    wanted = os.environ.get("COMPTROLLER_SIM_SEED")
    if wanted is not None:
        sys.stderr.write("\n".join(play(stage, int(wanted)).trace) + "\n")
        return
    seen = _rounds(stage, range(QUICK_ROUNDS))
    _say(QUICK_ROUNDS, seen)
    assert set(seen) >= _WANTED, "the rounds no longer reach everything they are there for"


@pytest.mark.long
def test_every_law_holds_in_many_more_rounds(stage: Stage) -> None:
    first = int.from_bytes(os.urandom(4)) + QUICK_ROUNDS
    _say(LONG_ROUNDS, _rounds(stage, range(first, first + LONG_ROUNDS)))


def test_a_seed_plays_the_same_round_again(stage: Stage) -> None:
    for seed in range(5):
        assert play(stage, seed).trace == play(stage, seed).trace


_WANTED = {
    *(f"manner {manner}" for manner in Manner),
    *(
        f"answer {code}"
        for code in ("done", "already_done", "approval_pending", "budget_exhausted", "denied")
    ),
    *(
        f"answer {code}"
        for code in ("halted", "in_doubt", "in_progress", "record_changed", "store_unavailable")
    ),
    *(f"death at {point}" for point in ("commit.begin", "commit.before", "commit.after")),
    *(
        f"death at {point}"
        for point in ("dispatch.before", "dispatch.after", "recovery.before", "recovery.after")
    ),
    *(f"death at {point}" for point in ("checkpoint.before", "checkpoint.after")),
}
"""What must have happened somewhere in the quick rounds."""


def _say(rounds: int, seen: Counter[str]) -> None:
    """The seeds and what they met, on the terminal of a failing run and with `-s`."""
    sys.stderr.write(
        f"{rounds} rounds: " + ", ".join(f"{n} {what}" for what, n in sorted(seen.items())) + "\n"
    )
