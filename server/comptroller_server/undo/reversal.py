"""What is said and decided about reversing a call: ahead of it, after it went wrong, and when its reversal is over."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from comptroller_audit.packets import LogRecord
from comptroller_audit.redaction import Audience, Release
from comptroller_audit.vocabulary import CallState, Code, Effect, Json, JsonObject, RecordType, Refusal
from comptroller_policy.model import Decision, Verdict
from comptroller_server.call.case import Case, Compensates
from comptroller_server.call.roads import Roads
from comptroller_tools.compensation import rendered
from comptroller_tools.declarations import ToolConfig
from comptroller_tools.verification import Check

__all__ = [
    "ENDED_GOOD",
    "cannot_reverse",
    "compensation_record",
    "differs",
    "irreversible",
    "next_for",
    "recorded_reversal",
    "reversed_refusal",
    "together",
    "told_of",
]

ENDED_GOOD = frozenset({CallState.DONE})
"""States of the reversing call in which nothing is left of the call it reverses."""
_HANDED_OVER = "It has been handed to a person; do not try to repair it."


def irreversible(tools: Iterable[ToolConfig]) -> list[str]:
    """Names of side effects that no declared call takes back."""
    return sorted(t.name for t in tools if t.effect is not Effect.READ and t.compensate is None)


# -- ahead ------------------------------------------------------------------------------------------------------------


def together(decision: Decision, ahead: Decision, target: str) -> Decision:
    """One decision of two: the gates of a call and of what would reverse it are opened together, or not at all."""
    if ahead.verdict is not Verdict.NEEDS_APPROVAL:
        return decision
    reasons = tuple(f"Should it go wrong, `{target}` reverses it: {reason}" for reason in ahead.reasons)
    asked = decision.verdict is Verdict.NEEDS_APPROVAL
    return replace(
        decision,
        verdict=Verdict.NEEDS_APPROVAL,
        policies=(*decision.policies, *ahead.policies) if asked else ahead.policies,
        reasons=(*decision.reasons, *reasons) if asked else reasons,
        gates=(*decision.gates, *ahead.gates),
    )


def cannot_reverse(case: Case, ahead: Decision, target: str, stop: Refusal | None) -> Refusal:
    """What is not allowed to be reversed as declared is not done in the first place."""
    only = f"`{case.tool_in_hand.name}` is done only where it could be reversed"
    if stop is not None:
        text = f"{only}, and a person has halted `{target}`. Nothing was done; hand the task to a person."
        return Refusal(Code.HALTED, text, "person", case.call, details=stop.details)
    because = " ".join(ahead.reasons) or "No policy permits it."
    rules = f" (rule {', '.join(ahead.policies)})" if ahead.policies else ""
    text = f"{only}, and policy would deny `{target}`: {because}{rules} Nothing was done; hand the task to a person."
    return Refusal(Code.DENIED, text, "person", case.call, ahead.policies)


# -- afterwards -------------------------------------------------------------------------------------------------------


def next_for(case: Case) -> str:
    """What becomes of a change that was made and is wrong."""
    if not case.reversible:
        return _HANDED_OVER
    compensation = case.tool_in_hand.compensation
    assert compensation is not None
    return f"It is being reversed with `{compensation.target.name}`; do not repeat it."


def differs(case: Case, release: Roads) -> Refusal:
    """What was read back is not what the call should have left behind."""
    assert case.verification is not None
    case.wrong = "The change was made, but reading the record back shows something else."
    if not case.may_tell_facts():
        return Refusal(Code.VERIFICATION_FAILED, f"{case.wrong} {next_for(case)}", "person", case.call)

    def shown(check: Check, value: Any) -> str:
        told = release.at(case.tool_in_hand.name, check.fact, check.path, value, Audience.MODEL, case.book)
        return json.dumps(_shown(told), ensure_ascii=False)

    wrong = [
        f"{check.fact}.{check.path} should be {shown(check, check.expected)} and is {shown(check, check.found)}"
        for check in case.verification.checks
        if check.equal is False
    ]
    case.wrong = f"{case.wrong[:-1]}: {'; '.join(wrong)[:600]}."
    return Refusal(Code.VERIFICATION_FAILED, f"{case.wrong} {next_for(case)}", "person", case.call)


def _shown(value: Any) -> Json:
    if isinstance(value, str):
        return value[:80]
    return value if isinstance(value, None | bool | int | float) else str(value)[:80]


def reversed_refusal(
    call: str, by: str, target: str, state: CallState | None, *, wrong: str, retry: str, why: str = ""
) -> Refusal:
    """What the agent is told in the end. `state` is that of the reversing call, None when it never began."""
    if state in ENDED_GOOD:
        text = f"{wrong} It was reversed with `{target}` (call {by}), so nothing of it stands. Read the record before "
        text += "you propose anything else; if it comes back wrong again, hand the task to a person."
        return Refusal(Code.COMPENSATED, text, retry, call)
    if state is CallState.IN_DOUBT:
        told = f"It is not known whether `{target}` reversed it (call {by})."
    elif state is CallState.HANDED_OFF:
        told = f"`{target}` was to reverse it and went wrong as well (call {by})."
    else:
        told = f"It could not be reversed with `{target}`, so what it did stands. {why}".rstrip()
    return Refusal(Code.VERIFICATION_FAILED, f"{wrong} {told} {_HANDED_OVER}", "person", call)


def told_of(
    compensates: Compensates, target: str, by: str, state: CallState | None, problem: Refusal | None
) -> Refusal | None:
    """The words for the end of a reversal; None where the call simply stays as it was."""
    if compensates.ordered_by:
        if state not in ENDED_GOOD:
            return None
        text = f"This was done, and then reversed with `{target}` (call {by}) on the word of {compensates.ordered_by}."
        return Refusal(Code.COMPENSATED, text, "never", compensates.call)
    why = problem.text if problem is not None and state is None else ""
    return reversed_refusal(
        compensates.call, by, target, state, wrong=compensates.wrong, retry=compensates.retry, why=why
    )


def compensation_record(
    call: str, task: str, attempt: str | None, to: CallState, by: str, target: str, told: Refusal | None
) -> LogRecord:
    """What became of a call that was to be reversed. `told` is what a repeat of it is answered from here on."""
    packet: JsonObject = {
        "v": 1,
        "call": call,
        "state": to.value,
        "by": by or None,
        "tool": target,
        "problem": None
        if told is None
        else {
            "code": told.code.value,
            "class": told.failure_class.value,
            "text": told.text,
            "retry": told.retry,
            "policies": list(told.policies),
            "details": told.details,
        },
    }
    return LogRecord(RecordType.COMPENSATION, packet, call=call, attempt=attempt, task=task)


def recorded_reversal(case: Case, release: Release) -> JsonObject | None:
    """The exact call that would reverse this one, for its audit packet; None where there is none.

    What had to be withheld from the record cannot be sent again later, so then no arguments stand there.
    """
    outcome, compensation = case.outcome, case.tool_in_hand.compensation
    if compensation is None or outcome is None or not case.sound:
        return None
    arguments = rendered(compensation, {**case.scope, "output": outcome.value})
    kept = release.release(arguments, Audience.RECORD)
    return {"tool": compensation.target.name, "arguments": None if kept.withheld else kept.value}
