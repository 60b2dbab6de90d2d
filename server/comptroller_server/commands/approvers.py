"""`comptroller approver`: enrol the people who may approve, each with a credential that is shown once."""

from __future__ import annotations

from pathlib import Path

import click

from comptroller_policy.approvers import approver_names
from comptroller_server.commands.enrolling import enrol, show_enrolled
from comptroller_server.commands.invocation import findings, invocation_of, options
from comptroller_server.commands.opening import on_store
from comptroller_server.commands.showing import emit, show_list
from comptroller_server.installation import TENANT, Installation

__all__ = ["approver"]


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
    enrolled = enrol(invocation, name, roles, credential_out, credential_file)
    if invocation.as_json:
        document = {
            "ok": enrolled.problem is None,
            "approver": name,
            "roles": list(roles),
            "problem": enrolled.problem,
        }
        emit(document | enrolled.shown())
    else:
        show_enrolled(enrolled)
    if enrolled.problem is not None:
        findings()


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
