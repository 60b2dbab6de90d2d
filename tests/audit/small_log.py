# the tampering is SQL put together from fixed names
"""A small log in a SQLite store, signed at some sizes, and ways to tamper with it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine
from sqlmodel import Session, SQLModel

from comptroller_audit.checkpoint import CheckpointFile, log_origin, sign_checkpoint, vkey_of
from comptroller_audit.findings import Report
from comptroller_audit.log import Frontier, LogEntry, LogHead, LogNode, LogPayload, leaf_hash
from comptroller_audit.packets import LogRecord, compose
from comptroller_audit.sealing import KeyRing
from comptroller_audit.verify import verify
from comptroller_audit.vocabulary import RecordType

__all__ = ["ENTRIES", "SIGNED", "TENANT", "Store", "append", "build", "copy_of", "rewrite"]

TENANT = "local"
ENTRIES = 13
SIGNED = (4, 9)
"""Sizes at which a checkpoint was signed."""


@dataclass(frozen=True)
class Store:
    folder: Path
    vkey: str

    @property
    def file(self) -> Path:
        return self.folder / "store.db"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.file}"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def receipts(self) -> Path:
        return self.folder / "receipts"

    @property
    def ring(self) -> Path:
        return self.folder / "keys.json"

    def sql(self, *statements: str | tuple[str, tuple[Any, ...]]) -> None:
        connection = sqlite3.connect(self.file)
        with connection:
            for statement in statements:
                text, values = statement if isinstance(statement, tuple) else (statement, ())
                assert connection.execute(text, values).rowcount != 0, f"the tampering did nothing: {text}"
        connection.close()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.file)
        found = connection.execute(query).fetchall()
        connection.close()
        return found

    def verify(self, **given: Any) -> Report:
        evidence: dict[str, Any] = {"checkpoints": self.checkpoints, "vkey": self.vkey, "ring": self.ring}
        return verify(self.url, **(evidence | given))


def append(url: str, ring: KeyRing, entries: int, tenant: str = TENANT) -> Iterator[tuple[Frontier, bytes]]:
    """Write `entries` more entries; yields the frontier and the leaf after each."""
    engine = create_engine(url)
    SQLModel.metadata.create_all(engine, tables=[_table(t) for t in (LogHead, LogEntry, LogNode, LogPayload)])
    with Session(engine) as session:
        head = session.get(LogHead, tenant)
        if head is None:
            head = LogHead(tenant=tenant, size=0, frontier="", record_ms=0, switch_seq=0, bundle="b")
            session.add(head)
        frontier = Frontier.decode(head.size, head.frontier)
        for index in range(frontier.size, frontier.size + entries):
            packet: dict[str, Any] = {"v": 1, "tool": "issue_refund", "number": index, "text": "é"}
            record = LogRecord(RecordType.ACTION, packet, call=f"c{index}", arguments=b"{}")
            entry = compose(ring, tenant, index, 1_700_000_000_000 + index // 3, record)
            for level, at, value in frontier.append(entry.leaf):
                session.add(LogNode(tenant=tenant, level=level, idx=at, hash=value))
            sealed = entry.sealed
            session.add(LogEntry(tenant=tenant, idx=index, envelope=entry.envelope, leaf=entry.leaf))
            session.add(
                LogPayload(
                    tenant=tenant,
                    idx=index,
                    key_id=sealed.key_id,
                    wrapped=sealed.wrapped,
                    sealed=sealed.sealed,
                )
            )
            head.size, head.frontier = frontier.size, frontier.encode()
            head.record_ms = 1_700_000_000_000 + index // 3
            yield frontier, entry.leaf
        session.commit()
    engine.dispose()


def _table(model: type[SQLModel]) -> Any:
    return model.__table__  # type: ignore[attr-defined]  # SQLModel adds it


def build(folder: Path) -> Store:
    ring = KeyRing.create(folder / "keys.json")
    store = Store(folder, vkey_of(ring.signer))
    sink = CheckpointFile(store.checkpoints)
    with store.receipts.open("w") as receipts:
        for frontier, leaf in append(store.url, ring, ENTRIES):
            if frontier.size in SIGNED:
                sink.append(
                    sign_checkpoint(
                        log_origin("store-1", TENANT), frontier.size, frontier.root(), ring.signer
                    )
                )
            if frontier.size == ENTRIES:
                receipt = {"log": TENANT, "index": frontier.size - 1, "leaf": leaf.hex()}
                receipts.write(json.dumps(receipt) + "\n")
    return store


def copy_of(original: Store, folder: Path) -> Store:
    shutil.copytree(original.folder, folder, dirs_exist_ok=True)
    return replace(original, folder=folder)


def rewrite(store: Store, start: int, change: Callable[[int, dict[str, Any]], None]) -> None:
    """What an attacker with the database can do: change envelopes and make every hash fit again."""
    frontier = Frontier()
    changes: list[tuple[str, tuple[Any, ...]]] = [("DELETE FROM log_node", ())]
    for index, envelope in store.rows("SELECT idx, envelope FROM log_entry ORDER BY idx"):
        if index >= start:
            fields = json.loads(envelope)
            change(index, fields)
            envelope = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        leaf = leaf_hash(envelope.encode())
        changes.append(("UPDATE log_entry SET envelope = ?, leaf = ? WHERE idx = ?", (envelope, leaf, index)))
        for level, at, value in frontier.append(leaf):
            changes.append(("INSERT INTO log_node VALUES (?, ?, ?, ?)", (TENANT, level, at, value)))
    changes.append(("UPDATE log_head SET size = ?, frontier = ?", (frontier.size, frontier.encode())))
    store.sql(*changes)
