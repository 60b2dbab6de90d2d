"""Finding tasks and hand-offs for commands, released for the person who looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, select

from comptroller_audit.database import Relation, Row
from comptroller_audit.store import Reader
from comptroller_server.commands.released import Reading
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT, Installation
from comptroller_server.tasks.record import TaskRecord, read_task

__all__ = ["newest_rows", "row_named", "shown_task"]

ID_CHARS_MIN = 6


def newest_rows(reader: Reader, relation: Relation, count: int) -> list[tuple[str, Row]]:
    """The newest rows of a table whose ids are UUIDv7, newest first."""
    table = relation.table
    statement = (
        select(table.c.id, *(table.c[name] for name in relation.columns))
        .where(table.c.tenant == bindparam("tenant"))
        .order_by(table.c.id.desc())
        .limit(count)
    )
    return [_as_row(relation, found) for found in reader.query(statement, tenant=TENANT)]


def row_named(reader: Reader, relation: Relation, wanted: str, what: str, listing: str) -> tuple[str, Row]:
    """The row whose id is, or begins with, `wanted`. Raises `CommandError` for none and for several."""
    if len(wanted) < ID_CHARS_MIN or not all(c in "0123456789abcdef-" for c in wanted):
        raise CommandError(f"{wanted!r} is no id of {what}; give one of `{listing}`, or its beginning")
    table = relation.table
    statement = (
        select(table.c.id, *(table.c[name] for name in relation.columns))
        .where(
            table.c.tenant == bindparam("tenant"),
            table.c.id >= bindparam("first"),
            table.c.id < bindparam("last"),
        )
        .order_by(table.c.id)
        .limit(2)
    )
    found = [
        _as_row(relation, row)
        for row in reader.query(statement, tenant=TENANT, first=wanted, last=wanted + "~")
    ]
    if not found:
        raise CommandError(f"no {what} has an id that begins with {wanted!r}; see `{listing}`")
    if len(found) > 1 and found[0][0] != wanted:
        raise CommandError(f"several begin with {wanted!r}; give more of the id")
    return found[0]


def shown_task(reader: Reader, installation: Installation, task: str) -> TaskRecord:
    """A task with its packets released. Raises `KeyRingError`, `SealBroken`."""
    found = read_task(reader, installation.ring, TENANT, task)
    reading = Reading(installation)
    book = reading.book(reader, task)
    return TaskRecord(
        found.task,
        found.row,
        reading.packet(found.began, book),
        reading.packet(found.ended, book),
        [(call, row, reading.released(str(row["tool"]), logged, book)) for call, row, logged in found.calls],
        found.refs,
    )


def _as_row(relation: Relation, found: Sequence[Any]) -> tuple[str, Row]:
    return str(found[0]), dict(zip(relation.columns, found[1:], strict=True))
