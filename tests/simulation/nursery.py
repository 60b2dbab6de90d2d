"""Where victims come from: a process that has imported the product and forks a child for each order.

Importing and compiling is most of what a victim would do in its life. When the first is born its parent has no file
open, holds no lock and runs no thread, so that a child is as good as a process started afresh, and SIGKILL ends it
alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

__all__ = ["Nursery"]

ROOT = Path(__file__).parents[2]
Main: TypeAlias = Callable[[list[str]], None]


class Nursery:
    """Bears one victim after the other. A context manager: its process ends with it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.simulation.nursery"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # so that a victim that hangs can be ended with it
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdin.close()
        process.stdout.close()
        process.wait()

    def bear(self, order: str, log: Path, environment: Mapping[str, str], wait_s: float) -> int:
        """Let one victim live; its exit code, negative for the signal that ended it. Raises TimeoutError."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        line = json.dumps({"order": order, "log": str(log), "environment": dict(environment)})
        process.stdin.write(line.encode() + b"\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            if not ready.select(wait_s):
                raise TimeoutError(f"a victim did not end within {wait_s:g} s: {order}")
        return int(process.stdout.readline())


def _live(main: Main, order: str, log: str, environment: Mapping[str, str]) -> None:
    """The child, which does not come back."""
    code = 1
    try:
        os.environ.update(environment)
        errors, nothing = (
            os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600),
            os.open(os.devnull, os.O_RDONLY),
        )
        for opened, at in ((nothing, 0), (errors, 1), (errors, 2)):
            os.dup2(opened, at)
        main([order])
        code = 0
    except BaseException:  # noqa: BLE001 -- a child that went on would answer in its parent's place
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _bear_for_ever() -> None:
    from tests.simulation.lives import compile_ahead  # what every child is spared
    from tests.simulation.victim import main

    compile_ahead()
    for line in sys.stdin.buffer:
        wanted = json.loads(line)
        child = os.fork()
        if child == 0:
            _live(main, wanted["order"], wanted["log"], wanted["environment"])
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _bear_for_ever()
