"""The typed door to RE2: regular expressions that take time linear in the text, whoever wrote the text."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, Final, Protocol, cast

__all__ = ["Expression", "Match", "expression"]

_re2: Final[Any] = importlib.import_module("re2")  # it has no type hints


class Match(Protocol):
    def span(self, group: int = 0) -> tuple[int, int]:
        """Where the group stands, in bytes; (-1, -1) when it took no part."""
        ...


class Expression(Protocol):
    def finditer(self, text: bytes) -> Iterator[Match]: ...


def expression(*parts: str) -> Expression:
    """The parts, joined and compiled for bytes of ASCII, where a position is a character's too."""
    return cast("Expression", _re2.compile("".join(parts).encode("ascii")))
