"""Which bundle is in force, since when and by whose word. It changes under the head lock, like a switch.

The head row holds the digest that every commit compares with its own. What stands behind a digest is in the sealed record
of its activation; the rows here only say where those records are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import BigInteger, bindparam, select
from sqlmodel import Field, SQLModel

from comptroller_audit.database import Relation, table_of
from comptroller_audit.packets import LogRecord
from comptroller_audit.store import Reader
from comptroller_audit.unit import Key, Moved, State, Stop
from comptroller_audit.vocabulary import JsonObject, RecordType

__all__ = ["ACTIVATIONS", "ActivateBundle", "Activation", "ActivationRow", "How", "activations"]

ACTIVATIONS_MAX = 1_000
"""Read at once; older ones stay in the log."""


class How(StrEnum):
    """What put a bundle in force: a server that started, or a person's word."""

    SERVED = "served"
    ACTIVATED = "activated"
    ROLLED_BACK = "rolled_back"


class ActivationRow(SQLModel, table=True):
    """One activation; `id` is the place of its record in the log, with leading zeros. `back` is where a rollback goes."""

    __tablename__ = "activations"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    bundle: str
    back: str
    how: str
    by: str
    at_ms: int = Field(sa_type=BigInteger)
    kept: bool


ACTIVATIONS = Relation(ActivationRow)
_TABLE = table_of(ActivationRow)
_NEWEST = (
    select(
        _TABLE.c.id, _TABLE.c.bundle, _TABLE.c.back, _TABLE.c.how, _TABLE.c.by, _TABLE.c.at_ms, _TABLE.c.kept
    )
    .where(_TABLE.c.tenant == bindparam("tenant"))
    .order_by(_TABLE.c.id.desc())
    .limit(bindparam("most"))
)


@dataclass(frozen=True, slots=True)
class Activation:
    """A bundle was put in force by the record at `index`. `kept` says that the record holds what the bundle is made of."""

    index: int
    bundle: str
    back: str
    how: How
    by: str
    at_ms: int
    kept: bool


def activations(reader: Reader, tenant: str, most: int = ACTIVATIONS_MAX) -> list[Activation]:
    """The newest activations, newest first: the first one is in force."""
    return [
        Activation(int(id_), str(bundle), str(back), How(how), str(by), int(at_ms), bool(kept))
        for id_, bundle, back, how, by, at_ms, kept in reader.query(_NEWEST, tenant=tenant, most=most)
    ]


@dataclass(frozen=True, slots=True)
class ActivateBundle:
    """Part: this bundle is in force for the tenant from now on; recorded when it was another one before.

    `content` is what it is made of, as JSON. With `expected` it stops as `Moved` when another bundle is in force than
    that one; `back` is where a rollback goes from here, and without it to the bundle in force until now.
    """

    bundle: str
    policy: str
    content: JsonObject | None = None
    how: How = How.SERVED
    by: str = ""
    reason: str = ""
    expected: str | None = None
    back: str | None = None

    def keys(self) -> Iterable[Key]:
        return ()

    def apply(self, state: State) -> Stop | None:
        before = state.head.bundle
        if self.expected is not None and before != self.expected:
            return Moved("bundle")
        if before == self.bundle:
            return None
        packet: JsonObject = {
            "v": 1,
            "bundle": self.bundle,
            "before": before,
            "how": self.how.value,
            "by": self.by,
            "reason": self.reason,
            "policy": self.policy,
            "content": self.content,
        }
        index = state.append(LogRecord(RecordType.BUNDLE_ACTIVATED, packet))
        state.head.bundle = self.bundle
        row = {
            "bundle": self.bundle,
            "back": before if self.back is None else self.back,
            "how": self.how.value,
            "by": self.by,
            "at_ms": state.now_ms,
            "kept": self.content is not None,
        }
        state.put(ACTIVATIONS, f"{index:012d}", row)
        return None
