"""Step 1: which task and step a call belongs to, as this process sees it. The store's row is the authority."""

from __future__ import annotations

from dataclasses import dataclass

from comptroller_audit.ambient import Clock, Ids
from comptroller_audit.owners import Owner
from comptroller_audit.store import Reader, Store
from comptroller_audit.vocabulary import Subject
from comptroller_budgets.limits import BudgetsConfig
from comptroller_budgets.tasks import CURRENT_TASKS, TASKS, is_over, remaining_ms

__all__ = ["TaskBook", "TaskView"]

VIEWS_MAX = 10_000
"""Open views kept in memory; the oldest idle ones are forgotten and read again when needed."""


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as step 1 fixed it for one call. `pointer` is the row that says which task is current."""

    id: str
    pointer: str
    step: int
    step_key: str
    is_new: bool
    remaining_ms: int | None


@dataclass(slots=True)
class _Open:
    task: str
    is_new: bool
    step: int = 0
    unanswered: int = 0
    touched_ms: int = 0
    remaining_ms: int | None = None


class TaskBook:
    """Implied tasks per (principal, actor). `begin` at each call received, `answered` at each answer."""

    def __init__(self, store: Store, owner: Owner, clock: Clock, ids: Ids, config: BudgetsConfig) -> None:
        self._store = store
        self._owner = owner
        self._clock = clock
        self._ids = ids
        self._config = config
        self._open: dict[tuple[str, str], _Open] = {}

    async def begin(self, subject: Subject, principal_key: str) -> TaskView:
        """The task and step of a call received now."""
        pointer = f"{principal_key}:{subject.actor.id}"
        key = (subject.tenant, pointer)
        opened = self._open.get(key)
        now = self._clock.now_ms()
        if opened is None or (opened.unanswered == 0 and now - opened.touched_ms > self._fresh_ms()):
            fresh = await self._store.read(lambda reader: self._read(reader, subject.tenant, pointer, now))
            opened = self._keep(key, self._open.get(key), fresh)
        if opened.unanswered == 0:
            opened.step += 1
        opened.unanswered += 1
        opened.touched_ms = now
        return TaskView(
            opened.task,
            pointer,
            opened.step,
            f"{self._owner.id}:{opened.step}",
            opened.is_new,
            opened.remaining_ms,
        )

    def answered(self, tenant: str, view: TaskView) -> None:
        """A call of this task was answered; when none is left, the next one begins a new step."""
        opened = self._open.get((tenant, view.pointer))
        if opened is not None and opened.task == view.id:
            opened.unanswered -= 1
            opened.touched_ms = self._clock.now_ms()

    async def look_again(self, tenant: str, view: TaskView) -> TaskView:
        """After a commit said `Moved("task")`: what the store says now."""
        now = self._clock.now_ms()
        fresh = await self._store.read(lambda reader: self._read(reader, tenant, view.pointer, now))
        key = (tenant, view.pointer)
        opened = self._open.get(key)
        if opened is None or opened.task != fresh.task:
            fresh.unanswered, fresh.step, fresh.touched_ms = 1, 1, now
            self._open[key] = opened = fresh
        else:
            opened.is_new, opened.remaining_ms = fresh.is_new, fresh.remaining_ms
        return TaskView(
            opened.task,
            view.pointer,
            opened.step,
            f"{self._owner.id}:{opened.step}",
            opened.is_new,
            opened.remaining_ms,
        )

    def entered(self, tenant: str, view: TaskView) -> None:
        """A commit wrote the task's row: it is no longer new."""
        opened = self._open.get((tenant, view.pointer))
        if opened is not None and opened.task == view.id:
            opened.is_new = False

    def _keep(self, key: tuple[str, str], opened: _Open | None, fresh: _Open) -> _Open:
        if opened is not None and opened.task == fresh.task:
            opened.is_new, opened.remaining_ms = fresh.is_new, fresh.remaining_ms
            return opened
        if opened is not None and opened.unanswered > 0:
            return opened
        while len(self._open) >= VIEWS_MAX:
            self._open.pop(next(iter(self._open)))
        self._open[key] = fresh
        return fresh

    def _fresh_ms(self) -> int:
        """How long a quiet view is trusted without asking the store: well within the idle time."""
        return min(1_000, self._config.task_idle_s * 500)

    def _read(self, reader: Reader, tenant: str, pointer: str, now: int) -> _Open:
        current = reader.row(tenant, CURRENT_TASKS, pointer)
        row = reader.row(tenant, TASKS, current["task"]) if current else None
        if current is None or row is None or is_over(row, now, self._config.task_idle_s):
            return _Open(self._ids.uuid7(), is_new=True, remaining_ms=remaining_ms(None, self._config))
        left = remaining_ms(row, self._config)
        return _Open(current["task"], is_new=False, step=row["steps"], remaining_ms=left)
