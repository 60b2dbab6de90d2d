"""Putting new files into a folder, whole or not at all, and never over others unless that is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from comptroller_audit.files import replace_file
from comptroller_server.errors import CommandError

__all__ = ["place"]

_MODE = 0o644
"""Nothing in them is secret, and nobody else may change them."""


def place(folder: Path, texts: Mapping[str, str], *, force: bool) -> list[Path]:
    """Write each text below `folder`, in order; each appears whole. Returns the paths.

    Without `force` nothing is written when one of them is there. When writing fails, what was new is removed again.
    Raises `CommandError`.
    """
    targets = {folder / name: text for name, text in texts.items()}
    there = [path for path in targets if path.is_symlink() or path.exists()]
    if there and not force:
        named = ", ".join(str(path) for path in there)
        raise CommandError(f"{named} is there already; choose another folder, or write over it with --force")
    made: list[Path] = []
    try:
        for path, text in targets.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, text.encode(), _MODE)
            made += [path] if path not in there else []
    except OSError as error:
        for path in made:
            with contextlib.suppress(OSError):
                path.unlink()
        raise CommandError(f"{error.filename or folder} cannot be written ({error.strerror})") from error
    return list(targets)
