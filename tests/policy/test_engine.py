"""Decisions: gates, errors, early and after decisions, listings."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.vocabulary import Actor, Effect, Principal, PrincipalKind, Subject
from comptroller_policy.declarations import ApprovalRule, RolloutMode
from comptroller_policy.engine import DEFAULT_DENY, ERROR_DENY
from comptroller_policy.errors import BundleInvalid
from comptroller_policy.model import Gate, PolicyFile, Question, Record, Verdict
from tests.policy.questions import AGENT, INVOICE, LOOKUP, OVER_20, STRANGER, WITHIN_PAID, bundle, refund

REFUND = 'action == Comptroller::Action::"issue_refund"'
AFTER = 'action == Comptroller::Action::"issue_refund:after"'
EXAMPLE: dict[str, Any] = {
    "constraints": {"max_amount_usd": 50, "require_reason_code": True},
    "approval": (OVER_20,),
    "files": (WITHIN_PAID,),
}


def test_the_example_config_and_policy_file_decide_as_they_read() -> None:
    desk = bundle(**EXAMPLE)
    assert desk.decide(refund(10)).verdict is Verdict.ALLOW
    assert desk.decide(refund(10)).policies == ("issue_refund.allow",)
    asked = desk.decide(refund(30))
    assert asked.verdict is Verdict.NEEDS_APPROVAL
    assert asked.gates == (Gate("issue_refund.approval.approver", "approver", 1),)
    assert desk.decide(refund(30, approvals={"approver": 1})).verdict is Verdict.ALLOW
    over = desk.decide(refund(60, approvals={"approver": 1}))
    assert (over.verdict, over.policies) == (Verdict.DENY, ("issue_refund.max_amount_usd",))
    assert over.reasons == ("amount_usd may be at most 50.",)
    left = desk.decide(refund(10, derived={"remaining_usd": Decimal("9.99")}))
    assert left.policies == ("refund-within-paid",)
    assert left.reasons == ("The refund is more than what is left on the invoice.",)


def test_a_person_is_not_asked_for_a_call_that_is_denied_anyway() -> None:
    desk = bundle(**EXAMPLE)
    decision = desk.decide(refund(60))
    assert (decision.verdict, decision.policies) == (Verdict.DENY, ("issue_refund.max_amount_usd",))
    stranger = desk.decide(refund(30, subject=STRANGER))
    assert (stranger.verdict, stranger.policies, stranger.gates) == (Verdict.DENY, (DEFAULT_DENY,), ())


def test_the_reason_is_told_even_where_the_policy_gives_none() -> None:
    desk = bundle(f'@id("bare") forbid (principal, {REFUND}, resource);\n')
    assert desk.decide(refund()).reasons == ("The policy bare decided.",)


@pytest.mark.parametrize("given_approvals", [0, 1, 2, 3])
def test_a_gate_counts_to_its_number(given_approvals: int) -> None:
    desk = bundle(approval=(ApprovalRule(role="boss", at_least=2),))
    decision = desk.decide(refund(approvals={"boss": given_approvals}))
    assert (decision.verdict is Verdict.ALLOW) == (given_approvals >= 2)
    if given_approvals < 2:
        assert decision.gates == (Gate("issue_refund.approval.boss", "boss", 2),)


def test_every_closed_gate_is_named_and_approvals_of_another_role_open_nothing() -> None:
    desk = bundle(approval=(ApprovalRule(role="boss"), ApprovalRule(role="legal")))
    assert [gate.role for gate in desk.decide(refund()).gates] == ["boss", "legal"]
    assert [gate.role for gate in desk.decide(refund(approvals={"boss": 1, "cook": 9})).gates] == ["legal"]


def test_an_operators_gate_works_like_a_configured_one() -> None:
    desk = bundle(
        f'@id("late-needs-boss") @approval("boss") forbid (principal, {REFUND}, resource)\n'
        'when { context.input has reason_code && context.input.reason_code == "late" }\n'
        "unless { context.approvals.boss >= 2 };"
    )
    assert desk.decide(refund()).gates == (Gate("late-needs-boss", "boss", 2),)
    assert desk.decide(refund(input={"reason_code": "damaged"})).verdict is Verdict.ALLOW
    assert desk.decide(refund(approvals={"boss": 2})).verdict is Verdict.ALLOW


# ------------------------------------------------------------------------------------------------ errors


def test_a_forbid_that_overflows_denies_instead_of_being_skipped() -> None:
    desk = bundle(
        f'@id("overflow") forbid (principal, {REFUND}, resource)\n'
        "when { context.history.principal.refunds_today + 9223372036854775807 < 0 };"
    )
    decision = desk.decide(refund())
    assert (decision.verdict, decision.policies) == (Verdict.DENY, (ERROR_DENY,))
    assert any("overflow" in error for error in decision.errors)
    assert desk.decide(refund(history={"principal.refunds_today": 0})).verdict is Verdict.ALLOW


@pytest.mark.parametrize("rollout", list(RolloutMode))
def test_an_error_is_never_put_to_a_person(rollout: RolloutMode) -> None:
    desk = bundle(
        f'@id("overflow") forbid (principal, {REFUND}, resource)\n'
        "when { context.history.principal.refunds_today + 9223372036854775807 < 0 };",
        rollout=rollout,
        approval=(OVER_20,),
    )
    assert desk.decide(refund(30)).verdict is Verdict.DENY


def test_an_amount_that_policy_cannot_compare_exactly_is_denied_and_the_agent_is_told() -> None:
    decision = bundle(**EXAMPLE).decide(refund(50.00001))
    assert decision.policies == (ERROR_DENY,)
    assert decision.reasons[0].startswith("input.amount_usd has more than four decimal places")


@pytest.mark.parametrize(
    "change",
    [
        {"derived": {}},
        {"derived": {"remaining_usd": Decimal("0.00001")}},
        {"derived": {"remaining_usd": Decimal("NaN")}},
        {"input": {"amount_usd": "10"}},
        {"input": {"amount_usd": None}},
        {"input": {"reason_code": 5}},
        {"record": None},
        {"record": Record("ticket", "7")},
        {"record": Record("invoice", "")},
    ],
)
def test_what_is_missing_or_of_another_type_denies(change: dict[str, Any]) -> None:
    decision = bundle(**EXAMPLE).decide(refund(**change))
    assert decision.verdict is Verdict.DENY
    assert decision.errors


def test_a_failed_look_up_is_not_explained_to_the_agent() -> None:
    desk = bundle(
        f'@id("paid") forbid (principal, {REFUND}, resource)\n'
        'when { context.facts.invoice.paid_usd.lessThan(decimal("1.0")) };'
    )
    decision = desk.decide(refund(facts={"invoice": {"paid_usd": None}}))
    assert decision.errors == ("facts.invoice.paid_usd is missing.",)
    assert decision.reasons == ("A policy could not be evaluated, so the call is denied.",)


def test_an_unknown_tool_is_denied_everywhere() -> None:
    desk, question = bundle(), replace(refund(), tool="nope")
    for decision in (desk.decide(question), desk.decide_early(question), desk.decide_after(question)):
        assert decision is not None
        assert decision.verdict is Verdict.DENY
    assert not desk.visible(AGENT, "nope")


def test_what_no_policy_reads_cannot_deny() -> None:
    assert bundle().decide(refund(50.00001, facts={}, derived={}, history={})).verdict is Verdict.ALLOW


def test_an_argument_cannot_forge_an_entity_or_a_number() -> None:
    desk = bundle(**EXAMPLE)
    forged = {"__extn": {"fn": "decimal", "arg": "1.0"}}
    assert desk.decide(refund(forged)).verdict is Verdict.DENY


# ------------------------------------------------------------------------- the rest of the context


def test_a_policy_on_a_group_applies_to_every_tool_of_the_effect() -> None:
    desk = bundle(
        """
@id("no-creates") forbid (principal, action in Comptroller::Action::"create", resource)
when { principal.tenant == Comptroller::Tenant::"evil" };
@id("no-reads") forbid (principal, action, resource)
when { action in Comptroller::Action::"read" && principal.kind == "service" };
@id("listed") permit (principal, action in [Comptroller::Action::"delete", Comptroller::Action::"call"], resource)
when { principal in Comptroller::Role::"admin" };
"""
    )
    evil = replace(AGENT, principal=Principal("evil", "i", "s"))
    assert desk.decide(refund(subject=evil)).policies == ("no-creates",)
    assert not desk.visible(evil, "issue_refund")
    assert desk.visible(evil, "lookup_invoice")
    service = replace(AGENT, principal=Principal("acme", "i", "s", PrincipalKind.SERVICE))
    read = Question("lookup_invoice", service, {"invoice_id": "7"}, 1, record=Record("invoice", "7"))
    assert desk.decide(read).policies == ("no-reads",)
    assert not desk.visible(service, "lookup_invoice")
    assert desk.decide(refund(subject=service)).verdict is Verdict.ALLOW
    admin = replace(STRANGER, roles=frozenset({"admin"}))
    assert desk.decide(refund(subject=admin)).policies == ("listed",)
    assert desk.visible(admin, "issue_refund")


def test_policies_read_time_task_actor_record_and_tenant() -> None:
    desk = bundle(
        f"""
@id("late") forbid (principal, {REFUND}, resource) when {{ context.now >= datetime("2026-01-01") }};
@id("steps") forbid (principal, {REFUND}, resource) when {{ context.task.step > 3 || context.task.id == "bad" }};
@id("actor") forbid (principal, {REFUND}, resource) when {{ context.actor == Comptroller::Actor::"evil" }};
@id("env") forbid (principal, {REFUND}, resource) when {{ context.environment == "production" }};
@id("record") forbid (principal, {REFUND}, resource)
when {{ resource.key == "13" && resource.kind == "invoice" && resource in Comptroller::Source::"desk" }};
@id("one") forbid (principal, {REFUND}, resource == Comptroller::Record::"desk/invoice/14");
@id("tenant") forbid (principal, {REFUND}, resource)
unless {{ principal.tenant == Comptroller::Tenant::"acme" && principal.kind == "local" }};
"""
    )

    def decided(**change: Any) -> tuple[str, ...]:
        return desk.decide(refund(**change)).policies

    assert decided() == ("issue_refund.allow",)
    assert decided(now_ms=1_767_225_599_999) == ("issue_refund.allow",)
    assert decided(now_ms=1_767_225_600_000) == ("late",)
    assert decided(step=4) == decided(task="bad") == ("steps",)
    assert decided(environment="production") == ("env",)
    assert decided(record=Record("invoice", "13")) == ("record",)
    assert decided(record=Record("invoice", "14")) == ("one",)
    assert decided(subject=replace(AGENT, actor=Actor("evil"))) == ("actor",)
    assert decided(subject=replace(AGENT, principal=Principal("evil", "i", "s"))) == ("tenant",)


def test_the_role_decides_and_not_what_was_cached_for_the_principal() -> None:
    desk = bundle()
    for _ in range(2):
        assert desk.decide(refund()).verdict is Verdict.ALLOW
        assert desk.decide(refund(subject=STRANGER)).verdict is Verdict.DENY


def test_a_remembered_decision_still_checks_the_record() -> None:
    desk = bundle()
    assert not desk.reads("lookup_invoice").inputs
    question = Question("lookup_invoice", AGENT, {"invoice_id": "7"}, 1, record=Record("invoice", "7"))
    for _ in range(2):
        assert desk.decide(question).verdict is Verdict.ALLOW
        assert desk.decide(replace(question, record=None)).verdict is Verdict.DENY
        assert desk.decide(replace(question, record=Record("ticket", "7"))).verdict is Verdict.DENY


# ----------------------------------------------------------------------------------------- early and after


def test_the_early_decision_denies_what_needs_no_look_up() -> None:
    desk = bundle(**EXAMPLE)
    bare: dict[str, Any] = {"facts": {}, "derived": {}, "history": {}}
    assert desk.reads("issue_refund").early
    assert desk.decide_early(refund(10, **bare)) is None
    assert desk.decide_early(refund(30, **bare)) is None
    early = desk.decide_early(refund(60, **bare))
    assert early is not None
    assert early.policies == ("issue_refund.max_amount_usd",)
    stranger = desk.decide_early(refund(10, subject=STRANGER, **bare))
    assert stranger is not None
    assert stranger.policies == (DEFAULT_DENY,)


def test_a_permit_that_needs_a_look_up_is_not_denied_early() -> None:
    desk = bundle(
        f'@id("rich") permit (principal, {REFUND}, resource)\n'
        'when { context.facts.invoice.paid_usd.greaterThan(decimal("50")) };',
        roles=(),
    )
    assert desk.decide_early(refund(facts={})) is None
    assert desk.decide(refund()).policies == ("rich",)


def test_a_tool_without_look_ups_has_no_early_decision() -> None:
    desk = bundle(facts={}, derived={}, history={}, constraints={"max_amount_usd": 5})
    assert not desk.reads("issue_refund").early
    assert desk.decide_early(refund(10)) is None
    assert desk.decide(refund(10)).verdict is Verdict.DENY


def test_reads_names_only_what_the_slice_needs() -> None:
    reads = bundle(**EXAMPLE).reads("issue_refund")
    assert (reads.derived, reads.history, reads.after) == (frozenset({"remaining_usd"}), frozenset(), False)
    assert reads.facts == {"invoice"}, "the derived value is computed from it"
    assert bundle().reads("issue_refund").facts == frozenset()


def test_the_decision_after_starts_from_a_permit_and_only_forbids_count() -> None:
    desk = bundle(
        f'@id("as-asked") forbid (principal, {AFTER}, resource)\n'
        "when { context.output.amount_usd != context.input.amount_usd };\n"
        '@id("not-less") forbid (principal, action in Comptroller::Action::"after", resource)\n'
        "when { context has after && context.after has invoice && context.facts.invoice.refunded_usd"
        ".greaterThan(context.after.invoice.refunded_usd) };",
    )
    reads = desk.reads("issue_refund")
    assert (reads.after, reads.after_facts, reads.facts) == (
        True,
        frozenset({"invoice"}),
        frozenset({"invoice"}),
    )
    after = {"invoice": {"invoice_id": "7", "paid_usd": 100, "refunded_usd": 30}}
    good = refund(10, output={"refund_id": "r", "amount_usd": 10.0}, after=after)
    assert desk.decide_after(good).verdict is Verdict.ALLOW
    wrong = replace(good, output={"refund_id": "r", "amount_usd": 11})
    assert desk.decide_after(wrong).policies == ("as-asked",)
    assert desk.decide_after(
        replace(good, after={"invoice": {**after["invoice"], "refunded_usd": 1}})
    ).policies == ("not-less",)
    assert desk.decide_after(replace(good, output={"refund_id": "r"})).policies == (ERROR_DENY,)
    assert desk.decide_after(replace(good, output=None)).policies == (ERROR_DENY,)


def test_nothing_is_asked_after_the_call_where_no_policy_reads_it() -> None:
    desk = bundle(
        '@id("all") forbid (principal, action, resource) when { context.environment == "x" };', **EXAMPLE
    )
    assert not desk.reads("issue_refund").after
    assert desk.decide_after(refund(output=None)).verdict is Verdict.ALLOW


# -------------------------------------------------------------------------------------------------- explain


def test_explain_tells_of_every_policy_whether_it_holds_and_which_decided() -> None:
    told = {item.id: item for item in bundle(**EXAMPLE).explain(refund(30))}
    assert {id_: (item.matched, item.decided) for id_, item in told.items()} == {
        "issue_refund.allow": (True, False),
        "issue_refund.max_amount_usd": (False, False),
        "issue_refund.require_reason_code": (False, False),
        "issue_refund.approval.approver": (True, True),
        "refund-within-paid": (False, False),
    }
    assert told["refund-within-paid"].where == "policies/refunds.cedar:2"


# ---------------------------------------------------------------------------------------- text and digest


def test_the_text_shows_rules_and_files_and_parses_again() -> None:
    text = bundle(**EXAMPLE).text()
    assert '@id("issue_refund.max_amount_usd")' in text
    assert "// as an operator writes it" in text


def test_the_digest_changes_with_rules_files_rollout_and_definitions_only() -> None:
    digests = [
        bundle(**EXAMPLE).digest,
        bundle().digest,
        bundle(constraints={"max_amount_usd": 51}).digest,
        bundle(rollout=RolloutMode.HUMAN_APPROVAL).digest,
        bundle(files=(PolicyFile("a", "// x"),)).digest,
        bundle(files=(PolicyFile("b", "// x"),)).digest,
    ]
    assert len(set(digests)) == len(digests)
    assert bundle(**EXAMPLE).digest == digests[0]


# ------------------------------------------------------------------------------------------------ listing

CONDITIONS = [
    "",
    'when { principal.tenant == Comptroller::Tenant::"acme" }',
    'when { principal in Comptroller::Role::"support_agent" }',
    'unless { principal in Comptroller::Role::"other" }',
    'when { context.input.amount_usd.greaterThan(decimal("20.0")) }',
    'when { context.actor == Comptroller::Actor::"triage-bot" }',
    "when { context.history.principal.refunds_today > 0 }",
    'when { resource.key == "7" }',
    'when { resource == Comptroller::Record::"desk/invoice/7" }',
    'when { context.input has reason_code && principal.kind == "user" }',
    "when { context.task.step + 9223372036854775807 > 0 }",
]
GATE = '@approval("boss") forbid (principal, action, resource) {} unless {{ context.approvals.boss >= 1 }};'
rules = st.lists(
    st.tuples(st.sampled_from(["permit", "forbid", "gate"]), st.sampled_from(CONDITIONS)), max_size=5
)
subjects = st.builds(
    Subject,
    st.builds(Principal, st.sampled_from(["acme", "evil"]), st.just("i"), st.just("s")),
    st.builds(Actor, st.sampled_from(["triage-bot", "b"])),
    st.frozensets(st.sampled_from(["support_agent", "other"])),
)


def _written(index: int, kind: str, condition: str) -> str:
    if kind == "gate":
        when = condition if condition.startswith("when") else ""
        return f'@id("p{index}") ' + GATE.replace("action,", f"{REFUND},").format(when)
    return f'@id("p{index}") {kind} (principal, {REFUND}, resource) {condition};'


@given(
    rules,
    subjects,
    st.lists(
        st.tuples(st.integers(0, 40), st.sampled_from([0, 4]), st.sampled_from(["7", "8"])),
        min_size=1,
        max_size=4,
    ),
)
def test_a_listing_never_hides_a_callable_tool(
    drawn: list[tuple[str, str]], subject: Subject, calls: list[tuple[int, int, str]]
) -> None:
    try:
        desk = bundle(
            "\n".join(_written(at, *rule) for at, rule in enumerate(drawn)), roles=("support_agent",)
        )
    except BundleInvalid as error:
        assert "no approval can open" in str(error)
        return
    listed = desk.visible(subject, "issue_refund")
    for amount, step, key in calls:
        question = refund(amount, subject=subject, step=step, record=Record("invoice", key))
        decision = desk.decide(question)
        assert listed or decision.verdict is Verdict.DENY, decision
        early = desk.decide_early(question)
        assert early is None or decision.verdict is Verdict.DENY, "an early deny is never overturned"


@given(
    st.lists(st.tuples(st.sampled_from(["permit", "forbid"]), st.sampled_from(CONDITIONS[:4])), max_size=4),
    subjects,
)
def test_a_listing_never_shows_what_the_principal_alone_denies(
    drawn: list[tuple[str, str]], subject: Subject
) -> None:
    desk = bundle("\n".join(_written(at, *rule) for at, rule in enumerate(drawn)))
    allowed = desk.decide(refund(subject=subject)).verdict is Verdict.ALLOW
    assert desk.visible(subject, "issue_refund") == allowed


def test_an_actor_that_is_always_denied_does_not_see_the_tool() -> None:
    desk = bundle(
        '@id("a") forbid (principal, action, resource) when { context.actor == Comptroller::Actor::"triage-bot" };'
    )
    assert not desk.visible(AGENT, "issue_refund")
    assert desk.visible(replace(AGENT, actor=Actor("b")), "issue_refund")


@pytest.mark.parametrize("subject_name", ['quo"te\\', "new\nline", "é☃", "\x00", "a|b::c"])
def test_a_principal_with_any_name_is_listed_and_decided_alike(subject_name: str) -> None:
    desk = bundle(
        f'@id("p") permit (principal, {REFUND}, resource) when {{ principal.tenant == Comptroller::Tenant::"t" }};'
    )
    subject = Subject(Principal("t", "issuer", subject_name), Actor("x"))
    assert desk.decide(refund(subject=subject)).verdict is Verdict.ALLOW
    assert desk.visible(subject, "issue_refund")


def test_a_read_tool_is_open_to_everyone_when_it_names_no_roles() -> None:
    assert bundle().visible(STRANGER, LOOKUP.name)
    assert LOOKUP.effect is Effect.READ
    assert INVOICE["type"] == "object"


class _Forgets(dict[object, Any]):
    """Remembers no answer."""

    def __setitem__(self, key: object, value: object) -> None:
        del key, value


@given(
    rules.filter(bool),
    st.lists(
        st.tuples(
            subjects,
            st.integers(18, 22),
            st.sampled_from([0, 4]),
            st.sampled_from(["7", "8"]),
            st.integers(0, 1),
        ),
        min_size=2,
        max_size=8,
    ),
)
def test_an_answer_that_is_remembered_is_the_one_that_would_be_given(
    drawn: list[tuple[str, str]], calls: list[tuple[Subject, int, int, str, int]]
) -> None:
    text = "\n".join(_written(at, *rule) for at, rule in enumerate(drawn))
    try:
        desk, forgetful = bundle(text, roles=None), bundle(text, roles=None)
    except BundleInvalid as error:
        assert "no approval can open" in str(error)
        return
    forgetful._answered = _Forgets()  # pyright: ignore[reportPrivateUsage] -- what is asked anew each time
    for subject, amount, step, key, votes in calls:
        question = refund(
            amount, subject=subject, step=step, record=Record("invoice", key), approvals={"boss": votes}
        )
        assert desk.decide_early(question) == forgetful.decide_early(question)
        assert desk.decide(question) == forgetful.decide(question)


def test_the_answer_to_one_person_is_nobody_elses() -> None:
    desk = bundle(**EXAMPLE)
    for _ in range(2):
        assert desk.decide(refund(10)).verdict is Verdict.ALLOW
        assert desk.decide(refund(10, subject=STRANGER)).policies == (DEFAULT_DENY,)
        assert desk.decide(refund(60)).policies == ("issue_refund.max_amount_usd",)


def test_the_answer_about_one_record_is_no_other_records() -> None:
    rule = f'@id("not-7") forbid (principal, {REFUND}, resource == Comptroller::Record::"desk/invoice/7");'
    desk = bundle(rule, **EXAMPLE)
    for _ in range(2):
        assert desk.decide(refund(10, record=Record("invoice", "8"))).verdict is Verdict.ALLOW
        assert desk.decide(refund(10, record=Record("invoice", "7"))).policies == ("not-7",)
