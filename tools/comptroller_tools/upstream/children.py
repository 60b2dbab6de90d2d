"""Child processes that speak MCP on their standard streams: started through `guard`, ended with all they started.

What a server has to load takes longer than starting its upstreams, so `HeadStarts` begins them before. Therefore this
module imports little.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Self

from comptroller_audit.files import make_private
from comptroller_tools.upstream import guard
from comptroller_tools.upstream.settings import StdioCommand

__all__ = ["BASICS", "CannotStart", "Child", "HeadStarts", "child_environment", "start_child"]

BASICS = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR")
"""The variables a child gets of ours; everything else is named in the config."""
STOP_GRACE_S = 2.0
"""After its input is closed a child may end by itself for so long."""
KILL_GRACE_S = 3.0


class CannotStart(Exception):
    """The child could not be started; nothing was sent to anybody. The text names the command."""


@dataclass(frozen=True, slots=True)
class Child:
    """A started command. `lifeline` is the descriptor whose closing makes its guard end it."""

    process: asyncio.subprocess.Process
    lifeline: int

    async def end(self) -> None:
        """Close its input, and end it with all it started, where it does not end by itself in time."""
        await _end(self.process, self.lifeline)


class HeadStarts:
    """Children that were begun before anything could use them, by source; each is taken once, or ended with this."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[StdioCommand, Child]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        left = [child for _, child in self._waiting.values()]
        self._waiting.clear()
        await asyncio.gather(*(child.end() for child in left))

    async def begin(self, commands: Mapping[str, StdioCommand]) -> None:
        """Start the first of them, one for each core but the one that this process loads itself on.

        More would take turns, and none would be ready first. One that cannot be started is left to its first
        connection, which says why.
        """
        for name, command in islice(commands.items(), max(1, _cores() - 1)):
            with contextlib.suppress(CannotStart):
                self._waiting[name] = (command, await start_child(command))

    def take(self, name: str, command: StdioCommand) -> Child | None:
        """The child of a source, for its first connection; None where it was begun with another command, or not."""
        begun = self._waiting.get(name)
        if begun is None or begun[0] != command:
            return None
        return self._waiting.pop(name)[1]


def _cores() -> int:
    """What this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def child_environment(own: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of a child: `BASICS` as they are here, and what the config names."""
    return {name: os.environ[name] for name in BASICS if name in os.environ} | dict(own)


async def start_child(command: StdioCommand) -> Child:
    """Start it through `guard`, so that it cannot outlive us. Raises `CannotStart`."""
    environment = child_environment(command.env)
    program = shutil.which(command.command, path=environment.get("PATH"))
    if program is None:
        raise CannotStart(f"the command `{command.command}` is not there or cannot be executed")
    theirs, ours = os.pipe()
    try:
        if command.cwd is not None:
            make_private(command.cwd)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", guard.__file__, str(theirs), program, *command.args,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            cwd=command.cwd,
            pass_fds=(theirs,),
            start_new_session=True,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        os.close(ours)
        raise CannotStart(
            f"`{command.command}` could not be started ({type(error).__name__}: {getattr(error, 'strerror', '')})"
        ) from None
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return Child(process, ours)


async def _end(process: asyncio.subprocess.Process, lifeline: int) -> None:
    """Close its input, wait a little, then let go of the lifeline, at which the guard ends it and all it started.

    Shielded: a cancelled caller leaves no process behind.
    """

    async def stop() -> None:
        try:
            assert process.stdin is not None
            process.stdin.close()
            if await _gone(process, STOP_GRACE_S):
                return
        finally:
            os.close(lifeline)
        if not await _gone(process, KILL_GRACE_S):
            with contextlib.suppress(ProcessLookupError):
                process.kill()  # the guard itself hangs; the kernel ends the child with it
            await _gone(process, KILL_GRACE_S)

    stopping = asyncio.ensure_future(stop())
    try:
        await asyncio.shield(stopping)
    except asyncio.CancelledError:
        await asyncio.wait([stopping])
        raise
    finally:
        # Closes the pipes; a descendant that left the group may still hold their other ends.
        process._transport.close()  # type: ignore[attr-defined]
        await asyncio.sleep(0)


async def _gone(process: asyncio.subprocess.Process, within_s: float) -> bool:
    """Whether the process ends in time. Not `wait()`: that waits for the pipes too, which others may hold."""
    until = asyncio.get_running_loop().time() + within_s
    while process.returncode is None:
        if asyncio.get_running_loop().time() >= until:
            return False
        await asyncio.sleep(0.01)
    return True
