"""Checks of the operator's own around a call: what is not a pass stops it, whatever else the check does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.vocabulary import PrincipalKind, RecordType
from comptroller_server.errors import ConfigInvalid
from comptroller_tools.desk.faults import Fault, FaultKind
from tests.scenarios.kit import (
    Shop,
    call_of,
    code_of,
    details_of,
    opened,
    structured,
    tool_of,
)

pytestmark = pytest.mark.anyio

ODD = Path(__file__).with_name("odd_checks.py")


def checks(
    *wanted: dict[str, Any], tool: str = "issue_refund", verify: bool = True
) -> Callable[[dict[str, Any]], None]:
    """A change of the desk's config: these checks on one tool. `python` may be a function of `odd_checks.py`."""

    def change(document: dict[str, Any]) -> None:
        entry = tool_of(document, tool)
        if not verify:
            entry.pop("verify", None)
        entry["checks"] = [
            {
                "when": "before",
                **one,
                "python": f"{ODD}:{one['python']}" if ":" not in one["python"] else one["python"],
            }
            for one in wanted
        ]

    return change


async def test_a_call_that_every_check_passes_runs_and_the_record_names_them(tmp_path: Path) -> None:
    limit = {"python": "at_most", "options": {"amount": "input.amount_usd", "most": 10}}
    async with opened(tmp_path, checks({"python": "passes"}, limit)) as shop:
        assert code_of(await shop.refund(shop.paid()[0], 5)) is None
        assert len(shop.moved()) == 1
        (action,) = shop.packets(RecordType.ACTION)
        assert [(one["check"].rpartition(":")[2], one["verdict"]) for one in action["checked"]] == [
            ("passes", "passed"),
            ("at_most", "passed"),
        ]


async def test_a_check_that_says_no_stops_the_call_before_anything_is_done(tmp_path: Path) -> None:
    limit = {"python": "at_most", "options": {"amount": "input.amount_usd", "most": 10}}
    async with opened(tmp_path, checks(limit, {"python": "passes"})) as shop:
        answer = await shop.refund(shop.paid()[0], 12)
        assert code_of(answer) == "check_failed"
        assert details_of(answer)["class"] == "policy_violation"
        assert details_of(answer)["check"] == "at_most"
        assert 'The check `at_most` says no: "12 is more than 10."' in answer.text
        assert shop.moved() == []
        (refused,) = shop.packets(RecordType.REFUSED)
        assert refused["checked"] == [
            {"check": f"{ODD}:at_most", "verdict": "failed", "reason": "12 is more than 10."}
        ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raises", "it raised RuntimeError"),
        ("exits", "it raised SystemExit"),
        ("unsure", "the rule book is closed"),
        ("gives_true", "it returned bool, which is no verdict"),
        ("gives_a_coroutine", "it returned coroutine, which is no verdict"),
        ("no_reason", "it returned Failed, which is no verdict"),
        ("changes_the_view", "it raised TypeError"),
        ("sees_too_much", "it raised KeyError"),
    ],
)
async def test_a_check_that_does_anything_but_pass_stops_the_call(
    tmp_path: Path, name: str, said: str
) -> None:
    facts = ["invoice"] if name == "changes_the_view" else []
    async with opened(tmp_path, checks({"python": name, "facts": facts})) as shop:
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "check_failed"
        assert f'could not tell: "{said}"' in answer.text
        assert "hunter2" not in answer.text
        assert shop.moved() == []
        (refused,) = shop.packets(RecordType.REFUSED)
        assert refused["checked"][0]["verdict"] == "unknown"


@pytest.mark.parametrize("name", ["hangs", "hangs_async", "deaf"])
async def test_a_check_that_hangs_stops_the_call_in_time(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = tmp_path / "go"
    monkeypatch.setenv("ODD_CHECKS_GO", str(go))
    async with opened(tmp_path, checks({"python": name, "timeout_s": 0.05})) as shop:
        answer = await shop.refund(shop.paid()[0], 5)
        go.touch()
        assert code_of(answer) == "check_failed"
        assert "no verdict within 0.05 seconds" in answer.text
        assert shop.moved() == []


async def test_what_a_check_says_goes_out_quoted_capped_and_without_secrets(tmp_path: Path) -> None:
    async with opened(tmp_path, checks({"python": "quotes"}), secrets=("hunter2-swordfish",)) as shop:
        answer = await shop.refund(shop.paid()[0], 5)
        assert r'"the note says \"approve this\"\nand the key is' in answer.text
        assert "hunter2" not in answer.text
        assert len(answer.text) < 700
        assert "hunter2" not in str(shop.packets(RecordType.REFUSED))


async def test_a_secret_that_a_check_says_is_withheld_before_it_is_quoted(tmp_path: Path) -> None:
    secret = 'hunter"2"swordfish'
    async with opened(tmp_path, checks({"python": "quotes_a_key_with_a_quote"}), secrets=(secret,)) as shop:
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "check_failed"
        assert "swordfish" not in answer.text


async def test_a_check_sees_citations_and_history_of_the_call(tmp_path: Path) -> None:
    cites = {"python": "wants_three_citations"}
    today = {"python": "not_today", "history": ["principal.refunds_today"], "options": {"most": 1}}
    async with opened(tmp_path, checks(today)) as shop:
        assert code_of(await shop.refund(shop.paid()[0], 5)) is None
        answer = await shop.refund(shop.paid()[0], 6)
        assert '"1 refunds today."' in answer.text
    async with opened(tmp_path / "cites", checks(cites)) as shop:
        ref = structured(await shop.call("lookup_invoice", invoice_id=shop.paid()[0]))["refs"][0]["ref"]
        why = {"reason": "Twice.", "citations": [ref]}
        answer = await shop.refund(shop.paid()[0], 5, why=why)
        assert "1 of 3 records are cited." in answer.text


async def test_two_refunds_at_once_cannot_both_pass_a_check_of_how_many_there_were(tmp_path: Path) -> None:
    today = {"python": "not_today", "history": ["principal.refunds_today"], "options": {"most": 1}}
    async with opened(tmp_path, checks(today)) as shop:
        first, second = shop.paid()[:2]
        answers = await asyncio.gather(shop.refund(first, 5), shop.refund(second, 5))
        assert sorted(str(code_of(answer)) for answer in answers) == ["None", "check_failed"]
        assert len(shop.moved()) == 1


async def test_a_fact_that_only_a_check_reads_is_looked_up_for_it_and_decides_quietly_for_a_stranger(
    tmp_path: Path,
) -> None:
    paid = {
        "python": "at_most",
        "facts": ["invoice"],
        "options": {"amount": "facts.invoice.paid_usd", "most": 0},
    }
    rule = """
        @id("only-sam-reads") @reason("Not yours.")
        forbid (principal, action == Comptroller::Action::"lookup_invoice", resource)
        when { principal.kind == "user" };
    """

    def change(document: dict[str, Any]) -> None:
        checks(paid, verify=False)(document)
        tool_of(document, "issue_refund").pop("derived")

    async with opened(tmp_path, change, cedar=rule, bare=True) as shop:
        mine = await shop.refund(shop.paid()[0], 5)
        assert code_of(mine) == "check_failed"
        assert "is more than 0" in mine.text
        who = replace(shop.subject.principal, subject="stranger", kind=PrincipalKind.USER)
        stranger = replace(shop.subject, principal=who)
        theirs = await shop.refund(shop.paid()[1], 5, subject=stranger)
        assert code_of(theirs) == "lookup_failed"
        assert "at_most" not in theirs.text
        assert shop.moved() == []


# -- people ----------------------------------------------------------------------------------------------------------


async def test_nobody_is_asked_about_a_call_that_a_check_refuses(tmp_path: Path) -> None:
    limit = {"python": "at_most", "options": {"amount": "input.amount_usd", "most": 10}}
    async with opened(tmp_path, checks(limit)) as shop:
        assert code_of(await shop.refund(shop.paid()[0], 30)) == "check_failed"
        assert shop.log(RecordType.PENDING) == []


async def test_an_approved_call_is_checked_again_and_a_no_ends_it(tmp_path: Path) -> None:
    paid = {
        "python": "at_most",
        "facts": ["invoice"],
        "options": {"amount": "facts.invoice.refunded_usd", "most": 0},
    }
    async with opened(tmp_path, checks(paid)) as shop:
        (invoice, *_) = (i for i in shop.paid() if not _refunded(shop, i))
        call = await shop.pending(invoice)
        await shop.vote(call)
        shop.sql("UPDATE invoices SET refunded_cents = 100 WHERE id = ?", invoice)
        answer = await shop.resume(call)
        assert code_of(answer) == "check_failed"
        assert shop.state(call) == "void"
        assert shop.moved() == []


async def test_an_approved_call_that_a_check_cannot_judge_stays_approved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = tmp_path / "go"
    monkeypatch.setenv("ODD_CHECKS_GO", str(go))
    async with opened(tmp_path, checks({"python": "hangs", "timeout_s": 1})) as shop:
        go.touch()
        call = await shop.pending(shop.paid()[0])
        await shop.vote(call)
        go.unlink()
        assert code_of(await shop.resume(call)) == "check_failed"
        assert shop.state(call) == "pending"
        go.touch()
        assert code_of(await shop.resume(call)) is None
        assert len(shop.moved()) == 1


def _refunded(shop: Shop, invoice: str) -> int:
    return int(shop.sql("SELECT refunded_cents FROM invoices WHERE id = ?", invoice)[0][0])


# -- after the call --------------------------------------------------------------------------------------------------

SMALL = {"python": "result_is_small", "when": "after", "facts": ["invoice"], "options": {"most": 50}}


async def test_a_check_after_the_call_verifies_it(tmp_path: Path) -> None:
    async with opened(tmp_path, checks(SMALL, verify=False)) as shop:
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) is None
        (audit,) = shop.packets(RecordType.AUDIT)
        assert audit["verification"]["result"] == "matched"
        assert [one["verdict"] for one in audit["verification"]["checked"]] == ["passed"]


async def test_a_change_that_a_check_finds_wrong_is_handed_over(tmp_path: Path) -> None:
    async with opened(tmp_path, checks(SMALL, verify=False)) as shop:
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.SHORT, cents=100))
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "verification_failed"
        assert "The change was made." in answer.text
        assert '"4 moved, 5 was told."' in answer.text
        assert details_of(answer)["retry"] == "person"
        assert answer.structured is None
        assert shop.state(call_of(answer)) == "handed_off"
        (audit,) = shop.packets(RecordType.AUDIT)
        assert audit["verification"]["result"] == "differs"
        assert audit["output"] is None
        assert [effect.amount_cents for effect in shop.moved()] == [400]


@pytest.mark.parametrize("verify", [True, False])
async def test_a_check_that_cannot_tell_leaves_the_call_in_doubt(tmp_path: Path, verify: bool) -> None:
    odd = {"python": "raises", "when": "after"}
    async with opened(tmp_path, checks(odd, verify=verify)) as shop:
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "in_doubt"
        assert shop.state(call_of(answer)) == "in_doubt"
        (audit,) = shop.packets(RecordType.AUDIT)
        assert audit["verification"]["result"] == "unknown"
        assert len(shop.moved()) == 1


async def test_a_check_without_the_record_it_needs_cannot_tell(tmp_path: Path) -> None:
    async with opened(tmp_path, checks(SMALL, verify=False)) as shop:
        shop.misbehave(Fault(tool="lookup_invoice", kind=FaultKind.RAISE, skip=1))
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "in_doubt"
        (audit,) = shop.packets(RecordType.AUDIT)
        assert audit["verification"]["checked"][0]["reason"] == "`invoice` could not be read again"


async def test_a_read_that_a_check_refuses_gives_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    monkeypatch.setenv("ODD_CHECKS_GO", str(ran))
    odd = {"python": "counts", "when": "after"}
    async with opened(tmp_path, checks(odd, tool="lookup_invoice")) as shop:
        assert code_of(await shop.call("lookup_invoice", invoice_id=shop.paid()[0])) is None
        shop.misbehave(Fault(tool="lookup_invoice", kind=FaultKind.FLOOD, bytes=5_000))
        answer = await shop.call("lookup_invoice", invoice_id=shop.paid()[1])
        assert code_of(answer) == "check_failed"
        assert "AAAA" not in answer.text
        assert "That is a flood." in answer.text
        assert len(shop.log(RecordType.READ)) == 1
        shop.misbehave(Fault(tool="lookup_invoice", kind=FaultKind.RAISE))
        await shop.call("lookup_invoice", invoice_id=shop.paid()[1])
        assert ran.read_text() == "ran\nran\n", "a call that failed has no result to check"


# -- at load ---------------------------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"python": "missing"}, "checks[0].python", "there is no function `missing`"),
    ({"python": "ODD"}, "checks[0].python", "there is no function `ODD`"),
    ({"python": "comptroller_tools.nowhere:check"}, "checks[0].python", "importing"),
    ({"python": "result_is_small", "options": {"most": 1}}, "checks[0].python", "exists only after the call"),
    ({"python": "comptroller_tools.threads:WorkerThreads"}, "checks[0].python", "there is no function"),
    ({"python": "comptroller_tools.money:x"}, "checks[0].python", "importing"),
    ({"python": "comptroller_tools.checks:frozen"}, "checks[0].python", "must take the call first"),
    ({"python": "comptroller_tools.checks:frozen"}, "checks[0].python", "must say what it returns"),
    ({"python": "passes", "options": {"x": 1}}, "checks[0].options.x", "it takes none"),
    ({"python": "at_most", "options": {"most": 1}}, "checks[0].options.amount", "is missing"),
    (
        {"python": "at_most", "options": {"amount": "input.amount", "most": 1}},
        "checks[0].options.amount",
        "`input.amount` does not exist",
    ),
    (
        {"python": "at_most", "options": {"amount": "facts.invoice.paid_usd", "most": 1}},
        "checks[0].options.amount",
        "is not available here",
    ),
    (
        {"python": "at_most", "options": {"amount": "output.amount_usd", "most": 1}},
        "checks[0].options.amount",
        "is not available here",
    ),
    (
        {"python": "at_most", "options": {"amount": "history.principal.refunds_today", "most": 1}},
        "checks[0].options.amount",
        "names history that the check does not list",
    ),
    (
        {"python": "at_most", "options": {"amount": "input.amount_usd", "most": "1"}},
        "checks[0].options.most",
        "is not of its type",
    ),
    ({"python": "passes", "facts": ["bill"]}, "checks[0].facts[0]", "use one of `invoice`"),
    ({"python": "passes", "history": ["x"]}, "checks[0].history[0]", "use one of `principal.refunds_today`"),
    ({"python": "passes", "when": "during"}, "checks[0].when", "'before' or 'after'"),
    ({"python": "passes", "timeout_s": 0}, "checks[0].timeout_s", "greater than 0"),
    ({"python": "./no:such"}, "checks[0].python", "must match"),
]


@pytest.mark.parametrize(("rule", "place", "said"), WRONG, ids=lambda value: str(value)[:40])
async def test_a_check_that_could_not_run_as_written_is_found_at_load(
    tmp_path: Path, rule: dict[str, Any], place: str, said: str
) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        async with opened(tmp_path, checks(rule)):
            pass
    lines = [str(finding) for finding in caught.value.findings]
    assert any(place in line and said in line and "comptroller.yaml:" in line for line in lines), lines


async def test_other_code_of_a_check_is_another_bundle(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    text = ODD.read_text()
    file.write_text(text)
    digests: list[str] = []
    for suffix in ("", "# changed\n"):
        file.write_text(text + suffix)
        async with opened(tmp_path, checks({"python": f"{file}:passes"})) as shop:
            digests.append(shop.service.installation.bundle_digest)
    assert len(set(digests)) == 2
