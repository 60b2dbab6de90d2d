"""What an error of the database means for whoever runs it, and what to do."""

from __future__ import annotations

import errno
import resource
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

from comptroller_audit.errors import StoreUnavailable

__all__ = ["Health", "advice_on", "is_damage", "room_of"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_READ_ONLY = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN})
_DAMAGED_FILE = "The file is damaged: stop the server, keep a copy of it, and bring a backup back (`comptroller db restore`)."
_MAKE_ROOM = "The disk is full: make room; nothing has to be restarted."


def _primary(error: BaseException) -> int | None:
    """SQLite's primary result code, https://www.sqlite.org/rescode.html; None for another's error."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None


def is_damage(error: BaseException) -> bool:
    """Whether the file itself is broken, so that trying again does not help."""
    if isinstance(error, sqlite3.OperationalError) and _primary(error) is None:
        return "decode to UTF-8" in str(error)  # the driver's own words, and it has no code for them
    return _primary(error) in _DAMAGED


def _is_too_many(error: BaseException) -> bool:
    """too_many_connections, PostgreSQL, appendix A; of a connection that failed the driver knows only the words."""
    words = ("too many connections", "too many clients already", "remaining connection slots are reserved")
    return getattr(error, "sqlstate", None) == "53300" or any(one in str(error) for one in words)


def advice_on(error: BaseException) -> str:
    """One sentence that says what to do; empty where only the error itself is known."""
    code = _primary(error)
    if code == sqlite3.SQLITE_FULL or (isinstance(error, OSError) and error.errno in _FULL):
        return _MAKE_ROOM
    if getattr(error, "sqlstate", None) == "53100":  # disk_full, PostgreSQL, appendix A
        return _MAKE_ROOM
    if _is_too_many(error):
        return (
            "Postgres takes no more connections: end some, or raise its limit; nothing has to be restarted."
        )
    if getattr(error, "sqlstate", None) == "25006":  # read_only_sql_transaction
        return (
            "This Postgres only reads. If it is a standby, let store.url name the one that writes; if it was set so, "
            "set default_transaction_read_only off, and nothing has to be restarted."
        )
    if is_damage(error):
        return _DAMAGED_FILE
    if code == sqlite3.SQLITE_IOERR:
        return "The disk refuses to read or write: look at its room and its health (`comptroller doctor`)."
    if code in _READ_ONLY:
        return "The file or its folder cannot be written by this account."
    return ""


def room_of(path: Path) -> int:
    """Bytes that the disk, and the kernel's limit on the size of this process's files, leave the database at `path`."""
    free = shutil.disk_usage(path.parent).free
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit == resource.RLIM_INFINITY:
        return free
    sizes = [file.stat().st_size for file in (path, Path(f"{path}-wal")) if file.exists()]
    return min(free, limit - max(sizes, default=0))


class Health:
    """What a process has learned of its database. `file_id` tells one file from another put in its place."""

    def __init__(self, file_id: Callable[[], tuple[int, int] | None]) -> None:
        self._file_id = file_id
        self._damaged: tuple[int, int] | None = None
        self.fails = False
        """Whether the last batch could not be written: a full disk, a damaged file, a lost server.

        A small write that fits says nothing about a call's: only one with an entry of the log ends it, or a look at
        the room there is (`room_of`)."""
        self.wrote_s = 0.0
        """When a batch was last made durable, by the clock's `monotonic`."""

    @property
    def is_damaged(self) -> bool:
        """Whether a page that was met is broken; for good, because others can still be read and written."""
        return self._damaged is not None and self._damaged == self._file_id()

    def demand_whole(self) -> None:
        """Raises `StoreUnavailable` once damage was met: what is broken takes no more writes, which could spread it."""
        if self.is_damaged:
            raise StoreUnavailable(f"The store takes no writes any more. Nothing was done. {_DAMAGED_FILE}")

    def met(self, error: BaseException) -> None:
        """Note what a read or a write ran into."""
        if is_damage(error):
            self._damaged = self._file_id()
