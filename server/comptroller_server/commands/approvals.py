"""`comptroller approvals`: what waits for a person, the whole of what they agree to, and their yes or no."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click
from sqlalchemy import bindparam, select

from comptroller_audit.canonical import canonical_bytes, keyed_digest
from comptroller_audit.database import Row, table_of
from comptroller_audit.packets import LogRecord
from comptroller_audit.store import Reader
from comptroller_audit.unit import Committed, Stopped, Unit
from comptroller_audit.vocabulary import CallState, Json, JsonObject, PrincipalKind, RecordType, Refusal
from comptroller_policy.approvals import APPROVALS, ApprovalRow, ApprovalState, Vote, VoteOnApproval, given
from comptroller_server.call.endings import pending_ended
from comptroller_server.commands.credentials import NOBODY, Voter, identify
from comptroller_server.commands.invocation import Invocation, findings, invocation_of, options
from comptroller_server.commands.opening import on_store
from comptroller_server.commands.record import CallRecord, clients_word, section, told_word
from comptroller_server.commands.released import shown_call
from comptroller_server.commands.showing import Card, at, compact, emit, plain, say, table
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT, Installation
from comptroller_tools.citing import age

__all__ = ["approvals"]

_TABLE = table_of(ApprovalRow)
_ALL = (
    select(*_TABLE.columns)
    .where(_TABLE.c.tenant == bindparam("tenant"))
    .order_by(_TABLE.c.created_ms, _TABLE.c.id)
)
_OPEN = frozenset({ApprovalState.PENDING.value, ApprovalState.APPROVED.value})
EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Request:
    """An approval with the proposal it is for. `digest` is the plain SHA-256 of the exact action."""

    approval: str
    row: Row
    record: CallRecord
    packet: JsonObject
    digest: str
    now_ms: int

    @property
    def state(self) -> str:
        return _state(self.row, self.now_ms)


def _state(row: Row, now_ms: int) -> str:
    """The approval's state as it counts: one whose time is over is expired, whatever its row still says."""
    return EXPIRED if row["state"] in _OPEN and row["expires_ms"] <= now_ms else str(row["state"])


@click.group()
def approvals() -> None:
    """What waits for a person."""


@approvals.command("list")
@click.option("--all", "everything", is_flag=True, help="Decided and expired ones too.")
@options()
@click.pass_context
def list_(ctx: click.Context, everything: bool) -> None:
    """Requests for a person, oldest first."""
    invocation = invocation_of(ctx)

    async def read(installation: Installation) -> list[dict[str, Any]]:
        now = installation.ambient.clock.now_ms()
        rows = await installation.store.read(lambda reader: reader.query(_ALL, tenant=TENANT))
        names = [column.name for column in _TABLE.columns]
        return [_summary(dict(zip(names, row, strict=True)), now) for row in rows]

    found = [one for one in on_store(invocation, read) if everything or one["state"] in _OPEN]
    if invocation.as_json:
        emit({"approvals": found})
    elif found:
        rows = [
            (
                o["approval"],
                o["state"],
                o["tool"],
                _needs(o),
                at(o["created_ms"]),
                at(o["expires_ms"]),
                o["call"],
            )
            for o in found
        ]
        table(("APPROVAL", "STATE", "TOOL", "NEEDS", "ASKED", "EXPIRES", "CALL"), rows)
    else:
        say("Nothing waits for a person.")


def _summary(row: Row, now_ms: int) -> dict[str, Any]:
    kept = ("call", "tool", "task", "actor", "created_ms", "expires_ms")
    return {
        "approval": row["id"],
        "state": _state(row, now_ms),
        **{name: row[name] for name in kept},
        "roles": json.loads(row["roles"]),
        "given": given(row),
    }


def _needs(one: dict[str, Any]) -> str:
    return ", ".join(f"{one['given'].get(role, 0)} of {count} {role}" for role, count in one["roles"].items())


@approvals.command()
@click.argument("approval")
@options()
@click.pass_context
def show(ctx: click.Context, approval: str) -> None:
    """The whole of what APPROVAL (or a call waiting for one) is about."""
    invocation = invocation_of(ctx)

    async def read(installation: Installation) -> Request:
        return await _request(installation, approval)

    request = on_store(invocation, read)
    if invocation.as_json:
        emit(_as_json(request))
    else:
        _show(request)


@approvals.command()
@click.argument("approval")
@click.option("--reason", default="", help="Why; it stands in the record.")
@click.option("--credential-file", type=click.Path(path_type=Path), help="Your approver credential.")
@options()
@click.pass_context
def approve(ctx: click.Context, approval: str, reason: str, credential_file: Path | None) -> None:
    """Agree to exactly what APPROVAL (or a call waiting for one) shows. The agent then runs it with resume_call.

    It needs an approver's credential, from a file or asked on the terminal; without one the decision is recorded
    and satisfies no rule (exit code 1).
    """
    _decide(invocation_of(ctx), approval, True, reason, credential_file)


@approvals.command()
@click.argument("approval")
@click.option("--reason", default="", help="Why; it stands in the record.")
@click.option("--credential-file", type=click.Path(path_type=Path), help="Your approver credential.")
@options()
@click.pass_context
def deny(ctx: click.Context, approval: str, reason: str, credential_file: Path | None) -> None:
    """Say no to APPROVAL (or a call waiting for one). The call ends; nothing of it happens."""
    _decide(invocation_of(ctx), approval, False, reason, credential_file)


# -- deciding ---------------------------------------------------------------------------------------------------------


def _decide(invocation: Invocation, wanted: str, yes: bool, reason: str, file: Path | None) -> None:
    async def work(installation: Installation) -> tuple[Request, Voter, str | None]:
        request = await _request(installation, wanted)
        decidable = {ApprovalState.PENDING.value} if yes else _OPEN
        if request.state not in decidable:
            return request, NOBODY, f"it is {request.state}; only a pending one can be decided"
        if not invocation.as_json and file is None:
            _show(request)
        voter = await identify(installation, file)
        problem = _lacks_role(request, voter) if yes else None
        if problem is None:
            problem = await _vote(installation, request, voter, yes, reason)
        return await _request(installation, request.approval), voter, problem

    request, voter, problem = on_store(invocation, work)
    counted = problem is None and (voter.counts or not yes)
    if problem is None and not counted:
        problem = (
            "recorded, but it satisfies no rule: it was given without an approver's credential that the agent cannot "
            "read (assurance same_uid)"
        )
    if invocation.as_json:
        emit({"ok": counted, "by": voter.name, "problem": problem, **_as_json(request)})
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
            f"Recorded: {voter.name} agrees to {request.approval}. Still needed: {_needs(_summary_of(request))}."
        )


def _lacks_role(request: Request, voter: Voter) -> str | None:
    wanted: dict[str, int] = json.loads(request.row["roles"])
    if not voter.counts or set(wanted) & set(voter.roles):
        return None
    return f"{voter.name} may approve as {', '.join(voter.roles)}, and this asks for {', '.join(wanted)}"


async def _vote(
    installation: Installation, request: Request, voter: Voter, yes: bool, reason: str
) -> str | None:
    """Commit the vote; a no ends the call in the same unit. Returns what kept it from counting."""
    own = (
        installation.identity.principal.kind is PrincipalKind.LOCAL
        and request.row["principal"] == installation.principal_key
    )
    vote = Vote(voter.name, voter.roles, voter.assurance, yes, reason, self_approved=yes and own)
    unit = Unit([VoteOnApproval(request.approval, vote, request.row["requested_digest"])])
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


# -- what is asked ----------------------------------------------------------------------------------------------------


async def _request(installation: Installation, wanted: str) -> Request:
    """The approval `wanted`, or the newest one of the call `wanted`. Raises `CommandError`."""

    def read(reader: Reader) -> tuple[str, Row, CallRecord]:
        row = reader.row(TENANT, APPROVALS, wanted)
        if row is not None:
            return wanted, row, shown_call(reader, installation, row["call"])
        if wanted.startswith("apr-"):
            raise CommandError(f"there is no approval {wanted!r}; see `comptroller approvals list --all`")
        record = shown_call(reader, installation, wanted)
        if record.approval is None:
            raise CommandError(f"call {record.call} is {record.row['state']} and waits for nobody")
        return record.row["approval"], record.approval, record

    approval, row, record = await installation.store.read(read)
    packets = [e.packet for e in record.logged if e.type is RecordType.PENDING and e.packet is not None]
    packet = next((p for p in reversed(packets) if p.get("approval") == approval), None)
    if packet is None:
        raise CommandError(
            f"the proposal behind {approval} was erased, so nobody can be shown what it is about"
        )
    plain_digest = str(section(packet, "approval_digests").get("requested") or "")
    key = installation.ring.claim_key(TENANT)
    if keyed_digest(key, "approval", bytes.fromhex(plain_digest)) != row["requested_digest"]:
        raise CommandError(
            f"the record of {approval} does not fit its row, so it cannot be decided; run `comptroller audit verify`"
        )
    return Request(approval, row, record, packet, plain_digest, installation.ambient.clock.now_ms())


def _summary_of(request: Request) -> dict[str, Any]:
    return _summary({**request.row, "id": request.approval}, request.now_ms)


def _as_json(request: Request) -> dict[str, Any]:
    packet = request.packet
    proposed = (
        "tool",
        "effect",
        "source",
        "definition",
        "record",
        "arguments",
        "principal",
        "actor",
        "task",
        "step",
    )
    return {
        **_summary_of(request),
        **{name: packet.get(name) for name in proposed},
        "call_state": request.record.row["state"],
        "facts": section(packet, "shown").get("facts"),
        "decision": packet.get("decision"),
        "digest": request.digest,
        "votes": json.loads(request.row["votes"]),
        "agent_claims": {"why": packet.get("why"), "citations": packet.get("citations")},
    }


def _show(request: Request) -> None:
    packet, summary = request.packet, _summary_of(request)
    card = Card(f"{request.approval}  {request.state}")
    card.line("tool", f"{packet.get('tool')} ({packet.get('effect')}), source {packet.get('source')}")
    # Never cut: a person agrees to all of it.
    card.line("arguments", canonical_bytes(packet.get("arguments")).decode())
    record = section(packet, "record")
    card.line("record", f"{record.get('kind')} {record.get('key')}" if record else "none declared")
    for name, value in section(section(packet, "shown"), "facts").items():
        card.line("as it is", f"{name} = {compact(value)}")
    if undo := section(packet, "compensation"):
        told = f"{undo.get('tool')} {compact(undo.get('arguments'))} takes it back, on the same approval"
        card.line("if wrong", told)
    decision = section(packet, "decision")
    policies = cast("list[Json]", decision.get("policies") or [])
    for policy, reason in zip(policies, cast("list[Json]", decision.get("reasons") or []), strict=False):
        card.line("because", f"{reason} (rule {policy})")
    card.line("needs", _needs(summary))
    for vote in cast("list[dict[str, Any]]", json.loads(request.row["votes"])):
        counts = "" if vote["assurance"] == "credential" else ", which counts for nothing"
        card.line("so far", f"{vote['approver']} agreed at {at(vote['at_ms'])} ({vote['assurance']}{counts})")
    if word := clients_word(packet):
        card.line("confirmed", told_word(word))
    principal = section(packet, "principal")
    card.line(
        "requester", f"{principal.get('subject')} ({principal.get('kind')}), through {packet.get('actor')}"
    )
    card.line("asked", f"{at(summary['created_ms'])}, expires {at(summary['expires_ms'])}")
    card.line("call", f"{request.record.call} ({request.record.row['state']}), task {packet.get('task')}")
    card.line("digest", f"sha256 {request.digest}")
    _show_claims(packet)


def _show_claims(packet: JsonObject) -> None:
    """What the agent says, apart and labelled: it was written to convince."""
    say("  The agent claims (its own words, checked by nobody):")
    say(f"    {json.dumps(section(packet, 'why').get('reason'), ensure_ascii=False)}")
    for cited in cast("list[JsonObject]", packet.get("citations") or []):
        listed = ", from a list" if cited.get("listed") else ""
        read = f", read {age(int(cast('int', cited['age_ms'])))} before" if "age_ms" in cited else ""
        kind = plain(str(cited.get("kind")))
        say(f"    citing {kind} {cited.get('key')} (ref {cited.get('ref')}{read}{listed})")
