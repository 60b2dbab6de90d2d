"""Kill switches: global, tool, principal and task. They change under the same head lock as every commit.

`head.switch_seq` rises with each change; a decision carries the sequence it saw, so "on the next commit" is exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from sqlalchemy import BigInteger, bindparam, select
from sqlmodel import Field, SQLModel

from comptroller_audit.database import Relation, table_of
from comptroller_audit.packets import LogRecord
from comptroller_audit.store import Reader
from comptroller_audit.unit import Key, Moved, State, Stop
from comptroller_audit.vocabulary import Code, RecordType, Refusal

__all__ = [
    "SWITCHES",
    "ClearSwitch",
    "HeadUnmoved",
    "SetSwitch",
    "SwitchRow",
    "SwitchScope",
    "Switches",
    "switch_id",
]


class SwitchScope(StrEnum):
    GLOBAL = "global"
    TOOL = "tool"
    PRINCIPAL = "principal"
    TASK = "task"


class SwitchRow(SQLModel, table=True):
    """`id` is `scope:name`; for a principal the name is a keyed digest."""

    __tablename__ = "switches"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    active: bool
    reason: str
    seq: int
    at_ms: int = Field(sa_type=BigInteger)


SWITCHES = Relation(SwitchRow)
_TABLE = table_of(SwitchRow)
_ACTIVE = select(_TABLE.c.id, _TABLE.c.reason).where(
    _TABLE.c.tenant == bindparam("tenant"), _TABLE.c.active == bindparam("active")
)


def switch_id(scope: SwitchScope, name: str = "") -> str:
    return f"{scope}:{name}"


@dataclass(frozen=True, slots=True)
class Switches:
    """The active switches of a tenant at sequence `seq`: id to reason."""

    seq: int = 0
    active: dict[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def read(cls, reader: Reader, tenant: str) -> Switches:
        """The newest committed switches."""
        head = reader.head(tenant)  # first: rows newer than the sequence only make the commit look again
        rows = reader.query(_ACTIVE, tenant=tenant, active=True)
        return cls(head.switch_seq if head else 0, {str(row_id): str(reason) for row_id, reason in rows})

    def stops(self, tool: str, principal: str, task: str) -> Refusal | None:
        """The refusal of the first active switch that covers a call, or None. `principal` is the keyed digest."""
        if not self.active:
            return None
        for switch in (
            switch_id(SwitchScope.GLOBAL),
            switch_id(SwitchScope.TOOL, tool),
            switch_id(SwitchScope.PRINCIPAL, principal),
            switch_id(SwitchScope.TASK, task),
        ):
            if switch in self.active:
                scope = switch.partition(":")[0]
                return Refusal(
                    Code.HALTED,
                    f"A person has halted this ({scope} switch). Stop, and tell the user; only a person can resume it.",
                    retry="person",
                    details={"switch": scope},
                )
        return None


@dataclass(frozen=True, slots=True)
class HeadUnmoved:
    """Part: no switch changed and no other bundle was activated since the decision."""

    switch_seq: int
    bundle: str

    def keys(self) -> Iterable[Key]:
        return ()

    def apply(self, state: State) -> Stop | None:
        if state.head.bundle != self.bundle:
            return Refusal(
                Code.BUNDLE_CHANGED,
                "The rules of this store were changed meanwhile, and nothing was done. Make the same call again in a few "
                "seconds; where that is refused too, the operator must restart this server.",
                retry="after:5",
            )
        return None if state.head.switch_seq == self.switch_seq else Moved("switches")


@dataclass(frozen=True, slots=True)
class SetSwitch:
    """Part: activate a switch and record who did it and why."""

    switch: str
    reason: str
    by: str

    def keys(self) -> Iterable[Key]:
        return [(SWITCHES, self.switch)]

    def apply(self, state: State) -> Stop | None:
        _turn(state, self.switch, True, self.reason, self.by)
        return None


@dataclass(frozen=True, slots=True)
class ClearSwitch:
    """Part: lift a switch. Lifting one that is not active changes nothing but is recorded."""

    switch: str
    reason: str
    by: str

    def keys(self) -> Iterable[Key]:
        return [(SWITCHES, self.switch)]

    def apply(self, state: State) -> Stop | None:
        _turn(state, self.switch, False, self.reason, self.by)
        return None


def _turn(state: State, switch: str, active: bool, reason: str, by: str) -> None:
    state.head.switch_seq += 1
    state.put(
        SWITCHES,
        switch,
        {"active": active, "reason": reason, "seq": state.head.switch_seq, "at_ms": state.now_ms},
    )
    state.append(
        LogRecord(
            RecordType.SWITCH_SET if active else RecordType.SWITCH_CLEARED,
            {"v": 1, "switch": switch, "reason": reason, "by": by, "switch_seq": state.head.switch_seq},
        )
    )
