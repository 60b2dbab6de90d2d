"""`comptroller erase`: what the record holds about one person."""

from __future__ import annotations

from pathlib import Path

import click

from comptroller_audit.redaction import Audience
from comptroller_server.commands.credentials import by_credential, entitled
from comptroller_server.commands.invocation import findings, invocation_of, options
from comptroller_server.commands.opening import on_store
from comptroller_server.commands.showing import emit, say
from comptroller_server.commands.spans import progress_shown
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT, Installation
from comptroller_server.upkeep.erasure import SUBJECT_CHARS_MIN, Erasure, Found
from comptroller_server.upkeep.subjects import digests_of

__all__ = ["erase"]

_NOT_REACHED = "Not reached: backups, exports, what streams have delivered, your sources, and what a running server still has in memory."


@click.command()
@click.option(
    "--subject", required=True, help="An id, a name or an address as records have it, or a principal."
)
@click.option("--reason", required=True, help="Why; it stands in the record. Do not name the person in it.")
@click.option("--yes", is_flag=True, help="Erase. Without it, only say what would go.")
@by_credential
@options()
@click.pass_context
def erase(ctx: click.Context, subject: str, reason: str, yes: bool, credential_file: Path | None) -> None:
    """Erase the payloads of calls that SUBJECT made or that name them. The proofs stay, and the record says how many went.

    A legal hold wins. Example: comptroller erase --subject C-1042 --reason "request 88" --yes
    """
    invocation = invocation_of(ctx)
    if len(subject.strip()) < SUBJECT_CHARS_MIN:
        raise CommandError(
            f"--subject needs {SUBJECT_CHARS_MIN} characters at least: shorter ones stand in records of everybody"
        )

    async def work(installation: Installation) -> Found | None:
        i = installation
        subjects = digests_of(i, subject).values()
        erasure = Erasure(i.store, i.ring, i.ambient.clock, TENANT, subject, subjects)
        with progress_shown(quiet=invocation.as_json) as progress:
            if not yes:
                return await erasure.find(progress)
            by = await entitled(i, credential_file)
            told = i.release.text(reason, Audience.RECORD)
            return None if by is None else await erasure.erase(by, told, progress)

    found = on_store(invocation, work)
    if found is None:
        _refused(invocation.as_json)
        return
    gone = len(found.indexes)
    if invocation.as_json:
        emit(
            {
                "erased": gone if yes else 0,
                "payloads": gone,
                "calls": found.calls,
                "held": dict(found.held),
                "waiting": found.waiting,
                "installation": found.installation,
            }
        )
        return
    say(
        f"{gone} payloads of {found.calls} calls {'were erased' if yes else 'would be erased; nothing was (--yes)'}."
    )
    for hold, count in found.held.items():
        say(f"{count} are kept by the legal hold {hold}; see `comptroller hold list`.")
    if found.waiting:
        say(f"{found.waiting} belong to calls that are not over; erase again when they are.")
    if found.installation:
        say(
            f"{found.installation} records of the installation itself (rules, approvers, switches) name it, and stay."
        )
    say(_NOT_REACHED)


def _refused(as_json: bool) -> None:
    problem = "erasing needs an approver's credential (--credential-file)."
    if as_json:
        emit({"ok": False, "problem": problem})
    else:
        say(f"Nothing was erased: {problem}")
    findings()
