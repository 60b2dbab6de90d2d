"""`comptroller tasks rollback`: what a task did is taken back, newest first, each by a governed call; once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.vocabulary import RecordType
from comptroller_tools.desk.faults import Fault, FaultKind, Point
from tests.scenarios.compensation_kit import money, reversing
from tests.scenarios.kit import WHY, call_of, code_of, opened, structured, tool_of
from tests.server.cli_kit import Desk, RealClock, accepting_own_files, at_work

pytestmark = pytest.mark.anyio


def desk(config: dict[str, Any]) -> None:
    """Refunds can be reversed, for people who may approve; what is sent cannot."""
    accepting_own_files(config)
    reversing(config)
    tool_of(config, "cancel_refund")["approval"] = [{"role": "approver", "at_least": 1}]
    tool_of(config, "issue_refund").pop("approval")
    write = {"allow_actions": ["create"], "roles": ["support_agent"]}
    config["tools"] += [{"name": "draft_reply", **write}, {"name": "send_reply", **write}]


def spared(config: dict[str, Any]) -> None:
    """The same, where Comptroller's own reversals ask nobody."""
    desk(config)
    tool_of(config, "cancel_refund").pop("approval")


async def two_refunds(at: Desk) -> tuple[str, list[str]]:
    """A task with two refunds; its id and the calls."""
    shop = at.shop
    answers = [await shop.refund(invoice, 5 + n) for n, invoice in enumerate(shop.paid()[:2])]
    assert [code_of(answer) for answer in answers] == [None, None], answers
    return str(shop.row(call_of(answers[0]))["task"]), [call_of(answer) for answer in answers]


def credential(at: Desk) -> tuple[str, str]:
    return "--credential-file", str(at.credential)


async def test_a_plan_is_shown_and_nothing_is_done(tmp_path: Path) -> None:
    async with at_work(tmp_path, spared) as at:
        task, calls = await two_refunds(at)
        told = await at.run("tasks", "rollback", task)
        assert told.index(calls[1]) < told.index(calls[0])
        assert "cancel_refund" in told and "say --yes" in told
        assert [kind for kind, _ in money(at.shop)] == ["refund_issued", "refund_issued"]


async def test_what_a_task_did_is_reversed_newest_first_and_only_once(tmp_path: Path) -> None:
    async with at_work(tmp_path, spared) as at:
        task, calls = await two_refunds(at)
        told = await at.json("tasks", "rollback", task, "--yes", *credential(at))
        assert told["ok"] and [step["call"] for step in told["steps"]] == calls[::-1]
        assert money(at.shop)[2:] == [("refund_cancelled", 600), ("refund_cancelled", 500)]
        assert {at.shop.state(call) for call in calls} == {"compensated"}
        reversal = at.shop.packets(RecordType.ACTION)[-1]
        assert (reversal["compensates"], reversal["ordered_by"]) == (calls[0], "olga")
        assert "compensated with cancel_refund" in await at.run("why", calls[0])
        assert f"to reverse call {calls[0]}" in await at.run("why", str(reversal["call"]))
        again = await at.json("tasks", "rollback", task, "--yes", *credential(at))
        assert again["ok"] and again["steps"] == again["left"] == []
        assert len(money(at.shop)) == 4


async def test_a_task_that_was_begun_and_finished_by_name_is_taken_back_whole(tmp_path: Path) -> None:
    async with at_work(tmp_path, spared) as at:
        await at.shop.call("task_begin", request="Be generous.")
        task, _ = await two_refunds(at)
        await at.shop.call("task_finish", claim="succeeded")
        told = await at.json("tasks", "rollback", task, "--yes", *credential(at))
        assert told["ok"] and told["left"] == []
        assert len(money(at.shop)) == 4


async def test_the_person_who_orders_it_opens_the_gates_of_their_roles(tmp_path: Path) -> None:
    def asked(config: dict[str, Any]) -> None:
        desk(config)
        config["rollout"] = {"mode": "auto"}
        gate = {"role": "approver", "at_least": 1, "when": 'resource.key != "never"'}
        tool_of(config, "cancel_refund")["approval"] = [gate]

    async with at_work(tmp_path, asked) as at:
        pending = await at.shop.refund(at.shop.paid()[0], 5)
        assert code_of(pending) == "approval_pending"
        assert "Should it go wrong, `cancel_refund` reverses it" in pending.text
        assert "takes it back, on the same approval" in await at.run("approvals", "show", call_of(pending))
        await at.run("approvals", "approve", call_of(pending), "--yes", *credential(at))
        done = await at.shop.resume(call_of(pending))
        assert code_of(done) is None, done.text
        call = call_of(done)
        told = await at.json("tasks", "rollback", str(at.shop.row(call)["task"]), "--yes", *credential(at))
        assert told["ok"]
        assert at.shop.packets(RecordType.ACTION)[-1]["approvals"][0]["approver"] == "olga"
        assert money(at.shop) == [("refund_issued", 500), ("refund_cancelled", 500)]


async def test_without_a_credential_nothing_is_reversed(tmp_path: Path) -> None:
    async with at_work(tmp_path, spared) as at:
        task, _ = await two_refunds(at)
        told = await at.json("tasks", "rollback", task, "--yes", code=1)
        assert not told["tried"] and "credential" in told["problem"]
        assert len(money(at.shop)) == 2


async def test_what_nothing_reverses_is_named_and_left(tmp_path: Path) -> None:
    async with at_work(tmp_path, spared) as at:
        task, calls = await two_refunds(at)
        ticket = at.shop.sql("SELECT id FROM tickets WHERE status = 'open' ORDER BY id")[0][0]
        drafted = await at.shop.call("draft_reply", ticket_id=ticket, body="Hello.", why=WHY)
        assert structured(drafted)["reply_id"]
        told = await at.json("tasks", "rollback", task, "--yes", *credential(at), code=1)
        assert not told["ok"]
        assert [step["state"] for step in told["steps"]] == ["reversed", "reversed"]
        (left,) = told["left"]
        assert left["call"] == call_of(drafted) and "nothing reverses it" in left["why"]
        assert at.shop.state(call_of(drafted)) == "done"
        assert {at.shop.state(call) for call in calls} == {"compensated"}


async def test_a_failure_ends_it_and_what_was_done_is_told(tmp_path: Path) -> None:
    async with at_work(tmp_path, spared) as at:
        task, calls = await two_refunds(at)
        at.shop.misbehave(Fault(tool="cancel_refund", kind=FaultKind.REFUSE))
        told = await at.json("tasks", "rollback", task, "--yes", *credential(at), code=1)
        assert [step["state"] for step in told["steps"]] == ["failed", "planned"]
        assert {at.shop.state(call) for call in calls} == {"done"}
        at.shop.behave()
        again = await at.json("tasks", "rollback", task, "--yes", *credential(at))
        assert again["ok"] and len(money(at.shop)) == 4


async def test_a_reversal_in_doubt_is_not_tried_again(tmp_path: Path) -> None:
    async with at_work(tmp_path, spared) as at:
        task, calls = await two_refunds(at)
        at.shop.misbehave(Fault(tool="cancel_refund", kind=FaultKind.RAISE, point=Point.AFTER_WRITE))
        told = await at.run("tasks", "rollback", task, "--yes", *credential(at), code=1)
        assert "0 of 2 reversed, 1 not tried" in told
        at.shop.behave()
        again = await at.json("tasks", "rollback", task, "--yes", *credential(at), code=1)
        assert [step["call"] for step in again["steps"]] == [calls[0]]
        assert "in doubt" in again["left"][0]["why"]
        assert [kind for kind, _ in money(at.shop)].count("refund_cancelled") == 2
        await at.shop.service.recovery.round("local")
        assert {at.shop.state(call) for call in calls} == {"compensated"}


async def test_other_rules_than_those_in_force_reverse_nothing(tmp_path: Path) -> None:
    async with at_work(tmp_path, spared) as at:
        task, _ = await two_refunds(at)
        (tmp_path / "policies" / "more.cedar").write_text(
            '@id("x") @reason("x") forbid (principal, action == Comptroller::Action::"send_reply", resource);'
        )
        await at.run("tasks", "rollback", task, "--yes", *credential(at), code=2)
        assert len(money(at.shop)) == 2


async def test_a_person_without_the_role_that_its_gate_asks_for_reverses_nothing(tmp_path: Path) -> None:
    def bossed(config: dict[str, Any]) -> None:
        spared(config)
        tool_of(config, "cancel_refund")["approval"] = [{"role": "boss", "at_least": 1}]

    async with at_work(tmp_path, spared) as at:
        task, _ = await two_refunds(at)
    async with opened(tmp_path, bossed, clock=RealClock()) as shop:
        told = await Desk(shop, tmp_path).json("tasks", "rollback", task, "--yes", *credential(at), code=1)
        assert "did not agree to it (boss)" in told["steps"][0]["problem"]
        assert [kind for kind, _ in money(shop)] == ["refund_issued", "refund_issued"]
