"""Hand-off packets: what a person needs when an agent cannot go on. One a task; a later one takes its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import structlog

from comptroller_audit.database import Row
from comptroller_audit.errors import StoreError
from comptroller_audit.packets import LogRecord
from comptroller_audit.query import Logged
from comptroller_audit.redaction import Audience, Release
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import Store
from comptroller_audit.unit import Unit
from comptroller_audit.vocabulary import CallState, Json, JsonObject, RecordType, Refusal
from comptroller_budgets.handoffs import HANDOFFS, HandoffCause, HandoffState, NoteHandoff
from comptroller_budgets.lifecycle import is_exhausted
from comptroller_server.call.case import Case
from comptroller_server.config.model import AgentConfig
from comptroller_server.tasks.record import TaskRecord, newest, read_task

__all__ = ["HandOvers"]

_WENT_WELL = frozenset({CallState.DONE, CallState.COMPENSATED})
_log = structlog.stdlib.get_logger()


class HandOvers:
    """Writes hand-offs that nobody asked for, and the packets of those that were."""

    def __init__(self, store: Store, ring: KeyRing, release: Release, agent: AgentConfig) -> None:
        self._store = store
        self._ring = ring
        self._release = release
        self._agent = agent

    async def read(self, tenant: str, task: str) -> TaskRecord:
        return await self._store.read(lambda reader: read_task(reader, self._ring, tenant, task))

    async def after_refusal(self, case: Case, refusal: Refusal) -> None:
        """A person is needed when a call's effect is not as it should be, and when a task's budget is used up."""
        if case.state is CallState.HANDED_OFF:
            cause = HandoffCause.CALL_HANDED_OFF
        elif is_exhausted(refusal) and refusal.retry == "person":
            cause = HandoffCause.EXHAUSTED
        else:
            return
        try:
            await self.write(case.tenant, case.task.id, cause, refusal.text, case.call)
        except StoreError as error:  # the next round, or the next refusal, writes it
            _log.warning("a hand-off waits for the store", task=case.task.id, error=str(error))

    async def write(self, tenant: str, task: str, cause: HandoffCause, reason: str, call: str) -> None:
        """Write the task's hand-off, unless it is exhausted and a person knows already."""
        row = await self._store.read(lambda reader: reader.row(tenant, HANDOFFS, task))
        if row is not None and row["state"] == HandoffState.OPEN and cause is HandoffCause.EXHAUSTED:
            return
        found = await self.read(tenant, task)
        if found.row is None:
            return
        packet = self.packet(found, cause, reason, call=None, at=call)
        record = LogRecord(RecordType.HANDED_OFF, packet, call=call, task=task)
        note = NoteHandoff(task, cause, found.row["actor"], record)
        await self._store.commit(tenant, Unit([note]))

    def packet(
        self,
        found: TaskRecord,
        cause: HandoffCause,
        reason: str,
        *,
        call: str | None,
        tried: str | None = None,
        need: str | None = None,
        at: str | None = None,
        actor: str = "",
    ) -> JsonObject:
        """The packet (`task_shapes.HandedOff`). `at` is the call at which it stopped; else the newest that went wrong."""
        words: JsonObject = {"reason": reason, "tried": tried, "need": need}
        return {
            "v": 1,
            "task": found.task,
            "call": call,
            "cause": cause.value,
            **cast("JsonObject", self._release.release(words, Audience.RECORD).value),
            "context": {
                "agent": self._agent.name,
                "objective": self._agent.objective,
                "actor": found.row["actor"] if found.row is not None else actor,
                "request": found.request,
                "plan": found.began.get("plan"),
                "unit": found.unit,
            },
            "evidence": {
                "refs": cast("list[Json]", list(found.refs)),
                "calls": [_told(one, row, logged) for one, row, logged in found.calls],
            },
            "step": _step(found, at),
        }


def _told(call: str, row: Row, logged: Sequence[Logged]) -> JsonObject:
    verification = newest(logged, RecordType.AUDIT).get("verification")
    result = verification.get("result") if isinstance(verification, dict) else None
    return {
        "call": call,
        "tool": row["tool"],
        "effect": row["effect"],
        "state": row["state"],
        "code": row["code"],
        "at_ms": row["created_ms"],
        "verification": result,
    }


def _step(found: TaskRecord, at: str | None) -> JsonObject | None:
    """The call at which the agent could not go on, as it was proposed, and what was wrong."""
    for call, row, logged in found.calls:
        if call == at or (at is None and CallState(row["state"]) not in _WENT_WELL):
            return _as_step(call, row, [entry.packet for entry in logged if entry.packet is not None])
    return None


def _as_step(call: str, row: Row, packets: Sequence[JsonObject]) -> JsonObject:
    nothing: JsonObject = {}
    proposed = next((p for p in reversed(packets) if "arguments" in p), nothing)
    problem: Json = None
    for packet in reversed(packets):
        problem = packet.get("problem") or packet.get("refusal")
        if problem is not None:
            break
    return {
        "call": call,
        "tool": row["tool"] or str(proposed.get("tool", "")),
        "arguments": proposed.get("arguments"),
        "record": proposed.get("record"),
        "why": proposed.get("why"),
        "redact": proposed.get("redact"),
        "state": row["state"],
        "problem": problem,
    }
