"""`logging.retention_days`: erase payloads whose time is over, in small commits, and never because a clock jumped."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from comptroller_audit.ambient import Clock
from comptroller_audit.errors import StoreError, StoreUnsuitable
from comptroller_audit.legal_holds import Holds
from comptroller_audit.retention import (
    RETENTION,
    AcceptClock,
    Erase,
    first_at,
    overdue,
    silence,
    still_needed,
)
from comptroller_audit.store import Reader, Store
from comptroller_audit.unit import Committed, Unit
from comptroller_server.installation import Installation
from comptroller_server.reporting.span import Progress
from comptroller_server.streaming.cursors import delivered_to
from comptroller_server.upkeep.pruning import PruneRound, Pruning, pruning_of
from comptroller_server.upkeep.steady_clock import SteadyClock

__all__ = ["Retention", "RetentionRound", "demand_likely_time", "keep_time", "retention_of"]

DAY_MS = 86_400_000
UNUSED_DAYS_MAX = 366
"""A store that nobody wrote to for longer is served only once a person has said that the clock is right."""
MARK_EVERY_MS = 3_600_000
"""How far the trusted time may fall behind before it is written again though nothing was erased."""
PAUSE_S = 0.02
"""Between two commits of one round, so that calls come in between."""

_log = structlog.stdlib.get_logger()


@dataclass(frozen=True, slots=True)
class RetentionRound:
    """What a round did. `overdue` were to be erased, `erased` were; `stopped` says why nothing was.

    `held` says how many payloads each legal hold kept. `undelivered` of them some stream has not delivered: a duty to erase does not wait for a sink."""

    overdue: int
    erased: int
    before_ms: int
    stopped: str | None = None
    undelivered: int = 0
    pruned: PruneRound = field(default_factory=PruneRound)
    held: Mapping[str, int] = field(default_factory=dict[str, int])


async def keep_time(store: Store, clock: Clock, tenant: str, *, begins: bool = False) -> None:
    """Let a clock that is not followed reach what a person accepted; at the start also what is on record.

    Raises `StoreError`.
    """
    if not isinstance(clock, SteadyClock):
        return

    def read(reader: Reader) -> int:
        head, row = reader.head(tenant) if begins else None, reader.row(tenant, RETENTION, "clock")
        return max(head.record_ms if head is not None else 0, row["trusted_ms"] if row is not None else 0)

    clock.reach(await store.read(read))


async def demand_likely_time(store: Store, clock: Clock, tenant: str) -> None:
    """Raises `StoreUnsuitable` where the clock is more than `UNUSED_DAYS_MAX` ahead of the newest record, else `StoreError`.

    Served in that time, windows of budgets would stand still until the day really comes: record time never goes back.
    """
    head = await store.read(lambda reader: reader.head(tenant))
    now = clock.now_ms()
    if head is None or not head.size or now - head.record_ms <= UNUSED_DAYS_MAX * DAY_MS:
        return
    raise StoreUnsuitable(
        f"the clock of this machine says {_day(now)}, and the newest record is of {_day(head.record_ms)}. Set the clock "
        "(NTP) and start again; or, if nobody used this store for so long: comptroller retention run --accept-clock"
    )


def _day(at_ms: int) -> str:
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return f"the year {at_ms // (365 * DAY_MS) + 1970}"


class Retention:
    """Erases what is older than `days` (None: never), and has `pruning` go on with what was erased long ago.

    `jump_s` is how far the clock may run ahead between rounds.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        days: int | None,
        jump_s: float,
        streams: Collection[str] = (),
        pruning: Pruning | None = None,
    ) -> None:
        self._pruning = pruning
        self._store = store
        self._clock = clock
        self._days = days
        self._streams = tuple(streams)
        self._jump_ms = int(jump_s * 1000)

    async def run(self, tenant: str, interval_s: float) -> None:
        """Rounds for ever; an unavailable store is waited for."""
        while True:
            try:
                done = await self.round(tenant)
                if done.stopped:
                    _log.warning("nothing is erased", why=done.stopped)
                elif done.erased:
                    _log.info("payloads erased", payloads=done.erased)
                if done.pruned.stopped:
                    _log.warning("nothing is pruned", why=done.pruned.stopped)
                elif done.pruned.pruned:
                    _log.info("envelopes pruned", envelopes=done.pruned.pruned)
                if done.undelivered:
                    _log.warning("payloads erased that a stream had not delivered", payloads=done.undelivered)
            except StoreError as error:
                _log.warning("retention waits for the store", error=str(error))
            await asyncio.sleep(interval_s)

    async def round(
        self,
        tenant: str,
        *,
        dry: bool = False,
        progress: Progress | None = None,
        pruning: Progress | None = None,
    ) -> RetentionRound:
        """One pass over everything that is overdue; both are told of entries looked at. Raises `StoreError`."""
        now = self._clock.now_ms()
        if self._days is None:
            return RetentionRound(0, 0, now)
        before_ms = now - self._days * DAY_MS
        row = await self._store.read(lambda reader: reader.row(tenant, RETENTION, "clock"))
        erased_before = row["erased"] if row is not None else 0
        trusted_ms = row["trusted_ms"] if row is not None else 0
        if (doubt := await self._doubt(tenant, now, trusted_ms)) is not None:
            told = f"{doubt}; if the clock is right, run `comptroller retention run --accept-clock`"
            return RetentionRound(0, 0, before_ms, told)
        end = await self._store.read(lambda reader: first_at(reader, tenant, before_ms))
        found, erased, first, undelivered = 0, 0, 0, 0
        delivered = await self._store.read(lambda reader: delivered_to(reader, tenant, self._streams))

        holds = await self._store.read(lambda reader: Holds.read(reader, tenant))

        def look(reader: Reader) -> tuple[list[int], int | None]:
            return overdue(reader, tenant, first, end, still_needed(reader, tenant), holds)

        touched = False
        try:
            while True:
                indexes, following = await self._store.read(look)
                found += len(indexes)
                undelivered += sum(index >= delivered for index in indexes) if self._streams else 0
                if indexes and not dry:
                    touched = True
                    if not await self._erase(
                        tenant, indexes, before_ms, now, erased_before + erased, holds.moves
                    ):
                        break
                    erased += len(indexes)
                if progress is not None:
                    progress(following if following is not None else end, end)
                if following is None:
                    break
                first = following
                await asyncio.sleep(PAUSE_S)
        finally:  # also when somebody stops it: what is erased lies in the write-ahead log until then
            if touched:
                await self._store.scrub()
        if not (dry or erased) and now - trusted_ms >= MARK_EVERY_MS:
            await self._erase(tenant, [], before_ms, now, erased_before, holds.moves)
        pruned = (
            await self._pruning.round(tenant, now, dry=dry, progress=pruning)
            if self._pruning is not None
            else PruneRound()
        )
        return RetentionRound(found, erased, before_ms, None, undelivered, pruned, dict(holds.held))

    async def _doubt(self, tenant: str, now: int, trusted_ms: int) -> str | None:
        """Why the clock may not be right. Without an earlier round the record alone says what time can have passed."""
        if trusted_ms:
            if now - trusted_ms <= self._jump_ms:
                return None
            return f"the clock is {(now - trusted_ms) // 3_600_000} hours ahead of the last round"
        found = await self._store.read(lambda reader: silence(reader, tenant, self._jump_ms, now))
        if found is None:
            return None
        return f"nothing is recorded between {_day(found[0])} and {_day(found[1])}, so the clock may have jumped there"

    async def accept_clock(self, tenant: str, by: str) -> None:
        """The clock is right: go on from now. Raises `StoreError`."""
        await self._store.commit(tenant, Unit([AcceptClock(self._clock.now_ms(), by)]))

    async def _erase(
        self, tenant: str, indexes: list[int], before_ms: int, now: int, seen: int, holds: int
    ) -> bool:
        """False when another process is at it, or a hold came in between."""
        outcome = await self._store.commit(tenant, Unit([Erase(indexes, before_ms, now, seen, holds)]))
        return isinstance(outcome, Committed)


def retention_of(installation: Installation) -> Retention:
    """As the configuration says."""
    config, clock = installation.config, installation.ambient.clock
    days, jump_s = config.logging.retention_days, config.limits.clock_jump_s_max
    return Retention(installation.store, clock, days, jump_s, config.streams, pruning_of(installation))
