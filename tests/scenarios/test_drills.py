"""Drills of docs/operations.md: what breaks is broken on purpose, and the page's own commands bring it back."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.errors import KeyRingError, StoreError, StoreUnsuitable
from comptroller_server.upkeep.steady_clock import SteadyClock
from tests.scenarios.kit import Clock, Faults, Shop, code_of, opened, until
from tests.server.cli_kit import Desk, RealClock, accepting_own_files, at_work, run_in_thread

pytestmark = pytest.mark.anyio
PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def roomy(config: dict[str, Any]) -> None:
    accepting_own_files(config)
    config["budgets"] = {}


def runbook(title: str) -> list[list[str]]:
    """The commands of one section of the page, in order, as words after `comptroller`."""
    section = PAGE.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    return [shlex.split(line)[1:] for line in re.findall(r"^ {4,}(comptroller .*)$", section, re.MULTILINE)]


# -- a full disk ------------------------------------------------------------------------------------------------------


def failing(code: int) -> Callable[[], None]:
    def fail() -> None:
        error = sqlite3.OperationalError("as the driver words it")
        error.sqlite_errorcode = code
        raise error

    return fail


async def test_a_server_whose_disk_is_full_is_not_ready_until_it_can_write_again(tmp_path: Path) -> None:
    faults = Faults()
    async with opened(tmp_path, roomy, faults=faults) as shop:
        invoice = shop.paid()[0]
        readiness = shop.service.readiness
        assert (await readiness.look())[0]
        faults.at["commit.before"] = failing(sqlite3.SQLITE_FULL)
        assert code_of(await shop.refund(invoice, 5)) == "store_unavailable"
        ready, told = await readiness.look()
        assert not ready
        assert "cannot be written" in told
        faults.at.clear()
        assert await readiness.look() == (True, "ready")
        assert shop.moved() == []
        assert code_of(await shop.refund(invoice, 5)) is None


# -- a damaged store --------------------------------------------------------------------------------------------------


def flip(path: Path, at: int, count: int = 1) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        was = file.read(count)
        file.seek(at)
        file.write(bytes(byte ^ 0xFF for byte in was))


@dataclass(frozen=True)
class Worked:
    """A store with calls in it, a backup, and copies of it to be broken."""

    folder: Path

    @property
    def database(self) -> Path:
        return self.folder / "comptroller.db"

    def copied(self, to: Path, *, live: bool = False) -> Worked:
        return Worked(Path(shutil.copytree(self.folder.with_name("live") if live else self.folder, to)))

    def flip(self, at: int, count: int = 1) -> None:
        flip(self.database, at, count)

    def root_of(self, name: str) -> tuple[int, int]:
        """Where the first page of a table or index begins, and how long a page is; bytes."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro&immutable=1", uri=True)) as reading:
            (page,) = reading.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
            (size,) = reading.execute("PRAGMA page_size").fetchone()
        return (page - 1) * size, size


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Worked:
    folder = tmp_path_factory.mktemp("drill") / "shop"
    folder.mkdir()
    asyncio.run(work(folder))
    return Worked(folder)


async def work(folder: Path) -> None:
    async with at_work(folder, roomy) as desk:
        for invoice in desk.shop.paid()[:6]:
            assert code_of(await desk.shop.refund(invoice, 5)) is None
        assert await desk.shop.service.checkpointer.write("local")
        await desk.run("db", "backup", str(folder / "monday.db"))
        shutil.copytree(folder, folder.with_name("live"))  # as it lies while the server runs


def head_of(name: str) -> Callable[[Worked], None]:
    return lambda worked: worked.flip(worked.root_of(name)[0], 8)


def last_byte_of(name: str) -> Callable[[Worked], None]:
    """The cell that was written first lies at the end of its page."""
    return lambda worked: worked.flip(sum(worked.root_of(name)) - 20)


def cut(worked: Worked) -> None:
    os.truncate(worked.database, worked.database.stat().st_size // 2)


def emptied(worked: Worked) -> None:
    os.truncate(worked.database, 0)


def bad_log_of_writes(worked: Worked) -> None:
    """What follows a frame that does not fit its checksum was never committed, as far as SQLite knows.

    Not the last frame: that may hold a sign of life of the server, written after what the records need.
    """
    log = worked.database.with_name("comptroller.db-wal")
    flip(log, log.stat().st_size * 3 // 4)


def no_keys(worked: Worked) -> None:
    (worked.folder / "keys.json").unlink()


def torn_keys(worked: Worked) -> None:
    os.truncate(worked.folder / "keys.json", 100)


def other_key(kind: str) -> Callable[[Worked], None]:
    def change(worked: Worked) -> None:
        path = worked.folder / "keys.json"
        keys = json.loads(path.read_text())
        one = keys[kind][0] if isinstance(keys[kind], list) else keys[kind]
        name = next(name for name, value in one.items() if name != "id" and isinstance(value, str))
        one[name] = ("A" if one[name][0] != "A" else "B") + one[name][1:]
        path.write_text(json.dumps(keys))

    return change


@dataclass(frozen=True)
class Broken:
    """`problem` is doctor's topics, `verify` the exit code of `audit verify`. Nothing is served where `error` is named;
    else a call that meets the damage is answered with `code`, and the server is not ready after it."""

    how: Callable[[Worked], None]
    problem: str = ""
    verify: int = 0
    error: type[Exception] | None = None
    code: str | None = None
    live: bool = False


DAMAGES = {
    "the first bytes of the file": Broken(lambda worked: worked.flip(0, 16), "database", 2, StoreError),
    "half of the file": Broken(cut, "database", 2, StoreError),
    "all of the file": Broken(emptied, "checkpoints", 2, StoreUnsuitable),
    "a page of the head row": Broken(head_of("log_head"), "database", 2, StoreError),
    "a page of the log": Broken(head_of("log_entry"), "database", 2, code="store_unavailable"),
    "a page of the tree": Broken(head_of("log_node"), "database", 2, code="in_doubt"),
    "a page of an index": Broken(head_of("calls_by_state"), "database", 0, StoreError),
    "a byte of a record": Broken(last_byte_of("log_entry"), "", 1),
    "the write-ahead log": Broken(bad_log_of_writes, "checkpoints", 1, StoreUnsuitable, live=True),
    "no key file": Broken(no_keys, "keys", 2, KeyRingError),
    "a torn key file": Broken(torn_keys, "keys", 2, KeyRingError),
    "another seal key": Broken(other_key("seal"), "keys", 1, KeyRingError),
    "another claim key": Broken(other_key("claim"), "keys checkpoints", 0, KeyRingError),
    "another checkpoint key": Broken(other_key("checkpoint"), "checkpoints", 1, StoreUnsuitable),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_damage_is_told_and_what_cannot_be_trusted_is_not_served(
    name: str, worked: Worked, tmp_path: Path
) -> None:
    broken, copy = DAMAGES[name], worked.copied(tmp_path / "shop", live=DAMAGES[name].live)
    broken.how(copy)
    lines = json.loads((await run_in_thread(copy.folder, "doctor", "--json")).stdout)["lines"]
    problems = [line["topic"] for line in lines if line["level"] == "problem"]
    assert set(problems) == set(broken.problem.split())
    assert (await run_in_thread(copy.folder, "audit", "verify")).exit_code == broken.verify
    if broken.error is not None:
        with pytest.raises(broken.error):
            async with opened(copy.folder, roomy, clock=RealClock()):
                pass
        return
    with pytest.MonkeyPatch.context() as quick:
        quick.setattr("comptroller_server.app.DRAIN_S", 0.1)
        async with opened(copy.folder, roomy, clock=RealClock()) as shop:
            invoice, before = shop.paid()[9], len(shop.moved())
            assert code_of(await shop.refund(invoice, 7)) == broken.code
            moved = len(shop.moved())
            assert moved - before == (broken.code != "store_unavailable")
            assert (await shop.service.readiness.look())[0] == (broken.code is None)
            if broken.code is not None:  # what is damaged is not written to again
                assert code_of(await shop.refund(shop.paid()[8], 7)) == "store_unavailable"
                assert len(shop.moved()) == moved


async def test_a_store_that_was_found_damaged_takes_no_more_writes_until_another_file_lies_there(
    worked: Worked, tmp_path: Path
) -> None:
    copy, faults = worked.copied(tmp_path / "shop"), Faults()
    async with opened(copy.folder, roomy, clock=RealClock(), faults=faults) as shop:
        invoice, before = shop.paid()[9], len(shop.moved())
        faults.at["commit.before"] = failing(sqlite3.SQLITE_CORRUPT)
        assert code_of(await shop.refund(invoice, 7)) == "store_unavailable"
        faults.at.clear()
        assert code_of(await shop.refund(invoice, 7)) == "store_unavailable"
        assert len(shop.moved()) == before
        database = copy.database.read_bytes()
        for file in copy.folder.glob("comptroller.db-*"):
            file.unlink()
        (copy.folder / "good.db").write_bytes(database)
        (copy.folder / "good.db").replace(copy.database)
        assert (await shop.service.readiness.look())[0]


async def test_keys_that_are_gone_are_never_replaced_by_new_ones(worked: Worked, tmp_path: Path) -> None:
    copy = worked.copied(tmp_path / "shop")
    no_keys(copy)
    for words in (("halt", "--reason", "x"), ("calls", "list")):
        ended = await run_in_thread(copy.folder, *words)
        assert ended.exit_code != 0
        assert "is missing" in ended.output
    assert not (copy.folder / "keys.json").exists()


async def test_a_damaged_store_is_brought_back_by_the_commands_of_its_runbook(
    worked: Worked, tmp_path: Path
) -> None:
    copy = worked.copied(tmp_path / "shop")
    async with opened(copy.folder, roomy, clock=RealClock()) as shop:
        paid = shop.paid()[9]
        assert code_of(await shop.refund(paid, 7)) is None  # after Monday's backup, and signed at the end
        moved = len(shop.moved())
    head_of("log_entry")(copy)
    desk = Desk(shop, copy.folder)
    codes = {"doctor": 1, "audit": 2}
    for words in runbook("The database is damaged"):
        known = {
            "/backups/comptroller-monday.db": str(copy.folder / "monday.db"),
            "./olga.credential": str(copy.folder / "olga.credential"),
        }
        if words[0] == "resume":
            async with opened(copy.folder, roomy, clock=RealClock()) as shop:
                assert code_of(await shop.refund(paid, 7)) == "halted"
        await desk.run(*[known.get(word, word) for word in words], code=codes.get(words[0], 0))
    async with opened(copy.folder, roomy, clock=RealClock()) as shop:
        assert len(shop.moved()) == moved
        assert code_of(await shop.refund(shop.paid()[8], 6)) is None
    await desk.run("audit", "verify")


# -- a clock that leaps -----------------------------------------------------------------------------------------------

YEAR_S = 365 * 86_400.0


def daily(config: dict[str, Any]) -> None:
    """Forty dollars of refunds a day, and what is older than a month is erased."""
    accepting_own_files(config)
    config["budgets"] = {"windows": [{"scope": "tenant", "window": "day", "unit": "refunded_usd", "max": 40}]}
    config["logging"] = {"retention_days": 30}
    config["limits"] = {"recovery_interval_s": 0.05}


async def spend(shop: Shop) -> None:
    """All but four dollars of the day."""
    for invoice in shop.paid()[6:8]:
        assert code_of(await shop.refund(invoice, 18)) is None


async def test_a_clock_that_leaps_ahead_opens_no_budget_ends_no_approval_and_erases_nothing(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, daily) as shop:
        paid = shop.paid()
        waiting = await shop.pending(paid[1])
        await spend(shop)
        before_ms = shop.log()[-1].at_ms
        shop.clock.jump_s(YEAR_S)
        assert code_of(await shop.refund(paid[2], 9)) == "budget_exhausted"
        assert shop.log()[-1].at_ms - before_ms < 60_000
        assert shop.state(waiting) == "pending"
        assert (await shop.service.retention.round("local")).overdue == 0
        assert "the clock leapt ahead" in (await shop.service.readiness.look())[1]
        shop.clock.pass_s(86_400)  # time that passes is followed all the same
        assert code_of(await shop.refund(paid[2], 9)) is None
        shop.clock.jump_s(-YEAR_S)
        assert await shop.service.readiness.look() == (True, "ready")
        assert code_of(await shop.refund(paid[3], 18)) is None
        assert code_of(await shop.refund(paid[4], 18)) == "budget_exhausted"
        assert len(shop.moved()) == 4


async def test_a_leap_that_a_person_accepts_by_the_runbook_is_followed_without_a_restart(
    tmp_path: Path,
) -> None:
    clock = Clock(int((time.time() - YEAR_S) * 1000))
    async with opened(tmp_path, daily, clock=clock) as shop:
        await spend(shop)
        clock.jump_s(YEAR_S)  # to what it is
        assert code_of(await shop.refund(shop.paid()[1], 9)) == "budget_exhausted"
        (command,) = runbook("The clock jumped")
        assert (await run_in_thread(tmp_path, *command)).exit_code == 0
        steady = shop.service.installation.ambient.clock
        assert isinstance(steady, SteadyClock)
        await until(lambda: not steady.is_ahead)
        assert code_of(await shop.refund(shop.paid()[1], 9)) is None


async def test_a_clock_that_goes_back_opens_no_budget_and_record_time_stands_still(tmp_path: Path) -> None:
    async with opened(tmp_path, daily) as shop:
        paid = shop.paid()
        await spend(shop)
        before_ms = shop.log()[-1].at_ms
        shop.clock.jump_s(-2 * 86_400)
        assert code_of(await shop.refund(paid[1], 9)) == "budget_exhausted"
        assert shop.log()[-1].at_ms == before_ms


async def test_a_step_of_the_clock_in_the_middle_of_a_call_neither_ends_nor_prolongs_it(
    tmp_path: Path,
) -> None:
    faults = Faults()
    async with opened(tmp_path, roomy, faults=faults) as shop:
        for step_s in (3_600, -7_200):
            faults.at["dispatch.before"] = partial(shop.clock.jump_s, step_s)
            assert code_of(await shop.refund(shop.paid()[0], 5 + step_s / 10_000)) is None
        times = [entry.at_ms for entry in shop.log()]
        assert times == sorted(times)
        assert len(shop.moved()) == 2
