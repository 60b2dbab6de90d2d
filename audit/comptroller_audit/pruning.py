"""Pruning: envelopes of old entries go, after their payloads. Their leaves stay, so tree, receipts and proofs do too.

What goes is what an envelope tells to anybody: which call, which task, when. An entry of type `pruned` names the spans, so that
the verifier tells it from a theft, and only entries that a signed checkpoint holds are pruned: it vouches for their leaves.
Whatever still has its payload keeps its envelope as well: calls that are open, what a legal hold keeps, and the log's own affairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, exists, select

from comptroller_audit.database import table_of
from comptroller_audit.legal_holds import Holds, HoldsUnmoved
from comptroller_audit.log import LogEntry, LogPayload
from comptroller_audit.packets import LogRecord
from comptroller_audit.retention import RETENTION, spans_of
from comptroller_audit.store import Reader
from comptroller_audit.unit import Key, Moved, State, Stop
from comptroller_audit.vocabulary import JsonObject, RecordType

__all__ = ["PRUNED", "PRUNED_MAX", "Prune", "prunable"]

PRUNED_MAX: Final = 500
"""Envelopes pruned in one commit: a few milliseconds of the writer's time."""
PRUNED: Final = "pruned"
"""The row of `RETENTION` that counts them."""

_E, _P = table_of(LogEntry), table_of(LogPayload)
_BARE = (
    select(_E.c.idx, _E.c.envelope)
    .where(
        _E.c.tenant == bindparam("tenant"),
        _E.c.idx >= bindparam("first"),
        _E.c.idx < bindparam("end"),
        _E.c.envelope != "",
        ~exists().where(_P.c.tenant == _E.c.tenant, _P.c.idx == _E.c.idx).correlate(_E),
    )
    .order_by(_E.c.idx)
    .limit(PRUNED_MAX)
)


def prunable(reader: Reader, tenant: str, first: int, end: int, holds: Holds) -> tuple[list[int], int | None]:
    """Entries from `first` on and before `end` that have an envelope and no payload, and where to go on; None at the end."""
    rows = reader.query(_BARE, tenant=tenant, first=first, end=end)
    found = [int(index) for index, envelope in rows if not holds.keep(reader, tenant, str(envelope))]
    return found, int(rows[-1][0]) + 1 if len(rows) == PRUNED_MAX else None


@dataclass(frozen=True, slots=True)
class Prune:
    """Part: prune the envelopes at `indexes`, which a checkpoint of `signed_entries` with root `signed_root` (hex) holds.

    `seen_pruned` and `seen_holds` say when these were chosen: if another process has pruned since, or a hold was placed,
    look again.
    """

    indexes: Sequence[int]
    before_ms: int
    signed_entries: int
    signed_root: str
    seen_pruned: int
    seen_holds: int

    def keys(self) -> Iterable[Key]:
        return [(RETENTION, PRUNED), *HoldsUnmoved(self.seen_holds).keys()]

    def apply(self, state: State) -> Stop | None:
        if (moved := HoldsUnmoved(self.seen_holds).apply(state)) is not None:
            return moved
        row = state.get(RETENTION, PRUNED)
        if (row["erased"] if row else 0) != self.seen_pruned:
            return Moved("pruning")
        if max(self.indexes) >= self.signed_entries:
            raise ValueError("only what a checkpoint holds is pruned")
        packet: JsonObject = {
            "v": 1,
            "entries": len(self.indexes),
            "before_ms": self.before_ms,
            "signed_entries": self.signed_entries,
            "signed_root": self.signed_root,
        }
        state.append(LogRecord(RecordType.PRUNED, packet, prunes=spans_of(self.indexes)))
        state.put(RETENTION, PRUNED, {"trusted_ms": 0, "erased": self.seen_pruned + len(self.indexes)})
        return None
