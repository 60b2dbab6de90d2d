"""What changed between two looks at a record, in words: fields with their values before and after, few and short."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, cast

from comptroller_audit.vocabulary import Json, JsonObject

__all__ = ["CHANGES_MAX", "changes"]

CHANGES_MAX = 5
VALUE_CHARS_MAX = 60
DEPTH_MAX = 4

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ABSENT = object()


def changes(before: Json, now: Json) -> list[str]:
    """`refunded_usd was 0.0 and is 12.5`, for `CHANGES_MAX` fields at most, by name.

    Fields whose names are no plain words, and values of which something was withheld, are passed over: what they
    were cannot be told, and two stand-ins do not say whether what is behind them changed.
    """
    found: list[str] = []
    for path, old, new in _differences(before, now, "", DEPTH_MAX):
        if len(found) == CHANGES_MAX:
            return [*found, "and more"]
        found.append(f"{path} {_said('was', old)} and {_said('is', new)}")
    return found


def _differences(before: Any, now: Any, path: str, levels: int) -> Iterator[tuple[str, Any, Any]]:
    old, new = _fields(before), _fields(now)
    if old is not None and new is not None and levels:
        for name in sorted({*old, *new}):
            if _NAME.fullmatch(name):
                inner = f"{path}.{name}" if path else name
                yield from _differences(old.get(name, _ABSENT), new.get(name, _ABSENT), inner, levels - 1)
    elif before != now and path and not (_is_withheld(before) or _is_withheld(now)):
        yield path, before, now


def _fields(value: Any) -> JsonObject | None:
    return cast("JsonObject", value) if isinstance(value, dict) else None


def _is_withheld(value: object) -> bool:
    if value is _ABSENT:
        return False
    spelled = json.dumps(value, ensure_ascii=False)
    return "[withheld" in spelled or "⟦" in spelled


def _said(word: str, value: object) -> str:
    if value is _ABSENT:
        return f"{word} not there"
    spelled = json.dumps(value)
    return f"{word} {spelled if len(spelled) <= VALUE_CHARS_MAX else spelled[:VALUE_CHARS_MAX] + '…'}"
