"""Where a call's entries stand in the log, and whether the newest signed checkpoint holds them (RFC 9162 §2.1.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, select

from comptroller_audit.checkpoint import Checkpoint, CheckpointFile, log_origin, open_known
from comptroller_audit.database import table_of
from comptroller_audit.errors import CheckpointError
from comptroller_audit.log import LogEntry, LogNode, inclusion_proof, verify_inclusion
from comptroller_audit.query import Logged
from comptroller_audit.store import Reader
from comptroller_server.commands.showing import at
from comptroller_server.installation import TENANT, Installation

__all__ = ["Proof", "newest_checkpoint", "proof_of", "prove"]

_NODE, _ENTRY = table_of(LogNode), table_of(LogEntry)
_NODE_AT = select(_NODE.c.hash).where(
    _NODE.c.tenant == bindparam("tenant"),
    _NODE.c.level == bindparam("level"),
    _NODE.c.idx == bindparam("idx"),
)
_LEAF_AT = select(_ENTRY.c.leaf).where(
    _ENTRY.c.tenant == bindparam("tenant"), _ENTRY.c.idx == bindparam("idx")
)


@dataclass(frozen=True, slots=True)
class Proof:
    """The entries, the newest checkpoint (None without one), and which entries it is proved to hold."""

    logged: Sequence[Logged]
    checkpoint: Checkpoint | None
    included: frozenset[int]
    problem: str = ""

    def standing(self, index: int) -> str:
        if self.checkpoint is None:
            return "in no checkpoint yet"
        if index >= self.checkpoint.size:
            return f"after the newest checkpoint (of {self.checkpoint.size} entries)"
        if index in self.included:
            return f"proved by the signed checkpoint of {self.checkpoint.size} entries"
        return (
            f"NOT in the signed checkpoint of {self.checkpoint.size} entries; run `comptroller audit verify`"
        )

    def lines(self) -> list[str]:
        told = [
            f"entry {e.index} {e.type.value} {at(e.at_ms)} leaf {e.leaf[:16]}…, {self.standing(e.index)}"
            for e in self.logged
        ]
        return [*told, *([self.problem] if self.problem else [])]

    def as_json(self) -> dict[str, Any]:
        newest = self.checkpoint
        return {
            "checkpoint": {"origin": newest.origin, "size": newest.size, "root": newest.root.hex()}
            if newest
            else None,
            "entries": [
                {"index": e.index, "leaf": e.leaf, "included": e.index in self.included} for e in self.logged
            ],
            "problem": self.problem or None,
        }


async def prove(installation: Installation, logged: Sequence[Logged]) -> Proof:
    """Check each entry's inclusion in the newest checkpoint of the configured files, with this key ring's key."""
    newest_note, problem = newest_checkpoint(installation)
    checkpoint = newest_note[1] if newest_note is not None else None
    if checkpoint is None:
        return Proof(logged, None, frozenset(), problem)
    newest = checkpoint
    included = await installation.store.read(
        lambda reader: frozenset(e.index for e in logged if _is_included(reader, e, newest))
    )
    return Proof(logged, checkpoint, included, problem)


def newest_checkpoint(installation: Installation) -> tuple[tuple[str, Checkpoint] | None, str]:
    """The newest signed note of the configured files and what it says, and what was wrong with a file, if anything."""
    origin = log_origin(installation.log_name, TENANT)
    best: tuple[str, Checkpoint] | None = None
    problem = ""
    for path in installation.config.store.checkpoint_files:
        try:
            note = CheckpointFile(path).newest(origin)
            found = (note, open_known(note, installation.ring)) if note is not None else None
        except CheckpointError as error:
            problem = str(error)
            continue
        if found is not None and (best is None or found[1].size > best[1].size):
            best = found
    return best, problem


def proof_of(reader: Reader, index: int, size: int) -> list[bytes]:
    """The path from entry `index` to the root of the log's first `size` entries (RFC 9162 §2.1.3.1)."""

    def node(level: int, at_index: int) -> bytes:
        if level == 0:
            rows = reader.query(_LEAF_AT, tenant=TENANT, idx=at_index)
        else:
            rows = reader.query(_NODE_AT, tenant=TENANT, level=level, idx=at_index)
        return bytes(rows[0][0]) if rows else b""

    return inclusion_proof(node, index, size)


def _is_included(reader: Reader, entry: Logged, checkpoint: Checkpoint) -> bool:
    if entry.index >= checkpoint.size:
        return False
    proof = proof_of(reader, entry.index, checkpoint.size)
    leaf = bytes.fromhex(entry.leaf)
    return verify_inclusion(leaf, entry.index, checkpoint.size, proof, checkpoint.root)
