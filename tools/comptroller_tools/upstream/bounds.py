"""How many parts a message may have before the SDK reads it into models.

Bytes alone are no bound: eight megabytes of `{}` are millions of entries, and reading each wrong one costs microseconds
and a kilobyte of words about it, while everybody else waits.
"""

from __future__ import annotations

from typing import Any, cast

__all__ = ["PARTS_MAX", "TooManyParts", "check_parts"]

PARTS_MAX = 100_000
"""Members and items of one message, at any depth."""


class TooManyParts(Exception):
    """A message has more parts than are read; the text is ours."""

    def __init__(self) -> None:
        super().__init__(f"it sent a message of more than {PARTS_MAX} parts")


def check_parts(message: Any, beside: str | None = None) -> None:
    """Raises `TooManyParts`. What stands under the member `beside` of the whole is not counted: no model reads it."""
    left, waiting = PARTS_MAX, [message]
    if beside is not None and isinstance(message, dict):
        members = cast("dict[str, Any]", message)
        waiting = [value for key, value in members.items() if key != beside]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):  # most are
            continue
        if isinstance(one, dict):
            inner = cast("dict[str, Any]", one)
            left -= len(inner)
            waiting += inner.values()
        elif isinstance(one, list):
            items = cast("list[object]", one)
            left -= len(items)
            waiting += items
        if left < 0:
            raise TooManyParts
