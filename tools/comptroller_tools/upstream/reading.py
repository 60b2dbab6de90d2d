"""One `resources/read`, `prompts/get` or `completion/complete` of an upstream, as an `Outcome`. None of them changes anything.

Texts lose what nobody sees. What is no text is withheld, but for blobs of the types that the config lets through.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Collection, Mapping
from typing import Any

import mcp_types as types
import structlog
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from comptroller_tools.source import Action, EffectHappened, Outcome
from comptroller_tools.upstream.asking import Asking
from comptroller_tools.upstream.cleaning import clean, seen
from comptroller_tools.upstream.definitions import Kind, kind_of
from comptroller_tools.upstream.link import Link
from comptroller_tools.upstream.progress import handed_on
from comptroller_tools.upstream.relayed import COMPLETIONS
from comptroller_tools.upstream.results import ITEM_CHARS_MAX, ITEMS_MAX, UNTRUSTED, failed, item_of
from comptroller_tools.upstream.rounds import in_rounds

__all__ = ["ask_for"]

COMPLETIONS_MAX = 100
"""Values that an answer may hold (MCP "Completion")."""

_log = structlog.stdlib.get_logger()


async def ask_for(
    upstream: str, link: Link, action: Action, media: Collection[str], asking: Asking | None = None
) -> Outcome:
    """Read a resource, get a prompt, or complete an argument. Raises nothing but cancellation. `media` are types whose blobs are let through."""
    try:
        if action.tool == COMPLETIONS:
            return _completion(upstream, await _complete(link, action.arguments))
        relay = handed_on(action)
        if kind_of(action.tool) is Kind.PROMPT:
            name = action.tool.removeprefix(Kind.PROMPT.prefix)
            got = await in_rounds(asking, lambda given: link.prompt(name, action.arguments, relay, given))
            return _prompt(upstream, got, media)
        address = str(action.arguments["uri"])
        read = await in_rounds(asking, lambda given: link.read(address, relay, given))
        return _resource(upstream, address, read, media)
    except MCPError as error:
        if link.not_taken(error):
            text = f"`{upstream}`: {error.error.message}"
            return Outcome(EffectHappened.NONE, error=text, meta={"temporary": True})
        await asyncio.sleep(0)  # a connection that ended says so after its requests did
        if not link.alive:
            return Outcome(EffectHappened.UNKNOWN, error=f"`{upstream}` went away: {link.why_ended}")
        return failed(upstream, EffectHappened.NONE, error.error.message)
    except ValidationError:
        return _unusable(upstream, "the upstream's answer is not of the protocol")
    except Exception as error:  # noqa: BLE001 -- the SDK's own; its text may quote anything
        _log.warning("a request to an upstream broke", source=upstream, error=type(error).__name__)
        text = f"the connection to `{upstream}` broke ({type(error).__name__})"
        return Outcome(EffectHappened.UNKNOWN, error=text)


def _resource(
    upstream: str,
    address: str,
    result: types.ReadResourceResult | types.InputRequiredResult,
    media: Collection[str],
) -> Outcome:
    if not isinstance(result, types.ReadResourceResult):
        return _unusable(upstream, "the upstream asked a question back that nobody answered")
    contents = result.contents[:ITEMS_MAX]
    if any(one.uri != address for one in contents):
        return _unusable(upstream, "the upstream answered with another address than it was asked for")
    texts = [one for one in contents if isinstance(one, types.TextResourceContents)]
    value: dict[str, Any] = {"uri": address, "text": "\n".join(seen(one.text) for one in texts)}
    if texts and texts[0].mime_type:
        value["mime_type"] = clean(texts[0].mime_type, ITEM_CHARS_MAX)
    other = [_blob(one, media) for one in contents if isinstance(one, types.BlobResourceContents)]
    return _read(upstream, {**value, "other": other} if other else value)


def _blob(one: types.BlobResourceContents, media: Collection[str]) -> dict[str, Any]:
    mime_type = clean(one.mime_type or "", ITEM_CHARS_MAX)
    named: dict[str, Any] = {"kind": "blob", "mime_type": mime_type}
    try:
        size = len(base64.b64decode(one.blob, validate=True))
    except (binascii.Error, ValueError):
        return {**named, "withheld": True}
    return {**named, "blob": one.blob} if mime_type in media else {**named, "bytes": size, "withheld": True}


def _prompt(
    upstream: str, result: types.GetPromptResult | types.InputRequiredResult, media: Collection[str]
) -> Outcome:
    if not isinstance(result, types.GetPromptResult):
        return _unusable(upstream, "the upstream asked a question back that nobody answered")
    value: dict[str, Any] = {"messages": [_message(one, media) for one in result.messages[:ITEMS_MAX]]}
    if result.description:
        value["description"] = clean(result.description)
    return _read(upstream, value)


def _message(one: types.PromptMessage, media: Collection[str]) -> dict[str, Any]:
    """A text, or an item as a tool's result has it. What an embedded file says is told only where its type is let through."""
    content = one.content
    if isinstance(content, types.TextContent):
        return {"role": one.role, "text": seen(content.text)}
    item: dict[str, Any] = item_of(content, media)
    if "apart" not in item:
        item = {name: item[name] for name in ("kind", "mime_type") if name in item}
        item["withheld"] = True
    shown: dict[str, Any] = {
        name: clean(item[name], ITEM_CHARS_MAX) for name in ("mime_type", "uri") if name in item
    }
    text = {"text": seen(item["text"])} if "text" in item else {}
    return {"role": one.role, **item, **shown, **text}


async def _complete(link: Link, arguments: Mapping[str, Any]) -> types.CompleteResult:
    accepted = str(arguments["accepted"])
    kind = kind_of(accepted)
    own = accepted.removeprefix(kind.prefix)
    ref = types.PromptReference(name=own) if kind is Kind.PROMPT else types.ResourceTemplateReference(uri=own)
    argument = types.CompletionArgument(name=arguments["argument"], value=arguments["value"])
    return await link.complete(ref, argument, arguments.get("context", {}))


def _completion(upstream: str, result: types.CompleteResult) -> Outcome:
    """Values lose what nobody sees, line ends too: they are put into fields."""
    given = result.completion
    value: dict[str, Any] = {"values": [clean(one, ITEM_CHARS_MAX) for one in given.values[:COMPLETIONS_MAX]]}
    if given.total is not None and given.total >= 0:
        value["total"] = given.total
    if given.has_more is not None or len(given.values) > COMPLETIONS_MAX:
        value["has_more"] = bool(given.has_more) or len(given.values) > COMPLETIONS_MAX
    return _read(upstream, value)


def _read(upstream: str, value: dict[str, Any]) -> Outcome:
    return Outcome(EffectHappened.DONE, value=value, meta={UNTRUSTED: upstream})


def _unusable(upstream: str, error: str) -> Outcome:
    meta = {"output_invalid": True, UNTRUSTED: upstream}
    return Outcome(EffectHappened.DONE, error=error, meta=meta)
