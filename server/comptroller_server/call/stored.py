"""A stored proposal as the log has it, and whether the log bears out what its approval's row says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import cast

from comptroller_audit.database import Row
from comptroller_audit.query import Logged
from comptroller_audit.vocabulary import Json, JsonObject, RecordType
from comptroller_policy.approvals import authors_of
from comptroller_server.call.edits import Edited, asked_in

__all__ = ["newest", "proved"]


def newest(logged: Sequence[Logged], types: tuple[RecordType, ...]) -> JsonObject | None:
    """The newest packet of one of these types that can still be read."""
    found: list[Json] = [e.packet for e in logged if e.type in types and e.packet is not None]
    return cast("JsonObject | None", found[-1] if found else None)


def proved(approval: Row, logged: Sequence[Logged]) -> bool:
    """Whether each vote in an approval's row stands in a sealed record, given for this very action of this call, and
    whether the row names who edited it, as the record does.

    Whoever can write the table but has no keys can write a vote there, and not into a record.
    """
    digests: dict[Json, str] = {}
    authors: frozenset[str] = frozenset()
    for entry in logged:
        packet = entry.packet
        if entry.type is RecordType.PENDING and packet is not None and packet["call"] == approval["call"]:
            digests[packet["approval"]] = asked_in(packet)
            edited = Edited.of(packet)
            authors = frozenset(edited.authors) if edited is not None else frozenset()
    asked = next(reversed(digests.values()), "")
    votes = [
        e.packet["vote"]
        for e in logged
        if e.type is RecordType.APPROVAL_DECIDED
        and e.packet is not None
        and e.packet["call"] == approval["call"]
        and digests.get(e.packet["approval"]) == asked
    ]
    known = bool(asked) and authors == authors_of(approval)
    return known and all(vote in votes for vote in json.loads(approval["votes"]))
