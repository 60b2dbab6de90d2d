"""What goes beside a result and not into its text: pictures, sounds and files of types that the configuration lets through.

The source marks such an item of `other` with `apart`; its bytes are released and recorded like all else of a result.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from comptroller_audit.vocabulary import Json, JsonObject

__all__ = ["is_whole", "set_apart"]

_BYTES = ("data", "blob")


def set_apart(value: Json, upstream: str | None) -> tuple[Json, tuple[JsonObject, ...]]:
    """An upstream's `value` with only kind, type and size of what goes beside it, and those items. What release changed stays withheld."""
    others = value.get("other") if upstream is not None and isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(others, list):
        return value, ()
    told: list[Json] = []
    beside: list[JsonObject] = []
    for item in others:
        if not isinstance(item, dict) or item.get("apart") is not True:
            told.append(item)
            continue
        if is_whole(item):
            beside.append(item)
        told.append(_named(item))
    return {**value, "other": told}, tuple(beside)


def is_whole(item: Mapping[str, Any]) -> bool:
    """Whether release left its bytes alone: what it puts in place of something is no base64. Text is what it is."""
    held = next((item[name] for name in _BYTES if name in item), None)
    if held is None:
        return isinstance(item.get("text"), str)
    try:
        base64.b64decode(str(held), validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _named(item: JsonObject) -> JsonObject:
    named = {name: each for name, each in item.items() if name in ("kind", "uri", "mime_type")}
    if not is_whole(item):
        return {**named, "withheld": True}
    size = sum(len(str(item[name])) * 3 // 4 for name in _BYTES if name in item) or len(
        str(item.get("text", ""))
    )
    return {**named, "bytes": size, "apart": True}
