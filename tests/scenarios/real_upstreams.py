"""MCP servers that other people wrote, from PATH or in a virtual environment of their own."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from platformdirs import user_cache_path

__all__ = ["program", "program_of_node"]

LOCKED = Path(__file__).parents[2] / "requirements"
REQUIREMENTS = LOCKED / "upstreams.txt"
PACKAGES = LOCKED / "upstreams-npm"
INSTALL_S_MAX = 300


def program(name: str) -> str:
    """The path of a Python server's command; skips the test where it cannot be had."""
    if (there := shutil.which(name)) is not None:
        return there
    folder = _installed("python", REQUIREMENTS, _with_pip)
    if folder is None:
        pytest.skip(f"{name} is not on PATH and requirements/upstreams.txt could not be installed")
    return str(folder / "bin" / name)


def program_of_node(name: str) -> str:
    """The path of a Node server's command; skips the test where it cannot be had."""
    if (there := shutil.which(name)) is not None:
        return there
    folder = _installed("node", PACKAGES / "package-lock.json", _with_npm)
    if folder is None:
        pytest.skip(f"{name} is not on PATH and requirements/upstreams-npm could not be installed")
    return str(folder / "node_modules" / ".bin" / name)


@functools.cache
def _installed(kind: str, locked: Path, install: Callable[[Path], None]) -> Path | None:
    """A folder with the locked versions, made once for a machine."""
    version = hashlib.sha256(locked.read_bytes() + sys.version.encode()).hexdigest()[:16]
    cache = user_cache_path("comptroller-tests", appauthor=False)
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"upstreams-{kind}-{version}"
    with (cache / f"upstreams-{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "complete").exists():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        try:
            install(folder)
        except (OSError, subprocess.SubprocessError):
            return None
        (folder / "complete").touch()
        return folder


def _with_pip(folder: Path) -> None:
    _run(sys.executable, "-m", "venv", str(folder))
    pip = [
        str(folder / "bin" / "python"),
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ]
    _run(*pip, "install", "--no-deps", "-r", str(REQUIREMENTS))


def _with_npm(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PACKAGES / name, folder)
    _run("npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_S_MAX)
