"""Files that nobody else may read, and files that are replaced at once."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["is_special", "make_private", "replace_file", "write_private"]


def make_private(folder: Path) -> Path:
    """The folder, and those above it that are not there yet, made for nobody else to read. Raises `OSError`."""
    for missing in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    return folder


def write_private(path: Path, content: bytes) -> None:
    """A new, durable file of mode 0600. Raises `FileExistsError` where there is one."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def is_special(path: Path) -> bool:
    """Whether a device or a pipe stands there: one that is renamed over, as /dev/null is by root, is gone for everybody."""
    return path.exists() and not path.is_file()


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Replace what stands at `path`, durably and at once: a reader sees the old file or the new one. Raises `OSError`.

    A device or a pipe is written to and never replaced.
    """
    if is_special(path):
        path.write_bytes(content)
        return
    handle, made = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(made).chmod(mode)
        Path(made).replace(path)
    except BaseException:
        Path(made).unlink(missing_ok=True)
        raise
