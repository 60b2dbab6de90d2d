"""Kill switches: they change under the head lock, so what a decision saw is either still so or it decides again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from comptroller_audit.store import Store
from comptroller_audit.unit import Committed, Moved, Stopped
from comptroller_audit.vocabulary import Code, RecordType, Refusal
from comptroller_policy.switches import (
    SWITCHES,
    ClearSwitch,
    HeadUnmoved,
    SetSwitch,
    Switches,
    SwitchScope,
    switch_id,
)
from tests.audit.storekit import NOON, TENANT, bench, check_log, commit, open_call, open_store

GLOBAL = switch_id(SwitchScope.GLOBAL)
TOOL = switch_id(SwitchScope.TOOL, "refund")


def test_each_change_raises_the_sequence_and_is_recorded() -> None:
    table = bench()
    table.run(SetSwitch(TOOL, "odd refunds", "alice"))
    table.run(ClearSwitch(TOOL, "explained", "bob"))
    assert table.head.switch_seq == 2
    assert table.row(SWITCHES, TOOL) == {"active": False, "reason": "explained", "seq": 2, "at_ms": NOON}
    assert [entry.type for entry in table.log] == [RecordType.SWITCH_SET, RecordType.SWITCH_CLEARED]
    assert table.log[0].packet == {
        "v": 1,
        "switch": TOOL,
        "reason": "odd refunds",
        "by": "alice",
        "switch_seq": 1,
    }


def test_lifting_a_switch_that_is_not_set_is_recorded_and_moves_the_sequence() -> None:
    table = bench()
    assert table.run(ClearSwitch(TOOL, "", "bob")) is None
    assert table.head.switch_seq == 1
    assert len(table.log) == 1


def test_a_decision_stands_only_while_no_switch_has_moved() -> None:
    table = bench()
    assert table.run(HeadUnmoved(0, "")) is None
    table.run(SetSwitch(TOOL, "", "alice"))
    assert table.run(HeadUnmoved(0, "")) == Moved("switches")
    assert table.run(HeadUnmoved(1, "")) is None


def test_a_process_on_another_bundle_is_refused() -> None:
    table = bench()
    table.head.bundle = "new"
    stop = table.run(HeadUnmoved(0, "old"))
    assert isinstance(stop, Refusal)
    assert stop.code is Code.BUNDLE_CHANGED
    assert table.run(HeadUnmoved(0, "new")) is None


@pytest.mark.parametrize(
    ("switch", "scope"),
    [
        (GLOBAL, "global"),
        (TOOL, "tool"),
        (switch_id(SwitchScope.PRINCIPAL, "p"), "principal"),
        (switch_id(SwitchScope.TASK, "t"), "task"),
    ],
)
def test_a_switch_stops_what_it_covers_and_says_only_a_person_lifts_it(switch: str, scope: str) -> None:
    refusal = Switches(1, {switch: "secret reason"}).stops("refund", "p", "t")
    assert refusal is not None
    assert (refusal.code, refusal.retry, refusal.details) == (Code.HALTED, "person", {"switch": scope})
    assert "secret reason" not in refusal.text


def test_a_switch_stops_nothing_else() -> None:
    others = {
        switch_id(scope, "other"): "" for scope in (SwitchScope.TOOL, SwitchScope.PRINCIPAL, SwitchScope.TASK)
    }
    assert Switches(3, others).stops("refund", "p", "t") is None
    assert Switches().stops("refund", "p", "t") is None
    assert Switches(1, {switch_id(SwitchScope.TOOL, "p"): ""}).stops("refund", "p", "t") is None


def read(store: Store, tenant: str = TENANT) -> Switches:
    return store.read_now(lambda reader: Switches.read(reader, tenant))


@pytest.mark.anyio
async def test_the_active_switches_are_read_as_they_were_last_committed(
    store_url: str, tmp_path: Path
) -> None:
    async with open_store(store_url, tmp_path) as store:
        assert read(store) == Switches(0, {})
        await commit(store, SetSwitch(GLOBAL, "stop all", "alice"), SetSwitch(TOOL, "odd", "alice"))
        assert read(store) == Switches(2, {GLOBAL: "stop all", TOOL: "odd"})
        await commit(store, ClearSwitch(GLOBAL, "", "alice"))
        assert read(store) == Switches(3, {TOOL: "odd"})
        assert read(store, "other tenant") == Switches(0, {})


@pytest.mark.anyio
async def test_a_switch_holds_from_the_very_next_commit(store_url: str, tmp_path: Path) -> None:
    async with open_store(store_url, tmp_path) as store:
        await commit(store, open_call("first"))
        seen = read(store)

        outcomes = await asyncio.gather(
            *(commit(store, HeadUnmoved(seen.seq, ""), open_call(f"b{at}")) for at in range(5)),
            commit(store, SetSwitch(GLOBAL, "", "alice")),
            *(commit(store, HeadUnmoved(seen.seq, ""), open_call(f"a{at}")) for at in range(5)),
        )
        assert all(isinstance(outcome, Committed) for outcome in outcomes[:6])
        assert [outcome.stop for outcome in outcomes[6:] if isinstance(outcome, Stopped)] == [
            Moved("switches")
        ] * 5
        assert len(check_log(store)) == 7


@pytest.mark.anyio
async def test_a_switch_set_in_one_process_is_seen_by_another(store_url: str, tmp_path: Path) -> None:
    async with open_store(store_url, tmp_path) as store, open_store(store_url, tmp_path) as other:
        assert read(other).seq == 0
        await commit(store, SetSwitch(TOOL, "", "alice"))
        assert read(other).active == {TOOL: ""}
