"""What happens to tasks when nobody calls: begun ones left idle are ended, hand-offs that are missing are written."""

from __future__ import annotations

import structlog
from sqlalchemy import bindparam, select

from comptroller_audit.ambient import Clock
from comptroller_audit.database import Row, table_of
from comptroller_audit.packets import LogRecord
from comptroller_audit.query import calls_in_state
from comptroller_audit.store import Reader, Store
from comptroller_audit.unit import Committed, Unit
from comptroller_audit.vocabulary import CallState, JsonObject, RecordType
from comptroller_budgets.handoffs import HANDOFFS, HandoffCause, HandoffState
from comptroller_budgets.lifecycle import EndTask
from comptroller_budgets.limits import BudgetsConfig
from comptroller_budgets.tasks import TASKS, TaskOutcome, TaskRow, TaskState, is_over
from comptroller_server.tasks.handing_over import HandOvers
from comptroller_tools.provenance import ForgetMarks, held_rows

__all__ = ["TaskRounds"]

_T = table_of(TaskRow)
_OPEN = select(_T.c.id).where(
    _T.c.tenant == bindparam("tenant"), _T.c.begun == bindparam("begun"), _T.c.state == bindparam("state")
)
_log = structlog.stdlib.get_logger()


class TaskRounds:
    """Runs with recovery, at start and every `recovery_interval_s`."""

    def __init__(self, store: Store, hand_overs: HandOvers, budgets: BudgetsConfig, clock: Clock) -> None:
        self._store = store
        self._hand_overs = hand_overs
        self._budgets = budgets
        self._clock = clock

    async def round(self, tenant: str) -> list[str]:
        """End what was left idle; returns those tasks. Raises `StoreError`."""
        await self._write_missing(tenant)
        await self._forget(tenant)
        ended: list[str] = []
        for task, row, handed in await self._store.read(lambda reader: self._idle(reader, tenant)):
            outcome = TaskOutcome.HANDED_OFF if handed else TaskOutcome.ABANDONED
            packet: JsonObject = {"v": 1, "task": task, "outcome": outcome.value, "by": "idle"}
            record = LogRecord(RecordType.TASK_ENDED, packet, task=task)
            part = EndTask(task, outcome, self._budgets, record, seen_ms=row["since_ms"])
            if isinstance(await self._store.commit(tenant, Unit([part])), Committed):
                _log.info("a task was left idle", task=task, outcome=outcome.value)
                ended.append(task)
        return ended

    def _idle(self, reader: Reader, tenant: str) -> list[tuple[str, Row, bool]]:
        """Begun tasks that ended by idleness, and whether a person has them."""
        found = reader.query(_OPEN, tenant=tenant, begun=True, state=TaskState.OPEN.value)
        ids = [str(row[0]) for row in found]
        rows, handed = reader.rows(tenant, TASKS, ids), reader.rows(tenant, HANDOFFS, ids)
        now, idle_s = self._clock.now_ms(), self._budgets.task_idle_s
        return [
            (task, row, task in handed and handed[task]["state"] == HandoffState.OPEN)
            for task, row in rows.items()
            if is_over(row, now, idle_s)
        ]

    async def _forget(self, tenant: str) -> None:
        """What tasks that are over have seen: nothing can ask for it any more."""
        now, idle_s = self._clock.now_ms(), self._budgets.task_idle_s
        held = await self._store.read(lambda reader: held_rows(reader, tenant))
        over = [task for task, row in held.items() if row is None or is_over(row, now, idle_s)]
        if over:
            await self._store.commit(tenant, Unit([ForgetMarks(task, idle_s) for task in over]))

    async def _write_missing(self, tenant: str) -> None:
        """Hand-offs of calls whose server ended between the call's end and its hand-off."""

        def missing(reader: Reader) -> list[tuple[str, Row]]:
            calls = calls_in_state(reader, tenant, (CallState.HANDED_OFF,))
            known = reader.rows(tenant, HANDOFFS, list({row["task"] for _, row in calls})) if calls else {}
            return [(call, row) for call, row in calls if row["task"] not in known]

        for call, row in await self._store.read(missing):
            text = "A call made its change, and what was read back is not as it should be."
            await self._hand_overs.write(tenant, row["task"], HandoffCause.CALL_HANDED_OFF, text, call)
