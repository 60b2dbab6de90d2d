"""The request that people are asked with, as its row is first written."""

from __future__ import annotations

import json
from dataclasses import dataclass

from comptroller_policy.approvals import RequestApproval
from comptroller_server.call.case import Case

__all__ = ["ApprovalTerms"]


@dataclass(frozen=True, slots=True)
class ApprovalTerms:
    """How long an approval lives and how many one principal may have waiting."""

    lives_ms: int
    pending_max: int

    def request(self, case: Case, approval: str, roles: dict[str, int], votes: str = "[]") -> RequestApproval:
        """People are asked about the action as it is bound now; after an edit the row keeps what was requested."""
        asked: dict[str, str] = {"requested_digest": case.requested_digest}
        if case.edited is not None and case.resumed is not None:
            asked = {
                "requested_digest": case.resumed.approval["requested_digest"],
                "edited_digest": case.requested_digest,
                "authors": json.dumps(case.edited.authors),
            }
        return RequestApproval(
            approval,
            case.call,
            roles=roles,
            principal=case.principal_key,
            actor=case.subject.actor.id,
            task=case.task.id,
            tool=case.tool_in_hand.name,
            lives_ms=self.lives_ms,
            pending_max=self.pending_max,
            carried_votes=votes,
            **asked,
        )
