"""The typed door to RE2: regular expressions that take time linear in the text, whoever wrote the text."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Protocol, cast

__all__ = ["Expression", "Match", "expression"]


class Match(Protocol):
    def span(self, group: int = 0) -> tuple[int, int]:
        """Where the group stands, in bytes; (-1, -1) when it took no part."""
        ...


class _Compiled(Protocol):
    def finditer(self, text: bytes) -> Iterator[Match]: ...


class Expression:
    """Compiled once, when it is first used: a process without patterns neither loads RE2 nor waits for it."""

    def __init__(self, pattern: bytes) -> None:
        self._pattern = pattern

    @cached_property
    def _compiled(self) -> _Compiled:
        re2: Any = importlib.import_module("re2")  # it has no type hints
        return cast("_Compiled", re2.compile(self._pattern))

    def finditer(self, text: bytes) -> Iterator[Match]:
        return self._compiled.finditer(text)


def expression(*parts: str) -> Expression:
    """The parts, joined, for bytes of ASCII, where a position is a character's too."""
    return Expression("".join(parts).encode("ascii"))
