"""What people made of a proposal: an edit as packets hold it, and as the agent is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from comptroller_audit.canonical import keyed_digest
from comptroller_audit.database import Row
from comptroller_audit.redaction import Audience
from comptroller_audit.tokens import TokenBook
from comptroller_audit.vocabulary import Json, JsonObject
from comptroller_policy.approvals import asked_digest
from comptroller_server.call.changes import changes
from comptroller_server.call.roads import Roads

__all__ = ["Edited", "asked_in", "fits", "told_edit"]


@dataclass(frozen=True, slots=True)
class Edited:
    """What the agent had proposed (`arguments`, and the plain digest of that action), and who changed it since.

    `by` is `{editor, reason, at_ms, changed}` for each edit, oldest first.
    """

    arguments: JsonObject
    digest: str
    by: tuple[JsonObject, ...] = ()

    @classmethod
    def of(cls, packet: JsonObject) -> Edited | None:
        """The edits of a stored proposal, or None when nobody changed it."""
        edited = packet.get("edited")
        if not isinstance(edited, dict):
            return None
        digests = cast("JsonObject", packet["approval_digests"])
        by = cast("list[JsonObject]", edited["by"])
        return cls(cast("JsonObject", edited["arguments"]), str(digests["requested"]), tuple(by))

    @property
    def authors(self) -> tuple[str, ...]:
        """Who edited it, each once."""
        return tuple(dict.fromkeys(str(one["editor"]) for one in self.by))

    def in_packet(self) -> JsonObject:
        return {"arguments": self.arguments, "by": [*self.by]}


def asked_in(packet: JsonObject) -> str:
    """The plain digest of the action that a stored proposal asks people about; empty when it has none."""
    digests = packet.get("approval_digests")
    if not isinstance(digests, dict):
        return ""
    return str(digests.get("edited") or digests.get("requested") or "")


def fits(key: bytes, packet: JsonObject, approval: Row) -> bool:
    """Whether a stored proposal and the row of its approval speak of the same action. `key` is the tenant's claim key."""
    return keyed_digest(key, "approval", bytes.fromhex(asked_in(packet))) == asked_digest(approval)


def told_edit(
    roads: Roads,
    tool: str,
    before: Json,
    now: Json,
    audience: Audience = Audience.MODEL,
    book: TokenBook | None = None,
) -> Sequence[str]:
    """What an edit changed, for a reader: fields with both values, released. Empty when nothing of it can be told."""
    road = roads.arguments(tool)
    return changes(road.release(before, audience, book).value, road.release(now, audience, book).value)
