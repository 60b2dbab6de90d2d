"""Halting: at every step of a call, for one tool, person, task or everything; and a policy that was replaced."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from comptroller_audit.database import Database
from comptroller_audit.unit import Unit
from comptroller_audit.verify import verify
from comptroller_audit.vocabulary import CallState, RecordType
from comptroller_policy.activations import ActivateBundle
from comptroller_policy.switches import SwitchScope
from comptroller_tools.desk.faults import Fault, FaultKind
from tests.scenarios.kit import Faults, Shop, call_of, code_of, details_of, finish_now, opened, tool_of, until

pytestmark = pytest.mark.anyio


def scoped(shop: Shop, scope: SwitchScope, task: str) -> str:
    return {
        SwitchScope.GLOBAL: "",
        SwitchScope.TOOL: "issue_refund",
        SwitchScope.PRINCIPAL: shop.service.installation.principal_key,
        SwitchScope.TASK: task,
    }[scope]


@pytest.mark.parametrize("scope", list(SwitchScope))
async def test_a_switch_stops_what_it_names_and_lifting_it_lets_go_on(
    store_url: str, tmp_path: Path, scope: SwitchScope
) -> None:
    async with opened(tmp_path, url=store_url) as shop:
        first, second = shop.paid()[:2]
        read = await shop.call("lookup_invoice", invoice_id=first)
        name = scoped(shop, scope, str(read.meta["comptroller/task"]))
        await shop.halt(scope, name)
        refused = await shop.refund(first, 5)
        assert code_of(refused) == "halted"
        assert details_of(refused)["retry"] == "person"
        again = await shop.call("lookup_invoice", invoice_id=first)
        assert code_of(again) == (None if scope is SwitchScope.TOOL else "halted")
        other = await shop.call(
            "lookup_invoice", invoice_id=first, subject=shop.other(actor="b", subject="b")
        )
        assert code_of(other) == ("halted" if scope is SwitchScope.GLOBAL else None)
        assert shop.moved() == []
        await shop.lift(scope, name)
        assert code_of(await shop.refund(second, 5)) is None


@pytest.mark.parametrize("scope", list(SwitchScope))
async def test_a_switch_stops_a_resume_and_the_approval_stays_unused(
    tmp_path: Path, scope: SwitchScope
) -> None:
    async with opened(tmp_path) as shop:
        call = await shop.pending(shop.paid()[0])
        await shop.vote(call)
        name = scoped(shop, scope, str(shop.row(call)["task"]))
        await shop.halt(scope, name)
        assert code_of(await shop.resume(call)) == "halted"
        assert shop.state(call) == "pending"
        assert shop.moved() == []
        await shop.lift(scope, name)
        assert code_of(await shop.resume(call)) is None


@pytest.mark.parametrize("scope", list(SwitchScope))
async def test_a_switch_between_commit_and_dispatch_keeps_the_effect_from_happening(
    tmp_path: Path, scope: SwitchScope
) -> None:
    faults = Faults()
    async with opened(tmp_path, faults=faults) as shop:
        invoice = shop.paid()[0]
        read = await shop.call("lookup_invoice", invoice_id=invoice)
        task = str(read.meta["comptroller/task"])
        async with opened(tmp_path, clock=shop.clock) as second:
            ready = asyncio.get_running_loop().create_future()

            def halted_meanwhile() -> None:
                # The other process has committed the switch; this one sees it now, after its own commit.
                del faults.at["dispatch.before"]
                table = "UPDATE switches SET active = 1"
                other = shop.store.database.connect()
                other.execute("BEGIN IMMEDIATE")
                other.execute(table)
                other.execute("UPDATE log_head SET switch_seq = switch_seq + 1")
                other.execute("COMMIT")
                other.close()
                finish_now(shop.service.watch.look("local"))
                ready.set_result(None)

            await second.halt(scope, scoped(shop, scope, task))
            await second.lift(scope, scoped(shop, scope, task))
            await shop.service.watch.look("local")
            faults.at["dispatch.before"] = halted_meanwhile
            answer = await shop.refund(invoice, 5)
            assert ready.done()
        assert code_of(answer) == "halted"
        assert shop.state(call_of(answer)) == "failed_before_effect"
        assert shop.moved() == []


@pytest.mark.parametrize("scope", list(SwitchScope))
async def test_a_switch_that_comes_while_facts_are_looked_up_stops_the_call_before_its_commit(
    tmp_path: Path, scope: SwitchScope
) -> None:
    async with opened(tmp_path) as shop:
        invoice, reached, go = shop.paid()[0], tmp_path / "reached", tmp_path / "go"
        read = await shop.call("lookup_invoice", invoice_id=invoice)
        shop.misbehave(Fault(tool="lookup_invoice", kind=FaultKind.HANG, until=go, reached=reached))
        refund = asyncio.create_task(shop.refund(invoice, 5))
        await until(reached.exists)
        await shop.halt(scope, scoped(shop, scope, str(read.meta["comptroller/task"])))
        go.touch()
        assert code_of(await refund) == "halted"
        assert shop.moved() == []
        assert shop.packets(RecordType.ACTION) == []


async def test_64_calls_behind_one_slot_and_a_halt_dispatch_nothing_more(tmp_path: Path) -> None:
    def one_slot(config: dict[str, Any]) -> None:
        tool_of(config, "issue_refund")["limits"]["concurrency_max"] = 1
        config["budgets"] = {}
        config["limits"] = {"attempts_per_minute_max": 1000}

    async with opened(tmp_path, one_slot) as shop:
        invoices = (shop.paid(1_000) * 2)[:65]
        reached, go = tmp_path / "reached", tmp_path / "go"
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.HANG, until=go, reached=reached))
        running = asyncio.create_task(shop.refund(invoices[0], 5))
        await until(reached.exists)
        queued = [
            asyncio.create_task(shop.refund(invoice, (100 + at) / 100))
            for at, invoice in enumerate(invoices[1:])
        ]
        await asyncio.sleep(0.1)  # most are behind the slot by now; the law holds wherever they are
        await shop.halt(SwitchScope.GLOBAL)
        go.touch()
        assert code_of(await running) is None
        answers = await asyncio.gather(*queued)
        assert {code_of(a) for a in answers} == {"halted"}
        assert len(shop.moved()) == 1
        assert len(shop.calls(CallState.COMMITTED)) == 0


async def test_a_tool_that_is_halted_is_not_looked_up_with_either(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        await shop.halt(SwitchScope.TOOL, "lookup_invoice")
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "lookup_failed"
        assert shop.moved() == []


async def test_a_read_that_was_under_way_when_everything_was_halted_releases_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice, reached, go = shop.paid()[0], tmp_path / "reached", tmp_path / "go"
        shop.misbehave(Fault(tool="lookup_invoice", kind=FaultKind.HANG, until=go, reached=reached))
        reading = asyncio.create_task(shop.call("lookup_invoice", invoice_id=invoice))
        await until(reached.exists)
        await shop.halt(SwitchScope.GLOBAL)
        go.touch()
        answer = await reading
        assert code_of(answer) == "halted"
        assert answer.structured is None
        assert "inv_" not in answer.text


async def test_another_process_obeys_a_switch_within_a_moment(store_url: str, tmp_path: Path) -> None:
    async with (
        opened(tmp_path, url=store_url) as shop,
        opened(tmp_path, url=store_url, clock=shop.clock) as second,
    ):
        await shop.halt(SwitchScope.GLOBAL)
        await until(lambda: second.service.watch.switches("local").active)
        assert code_of(await second.refund(shop.paid()[0], 5)) == "halted"
        assert code_of(await second.call("lookup_invoice", invoice_id=shop.paid()[0])) == "halted"


async def test_a_process_on_a_replaced_policy_refuses_before_and_after_it_notices(
    store_url: str, tmp_path: Path
) -> None:
    async with opened(tmp_path, url=store_url) as shop:
        first, second = shop.paid()[:2]
        call = await shop.pending(second)
        await shop.vote(call)
        await shop.service.watch.look("local")
        await shop.store.commit(
            "local", Unit([ActivateBundle("f" * 64, "permit (principal, action, resource);")])
        )
        assert code_of(await shop.refund(first, 5)) == "bundle_changed"
        await shop.service.watch.look("local")
        assert code_of(await shop.refund(first, 5)) == "bundle_changed"
        assert code_of(await shop.resume(call)) == "bundle_changed"
        assert code_of(await shop.refund(first, 30)) == "bundle_changed"
        assert shop.moved() == []


async def test_a_process_started_on_another_policy_takes_the_store_over(tmp_path: Path) -> None:
    def smaller(config: dict[str, Any]) -> None:
        tool_of(config, "issue_refund")["constraints"]["max_amount_usd"] = 10

    async with opened(tmp_path) as shop:
        first = shop.paid()[0]
        (tmp_path / "comptroller.yaml").unlink()
        async with opened(tmp_path, smaller, clock=shop.clock) as second:
            assert code_of(await shop.refund(first, 15)) == "bundle_changed"
            assert code_of(await second.refund(first, 15)) == "denied"
            assert code_of(await second.refund(first, 9)) is None
        assert len(shop.moved()) == 1


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        (
            "switch_seq = switch_seq - 1",
            "the head row counts 1 changes of switches, and the newest record of one says 2",
        ),
        ("bundle = 'another'", "the head row puts rules in force that no record did"),
    ],
)
async def test_a_halt_or_rules_that_somebody_took_back_in_the_database_are_found(
    store_url: str, tmp_path: Path, changed: str, found: str
) -> None:
    async with opened(tmp_path, url=store_url) as shop:
        await shop.halt(SwitchScope.TOOL, "cancel_refund")
        await shop.halt(SwitchScope.GLOBAL)
        ring = shop.service.installation.config.store.keys_file
    assert verify(store_url, ring=ring).ok
    database = Database(store_url)
    with database.engine.begin() as connection:
        connection.execute(text(f"UPDATE log_head SET {changed}"))  # noqa: S608 -- fixed texts
    database.close()
    assert verify(store_url).ok, "what payloads say is not read without keys"
    report = verify(store_url, ring=ring)
    assert [finding.text for finding in report.tenants[0].findings] == [found]


@pytest.mark.parametrize(
    ("tampering", "found"),
    [
        (
            "DELETE FROM switches WHERE id = 'global:'",
            ["'global:' is gone from its table, and entry SET set it; `comptroller halt` sets it again"],
        ),
        (
            "UPDATE switches SET active = false WHERE id = 'global:'",
            [
                "'global:' is not active in its table at change 2, and entry SET set it at change 2; `comptroller halt` sets it again"
            ],
        ),
        (
            "UPDATE switches SET active = false, seq = 9 WHERE id = 'global:'",
            [
                "'global:' is not active in its table at change 9, and entry SET set it at change 2; `comptroller halt` sets it again"
            ],
        ),
        (
            "UPDATE switches SET active = true WHERE id = 'tool:cancel_refund'",
            [
                "'tool:cancel_refund' is active in its table at change 3, and entry LIFTED lifted it at change 3"
            ],
        ),
        (
            "UPDATE switches SET id = 'tool:none' WHERE id = 'tool:cancel_refund'",
            [
                "'tool:cancel_refund' is gone from its table, and entry LIFTED lifted it",
                "'tool:none' is in its table, and no record set it",
            ],
        ),
    ],
)
async def test_a_row_of_a_switch_that_is_not_as_its_record_says_is_found(
    store_url: str, tmp_path: Path, tampering: str, found: list[str]
) -> None:
    async with opened(tmp_path, url=store_url) as shop:
        await shop.halt(SwitchScope.TOOL, "cancel_refund")
        await shop.halt(SwitchScope.GLOBAL)
        await shop.lift(SwitchScope.TOOL, "cancel_refund")
        entry = {
            "SET": shop.log(RecordType.SWITCH_SET)[-1],
            "LIFTED": shop.log(RecordType.SWITCH_CLEARED)[-1],
        }
        ring = shop.service.installation.config.store.keys_file
    assert verify(store_url, ring=ring).ok
    database = Database(store_url)
    with database.engine.begin() as connection:
        assert connection.execute(text(tampering)).rowcount == 1
    database.close()
    assert verify(store_url).ok, "which switch a record set is not read without keys"
    told = [finding.text for finding in verify(store_url, ring=ring).tenants[0].findings]
    for word, logged in entry.items():
        told = [line.replace(f"entry {logged.index} ", f"entry {word} ") for line in told]
    assert told == [f"the switch {line}" for line in found]


async def test_a_switch_whose_newest_record_does_not_open_is_not_held_against_its_row(
    store_url: str, tmp_path: Path
) -> None:
    """One finding for one thing that is wrong: the record, and not also the row that it set."""
    async with opened(tmp_path, url=store_url) as shop:
        await shop.halt(SwitchScope.GLOBAL)
        await shop.lift(SwitchScope.GLOBAL)
        (lifted,) = shop.log(RecordType.SWITCH_CLEARED)
        ring = shop.service.installation.config.store.keys_file
    database = Database(store_url)
    with database.engine.begin() as connection:
        gone = "UPDATE log_payload SET wrapped = sealed WHERE idx = :idx"
        assert connection.execute(text(gone), {"idx": lifted.index}).rowcount == 1
    database.close()
    (finding,) = verify(store_url, ring=ring).tenants[0].findings
    assert "does not open" in finding.text
