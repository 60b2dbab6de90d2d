"""What the record says about a task: how it began, its calls, the records it acted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from comptroller_audit.calls import log_indexes
from comptroller_audit.database import Row
from comptroller_audit.query import Logged, calls_of_task, entries
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import CallState, Effect, Json, JsonObject, RecordType
from comptroller_budgets.tasks import TASKS
from comptroller_server.tasks.built_in_tools import BUILT_INS
from comptroller_tools.refs import refs_of_task

__all__ = ["TaskRecord", "read_task"]

CALLS_MAX = 50
"""The newest calls of a task that a hand-off names."""
REFS_MAX = 50


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """One task as the store has it. `calls` are newest first, with their records; built-in tools are left out.

    `pending` are those that wait for a person, however many calls there are.
    """

    task: str
    row: Row | None
    began: JsonObject
    ended: JsonObject
    calls: Sequence[tuple[str, Row, Sequence[Logged]]]
    refs: Sequence[JsonObject]
    pending: Sequence[tuple[str, Row]] = ()

    @property
    def waiting(self) -> int:
        """How many of its calls wait for a person."""
        return self.row["awaiting"] if self.row is not None else 0

    @property
    def request(self) -> JsonObject | None:
        """`{text, trusted}`, or None for an implied task."""
        return cast("JsonObject | None", self.began.get("request"))

    @property
    def unit(self) -> str | None:
        """The record the task is about, `KIND:ID`."""
        return cast("str | None", self.began.get("unit"))

    def acted_on(self) -> dict[str, list[str]]:
        """Ids of the records that done side effects acted on, by kind, each once."""
        found: dict[str, list[str]] = {}
        for _, row, logged in reversed(self.calls):
            record = newest(logged, RecordType.ACTION).get("record")
            if row["state"] != CallState.DONE or not isinstance(record, dict):
                continue
            keys = found.setdefault(str(record["kind"]), [])
            if str(record["key"]) not in keys:
                keys.append(str(record["key"]))
        return found


def read_task(reader: Reader, ring: KeyRing, tenant: str, task: str) -> TaskRecord:
    """Everything the store has of one task. Raises `KeyRingError`, `SealBroken`."""
    row = reader.row(tenant, TASKS, task)
    own = entries(reader, ring, tenant, log_indexes(row)) if row is not None else []
    all_calls = calls_of_task(reader, tenant, task)
    calls = [
        (call, one, entries(reader, ring, tenant, log_indexes(one)) if _is_told(one) else [])
        for call, one in reversed(all_calls[-CALLS_MAX:])
        if one["tool"] not in BUILT_INS
    ]
    began, ended = newest(own, RecordType.TASK_BEGUN), newest(own, RecordType.TASK_ENDED)
    pending = [(call, one) for call, one in all_calls if one["state"] == CallState.PENDING]
    return TaskRecord(task, row, began, ended, calls, refs_of_task(reader, tenant, task, REFS_MAX), pending)


def newest(logged: Sequence[Logged], kind: RecordType) -> JsonObject:
    """The newest packet of a type; empty when there is none, or it was erased."""
    found = (entry.packet for entry in reversed(logged) if entry.type is kind and entry.packet is not None)
    return next(found, cast("dict[str, Json]", {}))


def _is_told(row: Row) -> bool:
    """Whether a call's records are worth opening: a read that was answered is told by its row."""
    return bool(row["effect"] != Effect.READ or row["state"] != CallState.DONE)
