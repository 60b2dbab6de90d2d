"""MCP over streamable HTTP: the SDK's transport on a client of ours that bounds answers and knows what was never sent.

Nothing of the caller's is in a request: only the configured headers, a token of our own, and the protocol's. The
environment's proxies and `.netrc` are not used. Redirects leave the origin never (the SDK's rule).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, cast

import httpx2
from mcp.client.streamable_http import streamable_http_client

from comptroller_tools.upstream.over_stdio import Pace
from comptroller_tools.upstream.posting import Posts
from comptroller_tools.upstream.reaching import NOT_PUBLIC, reach_of, transport_to
from comptroller_tools.upstream.refusals import REFUSED, Refusals
from comptroller_tools.upstream.settings import HttpEndpoint
from comptroller_tools.upstream.tokens import NoToken, Tokens

__all__ = ["Paced", "http_streams"]

CONNECT_S = 10.0
READ_S = 660.0
"""Longer than any call may take: its own deadline ends it."""
ENDS_PER_MESSAGE = 8
"""So many line ends count as a message: comments and blank lines are work too, and a message has six at most."""


@contextlib.asynccontextmanager
async def http_streams(
    endpoint: HttpEndpoint, message_bytes_max: int, refusals: Refusals, tokens: Tokens | None = None
) -> AsyncGenerator[tuple[Any, Any, Posts]]:
    """The SDK's streams over a bounded client, and the way for calls. Nothing is sent yet."""
    reach = reach_of(endpoint)
    inner = transport_to(reach)
    transport = _Bounded(inner, message_bytes_max, refusals, tokens)
    timeout = httpx2.Timeout(CONNECT_S, read=READ_S)
    headers = {**endpoint.headers, "accept-encoding": "identity"}
    client = httpx2.AsyncClient(transport=transport, headers=headers, timeout=timeout, trust_env=False)
    posts = Posts(endpoint, message_bytes_max, refusals, tokens, transport.plain, reach)
    async with (
        client,
        contextlib.aclosing(posts),
        streamable_http_client(
            endpoint.url, http_client=client, max_sse_event_size=message_bytes_max
        ) as streams,
    ):
        yield *streams, posts


class _Bounded(httpx2.AsyncBaseTransport):
    def __init__(
        self, inner: httpx2.AsyncHTTPTransport, most: int, refusals: Refusals, tokens: Tokens | None
    ) -> None:
        self._inner = inner
        self._most = most
        self._refusals = refusals
        self._tokens = tokens
        # Headers of the config are for the upstream alone, so the token endpoint is asked by a client without any.
        self.plain = httpx2.AsyncClient(
            transport=inner, timeout=CONNECT_S, trust_env=False, follow_redirects=False
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            response = await self._sent(request)
        except NoToken as error:
            return self._refusals.answer(request, f"{error}; nothing was sent")
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            if request.method != "POST":
                raise
            why = NOT_PUBLIC if str(error) == NOT_PUBLIC else "it could not be reached"
            return self._refusals.answer(request, f"{why}; nothing was sent")
        except httpx2.TransportError as error:
            if request.method != "POST":
                raise
            return self._refusals.answer(
                request, f"the connection was lost ({type(error).__name__})", taken=True
            )
        if request.method != "POST":
            return self._bounded(response)
        self._refusals.session = request.headers.get("mcp-session-id")
        self._refusals.redirected |= 300 <= response.status_code < 400
        if response.status_code in REFUSED:
            await response.aclose()
            if response.status_code == 404 and "mcp-session-id" in request.headers:
                self._refusals.session_lost = True
            return self._refusals.answer(request, f"it refused the request (HTTP {response.status_code})")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            await response.aclose()
            return self._refusals.answer(request, "it compressed an answer unasked", taken=True)
        return self._bounded(response)

    async def _sent(self, request: httpx2.Request) -> httpx2.Response:
        """Sent with a token where there is a client for them; with a new one, once, when it was not taken (401)."""
        if self._tokens is None:
            return await self._inner.handle_async_request(request)
        for last in (False, True):
            token = await self._tokens.bearer(self.plain)
            request.headers["authorization"] = f"Bearer {token}"
            response = await self._inner.handle_async_request(request)
            if response.status_code != 401 or last:
                break
            await response.aclose()
            self._tokens.refused(token)
        return response

    def _bounded(self, response: httpx2.Response) -> httpx2.Response:
        # An event stream may be long; the SDK bounds each event of it.
        if response.headers.get("content-type", "").lower().startswith("text/event-stream"):
            response.stream = Paced(cast("httpx2.AsyncByteStream", response.stream))
        else:
            response.stream = _Counted(cast("httpx2.AsyncByteStream", response.stream), self._most)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class Paced(httpx2.AsyncByteStream):
    """A stream of events, read no faster than messages may come."""

    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner
        self._pace = Pace()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            yield chunk
            ends = chunk.count(b"\n") + chunk.count(b"\r")
            await self._pace.keep(max(chunk.count(b"data:"), ends // ENDS_PER_MESSAGE))

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Counted(httpx2.AsyncByteStream):
    """A body that ends with an error once it is longer than `most`."""

    def __init__(self, inner: httpx2.AsyncByteStream, most: int) -> None:
        self._inner = inner
        self._left = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            self._left -= len(chunk)
            if self._left < 0:
                # A kind that the SDK answers the one request with, instead of ending them all.
                raise httpx2.StreamError("the answer is larger than is taken")
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()
