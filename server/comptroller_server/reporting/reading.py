"""Reading what a report is made of: the log in ranges, the tasks in pages, and what waits now. Nothing is written.

Each page is a read of its own, so a serving process on the same store is never held up, and memory does not grow with
the store.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import bindparam, func, select

from comptroller_audit.calls import CALLS, CallRow, log_indexes
from comptroller_audit.database import Row, table_of
from comptroller_audit.query import Logged, entries, entry_from
from comptroller_audit.report import Now, Report, TaskEnd, Tasks, TaskSeen, Waiting
from comptroller_audit.report_calls import TOLD, Bins, Calls
from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import CallState, Code, RecordType, Refusal, RefusalClass
from comptroller_budgets.costs import task_costs
from comptroller_budgets.handoffs import HandoffRow, HandoffState
from comptroller_budgets.tasks import TASKS, TaskRow, TaskState, is_over
from comptroller_policy.approvals import ApprovalRow, ApprovalState
from comptroller_server.installation import TENANT, Installation
from comptroller_server.reporting.span import Progress, entries_of, span_since

__all__ = ["read_report"]

PAGE_TASKS = 200
CLOCKS_APART_MS = 86_400_000
"""An id is minted by one process's clock and a task begins by the record's: how far the two may differ."""

_T, _C, _A, _H = (table_of(row) for row in (TaskRow, CallRow, ApprovalRow, HandoffRow))
_TASKS = (
    select(_T.c.id, *(_T.c[name] for name in TASKS.columns))
    .where(
        _T.c.tenant == bindparam("tenant"),
        _T.c.id > bindparam("after"),
        _T.c.started_ms >= bindparam("since"),
        _T.c.started_ms <= bindparam("until"),
    )
    .order_by(_T.c.id)
    .limit(PAGE_TASKS)
)
_IN_DOUBT = select(func.count(), func.min(_C.c.updated_ms)).where(
    _C.c.tenant == bindparam("tenant"), _C.c.state == bindparam("state")
)
_PENDING = (
    select(func.count(), func.min(_A.c.created_ms))
    .join_from(_C, _A, (_A.c.tenant == _C.c.tenant) & (_A.c.id == _C.c.approval))
    .where(
        _C.c.tenant == bindparam("tenant"),
        _C.c.state == bindparam("state"),
        _A.c.state == bindparam("approval"),
    )
)
_HANDOFFS = select(func.count(), func.min(_H.c.created_ms)).where(
    _H.c.tenant == bindparam("tenant"), _H.c.state == bindparam("state")
)


def read_report(installation: Installation, since_ms: int | None, progress: Progress | None = None) -> Report:
    """The report from `since_ms` (None: from the first record) until now. Raises `StoreError`, `KeyRingError`."""
    store = installation.store

    def look(reader: Reader) -> tuple[tuple[int, int], int, int]:
        head = reader.head(TENANT)
        now = max(installation.ambient.clock.now_ms(), head.record_ms if head is not None else 0)
        span = span_since(reader, since_ms)
        return span, _time_of(reader, span[0], now), now

    span, first_ms, now_ms = store.read_now(look)
    # Plots begin where there is something to show.
    bins = Bins.over(min(first_ms, now_ms), now_ms)
    calls, tasks = Calls(bins, lambda call: _action_of(installation, call)), Tasks(bins)
    for entry in entries_of(installation, span, TOLD, progress):
        calls.take(entry)
    idle_s = installation.config.budgets.task_idle_s
    for seen in _tasks(installation, since_ms, now_ms, idle_s):
        tasks.take(seen)
    began_ms = first_ms if since_ms is None else since_ms
    return Report(began_ms, now_ms, calls, tasks, store.read_now(_now))


def _time_of(reader: Reader, index: int, otherwise: int) -> int:
    """When an entry was recorded, or `otherwise` when there is none."""
    found = entry_from(reader, TENANT, index)
    return int(json.loads(found[1])["t"]) if found is not None else otherwise


def _action_of(installation: Installation, call: str) -> Logged | None:
    """The newest action entry of a call, from its own row."""

    def look(reader: Reader) -> Logged | None:
        row = reader.row(TENANT, CALLS, call)
        listed = entries(reader, installation.ring, TENANT, log_indexes(row)) if row is not None else []
        return next((entry for entry in reversed(listed) if entry.type is RecordType.ACTION), None)

    return installation.store.read_now(look)


def _tasks(installation: Installation, since_ms: int | None, now_ms: int, idle_s: int) -> Iterator[TaskSeen]:
    """Tasks that began from `since_ms` on, with what they cost."""
    since = since_ms or 0
    after = _id_at(max(0, since - CLOCKS_APART_MS))
    while True:

        def look(reader: Reader, after: str = after) -> list[tuple[str, TaskSeen]]:
            found = reader.query(_TASKS, tenant=TENANT, after=after, since=since, until=now_ms)
            if not found:
                return []
            rows = {str(row[0]): dict(zip(TASKS.columns, row[1:], strict=True)) for row in found}
            costs = task_costs(reader, TENANT, rows)
            return [
                (
                    task,
                    TaskSeen(
                        row["started_ms"],
                        _end_of(row, now_ms, idle_s),
                        costs[task].tool_cost_micro,
                        costs[task].model_cost_micro,
                        costs[task].tokens,
                        costs[task].estimated_tokens,
                    ),
                )
                for task, row in rows.items()
            ]

        found = installation.store.read_now(look)
        yield from (seen for _, seen in found)
        if len(found) < PAGE_TASKS:
            return
        after = found[-1][0]


def _id_at(ms: int) -> str:
    """What every UUIDv7 of that millisecond and later is greater than."""
    digits = f"{ms:012x}"
    return f"{digits[:8]}-{digits[8:]}"


def _end_of(row: Row, now_ms: int, idle_s: int) -> TaskEnd:
    if row["state"] == TaskState.FINISHED:
        return TaskEnd.SILENT_WRONG if _is_false_claim(row["code"]) else TaskEnd(row["outcome"])
    left_alone = not row["begun"] and is_over(row, now_ms, idle_s)
    return TaskEnd.IDLE if left_alone else TaskEnd.OPEN


def _is_false_claim(code: str) -> bool:
    return bool(code) and Refusal(Code(code), "").failure_class is RefusalClass.SILENT_WRONG


def _now(reader: Reader) -> Now:
    def counted(statement: Any, **parameters: str) -> Waiting:
        count, oldest = reader.query(statement, tenant=TENANT, **parameters)[0]
        return Waiting(int(count), int(oldest) if oldest is not None else None)

    pending = CallState.PENDING.value
    return Now(
        approvals=counted(_PENDING, state=pending, approval=ApprovalState.PENDING.value),
        approved=counted(_PENDING, state=pending, approval=ApprovalState.APPROVED.value),
        in_doubt=counted(_IN_DOUBT, state=CallState.IN_DOUBT.value),
        handoffs=counted(_HANDOFFS, state=HandoffState.OPEN.value),
    )
