"""Regular expressions that take time linear in the text, whoever wrote the text: RE2, and Rust's where no place is asked.

RE2 lets other threads run during each search. On an event loop beside a busy writer, getting the interpreter back costs
some fifty times the search itself. Most texts hold nothing, so `is_missing` asks Pydantic's engine first, which keeps the
interpreter and needs less than a microsecond; RE2 says where something stands.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any, Protocol, cast

from pydantic_core import SchemaValidator, core_schema

__all__ = [
    "SHORT_CHARS_MAX",
    "Expression",
    "ExpressionInvalid",
    "Match",
    "Whole",
    "any_of",
    "expression",
    "whole",
]


SHORT_CHARS_MAX = 2_048
"""In a longer text something nearly always matches."""


class ExpressionInvalid(ValueError):
    """A regular expression that RE2 does not take; the message is RE2's own reason."""


class Match(Protocol):
    def span(self, group: int = 0) -> tuple[int, int]:
        """Where the group stands, in bytes; (-1, -1) when it took no part."""
        ...


class _Compiled(Protocol):
    def finditer(self, text: bytes) -> Iterator[Match]: ...


class Expression:
    """For ASCII texts. Compiled once, when it is first used: a process without patterns neither loads RE2 nor waits for it."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern

    @cached_property
    def _compiled(self) -> _Compiled:
        re2: Any = importlib.import_module("re2")  # it has no type hints
        return cast("_Compiled", re2.compile(self.pattern.encode("ascii")))

    @cached_property
    def _somewhere(self) -> SchemaValidator:
        return SchemaValidator(core_schema.str_schema(pattern=self.pattern, regex_engine="rust-regex"))

    def finditer(self, text: str) -> Iterator[Match]:
        """Each match from left to right; its places are characters, because `text` is ASCII."""
        return iter(()) if self.is_missing(text) else self._compiled.finditer(text.encode("ascii"))

    def is_missing(self, text: str) -> bool:
        """Whether it is certain to match nowhere. A long text is not asked."""
        return len(text) <= SHORT_CHARS_MAX and not self._somewhere.isinstance_python(text)


def any_of(*expressions: Expression) -> Expression:
    """What matches wherever one of the `expressions` does; each keeps its own flags."""
    return Expression("|".join(f"(?:{each.pattern})" for each in expressions))


def expression(*parts: str) -> Expression:
    """The parts, joined. They are read by both engines, so they hold nothing that only one of them knows."""
    return Expression("".join(parts))


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
