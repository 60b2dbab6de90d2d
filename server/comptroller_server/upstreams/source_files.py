"""Writing the servers of clients down as sources: their secrets, then a fragment beside the configuration, or neither."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from comptroller_audit.files import make_private, write_private
from comptroller_audit.vocabulary import ComptrollerError
from comptroller_server.config.loading import FRAGMENTS, data_directory, load_config
from comptroller_server.errors import CommandError
from comptroller_server.upstreams.client_files import Found

__all__ = ["begun", "write_sources"]


def begun(clients: Iterable[str]) -> str:
    """A configuration to begin with. Each client is an actor of its own."""
    listed = ", ".join(f"{name}: {{}}" for name in dict.fromkeys(clients))
    return (
        "# Made by `comptroller import`. Every key: docs/config.md\n"
        f"agent: {{name: agent}}\nidentity: {{local: {{clients: {{{listed}}}}}}}\n"
    )


def write_sources(path: Path, data_dir: Path | None, new: Sequence[Found], begin: str) -> Path:
    """Write `new` beside the configuration at `path`, which is `begin` where there is none; returns the fragment.

    Secrets first: a source that refers to nothing does not load. Raises `CommandError`; nothing is left then.
    """
    written = _write_secrets(data_directory(data_dir) / "secrets", new)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(begin)
        written.append(path)
    folder = path.parent / FRAGMENTS
    folder.mkdir(exist_ok=True)
    at = 1
    while (target := folder / ("imported.yaml" if at == 1 else f"imported-{at}.yaml")).exists():
        at += 1
    lines = ["# Servers of a client, as `comptroller import` wrote them. Yours to edit.", "sources:"]
    lines += [
        f"  {json.dumps(one.source)}: {{mcp: {json.dumps(one.mcp, ensure_ascii=False)}}}" for one in new
    ]
    written.append(target)
    try:
        target.write_text("\n".join(lines) + "\n", encoding="utf-8")
        load_config(path, data_dir=data_dir)
    except (ComptrollerError, ValueError) as error:
        _take_back(written)
        raise CommandError(
            f"nothing was written, for with these sources nothing would load: {error}"
        ) from None
    return target


def _write_secrets(folder: Path, new: Sequence[Found]) -> list[Path]:
    """The files that were not there before. Raises `CommandError` where one would be another's."""
    written: list[Path] = []
    for one in new:
        for name, value in one.secrets.items():
            target = make_private(folder) / name
            if target.exists() and target.read_text() != value:
                _take_back(written)
                raise CommandError(f"{target} is there already with another value; move it away")
            if not target.exists():
                write_private(target, value.encode())
                written.append(target)
    return written


def _take_back(written: Iterable[Path]) -> None:
    for path in written:
        path.unlink(missing_ok=True)
