"""`comptroller calls`: what was called and what became of it; and a person's word on a call in doubt."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import click
from sqlalchemy import bindparam, select

from comptroller_audit.calls import CallRow, MoveCall
from comptroller_audit.database import Row, table_of
from comptroller_audit.packets import LogRecord
from comptroller_audit.redaction import Audience
from comptroller_audit.store import Reader
from comptroller_audit.unit import Stopped, Unit
from comptroller_audit.vocabulary import CallState, Effect, JsonObject, RecordType
from comptroller_server.call.endings import effect_ended
from comptroller_server.commands.credentials import by_credential, identify
from comptroller_server.commands.invocation import findings, invocation_of, options
from comptroller_server.commands.opening import on_store
from comptroller_server.commands.record import CallRecord, call_summary, read_call
from comptroller_server.commands.released import shown_call
from comptroller_server.commands.showing import Card, at, compact, emit, say, show_list
from comptroller_server.commands.tasks import task_words
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT, Installation
from comptroller_server.undo.reversal_parts import reversal_found_out

__all__ = ["calls", "newest_calls"]

_TABLE = table_of(CallRow)


@click.group()
def calls() -> None:
    """The calls on record."""


@calls.command("list")
@click.option(
    "--state", type=click.Choice([state.value for state in CallState]), help="Only calls in this state."
)
@click.option("--task", help="Only calls of one task, by its id or the beginning of it.")
@click.option(
    "-n", "count", type=click.IntRange(1, 10_000), default=20, show_default=True, help="The newest so many."
)
@options()
@click.pass_context
def list_(ctx: click.Context, state: str | None, task: str | None, count: int) -> None:
    """The newest calls, newest first."""
    invocation = invocation_of(ctx)

    async def read(installation: Installation) -> list[tuple[str, Row]]:
        return await installation.store.read(lambda reader: newest_calls(reader, state, task, count))

    found = on_store(invocation, read)
    document = {"calls": [call_summary(call, row) for call, row in found]}
    rows = [
        (call, at(r["created_ms"]), r["state"], r["tool"], r["code"], r["actor"], r["task"])
        for call, r in found
    ]
    headings = ("CALL", "AT", "STATE", "TOOL", "CODE", "ACTOR", "TASK")
    show_list(invocation.as_json, document, headings, rows, "There are no such calls.")


def newest_calls(reader: Reader, state: str | None, task: str | None, count: int) -> list[tuple[str, Row]]:
    """Ids and rows, newest first; `task` is the beginning of a task's id."""
    columns = [column for column in _TABLE.columns if column.name not in ("tenant", "id")]
    statement = select(_TABLE.c.id, *columns).where(_TABLE.c.tenant == bindparam("tenant"))
    given: dict[str, Any] = {"tenant": TENANT}
    if state is not None:
        statement = statement.where(_TABLE.c.state == bindparam("state"))
        given["state"] = state
    if task is not None:
        statement = statement.where(_TABLE.c.task >= bindparam("first"), _TABLE.c.task < bindparam("last"))
        given |= {"first": task, "last": task + "~"}
    rows = reader.query(statement.order_by(_TABLE.c.id.desc()).limit(count), **given)
    names = [column.name for column in columns]
    return [(str(row[0]), dict(zip(names, row[1:], strict=True))) for row in rows]


@calls.command()
@click.argument("call")
@options()
@click.pass_context
def show(ctx: click.Context, call: str) -> None:
    """Every record of CALL, as it was written. `comptroller why CALL` tells it as a story."""
    invocation = invocation_of(ctx)

    async def read(installation: Installation) -> CallRecord:
        return await installation.store.read(lambda reader: shown_call(reader, installation, call))

    found = on_store(invocation, read)
    if invocation.as_json:
        emit(found.as_json())
        return
    row = found.row
    card = Card(f"call {found.call}  {row['state']}")
    card.line("tool", f"{row['tool']} ({row['effect'] or 'no effect known'})")
    card.line("task", f"{row['task']} step {row['step']}, actor {row['actor']}: {task_words(found.task)}")
    for entry in found.logged:
        say()
        say(f"{entry.index} {entry.type.value} {at(entry.at_ms)}  leaf {entry.leaf}")
        if entry.packet is None:
            say("    (the payload was erased)")
        for name, value in (entry.packet or {}).items():
            say(f"    {name}: {compact(value)}")


@calls.command()
@click.argument("call")
@click.option(
    "--as", "verdict", required=True, type=click.Choice(["done", "not_done"]), help="What really happened."
)
@click.option("--reason", required=True, help="How you know; it stands in the record.")
@by_credential
@options()
@click.pass_context
def resolve(ctx: click.Context, call: str, verdict: str, reason: str, credential_file: Path | None) -> None:
    """Say what became of CALL, which is in doubt. Look at the system it acted on first.

    `not_done` frees its claim and its budget, so the agent may try again; `done` keeps both. It needs an approver's
    credential, from a file or asked on the terminal.
    """
    invocation = invocation_of(ctx)
    to = CallState(verdict)

    async def settle(installation: Installation) -> tuple[str, str | None]:
        record = await installation.store.read(lambda reader: read_call(reader, installation.ring, call))
        if record.row["state"] != CallState.IN_DOUBT:
            raise CommandError(
                f"call {record.call} is {record.row['state']}; only one in doubt can be resolved"
            )
        voter = await identify(installation, credential_file)
        if not voter.counts:
            return (
                record.call,
                "Nothing was changed: this needs an approver's credential (--credential-file).",
            )
        packet: JsonObject = {
            "v": 1,
            "call": record.call,
            "state": to.value,
            "reason": installation.release.text(reason, Audience.RECORD),
            "by": voter.name,
            "assurance": voter.assurance.value,
            "output": None,
            "problem": None,
        }
        moved = LogRecord(RecordType.RESOLVED, packet, call=record.call, task=record.row["task"])
        unit = Unit(
            [
                MoveCall(record.call, CallState.IN_DOUBT, to, record.row["epoch"], moved, new_epoch=True),
                *effect_ended(
                    record.call,
                    None,
                    to,
                    None,
                    _counted(record),
                    installation.config.budgets,
                    changed_by=record.row["tool"] if record.row["effect"] != Effect.READ else "",
                ),
                *reversal_found_out(record.logged, record.call, to),
            ]
        )
        outcome = await installation.store.commit(TENANT, unit)
        if isinstance(outcome, Stopped):
            return record.call, "Nothing was changed: the call has just moved. Look at it again."
        return record.call, None

    resolved, problem = on_store(invocation, settle)
    if invocation.as_json:
        emit(
            {
                "ok": problem is None,
                "call": resolved,
                "state": to.value if not problem else None,
                "problem": problem,
            }
        )
    else:
        say(problem or f"Call {resolved} is {to.value}, on your word.")
    if problem is not None:
        findings()


def _counted(record: CallRecord) -> list[str]:
    """The history rows the call counts in, as its action packet names them, without the guard of its record."""
    action = record.newest(RecordType.ACTION)
    packet = action.packet if action is not None and action.packet is not None else {}
    rows = cast("list[str]", packet.get("counted") or [])
    return [row_id for row_id in rows if not row_id.startswith("record:")]
