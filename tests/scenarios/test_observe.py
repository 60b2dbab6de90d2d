"""`mode: observe`: reads and declared creates run whatever the rules say, for seven days; everything else as always."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.unit import Unit
from comptroller_audit.vocabulary import Effect, RecordType
from comptroller_policy.model import Decision, Verdict
from comptroller_policy.observing import (
    CLOCK_MS_BACK_MAX,
    OBSERVE_MS_MAX,
    BeginObserving,
    observable,
    read_span,
)
from comptroller_policy.switches import SwitchScope
from comptroller_server.call.observing import META_OBSERVED
from comptroller_server.installation import TENANT
from tests.scenarios.kit import Changes, Clock, Shop, call_of, code_of, opened, placed
from tests.server.cli_kit import accepting_own_files, at_work, run

WEEK_S = OBSERVE_MS_MAX / 1000
NOT_THIS_INVOICE = """
@id("not-this-one") @reason("Nobody reads invoices.")
forbid (principal, action == Comptroller::Action::"lookup_invoice", resource)
when { context.input.invoice_id != "" };
@id("nor-what-it-says") @reason("Nobody reads what tickets say.")
forbid (principal, action == Comptroller::Action::"get_ticket:after", resource)
when { context.output.ticket_id != "" };
"""


def observing(config: dict[str, Any]) -> None:
    config["mode"] = "observe"


def with_effect(effect: str) -> Changes:
    def change(config: dict[str, Any]) -> None:
        observing(config)
        refund = next(tool for tool in config["tools"] if tool["name"] == "issue_refund")
        refund["allow_actions"] = [effect]

    return change


async def would_wait(shop: Shop, at: int, usd: float = 30) -> str:
    """The code of a refund that needs a person: empty where it ran."""
    answer = await shop.refund(shop.paid()[at], usd)
    return str(code_of(answer)) if answer.is_error else ""


@pytest.mark.anyio
async def test_a_create_that_a_rule_or_a_gate_would_have_stopped_runs_and_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path, observing) as shop:
        first, second, third = shop.paid()[:3]
        within = await shop.refund(first, 5)
        gated = await shop.refund(second, 30)
        denied = await shop.refund(third, 60)
        assert not (within.is_error or gated.is_error or denied.is_error), (gated.text, denied.text)
        assert [effect.invoice_id for effect in shop.moved()] == [first, second, third]
        assert "no rule would have stopped this call" in within.text
        assert "would have waited for a person by issue_refund.approval" in gated.text
        assert "would have been denied by issue_refund.max_amount_usd" in denied.text
        told: Any = denied.meta[META_OBSERVED]
        assert (told["would_have_been"], told["policies"]) == ("stopped", ["issue_refund.max_amount_usd"])
        allowed, *lifted = shop.packets(RecordType.ACTION)
        assert "observed" not in allowed
        assert [packet["decision"]["policies"] for packet in lifted] == [["mode.observe"]] * 2
        verdicts = [packet["observed"]["decisions"][-1]["verdict"] for packet in lifted]
        assert verdicts == ["needs_approval", "deny"]


@pytest.mark.anyio
async def test_a_read_runs_before_and_after_whatever_a_rule_would_have_said(tmp_path: Path) -> None:
    async with opened(tmp_path, observing, cedar=NOT_THIS_INVOICE) as shop:
        invoice = await shop.call("lookup_invoice", {"invoice_id": shop.paid()[0]})
        assert not invoice.is_error, invoice.text
        assert "would have been denied by not-this-one" in invoice.text
        tickets: Any = (await shop.call("search_tickets")).structured
        ticket = await shop.call("get_ticket", {"ticket_id": tickets["tickets"][0]["ticket_id"]})
        assert not ticket.is_error, ticket.text
        assert "would have been denied by nor-what-it-says" in ticket.text
        stages = [one["stage"] for one in shop.packets(RecordType.READ)[-1]["observed"]["decisions"]]
        assert stages == ["after"]


@pytest.mark.anyio
@pytest.mark.parametrize("effect", ["update", "delete", "execute"])
async def test_nothing_but_a_read_or_a_declared_create_passes(tmp_path: Path, effect: str) -> None:
    async with opened(tmp_path, with_effect(effect)) as shop:
        assert await would_wait(shop, 0) == "approval_pending"
        assert await would_wait(shop, 1, 60) == "denied"
        assert shop.moved() == []
        allowed = await shop.refund(shop.paid()[2], 5)
        assert not allowed.is_error
        assert META_OBSERVED not in allowed.meta, "it is not watched, so nothing says that it is"


@pytest.mark.anyio
async def test_switches_and_a_missing_reason_stop_it_as_always(tmp_path: Path) -> None:
    async with opened(tmp_path, observing) as shop:
        assert code_of(await shop.refund(shop.paid()[0], 30, why=None)) == "why_missing"
        await shop.halt(SwitchScope.TOOL, "issue_refund")
        assert await would_wait(shop, 0) == "halted"
        assert shop.moved() == []


@pytest.mark.anyio
async def test_budgets_hold_while_rules_are_watched(tmp_path: Path) -> None:
    def tight(config: dict[str, Any]) -> None:
        observing(config)
        config["budgets"]["windows"][0]["max"] = 40

    async with opened(tmp_path, tight) as shop:
        assert await would_wait(shop, 0) == ""
        assert await would_wait(shop, 1) == "budget_exhausted"
        assert len(shop.moved()) == 1


@pytest.mark.anyio
async def test_what_waited_for_a_person_before_goes_on_waiting(tmp_path: Path) -> None:
    def stricter(config: dict[str, Any]) -> None:
        observing(config)
        refund = next(tool for tool in config["tools"] if tool["name"] == "issue_refund")
        refund["approval"].append({"role": "boss"})

    async with opened(tmp_path) as shop:
        call = await shop.pending(shop.paid()[0])
    async with opened(tmp_path, stricter) as shop:
        assert code_of(await shop.resume(call)) == "approval_pending"
        await shop.vote(call)
        assert code_of(await shop.resume(call)) == "approval_pending", "another gate asks"
        assert shop.moved() == []


@pytest.mark.anyio
async def test_it_ends_after_seven_days_for_good_and_no_restart_or_edit_begins_it_anew(
    tmp_path: Path,
) -> None:
    clock = Clock()
    async with opened(tmp_path, observing, clock=clock) as shop:
        assert await would_wait(shop, 0) == ""
        clock.jump_s(WEEK_S - 60)
        assert await would_wait(shop, 1) == ""
    async with opened(tmp_path, clock=clock):
        pass
    async with opened(tmp_path, observing, clock=clock) as shop:
        assert await would_wait(shop, 2) == "", "a minute is left"
        clock.jump_s(120)
        assert await would_wait(shop, 3) == "approval_pending"
        span = await shop.store.read(lambda reader: read_span(reader, TENANT))
        assert span is not None
        assert span.is_ended, "it is written down"
        clock.jump_s(-3_600)
        assert await would_wait(shop, 4) == "approval_pending", "over is over"
    async with opened(tmp_path, observing, clock=clock) as shop:
        assert await would_wait(shop, 5) == "approval_pending"
        assert len(shop.moved()) == 3


@pytest.mark.anyio
async def test_a_clock_that_is_set_back_enforces_every_rule_until_it_is_right(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, observing, clock=clock) as shop:
        assert await would_wait(shop, 0) == ""
        clock.jump_s(-2 * CLOCK_MS_BACK_MAX / 1000)
        assert await would_wait(shop, 1) == "approval_pending"
        clock.jump_s(2 * CLOCK_MS_BACK_MAX / 1000)
        assert await would_wait(shop, 2) == ""


@pytest.mark.anyio
async def test_a_clock_that_stands_still_makes_the_week_no_longer(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, observing, clock=clock) as shop:
        assert await would_wait(shop, 0) == ""
        clock.pass_s(WEEK_S)
        clock.jump_s(-WEEK_S)
        assert await would_wait(shop, 3) == "approval_pending", (
            "a week went by, whatever the clock on the wall says"
        )


@pytest.mark.anyio
async def test_when_it_began_is_written_once(tmp_path: Path) -> None:
    async with opened(tmp_path, observing) as shop:
        await would_wait(shop, 0)
        begun = await shop.store.read(lambda reader: read_span(reader, TENANT))
        assert begun is not None
        await shop.store.commit(TENANT, Unit([BeginObserving(begun.started_ms + 86_400_000)]))
        assert await shop.store.read(lambda reader: read_span(reader, TENANT)) == begun


@pytest.mark.anyio
async def test_without_the_mode_nothing_passes_and_nothing_is_said(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        assert await would_wait(shop, 0) == "approval_pending"
        read = await shop.call("lookup_invoice", {"invoice_id": shop.paid()[0]})
        assert META_OBSERVED not in read.meta
        assert "Observe mode" not in read.text


@pytest.mark.anyio
async def test_the_report_says_what_would_have_been_stopped_and_what_would_allow_it(tmp_path: Path) -> None:
    def changed(config: dict[str, Any]) -> None:
        accepting_own_files(config)
        observing(config)

    async with at_work(tmp_path, changed) as desk:
        before = await desk.run("check")
        assert "for 7 days from the first call on, reads and creates run" in before
        calls = [call_of(await desk.shop.refund(one, 60)) for one in desk.shop.paid()[:2]]
        found = await desk.json("report", "--observe")
        assert (found["calls"], len(found["by_rule"])) == (2, 1)
        rules = {one["rule"]: one for one in found["by_rule"]}
        stopped = rules["issue_refund.max_amount_usd"]
        assert (stopped["tool"], stopped["verdict"], stopped["calls"]) == ("issue_refund", "deny", 2)
        assert stopped["last_call"] == calls[-1]
        assert [tool["name"] for tool in found["suggestion"]["tools"]] == ["issue_refund"]
        assert (await desk.json("report"))["containment"]["outside"] == 2
        text = await desk.run("report", "--observe")
        assert "2 calls ran that a rule would have stopped" in text
        assert "allow_actions" in text
        assert "reads and creates run whatever the rules say" in await desk.run("check")
        lines = (await desk.json("doctor"))["lines"]
        (mode,) = [line["found"] for line in lines if line["topic"] == "mode"]
        assert mode.startswith("`mode: observe`: until ")
        why = await desk.run("why", calls[0])
        assert "issue_refund.max_amount_usd" in why


@pytest.mark.parametrize(
    ("effect", "decision", "passes"),
    [
        (Effect.READ, Decision(Verdict.DENY), True),
        (Effect.CREATE, Decision(Verdict.NEEDS_APPROVAL), True),
        (Effect.READ, Decision(Verdict.DENY, errors=("it cannot be decided",)), False),
        (Effect.UPDATE, Decision(Verdict.DENY), False),
        (Effect.DELETE, Decision(Verdict.NEEDS_APPROVAL), False),
        (Effect.EXECUTE, Decision(Verdict.DENY), False),
        (Effect.READ, Decision(Verdict.ALLOW), False),
    ],
)
def test_only_what_a_rule_says_of_a_read_or_a_create_is_let_pass(
    effect: Effect, decision: Decision, passes: bool
) -> None:
    assert observable(effect, decision) is passes


def test_a_mode_that_does_not_exist_is_found_with_its_line(tmp_path: Path) -> None:
    placed(tmp_path, lambda config: config.update(mode="watch"))
    told = json.loads(run(tmp_path, "check", "--json").stdout)
    (finding,) = told["findings"]
    assert "`mode`" in finding["message"]
