"""Tasks: when one is implied and ends, its steps, and its clock, which stands still while a person is awaited."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.database import Row
from comptroller_audit.unit import Moved, Stop
from comptroller_audit.vocabulary import Code, Refusal
from comptroller_budgets.limits import BudgetsConfig
from comptroller_budgets.tasks import (
    CURRENT_TASKS,
    NO_POINTER,
    TASKS,
    AwaitPerson,
    EnterTask,
    LeaveTask,
    is_over,
    remaining_ms,
)
from tests.audit.storekit import NOON, Bench, bench

CONFIG = BudgetsConfig(max_steps=3, timeout_seconds=60, task_idle_s=300, think_gap_s_max=30)


def enter(
    table: Bench, task: str = "t1", *, is_new: bool = False, flight: int = 1, **changes: Any
) -> Stop | None:
    fields: dict[str, Any] = {
        "pointer": "p:a", "principal": "p", "actor": "a", "step_key": "s1", "received_ms": table.clock.wall_ms,
        "config": CONFIG, "call": "c",
    }  # fmt: skip
    return table.run(EnterTask(task=task, is_new=is_new, flight=flight, **{**fields, **changes}))


def task(table: Bench, name: str = "t1") -> Row:
    return table.row(TASKS, name)


def begun(**changes: Any) -> Bench:
    table = bench()
    assert enter(table, is_new=True, **changes) is None
    return table


def leave(table: Bench, name: str = "t1") -> None:
    assert table.run(LeaveTask(name, CONFIG)) is None


# -- which task -----------------------------------------------------------------------------------------------


def test_the_first_call_begins_a_task() -> None:
    table = begun()
    assert table.row(CURRENT_TASKS, "p:a") == {**NO_POINTER, "task": "t1"}
    assert task(table) == {
        "principal": "p", "actor": "a", "step_key": "s1", "steps": 1, "active_ms": 0, "in_flight": 1,
        "awaiting": 0, "since_ms": NOON, "started_ms": NOON, "state": "open", "outcome": "", "code": "",
        "begun": False, "records": "", "spent_ms": 0, "ended_ms": 0,
    }  # fmt: skip


def test_of_two_owners_that_both_begin_a_task_the_second_looks_again() -> None:
    table = begun()
    assert enter(table, "t2", is_new=True) == Moved("task")
    assert (TASKS, "t2") not in table.rows
    assert enter(table, "t1") is None
    assert task(table)["in_flight"] == 2


def test_a_task_that_another_owner_replaced_is_entered_by_nobody() -> None:
    table = begun()
    leave(table)
    table.clock.pass_ms(301_000)
    assert enter(table, "t2", is_new=True) is None
    assert enter(table, "t1") == Moved("task")
    assert table.row(CURRENT_TASKS, "p:a")["task"] == "t2"


def test_a_task_that_was_left_behind_is_not_entered_as_if_it_were_new() -> None:
    table = begun()
    leave(table)
    table.clock.pass_ms(301_000)
    assert enter(table, "t2", is_new=True, flight=0) is None
    table.clock.pass_ms(301_000)
    before = task(table)
    assert enter(table, "t1", is_new=True) == Moved("task")
    assert task(table) == before


def test_a_task_nobody_began_is_not_entered() -> None:
    assert enter(bench(), "t1") == Moved("task")


@pytest.mark.parametrize(("gap_ms", "over"), [(300_000, False), (300_001, True)])
def test_a_task_ends_after_its_idle_time(gap_ms: int, over: bool) -> None:
    table = begun()
    leave(table)
    table.clock.pass_ms(gap_ms)
    assert is_over(task(table), table.clock.wall_ms, 300) == over
    assert enter(table, "t1", received_ms=table.clock.wall_ms) == (Moved("task") if over else None)
    if over:
        assert enter(table, "t2", is_new=True) is None


def test_a_call_in_flight_and_a_person_awaited_keep_a_task_open() -> None:
    table = begun()
    table.clock.pass_ms(3_600_000)
    assert not is_over(task(table), table.clock.wall_ms, 300)
    leave(table)
    table.run(AwaitPerson("t1", 1, CONFIG))
    table.clock.pass_ms(3_600_000)
    assert not is_over(task(table), table.clock.wall_ms, 300)
    table.run(AwaitPerson("t1", -1, CONFIG))
    table.clock.pass_ms(300_001)
    assert is_over(task(table), table.clock.wall_ms, 300)


def test_other_principals_and_actors_have_tasks_of_their_own() -> None:
    table = begun()
    assert enter(table, "t9", is_new=True, pointer="q|a", principal="q") is None
    assert task(table)["steps"] == task(table, "t9")["steps"] == 1


# -- the clock ------------------------------------------------------------------------------------------------


def test_time_in_flight_counts_in_full() -> None:
    table = begun()
    table.clock.pass_ms(45_000)
    leave(table)
    assert task(table)["active_ms"] == 45_000
    assert task(table)["in_flight"] == 0


def test_calls_in_flight_together_count_their_time_once() -> None:
    table = begun()
    table.clock.pass_ms(10_000)
    enter(table)
    table.clock.pass_ms(10_000)
    leave(table)
    table.clock.pass_ms(10_000)
    leave(table)
    assert task(table)["active_ms"] == 30_000


@pytest.mark.parametrize(("gap_ms", "counted_ms"), [(5_000, 5_000), (30_000, 30_000), (200_000, 30_000)])
def test_thinking_counts_up_to_the_think_gap(gap_ms: int, counted_ms: int) -> None:
    table = begun()
    leave(table)
    table.clock.pass_ms(gap_ms)
    assert enter(table) is None
    assert task(table)["active_ms"] == counted_ms


def test_the_clock_stands_still_while_a_person_is_awaited() -> None:
    table = begun(flight=0)
    table.run(AwaitPerson("t1", 1, CONFIG))
    table.clock.pass_ms(2 * 3_600_000)
    table.run(AwaitPerson("t1", -1, CONFIG))
    assert task(table)["active_ms"] == 0
    table.clock.pass_ms(1_000)
    assert enter(table) is None
    assert task(table)["active_ms"] == 1_000


def test_a_call_in_flight_counts_even_while_a_person_is_awaited() -> None:
    table = begun()
    table.run(AwaitPerson("t1", 1, CONFIG))
    table.clock.pass_ms(7_000)
    leave(table)
    assert task(table)["active_ms"] == 7_000


def test_a_read_counts_from_when_it_was_received() -> None:
    table = begun(flight=0)
    table.clock.pass_ms(10_000)
    received = table.clock.wall_ms
    table.clock.pass_ms(4_000)
    assert enter(table, flight=0, received_ms=received) is None
    assert task(table)["active_ms"] == 14_000
    assert task(table)["in_flight"] == 0


def test_reads_that_overlap_count_their_time_once() -> None:
    table = begun(flight=0)
    received = table.clock.wall_ms
    table.clock.pass_ms(10_000)
    enter(table, flight=0, received_ms=received)
    table.clock.pass_ms(1_000)
    enter(table, flight=0, received_ms=received + 1_000)
    assert task(table)["active_ms"] == 11_000


def test_a_task_that_used_its_time_takes_no_more_calls_and_ends_by_idleness() -> None:
    table = begun()
    table.clock.pass_ms(60_001)
    leave(table)
    stop = enter(table)
    assert isinstance(stop, Refusal)
    assert (stop.code, stop.retry) == (Code.TIME_EXHAUSTED, "person")
    assert "60 seconds" in stop.text
    assert task(table)["in_flight"] == 0
    table.clock.pass_ms(300_001)
    assert enter(table, "t2", is_new=True) is None


def test_exactly_the_time_allowed_is_still_allowed() -> None:
    table = begun()
    table.clock.pass_ms(60_000)
    leave(table)
    assert enter(table) is None
    assert remaining_ms(task(table), CONFIG) == 0


def test_two_chats_on_one_connection_keep_working_for_two_hours() -> None:
    """An idle gap begins a new task, so that limits per task are not used up by a day's work."""
    table, name, tasks = bench(), "", 0
    for _ in range(24):
        row = table.rows.get((TASKS, name))
        if row is None or is_over(row, table.clock.wall_ms, CONFIG.task_idle_s):
            tasks += 1
            name = f"t{tasks}"
        assert enter(table, name, is_new=(TASKS, name) not in table.rows) is None
        table.clock.pass_ms(2_000)
        leave(table, name)
        table.clock.pass_ms(303_000)
    assert tasks > 1


def test_without_a_limit_there_is_no_time_left_to_tell() -> None:
    assert remaining_ms(None, BudgetsConfig()) is None
    assert remaining_ms(None, CONFIG) == 60_000


@given(st.lists(st.tuples(st.sampled_from(["enter", "leave", "await", "decide"]), st.integers(0, 100_000))))
def test_active_time_never_exceeds_the_time_that_passed_and_never_goes_back(
    moves: list[tuple[str, int]],
) -> None:
    free = BudgetsConfig(task_idle_s=10_000_000, think_gap_s_max=30)
    table = begun(config=free)
    before = 0
    for what, pause_ms in moves:
        table.clock.pass_ms(pause_ms)
        if what == "enter":
            assert enter(table, config=free) is None
        elif what == "leave":
            table.run(LeaveTask("t1", free))
        else:
            table.run(AwaitPerson("t1", 1 if what == "await" else -1, free))
        row = task(table)
        assert before <= row["active_ms"] <= table.clock.wall_ms - NOON
        assert row["in_flight"] >= 0
        assert row["awaiting"] >= 0
        before = row["active_ms"]


# -- steps ----------------------------------------------------------------------------------------------------


def test_calls_of_one_step_count_one_step() -> None:
    table = begun()
    for _ in range(5):
        assert enter(table) is None
    assert task(table)["steps"] == 1


def test_a_task_takes_its_steps_and_no_more() -> None:
    table = begun()
    assert enter(table, step_key="s2") is None
    assert enter(table, step_key="s3") is None
    stop = enter(table, step_key="s4")
    assert isinstance(stop, Refusal)
    assert (stop.code, stop.details["budget"]) == (Code.BUDGET_EXHAUSTED, "max_steps")
    assert task(table)["steps"] == 3
    assert enter(table, step_key="s3") is None


def test_what_counts_no_step_enters_a_task_that_has_none_left() -> None:
    table = begun()
    enter(table, step_key="s2")
    enter(table, step_key="s3")
    assert enter(table, step_key="s4", counts_step=False) is None
    assert (task(table)["steps"], task(table)["step_key"]) == (3, "s3")


# -- what recovery may do -------------------------------------------------------------------------------------


def test_leaving_a_task_nobody_knows_or_twice_does_no_harm() -> None:
    table = begun()
    leave(table)
    leave(table)
    leave(table, "t9")
    assert task(table)["in_flight"] == 0
    assert (TASKS, "t9") not in table.rows
