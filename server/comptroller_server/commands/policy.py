"""`comptroller policy`: the policies as Cedar, and a recorded decision made again, policy by policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import click

from comptroller_audit.vocabulary import (
    Json,
    JsonObject,
)
from comptroller_policy.engine import Bundle, Explained
from comptroller_policy.model import Decision, Question
from comptroller_server.call.evidence import TOO_LONG
from comptroller_server.commands.invocation import invocation_of, options
from comptroller_server.commands.opening import installation_of, on_store, quiet_stdout
from comptroller_server.commands.policy_cases import try_cases
from comptroller_server.commands.policy_diff import diff
from comptroller_server.commands.record import CallRecord, read_call, section
from comptroller_server.commands.showing import Card, emit, say, table
from comptroller_server.errors import CommandError
from comptroller_server.installation import Installation
from comptroller_server.rehearsal.asked_then import asked_then

__all__ = ["policy"]


@click.group()
def policy() -> None:
    """The policies, why they decided as they did, and what they would decide."""


policy.add_command(try_cases)
policy.add_command(diff)


@policy.command()
@click.argument("tool", required=False)
@options()
@click.pass_context
def show(ctx: click.Context, tool: str | None) -> None:
    """Every policy as Cedar: what the configuration compiles to, and the operator's files. With TOOL, only its own."""
    invocation = invocation_of(ctx)
    installation = installation_of(invocation)
    with quiet_stdout():
        bundle = installation.policy
    if tool is not None and tool not in bundle.tools():
        raise CommandError(
            f"no tool is named {tool!r}; the configured ones are {', '.join(sorted(bundle.tools()))}"
        )
    text = bundle.text() if tool is None else bundle.text_of(tool)
    if invocation.as_json:
        emit({"tool": tool, "digest": bundle.digest, "bundle": installation.bundle_digest, "cedar": text})
        return
    for line in text.rstrip().split("\n"):
        say(line.expandtabs(4))


@dataclass(frozen=True, slots=True)
class Again:
    """A recorded decision, and the same question asked of today's bundle.

    `whole` is false where the record lacks look-ups that today's policies read, so that only what needs none can be
    decided again; `now` is None then unless that already denies.
    """

    record: CallRecord
    then: JsonObject
    same_bundle: bool
    whole: bool
    now: Decision | None
    policies: list[Explained]

    @property
    def differs(self) -> bool | None:
        """Whether today's bundle would decide otherwise; None when that cannot be told from the record."""
        return None if self.now is None else self.now.verdict.value != self.then.get("verdict")


@policy.command()
@click.argument("call")
@options()
@click.pass_context
def explain(ctx: click.Context, call: str) -> None:
    """Decide CALL again from its record: every policy that applies, whether it matched, which decided.

    It asks today's policies with what was recorded then, and says whether they would decide otherwise.
    """
    invocation = invocation_of(ctx)

    async def decide(installation: Installation) -> Again:
        record = await installation.store.read(lambda reader: read_call(reader, installation.ring, call))
        with quiet_stdout():
            return _again(installation, record)

    again = on_store(invocation, decide)
    if invocation.as_json:
        emit(_as_json(again))
    else:
        _show(again)


def _again(installation: Installation, record: CallRecord) -> Again:
    packet = record.proposal
    then = section(packet, "decision")
    if not packet:
        raise CommandError(f"what call {record.call} proposed was erased, so nothing can be decided again")
    if not then or then.get("errors") == ["not decided"]:
        refusal = section(packet, "refusal").get("code")
        raise CommandError(
            f"policy was not asked about call {record.call}: it was refused before ({refusal})"
        )
    if section(packet, "arguments").keys() == TOO_LONG:
        raise CommandError(
            f"the arguments of call {record.call} were too long to keep, so nothing can be decided again"
        )
    bundle, tool = installation.policy, str(packet["tool"])
    if tool not in bundle.tools():
        raise CommandError(f"today's configuration has no tool {tool!r}, so nothing can be decided again")
    question = asked_then(packet, _decided_at(record, packet), installation.config)
    whole = _is_whole(bundle, question)
    now = bundle.decide(question) if whole else bundle.decide_early(question)
    same = packet.get("bundle") == installation.bundle_digest
    return Again(record, then, same, whole, now, bundle.explain(question))


def _is_whole(bundle: Bundle, question: Question) -> bool:
    reads = bundle.reads(question.tool)
    return (
        reads.facts <= question.facts.keys()
        and reads.history <= question.history.keys()
        and reads.derived <= question.derived.keys()
        and reads.provenance <= question.provenance.keys()
    )


def _decided_at(record: CallRecord, packet: JsonObject) -> int:
    """When it was decided, as closely as the log knows: the record time of the packet."""
    return next((entry.at_ms for entry in record.logged if entry.packet is packet), record.row["created_ms"])


def _as_json(again: Again) -> dict[str, Any]:
    return {
        "call": again.record.call,
        "recorded": again.then,
        "same_bundle": again.same_bundle,
        "whole": again.whole,
        "now": {"verdict": again.now.verdict.value, "policies": list(again.now.policies)}
        if again.now
        else None,
        "differs": again.differs,
        "policies": [
            {
                "id": one.id,
                "effect": one.effect,
                "where": one.where,
                "matched": one.matched,
                "decided": one.id in _deciders(again),
                "reason": one.reason,
            }
            for one in again.policies
        ],
    }


def _deciders(again: Again) -> list[Json]:
    return cast("list[Json]", again.then.get("policies") or [])


def _show(again: Again) -> None:
    packet, then = again.record.proposal, again.then
    card = Card(f"call {again.record.call}  {packet.get('tool')}  {again.record.row['state']}")
    card.line(
        "recorded", f"{then.get('verdict')} by {', '.join(str(p) for p in _deciders(again)) or 'no policy'}"
    )
    for reason in cast("list[Json]", then.get("reasons") or []):
        card.line("recorded", str(reason))
    say()
    matched = {True: "yes", False: "no", None: "cannot tell"}
    rows = [
        (one.id, one.effect, matched[one.matched], "decided" if one.id in _deciders(again) else "", one.where)
        for one in again.policies
    ]
    table(("POLICY", "EFFECT", "MATCHED", "", "WHERE"), rows)
    say()
    known = "the same bundle" if again.same_bundle else "another bundle than then"
    if again.now is None:
        say(f"Today ({known}): it cannot be told, for the record lacks look-ups that these policies read.")
        return
    would = f"{again.now.verdict.value} by {', '.join(again.now.policies) or 'no policy'}"
    say(
        f"Today ({known}): {would}. {'It would decide OTHERWISE.' if again.differs else 'The same decision.'}"
    )
