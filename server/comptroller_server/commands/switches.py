"""`comptroller halt` and `resume`: kill switches, and the wait until every server has said that it obeys.

Anybody may halt. Lifting a halt takes an approver's credential as soon as anybody is enrolled as an approver: the
agent that was halted may have a shell.

When `halt` ends with 0, no call that was not dispatched will be: the switch is committed under the lock that every
commit takes, and each live server has acknowledged its sequence after looking at it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from sqlalchemy import bindparam, select

from comptroller_audit.database import table_of
from comptroller_audit.owners import LEASE_S, OwnerLocks, OwnerRow, owner_locks
from comptroller_audit.redaction import Audience
from comptroller_audit.store import Reader
from comptroller_audit.unit import Unit
from comptroller_budgets.tasks import TaskRow
from comptroller_policy.switches import ClearSwitch, SetSwitch, SwitchScope, switch_id
from comptroller_server.commands.credentials import by_credential, entitled
from comptroller_server.commands.invocation import Invocation, findings, invocation_of, options
from comptroller_server.commands.opening import account, on_store
from comptroller_server.commands.showing import emit, say
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT, Installation, principal_key

__all__ = ["halt", "resume"]

POLL_S = 0.02
_NO_CREDENTIAL = "lifting a halt needs an approver's credential (--credential-file)."
_OWNERS = table_of(OwnerRow)
_ALL_OWNERS = select(
    _OWNERS.c.id, _OWNERS.c.switch_seq, _OWNERS.c.waiting, _OWNERS.c.dispatched, _OWNERS.c.done
).where(_OWNERS.c.tenant == bindparam("tenant"))
_TASKS = table_of(TaskRow)
_TASKS_FROM = (
    select(_TASKS.c.id)
    .where(
        _TASKS.c.tenant == bindparam("tenant"),
        _TASKS.c.id >= bindparam("first"),
        _TASKS.c.id < bindparam("last"),
    )
    .order_by(_TASKS.c.id)
    .limit(2)
)


@dataclass(frozen=True, slots=True)
class Target:
    """What a switch covers, and what a person should know about it."""

    switch: str
    words: str
    warning: str = ""


@dataclass(frozen=True, slots=True)
class OwnerCounts:
    """A server as it acknowledged the switch: calls committed and not dispatched, dispatched, done since its start."""

    owner: str
    acknowledged: bool
    waiting: int
    dispatched: int
    done: int


@dataclass(frozen=True, slots=True)
class Turned:
    """A switch as it was changed: its sequence, and what the live servers said of it."""

    target: Target
    seq: int
    owners: list[OwnerCounts]


def _scoped(command: Any) -> Any:
    for option in (
        click.option("--tool", help="One tool."),
        click.option("--task", help="One task, by its id or the beginning of it."),
        click.option("--principal", metavar="SUBJECT", help="Everything done for one principal."),
        click.option("--reason", required=True, help="Why; it stands in the record."),
    ):
        command = option(command)
    return command


@click.command()
@_scoped
@options()
@click.pass_context
def halt(ctx: click.Context, tool: str | None, task: str | None, principal: str | None, reason: str) -> None:
    """Stop one tool, task or principal; without any of them, everything.

    When it ends with 0, no call that was not dispatched will be. Calls already dispatched run to their end.
    """
    invocation = invocation_of(ctx)
    _one_of(tool, task, principal)

    async def work(installation: Installation) -> Turned:
        target = await _target(installation, tool, task, principal)
        return await _turned(
            installation,
            target,
            SetSwitch(target.switch, installation.release.text(reason, Audience.RECORD), account()),
        )

    _tell(invocation, on_store(invocation, work), True, reason)


@click.command()
@_scoped
@by_credential
@options()
@click.pass_context
def resume(
    ctx: click.Context,
    tool: str | None,
    task: str | None,
    principal: str | None,
    reason: str,
    credential_file: Path | None,
) -> None:
    """Lift what `halt` set with the same options.

    Where approvers are enrolled it needs the credential of one, from a file or asked on the terminal.
    """
    invocation = invocation_of(ctx)
    _one_of(tool, task, principal)

    async def work(installation: Installation) -> Turned | None:
        target = await _target(installation, tool, task, principal)
        by = await entitled(installation, credential_file)
        if by is None:
            return None
        return await _turned(
            installation,
            target,
            ClearSwitch(target.switch, installation.release.text(reason, Audience.RECORD), by),
        )

    turned = on_store(invocation, work)
    if turned is not None:
        _tell(invocation, turned, False, reason)
        return
    if invocation.as_json:
        emit({"ok": False, "problem": _NO_CREDENTIAL})
    else:
        say(f"Nothing was changed: {_NO_CREDENTIAL}")
    findings()


def _one_of(*given: str | None) -> None:
    if sum(one is not None for one in given) > 1:
        raise click.UsageError("give one of --tool, --task and --principal; each is a switch of its own")


async def _turned(installation: Installation, target: Target, part: SetSwitch | ClearSwitch) -> Turned:
    await installation.store.commit(TENANT, Unit([part]))
    seq, owners = await _acknowledged(installation)
    return Turned(target, seq, owners)


def _tell(invocation: Invocation, turned: Turned, on: bool, reason: str) -> None:
    target, seq, owners = turned.target, turned.seq, turned.owners
    missing = [one for one in owners if not one.acknowledged]
    if invocation.as_json:
        document = {"switch": target.switch, "active": on, "reason": reason, "switch_seq": seq}
        emit(
            {
                "ok": not missing,
                **document,
                "warning": target.warning,
                "owners": [asdict(one) for one in owners],
            }
        )
    else:
        say(f"{'Halted' if on else 'Resumed'}: {target.words}. Recorded as switch change {seq}.")
        if target.warning:
            say(f"Warning: {target.warning}")
        _tell_owners(owners, on)
    if missing:
        findings()


def _tell_owners(owners: list[OwnerCounts], on: bool) -> None:
    for one in owners:
        if one.acknowledged:
            say(
                f"  server {one.owner}: obeys; {one.waiting} committed and not dispatched, {one.dispatched} dispatched, "
                f"{one.done} done"
            )
        else:
            say(f"  server {one.owner}: has NOT acknowledged; it may still act on what it knew before")
    if not owners:
        say("  No server is running on this store.")
    elif on and all(one.acknowledged for one in owners):
        say("No call that was not dispatched will be.")


async def _target(
    installation: Installation, tool: str | None, task: str | None, principal: str | None
) -> Target:
    if tool is not None:
        if installation.config.tool(tool) is None:
            known = ", ".join(sorted(one.name for one in installation.config.tools)) or "none"
            raise CommandError(
                f"no tool is named {tool!r}, so nothing was changed; the configured ones are {known}"
            )
        return Target(switch_id(SwitchScope.TOOL, tool), f"tool {tool}")
    if task is not None:
        found, warning = await installation.store.read(lambda reader: _task(reader, task))
        return Target(switch_id(SwitchScope.TASK, found), f"task {found}", warning)
    if principal is not None:
        own = installation.identity.principal
        full = principal if "|" in principal else f"{own.issuer}|{principal}"
        warning = "" if full == own.id else f"this store has served {own.id} only"
        key = principal_key(installation.ring, TENANT, full)
        return Target(switch_id(SwitchScope.PRINCIPAL, key), f"principal {full}", warning)
    return Target(switch_id(SwitchScope.GLOBAL), "everything")


def _task(reader: Reader, wanted: str) -> tuple[str, str]:
    """The task meant, and a warning when the store does not know it: halting it anyway can only be safe."""
    found = [str(row[0]) for row in reader.query(_TASKS_FROM, tenant=TENANT, first=wanted, last=wanted + "~")]
    if len(found) > 1 and wanted not in found:
        raise CommandError(
            f"several tasks begin with {wanted!r}, so nothing was changed; give more of the id"
        )
    if found:
        return (wanted if wanted in found else found[0]), ""
    return wanted, "no task with this id has committed anything on this store"


async def _acknowledged(installation: Installation) -> tuple[int, list[OwnerCounts]]:
    """Wait until every live server has acknowledged the switches as they are now, `limits.halt_wait_s` at most."""
    store = installation.store
    head = await store.read(lambda reader: reader.head(TENANT))
    seq = head.switch_seq if head else 0
    locks = owner_locks(store.database, installation.ambient.clock)
    wait_s = installation.config.limits.halt_wait_s
    if not store.database.is_sqlite:
        wait_s = max(
            wait_s, LEASE_S + 0.5
        )  # a server that was cut off counts as alive until its lease is over
    deadline = time.monotonic() + wait_s
    while True:
        owners = await store.read(lambda reader: _owners(reader, seq))
        late = [one for one in owners if not one.acknowledged]
        gone = await asyncio.to_thread(_gone, locks, late)
        if len(gone) == len(late) or time.monotonic() > deadline:
            break
        await asyncio.sleep(POLL_S if store.database.is_sqlite else 0.2)
    dead = gone | await asyncio.to_thread(_gone, locks, [one for one in owners if one.acknowledged])
    return seq, [one for one in owners if one.owner not in dead]


def _owners(reader: Reader, seq: int) -> list[OwnerCounts]:
    rows = reader.query(_ALL_OWNERS, tenant=TENANT)
    return [
        OwnerCounts(str(owner), int(seen) >= seq, int(waiting), int(dispatched), int(done))
        for owner, seen, waiting, dispatched, done in rows
    ]


def _gone(locks: OwnerLocks, owners: list[OwnerCounts]) -> set[str]:
    return {one.owner for one in owners if locks.is_free(one.owner)}
