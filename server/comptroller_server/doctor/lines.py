"""What an examination says, and what it is given to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from comptroller_server.config.model import Config

__all__ = ["Level", "Line", "Patient", "ok", "problem", "warning"]


class Level(StrEnum):
    """`problem`: something does not work, or does not hold what it promises. `warning`: it may come to that."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was looked at: what was found, and unless it is well, what it means and what to do."""

    topic: str
    level: Level
    found: str
    means: str = ""
    do: str = ""


@dataclass(frozen=True, slots=True)
class Patient:
    """What is examined. `config` is None when none could be read; then what hangs on it is left out.

    `home`, `platform` (as `sys.platform`) and `environ` say where clients keep their files.
    """

    data_dir: Path
    config: Config | None
    home: Path
    platform: str
    environ: Mapping[str, str]

    @property
    def database(self) -> Path | None:
        """The SQLite file; None for a server elsewhere, or without a configuration."""
        return self.config.store.database if self.config is not None else None


def ok(topic: str, found: str) -> Line:
    return Line(topic, Level.OK, found)


def warning(topic: str, found: str, means: str, do: str) -> Line:
    return Line(topic, Level.WARNING, found, means, do)


def problem(topic: str, found: str, means: str, do: str) -> Line:
    return Line(topic, Level.PROBLEM, found, means, do)
