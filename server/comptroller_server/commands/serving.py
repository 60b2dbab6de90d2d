"""A server from its installation: over stdio or HTTP, until it is asked to stop. See `serve`, which comes first."""

from __future__ import annotations

import asyncio

import click

from comptroller_audit.addresses import shown_address
from comptroller_audit.vocabulary import ComptrollerError, Subject
from comptroller_server import __version__
from comptroller_server.app import Service, running
from comptroller_server.commands.logs import released_line
from comptroller_server.commands.showing import plain
from comptroller_server.config.model import Config
from comptroller_server.errors import CommandError
from comptroller_server.face.claiming import Wire
from comptroller_server.face.handles import TasksTerms
from comptroller_server.face.http import PATH, build_app, serve_http, subject_of
from comptroller_server.face.protocol import GovernedServer, SubjectOf, build_server
from comptroller_server.face.status import serve_status
from comptroller_server.face.stdio import serve_stdio
from comptroller_server.installation import Installation
from comptroller_server.memory import settle_memory

__all__ = ["serve_installation", "server_of", "tell_why_not"]


async def serve_installation(
    installation: Installation,
    wire: Wire | None,
    client: str | None,
    where: tuple[str, int] | None,
    stop: asyncio.Event,
    begun: asyncio.Event,
) -> None:
    """Serve until `stop`. `begun` is set once it can be called; before that, nobody has heard anything of it."""
    subject = installation.identity.stdio_subject(_client(installation.config, client)) if wire else None
    async with running(installation) as service:
        begun.set()
        _tell(f"store {shown_address(installation.store.database.url)}")
        _tell_recovered(service)
        settle_memory()
        if subject is not None:
            await _over_stdio(service, wire, subject, stop)
        elif where is not None:
            await _over_http(service, where, stop)
    if service.unwritten:
        _tell(f"stopped; not written: {' and '.join(service.unwritten)}. Run `comptroller doctor`")
    else:
        _tell("stopped; outcomes and a last checkpoint are written")


async def tell_why_not(error: ComptrollerError, wire: Wire) -> None:
    """In place of a server that cannot start: one tool that says why."""
    await serve_status(released_line(str(error)), wire, __version__)


async def _over_stdio(service: Service, wire: Wire | None, subject: Subject, stop: asyncio.Event) -> None:
    server = server_of(service, lambda _: subject)
    _tell(f"serving {subject.actor.id} over stdio")
    await serve_stdio(server, wire=wire, stop=stop)


async def _over_http(service: Service, where: tuple[str, int], stop: asyncio.Event) -> None:
    identity = service.installation.identity
    server = server_of(service, subject_of)
    metrics = service.metrics
    served = metrics.answer if metrics is not None else None
    app = build_app(server, identity, readiness=service.readiness.look, metrics=served)
    for name, file in identity.load_tokens().items():
        _tell(f"token of {name}: {file}")

    def ready(url: str) -> None:
        service.pages.served_at(url.removesuffix(PATH))
        _tell(f"serving at {url}")

    await serve_http(app, *where, ready=ready, stop=stop)


def server_of(service: Service, of: SubjectOf) -> GovernedServer:
    """The face of a running service, for whoever `of` says asks."""
    limits, clock = service.installation.config.limits, service.installation.ambient.clock
    return build_server(
        service.pipeline,
        subject_of=of,
        version=__version__,
        elicitation_wait_s=limits.elicitation_wait_s,
        offers=service.offers,
        news=service.news,
        may_ask=any(one.may_ask.kinds for one in service.installation.config.upstreams.values()),
        tasks=TasksTerms(service.pipeline, limits.tasks_extension_after_s, clock.now_ms),
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
