"""Resources and prompts on the wire: each reading is one governed call, and what comes back is marked as somebody else's.

Unlike a tool's result these have no place for an error, so a refusal is a JSON-RPC error with the whole sentence, and
its details in `data`. (MCP 2025-11-25 and 2026-07-28, "Resources" and "Prompts".)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, cast

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    BlobResourceContents,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    ContentBlock,
    GetPromptRequestParams,
    GetPromptResult,
    InputRequiredResult,
    InputResponseRequestParams,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    Prompt,
    PromptArgument,
    PromptMessage,
    PromptReference,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextContent,
    TextResourceContents,
)

from comptroller_audit.vocabulary import Code, JsonObject, Subject
from comptroller_server.call.answers import META_REFUSAL
from comptroller_server.call.apart import is_whole
from comptroller_server.call.proposal import Answer
from comptroller_server.call.upstream_words import META_UNTRUSTED
from comptroller_server.face.blocks import block_of, withheld
from comptroller_server.face.elicitation import is_modern
from comptroller_server.upstreams.offers import OfferedResource, Offers, Reading
from comptroller_tools.upstream.definitions import Kind

__all__ = ["META_REFS", "OUR_META", "RESOURCE_NOT_FOUND", "Propose", "Relay"]

OUR_META = "comptroller/"
"""Every `_meta` key of ours starts with this, and no other key leaves in an answer."""
META_REFS = "comptroller/refs"
RESOURCE_NOT_FOUND = -32002
"""What a resource that is not there is answered with in the 2025 era; later it is "invalid params"."""
LIST_TTL_MS = 5_000
_NO_READER, _NO_PROMPT = "resources/read", "prompts/get"
"""What is proposed where nothing is offered: no tool can have these names, so it is refused, counted and recorded."""
SHOWN_CHARS_MAX = 200

RequestContext: TypeAlias = ServerRequestContext[Any, Any]
Propose: TypeAlias = Callable[
    [RequestContext, InputResponseRequestParams | None, str, JsonObject, Kind],
    Awaitable[Answer | InputRequiredResult],
]
"""Puts one call of a tool through the pipeline, for whoever asked, or takes one up again that asked something."""


class Relay:
    """The handlers. What is offered comes from `offers`, what is answered from `propose`."""

    def __init__(
        self, offers: Offers | None, subject_of: Callable[[RequestContext], Subject], propose: Propose
    ) -> None:
        self._offers = offers
        self._subject_of = subject_of
        self._propose = propose

    def handlers(self) -> Mapping[str, Any]:
        """For the SDK's server, which advertises what has a handler: nothing where nothing is offered."""
        found: dict[str, Any] = {}
        if self._offers is not None and self._offers.has_resources:
            found["on_list_resources"] = self._list_resources
            found["on_list_resource_templates"] = self._list_templates
            found["on_read_resource"] = self._read
        if self._offers is not None and self._offers.has_prompts:
            found["on_list_prompts"] = self._list_prompts
            found["on_get_prompt"] = self._get
        if self._offers is not None and self._offers.has_completions:
            found["on_completion"] = self._complete
        return found

    @property
    def offers(self) -> Offers:
        assert self._offers is not None
        return self._offers

    async def _list_resources(
        self, ctx: RequestContext, params: PaginatedRequestParams | None
    ) -> ListResourcesResult:
        _one_page(params)
        listed = [
            Resource(uri=one.uri, **_described(one)) for one in self.offers.resources(self._subject_of(ctx))
        ]
        return ListResourcesResult(resources=listed, ttl_ms=LIST_TTL_MS, cache_scope="private")

    async def _list_templates(
        self, ctx: RequestContext, params: PaginatedRequestParams | None
    ) -> ListResourceTemplatesResult:
        _one_page(params)
        listed = [
            ResourceTemplate(uri_template=one.uri, **_described(one))
            for one in self.offers.templates(self._subject_of(ctx))
        ]
        return ListResourceTemplatesResult(
            resource_templates=listed, ttl_ms=LIST_TTL_MS, cache_scope="private"
        )

    async def _list_prompts(
        self, ctx: RequestContext, params: PaginatedRequestParams | None
    ) -> ListPromptsResult:
        _one_page(params)
        listed = [
            Prompt(
                name=one.name,
                description=one.description or None,
                arguments=[
                    PromptArgument(name=name, description=text or None, required=required)
                    for name, text, required in one.arguments
                ],
            )
            for one in self.offers.prompts(self._subject_of(ctx))
        ]
        return ListPromptsResult(prompts=listed, ttl_ms=LIST_TTL_MS, cache_scope="private")

    async def allowed(self, ctx: RequestContext, uri: str) -> Reading:
        """One governed reading whose contents go nowhere. Raises `MCPError` where it is refused."""
        reading, answer = await self._governed(ctx, None, uri)
        if isinstance(answer, InputRequiredResult):  # there is nobody to ask where nothing is told
            raise MCPError(
                INVALID_PARAMS, "Its server asks something first: read it before you subscribe to it."
            )
        _done(answer)
        assert reading is not None
        return reading

    async def _governed(
        self, ctx: RequestContext, params: ReadResourceRequestParams | None, uri: str
    ) -> tuple[Reading | None, Answer | InputRequiredResult]:
        reading = self.offers.reading(uri)
        tool, own = (reading.tool, reading.uri) if reading is not None else (_NO_READER, uri)
        answer = await self._propose(ctx, params, tool, {"uri": own}, Kind.RESOURCE)
        if isinstance(answer, Answer) and answer.unknown_tool:
            code = INVALID_PARAMS if is_modern(ctx) else RESOURCE_NOT_FOUND
            raise MCPError(code, f"Unknown resource: {uri[:SHOWN_CHARS_MAX]}")
        return reading, answer

    async def _read(
        self, ctx: RequestContext, params: ReadResourceRequestParams
    ) -> ReadResourceResult | InputRequiredResult:
        _, answer = await self._governed(ctx, params, params.uri)
        if isinstance(answer, InputRequiredResult):
            return answer
        value = _done(answer)
        marks: dict[str, Any] = {META_UNTRUSTED: answer.meta.get(META_UNTRUSTED)}
        contents: list[TextResourceContents | BlobResourceContents] = []
        others = cast("list[dict[str, Any]]", value.get("other", []))
        text = str(value.get("text", ""))
        if text or not others:
            mime_type = value.get("mime_type")
            contents.append(TextResourceContents(uri=params.uri, mime_type=mime_type, text=text, _meta=marks))
        contents += [_other(params.uri, one, marks) for one in others]
        return ReadResourceResult(contents=contents, ttl_ms=0, cache_scope="private", _meta=_meta(answer))

    async def _get(
        self, ctx: RequestContext, params: GetPromptRequestParams
    ) -> GetPromptResult | InputRequiredResult:
        arguments: JsonObject = dict(params.arguments or {})
        answer = await self._propose(ctx, params, params.name or _NO_PROMPT, arguments, Kind.PROMPT)
        if isinstance(answer, InputRequiredResult):
            return answer
        if answer.unknown_tool:
            raise MCPError(INVALID_PARAMS, f"Unknown prompt: {params.name[:SHOWN_CHARS_MAX]}")
        value = _done(answer)
        marks: dict[str, Any] = {META_UNTRUSTED: answer.meta.get(META_UNTRUSTED)}
        messages = [
            PromptMessage(role=one["role"], content=_content(one, marks))
            for one in cast("list[dict[str, Any]]", value.get("messages", []))
        ]
        return GetPromptResult(description=value.get("description"), messages=messages, _meta=_meta(answer))

    async def _complete(self, ctx: RequestContext, params: CompleteRequestParams) -> CompleteResult:
        """Where no entry completes for this source nothing is asked, and nothing is known."""
        ref = params.ref
        kind, named = (
            (Kind.PROMPT, ref.name) if isinstance(ref, PromptReference) else (Kind.TEMPLATE, ref.uri)
        )
        found = self.offers.completing(self._subject_of(ctx), kind, named)
        if found is None:
            raise MCPError(INVALID_PARAMS, f"Unknown {kind}: {named[:SHOWN_CHARS_MAX]}")
        if found.tool is None:
            return CompleteResult(completion=Completion(values=[]))
        arguments: JsonObject = {
            "accepted": found.accepted,
            "argument": params.argument.name,
            "value": params.argument.value,
        }
        if params.context is not None and params.context.arguments:
            arguments["context"] = dict(params.context.arguments)
        answer = await self._propose(ctx, None, found.tool, arguments, Kind.COMPLETION)
        assert isinstance(answer, Answer)  # a completion cannot ask
        value = _done(answer)
        completion = Completion(
            values=value.get("values", []), total=value.get("total"), has_more=value.get("has_more")
        )
        return CompleteResult(completion=completion, _meta=_meta(answer))


def _one_page(params: PaginatedRequestParams | None) -> None:
    if params is not None and params.cursor is not None:
        raise MCPError(INVALID_PARAMS, "Invalid cursor: this list has one page; ask again without a cursor.")


def _described(one: OfferedResource) -> dict[str, Any]:
    return {
        "name": one.name or one.uri,
        "title": one.title or None,
        "description": one.description or None,
        "mime_type": one.mime_type or None,
    }


def _done(answer: Answer) -> dict[str, Any]:
    """What was read. Raises `MCPError` for a refusal, in its own words."""
    if not answer.is_error and answer.structured is not None:
        return cast("dict[str, Any]", answer.structured)
    details = answer.meta.get(META_REFUSAL)
    code = details.get("code") if isinstance(details, dict) else None
    wrong = INVALID_PARAMS if code == Code.INVALID_ARGUMENTS else INTERNAL_ERROR
    raise MCPError(wrong, answer.text, _ours(answer))


def _meta(answer: Answer) -> dict[str, Any]:
    refs = answer.structured.get("refs") if answer.structured is not None else None
    return {**_ours(answer), **({META_REFS: refs} if refs else {})}


def _ours(answer: Answer) -> dict[str, Any]:
    return {key: value for key, value in answer.meta.items() if key.startswith(OUR_META)}


def _other(
    uri: str, one: Mapping[str, Any], marks: dict[str, Any]
) -> TextResourceContents | BlobResourceContents:
    """A blob that is let through, as it came, or a sentence in its place."""
    mime_type = str(one.get("mime_type") or "")
    blob = one.get("blob")
    if isinstance(blob, str) and is_whole(one):
        return BlobResourceContents(uri=uri, mime_type=mime_type or None, blob=blob, _meta=marks)
    return TextResourceContents(uri=uri, mime_type="text/plain", text=withheld(one), _meta=marks)


def _content(one: Mapping[str, Any], marks: dict[str, Any]) -> ContentBlock:
    """What a message of a prompt says."""
    if "kind" not in one and "text" in one:
        return TextContent(text=str(one["text"]), _meta=marks)
    return block_of(one, marks)
