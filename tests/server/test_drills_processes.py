"""A disk that fills up under a real server, on a real file system that is small, or under a limit of the kernel's."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from comptroller_tools.desk.database import ensure
from tests.scenarios.kit import code_of as code_of_answer
from tests.scenarios.kit import placed, until
from tests.server.cli_kit import at_work
from tests.server.test_cli_processes import Place, code_of, invoices, refund

pytestmark = [pytest.mark.anyio, pytest.mark.long]
DISK_MIB = 12
LEFT_BYTES = 192 * 1024
"""Room for a commit or two, so that calls are under way when it ends."""
SERVED_S_MAX = 60.0


@dataclass
class Apart(Place):
    """The desk lies on another disk: it is the world, not the record."""

    @property
    def desk(self) -> Path:
        return self.folder.parent / "desk.db"


class Room:
    """Takes the last room from a running server, and gives it back."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process) -> None:
        self.folder, self.process = folder, process

    def take(self) -> None: ...

    def give(self) -> None: ...


class Filled(Room):
    """Another file that takes all blocks but a few."""

    def take(self) -> None:
        with (self.folder / "filler").open("wb", buffering=0) as filler:
            while True:
                try:
                    filler.write(bytes(4096))
                except OSError:
                    break
            filler.truncate(filler.tell() - LEFT_BYTES)

    def give(self) -> None:
        (self.folder / "filler").unlink()


class Limited(Room):
    """`RLIMIT_FSIZE`, set from outside, at what the largest of the store's files has already."""

    def take(self) -> None:
        size = max(file.stat().st_size for file in self.folder.glob("comptroller.db*") if file.is_file())
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def give(self) -> None:
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, unlimited)


@contextmanager
def small_disk(folder: Path) -> Generator[None]:
    """A file system of a few MiB at `folder`, where this account may mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def breaking_disk(folder: Path) -> Generator[Path]:
    """An ext4 of its own at `folder` that only reads from the moment something is written to the file that is yielded."""
    image = folder.parent / "disk.img"
    image.write_bytes(b"")
    os.truncate(image, 32 * 1024 * 1024)
    for step in (["mkfs.ext4", "-qF", str(image)],
                 ["mount", "-o", "loop,errors=remount-ro", str(image), str(folder)]):  # fmt: skip
        if os.geteuid() != 0 or shutil.which(step[0]) is None or subprocess.run(step, check=False).returncode:
            pytest.skip("no ext4 can be made and mounted here")
    try:
        device = os.stat(folder).st_dev
        name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
        breaks = Path("/sys/fs/ext4") / name / "trigger_fs_error"
        if not breaks.exists():
            pytest.skip("this kernel breaks no file system on request")
        yield breaks
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@dataclass
class Served:
    place: Place
    process: asyncio.subprocess.Process
    client: Client
    ready_url: str

    async def refund(self, invoice: str, usd: float) -> str | None:
        return code_of(await self.client.call_tool("issue_refund", refund(invoice, usd)))

    async def ready(self) -> tuple[int, str]:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            answer = await http.get(self.ready_url)
        return answer.status_code, answer.text


@asynccontextmanager
async def served(place: Place) -> AsyncGenerator[Served]:
    log = (place.folder.parent / "server.log").open("ab")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *place.words("serve", "--http", "127.0.0.1:0"), env=place.environment,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=log,
    )  # fmt: skip
    try:
        url = await served_at(process, Path(log.name))
        token = (place.folder / "tokens" / "triage-bot.token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            httpx2.AsyncClient(headers=headers, trust_env=False) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            yield Served(place, process, client, url.replace("/mcp", "/readyz"))
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(SERVED_S_MAX):
            assert await process.wait() == 0, told_in(Path(log.name))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        log.close()


async def served_at(process: asyncio.subprocess.Process, log: Path) -> str:
    """The address it serves at, which it says once it does."""
    await until(lambda: process.returncode is not None or b" at http" in log.read_bytes())
    assert process.returncode is None, told_in(log)
    return told_in(log).split("serving at ")[-1].split()[0]


def told_in(log: Path) -> str:
    return log.read_text()


def roomy(config: dict[str, Any]) -> None:
    config["budgets"] = {}
    config["limits"] = {"identical_calls_max": 1000, "attempts_per_minute_max": 100_000}


@pytest.mark.parametrize("kind", [Filled, Limited])
async def test_a_server_that_runs_out_of_room_does_nothing_unrecorded_and_goes_on_when_there_is_some(
    kind: type[Room], tmp_path: Path
) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    if kind is Filled:
        with small_disk(folder):
            await run_out_of_room(folder, kind)
    elif sys.platform != "linux":
        pytest.skip("only Linux sets another process's limits")
    else:
        await run_out_of_room(folder, kind)


async def run_out_of_room(folder: Path, kind: type[Room]) -> None:
    place = Apart(folder)
    placed(folder, roomy)
    ensure(place.desk, 1)
    paid = invoices(place, 40)
    async with served(place) as server:
        assert await server.refund(paid[0], 5) is None
        room = kind(folder, server.process)
        room.take()
        codes: list[str | None] = []
        for at in range(1, 40, 4):  # four at once, until nothing fits any more
            codes += await asyncio.gather(*(server.refund(invoice, 5) for invoice in paid[at : at + 4]))
            if codes[-4:] == ["store_unavailable"] * 4:
                break
        assert codes[-4:] == ["store_unavailable"] * 4
        assert set(codes) <= {None, "in_doubt", "store_unavailable"}
        assert (await server.ready())[0] == 503
        moved = place.refunds()
        assert len(moved) == 1 + sum(code != "store_unavailable" for code in codes)
        if kind is Filled:
            code, out, _ = await place.run("doctor")
            assert code == 1
            assert "problem  disk" in out
        room.give()
        async with asyncio.timeout(SERVED_S_MAX):
            while (await server.ready())[0] != 200:  # noqa: ASYNC110 -- another process sets no event of this loop
                await asyncio.sleep(0.05)
        assert place.refunds() == moved  # what was refused is not done later
        assert await server.refund(paid[-1], 5) is None
    done = await place.json("calls", "list", "--state", "done", "-n", "100")
    assert len(done["calls"]) == len(place.refunds())
    verified = await place.json("audit", "verify")
    assert verified["ok"]


async def test_a_disk_that_turns_read_only_is_found_before_anybody_calls(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    with breaking_disk(folder) as breaks:
        place = Apart(folder)
        placed(folder, roomy)
        folder.chmod(0o700)
        ensure(place.desk, 1)
        paid = invoices(place, 2)
        async with served(place) as server:
            assert await server.refund(paid[0], 5) is None
            breaks.write_text("1")
            async with asyncio.timeout(SERVED_S_MAX):
                while (answer := await server.ready())[0] == 200:  # noqa: ASYNC110 -- another process's event
                    await asyncio.sleep(0.2)
            assert answer == (
                503,
                "not ready: the store cannot be written; `comptroller doctor` tells more\n",
            )
            assert await server.refund(paid[1], 5) == "store_unavailable"
            code, out, _ = await place.run("doctor")
            assert code == 1
            assert "could not be made durable (Read-only file system)" in out
            assert place.refunds() == [paid[0]]
        assert "stopped; not written: the last checkpoint" in told_in(tmp_path / "server.log")
        assert (await place.json("audit", "verify"))["ok"], "what can still be read is whole"


DIES_IN_BACKUP = """
import os, signal, sys
from comptroller_server.cli import cli
from comptroller_server.commands import db
db.PAGES_AT_ONCE = 1
copy = db._copy
db._copy = lambda database, to, progress: copy(database, to, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
cli([*sys.argv[1:], "db", "backup", "monday.db"])
"""
DIES_IN_RETENTION = """
import asyncio, os, signal, sys
from pathlib import Path
from comptroller_server.config.loading import load_config
from comptroller_server.installation import TENANT, Ambient, Installation
from comptroller_server.upkeep.retention import Retention

class Later:
    now_ms = staticmethod(lambda: 4_000_000_000_000)
    monotonic = staticmethod(lambda: 0.0)

def die(point):
    if point == "commit.before":
        os.kill(os.getpid(), signal.SIGKILL)

config, data = sys.argv[2], sys.argv[4]
one = Installation(load_config(Path(config), data_dir=Path(data)), Ambient(fault=die))
asyncio.run(Retention(one.store, Later(), 1, 1e12).round(TENANT))
"""


@pytest.mark.parametrize("upkeep", [DIES_IN_BACKUP, DIES_IN_RETENTION])
async def test_upkeep_that_is_killed_leaves_a_whole_store_and_no_half_file(
    upkeep: str, tmp_path: Path
) -> None:
    async with at_work(tmp_path) as desk:
        for invoice in desk.shop.paid()[:4]:
            await desk.shop.refund(invoice, 5)
        size = len(desk.shop.log())
        options = ["--config", str(tmp_path / "comptroller.yaml"), "--data-dir", str(tmp_path)]
        killed = await asyncio.create_subprocess_exec(
            sys.executable, "-c", upkeep, *options, cwd=tmp_path, env=Apart(tmp_path).environment
        )
        async with asyncio.timeout(SERVED_S_MAX):
            assert await killed.wait() == -signal.SIGKILL
        assert len(desk.shop.log()) == size
        assert all(entry.packet is not None for entry in desk.shop.log())
        await desk.run("audit", "verify")
        await desk.run("db", "backup", str(tmp_path / "monday.db"))  # no half of one has its name
        assert code_of_answer(await desk.shop.refund(desk.shop.paid()[5], 5)) is None
