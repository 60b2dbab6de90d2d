"""Running the command line in this process, and a running service on real time for it to work on."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from comptroller_server.cli import cli
from tests.scenarios.kit import Changes, Clock, Shop, opened, placed

__all__ = ["Desk", "RealClock", "accepting_own_files", "at_work", "run", "run_in_thread"]


class RealClock(Clock):
    """The command line asks the system what time it is, and so must the service it works beside."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


def accepting_own_files(config: dict[str, Any]) -> None:
    """The tests run as one user, as the demo does."""
    config["approvals"] = {"allow_same_uid_file": True}


def run(folder: Path, *words: str, env: dict[str, str] | None = None) -> Result:
    """`comptroller --config … --data-dir … words`, where no event loop runs."""
    options = ["--config", str(folder / "comptroller.yaml"), "--data-dir", str(folder)]
    return CliRunner().invoke(cli, [*options, *words], prog_name="comptroller", env=env)


async def run_in_thread(folder: Path, *words: str) -> Result:
    """The same beside a running service."""
    return await asyncio.to_thread(run, folder, *words)


class Desk:
    """A service at work in `folder`, and the command line beside it."""

    def __init__(self, shop: Shop, folder: Path) -> None:
        self.shop = shop
        self.folder = folder
        self.credential = folder / "olga.credential"

    async def run(self, *words: str, code: int = 0) -> str:
        """One command that must end with `code`; what it printed."""
        result = await run_in_thread(self.folder, *words)
        assert result.exit_code == code, (words, result.exit_code, result.stdout, result.stderr)
        return result.stdout

    async def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(await self.run(*words, "--json", code=code))


@asynccontextmanager
async def at_work(
    folder: Path, changes: Changes | None = accepting_own_files, *, cedar: str = ""
) -> AsyncGenerator[Desk]:
    """A desk with olga enrolled as approver before the first serve."""
    placed(folder, changes, cedar=cedar)
    credential = folder / "olga.credential"
    words = ("approver", "add", "olga", "--role", "approver", "--credential-out", str(credential))
    enrolled = await run_in_thread(folder, *words)
    assert enrolled.exit_code == 0, enrolled.stderr
    async with opened(folder, changes, cedar=cedar, clock=RealClock()) as shop:
        yield Desk(shop, folder)
