"""The disk under the store: room, kind, and whether what is written is really there."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from comptroller_audit.database import NETWORK_FILE_SYSTEMS, file_system_of
from comptroller_server.doctor.lines import Line, Patient, ok, problem, warning

__all__ = ["Sync", "existing", "kind", "room", "synced"]

MIB = 1024 * 1024
FREE_MIB_MIN = 64
"""Below it a store can be full within minutes, and then nothing with a side effect is done."""
FREE_MIB_LOW = 1024
SYNC_MS_SLOW = 50.0
"""Each governed change waits for two of these."""
SYNC_TRIES = 5
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})

Sync = Callable[[int], None]


def _folder(patient: Patient) -> Path:
    database = patient.database
    return existing(database.parent if database is not None else patient.data_dir)


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(one for one in (path, *path.parents) if one.exists())


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def room(patient: Patient, free_bytes: Callable[[Path], int] = _free) -> Iterator[Line]:
    folder = _folder(patient)
    free = free_bytes(folder) // MIB
    found = f"{free} MiB free at {folder}"
    means = "a store that cannot write stops everything that has a side effect"
    if free < FREE_MIB_MIN:
        yield problem("disk", found, means, "make room, or move the data directory (--data-dir)")
    elif free < FREE_MIB_LOW:
        yield warning("disk", found, means, "make room soon, or set `logging.retention_days`")
    else:
        yield ok("disk", found)


def kind(patient: Patient, kind_of: Callable[[Path], str] = file_system_of) -> Iterator[Line]:
    folder = _folder(patient)
    named = kind_of(folder)
    found = f"{folder} is on {named or 'a file system that this machine does not name'}"
    if named in NETWORK_FILE_SYSTEMS:
        yield problem(
            "file system",
            found,
            "locks do not hold there, so a store on SQLite is refused",
            "put it on a local disk (--data-dir, or `store.url`), or use Postgres",
        )
    elif named in _IN_MEMORY:
        yield warning(
            "file system",
            found,
            "it is memory: records, keys and credentials are gone after a restart",
            "put the data directory on a disk (--data-dir)",
        )
    else:
        yield ok("file system", found)


def synced(
    patient: Patient, sync: Sync = os.fsync, now_s: Callable[[], float] = time.perf_counter
) -> Iterator[Line]:
    """Write and sync a file without a name (or one that is gone at once), and time it."""
    folder = _folder(patient)
    if not os.access(folder, os.W_OK):
        yield problem(
            "fsync", f"{folder} is not writable", "nothing can be recorded, so nothing is done", f"give this account {folder}"
        )  # fmt: skip
        return
    try:
        slowest_ms = _slowest_ms(folder, sync, now_s)
    except OSError as error:
        yield problem(
            "fsync",
            f"a write to {folder} could not be made durable ({error.strerror})",
            "no record can be relied on there",
            "look at the disk, or move the data directory (--data-dir)",
        )
        return
    found = f"a durable write at {folder} takes {slowest_ms:.1f} ms at most"
    if slowest_ms > SYNC_MS_SLOW:
        yield warning(
            "fsync",
            found,
            "each governed change waits for two such writes",
            "use a quicker disk for the store",
        )
    else:
        yield ok("fsync", found)


def _slowest_ms(folder: Path, sync: Sync, now_s: Callable[[], float]) -> float:
    slowest = 0.0
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(SYNC_TRIES):
            file.write(b"\0" * 4096)
            file.flush()
            begun = now_s()
            sync(file.fileno())
            slowest = max(slowest, now_s() - begun)
    return slowest * 1000
