"""Whether the log holds an entry where a signed checkpoint says (RFC 9162 §2.1.3)."""

from __future__ import annotations

from sqlalchemy import bindparam, select

from comptroller_audit.checkpoint import Checkpoint, CheckpointFile, log_origin, open_known
from comptroller_audit.database import table_of
from comptroller_audit.errors import CheckpointError
from comptroller_audit.log import LogEntry, LogNode, inclusion_proof, verify_inclusion
from comptroller_audit.store import Reader
from comptroller_server.installation import TENANT, Installation

__all__ = ["is_included", "leaf_at", "newest_checkpoint", "proof_of"]

_NODE, _ENTRY = table_of(LogNode), table_of(LogEntry)
_NODE_AT = select(_NODE.c.hash).where(
    _NODE.c.tenant == bindparam("tenant"),
    _NODE.c.level == bindparam("level"),
    _NODE.c.idx == bindparam("idx"),
)
_LEAF_AT = select(_ENTRY.c.leaf).where(
    _ENTRY.c.tenant == bindparam("tenant"), _ENTRY.c.idx == bindparam("idx")
)


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


def is_included(reader: Reader, index: int, leaf: str, checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint's root holds the entry with this leaf hash (hex)."""
    if index >= checkpoint.size:
        return False
    proof = proof_of(reader, index, checkpoint.size)
    return verify_inclusion(bytes.fromhex(leaf), index, checkpoint.size, proof, checkpoint.root)


def leaf_at(reader: Reader, index: int) -> str:
    """The leaf hash of an entry, pruned or not, in hex; empty where there is none."""
    rows = reader.query(_LEAF_AT, tenant=TENANT, idx=index)
    return bytes(rows[0][0]).hex() if rows else ""
