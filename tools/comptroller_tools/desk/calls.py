"""One call of a desk tool: which file it works on, how it was told to misbehave, and what the tools share."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict

from comptroller_tools.desk.database import desk_path, reading, writing
from comptroller_tools.desk.faults import FaultKind, Faults, Point

__all__ = ["DeskCall", "Shape", "begin", "containing"]

_Answer = TypeVar("_Answer")


class Shape(BaseModel):
    # No docstring: pydantic would not inherit it, but a reader of the schemas might look for it.
    model_config = ConfigDict(extra="forbid")


class DeskCall:
    """The desk's file for this call, with the places where an injected fault strikes."""

    def __init__(self, path: Path, faults: Faults) -> None:
        self._path = path
        self.faults = faults

    @contextlib.contextmanager
    def reading(self) -> Generator[sqlite3.Connection]:
        """The connection, for selects."""
        with reading(self._path) as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Generator[sqlite3.Connection]:
        """One transaction, in which and after which a fault may strike; dropped when `not_written` is asked."""
        with writing(self._path, keep=self.faults.find(FaultKind.NOT_WRITTEN) is None) as connection:
            yield connection
            self.faults.at(Point.IN_WRITE)
        self.faults.at(Point.AFTER_WRITE)

    def instead(self, kind: FaultKind, asked: str) -> str:
        """`asked`, or the `other` of a fault of `kind`."""
        fault = self.faults.find(kind)
        return (fault.other if fault else None) or asked

    def flood(self) -> str:
        """Text to add to the answer: empty unless a flood was asked for."""
        fault = self.faults.find(FaultKind.FLOOD)
        return "A" * fault.bytes if fault else ""

    def told(self, answer: _Answer) -> _Answer:
        """`answer`, or something that is not of its type when a lie was asked for."""
        return cast("_Answer", ["no", "record"]) if self.faults.find(FaultKind.LIE) else answer


def begin(tool: str, arguments: BaseModel | Mapping[str, Any]) -> DeskCall:
    """Enter a tool. Raises, waits or ends the process where a fault says so before the write."""
    values = arguments.model_dump(mode="json") if isinstance(arguments, BaseModel) else arguments
    path = desk_path()
    call = DeskCall(path, Faults(path, tool, values))
    call.faults.at(Point.BEFORE_WRITE)
    return call


def containing(text: str, query: str) -> tuple[str, tuple[str, ...]]:
    """An SQL condition that the expression `text` has every word of `query`, and its values. Never a pattern."""
    words = query.lower().split()
    return " AND ".join([f"instr(lower({text}), ?) > 0"] * len(words)) or "1", tuple(words)
