"""Recorded decisions made again under another configuration, against what a service under that one decides itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.packets import LogRecord
from comptroller_audit.retention import Erase
from comptroller_audit.unit import Unit, WriteRecord
from comptroller_audit.vocabulary import Json, JsonObject, RecordType
from comptroller_policy.model import Verdict
from comptroller_server.config.loading import load_config
from comptroller_server.errors import Lack
from comptroller_server.installation import TENANT, Installation
from comptroller_server.rehearsal import replaying
from comptroller_server.rehearsal.deciding import Rehearsal
from comptroller_server.rehearsal.replaying import Replay, replay
from comptroller_server.reporting import span
from comptroller_tools import functions
from comptroller_tools.desk.faults import Fault, FaultKind
from tests.scenarios.compensation_kit import reversing, undone
from tests.scenarios.kit import Changes, call_of, code_of, opened, placed, read_once, tool_of
from tests.server.cli_kit import accepting_own_files, at_work, run, run_in_thread

ALLOW, DENY, ASK = Verdict.ALLOW, Verdict.DENY, Verdict.NEEDS_APPROVAL
AMOUNTS = (5, 13, 18, 30, 51)
KEY = "sk_live_51H8xQ2eZvKYlo2Cq7Rz9WbT"


def quiet(config: dict[str, Any]) -> None:
    config["limits"] = {"identical_calls_max": 1_000}
    config["budgets"] = {
        "windows": [{"scope": "principal", "window": "day", "unit": "refunded_usd", "max": 500}]
    }


@dataclass(frozen=True)
class Past:
    """A store in which things were decided, and the calls by what they were."""

    folder: Path
    calls: dict[str, str]

    def under(self, folder: Path, changes: Changes = quiet, cedar: str = "", bare: bool = False) -> Replay:
        """Everything decided again under the desk's configuration with these changes."""
        candidate = placed(folder / "candidate", changes, cedar=cedar, bare=bare)
        now = Installation(load_config(self.folder / "comptroller.yaml", data_dir=self.folder))
        try:
            return replay(now, Rehearsal(Installation(load_config(candidate, data_dir=folder))), None)
        finally:
            asyncio.run(now.store.close())


@pytest.fixture(autouse=True)
def types_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "read_function", read_once)


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    folder = tmp_path_factory.mktemp("past")
    calls: dict[str, str] = {}

    async def work() -> None:
        async with opened(folder, quiet) as shop:
            invoices = shop.paid()
            for usd, invoice in zip(AMOUNTS, invoices, strict=False):
                calls[str(usd)] = call_of(await shop.refund(invoice, usd))
            calls["read"] = call_of(await shop.call("lookup_invoice", invoice_id=invoices[0]))
            calls["approved"] = await shop.pending(invoices[5])
            await shop.vote(calls["approved"])
            assert code_of(await shop.resume(calls["approved"])) is None
            assert code_of(await shop.call("no_such_tool")) == "unknown_tool"
            assert code_of(await shop.refund(invoices[6], -1)) == "invalid_arguments"
            calls["secret"] = call_of(await shop.call("search_tickets", query=f"with {KEY}"))

    asyncio.run(work())
    yield Past(folder, calls)


def flips(found: Replay) -> dict[str, tuple[str, str]]:
    return {flip.call: (flip.then.value, flip.now.value) for flip in found.flips}


def lacks(found: Replay) -> dict[str, Lack]:
    return {each.call: each.lacks for each in found.undecided}


def tighter(config: dict[str, Any]) -> None:
    quiet(config)
    refund = tool_of(config, "issue_refund")
    refund["constraints"]["max_amount_usd"] = 15
    refund["approval"] = [
        {"role": "approver", "at_least": 1, "when": 'context.input.amount_usd.greaterThan(decimal("12.0"))'}
    ]


def test_under_the_same_configuration_nothing_is_decided_otherwise(past: Past, tmp_path: Path) -> None:
    found = past.under(tmp_path)
    assert found.flips == [] and found.elsewhere == 0
    # Three refunds and a read ran; one waits; one waited and then ran; one was denied.
    assert found.ways == {(ALLOW, ALLOW): 5, (ASK, ASK): 2, (DENY, DENY): 1}
    assert lacks(found) == {past.calls["secret"]: Lack.ARGUMENTS}
    assert found.decisions == found.decided + 1


def test_what_is_decided_again_is_what_a_service_under_the_candidate_decides(
    past: Past, tmp_path: Path
) -> None:
    found = past.under(tmp_path, tighter)
    now = {"5": ALLOW, "13": ASK, "18": DENY, "30": DENY, "51": DENY}
    codes = {ALLOW: None, ASK: "approval_pending", DENY: "denied"}

    async def afresh() -> dict[str, str | None]:
        async with opened(tmp_path / "afresh", tighter) as shop:
            invoices = shop.paid()
            return {
                str(usd): code_of(await shop.refund(invoice, usd))
                for usd, invoice in zip(AMOUNTS, invoices, strict=False)
            }

    assert asyncio.run(afresh()) == {usd: codes[verdict] for usd, verdict in now.items()}
    changed = flips(found)
    for usd, verdict in now.items():
        then = DENY if usd == "51" else ASK if usd == "30" else ALLOW
        assert changed.get(past.calls[usd]) == (None if then is verdict else (then.value, verdict.value)), usd
    denied = next(flip for flip in found.flips if flip.call == past.calls["18"])
    assert (denied.then_policies, denied.now_policies) == (
        ("issue_refund.allow",),
        ("issue_refund.max_amount_usd",),
    )
    assert found.changed(ALLOW, DENY) == 2  # the one that a person had approved is above the limit too


def test_what_people_agreed_to_counts_for_the_candidates_gates(past: Past, tmp_path: Path) -> None:
    def two(config: dict[str, Any]) -> None:
        quiet(config)
        tool_of(config, "issue_refund")["approval"][0]["at_least"] = 2

    assert flips(past.under(tmp_path, two)) == {past.calls["approved"]: ("allow", "needs_approval")}


def test_derived_values_are_the_candidates_own(past: Past, tmp_path: Path) -> None:
    def poorer(config: dict[str, Any]) -> None:
        quiet(config)
        tool_of(config, "issue_refund")["derived"] = {"remaining_usd": "facts.invoice.paid_usd - 100000"}

    found = past.under(tmp_path, poorer)
    assert found.changed(ALLOW, DENY) == 4 and found.changed(ASK, DENY) == 2
    assert {flip.now_policies for flip in found.flips} == {("refund-within-paid",)}


def test_what_was_never_looked_up_is_named_and_not_guessed(past: Past, tmp_path: Path) -> None:
    def unlimited(config: dict[str, Any]) -> None:
        quiet(config)
        tool_of(config, "issue_refund")["constraints"] = {}

    found = past.under(tmp_path / "one", unlimited)
    assert lacks(found)[past.calls["51"]] is Lack.FACTS  # it was denied before anything was looked up
    assert found.changed(DENY, ALLOW) == 0

    def elsewhere(config: dict[str, Any]) -> None:
        quiet(config)
        config["tools"].append({"name": "get_refund", "allow_actions": ["read"]})
        fact = {"tool": "lookup_invoice", "arguments": {"invoice_id": "inv_{input.invoice_id}"}}
        tool_of(config, "issue_refund")["facts"] = {"invoice": fact}

    found = past.under(tmp_path / "two", elsewhere)
    assert found.lacks[Lack.FACTS] == 6 and found.flips == []  # only the one that needs no look-up is decided

    cedar = """@id("few") @reason("Two a day.")
    forbid (principal, action == Comptroller::Action::"issue_refund", resource)
    when { context.history.principal.refunds_today >= 2 };"""
    found = past.under(tmp_path / "three", cedar=cedar)
    assert found.lacks[Lack.HISTORY] == 6 and found.flips == []  # no policy read the count then


def test_what_the_candidate_has_no_tool_for_or_would_not_take_is_told_apart(
    past: Past, tmp_path: Path
) -> None:
    def without(config: dict[str, Any]) -> None:
        quiet(config)
        config["tools"] = [tool for tool in config["tools"] if tool["name"] != "search_tickets"]
        arguments = {"reason_code": {"fixed": "goodwill"}}
        tool_of(config, "issue_refund")["arguments"] = arguments
        tool_of(config, "issue_refund")["constraints"] = {"max_amount_usd": 50}

    found = past.under(tmp_path, without)
    assert lacks(found) == {past.calls["secret"]: Lack.TOOL}
    assert {flip.now_policies for flip in found.flips} == {("arguments",)}
    assert found.changed(ALLOW, DENY) == 4


def test_the_local_persons_roles_are_the_candidates_to_give(past: Past, tmp_path: Path) -> None:
    def nobody(config: dict[str, Any]) -> None:
        quiet(config)
        config["identity"]["local"]["roles"] = []

    found = past.under(tmp_path, nobody)
    assert found.ways == {(ALLOW, DENY): 4, (ALLOW, ALLOW): 1, (ASK, DENY): 2, (DENY, DENY): 1}


def test_a_draw_that_the_record_does_not_hold_is_not_made_up(past: Past, tmp_path: Path) -> None:
    def rolled_out(percent: int) -> Changes:
        def change(config: dict[str, Any]) -> None:
            quiet(config)
            reversing(config)
            config["rollout"] = {"mode": "human_approval", "canary_percent": percent}

        return change

    none = past.under(tmp_path / "none", rolled_out(0))
    assert none.changed(ALLOW, ASK) == 3 and not none.lacks[Lack.DRAW]
    some = past.under(tmp_path / "some", rolled_out(50))
    assert some.lacks[Lack.DRAW] == 6 and some.changed(ALLOW, ASK) == 0


def test_pages_and_the_number_of_named_calls_change_no_count(
    past: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = past.under(tmp_path / "whole", tighter)
    monkeypatch.setattr(span, "PAGE_ENTRIES", 3)
    monkeypatch.setattr(replaying, "NAMED_MAX", 1)
    found = past.under(tmp_path / "paged", tighter)
    assert (found.ways, found.lacks) == (whole.ways, whole.lacks)
    assert len({(flip.then, flip.now) for flip in whole.flips}) == len(found.flips)


@pytest.mark.anyio
async def test_a_reversal_is_decided_again_as_comptrollers_own_call_and_an_erased_one_is_not(
    tmp_path: Path,
) -> None:
    def changes(config: dict[str, Any]) -> None:
        quiet(config)
        reversing(config)

    async with opened(tmp_path, changes) as shop:
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.SHORT, cents=100))
        await shop.refund(shop.paid()[0], 9)
        assert undone(shop) == 1
        installation = shop.service.installation
        found = replay(installation, Rehearsal(installation), None)
        assert found.ways == {(ALLOW, ALLOW): 2} and not found.undecided
        first, *_ = shop.log(RecordType.ACTION)
        now = shop.clock.now_ms()
        await shop.store.commit(TENANT, Unit([Erase([first.index], now, now, 0)]))
        erased = replay(installation, Rehearsal(installation), None)
        assert erased.ways == {(ALLOW, ALLOW): 1}
        assert lacks(erased) == {str(first.envelope["call"]): Lack.ERASED}


@pytest.mark.anyio
async def test_what_was_taken_back_on_an_approvers_word_is_decided_with_that_word(tmp_path: Path) -> None:
    def changes(config: dict[str, Any]) -> None:
        accepting_own_files(config)
        reversing(config)
        tool_of(config, "cancel_refund")["approval"] = [{"role": "approver"}]
        del tool_of(config, "issue_refund")["approval"]

    async with at_work(tmp_path, changes) as desk:
        shop = desk.shop
        call = await shop.pending(shop.paid()[0], 5)  # its reversal's gate is opened with it
        await shop.vote(call)
        await shop.resume(call)
        task = str(shop.row(call)["task"])
        await desk.run("tasks", "rollback", task, "--yes", "--credential-file", str(desk.credential))
        assert undone(shop) == 1
        installation = shop.service.installation
        rehearsal = Rehearsal(installation)
        assert replay(installation, rehearsal, None).ways == {(ASK, ASK): 1, (ALLOW, ALLOW): 2}
        packet = shop.packets(RecordType.ACTION)[-1]
        votes: list[Json] = [
            {name: vote[name] for name in ("approver", "assurance")} for vote in packet["approvals"]
        ]
        older: JsonObject = {**packet, "call": "older", "approvals": votes}
        await shop.store.commit(
            TENANT, Unit([WriteRecord(LogRecord(RecordType.ACTION, older, call="older"))])
        )
        assert lacks(replay(installation, rehearsal, None)) == {"older": Lack.APPROVALS}


# -- the command ------------------------------------------------------------------------------------------------------


def test_thresholds_gate_what_would_change(past: Past, tmp_path: Path) -> None:
    candidate = str(placed(tmp_path, tighter))
    words = ("replay", "--policy", candidate, "--since", "all")
    assert run(past.folder, *words).exit_code == 0
    assert run(past.folder, *words, "--max-allow-to-deny", "2", "--max-deny-to-allow", "0").exit_code == 0
    told = run(past.folder, *words, "--max-allow-to-deny", "1", "--json")
    folder = ("replay", "--policy", str(Path(candidate).parent), *words[3:])
    assert run(past.folder, *folder, "--max-allow-to-deny", "1", "--json").stdout == told.stdout
    document = json.loads(told.stdout)
    assert told.exit_code == 1 and document["breaches"] == ["2 allow to deny, 1 at most"]
    assert {flip["call"] for flip in document["flips"]} >= {past.calls["18"], past.calls["13"]}
    assert run(past.folder, *words, "--max-undecided", "0").exit_code == 1
    shown = run(past.folder, *words)
    assert (
        past.calls["18"] in shown.stdout
        and "issue_refund.allow -> issue_refund.max_amount_usd" in shown.stdout
    )
    assert KEY not in shown.stdout + told.stdout
    late = (*words[:-1], "2999-01-01")
    assert run(past.folder, *late).exit_code == 0
    nothing = run(past.folder, *late, "--max-allow-to-deny", "9")
    assert nothing.exit_code == 1 and "nothing was decided again" in nothing.stdout
    assert run(past.folder, "replay", "--policy", "nowhere.yaml").exit_code == 2


@pytest.mark.anyio
async def test_it_reads_beside_a_service_and_writes_nothing(tmp_path: Path) -> None:
    async with at_work(tmp_path, quiet) as desk:
        shop = desk.shop
        await shop.refund(shop.paid()[0], 5)
        before = len(shop.log())
        words = ("replay", "--policy", str(tmp_path / "comptroller.yaml"), "--json")
        result = await run_in_thread(tmp_path, *words)
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["decided"] == 1
        assert len(shop.log()) == before and len(shop.moved()) == 1
