"""A client's own list of MCP servers (`mcpServers`), read as sources with its secrets taken out. Pure but for reading."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from comptroller_audit.patterns import CREDENTIALS
from comptroller_audit.redaction import Release
from comptroller_server.config.upstreams import McpConfig
from comptroller_server.errors import CommandError
from comptroller_server.setting_up.clients import CLIENTS, ENTRY, Client, ClientKind, Machine, project_of
from comptroller_server.setting_up.jsonc import plain_json
from comptroller_server.upstreams.client_files import ClientFile, Found, ServerList
from comptroller_server.upstreams.placeholders import Around, Filled, Unfilled
from comptroller_server.upstreams.source_names import SourceNames
from comptroller_server.upstreams.standing import unlike_its_looks

__all__ = ["Reading", "read_client_file"]

FILE_BYTES_MAX = 16 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_KEYS = ("mcpServers", "servers")
_SECRET_NAME = re.compile(r"token|secret|passw|key|auth|credential|cookie|private", re.IGNORECASE)
_IGNORED = frozenset(
    {"type", "transport", "disabled", "timeout", "autoApprove", "alwaysAllow", "description", "enabled"}
)
_NARROWING = frozenset({"disabledTools", "enabledTools", "tools"})
"""Which tools a client lets its model see of a server; here a person says that of each tool."""
_THEIRS = frozenset({"command", "args", "env", "cwd", "url", "headers"})
"""What a client's entry may say of a source. The rest of our own words are for the operator to write."""
_UNWRITABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Characters that no configuration can hold."""
SECRETS = "secret://file/{data_dir}/secrets"


def _none_given(_: Path) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True)
class Reading:
    """What a client's file is read with: the machine, the names of sources, and answers to what files ask for."""

    machine: Machine
    names: SourceNames
    given: Callable[[Path], Mapping[str, str]] = field(default=_none_given, repr=False)
    """The answers that were given for one file: another file that asks for the same name gets none of them."""


def read_client_file(path: Path, reading: Reading, client: Client | None = None) -> ClientFile:
    """Read a client's file; `client` is whose it is, where that is known. Raises `CommandError`."""
    path = path.expanduser().resolve()
    client = client or reading.machine.client_of(path)
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        plain = plain_json(content.removeprefix(_BOM).decode()) if len(content) <= FILE_BYTES_MAX else ""
        tree: Any = json.loads(plain)
    except OSError as error:
        raise CommandError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise CommandError(f"{path} cannot be read as JSON; nothing was changed") from None
    whole = cast("dict[str, Any]", tree) if isinstance(tree, dict) else {}
    if client is None and isinstance(whole.get("servers"), dict) and "mcpServers" not in whole:
        client = CLIENTS[ClientKind.VSCODE]
    around = _around(path, client, whole, reading)
    lists = [
        ServerList(keys, tuple(_servers(entries, around, reading.names)))
        for keys, entries in _lists(whole, client)
    ]
    if not lists:
        raise CommandError(f"{path} has no `mcpServers`; is it the file of an MCP client?")
    return ClientFile(path, client, content, plain, tuple(lists))


def _lists(whole: dict[str, Any], client: Client | None) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Where the file lists servers. Claude Code keeps those of each project in the same file."""
    key = next((one for one in _KEYS if isinstance(whole.get(one), dict)), None)
    if key is not None:
        yield (key,), whole[key]
    projects = whole.get("projects") if client is None or client.kind is ClientKind.CLAUDE_CODE else None
    for folder, settings in cast("dict[str, Any]", projects if isinstance(projects, dict) else {}).items():
        entries: Any = (
            cast("dict[str, Any]", settings).get("mcpServers") if isinstance(settings, dict) else None
        )
        if isinstance(entries, dict) and entries:
            yield ("projects", folder, "mcpServers"), cast("dict[str, Any]", entries)


def _around(path: Path, client: Client | None, whole: Mapping[str, Any], reading: Reading) -> Around:
    machine = reading.machine
    folder = None
    if client is not None and path not in client.places(machine.home, machine.platform, machine.environ):
        folder = project_of(client, path)
    asked: dict[str, Mapping[str, Any]] = {}
    written: Any = whole.get("inputs")
    for one in cast("Sequence[Any]", written if isinstance(written, list) else ()):
        if isinstance(one, dict):
            question = cast("dict[str, Any]", one)
            asked[str(question.get("id"))] = question
    expands = client is None or client.kind is not ClientKind.CLAUDE_DESKTOP
    return Around(machine.home, machine.environ, folder, asked, reading.given(path), expands)


def _servers(entries: Mapping[str, Any], around: Around, names: SourceNames) -> Iterator[Found]:
    for name, entry in entries.items():
        if name != ENTRY:
            yield _read(name, entry, around, names)


def _read(name: str, entry: Any, around: Around, names: SourceNames) -> Found:
    if not isinstance(entry, dict):
        return Found(name, why_not="its entry is no object")
    whole = cast("dict[str, Any]", entry)
    if whole.get("disabled") is True or whole.get("enabled") is False:
        return Found(name, why_not="it is switched off there, and stays so")
    if "sse" in (whole.get("type"), whole.get("transport")):
        return Found(name, why_not="it speaks the old HTTP+SSE transport, which is not spoken here")
    written = {key: value for key, value in whole.items() if key not in _IGNORED | _NARROWING}
    if "serverUrl" in written:
        written["url"] = written.pop("serverUrl")
    if (problem := _not_theirs(name, written)) is not None:
        return Found(name, why_not=problem)
    filled = {key: Filled() for key in written}
    try:
        given = {key: _fill(value, around, filled[key]) for key, value in written.items()}
    except Unfilled as missing:
        return Found(name, why_not=str(missing), asks=missing.asks)
    if any(_has_secret(filled[key]) for key in given if key not in ("env", "headers")):
        return Found(
            name, why_not="its secret would stand where anybody on this machine can read it; use `env`"
        )
    command = given.get("command")
    if isinstance(command, str) and os.sep in command and not Path(command).is_absolute():
        return Found(name, why_not="its command is a relative path, and nobody knows from where")
    if (problem := _problem(given)) is not None:
        return Found(name, why_not=problem)
    source = names.of(name, given, lambda source: _moved(source, given, written)[0])
    mcp, secrets = _moved(source, given, written)
    return Found(name, source, mcp, secrets, notes=(*unlike_its_looks(name), *_notes(whole, mcp, filled)))


def _not_theirs(name: str, written: Mapping[str, Any]) -> str | None:
    """What a file that anybody may have written must not bring into a configuration."""
    ours = sorted((McpConfig.model_fields.keys() - _THEIRS) & written.keys())
    if ours:
        return f"`{ours[0]}` is for the configuration here; no client knows it"
    texts = [name, *_texts(written)]
    if any("secret://" in text for text in texts):
        return "it holds a `secret://` reference, which would hand one of your secrets to a server"
    if any(_UNWRITABLE.search(text) for text in texts):
        return "it holds characters that no configuration can hold"
    return None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in cast("list[object]", value):
            yield from _texts(one)
    elif isinstance(value, dict):
        for key, one in cast("dict[str, Any]", value).items():
            yield key
            yield from _texts(one)


def _has_secret(filled: Filled) -> bool:
    return filled.has_password or any(_SECRET_NAME.search(name) for name in filled.names)


def _fill(value: Any, around: Around, filled: Filled) -> Any:
    return around.fill(value, filled)


def _problem(given: Mapping[str, Any]) -> str | None:
    """Why a server with this entry cannot be a source, checked with references in place of its secrets."""
    mcp, _ = _moved("server", given, given)
    try:
        McpConfig.model_validate_json(json.dumps(mcp), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "its entry"
        return f"`{place[:80]}`: {first['msg'][:200]}"
    return None


def _notes(whole: Mapping[str, Any], mcp: Mapping[str, Any], filled: Mapping[str, Filled]) -> Iterator[str]:
    looks = Release((), (CREDENTIALS,))
    if any(looks.secrets_in(text) for text in mcp.get("args", ())):
        yield "its arguments seem to hold a credential, which anybody on this machine can list; move it to `env`"
    if any(looks.secrets_in(text) for text in (mcp.get("url"),) if isinstance(text, str)):
        yield "its address seems to hold a credential; move it to `headers`"
    if narrowed := sorted(_NARROWING & whole.keys()):
        yield f"its client hides some of its tools (`{narrowed[0]}`): leave those out below"
    if names := sorted({name for one in filled.values() for name in one.names}):
        yield f"{', '.join(names)}: taken over with the value it has now, or else its default"


def _moved(
    source: str, given: Mapping[str, Any], written: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The entry with references in place of what looks like a secret, and the secrets by the name of their file."""
    secrets: dict[str, str] = {}
    mcp = {
        key: _without_secrets(f"{source}.", value, written.get(key), secrets)
        if key in ("env", "headers")
        else value
        for key, value in given.items()
    }
    return mcp, secrets


def _without_secrets(prefix: str, values: Any, written: Any, secrets: dict[str, str]) -> Any:
    """A secret is told by its name, by its look, or because it did not stand in the file (`written`) itself."""
    if not isinstance(values, dict):
        return values
    before = cast("dict[str, Any]", written) if isinstance(written, dict) else {}
    looks = Release((), (CREDENTIALS,))
    moved: dict[str, Any] = {}
    for name, value in cast("dict[str, Any]", values).items():
        if (
            value
            and isinstance(value, str)
            and (_SECRET_NAME.search(name) or looks.secrets_in(value) or before.get(name) != value)
        ):
            file = prefix + re.sub(r"[^A-Za-z0-9_-]", "_", name)
            secrets[file] = value
            moved[name] = f"{SECRETS}/{file}"
        else:
            moved[name] = value
    return moved
