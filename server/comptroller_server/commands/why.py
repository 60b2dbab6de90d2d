"""`comptroller why CALL`: who authorised it, what it read, what it changed, where that is proved, how to stop it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

import click

from comptroller_audit.vocabulary import CallState, Json, JsonObject, RecordType
from comptroller_budgets.ledger import amount_text
from comptroller_policy.rollout import BUCKETS
from comptroller_server.call.changes import changes
from comptroller_server.commands.invocation import invocation_of, options
from comptroller_server.commands.opening import on_store
from comptroller_server.commands.proof import Proof, prove
from comptroller_server.commands.record import CallRecord, asked_because, clients_word, section, told_word
from comptroller_server.commands.released import shown_call
from comptroller_server.commands.showing import Card, at, compact, cut, emit
from comptroller_server.commands.tasks import task_words
from comptroller_server.installation import Installation
from comptroller_server.tasks.built_in_tools import BUILT_INS
from comptroller_tools.citing import age

__all__ = ["why"]

_VERDICTS = {"allow": "allowed", "deny": "denied", "needs_approval": "asked for a person"}


_ORIGINS = {
    "request": "the trusted request of the task",
    "trusted": "a trusted read of this task",
    "untrusted": "only untrusted content, or for a target nothing that was read",
    "new": "nothing that was read or asked for",
    "absent": "it was not given",
}


@click.command()
@click.argument("call")
@options()
@click.pass_context
def why(ctx: click.Context, call: str) -> None:
    """Everything about CALL on one screen. An id may be shortened to a beginning that is its alone."""
    invocation = invocation_of(ctx)

    async def read(installation: Installation) -> tuple[CallRecord, Proof]:
        found = await installation.store.read(lambda reader: shown_call(reader, installation, call))
        return found, await prove(installation, found.logged)

    record, proof = on_store(invocation, read)
    if invocation.as_json:
        emit(
            {
                **record.as_json(),
                "approvals": _votes(record),
                "proof": proof.as_json(),
                "stop": _stops(record),
            }
        )
        return
    card = Card(f"call {record.call}  {record.row['state']}  {at(record.row['created_ms'])}")
    _proposed(card, record)
    _considered(card, record)
    _approved(card, record)
    _cost(card, record)
    _happened(card, record)
    for line in proof.lines():
        card.line("log", line)
    for line in _stops(record):
        card.line("stop it", line)


def _proposed(card: Card, record: CallRecord) -> None:
    row, packet = record.row, record.proposal
    if not packet:
        card.line("erased", "what was proposed is no longer readable; that it was, the log goes on to prove")
    principal = section(packet, "principal")
    who = (
        f"{principal.get('issuer')}|{principal.get('subject')} ({principal.get('kind')})"
        if principal
        else "?"
    )
    card.line("who", f"{who}, through {row['actor']}")
    card.line("task", f"{row['task']}, step {row['step']}: {task_words(record.task)}")
    named = packet.get("tool") or row["tool"] or "?"
    known = (
        f" ({packet.get('effect')}), source {packet.get('source')}"
        if packet.get("effect")
        else " (no such tool)"
    )
    card.line("what", f"{named}{known}")
    if packet:
        card.line("what", cut(compact(packet.get("arguments"))))
    if target := section(packet, "record"):
        card.line("what", f"on {target.get('kind')} {target.get('key')}")
    if packet.get("compensates"):
        card.line("what", f"to reverse call {packet['compensates']}")
    if packet.get("part_of"):
        card.line("what", f"an item of batch call {packet['part_of']}")
    if claim := section(packet, "why"):
        card.line(
            "claimed", cut(json.dumps(claim.get("reason"), ensure_ascii=False)) + " (the agent's words)"
        )
    for citation in cast("list[JsonObject]", packet.get("citations") or []):
        card.line("read", f"{_cited(citation)}, ref {citation.get('ref')}")


def _cited(citation: JsonObject) -> str:
    """A record that the agent relied on: what it read, when, and by which call."""
    told = f"{citation.get('kind')} {citation.get('key')}, version {citation.get('version')}"
    if citation.get("call"):
        before = age(int(cast("int", citation.get("age_ms") or 0)))
        listed = " as one of a list" if citation.get("listed") else ""
        told += f", {before} before{listed}, by {citation.get('tool')} (call {citation['call']})"
    return told


def _considered(card: Card, record: CallRecord) -> None:
    packet = record.proposal
    for name, value in section(packet, "facts").items():
        card.line("looked up", cut(f"{name} = {compact(value)}"))
    for name, value in section(packet, "history").items():
        card.line("counted", f"{name} = {value}")
    for name, value in section(packet, "derived").items():
        card.line("derived", f"{name} = {value}")
    for name, word in section(packet, "provenance").items():
        card.line("came from", f"{name}: {_ORIGINS.get(str(word), str(word))}")
    decision = section(packet, "decision")
    if record.row["tool"] in BUILT_INS:
        card.line("decided", "no policy: it is a tool of Comptroller's own")
    elif packet.get("of"):
        card.line("decided", f"each call of {packet['of']} by itself")
    elif decision.get("errors") == ["not decided"] or not decision:
        card.line("decided", "policy was not asked: it was refused before")
    else:
        verdict = _VERDICTS.get(str(decision.get("verdict")), str(decision.get("verdict")))
        card.line("decided", f"{verdict} by {_joined(decision.get('policies')) or 'no policy'}")
        for reason in cast("list[Json]", decision.get("reasons") or []):
            card.line("decided", cut(str(reason)))
        for error in cast("list[Json]", decision.get("errors") or []):
            card.line("decided", cut(f"error: {error}"))
    if draw := section(packet, "rollout"):
        word = "in the canary" if draw.get("canary") else "not in the canary"
        card.line(
            "rollout",
            f"{word} ({draw.get('standing')}): bucket {draw.get('bucket')} of {BUCKETS}, drawn by "
            f"{draw.get('drawn_by')}, at {draw.get('percent')} %",
        )
    _observed(card, record)
    if bundle := str(packet.get("bundle", "")):
        card.line("decided", f"under policy bundle {bundle[:16]}")


def _observed(card: Card, record: CallRecord) -> None:
    """What rules would have stopped, had they not only been watched."""
    for entry in record.logged:
        for one in cast("list[JsonObject]", section(entry.packet or {}, "observed").get("decisions") or []):
            verdict = _VERDICTS.get(str(one.get("verdict")), str(one.get("verdict")))
            rules = _joined(one.get("policies")) or "no policy"
            card.line("observed", f"{one.get('stage')}: it would have been {verdict} by {rules}")


def _votes(record: CallRecord) -> list[dict[str, Any]]:
    """Every yes and no, from the log."""
    return [
        {"approval": entry.packet.get("approval"), **section(entry.packet, "vote")}
        for entry in record.logged
        if entry.type is RecordType.APPROVAL_DECIDED and entry.packet is not None
    ]


def _approved(card: Card, record: CallRecord) -> None:
    row = record.row
    asked = record.newest(RecordType.PENDING)
    for reason in asked_because((asked and asked.packet) or {}):
        card.line("approval", f"asked because {reason}")
    if word := clients_word(record.proposal):
        card.line("confirmed", told_word(word))
    _edited(card, record.proposal)
    for vote in _votes(record):
        said = "agreed" if vote.get("yes") else "said no"
        own = ", self-approved" if vote.get("self_approved") else ""
        reason = f': "{vote["reason"]}"' if vote.get("reason") else ""
        card.line(
            "approved",
            f"{vote.get('approver')} {said} at {at(vote['at_ms'])} ({vote.get('assurance')}{own}){reason}",
        )
    if row["state"] == CallState.PENDING and record.approval is not None:
        roles = ", ".join(f"{n} {role}" for role, n in json.loads(record.approval["roles"]).items())
        card.line(
            "approved", f"waits for {roles} until {at(record.approval['expires_ms'])}: {row['approval']}"
        )
    elif not _votes(record):
        card.line("approval", "nobody was asked" if not row["approval"] else "nobody decided")


def _edited(card: Card, packet: JsonObject) -> None:
    """What people changed of what the agent had proposed. Both were released before they came here."""
    edited = section(packet, "edited")
    for one in cast("list[JsonObject]", edited.get("by") or []):
        reason = f": {json.dumps(one.get('reason'), ensure_ascii=False)}" if one.get("reason") else ""
        card.line("edited", f"by {one.get('editor')} at {at(cast('int', one['at_ms']))}{reason}")
    if edited:
        card.line("edited", f"the agent had proposed {cut(compact(edited.get('arguments')))}")
    for line in changes(edited.get("arguments"), packet.get("arguments")) if edited else ():
        card.line("edited", line)


def _cost(card: Card, record: CallRecord) -> None:
    holds = cast("list[JsonObject]", record.proposal.get("holds") or [])
    state = record.hold["state"] if record.hold is not None else "nothing held"
    if not holds:
        card.line("cost", state)
    for hold in holds:
        amount = amount_text(cast("int", hold.get("amount_micro") or 0))
        card.line("cost", f"{amount} {hold.get('unit')} of `{hold.get('limit')}`, {state}")


def _happened(card: Card, record: CallRecord) -> None:
    end = record.end
    if end is None:
        pending = record.row["state"] == CallState.PENDING
        told = (
            "nothing yet; it waits for a person"
            if pending
            else "not known yet: it was committed and has not ended"
        )
        card.line("happened", told)
    elif end.packet is None:
        card.line("happened", f"{end.type.value} at {at(end.at_ms)}; what it says was erased")
    else:
        for line in _outcome(end.packet):
            card.line("happened", cut(line, 500))
    news = record.newest(RecordType.COMPENSATION)
    if news is not None and news.packet is not None:
        by = f" (call {news.packet['by']})" if news.packet.get("by") else ""
        card.line("reversal", f"{news.packet.get('state')} with {news.packet.get('tool')}{by}")
        if text := section(news.packet, "problem").get("text"):
            card.line("reversal", cut(str(text), 500))
    for entry in record.again[-3:]:
        refusal = section(entry.packet or {}, "refusal")
        told = f"refused with {refusal.get('code')}" if refusal else "answered from the record"
        card.line("again", f"{at(entry.at_ms)}: tried again, {told}")
    if len(record.again) > 3:
        card.line("again", f"and {len(record.again) - 3} times before")


def _outcome(packet: JsonObject) -> Iterable[str]:
    """What an ending packet says happened: an audit, a read, a recovery, a person's word, a closing, a refusal."""
    outcome = section(packet, "outcome")
    if outcome:
        error = f" ({outcome['error']})" if outcome.get("error") else ""
        yield f"{packet.get('state')}: the source says its effect is {outcome.get('effect')}{error}"
    elif packet.get("state"):
        by = f" by {packet['by']}" if packet.get("by") else ""
        yield f"{packet['state']}{by}: {packet.get('why') or packet.get('reason')}"
    elif isinstance(packet.get("outcome"), str):
        yield f"the task ended: {packet['outcome']}"
    elif packet.get("cause"):
        yield f"handed to a person ({packet['cause']}): {compact(packet.get('reason'))}"
    elif packet.get("of"):
        yield f"{packet.get('done')} of {packet.get('asked')} read, by calls {_joined(packet.get('calls'))}"
    if cached := section(packet, "cached"):
        yield f"the source was not asked: call {cached.get('call')} had read it {cached.get('age_s')} s before"
    if part := section(packet, "part"):
        yield f"told part {part.get('number')} of a long result, and was to tell more: {compact(part.get('left'))}"
    if packet.get("output") is not None:
        yield f"answered {compact(packet['output'])}"
    verification = section(packet, "verification")
    if verification and verification.get("result") != "not_declared":
        yield f"read back: {verification.get('result')}"
    for check in cast("list[JsonObject]", verification.get("checks") or []):
        expected, found = compact(check.get("expected")), compact(check.get("found"))
        yield f"  {check.get('fact')}.{check.get('path')} should be {expected} and is {found}"
    problem = section(packet, "problem") or section(packet, "refusal")
    if problem:
        yield f"refused with {problem.get('code')}: {problem.get('text')}"


def _stops(record: CallRecord) -> list[str]:
    """The commands that stop what this call is part of."""
    row, subject = record.row, section(record.proposal, "principal").get("subject")
    stops = [f"comptroller halt --tool {row['tool']} --reason …"] if row["tool"] else []
    stops.append(f"comptroller halt --task {row['task']} --reason …")
    return [*stops, f"comptroller halt --principal {subject} --reason …"] if subject else stops


def _joined(names: object) -> str:
    return ", ".join(str(name) for name in cast("list[Json]", names)) if isinstance(names, list) else ""
