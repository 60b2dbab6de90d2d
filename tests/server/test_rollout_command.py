"""`comptroller rollout`: the evidence as a table, one step up for a person who may, and the way down for everybody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.vocabulary import RecordType
from comptroller_policy.rollout import ROLLOUTS
from comptroller_tools.desk.faults import Fault, FaultKind
from tests.scenarios.kit import Changes, Shop, call_of, code_of, placed, tool_of
from tests.server.cli_kit import Desk, accepting_own_files, at_work, run

pytestmark = pytest.mark.anyio


def rollout(percent: int = 0, mode: str = "human_approval", after: int = 2) -> Changes:
    def change(config: dict[str, Any]) -> None:
        accepting_own_files(config)
        config["budgets"] = {}
        config["rollout"] = {"mode": mode, "canary_percent": percent, "promote_after": after}
        tool_of(config, "issue_refund")["compensate"] = {
            "tool": "cancel_refund",
            "arguments": {"refund_id": "{output.refund_id}"},
        }
        # People decide about cancellations that agents ask for, not about those that take back what went wrong.
        tool_of(config, "cancel_refund")["approval"] = [
            {"role": "approver", "when": 'principal.kind != "service"'}
        ]

    return change


async def agreed(shop: Shop, count: int, first: int = 0) -> None:
    """Refunds that are done and verified; a person agrees to those outside the canary."""
    for invoice in shop.paid()[first : first + count]:
        answer = await shop.refund(invoice, 5)
        if code_of(answer) == "approval_pending":
            await shop.vote(call_of(answer))
            answer = await shop.resume(call_of(answer))
        assert code_of(answer) is None


def promotion(desk: Desk, *more: str) -> tuple[str, ...]:
    return ("rollout", "promote", "--tool", "issue_refund", "--credential-file", str(desk.credential), *more)


async def test_a_tool_goes_up_step_by_step_on_evidence_until_nobody_is_asked(tmp_path: Path) -> None:
    async with at_work(tmp_path, rollout()) as desk:
        refused = await desk.run(*promotion(desk), code=1)
        assert "2 more of 2 clean verified calls in a row (0 now)" in refused
        await agreed(desk.shop, 2)
        too_far = await desk.run(*promotion(desk, "--to", "25"), code=1)
        assert "one step at a time: the next is 5 %" in too_far
        said = await desk.run(*promotion(desk, "--to", "5", "--reason", "two good ones"))
        assert "5 % of its calls go without a person" in said
        # Evidence begins anew with each step.
        assert "2 more of 2 clean" in await desk.run(*promotion(desk), code=1)
        await agreed(desk.shop, 2, first=2)
        assert "25 %" in await desk.run(*promotion(desk))
        await agreed(desk.shop, 2, first=4)
        assert "50 %" in await desk.run(*promotion(desk, "--to", "50"))
        await agreed(desk.shop, 2, first=6)
        assert "100 %" in await desk.run(*promotion(desk, "--to", "auto"))
        for invoice in desk.shop.paid()[8:12]:
            assert code_of(await desk.shop.refund(invoice, 1)) is None
        assert "it is at 100 % already" in await desk.run(*promotion(desk), code=1)
        changes = desk.shop.packets(RecordType.ROLLOUT_CHANGED)
        assert [(c["before"], c["percent"], c["by"]) for c in changes] == [
            (0, 5, "olga"),
            (5, 25, "olga"),
            (25, 50, "olga"),
            (50, 100, "olga"),
        ]
        assert changes[0]["reason"] == "two good ones"
        assert (
            changes[0]["evidence"] | {"calls": 2, "verified": 2, "agreed": 2, "clean": 2}
            == changes[0]["evidence"]
        )


async def test_a_promotion_may_ask_for_approvals_that_changed_nothing(tmp_path: Path) -> None:
    def unedited(config: dict[str, Any]) -> None:
        rollout(after=1)(config)
        config["rollout"]["promote_unedited"] = 2

    async with at_work(tmp_path, unedited) as desk:
        await agreed(desk.shop, 2)
        call = await desk.shop.pending(desk.shop.paid()[2], 45)
        await desk.shop.edit(call, amount_usd=40)
        await desk.shop.vote(call)
        assert code_of(await desk.shop.resume(call)) is None
        refused = await desk.run(*promotion(desk), code=1)
        assert "2 more of 2 approvals in a row that changed nothing (0 now; 1 edited" in refused
        await agreed(desk.shop, 1, first=3)
        [standing] = (await desk.json("rollout", "status", "--tool", "issue_refund"))["tools"]
        assert (standing["unedited"], standing["edited"], standing["clean"]) == (1, 1, 4)
        assert "1 of 2" in await desk.run("rollout", "status", "--tool", "issue_refund")
        await agreed(desk.shop, 1, first=4)
        assert "5 % of its calls go without a person" in await desk.run(*promotion(desk))
        (change,) = desk.shop.packets(RecordType.ROLLOUT_CHANGED)
        assert (change["evidence"]["unedited"], change["evidence"]["edited"]) == (2, 1)


async def test_only_an_approver_with_a_credential_promotes(tmp_path: Path) -> None:
    async with at_work(tmp_path, rollout()) as desk:
        await agreed(desk.shop, 2)
        told = await desk.run("rollout", "promote", "--tool", "issue_refund", code=1)
        assert "Nothing was changed: this needs the credential" in told
        clerk = tmp_path / "carl.credential"
        words = ("approver", "add", "carl", "--role", "clerk", "--credential-out", str(clerk))
        await desk.run(*words, "--credential-file", str(desk.credential))
        carl = ("rollout", "promote", "--tool", "issue_refund", "--credential-file", str(clerk))
        assert "Nothing was changed" in await desk.run(*carl, code=1)
        assert desk.shop.packets(RecordType.ROLLOUT_CHANGED) == []
        document = await desk.json(*promotion(desk))
        assert (document["ok"], document["tools"][0]["percent"]) == (True, 5)


async def test_a_credential_that_the_agent_can_read_promotes_nothing(tmp_path: Path) -> None:
    def strict(config: dict[str, Any]) -> None:
        rollout()(config)
        config["approvals"] = {}

    async with at_work(tmp_path, strict) as desk:
        await agreed(desk.shop, 2)
        assert "Nothing was changed" in await desk.run(*promotion(desk), code=1)
        assert desk.shop.rows(ROLLOUTS, "issue_refund")["issue_refund"]["word"] == "configured"


async def test_a_no_or_a_wrong_outcome_among_the_calls_is_named_and_begins_the_count_anew(
    tmp_path: Path,
) -> None:
    async with at_work(tmp_path, rollout(after=1)) as desk:
        await agreed(desk.shop, 1)
        call = await desk.shop.pending(desk.shop.paid()[1], 5)
        await desk.run("approvals", "deny", call, "--credential-file", str(desk.credential))
        told = await desk.run(*promotion(desk), code=1)
        assert "1 denied by a person" in told
        await agreed(desk.shop, 1, first=2)
        desk.shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.SHORT, cents=100, times=1))
        wrong = await desk.shop.pending(desk.shop.paid()[3], 5)
        await desk.shop.vote(wrong)
        assert (await desk.shop.resume(wrong)).is_error
        assert "1 silent_wrong" in await desk.run(*promotion(desk), code=1)


async def test_status_shows_the_evidence_and_what_is_missing(tmp_path: Path) -> None:
    async with at_work(tmp_path, rollout(percent=5, after=3)) as desk:
        await agreed(desk.shop, 0)
        inside = [one for one in (await desk.json("rollout", "status"))["tools"] if one["reversible"]]
        assert [one["tool"] for one in inside] == ["issue_refund"]
        told = await desk.run("rollout", "status")
        assert "TOOL" in told and "SILENT_WRONG" in told
        row = next(line for line in told.splitlines() if line.startswith("issue_refund"))
        assert row.split()[1:3] == ["5", "%"]
        never = next(line for line in told.splitlines() if line.startswith("cancel_refund"))
        assert "never" in never
        assert "issue_refund, to 25 %: 3 more of 3 clean verified calls" in told
        assert "declares no `compensate`" in told
        one = await desk.json("rollout", "status", "--tool", "issue_refund")
        assert one["tools"][0]["missing"] and one["promote_after"] == 3


async def test_demote_works_at_once_for_everybody_and_promotion_begins_below(tmp_path: Path) -> None:
    async with at_work(tmp_path, rollout(percent=100)) as desk:
        assert code_of(await desk.shop.refund(desk.shop.paid()[0], 5)) is None
        said = await desk.run("rollout", "demote", "--reason", "looks odd")
        assert "issue_refund: a person is asked about every call" in said
        assert code_of(await desk.shop.refund(desk.shop.paid()[1], 5)) == "approval_pending"
        (changed,) = (c for c in desk.shop.packets(RecordType.ROLLOUT_CHANGED) if c["tool"] == "issue_refund")
        assert (changed["before"], changed["percent"], changed["reason"]) == (100, 0, "looks odd")
        count = len(desk.shop.packets(RecordType.ROLLOUT_CHANGED))
        await desk.run("rollout", "demote")
        assert len(desk.shop.packets(RecordType.ROLLOUT_CHANGED)) == count
        await agreed(desk.shop, 2, first=2)
        assert "5 %" in await desk.run(*promotion(desk))
        told = await desk.run("rollout", "status")
        assert "issue_refund: promoted by olga" in told


async def test_in_auto_a_breach_asks_people_and_promotion_gives_the_way_back_even_to_final_tools(
    tmp_path: Path,
) -> None:
    def final(config: dict[str, Any]) -> None:
        rollout(mode="auto", after=1)(config)
        del tool_of(config, "issue_refund")["compensate"]

    async with at_work(tmp_path, final) as desk:
        assert code_of(await desk.shop.refund(desk.shop.paid()[0], 5)) is None
        await desk.run("rollout", "demote", "--tool", "issue_refund")
        await agreed(desk.shop, 1, first=1)
        assert "100 %" in await desk.run(*promotion(desk))
        assert code_of(await desk.shop.refund(desk.shop.paid()[2], 5)) is None


async def test_without_a_tool_all_with_a_next_step_are_promoted_or_none(tmp_path: Path) -> None:
    def two(config: dict[str, Any]) -> None:
        rollout(after=1)(config)
        compensate = {"tool": "cancel_refund", "arguments": {"refund_id": "{output.refund_id}"}}
        config["tools"].append(
            {
                "name": "set_ticket_status",
                "allow_actions": ["update"],
                "compensate": compensate | {"arguments": {"refund_id": "{output.change_id}"}},
            }
        )

    async with at_work(tmp_path, two) as desk:
        everything = ("rollout", "promote", "--credential-file", str(desk.credential))
        await agreed(desk.shop, 1)
        told = await desk.run(*everything, code=1)
        assert "set_ticket_status: 1 more of 1" in told
        assert "cancel_refund" not in told
        assert desk.shop.packets(RecordType.ROLLOUT_CHANGED) == []


async def test_mistakes_change_nothing_and_say_what_to_do(tmp_path: Path) -> None:
    async with at_work(tmp_path, rollout()) as desk:
        for words in (
            ("rollout", "promote", "--tool", "lookup_invoice"),
            ("rollout", "demote", "--tool", "issue_refunds"),
            ("rollout", "promote", "--to", "many"),
            ("rollout", "promote", "--to", "101"),
            ("rollout", "promote", "--to", "0"),
        ):
            await desk.run(*words, code=2)
        assert desk.shop.packets(RecordType.ROLLOUT_CHANGED) == []


async def test_without_a_rollout_there_is_nothing_to_change(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        assert "There is no rollout" in await desk.run("rollout", "status")
        for words in (("rollout", "demote"), ("rollout", "promote")):
            await desk.run(*words, code=2)


async def test_a_recorded_decision_is_explained_with_its_draw(tmp_path: Path) -> None:
    async with at_work(tmp_path, rollout(percent=100)) as desk:
        done = await desk.shop.refund(desk.shop.paid()[0], 5)
        again = await desk.json("policy", "explain", call_of(done))
        assert (again["recorded"]["verdict"], again["differs"]) == ("allow", False)
        gates = [one for one in again["policies"] if one["id"] == "rollout.human_approval.issue_refund"]
        assert [one["matched"] for one in gates] == [False]
        assert "!context.rollout.canary" in await desk.run("policy", "show", "issue_refund")
        told = await desk.run("why", call_of(done))
        assert "canary" in told and "of 10000" in told


def test_without_a_store_there_is_no_status(tmp_path: Path) -> None:
    placed(tmp_path, rollout())
    missing = run(tmp_path, "rollout", "status")
    assert missing.exit_code == 2
    assert "there is no store" in missing.stderr
