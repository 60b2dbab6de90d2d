"""JSON lines with proofs: what `comptroller audit check-export` checks far from the store (format in docs/export.md)."""

from __future__ import annotations

import json

from comptroller_audit.checkpoint import Checkpoint, log_origin, vkey_of, vkey_of_known
from comptroller_audit.exported import FORMAT
from comptroller_audit.store import Reader
from comptroller_server.exporting.records import Exported
from comptroller_server.installation import TENANT, Installation
from comptroller_server.upkeep.inclusion import proof_of

__all__ = ["head_line", "proved_line", "vkey_for"]


def vkey_for(installation: Installation, note: str | None) -> str:
    """The key that signed `note`, which the next one need not have: a key is changed before it signs anything."""
    ring = installation.ring
    return vkey_of(ring.signer) if note is None else vkey_of_known(note, ring)


def head_line(installation: Installation, span: tuple[int, int], note: str | None, now_ms: int) -> str:
    """The first line: whose log it is, which entries follow, and the signed checkpoint that they are proved by."""
    return json.dumps(
        {
            "export": FORMAT,
            "log": log_origin(installation.log_name, TENANT),
            "first": span[0],
            "end": span[1],
            "at_ms": now_ms,
            "vkey": vkey_for(installation, note),
            "checkpoint": note,
        },
        ensure_ascii=False,
    )


def proved_line(installation: Installation, each: Exported, checkpoint: Checkpoint | None) -> str:
    """One entry; `proof` is null where the checkpoint does not reach it."""
    entry = each.entry
    path: list[str] | None = None
    if checkpoint is not None and entry.index < checkpoint.size:
        size = checkpoint.size

        def read(reader: Reader) -> list[str]:
            return [node.hex() for node in proof_of(reader, entry.index, size)]

        path = installation.store.read_now(read)
    return json.dumps(
        {
            "index": entry.index,
            "type": entry.type.value,
            "at_ms": entry.at_ms,
            "leaf": entry.leaf,
            "envelope": entry.envelope,
            "packet": entry.packet,
            "proof": path,
        },
        ensure_ascii=False,
    )
