"""What people are asked: an approval with its proposal, as a card and as JSON, and whether they looked at it."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from typing import Any, cast

import click

from comptroller_audit.canonical import canonical_bytes
from comptroller_audit.database import Row
from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import JsonObject, RecordType
from comptroller_policy.approvals import APPROVALS, OPEN, authors_of, given
from comptroller_server.call.changes import changes
from comptroller_server.call.edits import Edited, asked_in, fits
from comptroller_server.commands.credentials import Voter
from comptroller_server.commands.invocation import Invocation
from comptroller_server.commands.record import CallRecord, asked_because, clients_word, section, told_word
from comptroller_server.commands.released import shown_call
from comptroller_server.commands.showing import Card, at, compact, plain, say
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT, Installation
from comptroller_tools.citing import age

__all__ = [
    "Request",
    "as_json",
    "lacks_role",
    "looked_at",
    "looking",
    "needs",
    "request_of",
    "show_card",
    "summary",
    "summary_of",
]

EXPIRED = "expired"
DIGEST_CHARS_MIN = 16
_is_digest = re.compile(r"[0-9a-f]{16,64}").fullmatch


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
    return EXPIRED if row["state"] in OPEN and row["expires_ms"] <= now_ms else str(row["state"])


def summary(row: Row, now_ms: int) -> dict[str, Any]:
    kept = ("call", "tool", "task", "actor", "created_ms", "expires_ms")
    return {
        "approval": row["id"],
        "state": _state(row, now_ms),
        **{name: row[name] for name in kept},
        "roles": json.loads(row["roles"]),
        "given": given(row),
        "authors": sorted(authors_of(row)),
    }


def needs(one: dict[str, Any]) -> str:
    return ", ".join(f"{one['given'].get(role, 0)} of {count} {role}" for role, count in one["roles"].items())


async def request_of(installation: Installation, wanted: str) -> Request:
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
    edited = Edited.of(packet)
    if not fits(installation.ring.claim_key(TENANT), packet, row) or authors_of(row) != frozenset(
        edited.authors if edited is not None else ()
    ):
        raise CommandError(
            f"the record of {approval} does not fit its row, so it cannot be decided; run `comptroller audit verify`"
        )
    return Request(approval, row, record, packet, asked_in(packet), installation.ambient.clock.now_ms())


def summary_of(request: Request) -> dict[str, Any]:
    return summary({**request.row, "id": request.approval}, request.now_ms)


def as_json(request: Request) -> dict[str, Any]:
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
        **summary_of(request),
        **{name: packet.get(name) for name in proposed},
        "call_state": request.record.row["state"],
        "facts": section(packet, "shown").get("facts"),
        "decision": packet.get("decision"),
        "digest": request.digest,
        "edited": packet.get("edited"),
        "votes": json.loads(request.row["votes"]),
        "agent_claims": {"why": packet.get("why"), "citations": packet.get("citations")},
    }


def show_card(request: Request) -> None:
    packet, summary = request.packet, summary_of(request)
    card = Card(f"{request.approval}  {request.state}")
    card.line("tool", f"{packet.get('tool')} ({packet.get('effect')}), source {packet.get('source')}")
    # Never cut: a person agrees to all of it.
    card.line("arguments", canonical_bytes(packet.get("arguments")).decode())
    _show_edits(card, packet)
    record = section(packet, "record")
    card.line("record", f"{record.get('kind')} {record.get('key')}" if record else "none declared")
    for name, value in section(section(packet, "shown"), "facts").items():
        card.line("as it is", f"{name} = {compact(value)}")
    if undo := section(packet, "compensation"):
        told = f"{undo.get('tool')} {compact(undo.get('arguments'))} takes it back, on the same approval"
        card.line("if wrong", told)
    for reason in asked_because(packet):
        card.line("because", reason)
    card.line("needs", needs(summary))
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


def _show_edits(card: Card, packet: JsonObject) -> None:
    """What people changed of what the agent had asked for. Both texts were released before they came here."""
    edited = section(packet, "edited")
    if not edited:
        return
    card.line("asked for", canonical_bytes(edited.get("arguments")).decode())
    for line in changes(edited.get("arguments"), packet.get("arguments")):
        card.line("changed", line)
    for one in cast("list[dict[str, Any]]", edited.get("by") or []):
        reason = f": {json.dumps(one.get('reason'), ensure_ascii=False)}" if one.get("reason") else ""
        card.line("edited", f"by {one.get('editor')} at {at(int(one['at_ms']))}{reason}")


def _show_claims(packet: JsonObject) -> None:
    """What the agent says, apart and labelled: it was written to convince."""
    say("  The agent claims (its own words, checked by nobody):")
    say(f"    {json.dumps(section(packet, 'why').get('reason'), ensure_ascii=False)}")
    for cited in cast("list[JsonObject]", packet.get("citations") or []):
        listed = ", from a list" if cited.get("listed") else ""
        read = f", read {age(int(cast('int', cited['age_ms'])))} before" if "age_ms" in cited else ""
        kind = plain(str(cited.get("kind")))
        say(f"    citing {kind} {cited.get('key')} (ref {cited.get('ref')}{read}{listed})")


def lacks_role(request: Request, voter: Voter) -> str | None:
    """Why this person is none of those asked, if so; who has no credential is none anyway."""
    wanted: dict[str, int] = json.loads(request.row["roles"])
    if not voter.counts or set(wanted) & set(voter.roles):
        return None
    return f"{voter.name} may approve as {', '.join(voter.roles)}, and this asks for {', '.join(wanted)}"


# -- looking before agreeing ------------------------------------------------------------------------------------------


def looking(invocation: Invocation) -> bool:
    """Whether a person sits at a terminal and can be asked."""
    return not invocation.as_json and sys.stdin.isatty() and sys.stdout.isatty()


def looked_at(
    request: Request, invocation: Invocation, digest: str | None, question: str, *, yes: bool
) -> str | None:
    """None when whoever decides has said that they mean exactly this; else why nothing was done.

    A person at a terminal has the card in front of them and is asked. A script names the digest of what was looked
    at, or says `--yes` to whatever stands there. Raises `CommandError` when it says neither.
    """
    if digest is not None:
        wanted = digest.strip().lower().removeprefix("sha256:")
        if not _is_digest(wanted):
            raise click.BadParameter(
                f"{DIGEST_CHARS_MIN} to 64 hex digits of the card's digest", param_hint="--digest"
            )
        if request.digest.startswith(wanted):
            return None
        return "it asks for another action than the one with this digest; look at it again"
    if yes:
        return None
    if not looking(invocation):
        raise CommandError(
            "nobody has looked at it, so nothing was done; name what you agree to with --digest (it stands on the card "
            f"of `comptroller approvals show {request.approval}`), or say --yes to whatever it asks for now"
        )
    return None if _says_yes(question) else "you did not say yes"


def _says_yes(question: str) -> bool:
    """Ask a person. What is typed stays unseen: who expects to be asked for a credential pastes it here."""
    asked: str = click.prompt(
        f"{question} [y/N] (not shown as you type)",
        hide_input=True,
        default="",
        show_default=False,
        err=True,
    )
    word = asked.strip().lower()
    told = {"y": "yes", "yes": "yes", "n": "no", "no": "no", "": "no"}.get(word)
    click.echo(told or "That is neither yes nor no. A credential is asked for after this.", err=True)
    return told == "yes"
