"""The typed door to RE2: regular expressions that take time linear in the text, whoever wrote the text."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any, Protocol, cast

__all__ = ["Expression", "ExpressionInvalid", "Match", "Whole", "any_of", "expression", "whole"]


SHORT_BYTES_MAX = 2_048


class ExpressionInvalid(ValueError):
    """A regular expression that RE2 does not take; the message is RE2's own reason."""


class Match(Protocol):
    def span(self, group: int = 0) -> tuple[int, int]:
        """Where the group stands, in bytes; (-1, -1) when it took no part."""
        ...


class _Compiled(Protocol):
    def finditer(self, text: bytes) -> Iterator[Match]: ...

    def search(self, text: bytes) -> Match | None: ...


class Expression:
    """Compiled once, when it is first used: a process without patterns neither loads RE2 nor waits for it."""

    def __init__(self, pattern: bytes) -> None:
        self.pattern = pattern

    @cached_property
    def _compiled(self) -> _Compiled:
        re2: Any = importlib.import_module("re2")  # it has no type hints
        return cast("_Compiled", re2.compile(self.pattern))

    def finditer(self, text: bytes) -> Iterator[Match]:
        return self._compiled.finditer(text)

    def is_missing(self, text: bytes) -> bool:
        """Whether it is certain to match nowhere: one pass over a short text, which asks for no groups.

        In a long text something nearly always matches, and many expressions at once outgrow RE2's tables: it is not asked.
        """
        return len(text) <= SHORT_BYTES_MAX and self._silent.search(text) is None

    @cached_property
    def _silent(self) -> _Compiled:
        re2: Any = importlib.import_module("re2")
        options = re2.Options()
        options.never_capture = True
        return cast("_Compiled", re2.compile(self.pattern, options))


def any_of(*expressions: Expression) -> Expression:
    """What matches wherever one of the `expressions` does; each keeps its own flags."""
    return Expression(b"|".join(b"(?:" + each.pattern + b")" for each in expressions))


def expression(*parts: str) -> Expression:
    """The parts, joined, for bytes of ASCII, where a position is a character's too."""
    return Expression("".join(parts).encode("ascii"))


class Whole:
    """An expression that a text must match from its first character to its last."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled

    def matches(self, text: str) -> bool:
        """Raises ValueError for text that is no Unicode (a lone surrogate)."""
        return self._compiled.fullmatch(text) is not None


@lru_cache(maxsize=1_000)
def whole(pattern: str) -> Whole:
    """RE2 syntax, over characters. Raises ExpressionInvalid."""
    re2: Any = importlib.import_module("re2")
    options = re2.Options()
    options.log_errors = False  # it would write to standard error itself
    try:
        return Whole(re2.compile(pattern, options))
    except re2.error as error:
        reason = error.args[0] if error.args else ""
        raise ExpressionInvalid(reason.decode() if isinstance(reason, bytes) else str(reason)) from None
    except ValueError as error:
        raise ExpressionInvalid(str(error)) from None
