"""`comptroller tasks`: the units of work, how they began and how they ended."""

from __future__ import annotations

import json
from typing import Any, cast

import click

from comptroller_audit.database import Row
from comptroller_audit.vocabulary import JsonObject
from comptroller_budgets.costs import task_cost
from comptroller_budgets.tasks import TASKS, TaskState, is_over
from comptroller_server.commands.beginning import begin
from comptroller_server.commands.invocation import invocation_of, options
from comptroller_server.commands.opening import on_store
from comptroller_server.commands.rollback import rollback
from comptroller_server.commands.showing import Card, at, compact, cut, emit, show_list
from comptroller_server.commands.task_reading import newest_rows, row_named, shown_task
from comptroller_server.installation import TENANT, Installation
from comptroller_server.tasks.record import TaskRecord

__all__ = ["task_words", "tasks"]

_LISTING = "comptroller tasks list"


@click.group()
def tasks() -> None:
    """The tasks on record."""


@tasks.command("list")
@click.option("--open", "only_open", is_flag=True, help="Only tasks that have not ended.")
@click.option(
    "-n", "count", type=click.IntRange(1, 10_000), default=20, show_default=True, help="The newest so many."
)
@options()
@click.pass_context
def list_(ctx: click.Context, only_open: bool, count: int) -> None:
    """The newest tasks, newest first."""
    invocation = invocation_of(ctx)

    async def read(installation: Installation) -> list[dict[str, Any]]:
        found = await installation.store.read(lambda reader: newest_rows(reader, TASKS, count))
        return [_summary(installation, task, row) for task, row in found]

    found = [one for one in on_store(invocation, read) if not only_open or one["state"] == "open"]
    rows = [
        (o["task"], at(o["started_ms"]), o["state"], o["outcome"], str(o["steps"]), o["actor"]) for o in found
    ]
    headings = ("TASK", "BEGAN", "STATE", "OUTCOME", "STEPS", "ACTOR")
    show_list(invocation.as_json, {"tasks": found}, headings, rows, "There are no such tasks.")


def _summary(installation: Installation, task: str, row: Row) -> dict[str, Any]:
    """A task's row for a program. An implied task that was left alone is `idle`: nothing ends it but time."""
    idle_s = installation.config.budgets.task_idle_s
    idle = row["state"] == TaskState.OPEN and is_over(row, installation.ambient.clock.now_ms(), idle_s)
    kept = ("outcome", "code", "steps", "actor", "active_ms", "awaiting", "started_ms", "ended_ms")
    state = "idle" if idle else row["state"]
    return {"task": task, "state": state, "begun": bool(row["begun"]), **{name: row[name] for name in kept}}


@tasks.command()
@click.argument("task")
@options()
@click.pass_context
def show(ctx: click.Context, task: str) -> None:
    """Everything about TASK: what was asked, its calls, how it ended. An id may be shortened to its beginning."""
    invocation = invocation_of(ctx)

    async def read(installation: Installation) -> tuple[dict[str, Any], TaskRecord]:
        named = await installation.store.read(lambda reader: row_named(reader, TASKS, task, "task", _LISTING))
        record = await installation.store.read(lambda reader: shown_task(reader, installation, named[0]))
        cost = await installation.store.read(lambda reader: task_cost(reader, TENANT, named[0]))
        return {**_summary(installation, *named), "cost": cost.as_json()}, record

    summary, record = on_store(invocation, read)
    calls = [
        {"call": call, "tool": row["tool"], "state": row["state"], "code": row["code"]}
        for call, row, _ in record.calls
    ]
    if invocation.as_json:
        emit({**summary, "began": record.began or None, "ended": record.ended or None, "calls": calls})
        return
    _tell(summary, record, calls)


def _tell(summary: dict[str, Any], record: TaskRecord, calls: list[dict[str, Any]]) -> None:
    card = Card(f"task {record.task}  {summary['outcome'] or summary['state']}")
    how = "begun by the agent" if summary["begun"] else "implied"
    card.line("began", f"{at(summary['started_ms'])}, {how}, actor {summary['actor']}")
    if request := record.request:
        whose = "the orchestrator's words" if request.get("trusted") else "the agent's words"
        whose = f"{request['by']}'s words" if request.get("by") else whose
        card.line("asked", cut(json.dumps(request.get("text"), ensure_ascii=False)) + f" ({whose})")
    if record.began.get("plan"):
        card.line("plan", cut(compact(record.began["plan"])))
    if record.unit:
        card.line("about", record.unit)
    card.line("used", f"{summary['steps']} steps, {summary['active_ms'] / 1000:.1f} s active")
    cost = summary["cost"]
    card.line(
        "cost", f"{cost['cost_usd']} USD, {cost['tokens']} tokens ({cost['estimated_tokens']} estimated)"
    )
    for one in reversed(calls):
        card.line("calls", f"{one['call']}  {one['tool'] or '?'}  {one['state']}  {one['code']}".rstrip())
    for line in _ending(record.ended):
        card.line("ended", cut(line))


def _ending(packet: JsonObject) -> list[str]:
    if not packet:
        return []
    claimed = f", claimed {packet['claim']}" if packet.get("claim") else ""
    lines = [f"{packet.get('outcome')} by {packet.get('by')}{claimed}"]
    if packet.get("summary"):
        lines.append(f"{compact(packet['summary'])} (the agent's words)")
    for proof in cast("list[JsonObject]", packet.get("proof") or []):
        lines.append(f"{proof.get('fact')} with {proof.get('tool')}: {proof.get('result')}")
        lines += [
            f"  {check.get('path')} should be {compact(check.get('expected'))} and is {compact(check.get('found'))}"
            for check in cast("list[JsonObject]", proof.get("checks") or [])
        ]
    return lines


def task_words(row: Row | None) -> str:
    """How a call's task stands, in a few words."""
    if row is None:
        return "of which nothing is on record"
    if row["state"] == TaskState.FINISHED:
        return f"{row['outcome']}{' (' + row['code'] + ')' if row['code'] else ''}"
    return "begun, open" if row["begun"] else "implied, not ended by anybody"


tasks.add_command(begin)
tasks.add_command(rollback)
