"""What an upstream answered, as an `Outcome`: structured content where it declared some, else its texts.

Pictures, sounds and blobs are withheld: nothing can search them for what must not be shown. `_meta` is never read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import mcp_types as types

from comptroller_tools.source import EffectHappened, Outcome
from comptroller_tools.upstream.cleaning import shown
from comptroller_tools.upstream.settings import ErrorsMean

__all__ = ["UNTRUSTED", "failed", "outcome_of"]

UNTRUSTED = "untrusted"
"""The key in `Outcome.meta` that names the upstream whose words the value is made of."""
WITHHELD = "(withheld)"
ITEMS_MAX = 1_000
ITEM_CHARS_MAX = 500


def outcome_of(upstream: str, result: types.CallToolResult, structured: bool, errors: ErrorsMean) -> Outcome:
    """The outcome of a tool that answered. `structured` says whether it declared an output schema."""
    if result.is_error:
        effect = EffectHappened.NONE if errors is ErrorsMean.NOT_DONE else EffectHappened.UNKNOWN
        return failed(upstream, effect, _text(result.content))
    value: Any = _without_media(result.structured_content) if structured else _from_content(result)
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


def _from_content(result: types.CallToolResult) -> dict[str, Any]:
    other = [_named(item) for item in result.content[:ITEMS_MAX] if not isinstance(item, types.TextContent)]
    text = _text(result.content)
    if not result.content and result.structured_content is not None:
        import json

        text = json.dumps(result.structured_content, ensure_ascii=False)
    value: dict[str, Any] = {"text": text}
    if other:
        value["other"] = other
    return value


def _without_media(value: Any) -> Any:
    """Structured content with what looks like a picture, a sound or a blob of the protocol taken out."""
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
    return {name: WITHHELD if name in binary else _without_media(inner) for name, inner in members.items()}


def _text(content: Sequence[types.ContentBlock]) -> str:
    return "\n".join(item.text for item in content if isinstance(item, types.TextContent))


def _named(item: types.ContentBlock) -> dict[str, Any]:
    """What else came: its kind and what is text of it; never its bytes."""
    if isinstance(item, types.ResourceLink):
        return _short({"kind": "link", "uri": str(item.uri), "name": item.name})
    if isinstance(item, types.EmbeddedResource):
        resource = item.resource
        named = {"kind": "resource", "uri": str(resource.uri), "mime_type": resource.mime_type or ""}
        if isinstance(resource, types.TextResourceContents):
            return {**_short(named), "text": resource.text}
        return {**_short(named), "withheld": True}
    mime_type = getattr(item, "mime_type", "")
    return {**_short({"kind": item.type, "mime_type": mime_type}), "withheld": True}


def _short(values: Mapping[str, str]) -> dict[str, Any]:
    return cast("dict[str, Any]", {key: value[:ITEM_CHARS_MAX] for key, value in values.items()})
