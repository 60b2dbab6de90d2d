"""`comptroller tasks begin`: a person gives a client's next task its request, which is trusted from then on."""

from __future__ import annotations

from pathlib import Path

import click

from comptroller_audit.vocabulary import JsonObject
from comptroller_server.app import attached
from comptroller_server.call.naming import META_REQUEST
from comptroller_server.call.proposal import Answer, Proposal
from comptroller_server.commands.credentials import by_credential, identify
from comptroller_server.commands.invocation import invocation_of, options
from comptroller_server.commands.opening import on_store, quiet_stdout
from comptroller_server.commands.showing import emit, say
from comptroller_server.errors import CommandError
from comptroller_server.installation import Installation
from comptroller_server.tasks.built_in_tools import BEGIN

__all__ = ["begin"]

REQUEST_BYTES_MAX = 65_536
"""Of a file; `task_begin` says how much of it is too much."""


@click.command()
@click.option("--request", metavar="TEXT", help="What is to be done, in words or as JSON.")
@click.option(
    "--request-file", type=click.Path(path_type=Path), help="A file with the request, in place of --request."
)
@click.option("--unit", metavar="KIND:ID", help="The record the task is about.")
@click.option(
    "--client", "name", metavar="NAME", help="Whose task it is; needed where several clients are configured."
)
@by_credential
@options()
@click.pass_context
def begin(
    ctx: click.Context,
    request: str | None,
    request_file: Path | None,
    unit: str | None,
    name: str | None,
    credential_file: Path | None,
) -> None:
    """Begin a task for a client, with a request that policies may trust (`context.provenance`).

    The client's calls belong to it until it is finished or handed off; its request never changes. It needs an approver's
    credential, from a file or asked on the terminal: what anybody can say is the agent's word.
    """
    invocation = invocation_of(ctx)
    text = _text(request, request_file)
    arguments: JsonObject = {"request": text, **({"unit": unit} if unit is not None else {})}
    answer = on_store(invocation, lambda opened: _begin(opened, arguments, name, credential_file))
    if answer.is_error:
        raise CommandError(answer.text)
    task = (answer.structured or {})["task"]
    if invocation.as_json:
        emit({"ok": True, "task": task})
    else:
        say(f"Task {task} has begun. The client's next calls belong to it.")


def _text(request: str | None, file: Path | None) -> str:
    """The request. Raises `click.UsageError`, `CommandError`."""
    if (request is None) == (file is None):
        raise click.UsageError("give --request or --request-file, and only one of them")
    if file is None:
        return request or ""
    try:
        with file.open("rb") as opened:
            read = opened.read(REQUEST_BYTES_MAX + 1)
        text = read.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(
            f"the request in {file} cannot be read as text ({type(error).__name__})"
        ) from error
    if len(read) > REQUEST_BYTES_MAX:
        raise CommandError(
            f"the request in {file} has more than {REQUEST_BYTES_MAX} bytes; say it in fewer words"
        )
    return text.strip()


async def _begin(
    installation: Installation, arguments: JsonObject, name: str | None, file: Path | None
) -> Answer:
    with quiet_stdout():
        installation.check()
    clients = list(installation.config.identity.local.clients)
    client = name if name is not None else clients[0]
    if client not in clients or (name is None and len(clients) > 1):
        raise CommandError(f"say whose task it is with --client; the clients are {', '.join(clients)}")
    # Who it is, before this process owns anything: a `halt` would wait for it while a person types.
    voter = await identify(installation, file)
    if not voter.counts:
        raise CommandError("no task was begun: this needs an approver's credential (--credential-file)")
    subject = installation.identity.stdio_subject(client)
    meta = {META_REQUEST: arguments["request"]}
    async with attached(installation) as service:
        return await service.pipeline.call(Proposal(subject, BEGIN, arguments, meta, said_by=voter.name))
