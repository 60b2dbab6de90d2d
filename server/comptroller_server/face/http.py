"""Streamable HTTP on loopback: one ASGI wrapper that checks everything before the SDK sees a byte.

In this order: Host, Origin, path, token, method, body. Until an identity provider is configured no other address
is served. (MCP 2026-07-28 "Streamable HTTP" and its security warning; RFC 6750 for the token.)
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import lru_cache
from typing import Any, cast

import uvicorn
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from comptroller_audit.vocabulary import JsonObject, Subject
from comptroller_server.errors import IdentityError, TransportError
from comptroller_server.face.claiming import loopback
from comptroller_server.face.decide_page import HEADERS, page_of
from comptroller_server.face.exchange import answered, exchange_in
from comptroller_server.face.framing import Framed, FrameLimits, FrameRefusal, read_framed_body
from comptroller_server.face.headers import TASK_HEADER, RequestHeaders
from comptroller_server.face.http_sessions import SESSION_HEADER, ClientSessions, opens_one, wants_stream
from comptroller_server.face.identity import LocalIdentity
from comptroller_server.face.protocol import (
    TASK_IN_SCOPE,
    GovernedServer,
    RequestContext,
    asking_subject,
    not_a_message,
    parse_message,
)
from comptroller_server.face.wire import GuardedProtocol
from comptroller_server.signals import stop_on_signals
from comptroller_server.telemetry.scraping import Headers, Response

__all__ = [
    "BODY_WAIT_S",
    "DRAIN_S",
    "OPEN_MAX",
    "PATH",
    "SESSIONS_MAX",
    "build_app",
    "serve_http",
    "subject_of",
]

PATH = "/mcp"

DRAIN_S = 10.0
"""How long the end waits for calls in flight, seconds. What remains is in doubt, and recovery finds it."""

BODY_WAIT_S = 30.0
"""How long one request body may take to arrive, seconds."""

SESSIONS_MAX = 1_000
"""Open sessions of the 2025 protocol era, of each client; an idle one ends after SESSION_IDLE_S. The 2026 era has none."""

SESSION_IDLE_S = 1_800.0

OPEN_MAX = 200
"""Requests of one client that are open at a time, streams of news among them: no client holds all `CONNECTIONS_MAX`."""

_SUBJECT = "comptroller.subject"
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


def subject_of(ctx: RequestContext) -> Subject:
    """The subject of this very request, as its token proved it. Give it to `build_server`.

    Raises `IdentityError` when the request did not come through `build_app`.
    """
    scope = cast("Mapping[str, Any]", getattr(ctx.request, "scope", {}))
    subject = scope.get(_SUBJECT)
    if not isinstance(subject, Subject):
        raise IdentityError(
            "this request carries no proved subject; serve it through comptroller_server.face.http"
        )
    return subject


Readiness = Callable[[], Awaitable[tuple[bool, str]]]
"""Whether requests should be sent here, and lines that say why. `Metrics`: what `/metrics` answers."""
Metrics = Callable[[str, Headers], Awaitable[Response]]


def build_app(
    server: GovernedServer,
    identity: LocalIdentity,
    *,
    limits: FrameLimits | None = None,
    drain_s: float = DRAIN_S,
    readiness: Readiness | None = None,
    metrics: Metrics | None = None,
) -> ASGIApp:
    """The ASGI application: `/mcp` for clients with a token, `/healthz`, `/readyz` and `/decide/<call>` for anyone here.

    Reads the token files, so it raises `IdentityError` as `LocalIdentity.load_tokens` does. It needs its
    lifespan run (`serve_http` does) and serves one lifespan only.
    """
    clients = identity.load_tokens()
    return _App(server, identity, list(clients), limits or FrameLimits(), drain_s, readiness, metrics)


class _App:
    def __init__(
        self,
        server: GovernedServer,
        identity: LocalIdentity,
        clients: Sequence[str],
        limits: FrameLimits,
        drain_s: float,
        readiness: Readiness | None,
        metrics: Metrics | None,
    ) -> None:
        self._readiness = readiness
        self._metrics = metrics
        self._server = server
        self._identity = identity
        self._limits = limits
        self._drain_s = drain_s
        self._open = Counter[str]()
        self._sessions = {
            client: ClientSessions(server, limits.bytes_max, SESSIONS_MAX, SESSION_IDLE_S)
            for client in clients
        }

    def end(self) -> None:
        """Nothing new is accepted: what is open only to tell of news is ended, so that nothing waits for it."""
        self._server.stop_asking()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            raise TransportError(f"a {scope['type']} connection is not served; use HTTP")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        async with AsyncExitStack() as stack:
            for sessions in self._sessions.values():
                await stack.enter_async_context(sessions.plain.run())
                await stack.enter_async_context(sessions.streaming.run())
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self._server.drain(self._drain_s)  # the SDK's tasks are cancelled when the stack unwinds
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = RequestHeaders(scope["headers"])
        refusal = _wrong_place(scope, headers)
        if refusal is not None:
            await refusal(send)
        elif scope["path"] == "/healthz":
            await _healthz(scope["method"])(send)
        elif scope["path"] == "/readyz" and self._readiness is not None:
            await (await _readyz(scope["method"], self._readiness))(send)
        elif scope["path"] == "/metrics" and self._metrics is not None:
            await _Answer(*await self._metrics(scope["method"], scope["headers"]))(send)
        elif (page := page_of(scope["path"])) is not None:
            await _decide(scope["method"], page)(send)
        elif scope["path"] != PATH:
            await _plain(404, f"Nothing is here. The MCP endpoint is {PATH}.")(send)
        else:
            await self._mcp(scope, headers, receive, send)

    async def _mcp(self, scope: Scope, headers: RequestHeaders, receive: Receive, send: Send) -> None:
        subject = self._who(headers)
        if subject is None:
            await _unauthorized(presented=headers.has(b"authorization"))(send)
            return
        client = subject.actor.id
        if self._open[client] >= OPEN_MAX:
            text = f"{OPEN_MAX} requests of this client are open. Wait for an answer, or end a stream."
            await _plain(503, text, (b"connection", b"close"))(send)
            return
        self._open[client] += 1
        try:
            await self._of_client(subject, scope, headers, receive, send)
        finally:
            self._open[client] -= 1

    async def _of_client(
        self, subject: Subject, scope: Scope, headers: RequestHeaders, receive: Receive, send: Send
    ) -> None:
        sessions = self._sessions[subject.actor.id]
        session = headers.only(SESSION_HEADER)
        if session is None and headers.has(SESSION_HEADER):
            await _plain(400, "A request is of one session: send Mcp-Session-Id once.")(send)
            return
        sdk = sessions.of(session)
        if headers.has_strange():  # a grant that is passed over would let more happen than was meant
            text = "Of Comptroller-* headers this server understands Comptroller-Task, given once."
            await _plain(400, text)(send)
            return
        message: JsonObject | None = None
        if scope["method"] == "POST":
            framed = await self._framed(receive)
            if framed is None:
                return
            if isinstance(framed, _Answer):
                await framed(send)
                return
            message = framed.message
            receive = _replay(framed.data, receive)
            if wants_stream(headers.only(b"mcp-protocol-version"), headers.only(b"accept"), framed.message):
                sdk = sessions.streaming
            elif opens_one(framed.message, always=self._server.relays):
                sdk, send = sessions.streaming, sessions.streamed.noting(send)
        elif scope["method"] not in ("GET", "DELETE"):
            await _plain(405, "Use POST.", (b"allow", b"POST, GET, DELETE"))(send)
            return
        asking_subject.set(subject)
        ours = _for_sdk(scope, subject, headers.only(TASK_HEADER))
        if sdk is sessions.plain and message is not None:
            exchange = exchange_in(self._server, message, ours)
            if exchange is not None:
                status, body = await answered(self._server, exchange)
                await _Answer(status, body, b"application/json")(send)
                return
        await sdk.handle_request(ours, receive, send)

    def _who(self, headers: RequestHeaders) -> Subject | None:
        value = headers.only(b"authorization")
        if value is None:
            return None
        scheme, _, token = value.partition(" ")
        return self._identity.verify(token.strip()) if scheme.lower() == "bearer" else None

    async def _framed(self, receive: Receive) -> Framed | _Answer | None:
        """The body, framed; or what to answer instead; or None when the client has gone."""
        try:
            async with asyncio.timeout(BODY_WAIT_S):
                framed = await read_framed_body(receive, self._limits)
        except TimeoutError:
            return _plain(408, f"The request body did not arrive within {BODY_WAIT_S:g} seconds.")
        if isinstance(framed, FrameRefusal):
            return _frame_refused(framed)
        if framed is not None and parse_message(framed.message) is None:
            body = not_a_message(framed.message).model_dump_json(by_alias=True, exclude_unset=True)
            return _Answer(400, body.encode(), b"application/json")
        return framed


def _for_sdk(scope: Scope, subject: Subject, task: str | None) -> Scope:
    """The request as the SDK gets it: the subject in place of the token, and the task beside it.

    `user` makes the SDK bind each session of the 2025 era to the subject that opened it; for another one the
    session does not exist (404).
    """
    ours = (b"authorization", TASK_HEADER)
    headers = [(name, value) for name, value in scope["headers"] if name.lower() not in ours]
    return {**scope, "headers": headers, "user": _user(subject), _SUBJECT: subject, TASK_IN_SCOPE: task}


@lru_cache(maxsize=1_000)
def _user(subject: Subject) -> AuthenticatedUser:
    owner = AccessToken(
        token="withheld",  # noqa: S106 - the point is that it is none
        client_id=subject.actor.id,
        scopes=[],
        subject=subject.principal.subject,
        claims={"iss": subject.principal.issuer, "tenant": subject.tenant},
    )
    return AuthenticatedUser(owner)


def _replay(body: bytes, receive: Receive) -> Receive:
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again


def _wrong_place(scope: Scope, headers: RequestHeaders) -> _Answer | None:
    """A page in a browser reaches loopback by a name of its own (DNS rebinding); Host and Origin give it away."""
    hosts = _own_names(*cast("tuple[str, int]", scope["server"]))
    if headers.only(b"host") not in hosts:
        return _plain(421, "The Host header does not name this server.")
    if headers.has(b"origin"):
        origin = headers.only(b"origin")
        if origin not in {f"http://{host}" for host in hosts}:
            return _plain(403, "Requests from this Origin are not served.")
    return None


@lru_cache(maxsize=16)
def _own_names(address: str, port: int) -> frozenset[str]:
    """`host:port` of the socket that took the connection, under each name loopback has."""
    own = f"[{address}]" if ":" in address else address
    names = frozenset((*_LOOPBACK_NAMES, own))
    with_port = frozenset(f"{name}:{port}" for name in names)
    return with_port | names if port == 80 else with_port


class _Answer:
    """A whole HTTP response of ours."""

    def __init__(self, status: int, body: bytes, content_type: bytes, *more: tuple[bytes, bytes]) -> None:
        self.status = status
        self._body = body
        self._headers = [
            (b"content-type", content_type),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            *more,
        ]

    async def __call__(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._body})


def _plain(status: int, text: str, *more: tuple[bytes, bytes]) -> _Answer:
    return _Answer(status, text.encode() + b"\n", b"text/plain; charset=utf-8", *more)


def _healthz(method: str) -> _Answer:
    if method not in ("GET", "HEAD"):
        return _plain(405, "Use GET.", (b"allow", b"GET, HEAD"))
    return _plain(200, "ok")


async def _readyz(method: str, readiness: Readiness) -> _Answer:
    if method not in ("GET", "HEAD"):
        return _plain(405, "Use GET.", (b"allow", b"GET, HEAD"))
    ready, text = await readiness()
    return _plain(200 if ready else 503, text)


def _decide(method: str, page: bytes) -> _Answer:
    if method not in ("GET", "HEAD"):
        return _plain(405, "Use GET; nothing is decided here.", (b"allow", b"GET, HEAD"))
    return _Answer(200, page, b"text/html; charset=utf-8", *HEADERS)


def _unauthorized(*, presented: bool) -> _Answer:
    challenge = b'Bearer realm="comptroller"' + (b', error="invalid_token"' if presented else b"")
    text = "A client's token is needed: Authorization: Bearer <the line in its token file>."
    return _plain(401, text, (b"www-authenticate", challenge))


def _frame_refused(refusal: FrameRefusal) -> _Answer:
    # The rest of a refused body may still be on its way, so this connection ends here.
    return _Answer(refusal.http_status, refusal.answer, b"application/json", (b"connection", b"close"))


class _Uvicorn(uvicorn.Server):
    """Uvicorn that tells when it listens and leaves signals alone.

    Its own handler raises the signal again at the end, which would kill the process before the store closes.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


async def serve_http(
    app: ASGIApp,
    host: str,
    port: int,
    *,
    ready: Callable[[str], None] | None = None,
    stop: asyncio.Event | None = None,
    drain_s: float = DRAIN_S,
) -> None:
    """Serve `app` on `host:port` (0 picks a free port) until `stop` is set, by default by SIGINT or SIGTERM.

    `ready` is called once with the URL of the endpoint. At the end nothing new is accepted, requests in flight
    are waited for, `drain_s` seconds at most, then the app's lifespan ends.

    Raises `TransportError` for an address that is not loopback or cannot be bound.
    """
    bound = _bind(loopback(host), port)
    with bound:
        url = _url(bound)
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http=GuardedProtocol,
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, round(drain_s)),
        )
        server = _Uvicorn(config, (lambda: ready(url)) if ready else (lambda: None))
        with stop_on_signals(stop) as asked:
            await _serve_until(server, bound, asked, app.end if isinstance(app, _App) else None)
        if not server.started:
            raise TransportError(f"the HTTP server on {url} did not start; the log above says why")


async def _serve_until(
    server: _Uvicorn, bound: socket.socket, asked: asyncio.Event, end: Callable[[], None] | None
) -> None:
    async def end_when_asked() -> None:
        await asked.wait()
        server.should_exit = True
        if end is not None:
            end()

    watcher = asyncio.create_task(end_when_asked())
    try:
        await server.serve(sockets=[bound])
    finally:
        watcher.cancel()


def _bind(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # asyncio turns Nagle's delay (40 ms an answer) off only where the protocol is named.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise TransportError(
            f"--http {address}:{port} cannot be bound ({error}); stop what uses the port or name another"
        ) from error
    return bound


def _url(bound: socket.socket) -> str:
    address, port = cast("tuple[str, int]", bound.getsockname()[:2])
    return f"http://{f'[{address}]' if ':' in address else address}:{port}{PATH}"
