"""What a stopped commit, or what is known after a run, comes to for the call."""

from __future__ import annotations

from comptroller_audit.calls import Existing, Lost
from comptroller_audit.unit import Moved, Stopped
from comptroller_audit.vocabulary import CallState, Code, Refusal, Verification
from comptroller_server.call.case import Case, Refused
from comptroller_tools.source import EffectHappened, Outcome

__all__ = ["left_in_doubt", "record_changed", "state_after", "stop_of"]


def stop_of(case: Case, outcome: Stopped) -> Moved | Existing | Lost:
    """What stopped a commit. Raises `Refused` where the store itself refused."""
    stop: Moved | Existing | Lost | Refusal = outcome.stop
    if isinstance(stop, Refusal):
        raise Refused(stop, outcome.receipts[-1] if outcome.receipts else None)
    if isinstance(stop, Moved) and stop.what == "approval" and case.resumed is not None:
        return Lost(case.call, None)  # used, closed or expired meanwhile: the call's state is the answer
    return stop


def state_after(case: Case, outcome: Outcome) -> CallState:
    """The end of the call from what is known: the source's word, the read-back, and the rules after the call."""
    if case.tool_in_hand.is_read and not case.committed:
        return CallState.DONE
    if case.tool_in_hand.is_read:
        return CallState.DONE if outcome.error is None else CallState.FAILED_BEFORE_EFFECT
    if outcome.effect is EffectHappened.NONE:
        return CallState.FAILED_BEFORE_EFFECT
    if outcome.effect is EffectHappened.UNKNOWN:
        return CallState.IN_DOUBT
    result = case.verification.result if case.verification else Verification.NOT_DECLARED
    if result is Verification.UNKNOWN:
        case.problem = left_in_doubt(case.call, "its result could not be verified")
        return CallState.IN_DOUBT
    case.owes = case.problem is not None and case.reversible
    return CallState.DONE if case.problem is None or case.owes else CallState.HANDED_OFF


def record_changed(case: Case) -> Refusal:
    """People agreed to something else than what is there now."""
    what = f" ({', '.join(case.changed)[:200]})" if case.may_tell_facts() else ""
    return Refusal(
        Code.RECORD_CHANGED,
        f"The record changed after a person agreed{what}, so nothing was done and the person "
        f'is asked again. When it is approved, call `resume_call` with {{"call": "{case.call}"}}.',
        "person",
        case.call,
    )


def left_in_doubt(call: str, why: str) -> Refusal:
    """Nobody knows whether it happened."""
    return Refusal(
        Code.IN_DOUBT,
        f"It is not known whether this was done ({why}). Do not repeat it and do not work around it: a person must "
        f"look at call {call} (`comptroller calls show {call}`).",
        "person",
        call,
    )
