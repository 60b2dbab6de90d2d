"""`comptroller hold`: what nobody may erase until a person lifts it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from comptroller_audit.legal_holds import Hold, HoldKind, Holds, LiftHold, PlaceHold
from comptroller_audit.redaction import Audience
from comptroller_audit.unit import Committed, Unit
from comptroller_server.commands.credentials import by_credential, entitled
from comptroller_server.commands.invocation import findings, invocation_of, options
from comptroller_server.commands.opening import call_named, on_store
from comptroller_server.commands.showing import at, emit, say, show_list
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT, Installation
from comptroller_server.upkeep.subjects import principals_of

__all__ = ["hold"]

_FOR_EVER_MS = 1 << 62
_REASON = click.option("--reason", required=True, help="Why; it stands in the record.")


@click.group()
def hold() -> None:
    """Legal holds: payloads that neither retention nor `erase` touches."""


@hold.command()
@click.option("--call", metavar="ID", help="Everything about one call.")
@click.option("--task", metavar="ID", help="Everything in one task.")
@click.option(
    "--principal", metavar="ID", help="Everything that one principal did, and what nobody can attribute."
)
@click.option("--from", "first", metavar="DATE", help="Everything recorded from this moment on (UTC).")
@click.option("--until", "end", metavar="DATE", help="Everything recorded before this moment (UTC).")
@_REASON
@by_credential
@options()
@click.pass_context
def place(
    ctx: click.Context,
    call: str | None,
    task: str | None,
    principal: str | None,
    first: str | None,
    end: str | None,
    reason: str,
    credential_file: Path | None,
) -> None:
    """Hold what is named, at once and until `hold lift`. Name one thing: a call, a task, a principal or a span.

    Example: comptroller hold place --principal ana --reason "matter 2026-17"
    """
    invocation = invocation_of(ctx)
    span = (first is not None or end is not None) or None
    if sum(each is not None for each in (call, task, principal, span)) != 1:
        raise CommandError("name one of --call, --task, --principal, or a span with --from, --until or both")

    async def work(installation: Installation) -> Hold | None:
        by = await entitled(installation, credential_file)
        if by is None:
            return None
        named, hold = await _meant(installation, call, task, principal, first, end)
        told = installation.release.text(reason, Audience.RECORD)
        outcome = await installation.store.commit(TENANT, Unit([PlaceHold(hold, named, by, told)]))
        if not isinstance(outcome, Committed):
            raise CommandError("the store did not take it; try again")
        return hold

    placed = on_store(invocation, work)
    if placed is None:
        _refused(invocation.as_json)
    elif invocation.as_json:
        emit({"ok": True, "hold": placed.id, "kind": placed.kind.value})
    else:
        say(
            f"{placed.id} is placed, and recorded: nothing of it is erased until: comptroller hold lift {placed.id}"
        )


@hold.command()
@click.argument("hold_id", metavar="HOLD")
@_REASON
@by_credential
@options()
@click.pass_context
def lift(ctx: click.Context, hold_id: str, reason: str, credential_file: Path | None) -> None:
    """Lift a hold. What is overdue goes with the next round of retention.

    Example: comptroller hold lift hold-0a1b2c3d --reason "settled"
    """
    invocation = invocation_of(ctx)

    async def work(installation: Installation) -> bool:
        by = await entitled(installation, credential_file)
        if by is None:
            return False
        told = installation.release.text(reason, Audience.RECORD)
        part = LiftHold(hold_id, installation.ambient.clock.now_ms(), by, told)
        if not isinstance(await installation.store.commit(TENANT, Unit([part])), Committed):
            raise CommandError(f"no hold {hold_id!r} stands; see `comptroller hold list`")
        return True

    if not on_store(invocation, work):
        _refused(invocation.as_json)
    elif invocation.as_json:
        emit({"ok": True, "lifted": hold_id})
    else:
        say(f"{hold_id} is lifted, and recorded.")


@hold.command("list")
@options()
@click.pass_context
def list_(ctx: click.Context) -> None:
    """Every hold that there ever was, and whether it stands. Principals are shown as their digest.

    Example: comptroller hold list --json
    """
    invocation = invocation_of(ctx)

    async def work(installation: Installation) -> list[Hold]:
        return await installation.store.read(lambda reader: Holds.all_of(reader, TENANT))

    found = on_store(invocation, work)
    document = {
        "holds": [
            {
                "hold": each.id,
                "kind": each.kind.value,
                "value": each.value,
                "first_ms": each.first_ms,
                "end_ms": each.end_ms,
                "placed_ms": each.placed_ms,
                "lifted_ms": each.lifted_ms or None,
            }
            for each in found
        ]
    }
    rows = [
        (
            each.id,
            each.kind.value,
            each.value or _span(each),
            at(each.placed_ms),
            at(each.lifted_ms) if each.lifted_ms else "stands",
        )
        for each in found
    ]
    show_list(
        invocation.as_json, document, ("hold", "kind", "of", "placed", "lifted"), rows, "There are no holds."
    )


async def _meant(
    installation: Installation,
    call: str | None,
    task: str | None,
    principal: str | None,
    first: str | None,
    end: str | None,
) -> tuple[str, Hold]:
    """What it is called, and the hold. Raises `CommandError`."""
    now = installation.ambient.clock.now_ms()
    hold_id = f"hold-{installation.ambient.ids.random_bytes(4).hex()}"
    kind, value, named = HoldKind.TIME, "", ""
    if call is not None:
        named, _ = await installation.store.read(lambda reader: call_named(reader, call))
        kind, value = HoldKind.CALL, named
    elif task is not None:
        kind, value, named = HoldKind.TASK, task, task
    elif principal is not None:
        named, value = await principals_of(installation, principal)
        kind = HoldKind.PRINCIPAL
    first_ms = _moment(first, "--from") if first is not None else 0
    end_ms = _moment(end, "--until") if end is not None else _FOR_EVER_MS
    if first_ms >= end_ms:
        raise CommandError("--from is not before --until, so that is no span of time")
    return named, Hold(hold_id, kind, value, first_ms, end_ms, now)


def _moment(text: str, option: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
        return max(0, int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000))
    except (ValueError, OverflowError):
        raise CommandError(
            f"{option} {text!r} is no date; write one like 2026-11-01 or 2026-11-01T12:00 (UTC)"
        ) from None


def _span(each: Hold) -> str:
    end = at(each.end_ms) if each.end_ms < _FOR_EVER_MS else "for ever"
    return f"{at(each.first_ms)} to {end}"


def _refused(as_json: bool) -> None:
    problem = "a legal hold needs an approver's credential (--credential-file)."
    if as_json:
        emit({"ok": False, "problem": problem})
    else:
        say(f"Nothing was changed: {problem}")
    findings()
