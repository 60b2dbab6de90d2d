"""What an upstream answered, as an `Outcome`: structured content where it declared some, else its texts.

Pictures, sounds and files are withheld, for nothing can search them for what must not be shown, but for the types that the
configuration lets through: those are marked `apart`. `_meta` is never read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import mcp_types as types

from comptroller_tools.source import EffectHappened, Outcome
from comptroller_tools.upstream.bounds import TooManyParts, check_parts
from comptroller_tools.upstream.cleaning import shown
from comptroller_tools.upstream.settings import ErrorsMean

__all__ = ["UNTRUSTED", "failed", "item_of", "outcome_of"]

UNTRUSTED = "untrusted"
"""The key in `Outcome.meta` that names the upstream whose words the value is made of."""
WITHHELD = "(withheld)"
APART = "apart"
"""The mark of an item whose type is let through. Only what we make of contents has it, never what an upstream structured."""
ITEMS_MAX = 1_000
ITEM_CHARS_MAX = 500


def outcome_of(
    upstream: str,
    result: types.CallToolResult,
    structured: bool,
    errors: ErrorsMean,
    media: Collection[str] = (),
) -> Outcome:
    """The outcome of a tool that answered. `structured` says whether it declared an output schema; `media` is let through."""
    try:
        check_parts(result.structured_content)  # every part of it is looked over, one by one
    except TooManyParts as many:
        effect = EffectHappened.UNKNOWN if result.is_error else EffectHappened.DONE
        return Outcome(effect, error=str(many), meta={"output_invalid": True, UNTRUSTED: upstream})
    if result.is_error:
        effect = EffectHappened.NONE if errors is ErrorsMean.NOT_DONE else EffectHappened.UNKNOWN
        return failed(upstream, effect, _text(result.content))
    value: Any = _without_media(result.structured_content) if structured else _from_content(result, media)
    if not isinstance(value, dict):
        error = "it declared structured output and returned none"
        return Outcome(EffectHappened.DONE, error=error, meta={"output_invalid": True, UNTRUSTED: upstream})
    return Outcome(EffectHappened.DONE, value=value, meta={UNTRUSTED: upstream})


def failed(upstream: str, effect: EffectHappened, said: str) -> Outcome:
    """A failure that the upstream put into words. They are told, quoted, and decide nothing."""
    told = shown(said) or "(nothing)"
    return Outcome(
        effect, error="the upstream reported an error", told_model=told, meta={UNTRUSTED: upstream}
    )


def _from_content(result: types.CallToolResult, media: Collection[str]) -> dict[str, Any]:
    other = [
        item_of(item, media) for item in result.content[:ITEMS_MAX] if not isinstance(item, types.TextContent)
    ]
    text = _text(result.content)
    if not result.content and result.structured_content is not None:
        import json

        text = json.dumps(result.structured_content, ensure_ascii=False)
    value: dict[str, Any] = {"text": text}
    if other:
        value["other"] = other
    return value


def _without_media(value: Any) -> Any:
    """Structured content with what looks like a picture, a sound or a blob of the protocol taken out, and our own mark."""
    if isinstance(value, list):
        return [_without_media(item) for item in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    members = cast("dict[str, Any]", value)
    binary = (
        {"blob"}
        if "uri" in members
        else {"data"}
        if members.get("type") in ("image", "audio")
        else set[str]()
    )
    return {
        name: WITHHELD if name in binary else _without_media(inner)
        for name, inner in members.items()
        if name != APART
    }


def _text(content: Sequence[types.ContentBlock]) -> str:
    return "\n".join(item.text for item in content if isinstance(item, types.TextContent))


def item_of(item: types.ContentBlock, media: Collection[str]) -> dict[str, Any]:
    """What else came: its kind and what is text of it; its bytes only where its type is let through."""
    if isinstance(item, types.TextContent):
        return {"kind": "text", "text": item.text}
    if isinstance(item, types.ResourceLink):
        return _short({"kind": "link", "uri": str(item.uri), "name": item.name})
    if isinstance(item, types.EmbeddedResource):
        return _resource(item.resource, media)
    named = _short({"kind": item.type, "mime_type": item.mime_type})
    if item.mime_type in media:
        return {**named, "data": item.data, APART: True}
    return {**named, "withheld": True}


def _resource(
    resource: types.TextResourceContents | types.BlobResourceContents, media: Collection[str]
) -> dict[str, Any]:
    mime_type = resource.mime_type or ""
    named = _short({"kind": "resource", "uri": str(resource.uri), "mime_type": mime_type})
    let_through = {APART: True} if mime_type in media else {}
    if isinstance(resource, types.TextResourceContents):
        return {**named, "text": resource.text, **let_through}
    return {**named, "blob": resource.blob, **let_through} if let_through else {**named, "withheld": True}


def _short(values: Mapping[str, str]) -> dict[str, Any]:
    return cast("dict[str, Any]", {key: value[:ITEM_CHARS_MAX] for key, value in values.items()})
