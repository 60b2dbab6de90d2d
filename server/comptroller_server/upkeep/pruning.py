"""`logging.prune_days`: prune envelopes whose time is over, in small commits, below a checkpoint that was signed before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

from comptroller_audit.checkpoint import Checkpoint
from comptroller_audit.legal_holds import Holds
from comptroller_audit.pruning import PRUNED, Prune, prunable
from comptroller_audit.retention import RETENTION, first_at
from comptroller_audit.store import Reader, Store
from comptroller_audit.unit import Committed, Unit
from comptroller_server.installation import Installation
from comptroller_server.reporting.span import Progress
from comptroller_server.streaming.cursors import delivered_to
from comptroller_server.upkeep.inclusion import is_included, leaf_at, newest_checkpoint

__all__ = ["PruneRound", "Pruning", "pruning_of"]

DAY_MS = 86_400_000
LOOKED_MAX = 20_000
"""Entries looked over in one read, most of which were pruned long ago: a few milliseconds."""
PAUSE_S = 0.02
"""Between two commits of one round, so that calls come in between."""


@dataclass(frozen=True, slots=True)
class PruneRound:
    """What a round did: `due` envelopes were to be pruned, `pruned` were; `stopped` says why no more could be."""

    due: int = 0
    pruned: int = 0
    stopped: str | None = None


class Pruning:
    """Prunes what is older than `days`. `signed` gives the newest signed checkpoint; what it does not hold stays.

    Unlike an erasure, which is a duty, pruning waits for `streams`: what is pruned can be sent to nobody any more.
    """

    def __init__(
        self, store: Store, days: int, signed: Callable[[], Checkpoint | None], streams: Collection[str] = ()
    ) -> None:
        self._store = store
        self._days = days
        self._signed = signed
        self._streams = tuple(streams)

    async def round(
        self, tenant: str, now_ms: int, *, dry: bool = False, progress: Progress | None = None
    ) -> PruneRound:
        """One pass. The caller has made sure that the clock is right. Raises `StoreError`."""
        before_ms = now_ms - self._days * DAY_MS
        if await self._store.read(lambda reader: first_at(reader, tenant, before_ms)) == 0:
            return PruneRound()  # a young log, of which nothing need be signed yet
        checkpoint = await asyncio.to_thread(self._signed)
        if checkpoint is None:
            return PruneRound(
                stopped="no signed checkpoint can be read, which would vouch for what is pruned"
            )
        end = await self._store.read(lambda reader: self._end(reader, tenant, before_ms, checkpoint))
        if end is None:
            told = f"the signed checkpoint of {checkpoint.size} entries is not of this log; run `comptroller audit verify`"
            return PruneRound(stopped=told)
        holds = await self._store.read(lambda reader: Holds.read(reader, tenant))
        row = await self._store.read(lambda reader: reader.row(tenant, RETENTION, PRUNED))
        seen = row["erased"] if row is not None else 0
        due, pruned, first = 0, 0, 0

        while first < end:
            stop = min(end, first + LOOKED_MAX)

            def look(reader: Reader, first: int = first, stop: int = stop) -> tuple[list[int], int | None]:
                return prunable(reader, tenant, first, stop, holds)

            indexes, following = await self._store.read(look)
            due += len(indexes)
            if indexes and not dry:
                root = checkpoint.root.hex()
                part = Prune(indexes, before_ms, checkpoint.size, root, seen + pruned, holds.moves)
                if not isinstance(await self._store.commit(tenant, Unit([part])), Committed):
                    break  # another process is at it, or a hold came in between
                pruned += len(indexes)
            first = following if following is not None else stop
            if progress is not None:
                progress(first, end)
            await asyncio.sleep(PAUSE_S)
        if pruned:
            await self._store.scrub()
        return PruneRound(due, pruned)

    def _end(self, reader: Reader, tenant: str, before_ms: int, checkpoint: Checkpoint) -> int | None:
        """Where pruning ends; None where the checkpoint is not of this log."""
        end = min(first_at(reader, tenant, before_ms), checkpoint.size)
        if self._streams:
            end = min(end, delivered_to(reader, tenant, self._streams))
        if end and not is_included(reader, end - 1, leaf_at(reader, end - 1), checkpoint):
            return None
        return end


def pruning_of(installation: Installation) -> Pruning | None:
    """As the configuration says; None where it prunes nothing."""
    config = installation.config
    if config.logging.prune_days is None:
        return None

    def signed() -> Checkpoint | None:
        found, _ = newest_checkpoint(installation)
        return found[1] if found is not None else None

    return Pruning(installation.store, config.logging.prune_days, signed, config.streams)
