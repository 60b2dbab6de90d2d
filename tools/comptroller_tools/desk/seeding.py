"""Writing a desk's first records: one connection, one seeded source of chance, and no id twice."""

from __future__ import annotations

import random
import sqlite3
from dataclasses import dataclass, field
from datetime import UTC, datetime

from comptroller_tools.desk.ids import new_id

__all__ = ["BEFORE", "START", "Seeding"]

START = datetime(2026, 8, 3, 8, 0, tzinfo=UTC)
"""When the desk's history begins."""

BEFORE = "before-"
"""Effect keys of what happened before anybody called the desk begin with this."""


@dataclass(slots=True)
class Seeding:
    """What generating needs. The order of calls is part of the records: draw new things after the old ones."""

    connection: sqlite3.Connection
    chance: random.Random
    used: set[str] = field(default_factory=set[str])

    def id(self, kind: str) -> str:
        while (fresh := new_id(kind, self.chance)) in self.used:
            pass
        self.used.add(fresh)
        return fresh

    def effect_key(self) -> str:
        """The key of a write that was there before."""
        return f"{BEFORE}{self.id('eff')}"

    def insert(self, table: str, *values: object) -> None:
        marks = ", ".join("?" * len(values))
        self.connection.execute(f"INSERT INTO {table} VALUES ({marks})", values)  # noqa: S608 -- our own table names
