"""Tasks: begun, named, ended and handed over, as agents and client programs see them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.entry_shapes import Envelope
from comptroller_audit.vocabulary import JsonObject, RecordType, Subject
from comptroller_budgets.handoffs import HANDOFFS
from comptroller_budgets.tasks import TASKS
from comptroller_policy.switches import SwitchScope
from comptroller_server.call.proposal import Answer, Proposal
from comptroller_server.installation import TENANT
from comptroller_tools.desk.faults import Fault, FaultKind
from tests.scenarios.kit import (
    WHY,
    Changes,
    Shop,
    call_of,
    code_of,
    details_of,
    opened,
    structured,
    tool_of,
    until,
)

pytestmark = pytest.mark.anyio


def task_of(answer: Answer) -> str:
    return str(answer.meta["comptroller/task"])


async def begin(shop: Shop, subject: Subject | None = None, **more: Any) -> str:
    answer = await shop.call("task_begin", {"request": "Help the customer.", **more}, subject=subject)
    return str(structured(answer)["task"])


async def finish(shop: Shop, claim: str = "succeeded", **more: Any) -> Answer:
    return await shop.call("task_finish", claim=claim, **more)


async def look(shop: Shop, task: str | None = None, subject: Subject | None = None) -> Answer:
    meta = {"comptroller/task": task} if task is not None else None
    return await shop.call("lookup_invoice", subject=subject, meta=meta, invoice_id=shop.paid()[0])


def row(shop: Shop, task: str) -> dict[str, Any]:
    return shop.rows(TASKS, task)[task]


def budgets(**limits: Any) -> Changes:
    def change(config: dict[str, Any]) -> None:
        config["budgets"] = limits

    return change


def two_clients(config: dict[str, Any]) -> None:
    config["identity"]["local"]["clients"] = {"triage-bot": {}, "dispatcher": {"orchestrator": True}}


def untouched(shop: Shop) -> list[str]:
    """Invoices with money on them of which nothing was given back."""
    found = shop.sql(
        "SELECT id FROM invoices WHERE refunded_cents = 0 AND paid_cents > 2000 ORDER BY id LIMIT 4"
    )
    return [str(invoice) for (invoice,) in found]


# -- beginning and ending -----------------------------------------------------------------------------------------


async def test_a_begun_task_is_where_the_calls_after_it_belong_until_it_is_finished(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        before = await look(shop)
        began = await shop.call("task_begin", request="Refund the customer.", plan="Look, then refund.")
        task = structured(began)["task"]
        inside = await look(shop)
        done = await finish(shop, summary="All done.")
        after = await look(shop)
        assert task_of(began) == task_of(inside) == task_of(done) == task
        assert len({task_of(before), task, task_of(after)}) == 3
        assert structured(done) == {"task": task, "outcome": "claimed"}
        ended = row(shop, task)
        assert (ended["state"], ended["outcome"], ended["steps"]) == ("finished", "claimed", 1)
        (packet,) = shop.packets(RecordType.TASK_BEGUN)
        assert packet["request"] == {"text": "Refund the customer.", "trusted": False}
        assert packet["plan"] == "Look, then refund."


async def test_each_built_in_call_leaves_one_record_and_charges_no_call(tmp_path: Path) -> None:
    async with opened(tmp_path, budgets(max_tool_calls=1, max_steps=1)) as shop:
        size = len(shop.log())
        answers = [
            await shop.call("task_begin", request="Look once."),
            await shop.call("task_status"),
            await finish(shop, "failed"),
            await shop.call("hand_off", reason="I cannot go on."),
        ]
        assert [code_of(answer) for answer in answers] == [None] * 4
        kinds = [RecordType.TASK_BEGUN, RecordType.TASK_STATUS, RecordType.TASK_ENDED, RecordType.HANDED_OFF]
        assert [entry.type for entry in shop.log()[size:]] == kinds
        for answer, entry in zip(answers, shop.log()[size:], strict=True):
            Envelope.model_validate_json(json.dumps(entry.envelope))
            assert answer.meta["comptroller/receipt"] == {
                "log": "local",
                "index": entry.index,
                "leaf": entry.leaf,
            }
            assert shop.row(call_of(answer))["state"] == "done"
            assert entry.envelope["task"] == shop.row(call_of(answer))["task"]


async def test_what_a_built_in_refuses_is_on_record_once(tmp_path: Path) -> None:
    async with opened(tmp_path, secrets=("hunter2hunter2",)) as shop:
        size = len(shop.log())
        bad: list[tuple[str, JsonObject]] = [
            ("task_begin", {}),
            ("task_begin", {"request": "x", "more": 1}),
            ("task_begin", {"request": "x", "unit": "no kind"}),
            ("task_finish", {"claim": "triumph"}),
            ("hand_off", {"reason": ""}),
            ("task_status", {"task": "x"}),
        ]
        for tool, arguments in bad:
            assert code_of(await shop.call(tool, arguments)) == "invalid_arguments", tool
        secret = await shop.call("hand_off", reason="The key is hunter2hunter2.")
        assert code_of(secret) == "secret_in_arguments"
        assert code_of(await finish(shop)) == "task_unknown"
        assert [entry.type for entry in shop.log()[size:]] == [RecordType.REFUSED] * (len(bad) + 2)
        assert shop.rows(TASKS) == {}


async def test_one_begun_task_at_a_time(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        task = await begin(shop)
        refused = await shop.call("task_begin", request="Something else.")
        assert code_of(refused) == "task_open"
        assert task in refused.text
        assert code_of(await finish(shop)) is None
        assert await begin(shop) != task


async def test_a_task_does_not_end_while_a_call_of_it_runs(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        task = await begin(shop)
        go = tmp_path / "go"
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.HANG, until=go))
        refund = asyncio.create_task(shop.refund(shop.paid()[0], 5))
        await until(lambda: row(shop, task)["in_flight"] > 0)
        assert code_of(await finish(shop)) == "in_progress"
        go.touch()
        assert code_of(await refund) is None
        assert code_of(await finish(shop)) is None


async def test_a_task_that_waits_for_a_person_cannot_claim_an_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        await begin(shop)
        call = await shop.pending(shop.paid()[0])
        assert code_of(await finish(shop)) == "approval_pending"
        await shop.vote(call)
        assert code_of(await shop.resume(call)) is None
        assert code_of(await finish(shop)) is None


async def test_an_approved_call_is_resumed_in_its_own_task_after_another_began(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        call = await shop.pending(invoice)
        implied = shop.row(call)["task"]
        other = await begin(shop)
        await shop.vote(call)
        assert task_of(await shop.resume(call)) == implied != other
        assert len(shop.moved(invoice)) == 1


@pytest.mark.parametrize("tool", ["task_finish", "hand_off"])
async def test_what_waits_for_a_person_ends_with_its_task_and_is_free_again(
    tmp_path: Path, tool: str
) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        await begin(shop)
        call = await shop.pending(invoice)
        await shop.vote(call)
        arguments = {"claim": "abandoned"} if tool == "task_finish" else {"reason": "Too long."}
        assert code_of(await shop.call(tool, arguments)) is None
        assert shop.state(call) == "void"
        assert code_of(await shop.resume(call)) == "call_unknown"
        await begin(shop)
        assert await shop.pending(invoice) != call
        assert shop.moved() == []


async def test_a_halt_stops_new_tasks_and_claims_and_not_a_hand_off(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        await begin(shop)
        await shop.halt(SwitchScope.GLOBAL)
        assert code_of(await finish(shop)) == "halted"
        assert code_of(await shop.call("task_status")) is None
        assert code_of(await shop.call("hand_off", reason="It was halted.")) is None
        assert code_of(await shop.call("task_begin", request="x")) == "halted"


# -- naming -------------------------------------------------------------------------------------------------------


async def test_foreign_finished_and_unknown_tasks_answer_alike(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        theirs = await begin(shop, subject=shop.other(actor="other-bot"))
        another = await begin(shop, subject=shop.other(subject="somebody"))
        finished = await begin(shop)
        await finish(shop)
        answers = [
            await look(shop, task) for task in (theirs, another, finished, "01a2", "", "\x00", "x" * 5_000)
        ]
        assert {code_of(answer) for answer in answers} == {"task_unknown"}
        assert len({answer.text for answer in answers}) == 1
        assert code_of(await look(shop, theirs, shop.other(actor="other-bot"))) is None


async def test_a_side_effect_that_names_a_finished_task_moves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        task = await begin(shop)
        await finish(shop)
        refused = await shop.refund(shop.paid()[0], 5, meta={"comptroller/task": task})
        assert code_of(refused) == "task_unknown"
        assert shop.moved() == []


async def test_a_task_ended_in_another_process_takes_no_call_here(store_url: str, tmp_path: Path) -> None:
    async with (
        opened(tmp_path, url=store_url) as shop,
        opened(tmp_path, url=store_url, clock=shop.clock) as second,
    ):
        task = await begin(shop)
        named = {"comptroller/task": task}
        assert code_of(await shop.refund(shop.paid()[0], 5, meta=named)) is None
        assert code_of(await finish(second)) is None
        assert code_of(await shop.refund(shop.paid()[1], 5, meta=named)) == "task_unknown"
        assert len(shop.moved()) == 1


async def test_the_header_names_a_task_too_and_two_different_names_are_refused(tmp_path: Path) -> None:
    async with opened(tmp_path, two_clients) as shop:
        boss = shop.other(actor="dispatcher")
        first, second = await begin(shop, boss), await begin(shop, boss)

        async def named(header: str, meta: dict[str, Any]) -> Answer:
            proposal = Proposal(boss, "lookup_invoice", {"invoice_id": shop.paid()[0]}, meta)
            return await shop.service.pipeline.call(replace(proposal, task_header=header))

        assert task_of(await named(first, {})) == first
        assert task_of(await named(second, {"comptroller/task": second})) == second
        assert code_of(await named(first, {"comptroller/task": second})) == "invalid_arguments"
        assert code_of(await named(first, {"comptroller/task": None})) == "invalid_arguments"


async def test_an_orchestrator_keeps_two_chats_apart_and_a_model_cannot(tmp_path: Path) -> None:
    """Two hours of turns on one connection, each chat in a task of its own, under ten calls and sixty seconds."""
    async with opened(tmp_path, two_clients) as shop:
        boss = shop.other(actor="dispatcher")
        done = {"a": 0, "b": 0}
        tasks: dict[str, str] = {}
        for turn in range(120):
            chat = "ab"[turn % 2]
            if chat not in tasks:
                tasks[chat] = await begin(shop, boss)
            assert task_of(await look(shop, tasks[chat], boss)) == tasks[chat]
            done[chat] += 1
            if done[chat] % 3 == 0:
                meta = {"comptroller/task": tasks.pop(chat)}
                ended = await shop.call("task_finish", {"claim": "succeeded"}, subject=boss, meta=meta)
                assert code_of(ended) is None
            shop.clock.pass_s(9)
        assert done == {"a": 60, "b": 60}


async def test_a_request_is_trusted_from_an_orchestrator_with_a_token_only(tmp_path: Path) -> None:
    async with opened(tmp_path, two_clients) as shop:
        boss = shop.other(actor="dispatcher")
        meta = {"comptroller/request": "Resolve ticket 7."}

        async def ask(subject: Subject, *, by_token: bool) -> str | None:
            proposal = Proposal(
                subject, "task_begin", {"request": "Refund everybody."}, meta, by_token=by_token
            )
            return code_of(await shop.service.pipeline.call(proposal))

        assert await ask(boss, by_token=False) == "invalid_arguments"
        assert await ask(shop.subject, by_token=True) == "invalid_arguments"
        assert await ask(boss, by_token=True) is None
        assert code_of(await shop.refund(shop.paid()[0], 5, meta=meta)) == "invalid_arguments"
        (packet,) = shop.packets(RecordType.TASK_BEGUN)
        assert packet["request"] == {"text": "Resolve ticket 7.", "trusted": True}
        assert shop.moved() == []


# -- success ------------------------------------------------------------------------------------------------------


def refunded(config: dict[str, Any]) -> None:
    """A task about an invoice succeeds when five dollars were given back on it."""
    config["tasks"] = {
        "success": [
            {
                "fact": "invoice",
                "unit": "invoice",
                "tool": "lookup_invoice",
                "arguments": {"invoice_id": "{task.unit.id}"},
                "expect": {"refunded_usd": "5"},
            }
        ]
    }


async def test_success_is_what_the_records_show(tmp_path: Path) -> None:
    async with opened(tmp_path, refunded) as shop:
        invoice = untouched(shop)[0]
        task = await begin(shop, unit=f"invoice:{invoice}")
        assert code_of(await shop.refund(invoice, 5)) is None
        assert structured(await finish(shop))["outcome"] == "succeeded"
        (packet,) = shop.packets(RecordType.TASK_ENDED)
        assert packet["proof"][0]["result"] == "matched"
        assert packet["proof"][0]["checks"][0]["found"] == 5
        assert row(shop, task)["outcome"] == "succeeded"


async def test_success_that_is_not_found_is_a_silent_wrong_and_closes_the_task(tmp_path: Path) -> None:
    async with opened(tmp_path, refunded) as shop:
        invoice = untouched(shop)[0]
        task = await begin(shop, unit=f"invoice:{invoice}")
        answer = await finish(shop, summary="The customer has the money.")
        assert code_of(answer) == "success_not_found"
        assert details_of(answer)["class"] == "silent_wrong"
        assert "invoice.refunded_usd should be 5 and is 0" in answer.text
        assert (row(shop, task)["outcome"], row(shop, task)["code"]) == ("failed", "success_not_found")
        (packet,) = shop.packets(RecordType.TASK_ENDED)
        assert packet["problem"]["class"] == "silent_wrong"
        assert shop.row(call_of(answer))["code"] == "success_not_found"
        assert not [e for e in shop.log(RecordType.REFUSED) if e.envelope["call"] == call_of(answer)]


async def test_what_the_caller_may_not_read_proves_and_is_not_told(tmp_path: Path) -> None:
    def closed(config: dict[str, Any]) -> None:
        refunded(config)
        tool_of(config, "lookup_invoice")["roles"] = ["auditor"]

    async with opened(tmp_path, closed) as shop:
        invoice = untouched(shop)[0]
        await begin(shop, unit=f"invoice:{invoice}")
        answer = await finish(shop)
        assert code_of(answer) == "success_not_found"
        assert "refunded_usd" not in answer.text
        assert "invoice is not as it should be" in answer.text


async def test_a_look_up_that_fails_proves_nothing_and_leaves_the_task_open(tmp_path: Path) -> None:
    async with opened(tmp_path, refunded) as shop:
        task = await begin(shop, unit="invoice:inv_nothing")
        assert code_of(await finish(shop)) == "lookup_failed"
        assert row(shop, task)["state"] == "open"
        assert code_of(await finish(shop, "failed")) is None


async def test_a_condition_for_other_records_leaves_success_a_claim(tmp_path: Path) -> None:
    async with opened(tmp_path, refunded) as shop:
        await begin(shop, unit="ticket:tkt_1")
        assert structured(await finish(shop))["outcome"] == "claimed"
        await begin(shop)
        assert structured(await finish(shop))["outcome"] == "claimed"


async def test_a_condition_on_the_records_acted_on_holds_for_each_of_them(tmp_path: Path) -> None:
    def each(config: dict[str, Any]) -> None:
        refunded(config)
        (rule,) = config["tasks"]["success"]
        del rule["unit"]
        rule["arguments"] = {"invoice_id": "{task.records.invoice}"}

    async with opened(tmp_path, each) as shop:
        fresh = untouched(shop)
        await begin(shop)
        assert structured(await finish(shop))["outcome"] == "claimed"  # it acted on none
        await begin(shop)
        for invoice in fresh[:2]:
            assert code_of(await shop.refund(invoice, 5)) is None
        assert structured(await finish(shop))["outcome"] == "succeeded"
        await begin(shop)
        assert code_of(await shop.refund(fresh[2], 5)) is None
        assert code_of(await shop.refund(fresh[3], 6)) is None
        assert code_of(await finish(shop)) == "success_not_found"


# -- what rules out a fresh budget --------------------------------------------------------------------------------


async def test_ending_an_exhausted_task_brings_no_new_budget(tmp_path: Path) -> None:
    async with opened(tmp_path, budgets(max_tool_calls=2)) as shop:
        await begin(shop)
        assert [code_of(await look(shop)) for _ in range(3)] == [None, None, "budget_exhausted"]
        assert code_of(await finish(shop, "abandoned")) is None
        again = await shop.call("task_begin", request="The same again.")
        assert code_of(again) == code_of(await look(shop)) == "budget_exhausted"
        assert details_of(again)["retry"].startswith("after:")
        shop.clock.pass_s(301)
        await begin(shop)
        assert code_of(await look(shop)) is None


async def test_a_large_call_that_is_refused_does_not_exhaust_its_task(tmp_path: Path) -> None:
    window = {"scope": "task", "window": "task", "unit": "refunded_usd", "max": 10}
    async with opened(tmp_path, budgets(windows=[window])) as shop:
        await begin(shop)
        assert code_of(await shop.refund(shop.paid()[0], 15)) == "budget_exhausted"
        await finish(shop, "failed")
        await begin(shop)
        assert code_of(await shop.refund(shop.paid()[0], 5)) is None


async def test_after_a_hand_off_nothing_is_changed_outside_a_begun_task(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        await begin(shop)
        assert code_of(await shop.call("hand_off", reason="Too hard.")) is None
        assert code_of(await look(shop)) is None
        refused = await shop.refund(invoice, 5)
        assert code_of(refused) == "task_handed_off"
        assert "person" in refused.text
        assert shop.moved() == []
        assert code_of(await shop.refund(invoice, 5, subject=shop.other(actor="other-bot"))) is None
        await begin(shop)
        assert code_of(await shop.refund(invoice, 6)) is None
        await finish(shop)
        shop.clock.pass_s(301)
        assert code_of(await shop.refund(invoice, 7)) is None
        assert len(shop.moved()) == 3


async def test_no_more_tasks_begin_in_an_hour_than_the_config_says(tmp_path: Path) -> None:
    async with opened(tmp_path, budgets(tasks_per_hour_max=3)) as shop:
        for _ in range(3):
            await begin(shop)
            await finish(shop)
        refused = await shop.call("task_begin", request="A fourth.")
        assert code_of(refused) == code_of(await look(shop)) == "budget_exhausted"
        assert "tasks_per_hour_max" in refused.text
        await begin(shop, subject=shop.other(actor="other-bot"))
        shop.clock.pass_s(3_600)
        await begin(shop)


async def test_two_hundred_fresh_tasks_that_propose_one_refund_have_one_effect(tmp_path: Path) -> None:
    def roomy(config: dict[str, Any]) -> None:
        config["budgets"] = {"tasks_per_hour_max": 1_000}
        config["limits"] = {"attempts_per_minute_max": 1_000}

    async with opened(tmp_path, roomy) as shop:
        invoice = shop.paid()[0]
        for turn in range(100):
            await begin(shop)
            await shop.refund(invoice, 5)
            await finish(shop)
            fresh = shop.other(actor=f"connection-{turn}")
            await shop.refund(invoice, 5, subject=fresh)
        assert len(shop.moved(invoice)) == 1


# -- hand-offs ----------------------------------------------------------------------------------------------------


async def test_a_hand_off_tells_a_person_the_context_the_evidence_and_the_exact_step(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        task = await begin(shop, plan="Refund it all.", unit=f"invoice:{invoice}")
        read = await look(shop)
        refused = await shop.refund(invoice, 51)
        answer = await shop.call("hand_off", reason="Above my limit.", tried="51 USD.", need="Refund 51 USD.")
        assert structured(answer) == {"task": task, "outcome": "handed_off"}
        (packet,) = shop.packets(RecordType.HANDED_OFF)
        assert (packet["reason"], packet["tried"], packet["need"]) == (
            "Above my limit.",
            "51 USD.",
            "Refund 51 USD.",
        )
        assert packet["context"]["request"] == {"text": "Help the customer.", "trusted": False}
        assert packet["context"]["unit"] == f"invoice:{invoice}"
        assert packet["context"]["objective"]
        assert {call["call"]: call["state"] for call in packet["evidence"]["calls"]} == {
            call_of(read): "done",
            call_of(refused): "refused",
        }
        assert packet["evidence"]["refs"][0]["key"] == invoice
        assert packet["step"]["call"] == call_of(refused)
        assert packet["step"]["arguments"]["amount_usd"] == 51
        assert packet["step"]["why"] == WHY
        assert packet["step"]["problem"]["code"] == "denied"
        assert (row(shop, task)["state"], row(shop, task)["outcome"]) == ("finished", "handed_off")
        assert shop.rows(HANDOFFS, task)[task]["cause"] == "asked"


async def test_a_call_that_is_not_as_it_should_be_is_handed_over_by_itself(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        task = await begin(shop)
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.SHORT, cents=100))
        wrong = await shop.refund(invoice, 5)
        assert shop.state(call_of(wrong)) == "handed_off"
        (packet,) = shop.packets(RecordType.HANDED_OFF)
        assert packet["cause"] == "call_handed_off"
        assert packet["step"]["call"] == call_of(wrong)
        assert packet["evidence"]["calls"][0]["verification"] == "differs"
        assert shop.rows(HANDOFFS, task)[task]["state"] == "open"
        await shop.call("hand_off", reason="It went wrong.")
        assert len(shop.rows(HANDOFFS, task)[task]["records"].split(",")) == 2


async def test_an_exhausted_task_is_handed_over_once(tmp_path: Path) -> None:
    async with opened(tmp_path, budgets(max_tool_calls=1)) as shop:
        task = await begin(shop)
        assert [code_of(await look(shop)) for _ in range(4)] == [None, *["budget_exhausted"] * 3]
        (packet,) = shop.packets(RecordType.HANDED_OFF)
        assert (packet["cause"], packet["task"]) == ("exhausted", task)


async def test_a_hand_off_that_a_dying_server_did_not_write_is_written_by_the_next_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as shop:
        task = await begin(shop)
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.SHORT, cents=100))
        with monkeypatch.context() as dying:
            dying.setattr("comptroller_server.tasks.handing_over.HandOvers.after_refusal", _nothing)
            await shop.refund(shop.paid()[0], 5)
        assert shop.rows(HANDOFFS, task) == {}
        await shop.service.task_rounds.round(TENANT)
        assert shop.rows(HANDOFFS, task)[task]["cause"] == "call_handed_off"
        await shop.service.task_rounds.round(TENANT)
        assert len(shop.packets(RecordType.HANDED_OFF)) == 1


async def _nothing(*_: object) -> None:
    return


# -- left alone ---------------------------------------------------------------------------------------------------


async def test_a_begun_task_that_is_left_idle_is_abandoned_and_recorded_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        task = await begin(shop)
        await look(shop)
        assert await shop.service.task_rounds.round(TENANT) == []
        shop.clock.pass_s(301)
        assert code_of(await look(shop, task)) == "task_unknown"
        assert await shop.service.task_rounds.round(TENANT) == [task]
        assert await shop.service.task_rounds.round(TENANT) == []
        (packet,) = shop.packets(RecordType.TASK_ENDED)
        assert (packet["outcome"], packet["by"]) == ("abandoned", "idle")
        assert row(shop, task)["outcome"] == "abandoned"
        await begin(shop)


async def test_a_task_that_waits_for_a_person_is_not_idle(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        await begin(shop)
        call = await shop.pending(shop.paid()[0])
        shop.clock.pass_s(5_000)
        assert await shop.service.task_rounds.round(TENANT) == []
        await shop.vote(call)
        assert code_of(await shop.resume(call)) is None


async def test_status_says_what_is_left(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        assert structured(await shop.call("task_status"))["task"] is None
        task = await begin(shop)
        await look(shop)
        status = structured(await shop.call("task_status"))
        assert status["task"] == task
        assert status["steps"] == {"used": 1, "max": 8}
        assert status["calls"] == {"used": 1, "max": 10}
        assert status["active_seconds"]["max"] == 60
        left = status["left"]
        assert (left["max_tool_calls"], left["max_steps"]) == ("9", "7")


async def test_what_the_built_in_tools_cost_in_a_list_is_known(tmp_path: Path) -> None:
    """About 400 tokens at four characters each; docs/tools.md says so."""
    async with opened(tmp_path) as shop:
        names = {"task_begin", "task_status", "task_finish", "hand_off"}
        listed = [t for t in shop.service.pipeline.listing(shop.subject) if t.name in names]
        assert len(listed) == 4
        assert sum(len(t.name + t.description + str(t.input_schema)) for t in listed) <= 1_700
