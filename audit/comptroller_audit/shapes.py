"""What a packet of each record type holds: the v1 shapes, published as JSON Schema and checked in tests.

Within a version fields are only ever added, so every shape is open: a reader passes over what it does not know.
Nothing here runs when a record is written (packets.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from comptroller_audit.asked_shapes import QuestionView
from comptroller_audit.observed_shapes import ObservedView
from comptroller_audit.usage_shapes import UsageView
from comptroller_audit.vocabulary import (
    CallState,
    Code,
    Effect,
    PrincipalKind,
    RecordType,
    RefusalClass,
    Verification,
)

__all__ = [
    "PACKETS",
    "ActionPacket",
    "AuditPacket",
    "BatchPacket",
    "CallClosed",
    "ConfirmationAsked",
    "Free",
    "Hex64",
    "LateOutcome",
    "OpenShape",
    "PendingPacket",
    "ProposedShape",
    "ReadPacket",
    "Recovered",
    "RefusalsCounted",
    "RefusedPacket",
    "ReplayedPacket",
    "Resolved",
    "Version",
]

Version = Literal[1]
Free = dict[str, Any]
"""A JSON object whose fields are the tool's or the operator's, not ours."""
Hex64 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Open(BaseModel):
    """Fields may be added within a version, so a reader must pass over those it does not know."""

    model_config = ConfigDict(extra="allow", strict=True)


class PrincipalView(_Open):
    tenant: str
    issuer: str
    subject: str
    kind: PrincipalKind


class RecordView(_Open):
    kind: str
    key: str


class GateView(_Open):
    policy: str
    role: str
    count: int


class DecisionView(_Open):
    """`errors` is not empty only on a deny."""

    verdict: Literal["allow", "deny", "needs_approval"]
    policies: list[str]
    reasons: list[str]
    gates: list[GateView]
    errors: list[str] = []


class Reference(_Open):
    """A record that was read and released, at one version."""

    ref: str
    kind: str
    key: str
    version: str | int | None


class Citation(Reference):
    """A ref as it was cited: which call of which tool had read it, and how old it was then."""

    listed: bool | None = None
    call: str | None = None
    tool: str | None = None
    age_ms: Annotated[int | None, Field(ge=0)] = None


class RefusalView(_Open):
    code: Code
    text: str
    retry: Annotated[str, Field(pattern="^(never|same_call|after:[0-9]+|other_arguments|person)$")]
    failure_class: Annotated[RefusalClass, Field(alias="class")]
    policies: list[str] = []
    details: Free = {}


class DigestsView(_Open):
    """Plain SHA-256 of the action as requested, as people edited it, and as approved."""

    requested: Hex64
    approved: Hex64 | None
    edited: Hex64 | None = None


class EditView(_Open):
    """One person's edit; `changed` says in words what it changed, as far as it can be told."""

    editor: str
    reason: str
    at_ms: int
    changed: list[str] = []


class EditedView(_Open):
    """What the agent proposed, and who changed it since; the arguments that run stand in the packet itself."""

    arguments: Any
    by: list[EditView]


class HoldView(_Open):
    limit: str
    counter: str
    unit: str
    amount_micro: int


class GivenApproval(_Open):
    """Who agreed, in which role, and how sure we are that it was them."""

    approver: str
    assurance: str
    author: Annotated[bool, Field(description="they had edited what they agreed to")] = False


class CheckView(_Open):
    """One expectation compared with the record; `equal` is null when a side could not be had."""

    fact: str
    path: str
    expected: Any
    found: Any
    equal: bool | None = None


class CheckedView(_Open):
    """What one of the operator's own checks said: `check` is the function as configured."""

    check: str
    verdict: Literal["passed", "failed", "unknown"]
    reason: str


class JudgeUsageView(_Open):
    input_tokens: int
    output_tokens: int
    estimated: bool


class JudgedView(_Open):
    """One question put to a judge. `answer` is one of its words, null when it gave none; `problem` says what then."""

    judge: str
    model: str
    answer: str | None
    allowed: bool
    problem: str
    prompt_sha256: Annotated[Hex64, Field(description="of the request as it was sent")]
    took_ms: int
    usage: JudgeUsageView


Took = Annotated[
    dict[str, Annotated[float, Field(ge=0)]],
    Field(description="milliseconds from receipt to this record, `total` and by step"),
]


class VerificationView(_Open):
    result: Verification
    checks: list[CheckView] = []
    checked: list[CheckedView] = []


class OutcomeView(_Open):
    effect: Literal["none", "done", "unknown"]
    error: str | None


TokenGiven: TypeAlias = Annotated[
    tuple[str, int, str, str | int | float],
    Field(description="kind, number, tag and value of a token that the answer shows in the value's place"),
]


class _Proposed(_Open):
    """What was proposed, by whom and under what. A refused call may name no tool of ours."""

    v: Version
    call: str
    attempt: str
    task: str
    step: int
    principal: PrincipalView
    actor: str
    principal_roles: list[str] = []
    tool: str
    bundle: str
    arguments: Any
    why: Free | None
    citations: list[Citation] = []
    tokens_used: Annotated[list[str], Field(description="tokens whose values stand in the arguments")] = []
    tokens_given: list[TokenGiven] = []
    redact: Annotated[
        dict[str, str],
        Field(description="fields that the tool's schemas mark, by their place here, and kinds"),
    ] = {}
    compensates: Annotated[str | None, Field(description="the call that this one reverses")] = None
    ordered_by: Annotated[str | None, Field(description="who wants a good call reversed")] = None
    part_of: Annotated[str | None, Field(description="the batch that this call is an item of")] = None
    accepted: Annotated[
        str | None,
        Field(description="the accepted resource, template or prompt of an upstream by which this was read"),
    ] = None


class _OfTool(_Open):
    """The tool that was found, by the digest of its definition, and the business record it acts on."""

    source: str
    effect: Effect
    definition: Hex64
    record: RecordView | None = None


class DrawView(_Open):
    """The draw of a side effect under a rollout: `canary` went without its gate; `standing` says why, or why not."""

    canary: bool
    standing: str
    bucket: Annotated[int, Field(ge=0, lt=10_000)]
    percent: Annotated[int, Field(ge=0, le=100)]
    drawn_by: Literal["record", "principal"]


class _Considered(_Open):
    """What the decision was made from: `provenance` is of arguments. Decimals in `derived` are text."""

    facts: Free
    history: dict[str, int]
    derived: dict[str, str]
    provenance: dict[str, Literal["request", "trusted", "untrusted", "new", "absent"]] = {}
    decision: DecisionView
    checked: list[CheckedView] = []
    rollout: DrawView | None = None
    observed: ObservedView | None = None
    judged: list[JudgedView] = []


class ActionPacket(_Proposed, _OfTool, _Considered):
    """Exactly what is about to happen and why; durable before the side effect."""

    approvals: list[GivenApproval]
    approval_digests: DigestsView | None
    edited: EditedView | None = None
    holds: list[HoldView]
    deadline_s: float
    effect_key: str
    compensation: Annotated[Free | None, Field(description="`{tool, decision, holds}` of its reversal")] = (
        None
    )


class _Ended(_Open):
    state: CallState
    action: Annotated[int | None, Field(description="index of the action packet; null for a read")]
    outcome: OutcomeView
    problem: RefusalView | None = None
    output: Any
    verification: VerificationView
    decision_after: DecisionView | None
    refs: list[Reference]
    usage: UsageView | None = None
    tokens_given: list[TokenGiven] = []
    reversal: Annotated[Free | None, Field(description="`{tool, arguments}`: what would reverse it")] = None
    observed: ObservedView | None = None
    questions: list[QuestionView] = []
    took_ms: Took | None = None


class AuditPacket(_Ended):
    """What actually happened, with references; durable before the answer is released."""

    v: Version
    call: str
    attempt: str
    task: str


class CachedView(_Open):
    """The source was not asked again: `call` had read the result at `read_ms`, `age_s` seconds before."""

    call: str
    read_ms: int
    age_s: Annotated[float, Field(ge=0)]


class ReadPacket(_Proposed, _OfTool, _Considered, _Ended):
    """A read that was released: proposal, decision and result in one."""

    approvals: list[GivenApproval] = []
    cached: CachedView | None = None
    part: Annotated[Free | None, Field(description="`{number, left}`; part 0 holds the whole output")] = None


class BatchPacket(_Proposed):
    """A read was called with several values: `calls` are those of the read `of`, `done` how many were answered.

    `asked` are all values; a call for each was made in their order, until one met what would refuse every other.
    """

    of: str
    calls: list[str]
    asked: Annotated[int, Field(ge=1)]
    done: Annotated[int, Field(ge=0)]


class RefusedPacket(_Proposed):
    """A call that did not run, or an attempt of one on record (`original`) that got that call's state."""

    source: str | None = None
    effect: Effect | None = None
    definition: Hex64 | None = None
    record: RecordView | None = None
    refusal: RefusalView
    original: str | None = None
    decision: DecisionView | None = None
    checked: list[CheckedView] = []
    judged: list[JudgedView] = []
    took_ms: Took | None = None


class PendingPacket(_Proposed, _OfTool, _Considered):
    """A whole stored proposal that waits for people: `roles` maps a role to how many of them."""

    approval: str
    roles: dict[str, int]
    approval_digests: DigestsView | None
    shown: Free
    edited: EditedView | None = None
    confirmation: Annotated[
        GivenApproval | None, Field(description="the requester's word, where a gate asked for it")
    ] = None


class ConfirmationAsked(_Proposed, _OfTool, _Considered):
    """The person at the client is asked to confirm this very action; `message` is what they are shown."""

    message: str
    approval_digests: DigestsView | None


class ReplayedPacket(_Proposed, _OfTool):
    """A repeat answered from the record of call `original`."""

    original: str


class RefusalsCounted(_Open):
    """Refusals that were not recorded singly: how many of each principal, by its keyed digest."""

    v: Version
    refusals: dict[str, int]
    owner: str


class CallClosed(_Open):
    """A call that ended without running: denied, expired or void."""

    v: Version
    call: str
    state: CallState


class Recovered(_Open):
    """What was done with a call whose owner is gone."""

    v: Version
    call: str
    state: CallState


class Resolved(_Open):
    """A person's word on a call in doubt."""

    v: Version
    call: str
    state: CallState


class LateOutcome(_Open):
    """An outcome that came after its call had been recovered: kept as evidence, it changes nothing."""

    v: Version
    call: str


OpenShape = _Open
ProposedShape = _Proposed
"""What packets of other modules begin with; published.py joins them all."""


PACKETS: Mapping[RecordType, type[BaseModel]] = MappingProxyType(
    {
        RecordType.REFUSED: RefusedPacket,
        RecordType.REFUSALS_COUNTED: RefusalsCounted,
        RecordType.PENDING: PendingPacket,
        RecordType.ACTION: ActionPacket,
        RecordType.AUDIT: AuditPacket,
        RecordType.READ: ReadPacket,
        RecordType.BATCH: BatchPacket,
        RecordType.REPLAYED: ReplayedPacket,
        RecordType.CONFIRMATION_ASKED: ConfirmationAsked,
        RecordType.CALL_CLOSED: CallClosed,
        RecordType.RECOVERED: Recovered,
        RecordType.RESOLVED: Resolved,
        RecordType.LATE_OUTCOME: LateOutcome,
    }
)
