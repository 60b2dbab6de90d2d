"""One request to an upstream over HTTP and its answer, in JSON or as events, beside the SDK's session and by its rules.

The session negotiates, listens, lists and cancels; calls go this way, at a fraction of the cost. What failed here is told
as it is told there: `Refusals` marks what was certainly never taken.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import httpcore2
import httpx2
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PARSE_ERROR,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError
from pydantic_core import from_json, to_json

from comptroller_tools.upstream.connections import Connection, Connections, Lost, NotReached
from comptroller_tools.upstream.events import Event, Events, TooLong
from comptroller_tools.upstream.over_stdio import Pace
from comptroller_tools.upstream.reaching import NOT_PUBLIC, Reach
from comptroller_tools.upstream.refusals import REFUSED, Refusals
from comptroller_tools.upstream.settings import HttpEndpoint
from comptroller_tools.upstream.tokens import NoToken, Tokens

__all__ = ["BrokenOff", "Posts"]

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t\x20-\x7e\x80-\xff]*")
_ANSWERS = "application/json, text/event-stream"
_SAID = {"jsonrpc", "id", "result"}
RETRY_MS = 1_000
"""Before the rest of an answer is asked for, where the upstream does not say."""
RETRY_MS_MAX = 30_000
SLICE_BYTES = 16_384
"""Of events are read at a time: many short lines must not hold up others."""

Heard = Callable[[JSONRPCMessage], Awaitable[None]]


class BrokenOff(Exception):
    """A stream of events ended before the answer, and can be taken up again after `event`, in `pause_s`."""

    def __init__(self, event: str, retry_ms: int | None) -> None:
        super().__init__("the stream ended before the answer")
        self.event = event
        self.pause_s = min(RETRY_MS if retry_ms is None else max(0, retry_ms), RETRY_MS_MAX) / 1000


class Posts:
    """Requests to one endpoint while one session lasts. `plain` is a client without headers, for tokens."""

    def __init__(
        self,
        endpoint: HttpEndpoint,
        most: int,
        refusals: Refusals,
        tokens: Tokens | None,
        plain: httpx2.AsyncClient,
        reach: Reach,
    ) -> None:
        url = httpx2.URL(endpoint.url)
        self._most = most
        self._refusals = refusals
        self._tokens = tokens
        self._plain = plain
        self._with_user = bool(url.userinfo)
        tls = url.scheme == "https"
        self._connections = Connections(
            url.raw_host.decode(),
            url.port or (443 if tls else 80),
            reach.trust if tls else None,
            reach.addresses,
        )
        self._start = f"POST {url.raw_path.decode()} HTTP/1.1\r\nhost: {url.netloc.decode()}"
        self._headers = {name.lower(): value for name, value in endpoint.headers.items()} | {
            "accept": _ANSWERS,
            "accept-encoding": "identity",
            "content-type": "application/json",
        }

    @property
    def usable(self) -> bool:
        """Whether requests can go this way: a server that redirects is followed by the SDK, by its rules."""
        return not self._refusals.redirected and not self._with_user

    async def aclose(self) -> None:
        """End the connections; requests that run are lost."""
        self._connections.close()

    async def ask(
        self, message: Mapping[str, Any], headers: Mapping[str, str], sent: Callable[[], None], heard: Heard
    ) -> dict[str, Any]:
        """The result of the request `message`. `sent` is called before it is written, `heard` with each message before the answer.

        Raises MCPError, `BrokenOff`. What is cancelled leaves no connection behind.
        """
        body = to_json(message)
        token: str | None = None
        for last in (False, True):
            if self._tokens is not None:
                try:
                    token = await self._tokens.bearer(self._plain)
                except NoToken as error:
                    raise self._refusals.refused(f"{error}; nothing was sent") from None
            connection = await self._taken()
            try:
                sent()
                connection.begin(self._request(body, headers, token))
                await connection.head()
                if connection.status != 401 or last or self._tokens is None or token is None:
                    return await self._answer(connection, message["id"], heard)
            except Lost as error:
                raise self._refusals.lost(f"the connection was lost ({error})") from None
            finally:
                self._connections.give_back(connection)
            self._tokens.refused(token)
        raise AssertionError("the second round returns or raises")

    # -- inside ---------------------------------------------------------------------------------------------------

    async def _taken(self) -> Connection:
        try:
            return await self._connections.take()
        except (NotReached, httpcore2.ConnectError) as error:
            why = NOT_PUBLIC if str(error) == NOT_PUBLIC else "it could not be reached"
            raise self._refusals.refused(f"{why}; nothing was sent") from None

    def _request(self, body: bytes, headers: Mapping[str, str], token: str | None) -> bytes:
        given = self._headers | {name.lower(): value for name, value in headers.items()}
        if self._refusals.session is not None:
            given["mcp-session-id"] = self._refusals.session
        if token is not None:
            given["authorization"] = f"Bearer {token}"
        lines = [f"{name}: {value}" for name, value in given.items()]
        if not all(map(_HEADER.fullmatch, lines)):
            raise self._refusals.refused("a header cannot be written; nothing was sent")
        head = "\r\n".join([self._start, *lines, f"content-length: {len(body)}", "", ""])
        return head.encode("latin-1") + body

    async def _answer(self, connection: Connection, call: Any, heard: Heard) -> dict[str, Any]:
        status, headers = connection.status, connection.headers
        if status in REFUSED:
            if status == 404 and self._refusals.session is not None:
                self._refusals.session_lost = True
            raise self._refusals.refused(f"it refused the request (HTTP {status})")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise self._refusals.lost("it compressed an answer unasked")
        if 300 <= status < 400:
            self._refusals.redirected = True
            raise _error(INVALID_REQUEST, "it redirected a call, which is not followed")
        if status == 202:
            raise _error(INVALID_REQUEST, "server answered a request with 202 Accepted")
        kind = headers.get("content-type", "").lower()
        if kind.startswith("application/json"):
            return await self._from_json(connection, call)
        if status >= 400:
            raise _error(INTERNAL_ERROR, "Server returned an error response")
        if kind.startswith("text/event-stream"):
            return await self._from_events(connection, call, heard)
        raise _error(INVALID_REQUEST, f"Unexpected content type: {kind[:200]}")

    async def _from_json(self, connection: Connection, call: Any) -> dict[str, Any]:
        parts: list[bytes] = []
        left = self._most
        while (part := await connection.more()) is not None:
            parts.append(part)
            left -= len(part)
            if left < 0:
                raise _error(PARSE_ERROR, "the answer is larger than is taken")
        status = connection.status
        try:
            answer = from_json(b"".join(parts))
        except (ValueError, RecursionError):
            answer = None
        if status >= 400:  # an error of the protocol may come with such a status, and without an id
            found = _read(answer)
            if isinstance(found, JSONRPCError):
                _result(found, call)
            raise _error(INTERNAL_ERROR, "Server returned an error response")
        return _from_plain(answer, call)

    async def _from_events(self, connection: Connection, call: Any, heard: Heard) -> dict[str, Any]:
        events, pace = Events(self._most), Pace()
        last: Event | None = None
        try:
            while (part := await connection.more()) is not None:
                for at in range(0, len(part), SLICE_BYTES):
                    idle = events.idle
                    for last in events.feed(part[at : at + SLICE_BYTES]):
                        await pace.keep()
                        if last.kind != "message" or not last.data:
                            continue
                        told = _read_text(last.data)
                        if isinstance(told, JSONRPCResponse | JSONRPCError):
                            connection.answered = True
                            return _result(told, call)
                        await heard(told)
                    await pace.keep(events.idle - idle)
        except TooLong as error:
            raise _error(CONNECTION_CLOSED, str(error)) from None
        except Lost:
            if last is None or not last.id:
                raise
        if last is not None and last.id:
            raise BrokenOff(last.id, last.retry_ms)
        raise _error(CONNECTION_CLOSED, "the events ended without an answer")


def _from_plain(answer: Any, call: Any) -> dict[str, Any]:
    """What a plain answer says. The common case is looked at without a model."""
    if isinstance(answer, dict):
        members = cast("dict[str, Any]", answer)
        result = members.get("result")
        if (
            isinstance(result, dict)
            and _is_for(call, members.get("id"))
            and members.get("jsonrpc") == "2.0"
            and members.keys() == _SAID
        ):
            return cast("dict[str, Any]", result)
    return _result(_read(answer), call)


def _result(found: JSONRPCMessage | None, call: Any) -> dict[str, Any]:
    if not isinstance(found, JSONRPCError | JSONRPCResponse):
        raise _error(PARSE_ERROR, "the answer is not of the protocol")
    if isinstance(found, JSONRPCError) and (found.id is None or _is_for(call, found.id)):
        raise MCPError(code=found.error.code, message=found.error.message, data=found.error.data)
    if isinstance(found, JSONRPCError) or not _is_for(call, found.id):
        raise _error(PARSE_ERROR, "it answered another request than it was asked")
    return found.result


def _is_for(call: Any, answered: Any) -> bool:
    return not isinstance(answered, bool) and (answered == call or answered == str(call))


def _read(answer: Any) -> JSONRPCMessage | None:
    try:
        return jsonrpc_message_adapter.validate_python(answer, by_name=False)
    except ValidationError:
        return None


def _read_text(text: str) -> JSONRPCMessage:
    try:
        return jsonrpc_message_adapter.validate_json(text, by_name=False)
    except ValidationError:
        raise _error(PARSE_ERROR, "an event of the answer is not of the protocol") from None


def _error(code: int, message: str) -> MCPError:
    return MCPError(code=code, message=message)
