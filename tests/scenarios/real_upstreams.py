"""MCP servers that other people wrote, from PATH or in a virtual environment of their own."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from platformdirs import user_cache_path

__all__ = ["program"]

REQUIREMENTS = Path(__file__).parents[2] / "requirements" / "upstreams.txt"
INSTALL_S_MAX = 300


def program(name: str) -> str:
    """The path of a server's command; skips the test where it cannot be had."""
    if (there := shutil.which(name)) is not None:
        return there
    folder = _installed()
    if folder is None:
        pytest.skip(f"{name} is not on PATH and requirements/upstreams.txt could not be installed")
    return str(folder / "bin" / name)


@functools.cache
def _installed() -> Path | None:
    """The environment with the locked versions, made once for a machine."""
    version = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:16]
    cache = user_cache_path("comptroller-tests", appauthor=False)
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"upstreams-{version}"
    with (cache / "upstreams.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "complete").exists():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        pip = [
            str(folder / "bin" / "python"),
            "-m",
            "pip",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
        ]
        steps = [
            [sys.executable, "-m", "venv", str(folder)],
            [*pip, "install", "--no-deps", "-r", str(REQUIREMENTS)],
        ]
        try:
            for step in steps:
                subprocess.run(step, check=True, capture_output=True, timeout=INSTALL_S_MAX)
        except (OSError, subprocess.SubprocessError):
            return None
        (folder / "complete").touch()
        return folder
