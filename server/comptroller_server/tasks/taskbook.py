"""Step 1: which task and step a call belongs to, as this process sees it. The store's row is the authority."""

from __future__ import annotations

from dataclasses import dataclass, replace

from comptroller_audit.ambient import Clock, Ids
from comptroller_audit.database import Row
from comptroller_audit.owners import Owner
from comptroller_audit.store import Reader, Store
from comptroller_audit.vocabulary import Subject
from comptroller_budgets.limits import BudgetsConfig
from comptroller_budgets.tasks import CURRENT_TASKS, TASKS, is_over, pointer_of, remaining_ms

__all__ = ["TASK_ID_CHARS_MAX", "TaskBook", "TaskView"]

VIEWS_MAX = 10_000
"""Open views kept in memory; the oldest idle ones are forgotten and read again when needed."""
TASK_ID_CHARS_MAX = 64


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as step 1 fixed it for one call. `pointer` is the row that says which task is current.

    `is_named`: the call named this task. `is_unknown`: it named one that is no open task of the caller's, and this is
    the current one instead, for the record of the refusal.
    """

    id: str
    pointer: str
    step: int
    step_key: str
    is_new: bool
    remaining_ms: int | None
    is_named: bool = False
    is_unknown: bool = False


@dataclass(slots=True)
class _Open:
    task: str
    pointer: str
    is_new: bool
    step: int = 0
    unanswered: int = 0
    touched_ms: int = 0
    remaining_ms: int | None = None


class TaskBook:
    """Tasks per (principal, actor). `begin` at each call received, `answered` at each answer."""

    def __init__(self, store: Store, owner: Owner, clock: Clock, ids: Ids, config: BudgetsConfig) -> None:
        self._store = store
        self._owner = owner
        self._clock = clock
        self._ids = ids
        self._config = config
        self._open: dict[tuple[str, str], _Open] = {}
        """By (tenant, task)."""
        self._current: dict[tuple[str, str], str] = {}
        """By (tenant, pointer): the task of calls without a name."""

    def follow(self, config: BudgetsConfig) -> None:
        """Other limits are in force from now on; the tasks are the same."""
        self._config = config

    async def begin(self, subject: Subject, principal_key: str, named: str | None = None) -> TaskView:
        """The task and step of a call received now."""
        pointer = pointer_of(principal_key, subject.actor.id)
        if named is not None:
            opened = await self._find(subject.tenant, pointer, named)
            if opened is not None:
                return replace(self._receive(opened), is_named=True)
        view = self._receive(await self._find_current(subject.tenant, pointer))
        return view if named is None else replace(view, is_unknown=True)

    def answered(self, tenant: str, view: TaskView) -> None:
        """A call of this task was answered; when none is left, the next one begins a new step."""
        opened = self._open.get((tenant, view.id))
        if opened is not None:
            opened.unanswered -= 1
            opened.touched_ms = self._clock.now_ms()

    async def look_again(self, tenant: str, view: TaskView) -> TaskView:
        """After a commit said that its basis moved: what the store says now. A named task stays the one it is."""
        if view.is_named:
            fresh = await self._store.read(lambda r: self._read_named(r, tenant, view.pointer, view.id))
            return replace(view, remaining_ms=fresh.remaining_ms) if fresh is not None else view
        now = self._clock.now_ms()
        fresh = await self._store.read(lambda reader: self._read(reader, tenant, view.pointer, now))
        opened = self._open.get((tenant, fresh.task))
        if opened is None:
            opened = fresh
            self._keep(tenant, fresh)
        else:
            opened.is_new, opened.remaining_ms = fresh.is_new, fresh.remaining_ms
        if fresh.task != view.id:
            self._open.pop((tenant, view.id), None)
            opened.unanswered, opened.step, opened.touched_ms = opened.unanswered + 1, opened.step or 1, now
        self._current[tenant, view.pointer] = opened.task
        return self._view(opened)

    def entered(self, tenant: str, view: TaskView) -> None:
        """A commit wrote the task's row: it is no longer new."""
        opened = self._open.get((tenant, view.id))
        if opened is not None:
            opened.is_new = False

    def began(self, tenant: str, view: TaskView, task: str) -> TaskView:
        """A commit began `task`: the call that asked for it, and those without a name after it, belong there."""
        self.answered(tenant, view)
        opened = _Open(task, view.pointer, is_new=False, unanswered=1, touched_ms=self._clock.now_ms())
        opened.remaining_ms = remaining_ms(None, self._config)
        self._keep(tenant, opened)
        self._current[tenant, view.pointer] = task
        return self._view(opened)

    def ended(self, tenant: str, view: TaskView) -> None:
        """A commit ended the task: what is known of it holds no more."""
        self._open.pop((tenant, view.id), None)
        self._current.pop((tenant, view.pointer), None)

    # -- parts ----------------------------------------------------------------------------------------------------

    def _receive(self, opened: _Open) -> TaskView:
        if opened.unanswered == 0:
            opened.step += 1
        opened.unanswered += 1
        opened.touched_ms = self._clock.now_ms()
        return self._view(opened)

    def _view(self, opened: _Open) -> TaskView:
        key = f"{self._owner.id}:{opened.step}"
        return TaskView(opened.task, opened.pointer, opened.step, key, opened.is_new, opened.remaining_ms)

    async def _find(self, tenant: str, pointer: str, named: str) -> _Open | None:
        """The task a call named, if it is an open one of this (principal, actor)."""
        opened = self._open.get((tenant, named))
        if opened is None or opened.is_new or self._is_stale(opened):
            if not named.isprintable() or len(named) > TASK_ID_CHARS_MAX:
                return None  # no id of ours, and some of them no database can be asked for
            fresh = await self._store.read(lambda r: self._read_named(r, tenant, pointer, named))
            if fresh is None:
                return None
            opened = self._refreshed(tenant, fresh)
        return opened if opened.pointer == pointer else None

    async def _find_current(self, tenant: str, pointer: str) -> _Open:
        opened = self._known_current(tenant, pointer)
        if opened is not None and not self._is_stale(opened):
            return opened
        now = self._clock.now_ms()
        fresh = await self._store.read(lambda reader: self._read(reader, tenant, pointer, now))
        opened = self._known_current(tenant, pointer)  # another call may have looked meanwhile
        if opened is not None and opened.task != fresh.task:
            if opened.unanswered > 0:
                return opened
            self._open.pop((tenant, opened.task), None)
        while len(self._current) >= VIEWS_MAX:
            self._current.pop(next(iter(self._current)))
        self._current[tenant, pointer] = fresh.task
        return self._refreshed(tenant, fresh)

    def _known_current(self, tenant: str, pointer: str) -> _Open | None:
        return self._open.get((tenant, self._current.get((tenant, pointer), "")))

    def _refreshed(self, tenant: str, fresh: _Open) -> _Open:
        opened = self._open.get((tenant, fresh.task))
        if opened is None:
            self._keep(tenant, fresh)
            return fresh
        opened.is_new, opened.remaining_ms = fresh.is_new, fresh.remaining_ms
        return opened

    def _keep(self, tenant: str, opened: _Open) -> None:
        while len(self._open) >= VIEWS_MAX:
            self._open.pop(next(iter(self._open)))
        self._open[tenant, opened.task] = opened

    def _is_stale(self, opened: _Open) -> bool:
        """A quiet view is trusted without asking the store for well less than the idle time."""
        fresh_ms = min(1_000, self._config.task_idle_s * 500)
        return opened.unanswered == 0 and self._clock.now_ms() - opened.touched_ms > fresh_ms

    def _read(self, reader: Reader, tenant: str, pointer: str, now: int) -> _Open:
        current = reader.row(tenant, CURRENT_TASKS, pointer)
        row = reader.row(tenant, TASKS, current["task"]) if current and current["task"] else None
        if current is None or row is None or is_over(row, now, self._config.task_idle_s):
            left = remaining_ms(None, self._config)
            return _Open(self._ids.uuid7(), pointer, is_new=True, remaining_ms=left)
        return self._opened(current["task"], pointer, row)

    def _read_named(self, reader: Reader, tenant: str, pointer: str, named: str) -> _Open | None:
        """An open task of this (principal, actor). Foreign, finished and unknown ones are alike."""
        row = reader.row(tenant, TASKS, named)
        if row is None or pointer_of(row["principal"], row["actor"]) != pointer:
            return None
        if is_over(row, self._clock.now_ms(), self._config.task_idle_s):
            return None
        return self._opened(named, pointer, row)

    def _opened(self, task: str, pointer: str, row: Row) -> _Open:
        left = remaining_ms(row, self._config)
        return _Open(task, pointer, is_new=False, step=row["steps"], remaining_ms=left)
