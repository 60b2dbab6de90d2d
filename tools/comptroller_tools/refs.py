"""Refs: the short random id of a record that was read and released in a task; a later write can cite it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import BigInteger, bindparam, select
from sqlmodel import Field, SQLModel

from comptroller_audit.database import Relation, Row, table_of
from comptroller_audit.store import Reader
from comptroller_audit.unit import Key, State, Stop
from comptroller_audit.vocabulary import JsonObject

__all__ = ["REFS", "GiveRefs", "NewRef", "RefRow", "cited", "ref_row_id", "refs_of_task"]


class RefRow(SQLModel, table=True):
    """One released record. `record_key` and `version` are as the source shows them; `listed` is one of many."""

    __tablename__ = "refs"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    task: str
    call: str
    kind: str
    record_key: str
    version: str
    listed: bool
    at_ms: int = Field(sa_type=BigInteger)


REFS = Relation(RefRow)
_T = table_of(RefRow)
_COLUMNS = tuple(column for column in _T.columns if column.name != "tenant")
_OF_TASK = (
    select(*_COLUMNS)
    .where(_T.c.tenant == bindparam("tenant"), _T.c.task == bindparam("task"))
    .order_by(_T.c.at_ms.desc(), _T.c.id)
)


@dataclass(frozen=True, slots=True)
class NewRef:
    id: str
    kind: str
    key: str
    version: str
    listed: bool

    def as_json(self) -> JsonObject:
        return {"ref": self.id, "kind": self.kind, "key": self.key, "version": self.version}


@dataclass(frozen=True, slots=True)
class GiveRefs:
    """Part: write the refs of what this commit releases; only released content makes a ref.

    `read_ms` is when it was read, for content that was kept since; a ref is as old as its read.
    """

    task: str
    call: str
    refs: tuple[NewRef, ...]
    read_ms: int | None = None

    def keys(self) -> Iterable[Key]:
        return ()  # their ids are new, so nothing is there to be read

    def apply(self, state: State) -> Stop | None:
        at_ms = state.now_ms if self.read_ms is None else min(self.read_ms, state.now_ms)
        for ref in self.refs:
            state.put(
                REFS,
                ref_row_id(self.task, ref.id),
                {
                    "task": self.task,
                    "call": self.call,
                    "kind": ref.kind,
                    "record_key": ref.key,
                    "version": ref.version,
                    "listed": ref.listed,
                    "at_ms": at_ms,
                },
            )
        return None


def refs_of_task(reader: Reader, tenant: str, task: str, most: int) -> list[JsonObject]:
    """The refs that were given in a task, as packets hold them, newest first."""
    found = reader.query(_OF_TASK.limit(most), tenant=tenant, task=task)
    names = [column.name for column in _COLUMNS]
    rows: list[Row] = [dict(zip(names, row, strict=True)) for row in found]
    return [
        {
            "ref": str(row["id"]).removeprefix(f"{task}:"),
            "kind": row["kind"],
            "key": row["record_key"],
            "version": row["version"],
        }
        for row in rows
    ]


def ref_row_id(task: str, ref: str) -> str:
    """A ref means something only within its task."""
    return f"{task}:{ref}"


def cited(row: Row, ref: str, tool: str, now_ms: int) -> JsonObject:
    """A citation as packets hold it: the record as it was read, by which call of which tool, and how long before."""
    return {
        "ref": ref,
        "kind": row["kind"],
        "key": row["record_key"],
        "version": row["version"],
        "listed": bool(row["listed"]),
        "call": row["call"],
        "tool": tool,
        "age_ms": max(0, now_ms - int(row["at_ms"])),
    }
