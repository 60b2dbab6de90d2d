"""The headers of one HTTP request, read so that no two readers can disagree about them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["TASK_HEADER", "RequestHeaders"]

TASK_HEADER = b"comptroller-task"


class RequestHeaders:
    """Raw headers. Asked for one value, it knows none when the header came twice: readers would disagree."""

    def __init__(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        self._values: dict[bytes, bytes | None] = {}
        """By name; None for one that came more than once."""
        for name, value in raw:
            self._values[name] = None if name in self._values else value

    def has(self, name: bytes) -> bool:
        """Whether it came at all."""
        return name in self._values

    def has_strange(self) -> bool:
        """Whether a header of ours is there that nothing would read, or one that readers would disagree about."""
        ours = [name for name in self._values if name[:12].lower() == b"comptroller-"]
        return bool(ours) and (ours != [TASK_HEADER] or self._values[TASK_HEADER] is None)

    def only(self, name: bytes) -> str | None:
        value = self._values.get(name)
        return None if value is None else value.decode("latin-1")
