"""Approvals: a person's durable, single-use yes to one exact action.

    pending → approved → consumed
    pending | approved → denied | expired | void

The row holds two digests: what was requested, and what was approved and runs; they differ after an edit (edits.py).
All are keyed. Requester, editors and approver must be different people, except on a local store, where the local
person may approve their own agent's calls with a credential the agent does not hold (recorded `self_approved`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import BigInteger, Text
from sqlmodel import Field, SQLModel

from comptroller_audit.calls import NoteOnCall
from comptroller_audit.canonical import canonical_bytes, digest
from comptroller_audit.database import Relation, Row
from comptroller_audit.errors import TransitionError
from comptroller_audit.packets import LogRecord
from comptroller_audit.unit import Key, Moved, State, Stop
from comptroller_audit.vocabulary import Code, Json, JsonObject, RecordType, Refusal
from comptroller_policy.rollout_changes import count_unedited, count_vote

__all__ = [
    "APPROVALS",
    "OPEN",
    "WAITING",
    "ApprovalRow",
    "ApprovalState",
    "Assurance",
    "CloseApproval",
    "ConsumeApproval",
    "RequestApproval",
    "Vote",
    "VoteOnApproval",
    "WaitingRow",
    "approval_digest",
    "asked_digest",
    "authors_of",
    "given",
    "no_longer_waiting",
]


class ApprovalState(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    CONSUMED = "consumed"
    DENIED = "denied"
    EXPIRED = "expired"
    VOID = "void"


class Assurance(StrEnum):
    """How surely a decision came from the person it names. SAME_UID satisfies no gate.

    CLIENT_ASSERTED is a client's word that its person confirmed; it opens gates of role `requester` only.
    """

    CREDENTIAL = "credential"
    SAME_UID = "same_uid"
    CLIENT_ASSERTED = "client_asserted"


class ApprovalRow(SQLModel, table=True):
    """`roles` is JSON `{role: count}` asked for, `votes` JSON `[{approver, role, assurance, at_ms}]`.

    After an edit `edited_digest` is of the action as people changed it, and `authors` (JSON) names them.
    """

    __tablename__ = "approvals"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    call: str
    state: str
    requested_digest: str
    approved_digest: str
    roles: str = Field(sa_type=Text)
    votes: str = Field(sa_type=Text)
    principal: str
    actor: str
    task: str
    tool: str
    created_ms: int = Field(sa_type=BigInteger)
    expires_ms: int = Field(sa_type=BigInteger)
    edited_digest: str = ""
    authors: str = Field(default="[]", sa_type=Text)


class WaitingRow(SQLModel, table=True):
    """How many approvals of one principal wait for a person."""

    __tablename__ = "waiting_approvals"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    pending: int


APPROVALS = Relation(ApprovalRow)
WAITING = Relation(WaitingRow)
_CLOSED = frozenset({ApprovalState.DENIED, ApprovalState.EXPIRED, ApprovalState.VOID})
OPEN = frozenset({ApprovalState.PENDING.value, ApprovalState.APPROVED.value})
"""States in which a request can still be decided or edited."""


def approval_digest(action: JsonObject) -> bytes:
    """SHA-256 over the versioned, domain-separated canonical structure of one exact action.

    `action` holds: definition, source, environment, tenant, principal, actor, tool, arguments (final, without
    `why`), record (kind, key) and `shown` (version or digest of each record the approver sees).
    """
    return digest("comptroller/approval/v1", canonical_bytes(action))


@dataclass(frozen=True, slots=True)
class Vote:
    """One person's yes or no. `approver` names an enrolled person, or the local account for SAME_UID."""

    approver: str
    roles: tuple[str, ...]
    assurance: Assurance
    yes: bool
    reason: str = ""
    self_approved: bool = False


def asked_digest(row: Row) -> str:
    """Keyed, of the action that people are asked about: what runs once they agree."""
    return str(row["edited_digest"] or row["requested_digest"])


def authors_of(row: Row) -> frozenset[str]:
    """Who edited the action that people are asked about."""
    return frozenset(json.loads(row["authors"]))


def given(row: Row | Mapping[str, str]) -> dict[str, int]:
    """Role to the number of distinct people whose vote counts.

    Where two or more of a role must agree, the yes of somebody who edited the action is none of them: editor and
    requester are one person.
    """
    wanted: dict[str, int] = json.loads(row.get("roles") or "{}")
    people: dict[str, set[str]] = {}
    for vote in json.loads(row["votes"]):
        if vote["assurance"] == Assurance.CREDENTIAL:
            for role in vote["roles"]:
                if not (vote.get("author") and wanted.get(role, 1) > 1):
                    people.setdefault(role, set()).add(vote["approver"])
    return {role: len(names) for role, names in people.items()}


def _voter(vote: Mapping[str, Json]) -> tuple[Json, Json]:
    """Whose vote a later one replaces. A name that was only claimed replaces no vote given with a credential."""
    return vote["approver"], vote["assurance"]


def votes_in_packet(row: Row) -> list[Json]:
    """What the action packet says about who agreed."""
    votes: list[Json] = json.loads(row["votes"])
    return votes


@dataclass(frozen=True, slots=True)
class RequestApproval:
    """Part: ask for people, unless this principal already has too many requests waiting.

    `edited_digest` and `authors` (JSON) are of an action that people have changed since it was requested.
    """

    approval: str
    call: str
    requested_digest: str
    roles: Mapping[str, int]
    principal: str
    actor: str
    task: str
    tool: str
    lives_ms: int
    pending_max: int
    carried_votes: str = "[]"
    edited_digest: str = ""
    authors: str = "[]"

    def keys(self) -> Iterable[Key]:
        return [(APPROVALS, self.approval), (WAITING, self.principal)]

    def apply(self, state: State) -> Stop | None:
        if state.get(APPROVALS, self.approval) is not None:
            return Moved("approval")
        waiting = state.get(WAITING, self.principal) or {"pending": 0}
        if waiting["pending"] >= self.pending_max:
            return Refusal(
                Code.APPROVALS_FULL,
                f"{self.pending_max} calls of this principal already wait for a person. Ask for no more until some are "
                "decided.",
                retry="person",
                call=self.call,
            )
        state.put(WAITING, self.principal, {"pending": waiting["pending"] + 1})
        state.put(
            APPROVALS,
            self.approval,
            {
                "call": self.call,
                "state": ApprovalState.PENDING.value,
                "requested_digest": self.requested_digest,
                "approved_digest": "",
                "roles": json.dumps(dict(self.roles)),
                "votes": self.carried_votes,
                "principal": self.principal,
                "actor": self.actor,
                "task": self.task,
                "tool": self.tool,
                "created_ms": state.now_ms,
                "expires_ms": state.now_ms + self.lives_ms,
                "edited_digest": self.edited_digest,
                "authors": self.authors,
            },
        )
        return None


@dataclass(frozen=True, slots=True)
class VoteOnApproval:
    """Part: add a vote. A no denies at once; enough counted yeses approve exactly the action of `call_digest`."""

    approval: str
    vote: Vote
    call_digest: str

    def keys(self) -> Iterable[Key]:
        return [(APPROVALS, self.approval)]

    def apply(self, state: State) -> Stop | None:
        row = state.get(APPROVALS, self.approval)
        # A yes can be taken back until it is used.
        decidable = {ApprovalState.PENDING.value} if self.vote.yes else OPEN
        if row is None or row["state"] not in decidable:
            now = "unknown" if row is None else row["state"]
            return Refusal(
                Code.KEY_CONFLICT, f"Approval {self.approval} is {now}; only a pending one can be decided."
            )
        if asked_digest(row) != self.call_digest:
            return Refusal(
                Code.RECORD_CHANGED,
                f"Approval {self.approval} asks for another action than the one you saw. Look again before you decide.",
            )
        if row["expires_ms"] <= state.now_ms:
            return Refusal(
                Code.APPROVAL_EXPIRED, f"Approval {self.approval} has expired. The agent must ask again."
            )
        if (refusal := self._own_edit(row)) is not None:
            return refusal
        vote: JsonObject = {
            "approver": self.vote.approver,
            "roles": list(self.vote.roles),
            "assurance": self.vote.assurance.value,
            "yes": self.vote.yes,
            "reason": self.vote.reason,
            "self_approved": self.vote.self_approved,
            "at_ms": state.now_ms,
        }
        if self._is_author(row):
            vote["author"] = True
        votes = json.loads(row["votes"])
        if self.vote.yes:
            votes = [v for v in votes if _voter(v) != _voter(vote)] + [vote]
        row = {**row, "votes": json.dumps(votes)}
        wanted: dict[str, int] = json.loads(row["roles"])
        have = given(row)
        if not self.vote.yes:
            row["state"] = ApprovalState.DENIED.value
        elif all(have.get(role, 0) >= count for role, count in wanted.items()):
            row["state"] = ApprovalState.APPROVED.value
            row["approved_digest"] = asked_digest(row)
        state.put(APPROVALS, self.approval, row)
        if row["state"] == ApprovalState.DENIED:
            no_longer_waiting(state, row["principal"])
        record = LogRecord(
            RecordType.APPROVAL_DECIDED,
            {"v": 1, "approval": self.approval, "call": row["call"], "vote": vote, "state": row["state"]},
            call=row["call"],
            task=row["task"],
        )
        counted = self.vote.assurance is Assurance.CREDENTIAL
        if counted:
            count_vote(state, row["tool"], self.vote.yes)
        return NoteOnCall(row["call"], record, always=counted).apply(state)

    def _is_author(self, row: Row) -> bool:
        return self.vote.assurance is Assurance.CREDENTIAL and self.vote.approver in authors_of(row)

    def _own_edit(self, row: Row) -> Refusal | None:
        """Why somebody who edited the action cannot agree to it, if so: what they wrote needs another person's eyes.

        On a local store, where the one person is requester and approver anyway, their yes counts for a single one.
        """
        if not self.vote.yes or not self._is_author(row):
            return None
        wanted: dict[str, int] = json.loads(row["roles"])
        if self.vote.self_approved and any(wanted.get(role) == 1 for role in self.vote.roles):
            return None
        why = "two or more must agree" if self.vote.self_approved else "an author never approves"
        return Refusal(
            Code.DENIED,
            f"{self.vote.approver} edited this call, so somebody else must agree to it ({why}).",
            "person",
            row["call"],
        )


@dataclass(frozen=True, slots=True)
class ConsumeApproval:
    """Part: use up an approval for exactly the action it was given for. Anything else moves or refuses."""

    approval: str
    approved_digest: str
    roles: Mapping[str, int]

    def keys(self) -> Iterable[Key]:
        return [(APPROVALS, self.approval)]

    def apply(self, state: State) -> Stop | None:
        row = state.get(APPROVALS, self.approval)
        if row is None or row["state"] != ApprovalState.APPROVED:
            return Moved("approval")
        if row["expires_ms"] <= state.now_ms:
            return Moved("approval")
        if row["approved_digest"] != self.approved_digest or given(row) != dict(self.roles):
            return Moved("approval")
        state.put(APPROVALS, self.approval, {**row, "state": ApprovalState.CONSUMED.value})
        no_longer_waiting(state, row["principal"])
        if not row["edited_digest"]:
            count_unedited(state, row["tool"])
        return None


@dataclass(frozen=True, slots=True)
class CloseApproval:
    """Part: end an open approval as expired, void or denied."""

    approval: str
    to: ApprovalState

    def keys(self) -> Iterable[Key]:
        return [(APPROVALS, self.approval)]

    def apply(self, state: State) -> Stop | None:
        if self.to not in _CLOSED:
            raise TransitionError(f"An approval is not closed as {self.to}.")
        row = state.get(APPROVALS, self.approval)
        if row is None or row["state"] not in OPEN:
            return Moved("approval")
        state.put(APPROVALS, self.approval, {**row, "state": self.to.value})
        no_longer_waiting(state, row["principal"])
        return None


def no_longer_waiting(state: State, principal: str) -> None:
    """One approval of this principal less waits for a person."""
    waiting = state.get(WAITING, principal) or {"pending": 1}
    state.put(WAITING, principal, {"pending": max(0, waiting["pending"] - 1)})
