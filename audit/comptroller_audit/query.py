"""Reading the record: packets by log index, calls by id or state. For people and for the pipeline's own look-back."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json
from sqlalchemy import bindparam, func, select

from comptroller_audit.calls import CallRow
from comptroller_audit.database import Row, table_of
from comptroller_audit.log import LogEntry, LogPayload
from comptroller_audit.sealing import KeyRing, Sealed
from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import CallState, JsonObject, RecordType

__all__ = [
    "Logged",
    "calls_between",
    "calls_in_state",
    "calls_matching",
    "calls_of_task",
    "entries",
    "entry_from",
    "newest_calls",
    "page",
]


@dataclass(frozen=True, slots=True)
class Logged:
    """One log entry. `packet` is None when its payload was erased."""

    index: int
    type: RecordType
    at_ms: int
    envelope: JsonObject
    leaf: str
    packet: JsonObject | None


_E, _P, _C = table_of(LogEntry), table_of(LogPayload), table_of(CallRow)
_ENTRY = select(_E.c.envelope, _E.c.leaf).where(
    _E.c.tenant == bindparam("tenant"), _E.c.idx == bindparam("idx")
)
_PAYLOAD = select(_P.c.key_id, _P.c.wrapped, _P.c.sealed).where(
    _P.c.tenant == bindparam("tenant"), _P.c.idx == bindparam("idx")
)
_PAGE = (
    select(_E.c.idx, _E.c.envelope, _E.c.leaf, _P.c.key_id, _P.c.wrapped, _P.c.sealed)
    .outerjoin_from(_E, _P, (_E.c.tenant == _P.c.tenant) & (_E.c.idx == _P.c.idx))
    .where(
        _E.c.tenant == bindparam("tenant"),
        _E.c.idx >= bindparam("first"),
        _E.c.idx < bindparam("end"),
        _E.c.envelope != "",
    )
    .order_by(_E.c.idx)
)
_FROM = (
    select(_E.c.idx, _E.c.envelope)
    .where(_E.c.tenant == bindparam("tenant"), _E.c.idx >= bindparam("idx"), _E.c.envelope != "")
    .order_by(_E.c.idx)
    .limit(1)
)
_IN_STATE = (
    select(_C.c.id, *(c for c in _C.columns if c.name not in ("tenant", "id")))
    .where(_C.c.tenant == bindparam("tenant"), _C.c.state == bindparam("state"))
    .order_by(_C.c.id)
)
"""Constants: a statement made anew each time is compiled each time."""


def entry_from(reader: Reader, tenant: str, index: int) -> tuple[int, str] | None:
    """Index and envelope of the first entry from `index` on that was not pruned."""
    found = reader.query(_FROM, tenant=tenant, idx=index)
    return (int(found[0][0]), str(found[0][1])) if found else None


def entries(reader: Reader, ring: KeyRing, tenant: str, indexes: Sequence[int]) -> list[Logged]:
    """The entries at `indexes`, in that order; missing and pruned ones are left out. Raises `KeyRingError` without the key."""
    logged: list[Logged] = []
    for index in indexes:
        found = reader.query(_ENTRY, tenant=tenant, idx=index)
        sealed = reader.query(_PAYLOAD, tenant=tenant, idx=index)
        if found and found[0][0]:
            logged.append(_logged(ring, tenant, index, found[0], sealed[0] if sealed else None))
    return logged


def _logged(
    ring: KeyRing, tenant: str, index: int, found: tuple[Any, ...], sealed: tuple[Any, ...] | None
) -> Logged:
    envelope: JsonObject = json.loads(found[0])
    packet = json.loads(_opened(ring, tenant, index, sealed))["packet"] if sealed is not None else None
    return _entry(index, envelope, found[1], packet)


def _opened(ring: KeyRing, tenant: str, index: int, sealed: tuple[Any, ...]) -> bytes:
    key_id, wrapped, ciphertext = sealed
    return ring.unseal(tenant, index, Sealed(key_id, bytes(wrapped), bytes(ciphertext)))


def _entry(index: int, envelope: JsonObject, leaf: Any, packet: JsonObject | None) -> Logged:
    at_ms = envelope["t"]
    assert isinstance(at_ms, int)
    return Logged(index, RecordType(str(envelope["type"])), at_ms, envelope, bytes(leaf).hex(), packet)


def page(
    reader: Reader, ring: KeyRing, tenant: str, first: int, end: int, wanted: Collection[RecordType]
) -> list[Logged]:
    """The entries from `first` on and before `end`, in one select, without those that were pruned.

    Only packets of `wanted` types are opened.
    """
    found: list[Logged] = []
    for index, text, leaf, *sealed in reader.query(_PAGE, tenant=tenant, first=first, end=end):
        envelope, packet = _quickly(text), None
        if sealed[0] is not None and envelope["type"] in wanted:
            packet = _quickly(_opened(ring, tenant, int(index), tuple(sealed)))["packet"]
        found.append(_entry(int(index), envelope, leaf, packet))
    return found


def _quickly(text: str | bytes) -> Any:
    """JSON for those who read very much of it. The quicker parser takes no half surrogate pair."""
    try:
        return from_json(text)
    except ValueError:
        return json.loads(text)


def _as_rows(found: Sequence[tuple[Any, ...]]) -> list[tuple[str, Row]]:
    columns = [c.name for c in table_of(CallRow).columns if c.name not in ("tenant", "id")]
    return [(str(row[0]), dict(zip(columns, row[1:], strict=True))) for row in found]


def _columns() -> list[Any]:
    table = table_of(CallRow)
    return [table.c.id, *(c for c in table.columns if c.name not in ("tenant", "id"))]


def calls_in_state(reader: Reader, tenant: str, states: Sequence[CallState]) -> list[tuple[str, Row]]:
    """Every call in one of `states`, oldest first."""
    found: list[tuple[Any, ...]] = []
    for state in states:
        found += reader.query(_IN_STATE, tenant=tenant, state=state.value)
    return _as_rows(found)


_OF_TASK = (
    select(_C.c.id, *(c for c in _C.columns if c.name not in ("tenant", "id")))
    .where(_C.c.tenant == bindparam("tenant"), _C.c.task == bindparam("task"))
    .order_by(_C.c.id)
)


def calls_of_task(reader: Reader, tenant: str, task: str) -> list[tuple[str, Row]]:
    """Every call of a task, oldest first."""
    return _as_rows(reader.query(_OF_TASK, tenant=tenant, task=task))


def newest_calls(reader: Reader, tenant: str, most: int) -> list[tuple[str, Row]]:
    """The newest calls, newest first."""
    table = table_of(CallRow)
    found = reader.query(
        select(*_columns())
        .where(table.c.tenant == bindparam("tenant"))
        .order_by(table.c.id.desc())
        .limit(most),
        tenant=tenant,
    )
    return _as_rows(found)


def calls_matching(reader: Reader, tenant: str, prefix: str) -> list[tuple[str, Row]]:
    """Calls whose id begins with `prefix` (at least 6 characters), at most ten."""
    table = table_of(CallRow)
    found = reader.query(
        select(*_columns())
        .where(
            table.c.tenant == bindparam("tenant"),
            table.c.id >= bindparam("first"),
            table.c.id < bindparam("last"),
        )
        .order_by(table.c.id)
        .limit(10),
        tenant=tenant,
        first=prefix,
        last=prefix + "~",
    )
    return _as_rows(found)


_BETWEEN = select(func.count()).where(
    _C.c.tenant == bindparam("tenant"),
    _C.c.created_ms >= bindparam("first"),
    _C.c.created_ms < bindparam("end"),
)
_FOR_EVER_MS = 1 << 62


def calls_between(reader: Reader, tenant: str, first_ms: int, end_ms: int | None) -> int:
    """How many calls came on record from `first_ms` on and before `end_ms`."""
    end = _FOR_EVER_MS if end_ms is None else end_ms
    return int(reader.query(_BETWEEN, tenant=tenant, first=first_ms, end=end)[0][0])
