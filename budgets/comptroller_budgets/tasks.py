"""Tasks: one unit of business work. Budgets, history and cost hang on it.

Without `task_begin` a task is implied per (principal, actor) and ends after `task_idle_s` without calls; a pending
approval keeps it open. Wall clock is active time: in flight, plus gaps up to `think_gap_s_max`; it stands still while
a person is awaited. A new step begins with the first call received after every earlier call of the task was answered.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel

from comptroller_audit.database import Relation, Row
from comptroller_audit.unit import Key, Moved, State, Stop
from comptroller_audit.vocabulary import Code, Refusal
from comptroller_budgets.limits import BudgetsConfig

__all__ = [
    "CURRENT_TASKS",
    "TASKS",
    "AwaitPerson",
    "CurrentTaskRow",
    "EnterTask",
    "LeaveTask",
    "TaskRow",
    "is_over",
]


class TaskRow(SQLModel, table=True):
    """One task. `principal` is a keyed digest. `since_ms` is when the clock was last advanced."""

    __tablename__ = "tasks"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    principal: str
    actor: str
    step_key: str
    steps: int
    active_ms: int = Field(sa_type=BigInteger)
    in_flight: int
    awaiting: int
    since_ms: int = Field(sa_type=BigInteger)
    started_ms: int = Field(sa_type=BigInteger)


class CurrentTaskRow(SQLModel, table=True):
    """Which implied task (principal, actor) is in: the authority for every process on the store."""

    __tablename__ = "current_tasks"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    task: str


TASKS = Relation(TaskRow)
CURRENT_TASKS = Relation(CurrentTaskRow)


def is_over(row: Row, now_ms: int, idle_s: int) -> bool:
    """Whether an implied task has ended by idleness."""
    return bool(row["in_flight"] <= 0 and row["awaiting"] <= 0 and now_ms - row["since_ms"] > idle_s * 1000)


def remaining_ms(row: Row | None, config: BudgetsConfig) -> int | None:
    """Active time left, or None without a limit."""
    if config.timeout_seconds is None:
        return None
    return int(config.timeout_seconds * 1000) - (row["active_ms"] if row else 0)


def _advanced(row: Row, now_ms: int, think_gap_ms: int) -> Row:
    """The row with its clock moved to `now_ms`."""
    gap = max(0, now_ms - row["since_ms"])
    if row["in_flight"] > 0:
        counted = gap
    elif row["awaiting"] > 0:
        counted = 0
    else:
        counted = min(gap, think_gap_ms)
    return {**row, "active_ms": row["active_ms"] + counted, "since_ms": max(now_ms, row["since_ms"])}


@dataclass(frozen=True, slots=True)
class EnterTask:
    """Part: the call belongs to `task`, the current task of (principal, actor); count its step and its time.

    `is_new` says the caller saw no open task. Whoever is wrong gets `Moved("task")` and looks again. `flight` is 1
    for a call that stays in flight after this commit and 0 for a read that is over; a read gives `received_ms`.
    """

    pointer: str
    task: str
    is_new: bool
    principal: str
    actor: str
    step_key: str
    received_ms: int
    flight: int
    config: BudgetsConfig
    call: str = ""
    counts_step: bool = True

    def keys(self) -> Iterable[Key]:
        return [(CURRENT_TASKS, self.pointer), (TASKS, self.task)]

    def apply(self, state: State) -> Stop | None:
        current = state.get(CURRENT_TASKS, self.pointer)
        row = self._row(state, current["task"] if current else None)
        if row is None:
            return Moved("task")
        row = self._timed(row, state.now_ms)
        limit = self.config.timeout_seconds
        if limit is not None and row["active_ms"] > limit * 1000:
            return Refusal(
                Code.TIME_EXHAUSTED,
                f"This task has used its {limit:g} seconds of active time. Hand it to a person, or wait "
                f"{self.config.task_idle_s} seconds for a new task.",
                retry="person",
                call=self.call,
                details={"budget": "timeout_seconds", "active_ms": row["active_ms"]},
            )
        if self.counts_step and self.step_key != row["step_key"]:
            most = self.config.max_steps
            if most is not None and row["steps"] + 1 > most:
                return Refusal(
                    Code.BUDGET_EXHAUSTED,
                    f"This task has taken its {most} steps (`max_steps`). Hand it to a person.",
                    retry="person",
                    call=self.call,
                    details={"budget": "max_steps", "left_micro": 0},
                )
            row = Row(row, steps=row["steps"] + 1, step_key=self.step_key)
        entered: Row = {**row, "in_flight": row["in_flight"] + self.flight}
        state.put(TASKS, self.task, entered)
        if current is None or current["task"] != self.task:
            state.put(CURRENT_TASKS, self.pointer, {"task": self.task})
        return None

    def _row(self, state: State, current: str | None) -> Row | None:
        """The task's row as it stands, a fresh one for a new task, or None when the caller's view is stale."""
        if current == self.task:
            row = state.get(TASKS, self.task)
            return None if row is None or is_over(row, state.now_ms, self.config.task_idle_s) else row
        if not self.is_new:
            return None
        other = state.get(TASKS, current) if current else None
        if other is not None and not is_over(other, state.now_ms, self.config.task_idle_s):
            return None
        begun = min(self.received_ms, state.now_ms)
        return {
            "principal": self.principal,
            "actor": self.actor,
            "step_key": "",
            "steps": 0,
            "active_ms": 0,
            "in_flight": 0,
            "awaiting": 0,
            "since_ms": begun,
            "started_ms": begun,
        }

    def _timed(self, row: Row, now_ms: int) -> Row:
        gap_ms = self.config.think_gap_s_max * 1000
        started = max(row["since_ms"], min(self.received_ms, now_ms))
        row = _advanced(row, started, gap_ms)
        if row["in_flight"] > 0:
            return _advanced(row, now_ms, gap_ms)
        return {**row, "active_ms": row["active_ms"] + now_ms - started, "since_ms": now_ms}


@dataclass(frozen=True, slots=True)
class LeaveTask:
    """Part: a call that was in flight has ended; its time is counted."""

    task: str
    config: BudgetsConfig

    def keys(self) -> Iterable[Key]:
        return [(TASKS, self.task)]

    def apply(self, state: State) -> Stop | None:
        row = state.get(TASKS, self.task)
        if row is not None:
            row = _advanced(row, state.now_ms, self.config.think_gap_s_max * 1000)
            state.put(TASKS, self.task, {**row, "in_flight": max(0, row["in_flight"] - 1)})
        return None


@dataclass(frozen=True, slots=True)
class AwaitPerson:
    """Part: a person is awaited (`by` 1) or no longer (`by` -1); meanwhile the clock stands still."""

    task: str
    by: int
    config: BudgetsConfig

    def keys(self) -> Iterable[Key]:
        return [(TASKS, self.task)]

    def apply(self, state: State) -> Stop | None:
        row = state.get(TASKS, self.task)
        if row is not None:
            row = _advanced(row, state.now_ms, self.config.think_gap_s_max * 1000)
            state.put(TASKS, self.task, {**row, "awaiting": max(0, row["awaiting"] + self.by)})
        return None
