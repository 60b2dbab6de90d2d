"""An edit: a person with a credential changes the arguments of a call that waits, and so becomes an author of it.

The request that people were asked for ends as void, with every yes it had, and another one takes its place in the
same commit. Nobody has agreed to the edited action yet. docs/decisions has why.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from comptroller_audit.unit import Key, Moved, State, Stop
from comptroller_audit.vocabulary import Code, Refusal
from comptroller_policy.approvals import APPROVALS, OPEN, ApprovalState, asked_digest, no_longer_waiting
from comptroller_policy.rollout_changes import count_edit

__all__ = ["SupersedeApproval"]


@dataclass(frozen=True, slots=True)
class SupersedeApproval:
    """Part: end an open approval because its action is edited. `seen` is the keyed digest the editor looked at.

    One that was used, closed or superseded meanwhile moves; one whose time is over, or that asks about something
    else by now, refuses: an edit revives nothing.
    """

    approval: str
    seen: str

    def keys(self) -> Iterable[Key]:
        return [(APPROVALS, self.approval)]

    def apply(self, state: State) -> Stop | None:
        row = state.get(APPROVALS, self.approval)
        if row is None or row["state"] not in OPEN:
            return Moved("approval")
        if row["expires_ms"] <= state.now_ms:
            text = (
                f"Approval {self.approval} has expired, so nothing can be edited. The agent must ask again."
            )
            return Refusal(Code.APPROVAL_EXPIRED, text, call=row["call"])
        if asked_digest(row) != self.seen:
            text = f"Approval {self.approval} asks for another action than the one you saw. Look again before you edit."
            return Refusal(Code.RECORD_CHANGED, text, call=row["call"])
        state.put(APPROVALS, self.approval, {**row, "state": ApprovalState.VOID.value})
        no_longer_waiting(state, row["principal"])
        count_edit(state, row["tool"])
        return None
