"""Clients of this user whose files name us, and whether what they name is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from comptroller_server.doctor.lines import Line, Patient, ok, problem, warning
from comptroller_server.setting_up.clients import ENTRY, Client, Machine
from comptroller_server.setting_up.jsonc import read_json
from comptroller_server.setting_up.starting import cache_around

__all__ = ["clients"]

FILE_BYTES_MAX = 16 * 1024 * 1024
_MODULE = "comptroller_server.cli"


def clients(patient: Patient) -> Iterator[Line]:
    named = False
    for client, path in _places(patient):
        try:
            entries = dict(_entries(client, path))
        except (OSError, ValueError, RecursionError) as error:
            yield warning(
                "clients",
                f"{client.title}: {path} cannot be read as JSON ({type(error).__name__})",
                "the client may not read it either, and then starts no server",
                "open it there, and look for a missing comma or quote",
            )
            continue
        for name, entry in entries.items():
            if _is_ours(name, entry):
                named = True
                yield from _examined(patient, f"{client.title}, {path}, `{name}`", entry)
    if not named:
        yield ok(
            "clients",
            "no client's file names this program (`comptroller config snippet` shows what to write)",
        )


def _places(patient: Patient) -> Iterator[tuple[Client, Path]]:
    """The files of this user, and those of a project that has its configuration in the same folder."""
    project = patient.config.base_dir if patient.config is not None else None
    return Machine(patient.home, patient.platform, patient.environ).files(project)


def _entries(client: Client, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The servers of a file. Claude Code keeps those of each project in the same file."""
    with path.open("rb") as file:
        text = file.read(FILE_BYTES_MAX).decode("utf-8")
    tree = _object(read_json(text))
    for project, settings in _object(tree.get("projects")).items():
        for name, entry in _object(_object(settings).get("mcpServers")).items():
            yield f"{name} in {project}", _object(entry)
    for name, entry in _object(tree.get(client.key)).items():
        yield name, _object(entry)


def _object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _words(entry: Mapping[str, Any]) -> list[str]:
    args = entry.get("args")
    given = cast("list[object]", args) if isinstance(args, list) else []
    return [str(entry.get("command") or ""), *map(str, given)]


def _is_ours(name: str, entry: Mapping[str, Any]) -> bool:
    words = _words(entry)
    return name.partition(" in ")[0] == ENTRY or _MODULE in words or Path(words[0]).name == "comptroller"


def _examined(patient: Patient, where: str, entry: Mapping[str, Any]) -> Iterator[Line]:
    address = entry.get("url") or entry.get("serverUrl")
    if address is not None:
        yield ok("clients", f"{where}: over HTTP at {address}")
        return
    words = _words(entry)
    if (fault := _missing_command(patient, words[0])) is not None:
        yield problem(
            "clients",
            f"{where}: {fault}",
            "the client cannot start us and shows no tools",
            "write what `comptroller config snippet` prints for it",
        )
        return
    config = _option(words, "--config")
    if config is not None and not Path(config).is_file():
        yield problem(
            "clients",
            f"{where}: there is no configuration at {config}",
            "the client sees only `comptroller_status`, which says so",
            "correct the path there; it has to be absolute",
        )
        return
    if not Path(words[0]).is_absolute() or (config is not None and not Path(config).is_absolute()):
        yield warning(
            "clients",
            f"{where}: {words[0]} or its --config is no absolute path",
            "clients start servers in a folder and with a PATH of their own",
            "write what `comptroller config snippet` prints for it",
        )
        return
    if (cache := cache_around(Path(words[0]).parent.parent)) is not None:
        yield warning(
            "clients",
            f"{where}: {words[0]} lies in the cache {cache}",
            "one day the cache is tidied, and the client shows no tools",
            "write what `comptroller config snippet` prints for it, which names the runner or an installed program",
        )
        return
    named, known = _option(words, "--client"), patient.config
    mine = known is not None and config is not None and Path(config).resolve() == known.path.resolve()
    if mine and known is not None and named is not None and named not in known.identity.local.clients:
        yield problem(
            "clients",
            f"{where}: it says `--client {named}`, and the configuration has no such client",
            "the server refuses to start for it",
            f"add `{named}: {{}}` to `identity.local.clients`",
        )
        return
    yield ok("clients", f"{where}: {words[0]} is there{'' if mine else ', with another configuration'}")


def _option(words: list[str], name: str) -> str | None:
    for at, word in enumerate(words):
        if word == name and at + 1 < len(words):
            return words[at + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def _missing_command(patient: Patient, command: str) -> str | None:
    """What is wrong with the command, if anything is."""
    if not command:
        return "it has no command"
    if os.sep not in command:
        found = shutil.which(command, path=patient.environ.get("PATH"))
        return None if found is not None else f"no `{command}` is found on PATH"
    path = Path(command)
    if not path.is_file():
        return f"there is no {command}"
    return None if os.access(path, os.X_OK) else f"{command} is not executable"
