"""Records to a file of JSON lines: fsynced before it counts as taken, and rotated by size under the next index."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from pathlib import Path

from comptroller_server.config.streams import StreamSettings
from comptroller_server.streaming.batches import Batch
from comptroller_server.streaming.sinks import NotDelivered

__all__ = ["FileSink"]

_TAIL = 65_536


class FileSink:
    """Appends. A full file becomes `NAME.INDEX`, by the index of the first entry that is not in it."""

    def __init__(self, stream: StreamSettings) -> None:
        assert stream.file is not None
        self._file = stream.file
        self._bytes_max = stream.config.rotate_mib * 1024 * 1024
        self._keep = stream.config.keep_files
        self._writing = threading.Lock()

    async def deliver(self, batch: Batch) -> int:
        try:
            await asyncio.to_thread(self._write, batch)
        except OSError as error:
            raise NotDelivered(f"{self._file} cannot be written: {error.strerror or error}") from error
        return 0

    async def close(self) -> None:
        """Waits for a write under way. Nothing stays open between batches: who moves the file away gets a new one."""
        await asyncio.to_thread(self._waited)

    def _waited(self) -> None:
        with self._writing:
            pass

    def _write(self, batch: Batch) -> None:
        with self._writing:
            self._append(batch)

    def _append(self, batch: Batch) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = not self._file.exists()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._file, flags, 0o600)
        try:
            _end_at_a_line(descriptor)
            _write_all(descriptor, batch.lines)
            os.fsync(descriptor)
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        if size >= self._bytes_max:
            self._rotate(batch.end)
            new = True
        if new:
            _sync_folder(self._file.parent)

    def _rotate(self, end: int) -> None:
        """An entry that comes again after a crash may be in two files; no name is used twice."""
        name, number = f"{self._file.name}.{end:012d}", 1
        while (full := self._file.with_name(name)).exists():
            number += 1
            name = f"{self._file.name}.{end:012d}-{number}"
        self._file.rename(full)
        if self._keep is None:
            return
        kept = sorted(
            path
            for path in self._file.parent.glob(f"{_literal(self._file.name)}.*")
            if _is_ours(self._file, path)
        )
        for path in kept[: -self._keep]:
            path.unlink()


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _is_ours(file: Path, path: Path) -> bool:
    """Whether we gave a file its name: twelve digits, and perhaps a number."""
    digits, _, again = path.name.removeprefix(f"{file.name}.").partition("-")
    return len(digits) == 12 and digits.isdigit() and (not again or again.isdigit())


def _end_at_a_line(descriptor: int) -> None:
    """Drop the half line that a crash left: its entry did not count as taken, and comes whole."""
    size = os.fstat(descriptor).st_size
    end = size
    while end:
        start = max(0, end - _TAIL)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems have no such thing
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
