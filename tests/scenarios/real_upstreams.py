"""MCP servers that other people wrote, from PATH or installed by `make upstreams` in places of their own."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from platformdirs import user_cache_path

__all__ = ["program", "program_of_node"]

LOCKED = Path(__file__).parents[2] / "requirements"
REQUIREMENTS = LOCKED / "upstreams.txt"
OLD = LOCKED / "upstreams-sqlite.txt"
"""What needs version 1 of the SDK."""
PACKAGES = LOCKED / "upstreams-npm"
INSTALL_S_MAX = 300


def program(name: str) -> str:
    """The path of a Python server's command; skips the test where it is not installed."""
    kind, locked = ("sqlite", OLD) if name == "mcp-server-sqlite" else ("python", REQUIREMENTS)
    return _found(name, _folder(kind, locked) / "bin")


def program_of_node(name: str) -> str:
    """The path of a Node server's command; skips the test where it is not installed."""
    return _found(name, _folder("node", PACKAGES / "package-lock.json") / "node_modules" / ".bin")


def _found(name: str, programs: Path) -> str:
    if (there := shutil.which(name) or shutil.which(name, path=str(programs))) is None:
        pytest.skip(f"{name} is not installed; `make upstreams` gets it")
    return there


def _folder(kind: str, locked: Path) -> Path:
    """Where the locked versions are kept, once for a machine."""
    version = hashlib.sha256(locked.read_bytes() + sys.version.encode()).hexdigest()[:16]
    return user_cache_path("comptroller-tests", appauthor=False) / f"upstreams-{kind}-{version}"


def main() -> None:
    """Install every kind. The one thing here that goes to the network, and no test does it."""
    for kind, locked, install in (
        ("python", REQUIREMENTS, _with_pip),
        ("sqlite", OLD, _with_pip),
        ("node", PACKAGES / "package-lock.json", _with_npm),
    ):
        folder = _folder(kind, locked)
        if (folder / "complete").exists():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        print(f"upstreams: {folder}")
        install(folder, locked)
        (folder / "complete").touch()


def _with_pip(folder: Path, locked: Path) -> None:
    _run(sys.executable, "-m", "venv", str(folder))
    pip = [
        str(folder / "bin" / "python"),
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ]
    _run(*pip, "install", "--no-deps", "-r", str(locked))


def _with_npm(folder: Path, _: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PACKAGES / name, folder)
    _run("npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=INSTALL_S_MAX)


if __name__ == "__main__":
    main()
