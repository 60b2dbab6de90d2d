"""Clients' files: JSON as people write it, with comments and commas at the end, and where in the text each value stands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from json import JSONDecoder
from typing import Any

__all__ = ["members", "plain_json", "read_json", "span_of"]

_PARTS = re.compile(r'"(?:\\.|[^"\\])*"|//[^\r\n]*|/\*.*?\*/', re.DOTALL)
_ENDS = re.compile(r'"(?:\\.|[^"\\])*"|,(?=\s*[}\]])', re.DOTALL)
_SPACE = re.compile(r"\s*")


def plain_json(text: str) -> str:
    """The same text with spaces for comments and for commas before an end: every value stands where it stood."""

    def blank(found: re.Match[str]) -> str:
        return found[0] if found[0][0] == '"' else " " * len(found[0])

    return _ENDS.sub(blank, _PARTS.sub(blank, text))


def read_json(text: str) -> Any:
    """What such a text says. Raises `ValueError`, `RecursionError`."""
    return json.loads(plain_json(text))


def members(plain: str, at: int) -> Iterator[tuple[str, int, int]]:
    """Of the object that begins at `at`: each key, and from where to where its value stands. Raises `ValueError`."""
    decoder = JSONDecoder()
    at = _skip(plain, at + 1)
    while plain[at] != "}":
        key, at = decoder.raw_decode(plain, at)
        begin = _skip(plain, _skip(plain, at) + 1)  # past the colon
        _, end = decoder.raw_decode(plain, begin)
        yield str(key), begin, end
        at = _skip(plain, end)
        at = _skip(plain, at + 1) if plain[at] == "," else at


def span_of(plain: str, keys: Sequence[str]) -> tuple[int, int] | None:
    """From where to where the value below `keys` stands; None where there is none. The last of equal keys counts."""
    begin = _skip(plain, 0)
    span: tuple[int, int] | None = begin, len(plain.rstrip())
    for key in keys:
        if span is None or plain[span[0]] != "{":
            return None
        span = {name: (start, end) for name, start, end in members(plain, span[0])}.get(key)
    return span


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found is not None else at
