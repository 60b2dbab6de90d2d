"""A result that is too long to be read at once, in parts: its long texts and lists are cut, the rest is told whole. Pure.

What is cut was released before, so nothing that must not be shown can hide across a cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Final, TypeAlias, cast

from comptroller_audit.vocabulary import Json, JsonObject

__all__ = ["BYTES_PER_TOKEN", "CannotCut", "Part", "PartLimits", "Place", "part_from"]

BYTES_PER_TOKEN: Final = 4
DEPTH_MAX: Final = 4
"""Objects within objects in which a text or a list is looked for."""
SHARE_MIN: Final = 256
"""Bytes that each long text or list gets of a part, however full it is, so that every part brings some of it."""
TOKEN_CHARS_MAX: Final = 64
"""A mark that stands for a value (`⟦email:1⟧`) is never cut in two; none is longer."""

Place: TypeAlias = tuple[str, ...]
"""Names of members, from the outermost."""


class CannotCut(Exception):
    """A part would be too long without any of the texts and lists in it."""


@dataclass(frozen=True, slots=True)
class PartLimits:
    """The most that one part may hold: bytes of JSON, and items of each list. None is no limit."""

    bytes_max: int | None = None
    items_max: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a result. `ends` is where the texts and lists that are told in parts stop in this one."""

    shown: JsonObject
    starts: Mapping[Place, int] = field(default_factory=dict[Place, int])
    ends: Mapping[Place, int] = field(default_factory=dict[Place, int])
    left: Mapping[str, int] = field(default_factory=dict[str, int])
    """By name, characters or items that are still to come; empty in the last part."""

    def lists_of(self, value: Json) -> Json:
        """`value`, whose lists are those of the result, with only the items of this part."""
        for place, end in self.ends.items():
            found = _at(value, place)
            if isinstance(found, list):
                value = _with(value, place, found[self.starts.get(place, 0) : end])
        return value


def part_from(
    value: JsonObject, limits: PartLimits, starts: Mapping[Place, int] | None = None
) -> Part | None:
    """The part of `value` that begins at `starts` (None: the first), or None where the whole is short enough.

    Raises `CannotCut`.
    """
    leaves = dict(_leaves(value, ()))
    if starts is None and _is_short(value, leaves, limits):
        return None
    bare: Json = {}
    if starts is None:
        bare = value
        for place, leaf in leaves.items():
            bare = _with(bare, place, leaf[:0])
    begins = starts or dict.fromkeys(leaves, 0)
    rest = {
        place: leaf[begins[place] :]
        for place, leaf in leaves.items()
        if begins.get(place, len(leaf)) < len(leaf)
    }
    room = None if limits.bytes_max is None else limits.bytes_max - _size(bare)
    if room is not None and room < 0:
        raise CannotCut
    pieces = dict(_pieces(rest, limits.items_max, room))
    shown = bare
    for place, piece in pieces.items():
        shown = _with(shown, place, piece)
    ends = {place: begins.get(place, len(leaf)) for place, leaf in leaves.items()}
    ends |= {place: ends[place] + len(piece) for place, piece in pieces.items()}
    left = {
        ".".join(place): len(leaves[place]) - end for place, end in ends.items() if end < len(leaves[place])
    }
    return Part(cast("JsonObject", shown), begins, ends, left)


def _pieces(
    rest: Mapping[Place, str | list[Json]], items_max: int | None, room: int | None
) -> Iterator[tuple[Place, str | list[Json]]]:
    """What each text and list gives to the part. Short ones whole; the long ones share what is left."""
    sizes = {place: _size(leaf) for place, leaf in rest.items()}
    left = len(rest)
    for place in sorted(rest, key=lambda one: sizes[one]):
        leaf = rest[place]
        if isinstance(leaf, list) and items_max is not None:
            leaf = leaf[:items_max]
        if room is not None:
            share = max(SHARE_MIN, room // left)
            leaf = _text(leaf, share) if isinstance(leaf, str) else _items(leaf, share)
            room -= _size(leaf)
        left -= 1
        yield place, leaf


def _text(text: str, share: int) -> str:
    """As much of the text as takes `share` bytes, up to the end of a line where one is near."""
    if _size(text) <= share:
        return text
    piece = text[:share]
    while (size := _size(piece)) > share:
        piece = piece[: min(len(piece) - 1, len(piece) * share // size)]
    at = piece.rfind("\n", len(piece) * 3 // 4) + 1
    opened = piece.rfind("⟦", max(0, len(piece) - TOKEN_CHARS_MAX))
    if opened > 0 and "⟧" not in piece[opened:]:
        at = opened
    return piece[:at] if at > 0 else piece


def _items(items: list[Json], share: int) -> list[Json]:
    """As many items as take `share` bytes, and one at least."""
    size = 2
    for at, item in enumerate(items):
        size += _size(item) + 2
        if size > share and at > 0:
            return items[:at]
    return items


def _is_short(value: JsonObject, leaves: Mapping[Place, str | list[Json]], limits: PartLimits) -> bool:
    if limits.bytes_max is not None and _size(value) > limits.bytes_max:
        return False
    lists = (leaf for leaf in leaves.values() if isinstance(leaf, list))
    return limits.items_max is None or all(len(one) <= limits.items_max for one in lists)


def _leaves(value: JsonObject, at: Place) -> Iterator[tuple[Place, str | list[Json]]]:
    for name, inner in value.items():
        if isinstance(inner, str | list):
            yield (*at, name), inner
        elif isinstance(inner, dict) and len(at) < DEPTH_MAX:
            yield from _leaves(inner, (*at, name))


def _at(value: Json, place: Place) -> Json:
    for name in place:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _with(value: Json, place: Place, piece: Json) -> Json:
    """A copy of `value` with `piece` at `place`, whose objects are made where they are not there."""
    if not place:
        return piece
    whole: JsonObject = copy(value) if isinstance(value, dict) else {}
    whole[place[0]] = _with(whole.get(place[0]), place[1:], piece)
    return whole


def _size(value: Json) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
