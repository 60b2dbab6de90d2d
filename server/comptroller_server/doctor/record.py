"""The record as it lies: its newest time against the clock, and its checkpoints against it. Opened for reading only."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comptroller_audit.checkpoint import CheckpointFile, log_origin, open_checkpoint, vkey_of
from comptroller_audit.errors import AuditError
from comptroller_audit.sealing import KeyRing
from comptroller_policy.observing import Mode, Span
from comptroller_server.config.model import Config
from comptroller_server.doctor.disk import existing
from comptroller_server.doctor.lines import Line, Patient, ok, problem, warning
from comptroller_server.doctor.session import reading_session
from comptroller_server.installation import TENANT, Installation
from comptroller_server.reporting.observed import observing_text

__all__ = ["checkpoints", "clock", "mode"]

CLOCK_S_BEHIND = 5.0
"""Two machines may differ by so much."""
_OBSERVING = "SELECT started_ms, ended_ms FROM observing WHERE tenant = "
_HEAD = "SELECT size, record_ms FROM log_head WHERE tenant = "


def clock(patient: Patient, now_ms: int | None = None) -> Iterator[Line]:
    """Whether the clock is where the newest record says it has been."""
    now = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    head = _head(patient)
    if head is None:
        yield ok("clock", f"{_utc(now)}; there is no record yet to compare it with")
        return
    _, newest = head
    found = f"it is {_utc(now)}, and the newest record is of {_utc(newest)}"
    means = "days and hours of budgets, approvals and retention go by this clock"
    jump_s = patient.config.limits.clock_jump_s_max if patient.config is not None else 0
    if newest - now > CLOCK_S_BEHIND * 1000:
        yield problem(
            "clock", f"{found}: the clock is behind the record", f"{means}; it was set back, or was wrong before", "set the clock (NTP)"
        )  # fmt: skip
    elif now - newest > jump_s * 1000:
        yield warning(
            "clock",
            found,
            f"either nothing was done for long, or the clock jumped ahead; {means}",
            "look whether the clock is right",
        )
    else:
        yield ok("clock", found)


def mode(patient: Patient, now_ms: int | None = None) -> Iterator[Line]:
    """Whether rules are only watched, and until when."""
    if patient.config is None or patient.config.mode is Mode.ENFORCE:
        return
    now = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    head, row = _head(patient), _asked(patient, _OBSERVING)
    span = Span(int(row[0]), bool(row[1])) if row else None
    text = observing_text(patient.config.mode, span, head[1] if head is not None else 0, now)
    yield warning(
        "mode",
        text or "",
        "what it lets pass is in the record",
        "write `mode: enforce` when you have seen enough",
    )


def checkpoints(patient: Patient) -> Iterator[Line]:
    """Whether checkpoints lie elsewhere than what they prove, and whether the record still reaches them."""
    config, database = patient.config, patient.database
    if config is None:
        return
    files = config.store.checkpoint_files
    if not files:
        yield warning(
            "checkpoints",
            "none are kept",
            "entries cut off the end of the log would not be noticed",
            "add `store.checkpoints`",
        )
    for file in files:
        if database is not None and _device(file) == _device(database):
            yield warning(
                "checkpoints",
                f"{file} is on the same disk as the database",
                "who loses or rewrites one, loses or rewrites both",
                "copy it elsewhere regularly, with the key of `comptroller audit vkey`, or name a file on another disk",
            )
        else:
            yield ok("checkpoints", f"{file} is on another disk than the database")
    yield from _reached(patient, config)


def _reached(patient: Patient, config: Config) -> Iterator[Line]:
    head = _head(patient)
    if head is None or not config.store.keys_file.exists():
        return
    ring = KeyRing.load(config.store.keys_file)
    origin = log_origin(Installation(config).log_name, TENANT)
    for file in config.store.checkpoint_files:
        with contextlib.suppress(AuditError):  # another key's, or torn: `audit verify` tells
            note = CheckpointFile(file).newest(origin)
            if note is not None and (signed := open_checkpoint(note, vkey_of(ring.signer)).size) > head[0]:
                yield problem(
                    "checkpoints",
                    f"the store has {head[0]} entries, and {file} holds a signed checkpoint of {signed}",
                    "the store is an old copy, or was cut; the server does not start on it",
                    "bring the newer store back, or move that file away to go on with this one all the same",
                )


def _head(patient: Patient) -> tuple[int, int] | None:
    """Size and newest time (ms) of the log; None when there is none, or it is too old a store to tell."""
    if patient.config is None:
        return None
    row = _asked(patient, _HEAD)
    return (int(row[0]), int(row[1])) if row else None


def _asked(patient: Patient, query: str) -> Any:
    """The first row of `query`, which ends where the tenant is named; None without one, and without such a table."""
    database = patient.database
    if database is None:
        return _asked_of_postgres(patient.config, query) if patient.config is not None else None
    if not database.is_file():
        return None
    # Without a log beside it nobody is writing, and opened in any other way SQLite would make one.
    written = database.with_name(f"{database.name}-wal").exists()
    uri = f"{database.absolute().as_uri()}?mode=ro{'' if written else '&immutable=1'}"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=2)) as connection:
        try:
            return connection.execute(f"{query}?", (TENANT,)).fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return None
            raise


def _asked_of_postgres(config: Config, query: str) -> Any:
    import psycopg

    try:
        with reading_session(config) as connection:
            return connection.execute(f"{query}%s".encode(), (TENANT,)).fetchone()
    except psycopg.Error:  # told where the server is asked for its version; or there is no table yet
        return None


def _device(path: Path) -> int:
    return existing(path).stat().st_dev


def _utc(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(ms / 1000))
