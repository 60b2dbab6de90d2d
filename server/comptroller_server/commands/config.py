"""`comptroller config`: what may stand in `comptroller.yaml`, for editors, and in the files of clients."""

from __future__ import annotations

import re
from collections.abc import Collection

import click

from comptroller_server.commands.config_files import config_file
from comptroller_server.commands.invocation import Invocation, invocation_of, options
from comptroller_server.commands.opening import installation_of
from comptroller_server.commands.showing import emit
from comptroller_server.config.editor_schema import published_schema
from comptroller_server.config.loading import data_directory
from comptroller_server.errors import CommandError, ConfigInvalid
from comptroller_server.setting_up.clients import CLIENTS, ClientKind
from comptroller_server.setting_up.starting import serve_words

__all__ = ["config"]


@click.group()
def config() -> None:
    """What the configuration may say, and what clients need."""


@config.command()
@options()
def schema() -> None:
    """Print the JSON Schema (draft 7) of `comptroller.yaml`, which editors complete and check it with.

    Write it beside the file and begin that with `# yaml-language-server: $schema=./comptroller.schema.json`.
    """
    click.echo(published_schema(), nl=False)


@config.command()
@click.argument("client", type=click.Choice([one.value for one in ClientKind]))
@click.option(
    "--http", "address", metavar="HOST:PORT", help="For a server that runs there, with `serve --http`."
)
@options()
@click.pass_context
def snippet(ctx: click.Context, client: str, address: str | None) -> None:
    """Print what CLIENT needs to start this server, or over HTTP to find it."""
    invocation = invocation_of(ctx)
    known, path = CLIENTS[ClientKind(client)], config_file(invocation.config)
    text: str | None = known.over_stdio(serve_words(client, path, invocation.data_dir))
    if address is not None:
        if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:/\[\]\s]+):[0-9]{1,5}", address):
            raise click.UsageError("--http needs HOST:PORT, such as 127.0.0.1:8400")
        data_dir = data_directory(invocation.data_dir)
        text = known.over_http(f"http://{address}/mcp", str(data_dir / "tokens" / f"{client}.token"))
    if text is None:
        raise CommandError(f"{known.title} takes no server over HTTP from its file; leave out --http")
    if invocation.as_json:
        emit({"client": known.kind, "where": known.where, "snippet": text})
    else:
        click.echo(f"For {known.title}, in {known.where}:", err=True)
        click.echo(text)
    if client not in _configured(invocation, client):
        click.echo(
            f"comptroller: {client} is not in `identity.local.clients` yet, and would not be served: add "
            f"`{client}: {{}}` there",
            err=True,
        )


def _configured(invocation: Invocation, client: str) -> Collection[str]:
    """The clients of the configuration; `client` where it does not load, for `check` tells why, and this prints all the same."""
    try:
        return installation_of(invocation).config.identity.local.clients
    except ConfigInvalid:
        return [client]
