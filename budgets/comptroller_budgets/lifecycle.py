"""Tasks begun and ended on purpose, and what follows when one has used up its budget.

One model works on one begun task at a time: the next begins when that one is finished or handed off, and when one
ran out of budget, not before `task_idle_s` after its last call. An orchestrator that the config names may keep several open
and name the task in each call.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from comptroller_audit.database import Row
from comptroller_audit.packets import LogRecord
from comptroller_audit.unit import Key, Moved, State, Stop
from comptroller_audit.vocabulary import Code, Refusal
from comptroller_budgets.limits import BudgetsConfig, Scope
from comptroller_budgets.tasks import (
    CURRENT_TASKS,
    NO_POINTER,
    TASKS,
    TaskOutcome,
    TaskState,
    count_new_task,
    fresh_task,
    is_over,
    new_tasks_wait,
    pointer_of,
    task_unknown,
)

__all__ = ["BeginTask", "EndTask", "NoteExhausted", "is_exhausted"]


@dataclass(frozen=True, slots=True)
class BeginTask:
    """Part: `task` begins, and is where calls without a name belong from now on.

    `record` is the record to append; None when the part before it in this unit has appended it. `several` lets the
    caller keep other begun tasks open.
    """

    task: str
    principal: str
    actor: str
    several: bool
    config: BudgetsConfig
    record: LogRecord | None = None
    call: str = ""

    def keys(self) -> Iterable[Key]:
        return [(CURRENT_TASKS, pointer_of(self.principal, self.actor)), (TASKS, self.task)]

    def apply(self, state: State) -> Stop | None:
        pointer_id = pointer_of(self.principal, self.actor)
        pointer = state.get(CURRENT_TASKS, pointer_id) or NO_POINTER
        before = state.get(TASKS, pointer["begun"]) if pointer["begun"] else None
        if (
            not self.several
            and before is not None
            and not is_over(before, state.now_ms, self.config.task_idle_s)
        ):
            return _still_open(pointer["begun"], self.call)
        if (refusal := new_tasks_wait(pointer, state.now_ms, self.call)) is not None:
            return refusal
        if (stop := count_new_task(state, pointer_id, self.config, self.call)) is not None:
            return stop
        row = fresh_task(self.principal, self.actor, state.now_ms, begun=True)
        state.put(TASKS, self.task, {**row, "records": _with_record(row, state, self.record)})
        state.put(CURRENT_TASKS, pointer_id, {**pointer, "task": self.task, "begun": self.task})
        return None


@dataclass(frozen=True, slots=True)
class EndTask:
    """Part: an open task ends with `outcome`; calls that name it are refused from now on.

    `seen_ms` is the row's `since_ms` when its success was looked at: if the task went on since, look again. `waiting` is
    how many of its calls waited for a person when this was composed; another number moves it, since what waits is
    closed with its task. A task with calls in flight does not end. With `rests` implied tasks of its (principal, actor) may change nothing for
    `task_idle_s`: the work is with a person.
    """

    task: str
    outcome: TaskOutcome
    config: BudgetsConfig
    record: LogRecord | None = None
    code: str = ""
    rests: bool = False
    seen_ms: int | None = None
    call: str = ""
    waiting: int | None = None

    def keys(self) -> Iterable[Key]:
        return [(TASKS, self.task)]

    def apply(self, state: State) -> Stop | None:
        row = state.get(TASKS, self.task)
        if row is None or row["state"] == TaskState.FINISHED:
            return task_unknown(self.call)
        if row["in_flight"] > 0:
            text = "A call of this task is still running. Wait for its answer, then end the task."
            return Refusal(Code.IN_PROGRESS, text, "after:2", self.call or None)
        if self.seen_ms is not None and row["since_ms"] != self.seen_ms:
            return Moved("task")
        if self.waiting is not None and row["awaiting"] != self.waiting:
            return Moved("task")
        ended: Row = {
            **row,
            "state": TaskState.FINISHED.value,
            "outcome": self.outcome.value,
            "code": self.code,
            "records": _with_record(row, state, self.record),
            "ended_ms": state.now_ms,
        }
        state.put(TASKS, self.task, ended)
        self._leave_pointer(state, pointer_of(row["principal"], row["actor"]))
        return None

    def _leave_pointer(self, state: State, pointer_id: str) -> None:
        pointer = dict(state.get(CURRENT_TASKS, pointer_id) or NO_POINTER)
        if pointer["begun"] == self.task:
            pointer["begun"] = ""
        if self.rests:
            until = state.now_ms + self.config.task_idle_s * 1000
            pointer["rest_ms"] = max(pointer["rest_ms"], until)
        state.put(CURRENT_TASKS, pointer_id, pointer)


@dataclass(frozen=True, slots=True)
class NoteExhausted:
    """Part: a budget of this task ran out: no new one begins until it would have ended by idleness.

    Ending it earlier brings no new budget, and asking again does not put the next task off.
    """

    task: str
    config: BudgetsConfig

    def keys(self) -> Iterable[Key]:
        return [(TASKS, self.task)]

    def apply(self, state: State) -> Stop | None:
        row = state.get(TASKS, self.task)
        if row is None or row["spent_ms"]:
            return None
        state.put(TASKS, self.task, {**row, "spent_ms": state.now_ms})
        pointer_id = pointer_of(row["principal"], row["actor"])
        pointer = state.get(CURRENT_TASKS, pointer_id) or NO_POINTER
        until = (
            row["since_ms"] + self.config.task_idle_s * 1000
        )  # when it would have ended by being left alone
        state.put(CURRENT_TASKS, pointer_id, {**pointer, "spent_ms": max(pointer["spent_ms"], until)})
        return None


def is_exhausted(refusal: Refusal) -> bool:
    """Whether a refusal says that the task itself has nothing left: of time, or of a counted budget."""
    if refusal.code is Code.TIME_EXHAUSTED:
        return True
    details = refusal.details
    return (
        refusal.code is Code.BUDGET_EXHAUSTED
        and details.get("scope") == Scope.TASK.value
        and details.get("left_micro") == 0
    )


def _with_record(row: Row, state: State, record: LogRecord | None) -> str:
    index = state.append(record) if record is not None else state.newest_index
    return f"{row['records']},{index}" if row["records"] else str(index)


def _still_open(task: str, call: str) -> Refusal:
    return Refusal(
        Code.TASK_OPEN,
        f"Task {task} is still open. End it first with `task_finish`, or give it to a person with `hand_off`.",
        retry="other_arguments",
        call=call,
        details={"task": task},
    )
