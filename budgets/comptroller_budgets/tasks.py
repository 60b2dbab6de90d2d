"""Tasks: one unit of business work. Budgets, history and cost hang on it.

Without `task_begin` a task is implied per (principal, actor). Any task ends after `task_idle_s` without calls; a
pending approval keeps it open. How tasks are begun and ended on purpose is in lifecycle.py. Wall clock is active time: in flight, plus gaps up to `think_gap_s_max`; it stands still while
a person is awaited. A new step begins with the first call received after every earlier call of the task was answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from sqlalchemy import BigInteger, Index, Text
from sqlmodel import Field, SQLModel

from comptroller_audit.database import Relation, Row
from comptroller_audit.unit import Key, Moved, State, Stop
from comptroller_audit.vocabulary import MICRO, Code, Refusal
from comptroller_budgets.ledger import COUNTERS, Spend, open_micro, widens
from comptroller_budgets.limits import (
    BudgetsConfig,
    Charge,
    Limit,
    Scope,
    Window,
    verified_writes,
    window_end_ms,
    window_start,
)

__all__ = [
    "CURRENT_TASKS",
    "NO_POINTER",
    "TASKS",
    "AwaitPerson",
    "CurrentTaskRow",
    "EnterTask",
    "LeaveTask",
    "TaskOutcome",
    "TaskRow",
    "TaskState",
    "count_new_task",
    "fresh_task",
    "is_over",
    "new_tasks_wait",
    "pointer_of",
    "task_unknown",
]


class TaskState(StrEnum):
    OPEN = "open"
    FINISHED = "finished"


class TaskOutcome(StrEnum):
    """How a task ended. Only SUCCEEDED was proved; CLAIMED is the agent's word where nothing says what success is."""

    SUCCEEDED = "succeeded"
    CLAIMED = "claimed"
    HANDED_OFF = "handed_off"
    ABANDONED = "abandoned"
    FAILED = "failed"


class TaskRow(SQLModel, table=True):
    """One task. `principal` is a keyed digest. `since_ms` is when the clock was last advanced.

    `begun` tells a task of `task_begin` from an implied one; `records` are the log entries that began and ended it;
    `code` is the refusal code of a false claim; `spent_ms` is when a budget of it ran out, 0 while none has.
    """

    __tablename__ = "tasks"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (Index("tasks_by_state", "tenant", "begun", "state"),)
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
    state: str
    outcome: str
    code: str
    begun: bool
    records: str = Field(sa_type=Text)
    spent_ms: int = Field(sa_type=BigInteger)
    ended_ms: int = Field(sa_type=BigInteger)


class CurrentTaskRow(SQLModel, table=True):
    """Which task a call of (principal, actor) without a name belongs to: the authority for every process.

    `begun` is the task of the newest `task_begin`. Until `rest_ms` an implied task may change nothing, because the
    work is with a person; until `spent_ms` no new task begins, because the last one used up its budget.
    """

    __tablename__ = "current_tasks"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    task: str
    begun: str
    rest_ms: int = Field(sa_type=BigInteger)
    spent_ms: int = Field(sa_type=BigInteger)


TASKS = Relation(TaskRow)
CURRENT_TASKS = Relation(CurrentTaskRow)
NO_POINTER: Mapping[str, Any] = MappingProxyType({"task": "", "begun": "", "rest_ms": 0, "spent_ms": 0})
"""What stands for the missing row of a (principal, actor) that never had a task."""


def pointer_of(principal: str, actor: str) -> str:
    """The id of the row that says which task (principal, actor) is in. `principal` is the keyed digest."""
    return f"{principal}:{actor}"


def is_over(row: Row, now_ms: int, idle_s: int) -> bool:
    """Whether a task was finished, or has ended by idleness."""
    if row["state"] == TaskState.FINISHED:
        return True
    return bool(row["in_flight"] <= 0 and row["awaiting"] <= 0 and now_ms - row["since_ms"] > idle_s * 1000)


def fresh_task(principal: str, actor: str, at_ms: int, *, begun: bool) -> Row:
    """The row of a task in which nothing has happened yet."""
    return {
        "principal": principal,
        "actor": actor,
        "step_key": "",
        "steps": 0,
        "active_ms": 0,
        "in_flight": 0,
        "awaiting": 0,
        "since_ms": at_ms,
        "started_ms": at_ms,
        "state": TaskState.OPEN.value,
        "outcome": "",
        "code": "",
        "begun": begun,
        "records": "",
        "spent_ms": 0,
        "ended_ms": 0,
    }


def count_new_task(state: State, pointer: str, config: BudgetsConfig, call: str) -> Stop | None:
    """Count one more task of (principal, actor) in this hour, or the refusal when they are used up."""
    most, now = config.tasks_per_hour_max * MICRO, state.now_ms
    limit = Limit("tasks_per_hour_max", Scope.ACTOR, None, "tasks", Window.HOUR, most)
    counter = f"{Scope.ACTOR}:{pointer}:tasks:{window_start(Window.HOUR, now)}"
    return Spend(call, (Charge(limit, counter, MICRO, window_end_ms(Window.HOUR, now)),)).apply(state)


def new_tasks_wait(pointer: Mapping[str, Any], now_ms: int, call: str) -> Refusal | None:
    """The refusal while no new task may begin, because the last one used up its budget."""
    left_ms = pointer["spent_ms"] - now_ms
    if left_ms <= 0:
        return None
    wait_s = -(-left_ms // 1000)
    return Refusal(
        Code.BUDGET_EXHAUSTED,
        f"Your last task used up its budget, so no new one begins for {wait_s} seconds. What is left to do is a "
        "person's.",
        retry=f"after:{wait_s}",
        call=call,
        details={"budget": "task_idle_s", "scope": Scope.ACTOR.value},
    )


def task_unknown(call: str = "") -> Refusal:
    """One answer for tasks that are foreign, finished or unknown."""
    return Refusal(
        Code.TASK_UNKNOWN,
        "There is no such open task here. Leave the task out, or begin one with `task_begin`.",
        retry="other_arguments",
        call=call or None,
    )


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

    `is_new` says the caller saw no open task. Whoever is wrong gets `Moved("task")` and looks again. A task the call
    named need not be the current one, but open and the caller's own. `flight` is 1 for a call that stays in flight
    after this commit and 0 for a read that is over; a read gives `received_ms`. `changes` says it is a side effect.
    `awaited_ms` is the time just before it was received in which its person was asked: that is not the task's.
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
    is_named: bool = False
    changes: bool = False
    awaited_ms: int = 0

    def keys(self) -> Iterable[Key]:
        opens = [(COUNTERS, verified_writes(self.task))] if self._first_steps is not None else []
        return [(CURRENT_TASKS, self.pointer), (TASKS, self.task), *opens]

    @property
    def _first_steps(self) -> int | None:
        return self.config.first.max_steps if self.config.first is not None else None

    def _steps_open(self, state: State) -> tuple[int | None, str]:
        """How many steps the task may take now, and what would open more."""
        most, first = self.config.max_steps, self._first_steps
        if most is None or first is None:
            return most, ""
        limit = Limit("max_steps", Scope.TASK, None, "steps", Window.TASK, most * MICRO, first * MICRO)
        now = open_micro(state.get, limit, verified_writes(self.task))
        return now // MICRO, widens(limit, now)

    def apply(self, state: State) -> Stop | None:
        pointer = state.get(CURRENT_TASKS, self.pointer) or NO_POINTER
        row = self._named(state) if self.is_named else self._row(state, pointer["task"])
        if row is None:
            return task_unknown(self.call) if self.is_named else Moved("task")
        if (refusal := self._barred(state, pointer, row)) is not None:
            return refusal
        row = self._timed(row, state.now_ms)
        limit = self.config.timeout_seconds
        if limit is not None and row["active_ms"] > limit * 1000:
            return Refusal(
                Code.TIME_EXHAUSTED,
                f"This task has used its {limit:g} seconds of active time. Hand it to a person (`hand_off`), or wait "
                f"{self.config.task_idle_s} seconds for a new task.",
                retry="person",
                call=self.call,
                details={"budget": "timeout_seconds", "scope": "task", "active_ms": row["active_ms"]},
            )
        if self.counts_step and self.step_key != row["step_key"]:
            most, opens = self._steps_open(state)
            if most is not None and row["steps"] + 1 > most:
                return Refusal(
                    Code.BUDGET_EXHAUSTED,
                    f"This task has taken its {most} steps (`max_steps`).{opens} Hand it to a person (`hand_off`).",
                    retry="person",
                    call=self.call,
                    details={"budget": "max_steps", "scope": "task", "left_micro": 0},
                )
            row = Row(row, steps=row["steps"] + 1, step_key=self.step_key)
        entered: Row = {**row, "in_flight": row["in_flight"] + self.flight}
        state.put(TASKS, self.task, entered)
        if not self.is_named and pointer["task"] != self.task:
            state.put(CURRENT_TASKS, self.pointer, {**pointer, "task": self.task})
        return None

    def _named(self, state: State) -> Row | None:
        """The row of the task that was named, or None when it is not an open one of this caller."""
        row = state.get(TASKS, self.task)
        if row is None or pointer_of(row["principal"], row["actor"]) != self.pointer:
            return None
        return None if is_over(row, state.now_ms, self.config.task_idle_s) else row

    def _row(self, state: State, current: str) -> Row | None:
        """The task's row as it stands, a fresh one for a new task, or None when the caller's view is stale."""
        if current == self.task:
            row = state.get(TASKS, self.task)
            return None if row is None or is_over(row, state.now_ms, self.config.task_idle_s) else row
        # What was entered once, and left for another, is not new.
        if not self.is_new or state.get(TASKS, self.task) is not None:
            return None
        other = state.get(TASKS, current) if current else None
        if other is not None and not is_over(other, state.now_ms, self.config.task_idle_s):
            return None
        return fresh_task(self.principal, self.actor, min(self.received_ms, state.now_ms), begun=False)

    def _barred(self, state: State, pointer: Mapping[str, Any], row: Row) -> Stop | None:
        """Why an implied task may not begin now, or change anything now."""
        if row["begun"]:
            return None
        if self.changes and state.now_ms < pointer["rest_ms"]:
            return _at_rest(pointer["rest_ms"] - state.now_ms, self.call)
        if state.get(TASKS, self.task) is not None:
            return None
        if (refusal := new_tasks_wait(pointer, state.now_ms, self.call)) is not None:
            return refusal
        return count_new_task(state, self.pointer, self.config, self.call)

    def _timed(self, row: Row, now_ms: int) -> Row:
        gap_ms = self.config.think_gap_s_max * 1000
        started = max(row["since_ms"], min(self.received_ms, now_ms))
        if row["in_flight"] <= 0:
            row = Row(row, since_ms=min(started, row["since_ms"] + self.awaited_ms))
        row = _advanced(row, started, gap_ms)
        if row["in_flight"] > 0:
            return _advanced(row, now_ms, gap_ms)
        return {**row, "active_ms": row["active_ms"] + now_ms - started, "since_ms": now_ms}


@dataclass(frozen=True, slots=True)
class LeaveTask:
    """Part: a call that was in flight has ended; its time is counted, but for `awaited_ms` in which its client was asked."""

    task: str
    config: BudgetsConfig
    awaited_ms: int = 0

    def keys(self) -> Iterable[Key]:
        return [(TASKS, self.task)]

    def apply(self, state: State) -> Stop | None:
        row = state.get(TASKS, self.task)
        if row is not None:
            row = Row(row, since_ms=min(state.now_ms, row["since_ms"] + self.awaited_ms))
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


def _at_rest(left_ms: int, call: str) -> Refusal:
    wait_s = -(-left_ms // 1000)
    return Refusal(
        Code.TASK_HANDED_OFF,
        f"You handed your task to a person, so outside a task of its own nothing is changed for {wait_s} seconds. "
        "Leave that work to the person. For other work, begin a task with `task_begin`.",
        retry=f"after:{wait_s}",
        call=call,
    )
