"""What was just read is not read again: raw results of reads, kept in memory for tools that declare `cache_s`.

A kept result takes the place of the hand-over to the source and of nothing else: the call is decided, checked,
released, recorded and counted like any other. It is one person's, at one client, in the same roles.

Nobody has to tell this memory that something changed. Each side effect marks its tool's row when it is committed and
when it ends, in any process; a result is kept with the marks that stood before it was read, and given only while they
stand and nothing is under way or in doubt. The commit of the read checks the same once more (`HistoryUnmoved`).
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from comptroller_audit.ambient import Clock
from comptroller_audit.store import Reader, Store
from comptroller_audit.vocabulary import Code, Refusal
from comptroller_budgets.history import HISTORY, effects_id
from comptroller_server.call.case import Cached, Case, ReadAt
from comptroller_tools.catalogue import Catalogue
from comptroller_tools.source import EffectHappened, Outcome

__all__ = ["KeptReads", "outcome_of"]

_KEY_BYTES: Final = 512
"""What a kept result takes beside its text, roughly."""
SWEEP_S: Final = 1.0
"""At most so often everything is looked through for what is too old."""
_NO_LONGER_SO: Final = frozenset({Code.CITATION_STALE, Code.RECORD_CHANGED, Code.VERIFICATION_FAILED})
"""Refusals that tell an agent to read again: what it reads then must not be what it had."""

_Key = tuple[str, str, str, frozenset[str], str, str, bytes]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A result as JSON text, the call that read it and when, and the marks it was read under."""

    text: str
    call: str
    at: ReadAt
    marks: Mapping[str, int]

    @property
    def bytes(self) -> int:
        return len(self.text) + _KEY_BYTES


class KeptReads:
    """The results kept by one process, under the rules of one bundle. `entries_max` results of `bytes_max` in all."""

    def __init__(
        self, store: Store, catalogue: Catalogue, clock: Clock, entries_max: int, bytes_max: int
    ) -> None:
        self._store = store
        self._clock = clock
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._bytes = 0
        self._swept = 0.0
        self._lives_s = {
            tool.name: tool.config.cache_s for tool in catalogue if tool.config.cache_s and tool.is_free_read
        }
        self._watched: dict[str, tuple[str, ...]] = {}
        for tool in catalogue:
            if not tool.is_read:
                rows = self._watched.get(tool.source.name, ())
                self._watched[tool.source.name] = (*rows, effects_id(tool.name))

    async def recall(self, case: Case) -> None:
        """Before step 9: set the case's `cached`, where its result is known, young and still as good as read now."""
        if case.taken is not None:  # a later part of what is kept as parts
            return
        case.cached, case.marks = None, None
        lives_s = self._lives_s.get(case.tool_in_hand.name)
        if lives_s is None or case.resumed is not None:
            return
        self._sweep()
        case.marks = marks = await self._marks(case)
        entry = self._entries.get(key := _key(case))
        if entry is None:
            return
        age_s = self._age_s(entry.at)
        if marks is None or entry.marks != marks or age_s >= lives_s:
            self._drop(key)
            return
        self._entries.move_to_end(key)
        case.cached = Cached(entry.text, entry.call, entry.at.wall_ms, round(age_s, 3))
        case.basis = replace(case.basis, history={**case.basis.history, **marks})

    def keep(self, case: Case) -> None:
        """After step 14: keep what was read just now, is sound, and is on record as read by this call."""
        outcome, at, marks = case.outcome, case.read_at, case.marks
        if marks is None or at is None or outcome is None or case.cached is not None or case.questions:
            return
        entry = _Entry(json.dumps(outcome.value), case.call, at, marks)
        key = _key(case)
        self._drop(key)
        if entry.bytes > self._bytes_max:
            return
        self._entries[key] = entry
        self._bytes += entry.bytes
        while len(self._entries) > self._entries_max or self._bytes > self._bytes_max:
            self._drop(next(iter(self._entries)))

    def heed(self, case: Case, refusal: Refusal) -> None:
        """A refusal that says what was read is no longer so: nothing of what this person had is given again."""
        if refusal.code in _NO_LONGER_SO:
            mine = _person(case)
            for key in [key for key in self._entries if key[:3] == mine]:
                self._drop(key)

    # -- parts ----------------------------------------------------------------------------------------------------

    async def _marks(self, case: Case) -> dict[str, int] | None:
        """The revisions of its source's side effects; None while one of them is under way or in doubt."""
        watched = self._watched.get(case.tool_in_hand.source.name, ())
        if not watched:
            return {}

        def load(reader: Reader) -> dict[str, Any]:
            return reader.rows(case.tenant, HISTORY, watched)

        rows = await self._store.read(load)
        if any(row["count"] for row in rows.values()):
            return None
        return {row_id: rows[row_id]["revision"] if row_id in rows else 0 for row_id in watched}

    def _age_s(self, at: ReadAt) -> float:
        """By the clock that says more: one stands still while a machine sleeps, the other may be set back."""
        return max(self._clock.monotonic() - at.monotonic, (self._clock.now_ms() - at.wall_ms) / 1000)

    def _sweep(self) -> None:
        now = self._clock.monotonic()
        if now - self._swept < SWEEP_S:
            return
        self._swept = now
        for key, entry in list(self._entries.items()):
            if self._age_s(entry.at) >= self._lives_s[key[4]]:
                self._drop(key)

    def _drop(self, key: _Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.bytes


def _person(case: Case) -> tuple[str, str, str]:
    return case.tenant, case.subject.principal.id, case.subject.actor.id


def _key(case: Case) -> _Key:
    tool = case.tool_in_hand
    return (*_person(case), case.subject.roles, tool.name, tool.definition.digest, case.argument_bytes)


def outcome_of(cached: Cached) -> Outcome:
    """What the source had said, as if it said it now, so that everything after it goes the same way."""
    return Outcome(EffectHappened.DONE, json.loads(cached.text))
