"""A decision on record, and the same call as it is asked of another configuration: nothing is looked up, nothing guessed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from comptroller_audit.query import Logged
from comptroller_audit.vocabulary import (
    Code,
    Effect,
    Json,
    JsonObject,
    PrincipalKind,
    RecordType,
    Subject,
)
from comptroller_policy.approvals import given
from comptroller_policy.declarations import Origin, RolloutMode
from comptroller_policy.fact_order import in_order
from comptroller_policy.model import Verdict
from comptroller_policy.rollout import PERCENT_MAX, Draw, DrawnBy, Standing, is_drawn
from comptroller_server.call.evidence import TOO_LONG
from comptroller_server.call.lookups import service_subject
from comptroller_server.commands.record import clients_word, section
from comptroller_server.errors import CannotDecide, Lack
from comptroller_server.installation import Installation
from comptroller_server.people.canary import is_reversible
from comptroller_server.rehearsal.asked_then import asked_then, votes_in
from comptroller_server.rehearsal.deciding import Asked, Rehearsal
from comptroller_tools.catalogue import Tool

__all__ = ["DECIDED", "Recorded", "asked_again", "lacks_roles", "recorded"]

DECIDED = {
    RecordType.ACTION: Verdict.ALLOW,
    RecordType.READ: Verdict.ALLOW,
    RecordType.PENDING: Verdict.NEEDS_APPROVAL,
    RecordType.CONFIRMATION_ASKED: Verdict.NEEDS_APPROVAL,
    RecordType.REFUSED: Verdict.DENY,
}
"""The packets that hold a decision made before a call, and what that was; a refusal may have come from elsewhere."""
_WITHHELD = "[withheld: "
"""How what a record does not hold begins."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One decision on record."""

    call: str
    tool: str
    at_ms: int
    verdict: Verdict
    policies: tuple[str, ...]
    packet: JsonObject


def recorded(entry: Logged) -> Recorded | None:
    """The decision in an entry of a type in `DECIDED` whose packet is there; None where policy decided nothing in it."""
    packet = entry.packet or {}
    decision = section(packet, "decision")
    if "original" in packet or not decision or decision.get("errors") == ["not decided"]:
        return None
    policies = decision.get("policies")
    if entry.type is RecordType.REFUSED and decision.get("verdict") != Verdict.DENY:
        refusal = section(packet, "refusal")
        if refusal.get("code") != Code.DENIED:
            return None  # allowed, and refused by a budget, a check or a limit
        policies = refusal.get("policies")  # of what would reverse it
    named = tuple(str(policy) for policy in cast("list[Json]", policies or []))
    call, tool = str(packet.get("call")), str(packet.get("tool"))
    return Recorded(call, tool, entry.at_ms, DECIDED[entry.type], named, packet)


def asked_again(found: Recorded, now: Installation, candidate: Rehearsal) -> Asked:
    """The recorded call as a question to `candidate`; `now` is the configuration that the store belongs to.

    Raises `CannotDecide` for what the record does not hold.
    """
    packet = found.packet
    tool = candidate.tool(found.tool)
    arguments = section(packet, "arguments")
    if not isinstance(packet.get("arguments"), dict) or arguments.keys() == TOO_LONG:
        raise CannotDecide(Lack.ARGUMENTS, "its arguments were too long to keep, or withheld")
    then = now.catalogue.find(found.tool)
    own = then.shaping.own(arguments) if then is not None else arguments
    if _WITHHELD in json.dumps(own, ensure_ascii=False):
        raise CannotDecide(Lack.ARGUMENTS, "part of its arguments was withheld from the record")
    config = candidate.installation.config
    asked = asked_then(packet, found.at_ms, config)
    return Asked(
        tool=tool.name,
        arguments=own,
        subject=_subject(asked.subject, tool, candidate),
        now_ms=asked.now_ms,
        environment=config.environment,
        call=found.call,
        task=asked.task,
        step=asked.step,
        facts=_same_look_ups(asked.facts, then, tool),
        history=_same_counts(asked.history, then, tool),
        provenance=_same_origins(section(packet, "provenance"), then, tool),
        approvals=given(
            {"votes": json.dumps(votes_in(packet)), "roles": json.dumps(_wanted(candidate, tool))}
        ),
        confirmed=bool(clients_word(packet)),
        draw=_draw(packet, tool, now, candidate),
        reverses=bool(packet.get("compensates")),
    )


def lacks_roles(found: Recorded) -> bool:
    """Whether somebody agreed, and the record does not say in which roles."""
    votes = cast("list[Json]", found.packet.get("approvals") or [])
    word = clients_word(found.packet)
    return any(isinstance(vote, dict) and "roles" not in vote and vote != word for vote in votes)


def _wanted(candidate: Rehearsal, tool: Tool) -> dict[str, int]:
    """How many of each role the candidate's gates want: where that is more than one, an editor is none of them."""
    rules, wanted = candidate.bundle.rules(), dict[str, int]()
    for id_ in candidate.bundle.asked(tool.name):
        if (gate := rules[id_].gate) is not None:
            wanted[gate.role] = max(gate.count, wanted.get(gate.role, 0))
    return wanted


def _subject(then: Subject, tool: Tool, candidate: Rehearsal) -> Subject:
    """Who called. The roles of the local person, and those Comptroller itself acts with, are the candidate's to give."""
    if then.principal.kind is PrincipalKind.SERVICE:
        return service_subject(then.principal.tenant, tool.config.roles or ())
    if then.principal.kind is PrincipalKind.LOCAL:
        return replace(then, roles=frozenset(candidate.installation.config.identity.local.roles))
    return then


def _same_look_ups(facts: Mapping[str, Any], then: Tool | None, tool: Tool) -> dict[str, Any]:
    """Recorded facts that the candidate would look up with the same tool and arguments, and that were kept whole."""
    rules, now = then.config.facts if then is not None else {}, tool.config.facts
    return {
        name: value
        for name, value in facts.items()
        if name in rules
        and all(rules[each] == now.get(each) for each in in_order(rules, [name]))
        and not _is_withheld(value)
    }


def _is_withheld(value: Json) -> bool:
    return isinstance(value, str) and _WITHHELD in value


def _same_counts(history: Mapping[str, int], then: Tool | None, tool: Tool) -> dict[str, int]:
    """Recorded counts that the candidate counts in the same way."""
    rules = then.config.history if then is not None else {}
    return {
        name: value
        for name, value in history.items()
        if name in rules and rules[name] == tool.config.history.get(name)
    }


def _same_origins(provenance: JsonObject, then: Tool | None, tool: Tool) -> dict[str, Origin]:
    """Recorded provenance of arguments that the candidate follows for the same purpose."""
    aims = then.config.provenance if then is not None else {}
    return {
        name: Origin(str(word))
        for name, word in provenance.items()
        if name in aims and aims[name] is tool.config.provenance.get(name)
    }


def _draw(packet: JsonObject, tool: Tool, now: Installation, candidate: Rehearsal) -> Draw | None:
    """The draw under the candidate's rollout, from the recorded bucket; None where that does not tell it."""
    before, after = now.config.rollout, candidate.installation.config.rollout
    if after.mode is RolloutMode.OFF or tool.effect is Effect.READ:
        return None
    if after.mode is RolloutMode.AUTO:
        return Draw(Standing.AUTO, 0, PERCENT_MAX, DrawnBy.RECORD)
    drawn = section(packet, "rollout")
    if not drawn:
        nobody = not after.percent or not is_reversible(tool.config)
        return Draw(Standing.OUTSIDE, 0, after.percent, DrawnBy.RECORD) if nobody else None
    standing, bucket = Standing(str(drawn.get("standing"))), int(cast("int", drawn.get("bucket")))
    by = DrawnBy(str(drawn.get("drawn_by")))
    if before == after:
        return Draw(standing, bucket, int(cast("int", drawn.get("percent"))), by)
    if standing in (Standing.IN, Standing.OUTSIDE, Standing.AUTO):
        in_share = is_reversible(tool.config) and is_drawn(bucket, after.percent)
        standing = Standing.IN if in_share else Standing.OUTSIDE
    return Draw(standing, bucket, after.percent, by)
