"""The lock file: the definitions that a person has accepted, by source and name. Read by every start, written by one command.

    {"v": 1, "sources": {"git": {"git_log": {"digest": "…", "definition": {"name": …, "inputSchema": …}}}}}

What is no tool has its kind before its name: `resource:URI`, `template:URI`, `prompt:NAME`. What is offered comes from here and never from the wire, so a start needs no upstream, and an upstream changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from comptroller_audit.files import replace_file
from comptroller_audit.vocabulary import JsonObject
from comptroller_tools.errors import ToolError
from comptroller_tools.upstream.definitions import Unusable, Written, kind_of

__all__ = ["LOCK_NAME", "Pins", "PinsInvalid", "pins_in", "pins_tree", "read_pins", "write_pins"]

LOCK_NAME = "comptroller.lock.json"
LOCK_BYTES_MAX = 16 * 1024 * 1024

Pins = Mapping[str, Mapping[str, Written]]
"""Source, name of the pin, definition."""


class PinsInvalid(ToolError):
    """The lock file cannot be used; the text says where and what to do."""


def read_pins(path: Path) -> dict[str, dict[str, Written]]:
    """The pins at `path`; none when there is no file. Raises `PinsInvalid`."""
    try:
        with path.open("rb") as file:
            data = file.read(LOCK_BYTES_MAX + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise PinsInvalid(f"cannot be read ({error.strerror}); check its permissions") from None
    try:
        tree: Any = json.loads(data.decode("utf-8")) if len(data) <= LOCK_BYTES_MAX else None
    except (ValueError, RecursionError):
        tree = None
    return pins_in([] if tree is None else tree)


def pins_in(tree: Any) -> dict[str, dict[str, Written]]:
    """The pins of a lock file's JSON; none for None. Raises `PinsInvalid`."""
    if tree is None:
        return {}
    try:
        return {source: _pinned(source, tools) for source, tools in _sources(tree).items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise PinsInvalid(
            "is no lock file of version 1; write it again with `comptroller classify`"
        ) from None


def _sources(tree: Any) -> dict[str, dict[str, Any]]:
    whole = cast("dict[str, Any]", tree) if isinstance(tree, dict) else {}
    if whole.get("v") != 1 or not isinstance(whole.get("sources"), dict):
        raise ValueError("no lock file")
    return cast("dict[str, dict[str, Any]]", whole["sources"])


def _pinned(source: str, tools: Mapping[str, Any]) -> dict[str, Written]:
    pinned: dict[str, Written] = {}
    for name, entry in tools.items():
        try:
            written = Written.of(entry["definition"], kind_of(name))
        except Unusable as unusable:
            raise PinsInvalid(f"has an unusable definition of `{source}`: {unusable}") from None
        if written.name != name or written.digest != entry["digest"]:
            raise PinsInvalid(
                f"was changed by hand at `{source}`, `{name[:80]}`: the digest is that of another definition; "
                f"run `comptroller classify {source}`"
            )
        pinned[name] = written
    return pinned


def write_pins(path: Path, pins: Pins) -> None:
    """Replace the file at once. ASCII only, sorted, so that a review shows every change and every hidden character."""
    text = json.dumps(pins_tree(pins), indent=2, ensure_ascii=True) + "\n"
    replace_file(path, text.encode("ascii"), 0o644)


def pins_tree(pins: Pins) -> JsonObject:
    """What the file holds, sorted."""
    return {
        "v": 1,
        "sources": {
            source: {
                name: {"digest": pin.digest, "definition": dict(pin.definition)}
                for name, pin in sorted(tools.items())
            }
            for source, tools in sorted(pins.items())
        },
    }
