"""The log over a span of time, read in ranges: a serving process beside it is never held up, and memory does not grow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from comptroller_audit.query import Logged, page
from comptroller_audit.retention import first_at
from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import RecordType
from comptroller_server.installation import TENANT, Installation

__all__ = ["PAGE_ENTRIES", "Progress", "entries_of", "span_since"]

PAGE_ENTRIES = 400
"""Log entries in one read; a few milliseconds, and a few megabytes at the most usual sizes."""
Progress = Callable[[int, int], None]
"""(entries read, entries in all)."""


def span_since(reader: Reader, since_ms: int | None) -> tuple[int, int]:
    """The first entry from `since_ms` on (None: from the first record), and where the log ends now."""
    head = reader.head(TENANT)
    first = first_at(reader, TENANT, since_ms) if since_ms is not None else 0
    return first, head.size if head is not None else 0


def entries_of(
    installation: Installation,
    span: tuple[int, int],
    types: Collection[RecordType],
    progress: Progress | None = None,
) -> Iterator[Logged]:
    """All entries of a span, in order; packets of `types` alone are opened. Each range is a read of its own."""
    first, size = span
    for start in range(first, size, PAGE_ENTRIES):
        end = min(size, start + PAGE_ENTRIES)
        yield from installation.store.read_now(_range_reader(installation, start, end, types))
        if progress is not None:
            progress(end - first, size - first)


def _range_reader(
    installation: Installation, first: int, end: int, types: Collection[RecordType]
) -> Callable[[Reader], list[Logged]]:
    return lambda reader: page(reader, installation.ring, TENANT, first, end, types)
