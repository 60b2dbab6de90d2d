"""One call as the record has it: its row, its log entries with their packets, its approval and what it held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from comptroller_audit.calls import log_indexes
from comptroller_audit.database import Row
from comptroller_audit.query import Logged, entries
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import Json, JsonObject, RecordType
from comptroller_budgets.ledger import HOLDS
from comptroller_budgets.tasks import TASKS
from comptroller_policy.approvals import APPROVALS, Assurance
from comptroller_server.commands.opening import call_named
from comptroller_server.commands.showing import at
from comptroller_server.installation import TENANT

__all__ = ["CallRecord", "clients_word", "read_call", "section", "told_word"]

_BUILT_IN = (
    RecordType.BATCH,
    RecordType.TASK_BEGUN,
    RecordType.TASK_STATUS,
    RecordType.TASK_ENDED,
    RecordType.HANDED_OFF,
)
_PROPOSALS = (RecordType.ACTION, RecordType.READ, RecordType.PENDING, RecordType.REFUSED, *_BUILT_IN)
_ENDS = (
    RecordType.AUDIT,
    RecordType.READ,
    RecordType.RECOVERED,
    RecordType.RESOLVED,
    RecordType.CALL_CLOSED,
    RecordType.REFUSED,
    *_BUILT_IN,
)


@dataclass(frozen=True, slots=True)
class CallRecord:
    """Everything the store has of one call. `logged` is oldest first; erased packets are None in it."""

    call: str
    row: Row
    logged: Sequence[Logged]
    approval: Row | None
    hold: Row | None
    task: Row | None

    @property
    def proposal(self) -> JsonObject:
        """The packet that says what was proposed: the action's, else the read's, the pending or the refused one."""
        for kind in _PROPOSALS:
            for entry in reversed(self.logged):
                if entry.type is kind and entry.packet is not None and "original" not in entry.packet:
                    return entry.packet
        return {}

    @property
    def end(self) -> Logged | None:
        """The entry that says how it ended, or None while it has not."""
        for entry in reversed(self.logged):
            if entry.type in _ENDS and "original" not in (entry.packet or {}):
                return entry
        return None

    @property
    def again(self) -> list[Logged]:
        """Later attempts of the same call: replays, and refusals that only told its state."""
        return [e for e in self.logged if e.type is RecordType.REPLAYED or "original" in (e.packet or {})]

    def newest(self, kind: RecordType) -> Logged | None:
        """The newest entry of a type."""
        return next((entry for entry in reversed(self.logged) if entry.type is kind), None)

    def as_json(self) -> dict[str, Any]:
        """`{call, state, tool, effect, task, step, actor, code, …, records: [{index, type, at_ms, leaf, packet}]}`."""
        row = self.row
        return {
            **call_summary(self.call, row),
            "task_outcome": self.task["outcome"] or None if self.task is not None else None,
            "records": [
                {"index": e.index, "type": e.type.value, "at_ms": e.at_ms, "leaf": e.leaf, "packet": e.packet}
                for e in self.logged
            ],
        }


def call_summary(call: str, row: Row) -> dict[str, Any]:
    """A call's row for a program."""
    kept = ("state", "tool", "effect", "task", "step", "actor", "code", "approval", "owner", "epoch")
    return {"call": call, **{name: row[name] for name in kept}, **_times(row)}


def _times(row: Row) -> dict[str, int]:
    return {"created_ms": row["created_ms"], "updated_ms": row["updated_ms"]}


def read_call(reader: Reader, ring: KeyRing, wanted: str) -> CallRecord:
    """The call whose id is, or begins with, `wanted`. Raises `CommandError`, `KeyRingError`, `SealBroken`."""
    call, row = call_named(reader, wanted)
    logged = entries(reader, ring, TENANT, log_indexes(row))
    approval = reader.row(TENANT, APPROVALS, row["approval"]) if row["approval"] else None
    hold, task = reader.row(TENANT, HOLDS, call), reader.row(TENANT, TASKS, row["task"])
    return CallRecord(call, row, logged, approval, hold, task)


def clients_word(packet: JsonObject) -> JsonObject:
    """What the client said of its person, if a gate asked for that: in an action, a read or a pending packet."""
    votes = [packet.get("confirmation"), *cast("list[Json]", packet.get("approvals") or [])]
    for vote in votes:
        if isinstance(vote, dict) and vote.get("assurance") == Assurance.CLIENT_ASSERTED:
            return vote
    return {}


def told_word(word: JsonObject) -> str:
    """That word in a line."""
    when = at(cast("int", word["at_ms"]))
    return f"{word.get('approver')}, as the client says, at {when} ({word.get('assurance')}, asked in entry {word.get('asked')})"


def asked_because(pending: JsonObject) -> list[str]:
    """Why people are asked, by a pending packet: the reasons of gates, with their rules."""
    decision = section(pending, "decision")
    if section(pending, "edited") and not decision.get("gates"):
        return ["no rule asks for a person now, but what one of them changed is agreed to before it runs"]
    reasons, policies = (cast("list[Json]", decision.get(name) or []) for name in ("reasons", "policies"))
    return [f"{reason} (rule {policy})" for policy, reason in zip(policies, reasons, strict=False)]


def section(packet: JsonObject, name: str) -> JsonObject:
    """An object inside a packet; empty when it is absent or none."""
    found = packet.get(name)
    return found if isinstance(found, dict) else {}
