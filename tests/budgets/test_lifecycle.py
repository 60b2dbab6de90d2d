"""Tasks begun and ended on purpose: the rules of the rows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.packets import LogRecord
from comptroller_audit.unit import Moved, Stop
from comptroller_audit.vocabulary import Code, Json, RecordType, Refusal
from comptroller_budgets.lifecycle import BeginTask, EndTask, NoteExhausted, is_exhausted
from comptroller_budgets.limits import BudgetsConfig
from comptroller_budgets.tasks import (
    CURRENT_TASKS,
    TASKS,
    AwaitPerson,
    EnterTask,
    LeaveTask,
    TaskOutcome,
)
from tests.audit.storekit import Bench, bench

CONFIG = BudgetsConfig(task_idle_s=300, tasks_per_hour_max=5)
RECORD = LogRecord(RecordType.TASK_ENDED, {"v": 1})


def begin(table: Bench, task: str, *, several: bool = False, config: BudgetsConfig = CONFIG) -> Stop | None:
    return table.run(BeginTask(task, "p", "a", several, config, RECORD, "c"))


def end(
    table: Bench, task: str, outcome: TaskOutcome = TaskOutcome.CLAIMED, *, rests: bool = False
) -> Stop | None:
    return table.run(EndTask(task, outcome, CONFIG, RECORD, rests=rests))


def enter(
    table: Bench,
    task: str,
    *,
    is_new: bool = False,
    is_named: bool = False,
    changes: bool = False,
    flight: int = 0,
) -> Stop | None:
    part = EnterTask(
        "p:a", task, is_new, "p", "a", "s", table.clock.wall_ms, flight, CONFIG, "c",
        is_named=is_named, changes=changes,
    )  # fmt: skip
    return table.run(part)


def code(stop: Stop | None) -> Code | None:
    return stop.code if isinstance(stop, Refusal) else None


def test_a_begun_task_is_current_and_keeps_the_record_that_began_it() -> None:
    table = bench()
    assert begin(table, "t1") is None
    assert table.row(CURRENT_TASKS, "p:a")["task"] == "t1"
    row = table.row(TASKS, "t1")
    assert (bool(row["begun"]), row["state"], row["records"]) == (True, "open", "0")
    assert end(table, "t1") is None
    assert table.row(TASKS, "t1")["records"] == "0,1"


def test_a_second_begun_task_waits_for_the_first_unless_several_are_allowed() -> None:
    table = bench()
    begin(table, "t1")
    assert code(begin(table, "t2")) is Code.TASK_OPEN
    assert begin(table, "t2", several=True) is None
    assert enter(table, "t1", is_named=True) is None
    end(table, "t2")
    assert begin(table, "t3") is None


def test_a_begun_task_left_idle_stands_in_nobodys_way() -> None:
    table = bench()
    begin(table, "t1")
    table.clock.pass_ms(301_000)
    assert begin(table, "t2") is None
    assert code(enter(table, "t1", is_named=True)) is Code.TASK_UNKNOWN


def test_what_has_ended_ends_once_and_takes_no_call() -> None:
    table = bench()
    begin(table, "t1")
    assert end(table, "t1", TaskOutcome.FAILED) is None
    assert code(end(table, "t1")) is Code.TASK_UNKNOWN
    assert code(enter(table, "t1", is_named=True)) is Code.TASK_UNKNOWN
    assert enter(table, "t1") == Moved("task")
    assert table.row(TASKS, "t1")["outcome"] == "failed"


def test_a_task_that_went_on_since_it_was_looked_at_does_not_end() -> None:
    table = bench()
    begin(table, "t1")
    seen = table.row(TASKS, "t1")["since_ms"]
    table.clock.pass_ms(5)
    enter(table, "t1")
    assert table.run(EndTask("t1", TaskOutcome.SUCCEEDED, CONFIG, RECORD, seen_ms=seen)) == Moved("task")
    assert table.row(TASKS, "t1")["state"] == "open"


def test_a_task_with_a_call_in_flight_does_not_end() -> None:
    table = bench()
    begin(table, "t1")
    enter(table, "t1", flight=1)
    assert code(end(table, "t1")) is Code.IN_PROGRESS
    table.run(LeaveTask("t1", CONFIG))
    assert end(table, "t1") is None


def test_after_a_hand_off_an_implied_task_reads_and_changes_nothing() -> None:
    table = bench()
    begin(table, "t1")
    end(table, "t1", TaskOutcome.HANDED_OFF, rests=True)
    assert code(enter(table, "t2", is_new=True, changes=True)) is Code.TASK_HANDED_OFF
    assert enter(table, "t2", is_new=True) is None
    assert code(enter(table, "t2", changes=True)) is Code.TASK_HANDED_OFF
    assert code(enter(table, "t2", is_named=True, changes=True)) is Code.TASK_HANDED_OFF
    table.clock.pass_ms(300_000)
    assert enter(table, "t2", changes=True) is None


def test_a_foreign_task_that_is_named_is_as_unknown_as_none() -> None:
    table = bench()
    begin(table, "t1")
    part = EnterTask("q:a", "t1", False, "q", "a", "s", 0, 0, CONFIG, is_named=True)
    assert code(table.run(part)) is Code.TASK_UNKNOWN
    assert code(enter(table, "t9", is_named=True)) is Code.TASK_UNKNOWN


def test_asking_an_exhausted_task_again_does_not_put_the_next_one_off() -> None:
    table = bench()
    begin(table, "t1")
    for _ in range(3):
        table.run(NoteExhausted("t1", CONFIG))
        table.clock.pass_ms(90_000)
    end(table, "t1")
    assert code(begin(table, "t2")) is Code.BUDGET_EXHAUSTED
    assert code(enter(table, "t3", is_new=True)) is Code.BUDGET_EXHAUSTED
    table.clock.pass_ms(31_000)
    assert begin(table, "t2") is None


def test_a_pending_person_keeps_a_begun_task_open() -> None:
    table = bench()
    begin(table, "t1")
    table.run(AwaitPerson("t1", 1, CONFIG))
    table.clock.pass_ms(10_000_000)
    assert code(begin(table, "t2")) is Code.TASK_OPEN


@given(st.lists(st.sampled_from(["begin", "end", "implied", "hour", "idle"]), max_size=40))
def test_no_more_tasks_begin_in_an_hour_than_allowed(acts: list[str]) -> None:
    table = bench()
    begun: list[int] = []
    for number, act in enumerate(acts):
        name = f"t{number}"
        if (act == "begin" and begin(table, name) is None) or (
            act == "implied" and enter(table, name, is_new=True) is None
        ):
            begun.append(table.clock.wall_ms // 3_600_000)
        elif act == "end":
            current = table.rows.get((CURRENT_TASKS, "p:a"))
            if current:
                end(table, current["task"])
        elif act in ("hour", "idle"):
            table.clock.pass_ms(3_600_000 if act == "hour" else 301_000)
    assert all(begun.count(hour) <= CONFIG.tasks_per_hour_max for hour in begun)


def test_only_a_budget_of_the_task_with_nothing_left_exhausts_it() -> None:
    def spent(code: Code, **details: Json) -> bool:
        return is_exhausted(Refusal(code, "x", details=dict(details)))

    assert spent(Code.TIME_EXHAUSTED)
    assert spent(Code.BUDGET_EXHAUSTED, scope="task", left_micro=0)
    assert not spent(Code.BUDGET_EXHAUSTED, scope="task", left_micro=1)
    assert not spent(Code.BUDGET_EXHAUSTED, scope="principal", left_micro=0)
    assert not spent(Code.DENIED, scope="task", left_micro=0)
