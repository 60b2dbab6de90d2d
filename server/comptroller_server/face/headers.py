"""The headers of one HTTP request, read so that no two readers can disagree about them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["TASK_HEADER", "RequestHeaders"]

TASK_HEADER = b"comptroller-task"


class RequestHeaders:
    """Raw headers. Asked for one value, it knows none when the header came twice: readers would disagree."""

    def __init__(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        self._raw = raw

    def count(self, name: bytes) -> int:
        return sum(1 for key, _ in self._raw if key == name)

    def has_strange(self) -> bool:
        """Whether a header of ours is there that nothing would read, or one that readers would disagree about."""
        ours = [key for key, _ in self._raw if key.lower().startswith(b"comptroller-")]
        return ours not in ([], [TASK_HEADER])

    def only(self, name: bytes) -> str | None:
        values = [value for key, value in self._raw if key == name]
        return values[0].decode("latin-1") if len(values) == 1 else None
