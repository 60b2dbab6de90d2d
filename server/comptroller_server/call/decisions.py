"""Steps 5, 7 and 12: what policy says before anything is looked up, before the call, and after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from comptroller_audit.ambient import Clock
from comptroller_audit.vocabulary import Code, Refusal
from comptroller_policy.engine import Bundle
from comptroller_policy.errors import ExpressionError
from comptroller_policy.model import Decision, Question, Verdict
from comptroller_policy.rollout import Standing
from comptroller_policy.rules import REQUESTER
from comptroller_policy.switches import Switches
from comptroller_server.call.case import Case, Refused
from comptroller_server.call.lookups import service_subject, unavailable
from comptroller_server.call.observing import passed
from comptroller_server.call.traces import TraceLevel, Tracer
from comptroller_server.undo.reversal import cannot_reverse, next_for, together
from comptroller_tools.compensation import Compensation
from comptroller_tools.source import EffectHappened

__all__ = ["Decisions", "SeesSwitches"]


class SeesSwitches(Protocol):
    """Who knows which switches are set: the watch of a serving process."""

    def switches(self, tenant: str) -> Switches: ...


class Decisions:
    """Asks the bundle, and turns a deny into a refusal that says what to do next."""

    def __init__(
        self, bundle: Bundle, watch: SeesSwitches, clock: Clock, environment: str, tracer: Tracer
    ) -> None:
        self._bundle = bundle
        self._tracer = tracer
        self._watch = watch
        self._clock = clock
        self._environment = environment

    def early(self, case: Case) -> None:
        """5: switches and every rule that needs no facts."""
        tool = case.tool_in_hand
        refusal = self._watch.switches(case.tenant).stops(tool.name, *case.stopped_by)
        if refusal is not None:
            raise Refused(refusal)
        case.decided_ms = self._clock.now_ms()
        case.trace.forget()
        decision = self._bundle.decide_early(question := self.question(case))
        self._trace(case, "early", question, decision)
        decision = passed(case, "early", decision) if decision is not None else None
        if decision is not None and decision.verdict is Verdict.DENY:
            case.decision = decision
            raise Refused(_denied(case, decision))

    def before(self, case: Case, *, confirmed: bool = False) -> None:
        """7: Cedar, with facts, history, derived values and the approvals given so far.

        The requester's word counts only when `confirmed` says so, never from a vote.
        """
        self._decide(case, confirmed=confirmed)
        if (
            case.decision.verdict is Verdict.NEEDS_APPROVAL
            and case.draw
            and case.draw.standing is Standing.IN
        ):
            # Somebody is asked anyway, so this is nothing to go without the rollout's own gate.
            case.draw = replace(case.draw, standing=Standing.OTHER_GATE)
            self._decide(case, confirmed=confirmed)
        if case.decision.verdict is Verdict.DENY:
            if not case.may_tell_facts():
                raise Refused(unavailable(case, _because(case.decision)))
            raise Refused(_denied(case, case.decision))

    def _decide(self, case: Case, *, confirmed: bool) -> None:
        """The call, together with what would reverse it. Raises `Refused` when that is certain to be denied."""
        case.decision = self._bundle.decide(question := self.question(case, confirmed=confirmed))
        self._trace(case, "before", question, case.decision)
        case.decision = passed(case, "before", case.decision)
        compensation = case.tool_in_hand.compensation
        if compensation is not None and case.decision.verdict is not Verdict.DENY:
            self._with_reversal(case, compensation, question.approvals)

    def after(self, case: Case) -> None:
        """12: Cedar again, with the output and what was read back; only forbids count.

        A deny becomes the case's problem; a side effect has happened all the same, and is handed to a person.
        """
        reads = self._bundle.reads(case.tool_in_hand.name)
        outcome = case.outcome
        if not reads.after or outcome is None or outcome.value is None:
            return
        if outcome.effect is EffectHappened.NONE and not case.tool_in_hand.is_read:
            return
        after = case.read_back
        question = self.question(case, outcome.value, after)
        case.decision_after = self._bundle.decide_after(question)
        self._trace(case, "after", question, case.decision_after)
        case.decision_after = passed(case, "after", case.decision_after)
        if case.decision_after.verdict is not Verdict.ALLOW and case.problem is None:
            denied = _denied if case.tool_in_hand.is_read else _denied_after
            case.problem = denied(case, case.decision_after)

    def _trace(self, case: Case, stage: str, question: Question, decision: Decision | None) -> None:
        if self._tracer.tells(TraceLevel.DECISIONS):
            asked = self._bundle.asked(question.tool, after=stage == "after")
            self._tracer.decided(case.trace, stage, question, decision, asked)

    def _with_reversal(self, case: Case, compensation: Compensation, approvals: Mapping[str, int]) -> None:
        """What would reverse the call is decided with it: now with what is known, and again in full before it runs."""
        target = compensation.target
        stop = self._watch.switches(case.tenant).stops(target.name, "", "")
        try:
            known = compensation.known(case.scope)
        except ExpressionError as error:
            raise Refused(unavailable(case, str(error))) from error
        subject = service_subject(case.tenant, target.config.roles or ())
        question = Question(
            target.name,
            subject,
            known,
            case.decided_ms,
            self._environment,
            approvals=approvals,
            canary=True,
        )
        case.reversal = self._bundle.decide_ahead(question, compensation.unknown)
        if stop is not None or case.reversal.verdict is Verdict.DENY:
            raise Refused(cannot_reverse(case, case.reversal, target.name, stop))
        case.decision = together(case.decision, case.reversal, target.name)

    def question(
        self,
        case: Case,
        output: Any = None,
        after: dict[str, Any] | None = None,
        *,
        confirmed: bool = False,
    ) -> Question:
        """The case as policy sees it; with `output` for the decision after the call."""
        voted = {role: count for role, count in case.approvals.items() if role != REQUESTER}
        return Question(
            tool=case.tool_in_hand.name,
            subject=case.subject,
            input=case.arguments,
            now_ms=case.decided_ms,
            environment=self._environment,
            task=case.task.id,
            step=case.task.step,
            record=case.record,
            facts=case.facts,
            history=case.history,
            derived=case.derived,
            provenance=case.provenance,
            approvals={**voted, REQUESTER: 1} if confirmed else voted,
            # What is reversed has passed the rollout, or a person has.
            canary=case.compensates is not None or (case.draw is not None and case.draw.canary),
            output=output,
            after=after or {},
        )


def _because(decision: Decision) -> str:
    """The rule's own reason and its id."""
    reason = " ".join(decision.reasons) or "No policy permits this call."
    return f"{reason} (rule {', '.join(decision.policies)})" if decision.policies else reason


def _denied_after(case: Case, decision: Decision) -> Refusal:
    """The change is made, so neither other arguments nor another try are a next step."""
    case.wrong = f"The change was made, but a rule about its result says no: {_because(decision)}"
    return Refusal(
        Code.VERIFICATION_FAILED,
        f"{case.wrong} {next_for(case)}",
        retry="person",
        call=case.call,
        policies=decision.policies,
    )


def _denied(case: Case, decision: Decision) -> Refusal:
    """A deny in words: the rule's own reason, its id, and the next step."""
    return Refusal(
        Code.DENIED,
        f"{_because(decision)} Change the arguments to fit, or hand the task to a person.",
        retry="other_arguments",
        call=case.call,
        policies=decision.policies,
    )
