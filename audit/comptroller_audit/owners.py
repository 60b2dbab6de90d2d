"""Owners: each serving process holds a kernel lock for life; only calls whose owner's lock is free are recovered.

SQLite: `flock` on a file of its own. Postgres: a session advisory lock on a connection of its own. The lock goes with
the process however it dies. A forked child that does not exec keeps its parent's `flock`: spawn only, never fork.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel

from comptroller_audit.ambient import Clock, Ids
from comptroller_audit.database import Database, Relation
from comptroller_audit.errors import StoreUnavailable
from comptroller_audit.unit import Key, State, Stop

__all__ = ["OWNERS", "Acknowledge", "Owner", "OwnerLock", "OwnerLocks", "OwnerRow", "owner_locks"]

PING_S = 1.0
"""How often a Postgres owner proves that its lock's connection lives."""
LEASE_S = 3.0
"""How long after the last proof a Postgres owner still counts as holding its lock."""


class OwnerRow(SQLModel, table=True):
    """A serving process: the switch sequence it has acknowledged, and its counts at that moment."""

    __tablename__ = "owners"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    switch_seq: int
    waiting: int
    dispatched: int
    done: int
    at_ms: int = Field(sa_type=BigInteger)


OWNERS = Relation(OwnerRow)


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Part: this owner has seen `switch_seq`. Counts: committed and not dispatched, dispatched, done since start."""

    owner: str
    switch_seq: int
    waiting: int
    dispatched: int
    done: int

    def keys(self) -> Iterable[Key]:
        return [(OWNERS, self.owner)]

    def apply(self, state: State) -> Stop | None:
        state.put(
            OWNERS,
            self.owner,
            {
                "switch_seq": self.switch_seq,
                "waiting": self.waiting,
                "dispatched": self.dispatched,
                "done": self.done,
                "at_ms": state.now_ms,
            },
        )
        return None


class OwnerLock(Protocol):
    """A held lock."""

    def held(self) -> bool:
        """Whether this process surely still holds it; checked immediately before each dispatch."""
        ...

    def release(self) -> None: ...


class OwnerLocks(Protocol):
    """Takes and tests owner locks of one store."""

    def take(self, owner: str) -> OwnerLock: ...

    def is_free(self, owner: str) -> bool:
        """Whether nobody holds the lock of `owner`: its process is gone."""
        ...


class Owner:
    """This process as the owner of calls. After a lost lock (Postgres restarted) it goes on under a new id.

    Raises `StoreUnavailable` when no lock can be taken.
    """

    def __init__(self, locks: OwnerLocks, ids: Ids) -> None:
        self._locks = locks
        self._ids = ids
        self.id = ids.uuid7()
        self._lock = locks.take(self.id)
        self._former: set[str] = set()

    def held(self) -> bool:
        return self._lock.held()

    def is_me(self, owner: str) -> bool:
        """Whether `owner` is this process, now or before a renewal: its calls are not for recovery to take."""
        return owner == self.id or owner in self._former

    def renew(self) -> None:
        """Take a new lock under a new id; call it when the old one is lost and no call is in flight."""
        fresh = self._ids.uuid7()
        lock = self._locks.take(fresh)
        self._lock.release()
        self._former.add(self.id)
        self.id, self._lock = fresh, lock

    def release(self) -> None:
        self._lock.release()


def owner_locks(database: Database, clock: Clock) -> OwnerLocks:
    return (
        _FileLocks(Path(f"{database.path}.owners")) if database.is_sqlite else _AdvisoryLocks(database, clock)
    )


class _FileLocks:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, owner: str) -> OwnerLock:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(self._folder / owner, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            raise StoreUnavailable(f"Owner {owner} is already running.") from error
        return _FileLock(fd, self._folder / owner)

    def is_free(self, owner: str) -> bool:
        try:
            fd = os.open(self._folder / owner, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        finally:
            os.close(fd)


class _FileLock:
    def __init__(self, fd: int, path: Path) -> None:
        self._fd: int | None = fd
        self._path = path

    def held(self) -> bool:
        """A lock file that was removed or replaced holds nothing: others would take this owner for dead."""
        if self._fd is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self._path))
        except OSError:
            return False

    def release(self) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._fd)
            self._fd = None


def _lock_number(owner: str) -> int:
    return int.from_bytes(
        hashlib.sha256(f"comptroller-owner:{owner}".encode()).digest()[:8], "big", signed=True
    )


def _try_lock(connection: Any, owner: str) -> bool:
    cursor = connection.cursor()
    cursor.execute("SELECT pg_try_advisory_lock(%s)", (_lock_number(owner),))
    return bool(cursor.fetchone()[0])


def _unlock(connection: Any, owner: str) -> None:
    """Give the lock back now: a closed connection's lock goes only when the server notices that it was closed."""
    connection.cursor().execute("SELECT pg_advisory_unlock(%s)", (_lock_number(owner),))


class _AdvisoryLocks:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._free_since: dict[str, float] = {}

    def take(self, owner: str) -> OwnerLock:
        connection = self._database.connect()
        if not _try_lock(connection, owner):
            connection.close()
            raise StoreUnavailable(f"Owner {owner} is already running.")
        return _AdvisoryLock(connection, owner, self._clock)

    def is_free(self, owner: str) -> bool:
        """Free only after two looks more than a lease apart, so that a cut-off owner has stopped dispatching."""
        connection = self._database.connect()
        try:
            free = _try_lock(connection, owner)
            if free:
                _unlock(connection, owner)
        finally:
            connection.close()
        if not free:
            self._free_since.pop(owner, None)
            return False
        first_seen = self._free_since.setdefault(owner, self._clock.monotonic())
        return self._clock.monotonic() - first_seen > LEASE_S


class _AdvisoryLock:
    """Pings its own connection; a ping that fails ends the lease at once."""

    def __init__(self, connection: Any, owner: str, clock: Clock) -> None:
        self._connection = connection
        self._owner = owner
        self._clock = clock
        self._proved_at = clock.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ping, name="comptroller-owner", daemon=True)
        self._thread.start()

    def held(self) -> bool:
        return not self._ended.is_set() and self._clock.monotonic() - self._proved_at < LEASE_S

    def release(self) -> None:
        self._ended.set()
        self._thread.join(timeout=2 * PING_S)
        with contextlib.suppress(Exception):  # a connection that is gone took the lock with it
            _unlock(self._connection, self._owner)
        self._connection.close()

    def _ping(self) -> None:
        while not self._ended.wait(PING_S):
            asked_at = self._clock.monotonic()
            try:
                self._connection.cursor().execute("SELECT 1")
            except Exception:  # noqa: BLE001 - whatever ended the connection ended the lock with it
                self._ended.set()
                return
            self._proved_at = asked_at
