"""Content blocks of the protocol for what is no text of ours: pictures, sounds and files, each marked as somebody else's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp_types import (
    AudioContent,
    BlobResourceContents,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    TextContent,
    TextResourceContents,
)

from comptroller_server.call.apart import is_whole

__all__ = ["block_of", "withheld"]


def block_of(item: Mapping[str, Any], marks: dict[str, Any]) -> ContentBlock:
    """One item `{kind, mime_type, data | blob | text, uri}` as its block, or a sentence where it is not let through."""
    kind, mime_type = item.get("kind"), str(item.get("mime_type") or "")
    if item.get("apart") is True and is_whole(item):
        if kind == "image" and "data" in item:
            return ImageContent(data=item["data"], mime_type=mime_type, _meta=marks)
        if kind == "audio" and "data" in item:
            return AudioContent(data=item["data"], mime_type=mime_type, _meta=marks)
        uri = str(item.get("uri") or "")
        if "blob" in item:
            held = BlobResourceContents(uri=uri, mime_type=mime_type, blob=item["blob"], _meta=marks)
            return EmbeddedResource(resource=held, _meta=marks)
        if kind == "resource":
            text = TextResourceContents(uri=uri, mime_type=mime_type, text=str(item["text"]), _meta=marks)
            return EmbeddedResource(resource=text, _meta=marks)
    return TextContent(text=withheld(item), _meta=marks)


def withheld(item: Mapping[str, Any]) -> str:
    """The sentence in the place of what is not let through."""
    what = str(item.get("mime_type") or item.get("kind") or "content")
    size = f"{item['bytes']} bytes of " if "bytes" in item else ""
    return (
        f"Comptroller withholds {size}{what}: what is no text cannot be searched for what must not be shown."
    )
