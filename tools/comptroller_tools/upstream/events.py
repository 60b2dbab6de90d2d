"""Server-sent events out of the bytes of an answer (WHATWG HTML, "Server-sent events"), each no longer than so much."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Event", "Events", "TooLong"]

_BREAK = re.compile(rb"[\r\n]")
LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")
"""Of a line. A carriage return that came last may be half of one."""


class TooLong(Exception):
    """An event is longer than is taken."""


@dataclass(frozen=True, slots=True)
class Event:
    """`id` and `retry_ms`, how long to wait before asking for the rest, are those of the last event that had them."""

    kind: str
    data: str
    id: str
    retry_ms: int | None


class Events:
    """A decoder for one answer. An event is at most `most` bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._rest = bytearray()
        self._size = 0
        self.idle = 0
        """Lines so far that told nothing: blank ones, comments, unknown fields."""
        self._id = ""
        self._retry: int | None = None
        self._first = True
        self._begin()

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete with `data`. Raises `TooLong`."""
        found: list[Event] = []
        ended = _BREAK.search(data) or self._rest.endswith(b"\r")
        self._rest += data
        if ended:  # else nothing is looked at twice: a line may come byte by byte
            *lines, rest = LINE_END.split(bytes(self._rest))
            found = [event for line in lines if (event := self._line(line)) is not None]
            self._rest = bytearray(rest)
        if self._size + len(self._rest) > self._most:
            raise TooLong(f"an event is longer than {self._most} bytes")
        return found

    def _begin(self) -> None:
        self._kind, self._data, self._size, self._any = "", list[str](), 0, False

    def _line(self, line: bytes) -> Event | None:
        if self._first:
            self._first = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            event = Event(self._kind or "message", "\n".join(self._data), self._id, self._retry)
            told = self._any
            self._begin()
            if told:
                return event
            self.idle += 1
            return None
        self._size += len(line)
        if self._size > self._most:
            raise TooLong(f"an event is longer than {self._most} bytes")
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._kind = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit() and len(value) < 10:
            self._retry = int(value)
        else:
            self.idle += 1
            return None
        self._any = True
        return None
