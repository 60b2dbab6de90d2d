"""A client's own list of MCP servers (`mcpServers`), read as sources with its secrets taken out. Pure but for reading."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from comptroller_audit.patterns import CREDENTIALS
from comptroller_audit.redaction import Release
from comptroller_server.config.upstreams import McpConfig
from comptroller_server.errors import CommandError

__all__ = ["OURS", "ClientFile", "Found", "read_client_file"]

OURS = "comptroller"
"""The name of our own entry in a client's file."""
FILE_BYTES_MAX = 4 * 1024 * 1024
_KEYS = ("mcpServers", "servers")
_SECRET_NAME = re.compile(r"token|secret|passw|key|auth|credential|cookie|private", re.IGNORECASE)
_IGNORED = frozenset(
    {"type", "transport", "disabled", "timeout", "autoApprove", "alwaysAllow", "description", "enabled"}
)
SECRETS = "secret://file/{data_dir}/secrets"


@dataclass(frozen=True, slots=True)
class Found:
    """One server of the file. `mcp` is what to write of it, `secrets` the values it refers to, by file name.

    `why_not` says why it stays where it is.
    """

    name: str
    source: str
    mcp: Mapping[str, Any] = field(default_factory=dict[str, Any])
    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    why_not: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClientFile:
    """The file as it is, and the servers in it. `key` is where it lists them."""

    path: Path
    content: bytes = field(repr=False)
    key: str
    tree: Mapping[str, Any] = field(repr=False)
    servers: tuple[Found, ...]

    def switched(self, entry: Mapping[str, Any], taken: Collection[str]) -> bytes:
        """The file with one entry of ours in place of the servers `taken`."""
        kept = {name: one for name, one in self.tree[self.key].items() if name not in taken and name != OURS}
        tree = {**self.tree, self.key: {OURS: dict(entry), **kept}}
        return (json.dumps(tree, indent=2, ensure_ascii=False) + "\n").encode()


def read_client_file(path: Path, used: Collection[str]) -> ClientFile:
    """Read a client's file. `used` are names of sources that are something else. Raises `CommandError`."""
    path = path.expanduser().resolve()
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        tree: Any = json.loads(content) if len(content) <= FILE_BYTES_MAX else None
    except OSError as error:
        raise CommandError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise CommandError(f"{path} is not plain JSON (comments are not read); nothing was changed") from None
    whole = cast("dict[str, Any]", tree) if isinstance(tree, dict) else {}
    key = next((one for one in _KEYS if isinstance(whole.get(one), dict)), None)
    if key is None:
        raise CommandError(f"{path} has no `mcpServers`; is it the file of an MCP client?")
    taken = {name.casefold() for name in used}
    servers: list[Found] = []
    for name, entry in cast("dict[str, Any]", whole[key]).items():
        if name == OURS:
            continue
        found = _read(name, entry, taken)
        taken.add(found.source.casefold())
        servers.append(found)
    return ClientFile(path, content, key, whole, tuple(servers))


def _read(name: str, entry: Any, taken: Collection[str]) -> Found:
    source = _source_name(name, taken)
    if not isinstance(entry, dict):
        return Found(name, source, why_not="its entry is no object")
    whole = cast("dict[str, Any]", entry)
    if "sse" in (whole.get("type"), whole.get("transport")):
        return Found(name, source, why_not="it speaks the old HTTP+SSE transport, which is not spoken here")
    given = {key: value for key, value in whole.items() if key not in _IGNORED}
    command = given.get("command")
    if isinstance(command, str) and os.sep in command and not Path(command).is_absolute():
        return Found(name, source, why_not="its command is a relative path, and nobody knows from where")
    secrets: dict[str, str] = {}
    mcp: dict[str, Any] = {}
    for key, value in given.items():
        mcp[key] = _without_secrets(f"{source}.", value, secrets) if key in ("env", "headers") else value
    try:
        McpConfig.model_validate_json(json.dumps(mcp), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "its entry"
        return Found(name, source, why_not=f"`{place[:80]}`: {first['msg'][:200]}")
    notes: list[str] = []
    looks = Release((), (CREDENTIALS,))
    if any(looks.secrets_in(text) for text in mcp.get("args", ())):
        notes.append(
            "its arguments seem to hold a credential, which anybody on this machine can list; move it to `env`"
        )
    return Found(name, source, mcp, secrets, notes=tuple(notes))


def _source_name(name: str, taken: Collection[str]) -> str:
    plain = re.sub(r"[^A-Za-z0-9-]+", "_", name).strip("_-")
    plain = plain if plain[:1].isalpha() else f"server_{plain}"
    candidate, at = plain[:40].rstrip("_-"), 2
    while candidate.casefold() in taken:
        candidate, at = f"{plain[:36]}_{at}", at + 1
    return candidate


def _without_secrets(prefix: str, values: Any, secrets: dict[str, str]) -> Any:
    """`values` with references in place of what looks like a secret, by its name or by itself."""
    if not isinstance(values, dict):
        return values
    looks = Release((), (CREDENTIALS,))
    written: dict[str, Any] = {}
    for name, value in cast("dict[str, Any]", values).items():
        plain = isinstance(value, str) and value and not value.startswith("secret://")
        if plain and (_SECRET_NAME.search(name) or looks.secrets_in(value)):
            file = prefix + re.sub(r"[^A-Za-z0-9_-]", "_", name)
            secrets[file] = value
            written[name] = f"{SECRETS}/{file}"
        else:
            written[name] = value
    return written
