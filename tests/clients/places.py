"""Programs of other people that work with Comptroller, each installed by `make clients` in a place of its own.

`requirements/clients/NAME.txt` locks a virtual environment, `requirements/clients-npm/NAME/` a folder of Node packages.
They are apart because what they need conflicts.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from platformdirs import user_cache_path

from tests.conformance.places import NODE as NEW_NODE
from tests.conformance.places import install_node

__all__ = ["node_folder", "node_program", "python_of"]

LOCKED = Path(__file__).parents[2] / "requirements"
PYTHON, NODE = LOCKED / "clients", LOCKED / "clients-npm"
WITH_NODE = {"inspector"}
"""Packages that need a newer Node than most machines have; they get their own beside them, in `node`."""
INSTALL_S_MAX = 600
AT_ONCE = 2
REQUIRE = "COMPTROLLER_REQUIRE_CLIENTS"
"""Set to 1, a client that is not installed fails its tests, which are skipped otherwise."""


def python_of(name: str) -> Path:
    """The interpreter of a Python client's place; skips the test where it is not installed."""
    return _installed(name, _folder(PYTHON / f"{name}.txt"), "bin/python")


def node_program(name: str, program: str) -> Path:
    """A command of a Node client's place; skips the test where it is not installed."""
    return _installed(name, _folder(NODE / name / "package-lock.json"), f"node_modules/.bin/{program}")


def node_folder(name: str) -> Path:
    """Where a Node client's `node_modules` stands; skips the test where it is not installed."""
    return _installed(name, _folder(NODE / name / "package-lock.json"), "")


def _installed(name: str, folder: Path, what: str) -> Path:
    if (folder / "complete").exists():
        return folder / what
    message = f"{name} is not installed; `make clients` gets it"
    if os.environ.get(REQUIRE) == "1":
        pytest.fail(message)
    pytest.skip(message)


def _folder(locked: Path) -> Path:
    """Where the locked versions are kept, once for a machine."""
    name = locked.parent.name if locked.suffix == ".json" else locked.stem
    own = NEW_NODE.read_bytes() if name in WITH_NODE else b""
    version = hashlib.sha256(locked.read_bytes() + sys.version.encode() + own).hexdigest()[:16]
    return user_cache_path("comptroller-tests", appauthor=False) / f"client-{name}-{version}"


def main() -> int:
    """Install what is missing. The one thing here that goes to the network, and no test does it."""
    locks = [*sorted(PYTHON.glob("*.txt")), *sorted(NODE.glob("*/package-lock.json"))]
    wanted = [(lock, _folder(lock)) for lock in locks]
    missing = [(lock, folder) for lock, folder in wanted if not (folder / "complete").exists()]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        failed = [told for told in pool.map(_try, missing) if told]
    for told in failed:
        print(told)
    return 1 if failed else 0


def _try(wanted: tuple[Path, Path]) -> str:
    """Install one place; what to say where that failed."""
    lock, folder = wanted
    print(f"clients: {folder}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        if lock.suffix == ".txt":
            _with_pip(lock, folder)
        else:
            _with_npm(lock.parent, folder)
    except (OSError, subprocess.SubprocessError) as error:
        return f"clients: SKIPPED {folder.name}: {error}"
    (folder / "complete").touch()
    return ""


def _with_pip(lock: Path, folder: Path) -> None:
    _run(sys.executable, "-m", "venv", str(folder))
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    _run(str(folder / "bin/python"), "-m", "pip", *quiet, "install", "--no-deps", "-r", str(lock))


def _with_npm(locked: Path, folder: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(locked / name, folder)
    _run("npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder))
    if locked.name in WITH_NODE:
        install_node(folder / "node")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=INSTALL_S_MAX)


if __name__ == "__main__":
    sys.exit(main())
