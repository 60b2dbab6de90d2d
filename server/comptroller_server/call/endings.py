"""What every end of a call brings, whoever ends it: the pipeline, recovery, or a person at the command line."""

from __future__ import annotations

from collections.abc import Sequence

from comptroller_audit.calls import MoveCall, ReleaseClaims
from comptroller_audit.compensations import cover_id
from comptroller_audit.packets import LogRecord
from comptroller_audit.unit import Part
from comptroller_audit.vocabulary import CallState
from comptroller_budgets.history import BumpHistory, effects_id
from comptroller_budgets.ledger import Release, Settle
from comptroller_budgets.limits import BudgetsConfig
from comptroller_budgets.tasks import AwaitPerson, LeaveTask
from comptroller_policy.approvals import ApprovalState, CloseApproval

__all__ = ["CLAIM_FREED", "effect_begins", "effect_ended", "effect_heard_of", "pending_ended"]

CLAIM_FREED = frozenset({CallState.FAILED_BEFORE_EFFECT, CallState.NOT_DONE})
_CLOSES_APPROVAL = {CallState.EXPIRED: ApprovalState.EXPIRED, CallState.VOID: ApprovalState.VOID}


def pending_ended(
    call: str,
    approval: str,
    task: str,
    to: CallState,
    epoch: int | None,
    record: LogRecord,
    budgets: BudgetsConfig,
) -> list[Part]:
    """A pending call ends without an effect: denied, expired or void. Its claims are free again.

    A denied one's approval is closed by the vote that denied it, in the same unit.
    """
    ends_as = _CLOSES_APPROVAL.get(to)
    close: list[Part] = [CloseApproval(approval, ends_as)] if ends_as is not None else []
    return [
        *close,
        MoveCall(call, CallState.PENDING, to, epoch, record),
        ReleaseClaims(call),
        AwaitPerson(task, -1, budgets),
    ]


def effect_begins(tool: str) -> BumpHistory:
    """Step 9 of a side effect: from now on what was read from its source may be no longer so."""
    return BumpHistory((effects_id(tool),))


def effect_heard_of(tool: str, state: CallState | None = None) -> BumpHistory:
    """A side effect moved again, and in `state` is over. One in doubt may still happen at any time."""
    is_over = state not in (None, CallState.IN_DOUBT)
    return BumpHistory((effects_id(tool),), -1 if is_over else 0)


def effect_ended(
    call: str,
    task: str | None,
    state: CallState,
    guard: str | None,
    counted: Sequence[str],
    budgets: BudgetsConfig,
    *,
    changed_by: str,
    covered: bool = True,
    awaited_ms: int = 0,
) -> list[Part]:
    """What every end of a committed call brings: holds closed, claims freed or kept, counters moved.

    `task` is None for a call in doubt, which has left its task already. `counted` is without the guard. `changed_by` is
    the call's tool, or nothing for a read. `covered` gives back what was held for the call's reversal; False only where the reversal is about to begin.
    `awaited_ms` is how long its client was asked on the way.
    """
    parts: list[Part] = [LeaveTask(task, budgets, awaited_ms)] if task is not None else []
    if state in CLAIM_FREED:
        parts += [Release(call), ReleaseClaims(call), BumpHistory(tuple(counted), -1)]
    elif state is not CallState.IN_DOUBT:
        parts.append(Settle(call))
    if covered and state is not CallState.IN_DOUBT:
        parts.append(Release(cover_id(call)))
    if guard is not None:
        parts.append(BumpHistory((guard,), -1))
    if changed_by:
        parts.append(effect_heard_of(changed_by, state))
    return parts
