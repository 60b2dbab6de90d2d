"""One `tools/call` of the 2026 era, taken to its handler without the SDK's own HTTP layers and kernel.

`handle_modern_request` of the SDK reads and parses the body, which `framing` did already, then builds and takes apart
several models around the one answer: a third of what a governed read costs; its kernel (`serve_one`) prepares for every
method and handler there could be. A call with which nothing is wrong and whose answer is plain JSON needs none of it. Its
envelope and its parameters are checked by the SDK's functions and models, in the kernel's order. Whatever else arrives
goes the SDK's own way, which words every rejection; so this module refuses nothing. (MCP 2026-07-28, "Streamable HTTP".)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, TypeAlias, cast

import anyio
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.runner import modern_error_data
from mcp.server.session import ServerSession
from mcp.server.streamable_http import check_accept_headers
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    MCP_PARAM_HEADER_PREFIX,
    InboundModernRoute,
    classify_inbound_request,
)
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import CallToolRequestParams, ProgressToken, RequestId
from mcp_types.methods import validate_client_request
from mcp_types.version import LATEST_MODERN_VERSION
from starlette.requests import Request
from starlette.types import Scope

from comptroller_audit.vocabulary import JsonObject
from comptroller_server.face.http_sessions import SESSION_HEADER
from comptroller_server.face.protocol import GovernedServer

__all__ = ["Exchange", "answered", "exchange_in"]

_METHOD: Final = "tools/call"
_JSON: Final = b"application/json"
_ROUTING: Final = b"mcp-"
_PARAM_HEADERS: Final = MCP_PARAM_HEADER_PREFIX.lower().encode()
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
_Route: TypeAlias = InboundModernRoute


@dataclass(slots=True)
class Exchange:
    """What the SDK's kernel asks of the request it serves (`mcp.shared.dispatcher.DispatchContext`).

    Nothing can be sent on the way of a plain answer: `wants_stream` took those who want to be told something.
    """

    request_id: RequestId
    params: JsonObject
    route: _Route
    transport: TransportContext
    message_metadata: ServerMessageMetadata
    progress_token: ProgressToken | None = None
    can_send_request: bool = False
    cancel_requested: anyio.Event = field(default_factory=anyio.Event)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        raise NoBackChannelError(method)

    async def notify(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> None:
        """There is no stream to tell it on."""

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """There is no stream to tell it on."""


def exchange_in(server: GovernedServer, message: JsonObject, scope: Scope) -> Exchange | None:
    """The call that `message` is, or None when the SDK has to look at it itself.

    `message` is a valid JSON-RPC message. `scope` is what the SDK would get, with the proved subject in it.
    """
    if message.get("method") != _METHOD or "id" not in message:
        return None
    headers = _routing_headers(cast("Sequence[tuple[bytes, bytes]]", scope["headers"]))
    if headers is None or headers.get("mcp-protocol-version") != LATEST_MODERN_VERSION:
        return None
    params = message.get("params")
    if not isinstance(params, dict) or not isinstance(tool := params.get("name"), str):
        return None
    route = classify_inbound_request(message, headers=headers)
    if not isinstance(route, InboundModernRoute) or server.header_schema(tool) is not None:
        return None
    request = Request(scope)
    return Exchange(
        request_id=cast("RequestId", message["id"]),
        params=params,
        route=route,
        transport=TransportContext(kind="streamable-http", can_send_request=False, headers=request.headers),
        message_metadata=ServerMessageMetadata(request_context=request),
    )


def _routing_headers(raw: Sequence[tuple[bytes, bytes]]) -> Mapping[str, str] | None:
    """The `Mcp-*` headers, or None where the SDK has to look at the request: readers could disagree about one, or it is no JSON."""
    headers, types, accepts = dict[str, str](), list[bytes](), list[bytes]()
    for raw_name, value in raw:
        name = raw_name.lower()
        if name == b"content-type":
            types.append(value)
        elif name == b"accept":
            accepts.append(value)
        elif name.startswith(_ROUTING):
            key = name.decode("latin-1")
            if key in headers:
                return None
            if name == SESSION_HEADER or name.startswith(_PARAM_HEADERS):
                return None
            headers[key] = value.decode("latin-1")
    if len(types) != 1 or not types[0].lower().startswith(_JSON):
        return None
    return headers if len(accepts) == 1 and _takes_json(accepts[0]) else None


@lru_cache(maxsize=64)
def _takes_json(accept: bytes) -> bool:
    """As the SDK reads that header; a client sends the same one with each request."""
    return check_accept_headers(Request({"type": "http", "headers": [(b"accept", accept)]}))[0]


async def answered(server: GovernedServer, exchange: Exchange) -> tuple[int, bytes]:
    """The HTTP status and the JSON-RPC answer. Raises nothing but cancellation: an error is an answer."""
    body: dict[str, Any] = {"jsonrpc": "2.0", "id": exchange.request_id}
    status = 200
    try:
        body["result"] = await _result(server, exchange)
    except Exception as error:  # noqa: BLE001 -- the SDK's own table says what the client sees of it
        data = modern_error_data(error)
        status = ERROR_CODE_HTTP_STATUS.get(data.code, 200)
        body["error"] = data.model_dump(mode="json", by_alias=True, exclude_none=True)
    return status, _encode(body).encode()


async def _result(server: GovernedServer, exchange: Exchange) -> JsonObject:
    """What `serve_one` does of a call, in its order. Raises what it raises."""
    route = exchange.route
    validate_client_request(_METHOD, route.protocol_version, exchange.params)
    params = CallToolRequestParams.model_validate(exchange.params, by_name=False)
    connection = Connection.from_envelope(
        route.protocol_version, route.client_info, route.client_capabilities
    )
    ctx = ServerRequestContext[Any, Any](
        session=ServerSession(exchange, connection, request_meta=params.meta),
        lifespan_context={},
        method=_METHOD,
        params=exchange.params,
        request_id=exchange.request_id,
        meta=params.meta,
        protocol_version=route.protocol_version,
        request=exchange.message_metadata.request_context,
    )
    return await server.call_result(ctx, params)
