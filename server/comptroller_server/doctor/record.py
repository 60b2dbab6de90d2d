"""The record as it lies: its newest time against the clock, and its checkpoints against it. Opened for reading only."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comptroller_audit.checkpoint import Checkpoint, CheckpointFile, log_origin
from comptroller_audit.errors import CheckpointError, KeyRingError
from comptroller_audit.log import inclusion_proof, verify_inclusion
from comptroller_audit.own_keys import demand_claim_key, demand_opens
from comptroller_audit.sealing import KeyRing
from comptroller_policy.observing import Mode, Span
from comptroller_server.config.model import Config
from comptroller_server.doctor.database import opened_to_read
from comptroller_server.doctor.disk import existing
from comptroller_server.doctor.lines import Line, Patient, ok, problem, warning
from comptroller_server.doctor.session import reading_session
from comptroller_server.installation import TENANT, Installation
from comptroller_server.reporting.observed import observing_text
from comptroller_server.upkeep.checkpoints import newest_signed

__all__ = ["checkpoints", "clock", "keys", "mode"]

CLOCK_S_BEHIND = 5.0
"""Two machines may differ by so much."""
_OBSERVING = "SELECT started_ms, ended_ms FROM observing WHERE tenant = "
_PAYLOAD = "SELECT idx, key_id, wrapped, sealed FROM log_payload WHERE tenant = "
_NEWEST = " ORDER BY idx DESC LIMIT 1"
_CLAIM = "SELECT claim FROM own_keys WHERE tenant = "
_LEAF = "SELECT leaf FROM log_entry WHERE idx = {:d} AND tenant = "
_NODE = "SELECT hash FROM log_node WHERE level = {:d} AND idx = {:d} AND tenant = "
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


def keys(patient: Patient) -> Iterator[Line]:
    """Whether the key file is the one that the record was written with."""
    config = patient.config
    newest = _asked(patient, _PAYLOAD, _NEWEST) if config is not None else None
    if config is None or newest is None:
        return
    path = config.store.keys_file
    claim = _asked(patient, _CLAIM)
    try:
        ring = KeyRing.load(path) if path.exists() else None
        demand_opens(newest, TENANT, path, ring)
        if claim is not None and ring is not None:
            demand_claim_key(str(claim[0]), TENANT, path, ring)
    except KeyRingError as error:
        yield problem("keys", str(error), "the server does not start", "bring the right key file back")
    else:
        yield ok("keys", f"{path} is the one that the store was written with")


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
    if not config.store.keys_file.exists():
        return
    entries, _ = _head(patient) or (0, 0)  # an emptied file has none, whatever was signed
    ring = KeyRing.load(config.store.keys_file)
    origin = log_origin(Installation(config).log_name, TENANT)
    for file in config.store.checkpoint_files:
        try:
            newest = newest_signed(CheckpointFile(file), origin, ring, entries)
        except CheckpointError as error:
            yield problem(
                "checkpoints",
                f"{file} does not say how far the log was signed: {error}",
                "the store may be an old copy; the server does not start on it",
                "bring back the key file, or the checkpoint file, that belongs to it; else `comptroller db adopt`",
            )
            continue
        if newest is not None and newest.size > entries:
            yield problem(
                "checkpoints",
                f"the store has {entries} entries, and {file} holds a signed checkpoint of {newest.size}",
                "the store is an old copy, or was cut; the server does not start on it",
                "bring the newer store back; else `comptroller db adopt`",
            )
        elif newest is not None and not _begins_with(patient, newest):
            yield problem(
                "checkpoints",
                f"the log does not begin with the {newest.size} entries that {file} holds a signed checkpoint of",
                "the store is an old copy that somebody went on with, or was changed; the server does not start on it",
                "bring the newer store back; else `comptroller db adopt`",
            )


def _begins_with(patient: Patient, signed: Checkpoint) -> bool:
    """Whether the stored tree leads from the last signed entry to the root that was signed."""

    def node(level: int, index: int) -> bytes:
        query = _NODE.format(level, index) if level else _LEAF.format(index)
        row = _asked(patient, query)
        return bytes(row[0]) if row else b""

    last = signed.size - 1
    proof = inclusion_proof(node, last, signed.size) if signed.size else []
    return not signed.size or verify_inclusion(node(0, last), last, signed.size, proof, signed.root)


def _head(patient: Patient) -> tuple[int, int] | None:
    """Size and newest time (ms) of the log; None when there is none, or it is too old a store to tell."""
    if patient.config is None:
        return None
    row = _asked(patient, _HEAD)
    return (int(row[0]), int(row[1])) if row else None


def _asked(patient: Patient, query: str, then: str = "") -> Any:
    """The first row of `query`, which ends where the tenant is named, and what comes `then`; None without one, and without such a table."""
    database = patient.database
    if database is None:
        return _asked_of_postgres(patient.config, query, then) if patient.config is not None else None
    if not database.is_file():
        return None
    with opened_to_read(database) as connection:
        try:
            return connection.execute(f"{query}?{then}", (TENANT,)).fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return None
            raise


def _asked_of_postgres(config: Config, query: str, then: str) -> Any:
    import psycopg

    try:
        with reading_session(config) as connection:
            return connection.execute(f"{query}%s{then}".encode(), (TENANT,)).fetchone()
    except psycopg.Error:  # told where the server is asked for its version; or there is no table yet
        return None


def _device(path: Path) -> int:
    return existing(path).stat().st_dev


def _utc(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(ms / 1000))
