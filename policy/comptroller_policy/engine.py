"""Decide: a pure function of a bundle and a question. An error anywhere is a deny.

A `Bundle` is immutable and made by `bundle.compile_bundle`. Its methods are the steps of a governed call that ask
policy: `visible` (listing), `decide_early` (no look-ups yet), `decide`, `decide_after`, and `explain` for people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from comptroller_audit.vocabulary import Principal, Subject
from comptroller_policy.actions import Action
from comptroller_policy.ahead import decide_ahead
from comptroller_policy.cedar import Answered, Entities
from comptroller_policy.model import Decision, Gate, Question, Reads, Record, Verdict
from comptroller_policy.slices import Prepared, may_allow, policy_set, principal_entities, with_record
from comptroller_policy.syntax import APPROVALS_ASSUMED, Policy

__all__ = [
    "AFTER_IMPLICIT",
    "DEFAULT_DENY",
    "EARLY_IMPLICIT",
    "ERROR_DENY",
    "Bundle",
    "Explained",
    "ToolSlice",
]

DEFAULT_DENY = "default.deny"
"""The id in a decision when no policy permits: what nothing permits is denied."""
ERROR_DENY = "error.deny"
"""The id in a decision when anything could not be evaluated: the errors say what."""
AFTER_IMPLICIT = "after.implicit"
"""The permit that the decision after a call starts from; only forbids count there."""
EARLY_IMPLICIT = "early.implicit"
"""Stands in the early decision for permits that need look-ups: they may still permit."""

CACHE_ENTRIES_MAX = 4096
"""Principals, principal-record pairs and decisions remembered per bundle, each."""


@dataclass(frozen=True, slots=True, eq=False)
class ToolSlice:
    """One tool's policies, prepared. `early` and `after` are None when they could not change anything."""

    name: str
    before: Prepared
    early: Prepared | None
    after: Prepared | None
    gates: Mapping[str, Gate]
    reads: Reads


@dataclass(frozen=True, slots=True)
class Explained:
    """One policy of a tool's slice for one question. `matched` is None when it could not be evaluated."""

    id: str
    effect: str
    where: str
    matched: bool | None
    decided: bool
    reason: str | None


class Bundle:
    """Everything that decides, immutable. `digest` is the hex SHA-256 over texts, definitions and rules."""

    def __init__(self, digest: str, text: str, slices: Mapping[str, ToolSlice]) -> None:
        self.digest = digest
        self._text = text
        self._slices = dict(slices)
        self._principals = lru_cache(CACHE_ENTRIES_MAX)(principal_entities)
        self._records = lru_cache(CACHE_ENTRIES_MAX)(self._with_record)
        self._visible = lru_cache(CACHE_ENTRIES_MAX)(self._may_call)
        self._decided: dict[object, Decision] = {}
        self._answered: dict[object, Answered] = {}

    def text(self) -> str:
        """Every policy as Cedar: what the config compiles to, then the operator's files."""
        return self._text

    def text_of(self, tool: str) -> str:
        """The policies that decide calls of `tool`, before and after, as Cedar. KeyError for an unknown tool."""
        slice_ = self._slices[tool]
        policies = [*slice_.before.policies, *(slice_.after.policies if slice_.after else ())]
        parts = {p.id: f"// {p.where}\n{p.text}\n" for p in policies if p.id != AFTER_IMPLICIT}
        return "\n".join(parts.values())

    def tools(self) -> Sequence[str]:
        return tuple(self._slices)

    def reads(self, tool: str) -> Reads:
        """What deciding about `tool` needs: look up and compute nothing else. KeyError for an unknown tool."""
        return self._slices[tool].reads

    def asked(self, tool: str, *, after: bool = False) -> tuple[str, ...]:
        """The ids of the policies that decide calls of `tool`, before or after. KeyError for an unknown tool."""
        slice_ = self._slices[tool]
        prepared = slice_.after if after else slice_.before
        return tuple(policy.id for policy in prepared.policies) if prepared is not None else ()

    def rules(self) -> Mapping[str, Policy]:
        """Every policy that decides about some tool, before or after a call, by its id."""
        prepared = (
            part for slice_ in self._slices.values() for part in (slice_.before, slice_.after) if part
        )
        found = {policy.id: policy for part in prepared for policy in part.policies}
        return {id_: policy for id_, policy in found.items() if id_ != AFTER_IMPLICIT}

    def visible(self, subject: Subject, tool: str) -> bool:
        """False only when every call of `tool` by `subject` would be denied, whatever its arguments."""
        return tool in self._slices and self._visible(subject, tool)

    def decide_early(self, question: Question) -> Decision | None:
        """A deny that needs no look-up, or None: go on to `decide`. None at once for a tool without look-ups."""
        slice_ = self._slices.get(question.tool)
        if slice_ is None:
            return _unknown_tool(question.tool)
        if slice_.early is None:
            return None
        answer = self._ask(slice_.early, question, question.approvals)
        return None if answer.allowed else _deny(slice_.early, answer)

    def decide(self, question: Question) -> Decision:
        """The decision before a call. NEEDS_APPROVAL only if the given gates are all that stands in the way."""
        slice_ = self._slices.get(question.tool)
        if slice_ is None:
            return _unknown_tool(question.tool)
        if slice_.before.reads_call:
            return self._decide(slice_, question)
        approvals = tuple(question.approvals.get(gate.role, 0) for gate in slice_.gates.values())
        known = (question.environment, _kind(question.record), question.canary)
        key = (question.tool, question.subject, known, approvals)
        found = self._decided.get(key)
        if found is None:
            found = self._decide(slice_, question)
            if len(self._decided) >= CACHE_ENTRIES_MAX:
                self._decided.clear()
            self._decided[key] = found
        return found

    def _decide(self, slice_: ToolSlice, question: Question) -> Decision:
        prepared = slice_.before
        answer = self._ask(prepared, question, question.approvals)
        if answer.allowed:
            return Decision(Verdict.ALLOW, tuple(answer.policies), _reasons(prepared, answer.policies))
        gates = [slice_.gates[id_] for id_ in answer.policies if id_ in slice_.gates]
        if answer.errors or not gates or len(gates) != len(answer.policies):
            return _deny(prepared, answer)
        assumed = {**question.approvals, **{gate.role: APPROVALS_ASSUMED for gate in gates}}
        approved = self._ask(prepared, question, assumed)
        if not approved.allowed:
            return _deny(prepared, approved)
        reasons = _reasons(prepared, answer.policies)
        return Decision(Verdict.NEEDS_APPROVAL, tuple(answer.policies), reasons, tuple(gates))

    def decide_ahead(self, question: Question, unknown: frozenset[str]) -> Decision:
        """Before anything is looked up and without the arguments in `unknown`: what is certain, and every gate that
        may turn out closed. A call decided so is decided again when all of it is known.
        """
        slice_ = self._slices.get(question.tool)
        if slice_ is None:
            return _unknown_tool(question.tool)
        subject = question.subject
        try:
            entities = self._principals(slice_.before.action, subject.principal, subject.roles)
        except ValueError as error:
            return _deny(slice_.before, Answered(allowed=False, policies=(), errors=(str(error),)))
        return decide_ahead(slice_.before, slice_.gates, question, entities, unknown)

    def decide_after(self, question: Question) -> Decision:
        """The decision on what came back: an implicit permit, so only forbids count."""
        slice_ = self._slices.get(question.tool)
        if slice_ is None:
            return _unknown_tool(question.tool)
        if slice_.after is None:
            return Decision(Verdict.ALLOW, (AFTER_IMPLICIT,))
        answer = self._ask(slice_.after, question, question.approvals)
        if answer.allowed:
            return Decision(Verdict.ALLOW, tuple(answer.policies))
        return _deny(slice_.after, answer)

    def explain(self, question: Question) -> list[Explained]:
        """Every policy in the slice of `decide`, whether its conditions hold, and whether it decided."""
        slice_ = self._slices[question.tool]
        decided = self.decide(question).policies
        return [
            Explained(
                policy.id,
                str(policy.body["effect"]),
                policy.where,
                self._matches(slice_, policy, question),
                policy.id in decided,
                policy.reason,
            )
            for policy in slice_.before.policies
        ]

    # ------------------------------------------------------------------------------------------ inside

    def _matches(self, slice_: ToolSlice, policy: Policy, question: Question) -> bool | None:
        # Alone and as a permit, a policy allows exactly when its conditions hold.
        alone = replace(policy, body={**policy.body, "effect": "permit"})
        prepared = replace(slice_.before, handle=policy_set([alone]))
        answer = self._ask(prepared, question, question.approvals)
        return None if answer.errors else answer.allowed

    def _ask(self, prepared: Prepared, question: Question, approvals: Mapping[str, int]) -> Answered:
        principal, roles = question.subject.principal, question.subject.roles
        try:
            if prepared.reads_record and question.record is not None:
                entities = self._records(prepared.action, principal, roles, question.record)
            else:
                entities = self._principals(prepared.action, principal, roles)
        except ValueError as error:
            fault = f"the principal or record has no Cedar form: {error}"
            return Answered(allowed=False, policies=(), errors=(fault,))
        return prepared.ask(question, approvals, entities, self._answered)

    def _with_record(
        self, action: Action, principal: Principal, roles: frozenset[str], record: Record
    ) -> Entities:
        return with_record(self._principals(action, principal, roles), action.tool.source, record)

    def _may_call(self, subject: Subject, tool: str) -> bool:
        prepared = self._slices[tool].before
        try:
            entities = self._principals(prepared.action, subject.principal, subject.roles)
        except ValueError:
            return False
        return may_allow(prepared, subject, entities)[0]


def _kind(record: Record | None) -> str | None:
    # A record without a key is none at all: it is refused before Cedar is asked.
    return record.kind if record is not None and record.key else None


def _unknown_tool(tool: str) -> Decision:
    return Decision(Verdict.DENY, (DEFAULT_DENY,), ("No such tool.",), errors=(f"there is no tool {tool!r}",))


def _deny(prepared: Prepared, answer: Answered) -> Decision:
    if answer.errors:
        # What is wrong with an argument the agent may know; a look-up or a policy that failed is not its business.
        known = tuple(error for error in answer.errors if error.startswith("input."))
        reasons = known or ("A policy could not be evaluated, so the call is denied.",)
        return Decision(Verdict.DENY, (ERROR_DENY,), reasons, errors=tuple(answer.errors))
    if not answer.policies:
        return Decision(Verdict.DENY, (DEFAULT_DENY,), ("No policy permits this call.",))
    gates = {policy.id for policy in prepared.policies if policy.gate is not None}
    # A gate beside a plain forbid decides nothing: naming it would send the agent to a person in vain.
    ids = tuple(id_ for id_ in answer.policies if id_ not in gates) or tuple(answer.policies)
    return Decision(Verdict.DENY, ids, _reasons(prepared, ids))


def _reasons(prepared: Prepared, ids: Sequence[str]) -> tuple[str, ...]:
    """Each policy's `@reason`, or a plain sentence with its id."""
    known = prepared.reasons
    return tuple(known.get(id_) or f"The policy {id_} decided." for id_ in ids)
