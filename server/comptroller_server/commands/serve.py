"""`comptroller serve`: the governed tools for one MCP client on stdio, or for many on loopback HTTP."""

from __future__ import annotations

import asyncio
import re
import sys
from dataclasses import dataclass

import click

from comptroller_audit.addresses import shown_address
from comptroller_audit.vocabulary import ComptrollerError, Subject
from comptroller_server import __version__
from comptroller_server.app import Service, running
from comptroller_server.commands.invocation import EXIT_FAILED, invocation_of, options
from comptroller_server.commands.logs import released_line
from comptroller_server.commands.opening import installation_of
from comptroller_server.commands.showing import plain
from comptroller_server.config.model import Config
from comptroller_server.errors import CommandError
from comptroller_server.face.http import PATH, build_app, loopback, serve_http, subject_of
from comptroller_server.face.protocol import GovernedServer, SubjectOf, build_server
from comptroller_server.face.status import serve_status
from comptroller_server.face.stdio import Wire, claim_stdio, serve_stdio
from comptroller_server.installation import Installation
from comptroller_server.memory import settle_memory
from comptroller_server.signals import stop_on_signals

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
    `comptroller_status`, that says what to fix, and the exit code is 2. SIGTERM and SIGINT end it in order: nothing new is accepted,
    calls in flight end, the log is signed once more.
    """
    invocation = invocation_of(ctx)
    if address is not None and client is not None:
        raise click.UsageError("--client is for stdio; over HTTP the token says which client it is")
    where = _address(address) if address is not None else None
    # Before the configuration, and so before any of a user's code, is loaded.
    talks_to_a_client = where is None and not sys.stdin.isatty()
    wire = claim_stdio() if where is None else None
    serving = Serving()
    try:
        asyncio.run(_serve(installation_of(invocation), wire, client, where, serving))
    except ComptrollerError as error:
        if wire is not None and talks_to_a_client and not serving.begun:
            invocation.failed(error)
            asyncio.run(serve_status(released_line(str(error)), wire, __version__))
            ctx.exit(EXIT_FAILED)
        raise


@dataclass(slots=True)
class Serving:
    """Whether the server has come up. Before that its client is told why not, by `comptroller_status`."""

    begun: bool = False


def _address(text: str) -> tuple[str, int]:
    found = _HTTP.fullmatch(text)
    if found is None or int(found["port"]) > 65535:
        raise click.UsageError("--http needs HOST:PORT, such as 127.0.0.1:8400 (port 0 takes a free one)")
    return loopback(found["host"]), int(found["port"])


async def _serve(
    installation: Installation,
    wire: Wire | None,
    client: str | None,
    where: tuple[str, int] | None,
    serving: Serving,
) -> None:
    subject = installation.identity.stdio_subject(_client(installation.config, client)) if wire else None
    # Signals are watched from before the start to after the last checkpoint: neither is ever cut short.
    with stop_on_signals(None) as stop:
        async with running(installation) as service:
            serving.begun = True
            _tell(f"store {shown_address(installation.store.database.url)}")
            _tell_recovered(service)
            settle_memory()
            if subject is not None:
                await _over_stdio(service, wire, subject, stop)
            elif where is not None:
                await _over_http(service, where, stop)
        _tell("stopped; outcomes and a last checkpoint are written")


async def _over_stdio(service: Service, wire: Wire | None, subject: Subject, stop: asyncio.Event) -> None:
    server = _server(service, lambda _: subject)
    _tell(f"serving {subject.actor.id} over stdio")
    await serve_stdio(server, wire=wire, stop=stop)


async def _over_http(service: Service, where: tuple[str, int], stop: asyncio.Event) -> None:
    identity = service.installation.identity
    server = _server(service, subject_of)
    metrics = service.metrics
    served = metrics.answer if metrics is not None else None
    app = build_app(server, identity, readiness=service.readiness.look, metrics=served)
    for name, file in identity.load_tokens().items():
        _tell(f"token of {name}: {file}")

    def ready(url: str) -> None:
        service.pages.served_at(url.removesuffix(PATH))
        _tell(f"serving at {url}")

    await serve_http(app, *where, ready=ready, stop=stop)


def _server(service: Service, of: SubjectOf) -> GovernedServer:
    wait_s = service.installation.config.limits.elicitation_wait_s
    return build_server(
        service.pipeline,
        subject_of=of,
        version=__version__,
        elicitation_wait_s=wait_s,
        offers=service.offers,
        news=service.news,
        may_ask=any(one.may_ask.kinds for one in service.installation.config.upstreams.values()),
    )


def _client(config: Config, named: str | None) -> str:
    """The client that acts: the one that was named, or the only one there is. Raises `CommandError`."""
    clients = list(config.identity.local.clients)
    if named is not None:
        return named
    if len(clients) == 1:
        return clients[0]
    raise CommandError(f"several clients are configured; say which with --client ({', '.join(clients)})")


def _tell_recovered(service: Service) -> None:
    for one in service.recovered:
        _tell(f"recovered call {one.call} ({one.tool}): {one.state.value}, {one.why}")


def _tell(text: str) -> None:
    click.echo(f"comptroller: {plain(released_line(text))}", err=True)
