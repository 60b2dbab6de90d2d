"""MCP clients: where each keeps its servers, and what to write there for us.

Places and shapes as each maker documents them: Claude Desktop and Claude Code (modelcontextprotocol.io/quickstart,
code.claude.com/docs/en/mcp), Cursor (cursor.com/docs/mcp), VS Code (code.visualstudio.com/docs/copilot/reference/mcp-configuration),
Windsurf (docs.windsurf.com/windsurf/cascade/mcp).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

__all__ = [
    "CLIENTS",
    "ENTRY",
    "Client",
    "ClientKind",
    "Machine",
    "project_of",
]

ENTRY = "comptroller"
"""The name of our own entry in a client's file."""
TOKEN_VARIABLE = "COMPTROLLER_TOKEN"  # noqa: S105 -- the name of a variable, not a token


class ClientKind(StrEnum):
    """The clients whose files we know; also their names in `identity.local.clients`."""

    CLAUDE_DESKTOP = "claude-desktop"
    CLAUDE_CODE = "claude-code"
    CURSOR = "cursor"
    VSCODE = "vscode"
    WINDSURF = "windsurf"


@dataclass(frozen=True, slots=True)
class Client:
    """One client. `key` is where its file lists servers, `url_key` how it calls the address of one over HTTP.

    `expands` is how it reads a variable of its environment; None when it takes no servers over HTTP from its file.
    """

    kind: ClientKind
    title: str
    where: str
    key: str = "mcpServers"
    url_key: str = "url"
    expands: str | None = f"${{env:{TOKEN_VARIABLE}}}"
    in_project: tuple[str, ...] = ()
    """Files below the folder of a project."""

    def places(self, home: Path, platform: str, environ: Mapping[str, str]) -> list[Path]:
        """The files of this user in which it keeps servers; `platform` as `sys.platform`. Not those of projects."""
        if platform == "darwin":
            settings = home / "Library" / "Application Support"
        elif platform == "win32":
            settings = Path(environ.get("APPDATA") or home / "AppData" / "Roaming")
        else:
            settings = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
        return {
            ClientKind.CLAUDE_DESKTOP: [settings / "Claude" / "claude_desktop_config.json"],
            ClientKind.CLAUDE_CODE: [home / ".claude.json"],
            ClientKind.CURSOR: [home / ".cursor" / "mcp.json"],
            ClientKind.VSCODE: [settings / "Code" / "User" / "mcp.json"],
            ClientKind.WINDSURF: [home / ".codeium" / "windsurf" / "mcp_config.json"],
        }[self.kind]

    def over_stdio(self, words: Sequence[str]) -> str:
        """What to paste (or to run, for Claude Code), so that it starts `words`."""
        if self.kind is ClientKind.CLAUDE_CODE:
            return f"claude mcp add {ENTRY} -- {shlex.join(words)}"
        return self._document(self.entry(words))

    def entry(self, words: Sequence[str]) -> dict[str, Any]:
        """The entry in its file that starts `words`."""
        entry: dict[str, Any] = {"command": words[0], "args": list(words[1:])}
        return {"type": "stdio", **entry} if self.kind is ClientKind.VSCODE else entry

    def over_http(self, url: str, token_file: str) -> str | None:
        """The same for a server at `url`; the token stays out of the text. None where it takes none over HTTP."""
        if self.kind is ClientKind.CLAUDE_CODE:
            header = f'"Authorization: Bearer $(cat {shlex.quote(token_file)})"'
            return f"claude mcp add --transport http {ENTRY} {url} --header {header}"
        if self.expands is None:
            return None
        entry: dict[str, Any] = {self.url_key: url, "headers": {"Authorization": f"Bearer {self.expands}"}}
        if self.kind is not ClientKind.VSCODE:
            return self._document(entry)
        asked = {
            "type": "promptString",
            "id": "comptroller-token",
            "description": "Token of this client",
            "password": True,
        }
        return self._document({"type": "http", **entry}, inputs=[asked])

    def _document(self, entry: Mapping[str, Any], **before: Any) -> str:
        return json.dumps({**before, self.key: {ENTRY: entry}}, indent=2, ensure_ascii=False)


CLIENTS: Mapping[ClientKind, Client] = {
    one.kind: one
    for one in (
        Client(
            ClientKind.CLAUDE_DESKTOP,
            "Claude Desktop",
            "claude_desktop_config.json (Settings, Developer, Edit Config)",
            expands=None,
        ),
        Client(ClientKind.CLAUDE_CODE, "Claude Code", "a terminal", in_project=(".mcp.json",)),
        Client(ClientKind.CURSOR, "Cursor", "~/.cursor/mcp.json", in_project=(".cursor/mcp.json",)),
        Client(
            ClientKind.VSCODE,
            "VS Code",
            ".vscode/mcp.json",
            key="servers",
            expands="${input:comptroller-token}",
            in_project=(".vscode/mcp.json",),
        ),
        Client(ClientKind.WINDSURF, "Windsurf", "~/.codeium/windsurf/mcp_config.json", url_key="serverUrl"),
    )
}


@dataclass(frozen=True, slots=True)
class Machine:
    """Where clients keep their files: a user's home, the platform as `sys.platform`, and the environment."""

    home: Path
    platform: str
    environ: Mapping[str, str] = field(repr=False)

    def files(self, project: Path | None) -> Iterator[tuple[Client, Path]]:
        """Every file of a client that is there: the user's, then those of `project`."""
        seen: set[Path] = set()
        for client in CLIENTS.values():
            places = client.places(self.home, self.platform, self.environ)
            places += [project / name for name in client.in_project] if project is not None else []
            for place in places:
                if place not in seen and place.is_file():
                    seen.add(place)
                    yield client, place

    def client_of(self, path: Path) -> Client | None:
        """Whose file this is, by its place or, for a copy of one, by its name; None where several have files like it."""
        for client in CLIENTS.values():
            if path in client.places(self.home, self.platform, self.environ) or project_of(client, path):
                return client
        names = [
            client
            for client in CLIENTS.values()
            for place in client.places(self.home, self.platform, self.environ)
            if place.name == path.name
        ]
        return names[0] if len(names) == 1 else None


def project_of(client: Client, path: Path) -> Path | None:
    """The folder of the project that a client's file belongs to; None for a file that is no project's."""
    for name in client.in_project:
        parts = Path(name).parts
        if path.parts[-len(parts) :] == parts:
            return path.parents[len(parts) - 1]
    return None
