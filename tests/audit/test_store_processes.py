"""Several processes on one store, on both databases: nothing overspent, no gap in the log, no harm from a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from comptroller_audit.calls import CALLS
from comptroller_audit.unit import Committed
from comptroller_budgets.ledger import COUNTERS
from tests.audit.storekit import check_log, commit, count_up, key_ring, open_store, rows_of

pytestmark = pytest.mark.anyio

# Each worker waits for its standard input to close, so that all begin together.
PREAMBLE = """
import asyncio, os, signal, sys
from pathlib import Path
from comptroller_audit.ambient import RandomIds, SystemClock
from comptroller_audit.unit import Committed, Stopped
from comptroller_budgets.ledger import TakeHold
from tests.audit.storekit import BUDGET_OF_10, commit, count_up, open_call, open_store
url, folder, name = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
"""

SPENDERS = (
    PREAMBLE
    + """
async def main():
    sys.stdin.read()
    async with open_store(url, folder, SystemClock()) as store:
        async def one(at):
            call = f"{name}-{at}"
            return await commit(store, TakeHold(call, (BUDGET_OF_10,)), open_call(call))
        outcomes = await asyncio.gather(*(one(at) for at in range(32)))
        print(sum(isinstance(outcome, Committed) for outcome in outcomes))
asyncio.run(main())
"""
)

WRITERS = (
    PREAMBLE
    + """
async def main():
    sys.stdin.read()
    async with open_store(url, folder, SystemClock()) as store:
        for _ in range(15):
            await asyncio.gather(*(commit(store, count_up()) for _ in range(3)))
    print("written")
asyncio.run(main())
"""
)

KILLED = (
    PREAMBLE
    + """
point, acknowledged = sys.argv[4], 0
def fault(at):
    if at == point and acknowledged >= 5:
        os.kill(os.getpid(), signal.SIGKILL)
async def main():
    global acknowledged
    async with open_store(url, folder, SystemClock(), fault=fault) as store:
        while True:
            await commit(store, count_up())
            acknowledged += 1
            print(acknowledged, flush=True)
asyncio.run(main())
"""
)

FOLDING = (
    PREAMBLE
    + """
import threading, time
from comptroller_audit import database as databases
from comptroller_audit.database import Database
delay_s, go = float(sys.argv[4]), threading.Event()
databases.WAL_BYTES_MAX = 8_000_000
def kill():
    go.wait()
    time.sleep(delay_s)
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=kill, daemon=True).start()
fold = Database.fold_wal
def folding(self, connection):
    grown = os.path.getsize(f"{self.path}-wal") > databases.WAL_BYTES_MAX
    if grown:
        print("folding", flush=True)
        go.set()  # SQLite gives up the interpreter while it works
    fold(self, connection)
    if grown:
        time.sleep(30)
Database.fold_wal = folding
async def main():
    acknowledged = 0
    async with open_store(url, folder, SystemClock()) as store:
        store.database._fold_at = databases.WAL_BYTES_MAX
        while True:
            await asyncio.gather(*(commit(store, count_up(f"n{acknowledged}-{at}")) for at in range(100)))
            acknowledged += 100
            print(acknowledged, flush=True)
asyncio.run(main())
"""
)


def start(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run_together(script: str, url: str, folder: Path, count: int) -> list[str]:
    workers = [start(script, url, folder, f"w{at}") for at in range(count)]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()
        worker.stdin = None
    said = [worker.communicate(timeout=120)[0].strip() for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * count
    return said


async def test_64_callers_in_two_processes_never_overspend_a_budget_of_10(
    store_url: str, tmp_path: Path
) -> None:
    key_ring(tmp_path)
    said = run_together(SPENDERS, store_url, tmp_path, 2)  # both meet at a store that has no schema yet
    assert sum(map(int, said)) == 10
    async with open_store(store_url, tmp_path) as store:
        assert rows_of(store, COUNTERS, "budget")["budget"] == {"used": 0, "held": 10}
        calls = [f"w{worker}-{at}" for worker in range(2) for at in range(32)]
        assert len(rows_of(store, CALLS, *calls)) == 10
        assert len(check_log(store)) == 10


async def test_three_processes_write_one_log_without_a_gap(store_url: str, tmp_path: Path) -> None:
    async with open_store(store_url, tmp_path):
        pass
    assert run_together(WRITERS, store_url, tmp_path, 3) == ["written"] * 3
    async with open_store(store_url, tmp_path) as store:
        assert rows_of(store, COUNTERS, "n")["n"]["used"] == 135
        assert len(check_log(store)) == 135


@pytest.mark.parametrize("point", ["commit.begin", "commit.before", "commit.after"])
async def test_a_writer_killed_in_its_commit_leaves_a_store_that_opens_and_verifies(
    point: str, store_url: str, tmp_path: Path
) -> None:
    async with open_store(
        store_url, tmp_path
    ) as other:  # open while the writer dies, and not disturbed by it
        worker = start(KILLED, store_url, tmp_path, "w", point)
        acknowledged = int(worker.communicate(timeout=60)[0].splitlines()[-1])
        assert worker.returncode == -signal.SIGKILL
        assert acknowledged == 5
        assert isinstance(await commit(other, count_up("other")), Committed)
        kept = 6 if point == "commit.after" else 5
        assert rows_of(other, COUNTERS, "n")["n"]["used"] == kept
        assert len(check_log(other)) == kept + 1
    async with open_store(store_url, tmp_path) as again:
        assert isinstance(await commit(again, count_up()), Committed)
        assert len(check_log(again)) == kept + 2


def folded_pages(database: Path) -> tuple[int, int]:
    """Of the pages in the write-ahead log: how many stand in the file already, and how many do not. One that was cut has none."""
    log, file = database.with_name(f"{database.name}-wal").read_bytes(), database.read_bytes()
    newest: dict[int, bytes] = {}
    size = int.from_bytes(log[8:12], "big")
    for at in range(32, len(log) - 24 - size + 1, 24 + size):
        newest[int.from_bytes(log[at : at + 4], "big")] = log[at + 24 : at + 24 + size]
    there = sum(file[(page - 1) * size : page * size] == content for page, content in newest.items())
    return there, len(newest) - there


@pytest.mark.long
async def test_a_writer_killed_while_it_folds_its_log_of_writes_into_the_file_loses_nothing(
    tmp_path: Path,
) -> None:
    """Each kill is aimed by where the one before it fell, so that some leave a file with a part of the pages."""
    early_s, late_s, parted = 0.0, 0.04, 0
    for at in range(30):
        folder = tmp_path / str(at)
        folder.mkdir()
        url = f"sqlite:///{folder}/s.db"
        async with open_store(url, folder):
            pass
        delay_s = (early_s + late_s) / 2
        worker = start(FOLDING, url, folder, "w", str(delay_s))
        said = worker.communicate(timeout=60)[0].split()
        assert worker.returncode == -signal.SIGKILL
        assert "folding" in said
        there, missing = folded_pages(folder / "s.db")
        async with open_store(url, folder) as store:
            assert len(check_log(store)) >= max(int(one) for one in said if one != "folding")
            assert isinstance(await commit(store, count_up()), Committed)
            check_log(store)
        if there and missing:
            parted += 1
            early_s, late_s = delay_s * 0.8, delay_s * 1.2
        elif missing:
            early_s, late_s = delay_s, late_s if late_s > delay_s * 1.1 else delay_s * 1.5
        else:
            early_s, late_s = early_s if early_s < delay_s * 0.9 else delay_s * 0.5, delay_s
        if parted == 3:
            return
    assert parted
