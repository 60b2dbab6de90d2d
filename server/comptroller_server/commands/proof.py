"""Where a call's entries stand in the log, and whether the newest signed checkpoint holds them (RFC 9162 §2.1.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from comptroller_audit.checkpoint import Checkpoint
from comptroller_audit.query import Logged
from comptroller_server.commands.showing import at
from comptroller_server.installation import Installation
from comptroller_server.upkeep.inclusion import is_included, newest_checkpoint

__all__ = ["Proof", "prove"]


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
        lambda reader: frozenset(e.index for e in logged if is_included(reader, e.index, e.leaf, newest))
    )
    return Proof(logged, checkpoint, included, problem)
