"""A signal in the middle of a command: it stops there, leaves nothing half done behind, and the next run works."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.errors import StoreUnsuitable
from comptroller_server.upkeep.retention import DAY_MS
from tests.scenarios.kit import Clock, code_of, opened
from tests.server.cli_kit import Desk, RealClock, accepting_own_files, at_work, run_in_thread
from tests.server.test_cli_processes import WAIT_S_MAX, Place
from tests.server.test_db_command import restored

pytestmark = pytest.mark.anyio

STOPPED_READING = """
import os, signal, sys
from pathlib import Path
from comptroller_audit.rebuild import TenantCheck
from comptroller_audit.snapshot import Snapshot
from comptroller_audit.store import Store
from comptroller_server import cli
from comptroller_server.commands import db
from comptroller_server.exporting import records
from comptroller_server.reporting import span

name, after, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
del sys.argv[1:4]
db.PAGES_AT_ONCE = records.PAGE_ENTRIES = span.PAGE_ENTRIES = 1
read = 0

def reads(*_):
    global read
    read += 1
    if read == after:
        half = any(path.name.startswith(".out") for path in folder.iterdir())
        print("half there" if half else "nothing there", file=sys.stderr, flush=True)
        os.kill(os.getpid(), getattr(signal, name))
    if read > after:
        print("read on", file=sys.stderr, flush=True)

now, entries, copy = Store.read_now, TenantCheck._entry, db._copy
Store.read_now = lambda store, work: (reads(), now(store, work))[1]
TenantCheck._entry = lambda check, *given: (reads(), entries(check, *given))[1]
db._copy = lambda database, to, progress: copy(database, to, reads)
cli.main()
"""
"""Sends itself the signal when it reads the store for the `after`th time."""

LEAVES_HALF = {
    "export": ("audit", "export", "--out", "{out}"),
    "backup": ("db", "backup", "{out}"),
    "evidence": ("evidence", "--period", "2026", "--out", "{out}"),
}
READS = {
    "report": ("report", "--since", "all"),
    "replay": ("replay", "--policy", "{folder}", "--since", "all"),
    "verify": ("audit", "verify"),
    "suggest": ("suggest", "--since", "all"),
    "erase": ("erase", "--subject", "nobody-there", "--reason", "request 88"),
}


async def ended(folder: Path, code: str, *words: str) -> tuple[int | None, str, str]:
    """A process that runs `code` with `words`, to its end: exit code, standard output, standard error."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *words, env=Place(folder).environment, cwd=folder,
        stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe,
    )  # fmt: skip
    async with asyncio.timeout(WAIT_S_MAX):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def worked(desk: Desk) -> Path:
    """Some calls, and a folder for what is written."""
    for invoice in desk.shop.paid()[:3]:
        await desk.shop.call("lookup_invoice", invoice_id=invoice)
    place = desk.folder / "written"
    place.mkdir()
    return place


def options(folder: Path) -> list[str]:
    return ["--config", str(folder / "comptroller.yaml"), "--data-dir", str(folder)]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("command", LEAVES_HALF)
async def test_what_is_stopped_while_it_writes_stops_there_leaves_no_half_and_works_the_next_time(
    command: str, name: str, tmp_path: Path
) -> None:
    async with at_work(tmp_path) as desk:
        place = await worked(desk)
        words = [word.replace("{out}", str(place / "out")) for word in LEAVES_HALF[command]]
        given = (name, "5", str(place), *options(tmp_path), *words)
        code, out, err = await ended(tmp_path, STOPPED_READING, *given)
        assert (code, out, err.splitlines()) == (2, "", ["half there", "Stopped."])
        assert list(place.iterdir()) == []
        await desk.run(*words)
        assert [path.name for path in place.iterdir()] == ["out"]


@pytest.mark.parametrize("command", READS)
async def test_an_interrupt_stops_what_only_reads_where_it_is(command: str, tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        place = await worked(desk)
        words = [word.replace("{folder}", str(tmp_path)) for word in READS[command]]
        given = ("SIGINT", "4", str(place), *options(tmp_path), *words)
        code, out, err = await ended(tmp_path, STOPPED_READING, *given)
        assert (code, out, err.splitlines()) == (2, "", ["nothing there", "Stopped."])
        await desk.run(*words)


STOPPED_BEFORE = """
import os, signal
from comptroller_server import cli

def stopped(ctx):
    os.kill(os.getpid(), signal.SIGINT)

cli.invocation_of = stopped
cli.main()
"""
STOPPED_IN_CODE_FROM_TEXT = """
from comptroller_audit.store import Store
from comptroller_server import cli

def stopped(*_):
    exec("import os, signal; os.kill(os.getpid(), signal.SIGINT)")

Store.read_now = stopped
cli.main()
"""
"""As in the making of a dataclass. Python then ends by the signal though the interrupt was caught."""


@pytest.mark.parametrize("code", [STOPPED_BEFORE, STOPPED_IN_CODE_FROM_TEXT])
async def test_an_interrupt_is_never_taken_for_findings_nor_ends_by_the_signal(
    code: str, tmp_path: Path
) -> None:
    async with at_work(tmp_path):
        exit_code, out, err = await ended(tmp_path, code, *options(tmp_path), "calls", "list")
        assert (exit_code, out, err.strip()) == (2, "", "Stopped.")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device here is always full")
@pytest.mark.parametrize("words", [("calls", "list", "--json"), ("audit", "export"), ("--version",)])
async def test_output_that_finds_no_room_is_told_and_fails(words: tuple[str, ...], tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        await worked(desk)
        full = os.open("/dev/full", os.O_WRONLY)
        process = await asyncio.create_subprocess_exec(
            sys.executable, *Place(tmp_path).words(*words), env=Place(tmp_path).environment,
            stdin=asyncio.subprocess.DEVNULL, stdout=full, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        os.close(full)
        async with asyncio.timeout(WAIT_S_MAX):
            _, err = await process.communicate()
        assert process.returncode == 2
        (line,) = err.decode().splitlines()
        assert "No space left on device" in line


PRINTED_LAST = """
from comptroller_server.process_signals import leave

print("the last word", end="")
leave(0, 2)
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device here is always full")
def test_what_is_still_to_be_written_at_the_end_and_finds_no_room_fails() -> None:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", PRINTED_LAST]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, env=kept, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "standard output cannot be written to" in line


ASKED_TO_END = """
import os, signal, sys
from comptroller_server import cli
from comptroller_server.commands import watch

async def look(*_):
    os.kill(os.getpid(), signal.SIGTERM)
watch.look_at = look
signal.signal(signal.SIGINT, signal.SIG_IGN)
cli.main()
"""
SIGNALLED_WHEN_DONE = """
import atexit, os, signal, sys
from comptroller_server import cli

name = sys.argv.pop(1)
atexit.register(lambda: os.kill(os.getpid(), getattr(signal, name)))
cli.main()
"""


async def test_where_interrupts_are_ignored_it_can_still_be_told_to_end(tmp_path: Path) -> None:
    async with at_work(tmp_path):
        code, out, err = await ended(tmp_path, ASKED_TO_END, *options(tmp_path), "watch")
        assert (code, out, err) == (0, "", "")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(("words", "code"), [(("calls", "list", "--json"), 0), (("no-such-command",), 2)])
async def test_a_signal_when_all_is_done_changes_nothing_of_it(
    words: tuple[str, ...], code: int, name: str, tmp_path: Path
) -> None:
    async with at_work(tmp_path):
        given = (*options(tmp_path), *words)
        alone = await ended(tmp_path, "from comptroller_server import cli; cli.main()", *given)
        assert alone[0] == code
        assert await ended(tmp_path, SIGNALLED_WHEN_DONE, name, *given) == alone


STOPPED_ERASING = """
import os, signal, sys
from comptroller_audit import retention
from comptroller_server import cli
from comptroller_server.upkeep.retention import Retention

name, erase = sys.argv.pop(1), Retention._erase
retention.OVERDUE_MAX, retention._THERE = 2, retention._THERE.limit(2)

async def stopped(*given):
    done = await erase(*given)
    os.kill(os.getpid(), getattr(signal, name))
    return done

Retention._erase = stopped
cli.main()
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
async def test_a_retention_that_is_stopped_keeps_what_it_did_and_the_next_run_does_the_rest(
    name: str, tmp_path: Path
) -> None:
    def monthly(config: dict[str, Any]) -> None:
        config["logging"] = {"retention_days": 30}
        config["limits"] = {"clock_jump_s_max": 90 * 86_400}

    async with opened(tmp_path, monthly, clock=Clock(time.time_ns() // 1_000_000 - 40 * DAY_MS)) as shop:
        for invoice in shop.paid()[:3]:
            await shop.call("lookup_invoice", invoice_id=invoice)
    words = (*options(tmp_path), "retention", "run")
    due = json.loads((await run_in_thread(tmp_path, "retention", "run", "--dry-run", "--json")).stdout)
    assert (due["overdue"], due["erased"]) == (3, 0)
    code, out, err = await ended(tmp_path, STOPPED_ERASING, name, *words)
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "What was erased until now stays erased; run it again for what is left.",
        "Stopped.",
    ]
    code, out, err = await ended(tmp_path, "from comptroller_server import cli; cli.main()", *words, "--json")
    assert (code, err) == (0, ""), "and nothing is told of how far it is where nobody watches"
    assert 0 < json.loads(out)["erased"] < 3
    assert (await run_in_thread(tmp_path, *words[-2:], "--dry-run")).stdout.startswith("0 payloads")
    assert (await run_in_thread(tmp_path, "audit", "verify")).exit_code == 0


STOPPED_RESTORING = """
import os, signal, sys
from comptroller_server import cli

sync, name = os.fsync, sys.argv.pop(1)

def stopped(handle):
    os.fsync = sync
    os.kill(os.getpid(), getattr(signal, name))

os.fsync = stopped
cli.main()
"""
STOPPED_COMMITTING = """
import os, signal, sys
from comptroller_audit.store import Store
from comptroller_server import cli

commit, after, done = Store.commit, int(sys.argv.pop(1)), []

async def stopped(*given):
    outcome = await commit(*given)
    done.append(outcome)
    if len(done) == after:
        os.kill(os.getpid(), signal.SIGTERM)
    return outcome

Store.commit = stopped
cli.main()
"""


async def test_a_restore_that_is_stopped_leaves_the_database_in_its_place(tmp_path: Path) -> None:
    backup = tmp_path / "night.db"
    async with at_work(tmp_path) as desk:
        await desk.shop.call("lookup_invoice", invoice_id=desk.shop.paid()[0])
        await desk.run("db", "backup", str(backup))
        await desk.shop.call("lookup_invoice", invoice_id=desk.shop.paid()[1])
        size = len(desk.shop.log())
    words = ("db", "restore", str(backup))
    given = ("SIGTERM", *options(tmp_path), *words)
    assert await ended(tmp_path, STOPPED_RESTORING, *given) == (2, "", "Stopped.\n")
    left = os.listdir(tmp_path)
    assert [name for name in left if ".before-" in name or name.startswith(".")] == []
    verified = json.loads(await desk.run("audit", "verify", "--json"))
    assert verified["tenants"][0]["entries"] >= size
    await desk.run(*words)


@pytest.mark.parametrize("after", [1, 2])
async def test_an_adoption_that_is_stopped_has_halted_everything_and_is_ended_by_the_next(
    after: int, tmp_path: Path
) -> None:
    desk, waiting, invoice = await restored(tmp_path)
    words = ("db", "adopt", "--reason", "The disk died.", "--credential-file", str(desk.credential))
    code, out, err = await ended(tmp_path, STOPPED_COMMITTING, str(after), *options(tmp_path), *words)
    assert (code, out, err) == (2, "", "Stopped.\n")
    with pytest.raises(StoreUnsuitable, match="comptroller db adopt"):
        async with opened(tmp_path, accepting_own_files, clock=RealClock()):
            pass
    assert (await desk.json(*words))["halted"]
    async with opened(tmp_path, accepting_own_files, clock=RealClock()) as shop:
        assert code_of(await shop.refund(invoice, 6)) == "halted"
        assert code_of(await shop.resume(waiting)) == "approval_void"
    await desk.run("audit", "verify")
