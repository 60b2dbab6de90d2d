"""Shapes of the packets of tasks and hand-offs; those of calls are in shapes.py."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from comptroller_audit.shapes import (
    CheckView,
    Free,
    OpenShape,
    ProposedShape,
    RecordView,
    Reference,
    RefusalView,
    Version,
)
from comptroller_audit.vocabulary import CallState, RecordType, Verification

__all__ = ["TASK_PACKETS", "HandedOff", "HandoffClosed", "TaskBegun", "TaskEnded", "TaskStatus"]


class RequestView(OpenShape):
    """What the work is. `trusted` only when an authenticated orchestrator, which the config names, said it, or a person
    (`by`) with a credential."""

    text: str
    trusted: bool
    by: str | None = None


class TaskBegun(ProposedShape):
    """A task was begun. `request` and `plan` are claims, unless the request is marked as trusted; they never change."""

    request: RequestView
    plan: str | None
    unit: Annotated[str | None, Field(description="the record the task is about, KIND:ID")]


class TaskStatus(ProposedShape):
    """An agent looked at its task."""

    status: Free


class ProofView(OpenShape):
    """One declared condition of success as it was found; `problem` says why it could not be looked at."""

    fact: str
    tool: str
    result: Verification
    checks: list[CheckView] = Field(default_factory=list[CheckView])
    problem: str | None = None


class TaskEnded(OpenShape):
    """A task ended. `call` is the agent's call that ended it; there is none when it was left idle."""

    v: Version
    task: str
    outcome: str
    claim: str | None = None
    summary: str | None = None
    by: Annotated[Literal["agent", "idle"] | None, Field(description="who ended it")] = None
    call: str | None = None
    unit: str | None = None
    proof: list[ProofView] = Field(default_factory=list[ProofView])
    problem: Annotated[RefusalView | None, Field(description="a false claim of success")] = None


class HandoffCall(OpenShape):
    """A call of the task, as it stood when the hand-off was written."""

    call: str
    tool: str
    effect: str
    state: CallState
    code: str
    at_ms: int
    verification: Verification | None = None


class HandoffContext(OpenShape):
    agent: str
    objective: str
    actor: str
    request: RequestView | None
    plan: str | None
    unit: str | None


class HandoffEvidence(OpenShape):
    refs: list[Reference]
    calls: list[HandoffCall]


class HandoffStep(OpenShape):
    """The exact step at which the agent could not go on."""

    call: str
    tool: str
    arguments: Any
    record: RecordView | None = None
    why: Free | None = None
    state: CallState
    problem: RefusalView | None = None


class HandedOff(OpenShape):
    """Work given to a person: one hand-off a task; a later one of the same task takes the place of the earlier.

    `reason`, `tried` and `need` are the agent's words when `cause` is `asked`.
    """

    v: Version
    task: str
    call: str | None
    cause: Literal["asked", "call_handed_off", "exhausted"]
    reason: str
    tried: str | None
    need: str | None
    context: HandoffContext
    evidence: HandoffEvidence
    step: HandoffStep | None


class HandoffClosed(OpenShape):
    """A person has dealt with a hand-off."""

    v: Version
    task: str
    by: str
    note: str


TASK_PACKETS: Mapping[RecordType, type[BaseModel]] = MappingProxyType(
    {
        RecordType.TASK_BEGUN: TaskBegun,
        RecordType.TASK_STATUS: TaskStatus,
        RecordType.TASK_ENDED: TaskEnded,
        RecordType.HANDED_OFF: HandedOff,
        RecordType.HANDOFF_CLOSED: HandoffClosed,
    }
)
