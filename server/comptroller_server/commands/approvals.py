"""`comptroller approvals`: what waits for a person, the whole of what they agree to, and their yes or no."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from sqlalchemy import bindparam, select

from comptroller_audit.database import table_of
from comptroller_audit.packets import LogRecord
from comptroller_audit.redaction import Audience
from comptroller_audit.store import Reader
from comptroller_audit.unit import Committed, Stopped, Unit
from comptroller_audit.vocabulary import CallState, JsonObject, PrincipalKind, RecordType, Refusal
from comptroller_policy.approvals import OPEN, ApprovalRow, ApprovalState, Vote, VoteOnApproval, asked_digest
from comptroller_server.call.endings import pending_ended
from comptroller_server.commands.credentials import NOBODY, Voter, by_credential, identify
from comptroller_server.commands.editing import edit
from comptroller_server.commands.invocation import Invocation, findings, invocation_of, options
from comptroller_server.commands.opening import on_store
from comptroller_server.commands.requests import (
    Request,
    as_json,
    lacks_role,
    looked_at,
    looking,
    needs,
    request_of,
    show_card,
    summary,
    summary_of,
)
from comptroller_server.commands.showing import at, emit, say, show_list
from comptroller_server.installation import TENANT, Installation

__all__ = ["all_requests", "approvals"]

_TABLE = table_of(ApprovalRow)
_ALL = (
    select(*_TABLE.columns)
    .where(_TABLE.c.tenant == bindparam("tenant"))
    .order_by(_TABLE.c.created_ms, _TABLE.c.id)
)


@click.group()
def approvals() -> None:
    """What waits for a person."""


approvals.add_command(edit)


@approvals.command("list")
@click.option("--all", "everything", is_flag=True, help="Decided and expired ones too.")
@options()
@click.pass_context
def list_(ctx: click.Context, everything: bool) -> None:
    """Requests for a person, oldest first."""
    invocation = invocation_of(ctx)

    async def read(installation: Installation) -> list[dict[str, Any]]:
        now = installation.ambient.clock.now_ms()
        return await installation.store.read(lambda reader: all_requests(reader, now))

    found = [one for one in on_store(invocation, read) if everything or one["state"] in OPEN]
    rows = [
        (o["approval"], _told(o), o["tool"], needs(o), at(o["created_ms"]), at(o["expires_ms"]), o["call"])
        for o in found
    ]
    headings = ("APPROVAL", "STATE", "TOOL", "NEEDS", "ASKED", "EXPIRES", "CALL")
    show_list(invocation.as_json, {"approvals": found}, headings, rows, "Nothing waits for a person.")


def all_requests(reader: Reader, now_ms: int) -> list[dict[str, Any]]:
    """Every request for a person, summed up, oldest first."""
    names = [column.name for column in _TABLE.columns]
    return [summary(dict(zip(names, row, strict=True)), now_ms) for row in reader.query(_ALL, tenant=TENANT)]


def _told(one: dict[str, Any]) -> str:
    return f"{one['state']}, edited" if one["authors"] else str(one["state"])


@approvals.command()
@click.argument("approval")
@options()
@click.pass_context
def show(ctx: click.Context, approval: str) -> None:
    """The whole of what APPROVAL (or a call waiting for one) is about."""
    invocation = invocation_of(ctx)

    async def read(installation: Installation) -> Request:
        return await request_of(installation, approval)

    request = on_store(invocation, read)
    if invocation.as_json:
        emit(as_json(request))
    else:
        show_card(request)


@approvals.command()
@click.argument("approval")
@click.option("--reason", default="", help="Why; it stands in the record.")
@click.option("--digest", help="What you agree to: the digest on the card, or its first 16 digits.")
@click.option("--yes", is_flag=True, help="Agree to whatever it asks for now, without looking.")
@by_credential
@options()
@click.pass_context
def approve(
    ctx: click.Context,
    approval: str,
    reason: str,
    digest: str | None,
    yes: bool,
    credential_file: Path | None,
) -> None:
    """Agree to exactly what APPROVAL (or a call waiting for one) shows. The agent then runs it with resume_call.

    On a terminal it shows the card and asks. A script says what it agrees to with --digest, or --yes.

    It needs an approver's credential, from a file or asked on the terminal; without one the decision is recorded
    and satisfies no rule (exit code 1).
    """
    _decide(invocation_of(ctx), approval, Ballot(True, reason, digest, unseen=yes), credential_file)


@approvals.command()
@click.argument("approval")
@click.option("--reason", default="", help="Why; it stands in the record.")
@by_credential
@options()
@click.pass_context
def deny(ctx: click.Context, approval: str, reason: str, credential_file: Path | None) -> None:
    """Say no to APPROVAL (or a call waiting for one). The call ends; nothing of it happens."""
    _decide(invocation_of(ctx), approval, Ballot(False, reason), credential_file)


# -- deciding ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ballot:
    """A yes or a no, why, and for a yes how it is known that its giver means exactly this."""

    yes: bool
    reason: str
    digest: str | None = None
    unseen: bool = False


def _decide(invocation: Invocation, wanted: str, ballot: Ballot, file: Path | None) -> None:
    yes = ballot.yes

    async def work(installation: Installation) -> tuple[Request, Voter, str | None]:
        request = await request_of(installation, wanted)
        decidable = {ApprovalState.PENDING.value} if yes else OPEN
        if request.state not in decidable:
            return request, NOBODY, f"it is {request.state}; only a pending one can be decided"
        if looking(invocation) or (not invocation.as_json and file is None):
            show_card(request)
        if yes:
            question = "Agree to exactly this?"
            problem = looked_at(request, invocation, ballot.digest, question, yes=ballot.unseen)
            if problem is not None:
                return request, NOBODY, problem
        voter = await identify(installation, file)
        problem = lacks_role(request, voter) if yes else None
        if problem is None:
            problem = await _vote(installation, request, voter, ballot)
        return await request_of(installation, request.approval), voter, problem

    request, voter, problem = on_store(invocation, work)
    counted = problem is None and (voter.counts or not yes)
    if problem is None and not counted:
        problem = (
            "recorded, but it satisfies no rule: it was given without an approver's credential that the agent cannot "
            "read (assurance same_uid)"
        )
    if invocation.as_json:
        emit({"ok": counted, "by": voter.name, "problem": problem, **as_json(request)})
    elif counted:
        _tell(request, voter, yes)
    else:
        say(f"{'Not approved' if yes else 'Not denied'}: {request.approval}: {problem}.")
    if not counted:
        findings()


def _tell(request: Request, voter: Voter, yes: bool) -> None:
    if not yes:
        say(
            f"Denied by {voter.name}: {request.approval}. Call {request.record.call} ends; nothing of it happened."
        )
    elif request.state == ApprovalState.APPROVED:
        say(f"Approved by {voter.name}: {request.approval}. The agent runs it once with resume_call.")
        say(f"  call {request.record.call}  digest {request.digest}")
    else:
        say(
            f"Recorded: {voter.name} agrees to {request.approval}. Still needed: {needs(summary_of(request))}."
        )


async def _vote(installation: Installation, request: Request, voter: Voter, ballot: Ballot) -> str | None:
    """Commit the vote; a no ends the call in the same unit. Returns what kept it from counting."""
    yes, reason = ballot.yes, installation.release.text(ballot.reason, Audience.RECORD)
    own = (
        installation.identity.principal.kind is PrincipalKind.LOCAL
        and request.row["principal"] == installation.principal_key
    )
    vote = Vote(voter.name, voter.roles, voter.assurance, yes, reason, self_approved=yes and own)
    unit = Unit([VoteOnApproval(request.approval, vote, asked_digest(request.row))])
    if not yes:
        call, task = request.record.call, request.row["task"]
        why = f"denied by {voter.name}" + (f": {reason}" if reason else "")
        packet: JsonObject = {"v": 1, "call": call, "state": CallState.DENIED.value, "why": why}
        closed = LogRecord(RecordType.CALL_CLOSED, packet, call=call, task=task)
        budgets = installation.config.budgets
        parts = pending_ended(call, request.approval, task, CallState.DENIED, None, closed, budgets)
        unit = Unit([*unit.parts, *parts])
    outcome = await installation.store.commit(TENANT, unit)
    if isinstance(outcome, Committed):
        return None
    assert isinstance(outcome, Stopped)
    return outcome.stop.text if isinstance(outcome.stop, Refusal) else "it has just changed; look at it again"
