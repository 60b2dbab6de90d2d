"""Erasing what the record holds about one person: found by reading every packet, and gone with its key.

Calls that this person made, and calls whose record names them, lose all their payloads; envelopes and tree stay, so the log
goes on to verify. A legal hold wins, a call that is not over waits, and what the log says of the installation itself is
kept. Copies elsewhere (backups, exports, streams) are not reached.
"""

from __future__ import annotations

import asyncio
import json
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import bindparam, select

from comptroller_audit.ambient import Clock
from comptroller_audit.calls import CallRow, log_indexes
from comptroller_audit.canonical import keyed_digest
from comptroller_audit.database import table_of
from comptroller_audit.legal_holds import Holds
from comptroller_audit.log import LogEntry, LogPayload
from comptroller_audit.query import page
from comptroller_audit.retention import CLOCK, KEPT, OVERDUE_MAX, RETENTION, Erase, still_needed
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import Reader, Store
from comptroller_audit.unit import Committed, Unit
from comptroller_audit.vocabulary import RecordType

__all__ = ["SUBJECT_CHARS_MIN", "Erasure", "Found", "names"]

SUBJECT_CHARS_MIN = 3
"""A shorter name stands in records of everybody."""
PAGE_ENTRIES = 200
CHOSEN_AT_ONCE = 5_000
"""Envelopes in memory at a time."""
TRIES_MAX = 5
"""How often it looks again because something was erased or held meanwhile."""
_C, _E, _P = table_of(CallRow), table_of(LogEntry), table_of(LogPayload)
_BY = select(_C.c.id).where(_C.c.tenant == bindparam("tenant"), _C.c.principal == bindparam("principal"))
_THERE = (
    select(_P.c.idx, _E.c.envelope)
    .join(_E, (_E.c.tenant == _P.c.tenant) & (_E.c.idx == _P.c.idx))
    .where(_P.c.tenant == bindparam("tenant"), _P.c.idx >= bindparam("first"), _P.c.idx < bindparam("end"))
    .order_by(_P.c.idx)
)
_RECORDS = select(_C.c.records).where(_C.c.tenant == bindparam("tenant"), _C.c.id == bindparam("call"))
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Found:
    """`indexes` are what may go. `waiting` belong to calls that are not over, `installation` to the log's own affairs;
    `held` says how many payloads each legal hold keeps."""

    calls: int = 0
    indexes: list[int] = field(default_factory=list[int])
    waiting: int = 0
    installation: int = 0
    held: Mapping[str, int] = field(default_factory=dict[str, int])
    moves: int = 0
    erased_before: int = 0


class Erasure:
    """Of one `subject`: an id, a name or an address as records have it, or a principal. `principals` are keyed digests."""

    def __init__(
        self,
        store: Store,
        ring: KeyRing,
        clock: Clock,
        tenant: str,
        subject: str,
        principals: Collection[str],
    ) -> None:
        self._store = store
        self._ring = ring
        self._clock = clock
        self._tenant = tenant
        self._names = names(subject)
        self._principals = tuple(principals)
        self.digest = keyed_digest(ring.claim_key(tenant), "erased-subject", subject.encode())[:32]

    async def find(self, progress: Progress | None = None) -> Found:
        """Read the whole record; change nothing. Raises `StoreError` and `KeyRingError`."""
        head = await self._store.read(lambda reader: reader.head(self._tenant))
        end = head.size if head is not None else 0
        calls: set[str] = set()
        alone: set[int] = set()
        for principal in self._principals:
            calls |= await self._store.read(partial(self._made_by, principal=principal))
        for first in range(0, end, PAGE_ENTRIES):
            last = min(end, first + PAGE_ENTRIES)
            about = await self._store.read(partial(self._about, first=first, end=last))
            calls |= about[0]
            alone |= about[1]
            if progress is not None:
                progress(last, end)
            await asyncio.sleep(0)
        return await self._store.read(lambda reader: self._chosen(reader, end, calls, alone))

    async def erase(self, by: str, reason: str, progress: Progress | None = None) -> Found:
        """Erase what `find` finds, and overwrite where it stood. Returns what was found; looks again after a race."""
        for _ in range(TRIES_MAX):
            found = await self.find(progress)
            if await self._erased(found, by, reason):
                break
        else:
            raise RuntimeError("holds and retention kept changing what may be erased")
        await self._store.scrub()
        return found

    async def _erased(self, found: Found, by: str, reason: str) -> bool:
        """False when something else erased, or a hold was placed, since it was found."""
        now, done = self._clock.now_ms(), 0
        for at in range(0, len(found.indexes), OVERDUE_MAX):
            some = found.indexes[at : at + OVERDUE_MAX]
            part = Erase(some, now, now, found.erased_before + done, found.moves, self.digest, by, reason)
            if not isinstance(await self._store.commit(self._tenant, Unit([part])), Committed):
                return False
            done += len(some)
        return True

    def _made_by(self, reader: Reader, principal: str) -> set[str]:
        return {str(call) for (call,) in reader.query(_BY, tenant=self._tenant, principal=principal)}

    def _about(self, reader: Reader, first: int, end: int) -> tuple[set[str], set[int]]:
        """Calls of which a packet names the subject, and entries of no call that do."""
        calls: set[str] = set()
        alone: set[int] = set()
        for entry in page(reader, self._ring, self._tenant, first, end, frozenset(RecordType)):
            if entry.packet is not None and self._names(entry.packet):
                call = entry.envelope.get("call")
                if isinstance(call, str):
                    calls.add(call)
                else:
                    alone.add(entry.index)
        return calls, alone

    def _chosen(self, reader: Reader, end: int, calls: set[str], alone: set[int]) -> Found:
        """At one moment: which payloads of these may go."""
        holds = Holds.read(reader, self._tenant)
        row = reader.row(self._tenant, RETENTION, CLOCK)
        found = Found(len(calls), moves=holds.moves, erased_before=row["erased"] if row is not None else 0)
        needed = still_needed(reader, self._tenant)
        listed = {
            index
            for call in calls
            for (records,) in reader.query(_RECORDS, tenant=self._tenant, call=call)
            for index in log_indexes({"records": records})
        }
        for first in range(0, end, CHOSEN_AT_ONCE):
            rows = reader.query(
                _THERE, tenant=self._tenant, first=first, end=min(end, first + CHOSEN_AT_ONCE)
            )
            for index, envelope in rows:
                told: Mapping[str, Any] = json.loads(envelope)
                if not (int(index) in alone or int(index) in listed or told.get("call") in calls):
                    continue
                if RecordType(told["type"]) in KEPT:
                    found.installation += 1
                elif int(index) in needed:
                    found.waiting += 1
                elif not holds.keep(reader, self._tenant, envelope):
                    found.indexes.append(int(index))
        found.held = dict(holds.held)
        return found


def names(subject: str) -> Callable[[object], bool]:
    """Whether a JSON value names `subject`: as a whole word of a text or a member's name, in any case, or as a number."""
    wanted = _folded(subject).strip()
    word = re.compile(rf"(?<!\w){re.escape(wanted)}(?!\w)")

    def found(value: object) -> bool:
        waiting: list[Any] = [value]
        while waiting:
            one = waiting.pop()
            if isinstance(one, str):
                if word.search(_folded(one)):
                    return True
            elif isinstance(one, dict):
                waiting += one.keys()
                waiting += one.values()
            elif isinstance(one, list):
                waiting += one
            elif isinstance(one, int | float) and not isinstance(one, bool) and str(one) == wanted:
                return True
        return False

    return found


def _folded(text: str) -> str:
    """As people read it: one form of each character, no case (Unicode, "compatibility caseless match")."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
