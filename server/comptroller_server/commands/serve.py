"""`comptroller serve`: the governed tools for one MCP client on stdio, or for many on loopback HTTP.

Here is what comes first: the wire is claimed, the configuration read, the processes of upstreams begun. The server
itself takes longer to load, and is loaded while those start.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Mapping

import click

from comptroller_audit.vocabulary import ComptrollerError
from comptroller_server.commands.invocation import EXIT_FAILED, Invocation, invocation_of, options
from comptroller_server.face.claiming import Wire, claim_stdio, loopback
from comptroller_server.signals import stop_on_signals
from comptroller_tools.upstream.settings import StdioCommand, UpstreamSettings

__all__ = ["serve"]

_HTTP = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]]+):(?P<port>[0-9]{1,5})")


@click.command()
@click.option("--client", help="On stdio, which configured client this is. [default: the only one]")
@click.option(
    "--http", "address", metavar="HOST:PORT", help="Serve streamable HTTP on a loopback address instead."
)
@options(as_json=False)
@click.pass_context
def serve(ctx: click.Context, client: str | None, address: str | None) -> None:
    """Serve the governed tools to MCP clients.

    On stdio standard output belongs to the protocol. When it cannot start there, the client gets one tool,
    `comptroller_status`, that says what to fix, and the exit code is 2. SIGTERM, SIGINT and SIGHUP end it in order: nothing
    new is accepted, calls in flight end, the log is signed once more.
    """
    invocation = invocation_of(ctx)
    if address is not None and client is not None:
        raise click.UsageError("--client is for stdio; over HTTP the token says which client it is")
    where = _address(address) if address is not None else None
    # Before the configuration, and so before any of a user's code, is loaded.
    talks_to_a_client = where is None and not sys.stdin.isatty()
    wire = claim_stdio() if where is None else None
    begun = asyncio.Event()
    try:
        asyncio.run(_serve(invocation, wire, client, where, begun))
    except ComptrollerError as error:
        if wire is not None and talks_to_a_client and not begun.is_set():
            from comptroller_server.commands.serving import tell_why_not

            invocation.failed(error)
            asyncio.run(tell_why_not(error, wire))
            ctx.exit(EXIT_FAILED)
        raise


def _address(text: str) -> tuple[str, int]:
    found = _HTTP.fullmatch(text)
    if found is None or int(found["port"]) > 65535:
        raise click.UsageError("--http needs HOST:PORT, such as 127.0.0.1:8400 (port 0 takes a free one)")
    return loopback(found["host"]), int(found["port"])


async def _serve(
    invocation: Invocation,
    wire: Wire | None,
    client: str | None,
    where: tuple[str, int] | None,
    begun: asyncio.Event,
) -> None:
    from comptroller_server.commands.config_files import config_file
    from comptroller_server.config.loading import load_config
    from comptroller_tools.upstream.children import HeadStarts

    # Signals are watched from before the start to after the last checkpoint: neither is ever cut short.
    with stop_on_signals(None) as stop:
        config = load_config(config_file(invocation.config), data_dir=invocation.data_dir)
        async with HeadStarts() as head_starts:
            await head_starts.begin(_commands(config.upstreams))
            from comptroller_server.commands.opening import installation_of
            from comptroller_server.commands.serving import serve_installation

            installation = installation_of(invocation, config, head_starts)
            await serve_installation(installation, wire, client, where, stop, begun)


def _commands(upstreams: Mapping[str, UpstreamSettings]) -> dict[str, StdioCommand]:
    reached = {name: settings.transport for name, settings in upstreams.items()}
    return {name: how for name, how in reached.items() if isinstance(how, StdioCommand)}
