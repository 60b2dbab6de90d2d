"""What a task has seen, as keyed hashes: whether the value of an argument was asked for, read, or made up.

Each text, number and name (`wording.py`) of a trusted request or of what a read released leaves a mark: an HMAC over
task, origin and normal form under the tenant's key. So nobody who has the table can guess a value or lend it a better
origin. A mark that is lost makes its value less trusted, never more. One row a task, of `MARKS_MAX` marks at most: what
no longer fits is as good as never seen. When the task is over its marks are forgotten.

Records into which something was written that came from nobody who is trusted are doubted from then on: a read that shows one is
untrusted as a whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import BigInteger, Index, Text, bindparam, select
from sqlmodel import Field, SQLModel

from comptroller_audit.canonical import keyed_digest
from comptroller_audit.database import Relation, Row, table_of
from comptroller_audit.store import Reader
from comptroller_audit.unit import Key, State, Stop
from comptroller_audit.vocabulary import Json
from comptroller_budgets.tasks import TASKS, is_over
from comptroller_policy.declarations import Aim, Origin
from comptroller_policy.origins import least
from comptroller_tools.errors import ProvenanceBroken
from comptroller_tools.wording import forms_of, leaves, mentioned_in

__all__ = [
    "DOUBTED",
    "MARKS_MAX",
    "PROVENANCE",
    "Doubt",
    "ForgetMarks",
    "Marker",
    "NoteMarks",
    "held_rows",
    "marks_in",
]

MARKS_MAX = 4_096
"""Marks of one task: 64 KiB of its row."""
MARK_CHARS = 16
HELD_MAX = 500
"""Rows that one round looks at."""


class ProvenanceRow(SQLModel, table=True):
    """The marks of one task, one after another, each of `MARK_CHARS` characters. `held` says that there are any."""

    __tablename__ = "provenance"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (Index("provenance_by_held", "tenant", "held"),)
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    marks: str = Field(sa_type=Text)
    held: bool


class DoubtedRow(SQLModel, table=True):
    """A record, by its keyed digest, that holds what came from nobody who is trusted, and since when."""

    __tablename__ = "doubted_records"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    at_ms: int = Field(sa_type=BigInteger)


PROVENANCE = Relation(ProvenanceRow)
DOUBTED = Relation(DoubtedRow)
_T = table_of(ProvenanceRow)
_HELD = (
    select(_T.c.id)
    .where(_T.c.tenant == bindparam("tenant"), _T.c.held == bindparam("held"))
    .order_by(_T.c.id)
    .limit(HELD_MAX)
)


@dataclass(frozen=True, slots=True)
class Marker:
    """Makes the marks of one task. `key` is the tenant's claim key."""

    key: bytes
    task: str

    def mark(self, origin: Origin, form: str) -> str:
        parts = (self.task.encode(), origin.value.encode(), form.encode(errors="surrogatepass"))
        return keyed_digest(self.key, "provenance/v1", *parts)[:MARK_CHARS]

    def marks(self, origin: Origin, forms: Iterable[str]) -> tuple[str, ...]:
        """The marks of the first `MARKS_MAX` different forms."""
        return tuple(self.mark(origin, form) for form in islice(dict.fromkeys(forms), MARKS_MAX))

    def of_request(self, request: Json) -> tuple[str, ...]:
        return self.marks(Origin.REQUEST, _mentioned(request))

    def origin(self, leaf: Json, known: Collection[str]) -> Origin:
        """The most trusted origin under which the task has seen this value."""
        forms = forms_of(leaf)
        for origin in (Origin.REQUEST, Origin.TRUSTED, Origin.UNTRUSTED):
            if any(self.mark(origin, form) in known for form in forms):
                return origin
        return Origin.NEW

    def weigh(self, value: Json, aim: Aim, known: Collection[str]) -> Origin:
        """Where an argument comes from: the least trusted of what it holds. A yes or no comes from nowhere: NEW."""
        if value is None or value == [] or value == {}:
            return Origin.ABSENT
        found = [self.origin(leaf, known) for leaf, _ in leaves(value)]
        return least(found or [Origin.NEW], aim)


def _mentioned(value: Json) -> Iterator[str]:
    for leaf, _ in leaves(value):
        yield from mentioned_in(leaf)


def marks_in(row: Row | None) -> frozenset[str]:
    """The marks of a task's row; none of a task in which nothing was seen. Raises `ProvenanceBroken`."""
    text = row["marks"] if row is not None else ""
    if not isinstance(text, str) or len(text) % MARK_CHARS or len(text) > MARKS_MAX * MARK_CHARS:
        raise ProvenanceBroken("what a task has seen is not what was written for it")
    return frozenset(text[at : at + MARK_CHARS] for at in range(0, len(text), MARK_CHARS))


@dataclass(frozen=True, slots=True)
class NoteMarks:
    """Part: what this commit lets a task see. Where one of `records` is doubted, the marks in `doubted` count in place of
    those in `trusted`: they are of the same values.
    """

    task: str
    trusted: tuple[str, ...]
    untrusted: tuple[str, ...] = ()
    doubted: tuple[str, ...] = ()
    records: tuple[str, ...] = ()

    def keys(self) -> Iterable[Key]:
        return [(PROVENANCE, self.task), *((DOUBTED, record) for record in self.records)]

    def apply(self, state: State) -> Stop | None:
        doubted = any(state.get(DOUBTED, record) is not None for record in self.records)
        new = (*(self.doubted if doubted else self.trusted), *self.untrusted)
        row = state.get(PROVENANCE, self.task)
        known = marks_in(row)
        text = str(row["marks"]) if row is not None else ""
        added = islice((mark for mark in dict.fromkeys(new) if mark not in known), MARKS_MAX - len(known))
        text += "".join(added)
        if text:
            state.put(PROVENANCE, self.task, {"marks": text, "held": True})
        return None


@dataclass(frozen=True, slots=True)
class Doubt:
    """Part: what this call writes came from nobody who is trusted, so its records are doubted from now on."""

    records: tuple[str, ...]

    def keys(self) -> Iterable[Key]:
        return [(DOUBTED, record) for record in self.records]

    def apply(self, state: State) -> Stop | None:
        for record in self.records:
            if state.get(DOUBTED, record) is None:
                state.put(DOUBTED, record, {"at_ms": state.now_ms})
        return None


@dataclass(frozen=True, slots=True)
class ForgetMarks:
    """Part: a task is over, so nothing asks any more what it has seen. One that goes on keeps its marks."""

    task: str
    idle_s: int

    def keys(self) -> Iterable[Key]:
        return [(TASKS, self.task), (PROVENANCE, self.task)]

    def apply(self, state: State) -> Stop | None:
        row = state.get(TASKS, self.task)
        if (row is None or is_over(row, state.now_ms, self.idle_s)) and state.get(PROVENANCE, self.task):
            state.put(PROVENANCE, self.task, {"marks": "", "held": False})
        return None


def held_rows(reader: Reader, tenant: str) -> Mapping[str, Row | None]:
    """Tasks of which something is held, up to `HELD_MAX`, with the rows of the tasks."""
    ids = [str(row[0]) for row in reader.query(_HELD, tenant=tenant, held=True)]
    rows = reader.rows(tenant, TASKS, ids) if ids else {}
    return {task: rows.get(task) for task in ids}
