"""What a source may ask of the client in the middle of a call, and of whom: the seam for questions that go back.

A source says what it would ask; who answers, whether anybody may be asked, and what of it is recorded, is not its
business. (MCP 2025-11-25 "Elicitation", "Sampling", "Roots"; MCP 2026-07-28 "Multi Round-Trip Requests".)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

__all__ = ["NOBODY", "Asker", "Asks", "Nobody", "Patience", "Question", "Reply"]


class Asks(StrEnum):
    """Kinds of questions, as `may_ask` names them."""

    FORM = "elicitation_form"
    URL = "elicitation_url"
    SAMPLING = "sampling"
    ROOTS = "roots"


@dataclass(frozen=True, slots=True)
class Question:
    """One question, made fit to be shown. `key` tells it from others of the same round; `params` are as on the wire."""

    key: str
    kind: Asks
    params: Mapping[str, Any]


Reply: TypeAlias = Mapping[str, Any]
"""A client's result of the request that the question is, as on the wire."""


class Patience:
    """The time of one call that goes by while somebody is asked: its deadlines move by that."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._limits: dict[asyncio.Timeout, float] = {}
        self._asking = 0
        self._since = 0.0
        self._waited_s = 0.0

    @property
    def waited_s(self) -> float:
        """Seconds so far."""
        return self._waited_s + (self._monotonic() - self._since if self._asking else 0.0)

    @contextlib.contextmanager
    def moves(self, limit: asyncio.Timeout) -> Generator[None]:
        """Inside, `limit` does not run down while somebody is asked. For use where it was just entered."""
        when = limit.when()
        assert when is not None
        left = when - asyncio.get_running_loop().time()
        self._limits[limit] = left
        if self._asking:
            limit.reschedule(None)
        try:
            yield
        finally:
            del self._limits[limit]

    @contextlib.contextmanager
    def asking(self) -> Generator[None]:
        """Somebody is being asked, until this is left; may overlap with another."""
        now = asyncio.get_running_loop().time()
        if not self._asking:
            self._since = self._monotonic()
            for limit in self._limits:
                when = limit.when()
                self._limits[limit] = 0.0 if when is None else max(0.0, when - now)
                limit.reschedule(None)
        self._asking += 1
        try:
            yield
        finally:
            self._asking -= 1
            if not self._asking:
                self._waited_s += self._monotonic() - self._since
                now = asyncio.get_running_loop().time()
                for limit, left in self._limits.items():
                    limit.reschedule(now + left)


class Asker(Protocol):
    """Who can be asked in the middle of one call. `patience` is None where nobody can."""

    @property
    def kinds(self) -> frozenset[Asks]:
        """What the client of this call can be asked, as it says itself."""
        ...

    @property
    def patience(self) -> Patience | None: ...

    async def __call__(self, questions: Sequence[Question]) -> Mapping[str, Reply]:
        """Ask, all at once, bounded in time. What nobody answered is not in the result. Raises nothing but cancellation."""
        ...

    def refused(self, kind: str, why: str) -> None:
        """Note a question that was not asked; `why` is a sentence of ours."""
        ...


@dataclass(frozen=True, slots=True)
class Nobody:
    """The default `Asker`: look-ups, read-backs and recovery have nobody to ask."""

    kinds: frozenset[Asks] = field(default=frozenset())
    patience: None = None

    async def __call__(self, questions: Sequence[Question]) -> Mapping[str, Reply]:
        return {}

    def refused(self, kind: str, why: str) -> None:
        return None


NOBODY = Nobody()
