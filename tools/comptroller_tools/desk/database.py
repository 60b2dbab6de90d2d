"""Where the desk's file is, and one shared connection to it per process.

The file is `COMPTROLLER_DESK`, else `desk.db` in the working directory. It is made on first use from
`COMPTROLLER_DESK_SEED` (default 1). Plain sqlite3 in WAL mode; every write is one immediate transaction.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sqlite3
import tempfile
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

from comptroller_tools.desk.records import DESK_VERSION, generate
from comptroller_tools.errors import NotDone

__all__ = ["close_all", "desk_path", "ensure", "reading", "writing"]

BUSY_TIMEOUT_S = 10.0


@dataclass(slots=True)
class _Shared:
    connection: sqlite3.Connection
    inode: int
    lock: threading.Lock = field(default_factory=threading.Lock)


_shared: dict[Path, _Shared] = {}
_opening = threading.Lock()


def desk_path() -> Path:
    """The desk's file, absolute; read from the environment on every call."""
    return Path(os.environ.get("COMPTROLLER_DESK") or Path.cwd() / "desk.db").resolve()


def ensure(path: Path, seed: int) -> None:
    """Make the file from `seed` unless it is there. Safe when several processes come first at once."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".desk-") as folder:
        fresh = Path(folder) / "desk.db"
        generate(fresh, seed)
        # A link never replaces a file: who comes second uses the first one's records.
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)


@contextlib.contextmanager
def reading(path: Path | None = None) -> Generator[sqlite3.Connection]:
    """The connection, for selects."""
    shared = _open(path or desk_path())
    with shared.lock:
        yield shared.connection


@contextlib.contextmanager
def writing(path: Path | None = None, *, keep: bool = True) -> Generator[sqlite3.Connection]:
    """One immediate transaction: committed when the block ends (with `keep`), rolled back when it raises."""
    shared = _open(path or desk_path())
    with shared.lock:
        shared.connection.execute("BEGIN IMMEDIATE")
        try:
            yield shared.connection
        except BaseException:
            shared.connection.execute("ROLLBACK")
            raise
        shared.connection.execute("COMMIT" if keep else "ROLLBACK")


def close_all() -> None:
    """Close every connection of this process."""
    with _opening:
        for shared in _shared.values():
            with shared.lock:
                shared.connection.close()
        _shared.clear()


def _open(path: Path) -> _Shared:
    with _opening:
        ensure(path, int(os.environ.get("COMPTROLLER_DESK_SEED") or 1))
        inode = path.stat().st_ino
        shared = _shared.get(path)
        if shared is not None and shared.inode == inode:
            return shared
        if shared is not None:  # the file was replaced under us
            with shared.lock:
                shared.connection.close()
        connection = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        if connection.execute("PRAGMA user_version").fetchone()[0] != DESK_VERSION:
            connection.close()
            raise NotDone(
                "The desk's file is from another version; nothing was changed. Its operator must move it away, "
                "then a new one is made."
            )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        _shared[path] = _Shared(connection, inode)
        return _shared[path]


atexit.register(close_all)
