"""What clients let people write in place of a value: `${env:X}`, `${input:x}`, `${userHome}`. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

__all__ = ["Around", "Filled", "Unfilled"]

_PLACEHOLDER = re.compile(r"\$\{([^${}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Unfilled(Exception):
    """Nothing is known to put there; says what a person has to do. `asks` is the id of an input that can be given."""

    def __init__(self, text: str, asks: str | None = None) -> None:
        super().__init__(text)
        self.asks = asks


@dataclass(slots=True)
class Filled:
    """Which of one server's values came from elsewhere: their names, for a note, and whether one is a password."""

    names: list[str] = field(default_factory=list[str])
    has_password: bool = False


@dataclass(frozen=True, slots=True)
class Around:
    """What stands around a client's file. `folder` is that of its project, None for a file of the user's.

    `inputs` are VS Code's questions by id, `given` the answers there are. `expands` is false for a client that takes
    every text as it stands.
    """

    home: Path
    environ: Mapping[str, str] = field(repr=False)
    folder: Path | None = None
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    given: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    expands: bool = True

    def fill(self, value: Any, filled: Filled) -> Any:
        """`value` with every placeholder in its texts filled in. Raises `Unfilled`."""
        if isinstance(value, str):
            return (
                _PLACEHOLDER.sub(lambda found: self._one(found[1], filled), value) if self.expands else value
            )
        if isinstance(value, list):
            return [self.fill(one, filled) for one in cast("Sequence[Any]", value)]
        if isinstance(value, dict):
            return {key: self.fill(one, filled) for key, one in cast("dict[str, Any]", value).items()}
        return value

    def _one(self, written: str, filled: Filled) -> str:
        kind, colon, name = written.partition(":")
        if kind == "input" and colon:
            return self._input(name, filled)
        if kind == "env" and colon:
            return self._variable(name, None, filled)
        known = {"userHome": str(self.home), "pathSeparator": os.sep, "/": os.sep}
        if self.folder is not None:
            known |= {"workspaceFolder": str(self.folder), "workspaceFolderBasename": self.folder.name}
        if written in known:
            return known[written]
        name, dash, default = written.partition(":-")
        if _NAME.fullmatch(name) and not name.startswith("workspaceFolder"):
            return self._variable(name, default if dash else None, filled)
        raise Unfilled(f"nobody knows here what `${{{written[:60]}}}` stands for; write the value itself")

    def _variable(self, name: str, default: str | None, filled: Filled) -> str:
        value = self.environ.get(name) or default
        if value is None:
            raise Unfilled(f"it needs the environment variable {name[:60]}; set it, and run this again")
        filled.names.append(name)
        return value

    def _input(self, name: str, filled: Filled) -> str:
        asked = self.inputs.get(name, {})
        filled.has_password = filled.has_password or asked.get("password") is True
        filled.names.append(name)
        if name in self.given:
            return self.given[name]
        what = str(asked.get("description") or name)[:120]
        raise Unfilled(f"it asks for `{name[:60]}` ({what}), which a person must fill in", asks=name)
