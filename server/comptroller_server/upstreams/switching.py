"""Putting ourselves into a client's file in place of its servers, and taking that back byte for byte."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from comptroller_audit.files import make_private, replace_file, write_private
from comptroller_server.errors import CommandError
from comptroller_server.setting_up.jsonc import plain_json, span_of

__all__ = ["file_mark", "switch", "switched_files", "undo"]

FOLDER = "imports"
_BOM = "\ufeff"


def switch(data_dir: Path, path: Path, before: bytes, after: bytes, lists: Sequence[tuple[str, ...]]) -> Path:
    """Replace `path`, which must still hold `before`, and keep that; returns where it is kept. Raises `CommandError`.

    `lists` say where servers are listed that `after` has others of.
    """
    if path.read_bytes() != before:
        raise CommandError(f"{path} changed in the meantime; nothing was done to it, run this again")
    folder = make_private(data_dir / FOLDER)
    at = 1
    while (kept := folder / f"{file_mark(path)}-{at:04d}").with_suffix(".before").exists():
        at += 1
    write_private(kept.with_suffix(".before"), before)
    told = {
        "path": str(path),
        "after": hashlib.sha256(after).hexdigest(),
        "lists": [{"keys": list(keys), "after": _digest(after.decode(), keys)} for keys in lists],
    }
    write_private(kept.with_suffix(".json"), json.dumps(told).encode())
    _replace(path, after)
    return kept.with_suffix(".before")


def undo(data_dir: Path, path: Path, *, only_servers: bool = False) -> Path:
    """Give `path` the bytes it had before the newest switch. Raises `CommandError` where somebody changed it since.

    With `only_servers` what changed beside the lists of servers stays; they must still be as the switch left them.
    """
    path = path.expanduser().resolve()
    folder = data_dir / FOLDER
    kept = sorted(folder.glob(f"{file_mark(path)}-*.before")) if folder.is_dir() else []
    if not kept:
        raise CommandError(f"nothing was ever switched in {path}")
    before, note = kept[-1], kept[-1].with_suffix(".json")
    told: dict[str, Any] = json.loads(note.read_text())
    try:
        now = path.read_bytes()
    except OSError as error:
        raise CommandError(f"{path} cannot be read ({error.strerror}); what it was is in {before}") from None
    content = before.read_bytes()
    if hashlib.sha256(now).hexdigest() != told["after"]:
        if not only_servers:
            raise CommandError(
                f"{path} was changed after it was switched, so it is left alone; what it was is in {before}; "
                "`--undo --only-servers` puts back its servers and leaves what changed beside them"
            )
        content = _with_old_lists(path, now.decode(), content.decode(), told.get("lists", []), before)
    _replace(path, content)
    before.unlink()
    note.unlink()
    return path


def _with_old_lists(path: Path, now: str, before: str, lists: Sequence[dict[str, Any]], kept: Path) -> bytes:
    """`now` with the text that each list of servers had. Raises `CommandError` where one is not as we left it."""
    spans: list[tuple[int, int, str]] = []
    wrong = CommandError(f"the servers in {path} were changed as well; what it was is in {kept}")
    for one in lists:
        keys = [str(key) for key in one["keys"]]
        try:
            digest = _digest(now, keys)  # first: what is no JSON has no spans
            here, there = span_of(_plain(now), keys), span_of(_plain(before), keys)
        except (ValueError, RecursionError):
            raise wrong from None
        if here is None or there is None or digest != one["after"]:
            raise wrong
        spans.append((*here, before[there[0] : there[1]]))
    for begin, end, old in sorted(spans, reverse=True):
        now = now[:begin] + old + now[end:]
    return now.encode()


def _plain(text: str) -> str:
    """Every value stands where it stood: the mark at the beginning becomes a space."""
    return plain_json(text.replace(_BOM, " ", 1) if text.startswith(_BOM) else text)


def _digest(text: str, keys: Sequence[str]) -> str:
    """Of what a list says, however it is written. Raises `ValueError`."""
    value: Any = json.loads(_plain(text))
    for key in keys:
        value = cast("dict[str, Any]", value).get(key) if isinstance(value, dict) else None
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def switched_files(data_dir: Path) -> list[Path]:
    """Every client's file that is switched now."""
    folder = data_dir / FOLDER
    notes = sorted(folder.glob("*.json")) if folder.is_dir() else []
    return sorted({Path(json.loads(note.read_text())["path"]) for note in notes})


def file_mark(path: Path) -> str:
    """Tells the kept things of one file from those of others."""
    return hashlib.sha256(str(path).encode()).hexdigest()[:16]


def _replace(path: Path, content: bytes) -> None:
    """At once, with the mode it had: a client may read it at any time."""
    replace_file(path, content, stat.S_IMODE(path.stat().st_mode))
