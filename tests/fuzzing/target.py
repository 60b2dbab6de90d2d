"""What is fuzzed, and how bytes become choices: a target reads any bytes, and raises when it found something."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

from comptroller_policy.paths import is_list

__all__ = ["HOSTILE", "Choices", "Target", "changed_somewhere"]

T = TypeVar("T")
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 2**53, 2**63 - 1, 10**4299, 1.0, 0.5, 1e300, -0.0, "", "0", "\ud800", "\u202ex", "e\u0301",
    "\u00e9", "\x00", "\x1b[2J", "ab" * 32, "x" * 5_000, [], {}, [[]], {"": {}}, ["\ud800"], {"\ud800": 1}, float("nan"), "secret://file/x",
)  # fmt: skip
"""Values that a reader may not have thought of."""


@dataclass(frozen=True)
class Target:
    """`prepare` gets a folder of its own and returns what reads bytes. `rounds` cost the suite about a second."""

    name: str
    prepare: Callable[[Path], Callable[[bytes], None]]
    corpus: Sequence[bytes]
    modules: Sequence[ModuleType]
    """Those whose lines guide the suite's own engine."""
    rounds: int


class Choices:
    """Bytes read as choices, so that any bytes spell a valid program of edits. Spent, it always chooses the first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def one_of(self, options: Sequence[T]) -> T:
        number = self.byte() if len(options) <= 256 else self.byte() << 8 | self.byte()
        return options[number % len(options)]

    def below(self, most: int) -> int:
        return (self.byte() << 8 | self.byte()) % max(1, most)

    def taken(self, most: int) -> bytes:
        """The next few bytes themselves."""
        length = self.byte() % (most + 1)
        self._at += length
        return self._data[self._at - length : self._at]

    def value(self, before: Any) -> Any:
        """A hostile value, or one near to what was there."""
        match self.byte() % 8:
            case 0:
                return self.one_of(HOSTILE)
            case 1 if type(before) is int and abs(before) < 2**64:
                return self.one_of(
                    (float(before), bool(before), str(before), before + 1, -before, before + 0.5)
                )
            case 1 if isinstance(before, str):
                return self.one_of(
                    (before.upper(), before + " ", before[:-1], [before], before + "\x00", before[::-1])
                )
            case 2:
                return [before]
            case 3:
                return {"a": before}
            case 4:
                return self.taken(40).decode("utf-8" if self.byte() % 2 else "latin-1", "replace")
            case 5:
                return self.byte() - 128
            case 6:
                value: Any = before
                for _ in range(self.one_of((3, 70, 400))):
                    value = [value]
                return value
            case _:
                return self.one_of(HOSTILE)


def changed_somewhere(tree: Any, chosen: Choices) -> Any:
    """A JSON value with one member, at any depth, replaced, removed, doubled under another name, or moved."""
    if isinstance(tree, dict) and tree:
        members = cast("dict[str, Any]", tree)
        name = chosen.one_of(list(members))
        match chosen.byte() % 8:
            case 0 | 1 | 2 | 3:
                return {**members, name: changed_somewhere(members[name], chosen)}
            case 4:
                return {key: value for key, value in members.items() if key != name}
            case 5:
                return {**members, chosen.one_of((name.upper(), name + " ", "x", "\ud800")): members[name]}
            case 6:
                return {**members, name: members[chosen.one_of(list(members))]}
            case _:
                return {**members, name: chosen.value(members[name])}
    if is_list(tree) and tree and chosen.byte() % 4:
        items = list(tree)
        at = chosen.below(len(items))
        # Doubled or changed, not both: on many levels that would be more items than there is memory.
        many = chosen.one_of((1, 1, 1, 0, 2))
        items[at : at + 1] = [changed_somewhere(items[at], chosen)] if many == 1 else [items[at]] * many
        return items
    return chosen.value(tree)


def spelled(tree: Any) -> str:
    """JSON text of a tree that may hold what JSON cannot."""
    try:
        return json.dumps(tree)
    except (ValueError, RecursionError):
        return "null"
