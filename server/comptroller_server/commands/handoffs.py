"""`comptroller handoffs`: work that agents gave to people."""

from __future__ import annotations

from typing import Any, cast

import click

from comptroller_audit.calls import log_indexes
from comptroller_audit.database import Row
from comptroller_audit.packets import LogRecord
from comptroller_audit.query import entries
from comptroller_audit.redaction import Audience
from comptroller_audit.store import Reader
from comptroller_audit.unit import Stopped, Unit
from comptroller_audit.vocabulary import JsonObject, RecordType
from comptroller_budgets.handoffs import HANDOFFS, CloseHandoff, HandoffState
from comptroller_server.commands.invocation import findings, invocation_of, options
from comptroller_server.commands.opening import account, on_store
from comptroller_server.commands.record import section
from comptroller_server.commands.released import Reading
from comptroller_server.commands.showing import Card, at, compact, cut, emit, say, show_list
from comptroller_server.commands.task_reading import newest_rows, row_named
from comptroller_server.installation import TENANT, Installation
from comptroller_server.tasks.record import newest

__all__ = ["handoffs"]

_LISTING = "comptroller handoffs list"


@click.group()
def handoffs() -> None:
    """Work that agents gave to people."""


@handoffs.command("list")
@click.option("--all", "everything", is_flag=True, help="Closed ones too.")
@click.option(
    "-n", "count", type=click.IntRange(1, 10_000), default=50, show_default=True, help="The newest so many."
)
@options()
@click.pass_context
def list_(ctx: click.Context, everything: bool, count: int) -> None:
    """Hand-offs, newest task first. The id of one is that of its task."""
    invocation = invocation_of(ctx)

    async def read(installation: Installation) -> list[dict[str, Any]]:
        def look(reader: Reader) -> list[dict[str, Any]]:
            rows = newest_rows(reader, HANDOFFS, count)
            return [_summary(one, row, _packet(reader, installation, one, row)) for one, row in rows]

        return await installation.store.read(look)

    found = on_store(invocation, read)
    shown = [one for one in found if everything or one["state"] == HandoffState.OPEN]
    rows = [
        (o["handoff"], o["state"], o["cause"], at(o["updated_ms"]), o["actor"], cut(str(o["reason"]), 60))
        for o in shown
    ]
    headings = ("HANDOFF", "STATE", "CAUSE", "AT", "ACTOR", "REASON")
    show_list(invocation.as_json, {"handoffs": shown}, headings, rows, "Nothing was handed to a person.")


def _summary(handoff: str, row: Row, packet: JsonObject) -> dict[str, Any]:
    kept = ("state", "cause", "actor", "created_ms", "updated_ms")
    return {"handoff": handoff, **{name: row[name] for name in kept}, "reason": packet.get("reason")}


def _packet(reader: Reader, installation: Installation, handoff: str, row: Row) -> JsonObject:
    """The newest packet of a hand-off, released; empty when it was erased."""
    logged = entries(reader, installation.ring, TENANT, log_indexes(row))
    reading = Reading(installation)
    return reading.packet(newest(logged, RecordType.HANDED_OFF), reading.book(reader, handoff))


@handoffs.command()
@click.argument("handoff")
@options()
@click.pass_context
def show(ctx: click.Context, handoff: str) -> None:
    """The whole of HANDOFF: the context, the evidence, the exact step, what was tried, what is needed."""
    invocation = invocation_of(ctx)

    async def read(installation: Installation) -> tuple[dict[str, Any], JsonObject]:
        def look(reader: Reader) -> tuple[dict[str, Any], JsonObject]:
            one, row = row_named(reader, HANDOFFS, handoff, "hand-off", _LISTING)
            packet = _packet(reader, installation, one, row)
            return _summary(one, row, packet), packet

        return await installation.store.read(look)

    summary, packet = on_store(invocation, read)
    if invocation.as_json:
        emit({**summary, "packet": packet or None})
        return
    _tell(summary, packet)


def _tell(summary: dict[str, Any], packet: JsonObject) -> None:
    card = Card(f"hand-off {summary['handoff']}  {summary['state']}  {at(summary['updated_ms'])}")
    if not packet:
        card.line("erased", "what was handed over is no longer readable")
    card.line("why", f"{summary['cause']}: {cut(str(summary['reason']), 600)}")
    for label in ("tried", "need"):
        if packet.get(label):
            card.line(label, cut(compact(packet[label]), 600) + " (the agent's words)")
    context = section(packet, "context")
    card.line("agent", f"{context.get('agent')}: {context.get('objective')}, through {context.get('actor')}")
    if request := section(context, "request"):
        whose = "the orchestrator's words" if request.get("trusted") else "the agent's words"
        card.line("asked", cut(compact(request.get("text"))) + f" ({whose})")
    for name in ("plan", "unit"):
        if context.get(name):
            card.line(name, cut(compact(context[name])))
    _tell_step(card, section(packet, "step"))
    evidence = section(packet, "evidence")
    for call in cast("list[JsonObject]", evidence.get("calls") or []):
        verified = f", read back: {call['verification']}" if call.get("verification") else ""
        card.line(
            "calls", f"{call['call']}  {call['tool']}  {call['state']} {call['code']}{verified}".rstrip()
        )
    for ref in cast("list[JsonObject]", evidence.get("refs") or []):
        card.line("read", f"{ref.get('kind')} {ref.get('key')}, version {ref.get('version')}")
    card.line("close it", f"comptroller handoffs close {summary['handoff']} --note …")


def _tell_step(card: Card, step: JsonObject) -> None:
    if not step:
        return
    card.line("step", f"{step.get('tool')} {cut(compact(step.get('arguments')))}: {step.get('state')}")
    card.line("step", f"comptroller why {step.get('call')}")
    if problem := section(step, "problem"):
        card.line("step", cut(f"{problem.get('code')}: {problem.get('text')}", 600))


@handoffs.command()
@click.argument("handoff")
@click.option("--note", required=True, help="What you did about it; it stands in the record.")
@options()
@click.pass_context
def close(ctx: click.Context, handoff: str, note: str) -> None:
    """Say that HANDOFF is dealt with. It changes nothing that agents may do."""
    invocation = invocation_of(ctx)

    async def work(installation: Installation) -> tuple[str, bool]:
        one, _ = await installation.store.read(
            lambda reader: row_named(reader, HANDOFFS, handoff, "hand-off", _LISTING)
        )
        said = installation.release.text(note, Audience.RECORD)
        packet: JsonObject = {"v": 1, "task": one, "by": account(), "note": said}
        record = LogRecord(RecordType.HANDOFF_CLOSED, packet, task=one)
        outcome = await installation.store.commit(TENANT, Unit([CloseHandoff(one, record)]))
        return one, not isinstance(outcome, Stopped)

    one, closed = on_store(invocation, work)
    if invocation.as_json:
        emit({"ok": closed, "handoff": one})
    else:
        say(
            f"Hand-off {one} is closed."
            if closed
            else f"Nothing was changed: hand-off {one} was closed before."
        )
    if not closed:
        findings()
