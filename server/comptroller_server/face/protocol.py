"""The MCP face: what a client sees of the pipeline, the same on every transport and in both protocol eras.

It lists tools as one principal sees them, hands each `tools/call` to the `Governor`, and turns the `Answer` into
a result. It decides nothing. (MCP 2025-11-25 and 2026-07-28, "Tools".)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import cached_property
from typing import Any, NoReturn, TypeAlias, cast

import structlog
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    SERVER_INFO_META_KEY,
    CallToolRequestParams,
    CallToolResult,
    ErrorData,
    InputRequiredResult,
    InputResponseRequestParams,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)
from mcp_types.methods import serialize_server_result
from mcp_types.version import KNOWN_PROTOCOL_VERSIONS, LATEST_MODERN_VERSION
from pydantic import TypeAdapter, ValidationError

from comptroller_audit.vocabulary import Effect, JsonObject, Subject
from comptroller_server.call.intake import RESUME
from comptroller_server.call.proposal import AdvertisedTool, Answer, Governor, Proposal
from comptroller_server.call.upstream_words import META_UNTRUSTED
from comptroller_server.face.blocks import block_of
from comptroller_server.face.elicitation import (
    ELICITATION_WAIT_S,
    Pushes,
    can_ask,
    can_open,
    confirmation_of,
    input_required,
    is_modern,
)
from comptroller_server.face.handles import Handles, TasksTerms
from comptroller_server.face.notices import Notices
from comptroller_server.face.relay import OUR_META, Relay
from comptroller_server.face.rounds import Rounds, Running, log_error
from comptroller_server.telemetry.trace_context import header_in
from comptroller_server.upstreams.news import News
from comptroller_server.upstreams.offers import Offers
from comptroller_tools.upstream.definitions import Kind

__all__ = [
    "LIST_TTL_MS",
    "OUR_META",
    "TASK_IN_SCOPE",
    "GovernedServer",
    "RequestContext",
    "SubjectOf",
    "asking_subject",
    "build_server",
    "not_a_message",
    "parse_message",
]

RequestContext: TypeAlias = ServerRequestContext[Any, Any]
SubjectOf: TypeAlias = Callable[[RequestContext], Subject]
"""Who asks, as the transport proved it. Raises `IdentityError` when the transport proved nobody."""

TASK_IN_SCOPE = "comptroller.task"
"""Where the HTTP transport leaves the header `Comptroller-Task`."""

LIST_TTL_MS = 5_000
"""How long a client may keep a tool list, milliseconds. Short, because a switch or a policy can change it."""

TOOL_NAME_CHARS_MAX = 128
"""The longest tool name (MCP 2026-07-28, "Tool names"); longer ones are quoted cut."""

_INSTRUCTIONS = (
    "Every tool here is governed: calls are checked against policy and budgets, verified and recorded. "
    "A refusal says why and what to do next. If a call is pending approval, do not repeat it: "
    "call resume_call with the id it gives."
)
asking_subject: ContextVar[Subject | None] = ContextVar("asking_subject", default=None)
"""Set by the HTTP transport for the one check the SDK makes before it dispatches (see `header_schema`)."""

_response: TypeAdapter[JSONRPCResponse | JSONRPCError] = TypeAdapter(JSONRPCResponse | JSONRPCError)
_log = structlog.get_logger("comptroller.protocol")


class GovernedServer(Server[Any]):
    """The SDK's low-level server with the pipeline behind it. Calls outlive the request that asked for them."""

    def __init__(
        self,
        governor: Governor,
        subject_of: SubjectOf,
        version: str,
        pushes: Pushes,
        offers: Offers | None = None,
        news: News | None = None,
        may_ask: bool = False,
        tasks: TasksTerms | None = None,
    ) -> None:
        self._rounds = Rounds(governor, pushes, may_ask=may_ask)
        self._handles = None if tasks is None else Handles(tasks, self._rounds, self._resume, _shaped)
        relay = Relay(offers, subject_of, self._read)
        tells = news is not None and news.has_sources
        self._notices = (
            Notices(governor, news, subject_of, relay.allowed) if news is not None and tells else None
        )
        self._governor = governor
        self._subject_of = subject_of
        self._declares_headers: dict[str, tuple[Mapping[str, Any], bool]] = {}
        super().__init__(
            "comptroller",
            version=version,
            instructions=_INSTRUCTIONS,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            # Without this the SDK runs the whole `tools/list` before every modern HTTP call.
            get_tool_input_schema=self.header_schema,
            **relay.handlers(),
        )
        if self._notices is not None:
            self._notices.register(self)
        if self._handles is not None:
            self._handles.register(self)
        # The SDK's tracing puts raw exception texts into spans; spans are a sink like any other.
        self.middleware.clear()

    @property
    def relays(self) -> bool:
        """Whether upstreams may have something to say on the way of any call."""
        return self._notices is not None

    @property
    def in_flight(self) -> int:
        """Calls that have not ended, those whose caller has gone included."""
        return self._rounds.in_flight

    def stop_asking(self) -> None:
        """Questions to the person at a client go unanswered from here on, and streams of news end."""
        self._rounds.stop_asking()
        if self._notices is not None:
            self._notices.close()

    def create_initialization_options(self, *given: Any, **named: Any) -> InitializationOptions:
        """What a client of the 2025 era is told of us: over HTTP the SDK asks without naming what can change."""
        if not given and "notification_options" not in named and self._notices is not None:
            named["notification_options"] = NotificationOptions(True, True, True)
        return super().create_initialization_options(*given, **named)

    async def drain(self, wait_s: float) -> int:
        """Wait until every call has ended, `wait_s` seconds at most. Returns how many have not."""
        return await self._rounds.drain(wait_s)

    async def _list_tools(
        self, ctx: RequestContext, params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        if params is not None and params.cursor is not None:
            raise MCPError(
                INVALID_PARAMS, "Invalid cursor: this list has one page; ask again without a cursor."
            )
        try:
            tools = [_advertise(tool) for tool in self._governor.listing(self._subject_of(ctx))]
        except Exception as error:  # noqa: BLE001 - whatever it is, the client must not see it
            _fail("tools/list", error)
        # Private: the list is this principal's, and clients and gateways cache it.
        return ListToolsResult(tools=tools, ttl_ms=LIST_TTL_MS, cache_scope="private")

    async def _call_tool(
        self, ctx: RequestContext, params: CallToolRequestParams
    ) -> CallToolResult | InputRequiredResult:
        answer = await self._answered(ctx, params)
        # The SDK sends a handle as it is; its types know none.
        return _result(answer) if isinstance(answer, Answer) else cast("InputRequiredResult", answer)

    async def call_result(self, ctx: RequestContext, params: CallToolRequestParams) -> JsonObject:
        """The result of a `tools/call` of the 2026 era as the SDK shapes it for the wire. Raises `MCPError`."""
        answer = await self._answered(ctx, params)
        if isinstance(answer, InputRequiredResult):
            result = _on_the_wire(answer, ctx.protocol_version)
        elif isinstance(answer, Answer):
            result = _shaped(answer, ctx.protocol_version)
        else:
            result = answer
        result["_meta"] = {**cast("JsonObject", result.get("_meta", {})), SERVER_INFO_META_KEY: self._stamp}
        return result

    @cached_property
    def _stamp(self) -> JsonObject:
        """Who we are, for answers that are written down at once: the SDK makes each a copy of its own."""
        return self.server_info_stamp

    async def _answered(
        self, ctx: RequestContext, params: CallToolRequestParams
    ) -> Answer | InputRequiredResult | JsonObject:
        """The answer of a call, a question first, or a handle where its client takes one."""
        try:
            proposal = self._proposal(
                ctx, params, params.name, params.arguments or {}, asks=can_ask(ctx), opens=can_open(ctx)
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the client must not see it
            _fail("tools/call", error)
        handles = self._handles
        patience_s = None if handles is None else handles.patience_s(ctx, proposal.subject)
        answer = await self._rounds.answer(ctx, params, proposal, self._log_level(ctx), patience_s)
        if handles is not None and isinstance(answer, Running):
            return handles.of_running(proposal.subject, answer)
        assert not isinstance(answer, Running)
        if isinstance(answer, InputRequiredResult):
            return answer
        if handles is not None and (handle := await handles.of_waiting(ctx, proposal.subject, answer)):
            return handle
        if answer.asks is not None and is_modern(ctx):
            return input_required(ctx, answer.asks)
        if answer.unknown_tool:
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {_cut(params.name, TOOL_NAME_CHARS_MAX)}")
        return answer

    async def _read(
        self,
        ctx: RequestContext,
        params: InputResponseRequestParams | None,
        tool: str,
        arguments: JsonObject,
        kind: Kind,
    ) -> Answer | InputRequiredResult:
        """One reading of a resource or a prompt. We have no form to ask with here; its upstream may."""
        proposal = self._proposal(ctx, params, tool, arguments, kind)
        answer = await self._rounds.answer(ctx, params, proposal, self._log_level(ctx))
        assert not isinstance(answer, Running)  # no patience was named
        return answer

    def _resume(self, ctx: RequestContext, arguments: JsonObject) -> Proposal:
        """`resume_call` by who asks."""
        try:
            return self._proposal(ctx, None, RESUME, arguments)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client must not see it
            _fail(ctx.method, error)

    def _proposal(
        self,
        ctx: RequestContext,
        params: InputResponseRequestParams | None,
        tool: str,
        arguments: JsonObject,
        kind: Kind = Kind.TOOL,
        *,
        asks: bool = False,
        opens: bool = False,
    ) -> Proposal:
        return Proposal(
            subject=self._subject_of(ctx),
            tool=tool,
            arguments=arguments,
            meta=_wire_meta(ctx),
            confirmation=None if params is None else confirmation_of(ctx, params),
            task_header=_scope(ctx).get(TASK_IN_SCOPE),
            by_token=ctx.request is not None,
            trace_header=header_in(_scope(ctx)),
            protocol=_version(ctx),
            kind=kind,
            can_ask=asks,
            can_open=opens,
        )

    def _log_level(self, ctx: RequestContext) -> str | None:
        return None if self._notices is None else self._notices.level_of(ctx)

    def header_schema(self, name: str) -> Mapping[str, Any] | None:
        """The schema for the SDK's `Mcp-Param-*` check, or None where there is nothing to check.

        The SDK asks by name alone. A hidden tool whose schema declares headers would answer with a header
        mismatch where a missing one answers "unknown", so only what the asking principal is shown counts.
        """
        schema = self._governor.input_schema(name)
        if schema is None or not self._has_headers(name, schema):
            return None
        subject = asking_subject.get()
        if subject is None or all(tool.name != name for tool in self._governor.listing(subject)):
            return None
        return schema

    def _has_headers(self, name: str, schema: Mapping[str, Any]) -> bool:
        known = self._declares_headers.get(name)
        if known is None or known[0] is not schema:
            known = (schema, _mentions(schema, "x-mcp-header"))
            self._declares_headers[name] = known
        return known[1]


def build_server(
    governor: Governor,
    *,
    subject_of: SubjectOf,
    version: str,
    elicitation_wait_s: float = ELICITATION_WAIT_S,
    offers: Offers | None = None,
    news: News | None = None,
    may_ask: bool = False,
    tasks: TasksTerms | None = None,
) -> GovernedServer:
    """The MCP server for both protocol eras; give it to `serve_stdio` or to `http.build_app`.

    `offers` are resources and prompts of upstreams; without any, the server says that it has none. `news` is what
    upstreams say unasked; without any, clients are told that no list changes. `may_ask` says that some upstream may ask
    clients something while a call runs. With `tasks` the Tasks extension is spoken.
    """
    pushes = Pushes(elicitation_wait_s)
    return GovernedServer(governor, subject_of, version, pushes, offers, news, may_ask, tasks)


def parse_message(message: JsonObject) -> JSONRPCMessage | None:
    """A framed object as the JSON-RPC message it is, or None when it is none.

    What has an `id` is a request (JSON-RPC 2.0 §4.1). The SDK's own parser takes one whose id is null, a
    float or a boolean for a notification, and then nobody answers it.
    """
    try:
        if "method" not in message:
            return _response.validate_python(message, by_name=False)
        kind = JSONRPCRequest if "id" in message else JSONRPCNotification
        return kind.model_validate(message, by_name=False)
    except ValidationError:
        return None


def not_a_message(message: JsonObject) -> JSONRPCError:
    """What answers an object that `parse_message` does not know, with its id if it has a usable one."""
    given = message.get("id")
    request = given if isinstance(given, str | int) and not isinstance(given, bool) else None
    text = "Not a JSON-RPC 2.0 message; send a request with a text or integer id, or a notification without."
    return JSONRPCError(jsonrpc="2.0", id=request, error=ErrorData(code=INVALID_REQUEST, message=text))


def _advertise(tool: AdvertisedTool) -> Tool:
    return Tool(
        name=tool.name,
        description=tool.description,
        input_schema=dict(tool.input_schema),
        output_schema=None if tool.output_schema is None else dict(tool.output_schema),
        annotations=_annotations(tool.effect),
    )


def _annotations(effect: Effect) -> ToolAnnotations:
    """Hints from the operator's classification, never from an upstream's. Nothing is claimed idempotent."""
    if effect is Effect.READ:
        return ToolAnnotations(read_only_hint=True, destructive_hint=False)
    return ToolAnnotations(read_only_hint=False, destructive_hint=effect is not Effect.CREATE)


def _result(answer: Answer) -> CallToolResult:
    """An error carries no structured content: several clients would show that in place of the text."""
    marks: dict[str, Any] = {META_UNTRUSTED: answer.meta.get(META_UNTRUSTED)}
    return CallToolResult(
        content=[TextContent(text=answer.text), *(block_of(item, marks) for item in answer.beside)],
        structured_content=None if answer.is_error else answer.structured,
        is_error=answer.is_error,
        _meta=_our_meta(answer) or None,
    )


def _shaped(answer: Answer, version: str = LATEST_MODERN_VERSION) -> JsonObject:
    """The result of a call of the 2026 era. Raises `MCPError` for a tool that is not there."""
    if answer.unknown_tool:
        raise MCPError(INVALID_PARAMS, "Unknown tool; list the tools again.")
    return _on_the_wire(_result(answer), version) if answer.beside else _plain_result(answer)


def _on_the_wire(result: CallToolResult | InputRequiredResult, version: str) -> JsonObject:
    dumped = result.model_dump(by_alias=True, mode="json", exclude_none=True)
    return serialize_server_result("tools/call", version, dumped)


def _plain_result(answer: Answer) -> dict[str, Any]:
    """What the models would make of `_result`, without them: they take most of the time of an answer."""
    result: dict[str, Any] = {}
    if meta := _our_meta(answer):
        result["_meta"] = {key: value for key, value in meta.items() if value is not None}
    result["content"] = [{"text": answer.text, "type": "text"}]
    result["isError"] = answer.is_error
    result["resultType"] = "complete"
    if answer.structured is not None and not answer.is_error:
        result["structuredContent"] = answer.structured
    return result


def _our_meta(answer: Answer) -> JsonObject:
    return {key: value for key, value in answer.meta.items() if key.startswith(OUR_META)}


def _scope(ctx: RequestContext) -> Mapping[str, Any]:
    """The ASGI scope of an HTTP request; empty on stdio."""
    return cast("Mapping[str, Any]", getattr(ctx.request, "scope", {}))


def _version(ctx: RequestContext) -> str:
    version = ctx.protocol_version
    return version if version in KNOWN_PROTOCOL_VERSIONS else ""


def _wire_meta(ctx: RequestContext) -> Mapping[str, Any]:
    meta = ctx.params.get("_meta") if ctx.params else None
    return cast("Mapping[str, Any]", meta) if isinstance(meta, Mapping) else {}


def _mentions(value: object, key: str) -> bool:
    if isinstance(value, Mapping):
        inner = cast("Mapping[str, object]", value)
        return key in inner or any(_mentions(each, key) for each in inner.values())
    return isinstance(value, list) and any(_mentions(each, key) for each in cast("list[object]", value))


def _cut(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


def _fail(method: str, error: Exception) -> NoReturn:
    """On the 2025 wire the SDK would send the exception's own text; the client gets ours."""
    log_error(method, error)
    raise MCPError(
        INTERNAL_ERROR, "Internal error. Nothing was done; the operator's log says where."
    ) from None
