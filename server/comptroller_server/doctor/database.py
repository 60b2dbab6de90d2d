"""The SQLite file itself: whether its pages and indexes hang together. Opened for reading only."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Generator, Iterator
from pathlib import Path

from comptroller_server.doctor.lines import Line, Patient, ok, problem

__all__ = ["opened_to_read", "whole"]

WHOLE_BYTES_MAX = 1024 * 1024 * 1024
"""In a larger file the tables of the log are left to `audit verify`, which reads every entry: they are nearly all of it."""
FAULTS_TOLD_MAX = 3
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'log\\_%' ESCAPE '\\' ORDER BY name"
_DO = (
    "stop the server, keep a copy of the file as it is, and bring the newest backup back with "
    "`comptroller db restore`; docs/operations.md tells it step by step"
)
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_MEANS = "what is read there may be wrong or missing, and what touches it is refused"


@contextlib.contextmanager
def opened_to_read(database: Path) -> Generator[sqlite3.Connection]:
    """Without a log beside it nobody is writing, and opened in any other way SQLite would make one."""
    written = database.with_name(f"{database.name}-wal").exists()
    uri = f"{database.absolute().as_uri()}?mode=ro{'' if written else '&immutable=1'}"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=2)) as connection:
        yield connection


def whole(patient: Patient, whole_bytes: int = WHOLE_BYTES_MAX) -> Iterator[Line]:
    """SQLite's own check of every page and index; nothing on another database."""
    database = patient.database
    if database is None or not database.is_file():
        return
    is_large = database.stat().st_size > whole_bytes
    try:
        faults = _faults(database, is_large)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGED:
            raise
        faults = [str(error)]
    if faults:
        told = "; ".join(faults[:FAULTS_TOLD_MAX])
        yield problem("database", f"{database} is damaged: {told}", _MEANS, _DO)
    elif is_large:
        yield ok("database", f"{database} is whole but for the log, which `comptroller audit verify` reads")
    else:
        yield ok("database", f"{database} is whole")


def _faults(database: Path, is_large: bool) -> list[str]:
    with opened_to_read(database) as connection:
        tables = [str(row[0]) for row in connection.execute(_TABLES)] if is_large else [str(FAULTS_TOLD_MAX)]
        rows = [
            row
            for table in tables
            for row in connection.execute(f"PRAGMA integrity_check({table})").fetchall()
        ]
    return [str(row[0]).strip() for row in rows if row[0] != "ok"]
