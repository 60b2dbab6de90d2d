"""The desk's own truth: an append-only table of what really happened, written with the change itself.

It is the oracle of simulation and kill tests: it knows nothing of Comptroller's tables, and triggers refuse
any change to what it holds.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

__all__ = ["LEDGER_SCHEMA", "DeskEffect", "EffectKind", "append", "effects", "faults_in_sums"]

LEDGER_SCHEMA = """
CREATE TABLE effects (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    kind TEXT NOT NULL,
    effect_key TEXT NOT NULL,
    refund_id TEXT NOT NULL,
    invoice_id TEXT NOT NULL,
    amount_cents INTEGER NOT NULL
);
CREATE INDEX effects_by_key ON effects (effect_key);
CREATE TRIGGER effects_no_update BEFORE UPDATE ON effects BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER effects_no_delete BEFORE DELETE ON effects BEGIN SELECT RAISE(ABORT, 'append only'); END;
"""


class EffectKind(StrEnum):
    REFUND_ISSUED = "refund_issued"
    REFUND_CANCELLED = "refund_cancelled"


@dataclass(frozen=True, slots=True)
class DeskEffect:
    """One thing that happened to money, in order of `seq`. `at` is UTC, RFC 3339."""

    seq: int
    at: str
    kind: EffectKind
    effect_key: str
    refund_id: str
    invoice_id: str
    amount_cents: int


def append(
    connection: sqlite3.Connection,
    *,
    at: str,
    kind: EffectKind,
    effect_key: str,
    refund_id: str,
    invoice_id: str,
    amount_cents: int,
) -> None:
    """Add one line, in the transaction that `connection` has open."""
    connection.execute(
        "INSERT INTO effects (at, kind, effect_key, refund_id, invoice_id, amount_cents) VALUES (?, ?, ?, ?, ?, ?)",
        (at, kind.value, effect_key, refund_id, invoice_id, amount_cents),
    )


def effects(path: Path, effect_key: str | None = None) -> list[DeskEffect]:
    """All effects of the desk at `path`, oldest first, or those of one call. Empty when there is no file."""
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as connection:
        rows = connection.execute(
            "SELECT seq, at, kind, effect_key, refund_id, invoice_id, amount_cents FROM effects "
            "WHERE ?1 IS NULL OR effect_key = ?1 ORDER BY seq",
            (effect_key,),
        ).fetchall()
    return [DeskEffect(row[0], row[1], EffectKind(row[2]), *row[3:]) for row in rows]


_SUM_CHECKS = {
    "paid is not the sum of the payments": """
        SELECT i.id FROM invoices i WHERE i.paid_cents <>
        (SELECT COALESCE(SUM(amount_cents), 0) FROM payments WHERE invoice_id = i.id)""",
    "refunded is not the sum of the refunds in force": """
        SELECT i.id FROM invoices i WHERE i.refunded_cents <>
        (SELECT COALESCE(SUM(amount_cents), 0) FROM refunds WHERE invoice_id = i.id AND status = 'issued')""",
    "the refunds in force are not what the ledger says": """
        SELECT i.id FROM invoices i WHERE i.refunded_cents <>
        (SELECT COALESCE(SUM(CASE kind WHEN 'refund_issued' THEN amount_cents ELSE -amount_cents END), 0)
         FROM effects WHERE invoice_id = i.id)""",
}


def faults_in_sums(path: Path) -> list[str]:
    """Where the desk's own sums do not reconcile: one sentence per invoice, empty when all is well."""
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as connection:
        return [
            f"{row[0]}: {sentence}"
            for sentence, query in _SUM_CHECKS.items()
            for row in connection.execute(query).fetchall()
        ]
