"""`comptroller audit`: verify the log with code that shares nothing with its writer, follow it, publish its key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import click

from comptroller_audit.checkpoint import vkey_of
from comptroller_audit.findings import Finding, FindingKind
from comptroller_audit.query import Logged, entries, entry_from
from comptroller_audit.store import Reader
from comptroller_audit.verify import Report, verify
from comptroller_server.commands.export import check, export
from comptroller_server.commands.invocation import findings, invocation_of, options
from comptroller_server.commands.opening import installation_of, on_store
from comptroller_server.commands.released import Reading
from comptroller_server.commands.showing import at, emit, say
from comptroller_server.commands.spans import checked, progress_shown
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT, Installation

__all__ = ["audit"]

FOLLOW_S = 0.25
_PROVES_NOTHING = "the file that was named holds none of this log, so it proves nothing; name the right one"
PAGE_ENTRIES = 100


@click.group()
def audit() -> None:
    """The tamper-evident log."""


audit.add_command(export)
audit.add_command(check)


@audit.command("verify")
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Checkpoint file. [default: those of the config]"
)
@click.option(
    "--receipts", type=click.Path(path_type=Path), help="JSON lines {log, index, leaf} from answers."
)
@click.option("--vkey", help="Verifier key of the checkpoints. [default: that of the key ring]")
@options()
@click.pass_context
def verify_(ctx: click.Context, checkpoint: Path | None, receipts: Path | None, vkey: str | None) -> None:
    """Rebuild the whole log and compare. Exit code 1 when anything is wrong.

    A checkpoint file and a verifier key that were kept elsewhere prove more than those of this machine.
    """
    invocation = invocation_of(ctx)
    config = installation_of(invocation).config
    files: list[Path | None] = (
        [checkpoint] if checkpoint else [*filter(Path.exists, config.store.checkpoint_files)]
    )
    ring = config.store.keys_file if config.store.keys_file.exists() else None
    reports: list[tuple[Path | None, Report]] = []
    for file in files or [None]:
        with progress_shown(quiet=invocation.as_json, of_what="entries checked") as progress:
            found = verify(
                config.store.url.get_secret_value(),
                checkpoints=file,
                vkey=vkey,
                receipts=receipts,
                ring=ring,
                progress=checked(progress),
            )
        _demand(found, checkpoints=checkpoint is not None, receipts=receipts is not None)
        reports.append((file, found))
    ok = all(report.ok for _, report in reports)
    if invocation.as_json:
        told = [{"checkpoints": str(file) if file else None, **report.as_json()} for file, report in reports]
        emit(told[0] | {"ok": ok, "reports": told} if len(told) > 1 else told[0])
    else:
        for file, report in reports:
            say(
                f"Checkpoints: {file or 'none yet'}{'' if vkey or not file else ', by the key of this key ring'}"
            )
            for line in report.lines():
                say(line)
    if not ok:
        findings()


def _demand(report: Report, *, checkpoints: bool, receipts: bool) -> None:
    """Who names a file wants to be told what it proves: an empty one, or another log's, is no proof that all is well."""
    if checkpoints and not any(one.checkpoints for one in report.tenants):
        report.findings.append(Finding(FindingKind.CHECKPOINT, _PROVES_NOTHING))
    if receipts and not any(one.receipts for one in report.tenants):
        report.findings.append(Finding(FindingKind.RECEIPT, _PROVES_NOTHING))


@audit.command()
@click.option(
    "-n", "count", type=click.IntRange(0), default=20, show_default=True, help="How many to begin with."
)
@click.option("-f", "--follow", is_flag=True, help="Go on until interrupted. With --json, one entry a line.")
@options()
@click.pass_context
def tail(ctx: click.Context, count: int, follow: bool) -> None:
    """The newest entries of the log, oldest first."""
    invocation = invocation_of(ctx)

    async def show(installation: Installation) -> None:
        tail_ = _Tail(installation, count)
        if invocation.as_json and not follow:
            shown = [_as_json(entry) async for entry in tail_.entries(follow=False)]
            emit({"entries": shown})
            return
        async for entry in tail_.entries(follow):
            if invocation.as_json:
                click.echo(json.dumps(_as_json(entry)))
            else:
                say(_as_line(entry))

    try:
        on_store(invocation, show)
    except KeyboardInterrupt:
        if not follow:  # else that is how it ends
            raise


class _Tail:
    """The newest `count` entries, then those that are added."""

    def __init__(self, installation: Installation, count: int) -> None:
        self._installation = installation
        self._count = count
        self._reading = Reading(installation)
        self._next: int | None = None

    async def entries(self, follow: bool) -> AsyncGenerator[Logged]:
        while True:
            page = await self._installation.store.read(self._page)
            for entry in page:
                yield entry
            if not page and not follow:
                return
            if not page:
                await asyncio.sleep(FOLLOW_S)

    def _page(self, reader: Reader) -> list[Logged]:
        head = reader.head(TENANT)
        size = head.size if head else 0
        first = max(0, size - self._count) if self._next is None else self._next
        there = entry_from(reader, TENANT, first) if first < size else None
        first = there[0] if there is not None else size  # what was pruned is passed over
        self._next = min(size, first + PAGE_ENTRIES)
        found = entries(reader, self._installation.ring, TENANT, range(first, self._next))
        return [self._reading.entry(reader, entry) for entry in found]


def _as_json(entry: Logged) -> dict[str, object]:
    return {
        "index": entry.index,
        "type": entry.type.value,
        "at_ms": entry.at_ms,
        "leaf": entry.leaf,
        "envelope": entry.envelope,
        "packet": entry.packet,
    }


def _as_line(entry: Logged) -> str:
    packet = entry.packet or {}
    words = [
        str(packet[name]) for name in ("tool", "state", "switch", "approver", "approval") if packet.get(name)
    ]
    refusal = packet.get("refusal")
    if isinstance(refusal, dict):
        words.append(str(refusal.get("code")))
    if entry.packet is None:
        words.append("(payload erased)")
    call = entry.envelope.get("call")
    return " ".join(
        [
            f"{entry.index:>6}",
            at(entry.at_ms),
            entry.type.value.ljust(16),
            *words,
            *([f"call {call}"] if call else []),
        ]
    )


@audit.command()
@options()
@click.pass_context
def vkey(ctx: click.Context) -> None:
    """The key that verifies this store's checkpoints. Keep it where the server cannot change it."""
    invocation = invocation_of(ctx)
    installation = installation_of(invocation)
    file = installation.config.store.keys_file
    if not file.exists():
        raise CommandError(f"there is no key ring at {file} yet; `comptroller serve` makes it")
    key = vkey_of(installation.ring.signer)
    if invocation.as_json:
        emit({"vkey": key, "log": f"{installation.log_name}/{TENANT}"})
    else:
        say(key)
