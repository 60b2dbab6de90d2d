"""The process of an upstream never outlives the server that started it, whatever kills that."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.scenarios import stubborn_upstream

WAIT_S = 20.0


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`comptroller serve` with one stubborn upstream, which is up."""
    mcp = {"command": sys.executable, "args": ["-I", "-S", stubborn_upstream.__file__, str(tmp_path)]}
    (tmp_path / "comptroller.yaml").write_text(
        json.dumps({"sources": {"files": {"mcp": {**mcp, "start_s": 600}}}})
    )
    command = [sys.executable, "-m", "comptroller_server.cli", "serve", "--http", "127.0.0.1:0"]
    options = ["--config", str(tmp_path / "comptroller.yaml"), "--data-dir", str(tmp_path / "data")]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE) as process:
        try:
            wait_for(lambda: (tmp_path / "pid").exists())
            yield process
        finally:
            process.kill()
            for pid in pids(tmp_path):  # a test that failed leaves nobody behind
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def wait_for(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while not happened():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    if not Path("/proc/self").exists():
        return False
    try:  # where nobody reaps orphans, the dead stay listed
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def pids(folder: Path) -> list[int]:
    """The processes that were started by now."""
    started = (folder / name for name in ("pid", "child", "guard"))
    return [int(file.read_text()) for file in started if file.exists()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_upstream_outlives_its_server(
    tmp_path: Path, serving: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    started = pids(tmp_path)
    assert not any(gone(pid) for pid in started)
    serving.send_signal(number)
    serving.wait(WAIT_S)
    wait_for(lambda: all(gone(pid) for pid in started))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the guard watches")
def test_an_upstream_dies_with_its_guard(tmp_path: Path, serving: subprocess.Popen[bytes]) -> None:
    upstream, child, guard = pids(tmp_path)
    os.kill(guard, signal.SIGKILL)
    wait_for(lambda: gone(upstream))
    assert serving.poll() is None
    os.kill(child, signal.SIGKILL)  # ours to clean up: only the kernel's own link was left
