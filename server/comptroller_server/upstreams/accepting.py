"""What a person accepted of an upstream, written down: its definitions pinned, and entries of `tools:` for the new ones."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from comptroller_audit.vocabulary import Effect
from comptroller_server.config.loading import FRAGMENTS
from comptroller_server.config.model import Config
from comptroller_server.errors import CommandError
from comptroller_server.upstreams.standing import Seen, Standing, entry_of, exposed_name
from comptroller_tools.upstream.definitions import Written, kind_of
from comptroller_tools.upstream.pins import LOCK_NAME, write_pins
from comptroller_tools.upstream.relayed import RESOURCES, entry_name

__all__ = ["ROLE", "Accepted", "accept", "open_to_accept"]

ROLE = "approver"
"""Who must agree to what nobody classified."""
_FILES_MAX = 90


class Accepted:
    """What was written: the lock file, and for each source its new file, if any."""

    def __init__(self, lock: Path, files: Sequence[Path]) -> None:
        self.lock = lock
        self.files = tuple(files)


def open_to_accept(seen: Seen) -> bool:
    """Whether accepting changes anything, and can be done."""
    return seen.standing in (Standing.NEW, Standing.CHANGED)


def accept(config: Config, chosen: Mapping[str, Mapping[str, tuple[Seen, Effect]]]) -> Accepted:
    """Pin every chosen tool, and write an entry for each that has none. Raises `CommandError`, `OSError`.

    The files of `tools:` come first: an entry without a pin does not load, a pin without an entry offers nothing.
    """
    files: list[Path] = []
    pins: dict[str, dict[str, Written]] = {source: dict(tools) for source, tools in config.pins.items()}
    taken = {tool.name.casefold() for tool in config.tools}
    for source, tools in chosen.items():
        missing = {
            entry_name(name, kind_of(name)): effect
            for name, (_, effect) in tools.items()
            if entry_of(source, name, config.tools) is None
        }
        if missing:
            files.append(_write_entries(config, source, missing, taken))
        for name, (seen, _) in tools.items():
            assert seen.written is not None
            pins.setdefault(source, {})[name] = seen.written
    lock = config.base_dir / LOCK_NAME
    write_pins(lock, pins)
    return Accepted(lock, files)


def _wanted_name(source: str, name: str) -> str:
    if name == RESOURCES:
        return f"{source}_resource"
    return name.removeprefix(kind_of(name).prefix)


def _write_entries(config: Config, source: str, tools: Mapping[str, Effect], taken: set[str]) -> Path:
    """A file of its own, so that nothing anybody wrote is touched."""
    lines = [
        f"# Tools of `{source}`, as `comptroller classify` wrote them. Yours to edit: it writes no file a second time.",
        "tools:",
    ]
    for name, effect in tools.items():
        offered = exposed_name(source, _wanted_name(source, name), taken, config.limits.tool_name_max)
        taken.add(offered.casefold())
        lines += [f"  - name: {json.dumps(offered)}", f"    source: {json.dumps(source)}"]
        if offered != name:
            lines.append(f"    source_tool: {json.dumps(name)}")
        lines.append(f"    allow_actions: [{effect.value}]")
        if effect in (Effect.EXECUTE, Effect.DELETE):
            lines.append(f"    approval: [{{role: {ROLE}, at_least: 1}}]")
    folder = config.base_dir / FRAGMENTS
    folder.mkdir(exist_ok=True)
    for at in range(1, _FILES_MAX):
        path = folder / (f"{source}.yaml" if at == 1 else f"{source}-{at}.yaml")
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            continue
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        return path
    raise CommandError(f"{folder} holds too many files of `{source}`; join some of them")
