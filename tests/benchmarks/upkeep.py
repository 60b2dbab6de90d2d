"""`python -m tests.benchmarks.upkeep [--quick]`: what upkeep costs the calls beside it, and what the size of the store costs.

1. Calls at 16 in flight in a serving process (two reads to a side effect), by themselves and while another process folds the write-ahead
   log over and over, erases what is overdue, or exports the log. Rounds alternate quiet, busy, busy, quiet; a ratio is the median of the
   pairs' own ratios.
2. Stores of 10^3, 10^4, 10^5 and (not with --quick) 10^6 calls over a year: what a command, a retention round and one governed call take.

It asserts nothing about times.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from click.testing import CliRunner

from comptroller_audit.query import newest_calls
from comptroller_server.app import running
from comptroller_server.cli import cli
from comptroller_server.installation import TENANT, Ambient
from comptroller_server.memory import settle_memory
from comptroller_server.upkeep.retention import Retention
from tests.benchmarks.governed_server import CONFIG
from tests.benchmarks.grown import YEAR_MS, Asker, grow, installation

IN_FLIGHT = 16
BUSY_ON_CALLS = 50_000
"""Calls in the store of the first part."""
DAY_MS = 86_400_000
KINDS = ("folding", "retention", "export")
GOVERNED = 200
"""Calls of each kind, one in flight, of which the median stands in the second part."""
_ROOT = Path(__file__).resolve().parents[2]
_COMMANDS = (
    ("calls list", ("calls", "list")),
    ("why", ("why", "{call}")),
    ("report of 7 days", ("report",)),
    ("report of all", ("report", "--since", "all")),
    ("audit verify", ("audit", "verify")),
    ("doctor", ("doctor",)),
)


@dataclass(frozen=True, slots=True)
class Times:
    """Latencies of one round, ms, and what was answered in a second."""

    p50: float
    p99: float
    rate: float


# -- 1: beside upkeep -------------------------------------------------------------------------------------------------


async def _while(asker: Asker, runs: Callable[[], bool]) -> Times:
    """Calls at `IN_FLIGHT` for as long as `runs`."""
    latencies: list[float] = []

    async def one(number: int) -> None:
        while runs():
            for ask in (asker.read, asker.read, asker.move)[number % 3 :] or (asker.read,):
                began = time.perf_counter()
                await ask()
                latencies.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(IN_FLIGHT)))
    cuts = quantiles(latencies, n=100)
    return Times(cuts[49], cuts[98], len(latencies) / (time.perf_counter() - began))


async def _pairs(folder: Path, kind: str, rounds: int, quiet_s: float) -> list[tuple[Times, Times]]:
    """(quiet, busy) of each round."""
    found: list[tuple[Times, Times]] = []
    async with running(installation(folder)) as service:
        settle_memory()
        asker = Asker(service, seed=time.time_ns())

        async def quiet() -> Times:
            until = time.perf_counter() + quiet_s
            return await _while(asker, lambda: time.perf_counter() < until)

        async def busy(number: int) -> Times:
            words = [sys.executable, "-m", "tests.benchmarks.upkeep", "--do", kind, str(folder), str(number)]
            process = await asyncio.create_subprocess_exec(*words, cwd=_ROOT, stdout=subprocess.PIPE)
            assert process.stdout is not None
            await process.stdout.readline()  # it has imported, and begins
            times = await _while(asker, lambda: process.returncode is None)
            assert await process.wait() == 0
            return times

        await quiet()  # warms up
        for number in range(rounds):
            if number % 2 == 0:
                one = await quiet()
                found.append((one, await busy(number)))
            else:
                one = await busy(number)
                found.append((await quiet(), one))
    return found


def _do(kind: str, folder: Path, number: int) -> int:
    """The other process: one piece of upkeep."""
    one = installation(folder)
    if kind == "folding":
        store = one.store
        print("begun", flush=True)
        until = time.perf_counter() + 3
        while time.perf_counter() < until:
            store.database.scrub()
            time.sleep(0.02)
        asyncio.run(store.close())
        return 0
    if kind == "retention":
        return asyncio.run(_erase(folder, number))
    print("begun", flush=True)
    words = [
        "audit",
        "export",
        "--config",
        str(CONFIG),
        "--data-dir",
        str(folder),
        "--out",
        str(folder / "export.jsonl"),
    ]
    return CliRunner().invoke(cli, words).exit_code


async def _erase(folder: Path, number: int) -> int:
    """A further month of the year; the last rounds of a long run find nothing left."""
    store = (one := installation(folder)).store
    print("begun", flush=True)
    done = await Retention(store, one.ambient.clock, max(1, 335 - 30 * number), YEAR_MS / 1000).round(TENANT)
    await store.close()
    return 0 if done.erased else 1


def _beside(folder: Path, rounds: int, quiet_s: float) -> None:
    print("| beside | p99 ratio | p50 ratio | rate ratio | p50 ms | p99 ms | worst pair's p99 ratio |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for kind in KINDS:
        pairs = asyncio.run(_pairs(folder, kind, rounds, quiet_s))
        tails = [busy.p99 / quiet.p99 for quiet, busy in pairs]
        middles = [busy.p50 / quiet.p50 for quiet, busy in pairs]
        rates = [busy.rate / quiet.rate for quiet, busy in pairs]
        both = [
            f"{median(getattr(b, name) for _, b in pairs):.1f} / {median(getattr(q, name) for q, _ in pairs):.1f}"
            for name in ("p50", "p99")
        ]
        print(
            f"| {kind} | {median(tails):.2f} | {median(middles):.2f} | {median(rates):.2f} | "
            f"{' | '.join(both)} | {max(tails):.2f} |",
            flush=True,
        )


# -- 2: by size -------------------------------------------------------------------------------------------------------


def _command_ms(folder: Path, words: tuple[str, ...]) -> float:
    began = time.perf_counter()
    result = CliRunner().invoke(cli, [*words, "--config", str(CONFIG), "--data-dir", str(folder)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return (time.perf_counter() - began) * 1000


async def _governed(folder: Path) -> dict[str, float]:
    """One call at a time, and a start of the server that has to look at all there is."""
    began = time.perf_counter()
    async with running(installation(folder)) as service:
        found = {"start": (time.perf_counter() - began) * 1000}
        asker = Asker(service, seed=time.time_ns())
        settle_memory()
        for name, ask in (("governed read", asker.read), ("governed side effect", asker.move)):
            found[name] = median([await _timed(ask) for _ in range(GOVERNED)])
    return found


async def _timed(ask: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await ask()
    return (time.perf_counter() - began) * 1000


async def _kept(folder: Path) -> dict[str, float]:
    """A retention round with a day's payloads overdue, and one with nothing."""
    one, found = installation(folder, Ambient()), dict[str, float]()
    day = Retention(one.store, one.ambient.clock, 364, YEAR_MS / 1000)
    for name in ("retention of a day", "retention of nothing"):
        began = time.perf_counter()
        await day.round(TENANT)
        found[name] = (time.perf_counter() - began) * 1000
    await one.store.close()
    return found


async def _newest(folder: Path) -> str:
    one = installation(folder)
    rows = await one.store.read(lambda reader: newest_calls(reader, TENANT, 1))
    await one.store.close()
    return rows[0][0]


def _at_size(folder: Path) -> dict[str, float]:
    found = asyncio.run(_governed(folder))
    call = asyncio.run(_newest(folder))
    for name, words in _COMMANDS:
        found[name] = _command_ms(folder, tuple(word.format(call=call) for word in words))
    return found | asyncio.run(_kept(folder))


def _by_size(place: Path, sizes: list[int]) -> None:
    """A store of its own for each size: record time never goes back, so nothing is put before calls that were measured."""
    columns: list[dict[str, float]] = []
    for size in sizes:
        folder = place / str(size)
        seconds = grow(folder, size)
        mib = (folder / "comptroller.db").stat().st_size / 2**20
        print(f"\n{size} calls: {seconds:.0f} s to write, {mib:.0f} MiB", flush=True)
        columns.append(_at_size(folder))
        shutil.rmtree(folder)
    print("\nms by calls in the store")
    print(f"| what | {' | '.join(f'{size:,}' for size in sizes)} |")
    print(f"|---|{'---|' * len(sizes)}")
    for name in columns[0]:
        print(f"| {name} | {' | '.join(f'{column[name]:,.1f}' for column in columns)} |")


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.upkeep", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="2 rounds, and stores up to 10^4 calls, instead of 5 and 10^6"
    )
    parser.add_argument("--part", choices=("beside", "sizes"), help="only one of the two")
    parser.add_argument("--power", type=int, help="the largest store has 10 to the power of this many calls")
    parser.add_argument("--do", nargs=3, metavar=("KIND", "FOLDER", "NUMBER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.do:
        kind, folder, number = options.do
        return _do(kind, Path(folder), int(number))
    rounds, quiet_s, power = (2, 1.5, 4) if options.quick else (5, 4.0, 6)
    power = options.power or power
    with tempfile.TemporaryDirectory(prefix="comptroller-upkeep-") as place:
        if options.part != "sizes":
            folder, calls = Path(place) / "beside", BUSY_ON_CALLS // (5 if options.quick else 1)
            grow(folder, calls)
            print(f"\nCalls at {IN_FLIGHT} in flight beside upkeep, busy / quiet, {calls} calls in the store")
            _beside(folder, rounds, quiet_s)
        if options.part != "beside":
            _by_size(Path(place), [10**power for power in range(3, power + 1)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
