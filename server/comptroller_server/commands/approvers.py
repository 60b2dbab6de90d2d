"""`comptroller approver`: enrol the people who may approve, each with a credential that is shown once."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from pathlib import Path

import click

from comptroller_audit.store import Reader
from comptroller_audit.unit import Stopped, Unit
from comptroller_policy.approvers import Approver, EnrolApprover, approver_names, hashed, new_credential
from comptroller_policy.rules import REQUESTER
from comptroller_server.commands.credentials import forget_credential, identify, keep_credential
from comptroller_server.commands.invocation import findings, invocation_of, options
from comptroller_server.commands.opening import on_store
from comptroller_server.commands.showing import emit, say, show_list
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT, Installation

__all__ = ["approver"]

SALT_BYTES = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


@click.group()
def approver() -> None:
    """The people who may approve."""


@approver.command()
@click.argument("name")
@click.option(
    "--role", "roles", multiple=True, required=True, help="What they may approve as; may be repeated."
)
@click.option(
    "--credential-out",
    type=click.Path(path_type=Path),
    help="Write the credential to this new file (mode 0600).",
)
@click.option(
    "--credential-file",
    type=click.Path(path_type=Path),
    help="Credential of an enrolled approver who vouches.",
)
@options()
@click.pass_context
def add(
    ctx: click.Context,
    name: str,
    roles: tuple[str, ...],
    credential_out: Path | None,
    credential_file: Path | None,
) -> None:
    """Enrol NAME. The credential is shown once, or written to a file.

    The first approver is enrolled before the store's first `serve`; later ones need an enrolled approver's credential.
    """
    invocation = invocation_of(ctx)
    if not _NAME.fullmatch(name):
        raise CommandError(f"{name!r} cannot name an approver; use letters, digits, `_` and `-`, 64 at most")
    if wrong := [role for role in roles if not _ROLE.fullmatch(role)]:
        raise CommandError(
            f"{wrong[0]!r} cannot be a role; use letters, digits and `_`, beginning with a letter"
        )
    if REQUESTER in roles:
        raise CommandError(
            f"`{REQUESTER}` is the person a call is made for, who is asked at the client; nobody is enrolled as that"
        )
    credential = new_credential(name)
    salt = secrets.token_bytes(SALT_BYTES)

    async def enrol(installation: Installation) -> str | None:
        size, known = await installation.store.read(_enrolled)
        added_by = ""
        if known:
            voter = await identify(installation, credential_file)
            if not voter.counts:
                return "An enrolled approver's credential is needed to enrol another one (--credential-file)."
            added_by = voter.name
        part = EnrolApprover(
            name,
            salt.hex(),
            hashed(credential, salt),
            tuple(dict.fromkeys(roles)),
            added_by,
            None if known else size,
        )
        if credential_out is not None:  # before the commit: nobody is enrolled with a credential nobody has
            keep_credential(credential_out, credential)
        outcome = await installation.store.commit(TENANT, Unit([part]))
        if isinstance(outcome, Stopped):
            if credential_out is not None:
                forget_credential(credential_out)
            return str(getattr(outcome.stop, "text", outcome.stop))
        return None

    problem = on_store(invocation, enrol, may_create=True)
    if invocation.as_json:
        document = {"ok": problem is None, "approver": name, "roles": list(roles), "problem": problem}
        shown = {"credential_file": str(credential_out)} if credential_out else {"credential": credential}
        emit(document | (shown if problem is None else {}))
    elif problem is not None:
        say(f"Not enrolled: {problem}")
    else:
        say(f"{name} is enrolled as {', '.join(roles)}.")
        if credential_out is not None:
            say(f"The credential is in {credential_out}. Keep it where the agent cannot read it.")
        else:
            say("The credential, shown only now. Keep it where the agent cannot read it:")
            say(credential)
    if problem is not None:
        findings()


def _enrolled(reader: Reader) -> tuple[int, Sequence[Approver]]:
    """The log's size, read first, and who is enrolled: an enrolment in between shows in one of them."""
    head = reader.head(TENANT)
    return (head.size if head else 0), approver_names(reader, TENANT)


@approver.command("list")
@options()
@click.pass_context
def list_(ctx: click.Context) -> None:
    """Who is enrolled, with their roles."""
    invocation = invocation_of(ctx)

    async def names(installation: Installation) -> list[tuple[str, tuple[str, ...]]]:
        known = await installation.store.read(lambda reader: approver_names(reader, TENANT))
        return sorted((one.name, one.roles) for one in known)

    known = on_store(invocation, names)
    show_list(
        invocation.as_json,
        {"approvers": [{"name": name, "roles": list(roles)} for name, roles in known]},
        ("NAME", "ROLES"),
        [(name, ", ".join(roles)) for name, roles in known],
        "Nobody is enrolled. `comptroller approver add NAME --role approver` enrols the first.",
    )
