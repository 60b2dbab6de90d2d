"""The words of the product as frozen values and closed enums. No behaviour beyond derived names.

Every other module of the five packages speaks in these terms (docs/architecture.md, "Words").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

__all__ = [
    "MICRO",
    "Actor",
    "CallState",
    "Code",
    "ComptrollerError",
    "Effect",
    "Json",
    "JsonObject",
    "Principal",
    "PrincipalKind",
    "RecordType",
    "Refusal",
    "RefusalClass",
    "Subject",
    "Verification",
]

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
JsonObject: TypeAlias = dict[str, Json]

MICRO = 1_000_000
"""Every counted amount is an integer number of millionths: one call is 1_000_000, 1.50 USD is 1_500_000."""


class ComptrollerError(Exception):
    """Root of every error this product raises. Each folder's `errors.py` draws its own branch.

    The message is one sentence for a person: what is wrong, where, and what to do next.
    """


class Effect(StrEnum):
    """What a tool does to the world. What no operator has classified counts as EXECUTE."""

    READ = "read"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    EXECUTE = "execute"


class PrincipalKind(StrEnum):
    USER = "user"
    SERVICE = "service"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a call is made for. Identity is (tenant, issuer, subject); never an e-mail address."""

    tenant: str
    issuer: str
    subject: str
    kind: PrincipalKind = PrincipalKind.LOCAL

    @property
    def id(self) -> str:
        """`issuer|subject`, unique within the tenant."""
        return f"{self.issuer}|{self.subject}"


@dataclass(frozen=True, slots=True)
class Actor:
    """The agent or client program that acts: an OAuth client id, or on stdio the configured client name."""

    id: str


@dataclass(frozen=True, slots=True)
class Subject:
    """A principal, its actor and the roles the operator gave the principal; what the transport proved."""

    principal: Principal
    actor: Actor
    roles: frozenset[str] = frozenset()

    @property
    def tenant(self) -> str:
        return self.principal.tenant


class CallState(StrEnum):
    """States of a call (docs/architecture.md). `calls.TRANSITIONS` holds the allowed moves."""

    PROPOSED = "proposed"
    REFUSED = "refused"
    PENDING = "pending"
    COMMITTED = "committed"
    DENIED = "denied"
    EXPIRED = "expired"
    VOID = "void"
    DONE = "done"
    FAILED_BEFORE_EFFECT = "failed_before_effect"
    IN_DOUBT = "in_doubt"
    NOT_DONE = "not_done"
    COMPENSATED = "compensated"
    HANDED_OFF = "handed_off"


class RecordType(StrEnum):
    """Types of log entries. Each is written in the same transaction as the state it tells of."""

    REFUSED = "refused"
    REFUSALS_COUNTED = "refusals_counted"
    PENDING = "pending"
    ACTION = "action"
    AUDIT = "audit"
    READ = "read"
    BATCH = "batch"
    REPLAYED = "replayed"
    APPROVAL_DECIDED = "approval_decided"
    CONFIRMATION_ASKED = "confirmation_asked"
    CALL_CLOSED = "call_closed"
    RECOVERED = "recovered"
    RESOLVED = "resolved"
    LATE_OUTCOME = "late_outcome"
    COMPENSATION = "compensation"
    SWITCH_SET = "switch_set"
    SWITCH_CLEARED = "switch_cleared"
    ROLLOUT_CHANGED = "rollout_changed"
    APPROVER_ADDED = "approver_added"
    BUNDLE_ACTIVATED = "bundle_activated"
    TASK_BEGUN = "task_begun"
    TASK_STATUS = "task_status"
    TASK_ENDED = "task_ended"
    HANDED_OFF = "handed_off"
    HANDOFF_CLOSED = "handoff_closed"
    TRACE_TOOL_CALLS = "trace_tool_calls"
    TRACE_RETRIEVAL = "trace_retrieval"
    TRACE_DECISIONS = "trace_decisions"
    ERASED = "erased"
    PRUNED = "pruned"
    CLOCK_ACCEPTED = "clock_accepted"
    STORE_ADOPTED = "store_adopted"
    STREAM_RESET = "stream_reset"
    KEYS_CHANGED = "keys_changed"
    HOLD_PLACED = "hold_placed"
    HOLD_LIFTED = "hold_lifted"


class RefusalClass(StrEnum):
    """Whose fault it is. The first four are the article's failure buckets."""

    TOOL_MISMATCH = "tool_mismatch"
    STALE_CONTEXT = "stale_context"
    POLICY_VIOLATION = "policy_violation"
    SILENT_WRONG = "silent_wrong"
    BUDGET = "budget"
    UPSTREAM = "upstream"
    IN_DOUBT = "in_doubt"
    INTERNAL = "internal"
    NONE = "none"


class Code(StrEnum):
    """Stable refusal codes. A client may branch on them; they never change meaning."""

    UNKNOWN_TOOL = "unknown_tool"
    INVALID_ARGUMENTS = "invalid_arguments"
    WHY_MISSING = "why_missing"
    CITATION_MISSING = "citation_missing"
    CITATION_STALE = "citation_stale"
    RECORD_CHANGED = "record_changed"
    DENIED = "denied"
    HALTED = "halted"
    APPROVAL_PENDING = "approval_pending"
    APPROVAL_DENIED = "approval_denied"
    APPROVAL_EXPIRED = "approval_expired"
    APPROVAL_VOID = "approval_void"
    APPROVALS_FULL = "approvals_full"
    CONFIRMATION_NEEDED = "confirmation_needed"
    CONFIRMATION_DECLINED = "confirmation_declined"
    CONFIRMATION_EXPIRED = "confirmation_expired"
    CONFIRMATION_STALE = "confirmation_stale"
    CONFIRMATION_INVALID = "confirmation_invalid"
    KEY_CONFLICT = "key_conflict"
    IN_PROGRESS = "in_progress"
    ALREADY_DONE = "already_done"
    IN_DOUBT = "in_doubt"
    BUDGET_EXHAUSTED = "budget_exhausted"
    TIME_EXHAUSTED = "time_exhausted"
    TASK_UNKNOWN = "task_unknown"
    TASK_OPEN = "task_open"
    TASK_HANDED_OFF = "task_handed_off"
    SUCCESS_NOT_FOUND = "success_not_found"
    CALL_UNKNOWN = "call_unknown"
    LOOKUP_FAILED = "lookup_failed"
    TIMEOUT = "timeout"
    TOOL_FAILED = "tool_failed"
    OUTPUT_INVALID = "output_invalid"
    VERIFICATION_FAILED = "verification_failed"
    CHECK_FAILED = "check_failed"
    JUDGE_REFUSED = "judge_refused"
    JUDGE_UNAVAILABLE = "judge_unavailable"
    COMPENSATED = "compensated"
    OVERLOADED = "overloaded"
    STORE_UNAVAILABLE = "store_unavailable"
    SECRET_IN_ARGUMENTS = "secret_in_arguments"  # noqa: S105 -- a refusal code
    BUNDLE_CHANGED = "bundle_changed"
    IDENTICAL_CALLS = "identical_calls"
    SOURCE_DOWN = "source_down"
    TOOL_QUARANTINED = "tool_quarantined"
    RESULT_GONE = "result_gone"
    INTERNAL = "internal"


_CLASS_OF: Mapping[Code, RefusalClass] = {
    Code.UNKNOWN_TOOL: RefusalClass.TOOL_MISMATCH,
    Code.INVALID_ARGUMENTS: RefusalClass.TOOL_MISMATCH,
    Code.WHY_MISSING: RefusalClass.TOOL_MISMATCH,
    Code.CITATION_MISSING: RefusalClass.TOOL_MISMATCH,
    Code.TASK_UNKNOWN: RefusalClass.TOOL_MISMATCH,
    Code.TASK_OPEN: RefusalClass.TOOL_MISMATCH,
    Code.TASK_HANDED_OFF: RefusalClass.POLICY_VIOLATION,
    Code.SUCCESS_NOT_FOUND: RefusalClass.SILENT_WRONG,
    Code.CALL_UNKNOWN: RefusalClass.TOOL_MISMATCH,
    Code.KEY_CONFLICT: RefusalClass.TOOL_MISMATCH,
    Code.CITATION_STALE: RefusalClass.STALE_CONTEXT,
    Code.RECORD_CHANGED: RefusalClass.STALE_CONTEXT,
    Code.RESULT_GONE: RefusalClass.STALE_CONTEXT,
    Code.DENIED: RefusalClass.POLICY_VIOLATION,
    Code.HALTED: RefusalClass.POLICY_VIOLATION,
    Code.CHECK_FAILED: RefusalClass.POLICY_VIOLATION,
    Code.JUDGE_REFUSED: RefusalClass.POLICY_VIOLATION,
    Code.APPROVAL_DENIED: RefusalClass.POLICY_VIOLATION,
    Code.APPROVAL_VOID: RefusalClass.POLICY_VIOLATION,
    Code.SECRET_IN_ARGUMENTS: RefusalClass.POLICY_VIOLATION,
    Code.APPROVAL_PENDING: RefusalClass.NONE,
    Code.APPROVAL_EXPIRED: RefusalClass.NONE,
    Code.APPROVALS_FULL: RefusalClass.BUDGET,
    Code.CONFIRMATION_NEEDED: RefusalClass.NONE,
    Code.CONFIRMATION_DECLINED: RefusalClass.POLICY_VIOLATION,
    Code.CONFIRMATION_EXPIRED: RefusalClass.NONE,
    Code.CONFIRMATION_STALE: RefusalClass.STALE_CONTEXT,
    Code.CONFIRMATION_INVALID: RefusalClass.TOOL_MISMATCH,
    Code.BUDGET_EXHAUSTED: RefusalClass.BUDGET,
    Code.TIME_EXHAUSTED: RefusalClass.BUDGET,
    Code.IN_PROGRESS: RefusalClass.NONE,
    Code.ALREADY_DONE: RefusalClass.NONE,
    Code.IN_DOUBT: RefusalClass.IN_DOUBT,
    Code.LOOKUP_FAILED: RefusalClass.UPSTREAM,
    Code.JUDGE_UNAVAILABLE: RefusalClass.UPSTREAM,
    Code.TIMEOUT: RefusalClass.UPSTREAM,
    Code.TOOL_FAILED: RefusalClass.UPSTREAM,
    Code.OUTPUT_INVALID: RefusalClass.SILENT_WRONG,
    Code.VERIFICATION_FAILED: RefusalClass.SILENT_WRONG,
    Code.COMPENSATED: RefusalClass.SILENT_WRONG,
    Code.OVERLOADED: RefusalClass.INTERNAL,
    Code.STORE_UNAVAILABLE: RefusalClass.INTERNAL,
    Code.BUNDLE_CHANGED: RefusalClass.INTERNAL,
    Code.IDENTICAL_CALLS: RefusalClass.TOOL_MISMATCH,
    Code.SOURCE_DOWN: RefusalClass.UPSTREAM,
    Code.TOOL_QUARANTINED: RefusalClass.UPSTREAM,
    Code.INTERNAL: RefusalClass.INTERNAL,
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call did not run, as a value. `text` is made of our own sentences and quoted, capped values.

    `retry` is `never`, `same_call`, `after:<seconds>`, `other_arguments` or `person`.
    """

    code: Code
    text: str
    retry: str = "never"
    call: str | None = None
    policies: tuple[str, ...] = ()
    details: JsonObject = field(default_factory=dict[str, "Json"])

    @property
    def failure_class(self) -> RefusalClass:
        return _CLASS_OF[self.code]


class Verification(StrEnum):
    """What reading the record back said. UNKNOWN is never compensated by itself."""

    MATCHED = "matched"
    DIFFERS = "differs"
    UNKNOWN = "unknown"
    NOT_DECLARED = "not_declared"
