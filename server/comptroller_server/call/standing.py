"""Where a recorded call of one's own stands, and taking back one that waits: what a durable handle of a call is made of.

Looking decides nothing, runs nothing and is not recorded; that a call was taken back is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from comptroller_audit.ambient import Clock
from comptroller_audit.database import Row
from comptroller_audit.packets import LogRecord
from comptroller_audit.store import Reader, Store
from comptroller_audit.vocabulary import CallState, Effect, JsonObject, RecordType, Subject
from comptroller_policy.approvals import APPROVALS, ApprovalState
from comptroller_policy.engine import Bundle
from comptroller_server.call.commits import Commits
from comptroller_server.call.naming import call_row

__all__ = ["Register", "Standing", "Standings"]

WITHDRAWN = "its caller took it back"


@dataclass(frozen=True, slots=True)
class Standing:
    """A call on record. Times are milliseconds since 1970; `expires_ms` is 0 where nobody is waited for.

    `is_open` says that its answer is not known yet: people may still decide, or it runs. Otherwise `resume_call` has
    the answer, or is what runs it.
    """

    state: CallState
    is_open: bool
    told: str
    created_ms: int
    expires_ms: int = 0


class Register(Protocol):
    """The record of calls, as the MCP face knows it. Both raise `StoreError`."""

    async def standing(self, subject: Subject, call: str) -> Standing | None:
        """None for an unknown call and for somebody else's alike."""
        ...

    async def withdraw(self, subject: Subject, call: str) -> None:
        """Close a call that waits for people; any other stays as it is."""
        ...


class Standings:
    """Calls on record, for who proposed them."""

    def __init__(
        self,
        store: Store,
        commits: Commits,
        bundle: Bundle,
        clock: Clock,
        key_of: Callable[[Subject], str],
    ) -> None:
        self._store = store
        self._commits = commits
        self._bundle = bundle
        self._clock = clock
        self._key_of = key_of

    async def of(self, subject: Subject, call: str) -> Standing | None:
        """One's own call, as long as one may see its tool."""
        key = self._key_of(subject)
        row, approval = await self._rows(subject, call)
        if row is None or not self._is_theirs(subject, key, row):
            return None
        if row["effect"] == Effect.READ and row["state"] == CallState.DONE:
            return None  # what was read is not given again
        return self._standing(row, approval)

    async def withdraw(self, subject: Subject, call: str) -> None:
        """A pending call ends without an effect; whoever approves it later is too late."""
        key = self._key_of(subject)
        row, _ = await self._rows(subject, call)
        if row is None or not self._is_theirs(subject, key, row) or row["state"] != CallState.PENDING:
            return
        void = CallState.VOID
        packet: JsonObject = {"v": 1, "call": call, "state": void.value, "why": WITHDRAWN}
        record = LogRecord(RecordType.CALL_CLOSED, packet, call, task=row["task"])
        unit = self._commits.close_pending(call, row["approval"], row["task"], void, row["epoch"], record)
        await self._store.commit(subject.tenant, unit)  # stopped: it runs by now, or has ended

    async def _rows(self, subject: Subject, call: str) -> tuple[Row | None, Row | None]:
        def look(reader: Reader) -> tuple[Row | None, Row | None]:
            row = call_row(reader, subject.tenant, call)
            waits = row is not None and row["state"] == CallState.PENDING
            return row, reader.row(subject.tenant, APPROVALS, row["approval"]) if row and waits else None

        return await self._store.read(look)

    def _is_theirs(self, subject: Subject, key: str, row: Row) -> bool:
        mine = row["principal"] == key and row["actor"] == subject.actor.id
        return mine and self._bundle.visible(subject, row["tool"])

    def _standing(self, row: Row, approval: Row | None) -> Standing:
        state, began = CallState(row["state"]), int(row["created_ms"])
        if state is CallState.COMMITTED:
            return Standing(state, True, "It is running.", began)
        if approval is None:
            return Standing(state, False, "", began)
        waits = approval["state"] == ApprovalState.PENDING and approval["expires_ms"] > self._clock.now_ms()
        roles = cast("dict[str, int]", json.loads(approval["roles"]))
        people = " and ".join(f"{count} with role {role}" for role, count in sorted(roles.items()))
        told = f"A person must agree first ({people}). Nothing has been done yet."
        return Standing(state, waits, told if waits else "", began, int(approval["expires_ms"]))
