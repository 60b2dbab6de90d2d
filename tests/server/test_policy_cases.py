"""Cases of policy: what is decided is what the server decides, and nothing is called, opened or written for it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from ruamel.yaml import YAML

from comptroller_policy.model import Verdict
from comptroller_server.config.loading import load_config
from comptroller_server.installation import Installation
from comptroller_server.rehearsal.cases import Case, cases_json_schema, read_cases
from comptroller_server.rehearsal.deciding import Rehearsal
from comptroller_server.rehearsal.trying import CaseEnd, Tried, cover_of, try_case
from comptroller_tools import functions
from comptroller_tools.validation import compile_schema
from tests.scenarios.kit import DESK_CONFIG, code_of, details_of, opened, placed, read_once, tool_of
from tests.server.cli_kit import run

ROOT = Path(__file__).parents[2]
EXAMPLE = DESK_CONFIG.parent / "policies" / "refunds.test.yaml"
REFUND: dict[str, Any] = {
    "name": "a refund",
    "tool": "issue_refund",
    "arguments": {"invoice_id": "inv_1", "amount_usd": 10, "reason_code": "goodwill"},
    "facts": {"invoice": {"paid_usd": 80, "refunded_usd": 30}},
    "expect": "allow",
}
AFTER = """
@id("right-invoice") @reason("Another invoice was paid back.")
forbid (principal, action == Comptroller::Action::"issue_refund:after", resource)
when { context.output.invoice_id != context.input.invoice_id || context.after.invoice.paid_usd.lessThan(decimal("0.0")) };
@id("often")
@reason("Three refunds a day are enough.")
forbid (principal, action == Comptroller::Action::"issue_refund", resource)
when { context.history.principal.refunds_today >= 3 };
@id("by-day")
@reason("Nothing is paid back on a Sunday.")
forbid (principal, action == Comptroller::Action::"cancel_refund", resource)
when { context.now < datetime("2026-01-05") || context.environment == "closed" || context.actor == Comptroller::Actor::"mallory" };
"""


@pytest.fixture(autouse=True)
def types_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "read_function", read_once)


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    folder = tmp_path_factory.mktemp("desk")
    return Rehearsal(Installation(load_config(placed(folder, cedar=AFTER), data_dir=folder)))


Try = Callable[..., Tried]


@pytest.fixture
def attempt(rehearsal: Rehearsal, tmp_path: Path) -> Try:
    """Try a refund with these keys instead; a key that is None is left out."""

    def tried(**changed: Any) -> Tried:
        (case,) = cases_of(tmp_path, {"cases": [case_with(**changed)]})
        return try_case(rehearsal, case)

    return tried


def case_with(**changed: Any) -> dict[str, Any]:
    return {key: value for key, value in {**REFUND, **changed}.items() if value is not None}


def cases_of(folder: Path, document: Any) -> tuple[Case, ...]:
    path = folder / "one.test.yaml"
    path.write_text(json.dumps(document))
    read = read_cases(path, "one.test.yaml")
    assert read.findings == ()
    return read.cases


def findings_in(folder: Path, text: str) -> list[str]:
    path = folder / "one.test.yaml"
    path.write_text(text)
    return [str(finding) for finding in read_cases(path, "one.test.yaml").findings]


def with_cases(folder: Path, *cases: dict[str, Any], **more: Any) -> Path:
    placed(folder)
    path = folder / "policies" / "one.test.yaml"
    path.write_text(json.dumps({"cases": list(cases), **more}))
    return path


# -- deciding ---------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_case_is_decided_as_the_server_decides_the_same_call(tmp_path: Path) -> None:
    asked = [("10", 10.0), ("gate", 30.0), ("limit", 51.0), ("much", 45.0)]

    def patient(config: dict[str, Any]) -> None:
        config["limits"] = {"identical_calls_max": 1_000}

    async with opened(tmp_path, patient) as shop:
        rehearsal = Rehearsal(shop.service.installation)
        invoice = shop.paid()[0]
        shop.sql("UPDATE invoices SET refunded_cents = paid_cents - 4000 WHERE id = ?", invoice)
        ((paid, refunded),) = shop.sql(
            "SELECT paid_cents, refunded_cents FROM invoices WHERE id = ?", invoice
        )
        for name, usd in reversed(asked):  # the one that runs comes last
            answer = await shop.refund(invoice, usd)
            case = case_with(
                name=name,
                arguments={"invoice_id": invoice, "amount_usd": usd, "reason_code": "goodwill"},
                facts={"invoice": {"paid_usd": paid / 100, "refunded_usd": refunded / 100}},
            )
            tried = try_case(rehearsal, cases_of(tmp_path, {"cases": [case]})[0])
            code = {Verdict.ALLOW: None, Verdict.DENY: "denied", Verdict.NEEDS_APPROVAL: "approval_pending"}
            assert tried.was is not None and code[tried.was] == code_of(answer), name
            if code_of(answer) == "denied":
                told = shop.packets()[-1]["decision"]
                assert told["policies"] == [*tried.policies] and details_of(answer)["code"] == "denied"
        assert len(shop.moved()) == 1


def test_look_ups_history_approvals_and_whoever_calls_decide(attempt: Try) -> None:
    assert attempt().was is Verdict.ALLOW
    assert attempt(facts={"invoice": {"paid_usd": 39, "refunded_usd": 30}}).policies == (
        "refund-within-paid",
    )
    assert attempt(history={"principal.refunds_today": 2}).was is Verdict.ALLOW
    assert attempt(history={"principal.refunds_today": 3}).policies == ("often",)
    assert attempt(principal={"roles": []}).policies == ("default.deny",)
    large = {**REFUND["arguments"], "amount_usd": 20.01}
    assert attempt(arguments=large).was is Verdict.NEEDS_APPROVAL
    assert attempt(arguments=large, approvals={"approver": 1}).was is Verdict.ALLOW


def test_when_where_and_through_whom_decide(attempt: Try) -> None:
    cancel: dict[str, Any] = {
        "tool": "cancel_refund",
        "arguments": {"refund_id": "ref_1"},
        "facts": None,
        "approvals": {"approver": 1},
    }
    assert attempt(**cancel).was is Verdict.ALLOW
    assert attempt(**cancel, now="2026-01-04T23:59:59Z").policies == ("by-day",)
    assert attempt(**cancel, environment="closed").policies == ("by-day",)
    assert attempt(**cancel, actor="mallory").policies == ("by-day",)


def test_a_deny_that_needs_no_look_up_is_found_without_one(attempt: Try) -> None:
    tried = attempt(arguments={**REFUND["arguments"], "amount_usd": 51}, facts=None)
    assert (tried.was, tried.policies) == (Verdict.DENY, ("issue_refund.max_amount_usd",))


def test_a_derived_value_may_stand_for_the_look_up_but_not_against_it(attempt: Try) -> None:
    assert attempt(facts=None, derived={"remaining_usd": 10}).was is Verdict.ALLOW
    assert attempt(facts=None, derived={"remaining_usd": 9.99}).policies == ("refund-within-paid",)
    against = attempt(derived={"remaining_usd": 51})
    assert against.end is CaseEnd.UNUSABLE and "give one of the two" in against.because


def test_what_came_back_is_decided_after_the_call(attempt: Try) -> None:
    came = {
        "refund_id": "ref_1", "invoice_id": "inv_1", "amount_usd": 10, "reason_code": "goodwill",
        "status": "issued", "note": "", "created_at": "2026-01-05", "updated_at": "2026-01-05",
    }  # fmt: skip
    after = {"phase": "after", "after": {"invoice": {"paid_usd": 80, "refunded_usd": 40}}}
    assert attempt(**after, output=came).end is CaseEnd.PASSED
    wrong = attempt(**after, output={**came, "invoice_id": "inv_2"}, expect="deny")
    assert (wrong.end, wrong.policies) == (CaseEnd.PASSED, ("right-invoice",))
    never = attempt(**after, output=came, principal={"roles": []})
    assert (
        never.end is CaseEnd.FAILED and "nothing comes back, for before the call it was deny" in never.because
    )
    misread = attempt(**{**after, "after": {}}, output=came)
    assert misread.end is CaseEnd.UNUSABLE and "`invoice` decides after a call" in misread.because
    assert attempt(**after, output={"refund_id": 7}).end is CaseEnd.UNUSABLE


def test_the_draw_of_a_rollout_and_what_would_reverse_a_call_are_part_of_the_decision(tmp_path: Path) -> None:
    def rolled_out(config: dict[str, Any]) -> None:
        config["rollout"] = {"mode": "human_approval", "canary_percent": 5}
        refund = tool_of(config, "issue_refund")
        refund["compensate"] = {"tool": "cancel_refund", "arguments": {"refund_id": "{output.refund_id}"}}
        tool_of(config, "cancel_refund")["approval"] = []

    rehearsal = Rehearsal(Installation(load_config(placed(tmp_path, rolled_out), data_dir=tmp_path)))

    def tried(**changed: Any) -> Tried:
        return try_case(rehearsal, cases_of(tmp_path, {"cases": [case_with(**changed)]})[0])

    assert tried().policies == ("rollout.human_approval.issue_refund",)
    assert tried(canary=True).was is Verdict.ALLOW
    tool_less = tried(canary=True, principal={"roles": []})
    assert tool_less.was is Verdict.DENY


# -- what is wrong with a case ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"arguments": {"invoice_id": "inv_1"}}, "`amount_usd`"),
        ({"tool": "issue_refunds"}, "there is no tool `issue_refunds`"),
        ({"facts": None}, "the fact `invoice` decides about `issue_refund` and is not known"),
        ({"facts": {"invoice": {"paid_usd": 80}}}, "`derived.remaining_usd` cannot be computed"),
        ({"facts": {"invoice": {"paid_usd": "80", "refunded_usd": 0}}}, "is not what `lookup_invoice` returns"),
        ({"facts": {"invoice": {"paid": 1}}}, "has the unknown property `paid`"),
        ({"facts": {"invoices": {}}}, "facts here: `invoice`"),
        ({"history": {"principal.refunds": 1}}, "history here: `principal.refunds_today`"),
        ({"approvals": {"boss": 1}}, "approvals here: `approver`"),
        ({"policies": ["refund-within-payed"]}, "decides no call of `issue_refund`"),
        ({"canary": True}, "no rollout draws calls"),
    ],
)  # fmt: skip
def test_a_case_that_cannot_be_decided_is_neither_passed_nor_failed(
    attempt: Try, changed: dict[str, Any], told: str
) -> None:
    tried = attempt(**changed)
    assert tried.end is CaseEnd.UNUSABLE and tried.was is None
    assert told in tried.because


def test_an_error_while_deciding_is_only_expected_by_its_name(rehearsal: Rehearsal, attempt: Try) -> None:
    odd = {"facts": None, "derived": {"remaining_usd": 10.00001}, "expect": "deny"}
    tried = attempt(**odd)
    assert tried.end is CaseEnd.FAILED and "denied because of an error" in tried.because
    assert attempt(**odd, policies=["error.deny"]).end is CaseEnd.PASSED


def test_findings_name_file_line_and_key(tmp_path: Path) -> None:
    text = (
        "cases:\n  - name: one\n    tool: issue_refund\n    expcet: allow\n  - name: one\n    expect: maybe\n"
    )
    assert findings_in(tmp_path, text) == [
        "one.test.yaml:4: `cases[0].expcet` is not a key here; write `expect`",
        "one.test.yaml:6: `cases[1].expect` must be 'allow', 'deny' or 'needs_approval'",
    ]
    text = "cases:\n  - {name: one, expect: allow}\n  - {name: one, tool: a, expect: deny}\n"
    assert findings_in(tmp_path, text) == [
        "one.test.yaml:2: `cases[0]` names no `tool`, and neither do the `defaults` of the file",
        "one.test.yaml:3: `cases[1].name` is already used at one.test.yaml:2; choose another",
    ]
    text = "cases:\n  - name: one\n    tool: a\n    expect: deny\n    principal: {roles: }\n    output: 1\n"
    assert findings_in(tmp_path, text) == [
        "one.test.yaml:2: `cases[0]` is wrong: `output` is for `phase: after` only"
    ]
    text = "cases:\n  - name: one\n    tool: a\n    expect: deny\n    principal:\n      roles:\n"
    assert findings_in(tmp_path, text) == [
        "one.test.yaml:6: `cases[0].principal.roles` has no value; give it one or remove the line"
    ]


def test_defaults_fill_in_what_a_case_leaves_out_and_never_another_tools_arguments(tmp_path: Path) -> None:
    defaults = {key: REFUND[key] for key in ("tool", "arguments", "facts")} | {"actor": "bot"}
    own = {"name": "own", "arguments": {"amount_usd": 3}, "expect": "allow"}
    other = {"name": "other", "tool": "cancel_refund", "arguments": {"refund_id": "ref_1"}, "expect": "deny"}
    first, second = cases_of(tmp_path, {"defaults": defaults, "cases": [own, other]})
    assert first.given.arguments == {**REFUND["arguments"], "amount_usd": 3}
    assert first.given.facts == REFUND["facts"]
    assert (second.given.arguments, second.given.facts, second.given.actor) == (
        {"refund_id": "ref_1"},
        {},
        "bot",
    )


# -- the first thing that differs -----------------------------------------------------------------------------------


def test_a_failure_says_what_was_decided_by_which_policies_and_why(attempt: Try) -> None:
    low = {"invoice": {"paid_usd": 31, "refunded_usd": 30}}
    denied = attempt(facts=low)
    assert denied.because == (
        "expected allow, was deny by refund-within-paid (policies/refunds.cedar:3): "
        "The refund is more than what is left on the invoice."
    )
    absent = attempt(expect="deny", policies=["refund-within-paid"])
    assert absent.because.startswith("expected deny, was allow by issue_refund.allow (")
    assert absent.because.endswith("; refund-within-paid (policies/refunds.cedar:3) does not match")
    other = attempt(facts=low, expect="deny", policies=["often"])
    assert other.because.startswith("expected deny by often, was deny by refund-within-paid")
    reason = attempt(facts=low, expect="deny", reasons=["No."])
    assert reason.because.startswith('expected the reasons "No.", they were "The refund is more')


def test_a_rule_that_decided_no_case_is_named_and_an_excuse_must_be_needed(
    rehearsal: Rehearsal, attempt: Try, tmp_path: Path
) -> None:
    tried = [attempt(), attempt(history={"principal.refunds_today": 3}, expect="deny")]
    text = json.dumps({"cases": [case_with()], "uncovered": {"by-day": "later", "often": "later"}})
    (tmp_path / "one.test.yaml").write_text(text)
    excused = read_cases(tmp_path / "one.test.yaml", "one.test.yaml").uncovered
    cover = cover_of(rehearsal, tried, excused)
    assert cover.seen == 2 and cover.excused == ("by-day",)
    assert (
        "refund-within-paid" in cover.never
        and not {"often", "by-day", "issue_refund.allow"} & cover.never.keys()
    )
    assert [str(finding) for finding in cover.findings] == [
        "one.test.yaml:1: `uncovered.often` is no rule that is without a case; remove the line"
    ]


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_desks_own_cases_pass_and_cover_every_rule_and_leave_nothing_behind(tmp_path: Path) -> None:
    placed(tmp_path)
    (tmp_path / "policies" / "refunds.test.yaml").write_text(EXAMPLE.read_text())
    before = sorted(tmp_path.rglob("*"))
    result = run(tmp_path, "policy", "test", "--cover", "--json")
    assert result.exit_code == 0, result.stdout + result.stderr
    assert sorted(tmp_path.rglob("*")) == before
    told = json.loads(result.stdout)
    assert told["ok"] and told["cover"]["never"] == [] and len(told["cases"]) > 10


def ends_of(result: Result) -> dict[str, str]:
    return {case["name"]: case["end"] for case in json.loads(result.stdout)["cases"]}


def test_exit_codes_tell_failed_from_unusable(tmp_path: Path) -> None:
    with_cases(tmp_path, case_with())
    assert run(tmp_path, "policy", "test").exit_code == 0
    assert run(tmp_path, "policy", "test", "--cover").exit_code == 1
    failing, unusable = case_with(name="wrong", expect="deny"), case_with(name="odd", facts=None)
    with_cases(tmp_path, case_with(), failing)
    result = run(tmp_path, "policy", "test")
    assert result.exit_code == 1 and "wrong: expected deny, was allow" in result.stdout
    with_cases(tmp_path, case_with(), failing, unusable)
    result = run(tmp_path, "policy", "test", "--json")
    assert result.exit_code == 2
    assert ends_of(result) == {"a refund": "passed", "wrong": "failed", "odd": "unusable"}
    assert run(tmp_path, "policy", "test", "nowhere.yaml").exit_code == 2
    (tmp_path / "policies" / "one.test.yaml").unlink()
    assert "there are no cases" in run(tmp_path, "policy", "test").stderr


def test_junit_counts_cases_and_holds_nothing_that_xml_cannot(tmp_path: Path) -> None:
    odd = case_with(name='a <b> & "c"\u202e', expect="deny")
    with_cases(tmp_path, case_with(), odd, case_with(name="none", facts=None))
    out = tmp_path / "results.xml"
    assert run(tmp_path, "policy", "test", "--junit", str(out)).exit_code == 2
    root = ET.fromstring(out.read_text())  # noqa: S314 -- our own file
    assert root.tag == "testsuites"
    (suite,) = root
    for counted in (root, suite):
        assert [counted.get(word) for word in ("tests", "failures", "errors")] == ["3", "1", "1"]
    names = {case.get("name"): [child.tag for child in case] for case in suite}
    assert names == {"a refund": [], 'a <b> & "c"\\u202e': ["failure"], "none": ["error"]}
    assert all(case.get("classname") and case.get("time") for case in suite)
    (tmp_path / "policies" / "one.test.yaml").write_text("cases: 7\n")
    assert run(tmp_path, "policy", "test", "--junit", str(out)).exit_code == 2
    root = ET.fromstring(out.read_text())  # noqa: S314
    assert root.get("errors") == "1" and root[0][0][0].tag == "error"


def test_nothing_that_is_printed_holds_a_secret_of_the_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESK_STORE", f"sqlite:///{tmp_path}/correct-horse-battery.db")
    secret = f"sqlite:///{tmp_path}/correct-horse-battery.db"
    placed(tmp_path, url="secret://env/DESK_STORE")
    (tmp_path / "policies" / "one.test.yaml").write_text(
        json.dumps({"cases": [case_with(name=f"see {secret}", expect="deny")]})
    )
    result = run(tmp_path, "policy", "test", "--junit", str(tmp_path / "out.xml"))
    assert result.exit_code == 1
    assert secret not in result.stdout + result.stderr + (tmp_path / "out.xml").read_text()


def test_the_published_schema_is_the_grammar_and_the_example_fits_it() -> None:
    published = json.loads((ROOT / "docs" / "policy-test.schema.json").read_text())
    assert published == cases_json_schema()
    yaml: Any = YAML(typ="safe", pure=True)
    schema = compile_schema(published)
    assert schema.check(json.loads(json.dumps(yaml.load(EXAMPLE.read_text())))) == []
    assert schema.check({"cases": [{"name": "one", "expect": "maybe"}]}) != []
