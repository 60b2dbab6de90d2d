"""A hostile upstream beside the desk: its behaviour, its ledger, and the pins of what was accepted of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comptroller_tools.upstream.definitions import Kind, Written
from comptroller_tools.upstream.pins import LOCK_NAME, write_pins
from comptroller_tools.upstream.settings import ErrorsMean, StdioCommand, UpstreamSettings
from tests.scenarios import hostile_upstream

__all__ = ["LOOK", "WRITE", "Upstream", "definition"]

_LISTS = {
    "tools": Kind.TOOL,
    "resources": Kind.RESOURCE,
    "templates": Kind.TEMPLATE,
    "prompts": Kind.PROMPT,
}
PATH = {"path": {"type": "string"}}


def definition(name: str, description: str = "", **more: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": dict(PATH), "required": ["path"]}
    return {"name": name, "description": description, "inputSchema": schema, **more}


LOOK = definition("look", "Look at a file.")
WRITE = definition("write", "Write a file.")


class Upstream:
    """The hostile server's folder. Tests write what it does, and read what it really did."""

    def __init__(self, folder: Path, *tools: Mapping[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._told: dict[str, Any] = {"tools": list(tools or (LOOK, WRITE)), "calls": {}}
        self._write()

    def lists(self, *tools: Mapping[str, Any]) -> None:
        self._told["tools"] = list(tools)
        self._write()

    def offers(self, **more: Any) -> None:
        """Beside its tools: `resources`, `templates`, `prompts`; and whether it agrees to `subscribe` and has `logs`."""
        self._told |= more
        self._write()

    def has_no_tools(self) -> None:
        self._told["tools"] = None
        self._write()

    def starts(self, how: str) -> None:
        self._told["start"] = how
        self._write()

    def speaks_later(self) -> None:
        """The era of 2026, from its next start on."""
        self._told["later"] = True
        self._write()

    def does(self, tool: str, what: str = "ok", **more: Any) -> None:
        self._told["calls"][tool] = {"does": what, **more}
        self._write()

    def _write(self) -> None:
        new = self.folder / "behaviour.new"
        new.write_text(json.dumps(self._told))
        new.replace(self.folder / "behaviour.json")

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-I", "-S", hostile_upstream.__file__, str(self.folder)]

    @property
    def ran(self) -> list[dict[str, Any]]:
        """The oracle: every tool call that the server ran."""
        return [json.loads(line) for line in self._lines("ledger")]

    @property
    def received(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._lines("received")]

    @property
    def pid(self) -> int:
        return int((self.folder / "pid").read_text())

    @property
    def environment(self) -> dict[str, str]:
        read: dict[str, str] = json.loads((self.folder / "environment").read_text())
        return read

    def _lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def pins(self, *tools: Mapping[str, Any]) -> dict[str, Written]:
        if tools:
            return {str(tool["name"]): Written.of(tool) for tool in tools}
        listed = [Written.of(one, kind) for key, kind in _LISTS.items() for one in self._told.get(key) or ()]
        return {written.name: written for written in listed}

    def accept(self, beside: Path, source: str = "files", *tools: Mapping[str, Any]) -> None:
        """Pin what it lists, or `tools`, as a person would have."""
        write_pins(beside / LOCK_NAME, {source: self.pins(*tools)})

    def settings(self, **more: Any) -> UpstreamSettings:
        errors = more.pop("errors_mean", ErrorsMean.IN_DOUBT)
        env = more.pop("env", {})
        command, *args = self.command
        transport = StdioCommand(command, tuple(args), env, self.folder)
        return UpstreamSettings(transport, {"transport": "stdio"}, errors_mean=errors, **more)

    def config(self, **more: Any) -> dict[str, Any]:
        command, *args = self.command
        return {"mcp": {"command": command, "args": args, **more}}
