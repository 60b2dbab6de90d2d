"""Calls whose process is gone: looked up, never dispatched; and a process that lost its lease stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.calls import CALLS
from comptroller_audit.unit import Key, State, Unit
from comptroller_audit.vocabulary import CallState, RecordType
from comptroller_tools.desk.faults import Fault, FaultKind, Point
from tests.scenarios.kit import Clock, Faults, call_of, code_of, opened, tool_of, until

pytestmark = pytest.mark.anyio


class Crash(BaseException):
    """The process ends here: nothing after it runs."""


class Reassign:
    """Part: a call belongs to a process that is no more."""

    def __init__(self, call: str, owner: str) -> None:
        self._call = call
        self._owner = owner

    def keys(self) -> list[Key]:
        return [(CALLS, self._call)]

    def apply(self, state: State) -> None:
        row = state.get(CALLS, self._call)
        assert row is not None
        state.put(CALLS, self._call, {**row, "owner": self._owner})


@asynccontextmanager
async def crashed(folder: Path, point: str, clock: Clock, invoice: int = 0) -> AsyncGenerator[str]:
    """A refund that got as far as `point` in a process that is gone now; its call id."""
    faults = Faults()

    def crash() -> None:
        raise Crash

    async with opened(folder, clock=clock, faults=faults) as shop:
        faults.at[point] = crash
        with pytest.raises(Crash):
            await shop.refund(shop.paid()[invoice], 5)
        ((call, _),) = shop.calls(CallState.COMMITTED)
        faults.at.clear()
    yield call


async def test_a_call_that_was_never_dispatched_is_not_done_and_may_be_made_again(tmp_path: Path) -> None:
    clock = Clock()
    async with crashed(tmp_path, "dispatch.before", clock) as call, opened(tmp_path, clock=clock) as shop:
        (found,) = shop.service.recovered
        assert (found.call, found.state) == (call, CallState.NOT_DONE)
        assert shop.moved() == []
        again = await shop.refund(shop.paid()[0], 5)
        assert code_of(again) is None
        assert call_of(again) != call
        assert len(shop.moved()) == 1


async def test_a_call_that_was_dispatched_is_found_done_and_not_made_again(tmp_path: Path) -> None:
    clock = Clock()
    async with crashed(tmp_path, "dispatch.after", clock) as call, opened(tmp_path, clock=clock) as shop:
        (found,) = shop.service.recovered
        assert (found.call, found.state) == (call, CallState.DONE)
        (packet,) = shop.packets(RecordType.RECOVERED)
        assert packet["output"]["refund"]["amount_usd"] == 5
        assert code_of(await shop.refund(shop.paid()[0], 5)) == "already_done"
        assert len(shop.moved()) == 1
        assert await shop.service.recovery.round("local") == []


async def test_without_a_look_up_a_lost_call_is_in_doubt(tmp_path: Path) -> None:
    def no_look_up(config: dict[str, Any]) -> None:
        del tool_of(config, "issue_refund")["recover"]

    clock = Clock()
    async with (
        crashed(tmp_path, "dispatch.after", clock) as call,
        opened(tmp_path, no_look_up, clock=clock) as shop,
    ):
        assert [(f.call, f.state) for f in shop.service.recovered] == [(call, CallState.IN_DOUBT)]
        assert code_of(await shop.refund(shop.paid()[0], 5)) == "in_doubt"
        assert len(shop.moved()) == 1


async def test_a_look_up_that_fails_leaves_the_call_in_doubt_until_one_succeeds(tmp_path: Path) -> None:
    clock = Clock()
    async with crashed(tmp_path, "dispatch.after", clock) as call:
        async with opened(tmp_path, clock=clock) as shop:
            shop.misbehave(Fault(tool="find_refund", kind=FaultKind.RAISE))
            await shop.service.recovery.round("local")
        async with opened(tmp_path, clock=clock) as shop:
            shop.behave()
            await shop.service.recovery.round("local")
            assert shop.state(call) == "done"


async def test_two_processes_that_recover_together_settle_a_call_once(store_url: str, tmp_path: Path) -> None:
    async with (
        opened(tmp_path, url=store_url) as shop,
        opened(tmp_path, url=store_url, clock=shop.clock) as second,
    ):
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.RAISE, point=Point.AFTER_WRITE))
        call = call_of(await shop.refund(shop.paid()[0], 5))
        rounds = await asyncio.gather(*(s.service.recovery.round("local") for s in (shop, second, shop)))
        assert sum(len(found) for found in rounds) == 1
        assert shop.state(call) == "done"
        assert len(shop.packets(RecordType.RECOVERED)) == 1


async def test_a_call_that_runs_in_another_process_is_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        reached, go = tmp_path / "reached", tmp_path / "go"
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.HANG, until=go, reached=reached))
        running = asyncio.create_task(shop.refund(shop.paid()[0], 5))
        await until(reached.exists)
        async with opened(tmp_path, clock=shop.clock) as second:
            assert second.service.recovered == []
            assert await second.service.recovery.round("local") == []
        go.touch()
        assert code_of(await running) is None
        assert len(shop.moved()) == 1


async def test_what_a_living_process_has_in_doubt_is_not_called_undone(tmp_path: Path) -> None:
    def quick(config: dict[str, Any]) -> None:
        tool_of(config, "issue_refund")["limits"]["timeout_s"] = 1

    async with opened(tmp_path, quick) as shop:
        go = tmp_path / "go"
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.HANG, until=go))
        call = call_of(await shop.refund(shop.paid()[0], 5))
        async with opened(tmp_path, quick, clock=shop.clock) as second:
            assert await shop.service.recovery.round("local") == []
            assert await second.service.recovery.round("local") == []
            assert shop.state(call) == "in_doubt"
            go.touch()
            await until(shop.moved)
            (found,) = await second.service.recovery.round("local")
            assert (found.call, found.state) == (call, CallState.DONE)


async def test_an_outcome_that_comes_after_its_call_was_taken_over_is_kept_as_evidence(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as shop:
        reached, go = tmp_path / "reached", tmp_path / "go"
        shop.misbehave(
            Fault(
                tool="issue_refund", kind=FaultKind.HANG, until=go, reached=reached, point=Point.AFTER_WRITE
            )
        )
        running = asyncio.create_task(shop.refund(shop.paid()[0], 5))
        await until(reached.exists)
        ((call, _),) = shop.calls(CallState.COMMITTED)
        async with opened(tmp_path, clock=shop.clock) as second:
            await shop.store.commit("local", Unit([Reassign(call, "01a1ee87-0000-7000-8000-00000000dead")]))
            (found,) = await second.service.recovery.round("local")
            assert found.state is CallState.DONE
        go.touch()
        assert code_of(await running) == "in_doubt"
        assert shop.state(call) == "done"
        assert len(shop.packets(RecordType.LATE_OUTCOME)) == 1
        assert len(shop.moved()) == 1


async def test_a_process_that_lost_its_lease_does_not_dispatch(tmp_path: Path) -> None:
    faults = Faults()
    async with opened(tmp_path, faults=faults) as shop:

        def lose() -> None:
            for lock in (tmp_path / "comptroller.db.owners").iterdir():
                lock.unlink()

        faults.at["dispatch.before"] = lose
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "store_unavailable"
        assert shop.state(call_of(answer)) == "failed_before_effect"
        assert shop.moved() == []


async def test_the_budget_of_a_lost_call_is_spent_if_it_was_done_and_free_if_not(tmp_path: Path) -> None:
    def narrow(config: dict[str, Any]) -> None:
        windows = [{"scope": "principal", "window": "day", "unit": "refunded_usd", "max": 8}]
        config["budgets"] = {"windows": windows}

    clock = Clock()
    async with crashed(tmp_path, "dispatch.before", clock), opened(tmp_path, narrow, clock=clock) as shop:
        assert code_of(await shop.refund(shop.paid()[0], 8)) is None
    async with crashed(tmp_path, "dispatch.after", clock, 1), opened(tmp_path, narrow, clock=clock) as shop:
        assert code_of(await shop.refund(shop.paid()[2], 1)) == "budget_exhausted"
