"""Putting ourselves into a client's file in place of its servers, and taking that back byte for byte."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

from comptroller_audit.files import make_private, replace_file, write_private
from comptroller_server.errors import CommandError

__all__ = ["switch", "switched_files", "undo"]

FOLDER = "imports"


def switch(data_dir: Path, path: Path, before: bytes, after: bytes) -> Path:
    """Replace `path`, which must still hold `before`, and keep that; returns where it is kept. Raises `CommandError`."""
    if path.read_bytes() != before:
        raise CommandError(f"{path} changed in the meantime; nothing was done to it, run this again")
    folder = make_private(data_dir / FOLDER)
    at = 1
    while (kept := folder / f"{_mark(path)}-{at:04d}").with_suffix(".before").exists():
        at += 1
    write_private(kept.with_suffix(".before"), before)
    told = {"path": str(path), "after": hashlib.sha256(after).hexdigest()}
    write_private(kept.with_suffix(".json"), json.dumps(told).encode())
    _replace(path, after)
    return kept.with_suffix(".before")


def undo(data_dir: Path, path: Path) -> Path:
    """Give `path` the bytes it had before the newest switch. Raises `CommandError` where somebody changed it since."""
    path = path.expanduser().resolve()
    folder = data_dir / FOLDER
    kept = sorted(folder.glob(f"{_mark(path)}-*.before")) if folder.is_dir() else []
    if not kept:
        raise CommandError(f"nothing was ever switched in {path}")
    before, note = kept[-1], kept[-1].with_suffix(".json")
    told: dict[str, Any] = json.loads(note.read_text())
    if hashlib.sha256(path.read_bytes()).hexdigest() != told["after"]:
        raise CommandError(
            f"{path} was changed after it was switched, so it is left alone; what it was is in {before}"
        )
    _replace(path, before.read_bytes())
    before.unlink()
    note.unlink()
    return path


def switched_files(data_dir: Path) -> list[Path]:
    """Every client's file that is switched now."""
    folder = data_dir / FOLDER
    notes = sorted(folder.glob("*.json")) if folder.is_dir() else []
    return sorted({Path(json.loads(note.read_text())["path"]) for note in notes})


def _mark(path: Path) -> str:
    return hashlib.sha256(str(path).encode()).hexdigest()[:16]


def _replace(path: Path, content: bytes) -> None:
    """At once, with the mode it had: a client may read it at any time."""
    replace_file(path, content, stat.S_IMODE(path.stat().st_mode))
