"""What telemetry may know of an attempt: words of closed vocabularies, names of the configuration, our ids, numbers.

No text of an agent, a tool, a person or an upstream has a place in `CallSeen`, so that nothing that is made of it can
hold one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from comptroller_audit.vocabulary import Code, Refusal
from comptroller_server.call.case import UNDECIDED, Case
from comptroller_server.call.proposal import Answer, Proposal
from comptroller_server.call.roads import is_our_id
from comptroller_server.call.took import Step
from comptroller_server.tasks.built_in_tools import BUILT_INS
from comptroller_server.telemetry.trace_context import TraceContext, trace_of
from comptroller_tools.upstream.definitions import Kind

__all__ = ["ASKED", "DONE", "NO_TOOL", "OUTCOMES", "REFUSE", "CallSeen", "StepSeen", "seen_of", "unreceived"]

NO_TOOL = "(none)"
"""In place of the name of a tool that is not offered: what a client makes up is no name."""
DONE, ASKED = "done", "asked"
OUTCOMES = (DONE, ASKED, *(sorted({Refusal(code, "").failure_class.value for code in Code})))
"""`done`, `asked` where the person at the client is asked first, else the class of the refusal."""
REFUSE = "refuse"
"""The last step of an attempt that was refused: the step that found out, and recording it."""
_METHODS = {
    Kind.TOOL: "tools/call",
    Kind.RESOURCE: "resources/read",
    Kind.TEMPLATE: "resources/read",
    Kind.PROMPT: "prompts/get",
    Kind.COMPLETION: "completion/complete",
}
_BUILT_IN_NAMES = frozenset({*BUILT_INS, "resume_call", "result_more"})


@dataclass(frozen=True, slots=True)
class StepSeen:
    """A step, in seconds since the attempt was received."""

    name: str
    from_s: float
    to_s: float


@dataclass(frozen=True, slots=True)
class CallSeen:
    """One attempt that was answered. `code` is empty unless it was refused; `decision` where nothing was decided."""

    trace: TraceContext
    method: str
    tool: str
    effect: str
    outcome: str
    code: str
    decision: str
    rules: tuple[str, ...]
    call: str
    attempt: str
    task: str
    protocol: str
    transport: str
    withheld: int
    received_ms: int
    took_s: float
    steps: tuple[StepSeen, ...]


def seen_of(case: Case, answer: Answer | None) -> CallSeen:
    """What may be told of `case`. Without an answer it was cancelled or has failed."""
    proposal, took = case.proposal, case.took
    now = took.now()
    code = _code_of(answer)
    outcome = DONE if answer is not None and not code else _class_of(code)
    if answer is not None and answer.asks is not None:
        outcome = ASKED
    decision = case.decision
    decided = decision is not UNDECIDED
    return CallSeen(
        trace=trace_of(proposal.meta, proposal.trace_header, case.attempt),
        method=_METHODS[proposal.kind],
        tool=_tool_of(case),
        effect=case.tool.effect.value if case.tool is not None else "",
        outcome=outcome,
        code=code,
        decision=decision.verdict.value if decided else "",
        rules=tuple(sorted(decision.policies)) if decided else (),
        call=_own(case.call),
        attempt=_own(case.attempt),
        task=_own(case.task.id),
        protocol=proposal.protocol,
        transport="tcp" if proposal.by_token else "pipe",
        withheld=case.withheld,
        received_ms=case.received_ms,
        took_s=max(0.0, now - took.began),
        steps=_steps(took.began, [*took.passed, (Step.RECORD if outcome == DONE else REFUSE, now)]),
    )


def unreceived(proposal: Proposal, attempt: str, now_ms: int, code: Code) -> CallSeen:
    """An attempt that could not even be received; `attempt` is an id that no record has."""
    trace = trace_of(proposal.meta, proposal.trace_header, attempt)
    transport = "tcp" if proposal.by_token else "pipe"
    method = _METHODS[proposal.kind]
    return CallSeen(
        trace, method, NO_TOOL, "", _class_of(code.value), code.value, "", (), "", _own(attempt), "", proposal.protocol,
        transport, 0, now_ms, 0.0, (),
    )  # fmt: skip


def _tool_of(case: Case) -> str:
    if case.tool is not None:
        return case.tool.name
    name = case.proposal.tool
    return name if case.many is not None or name in _BUILT_IN_NAMES else NO_TOOL


def _code_of(answer: Answer | None) -> str:
    """The refusal code, of those there are."""
    if answer is None:
        return Code.INTERNAL.value
    if not answer.is_error:
        return ""
    details = cast("dict[str, Any] | None", answer.meta.get("comptroller/refusal"))
    code = str(details.get("code")) if details is not None else ""
    return code if code in set(Code) else Code.INTERNAL.value


def _class_of(code: str) -> str:
    return Refusal(Code(code), "").failure_class.value


def _steps(began: float, passed: Iterable[tuple[str, float]]) -> tuple[StepSeen, ...]:
    found: list[StepSeen] = []
    last = began
    for name, at in passed:
        found.append(StepSeen(name, max(0.0, last - began), max(0.0, at - began)))
        last = at
    return tuple(found)


def _own(text: str) -> str:
    return text if is_our_id(text) else ""
