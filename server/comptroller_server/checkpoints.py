"""Signs checkpoints of every tenant's log to sinks outside the database, when there is something new."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from comptroller_audit.checkpoint import CheckpointFile, log_origin, sign_checkpoint
from comptroller_audit.errors import CheckpointError, StoreError
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import FaultPoint, Store

__all__ = ["Checkpointer"]

_log = structlog.stdlib.get_logger()


class Checkpointer:
    """`write` at shutdown, `run` for the life of the process."""

    def __init__(
        self, store: Store, ring: KeyRing, log_name: str, sinks: Sequence[CheckpointFile], fault: FaultPoint
    ) -> None:
        self._store = store
        self._ring = ring
        self._log_name = log_name
        self._sinks = sinks
        self._fault = fault
        self._written: dict[tuple[str, int], int] = {}

    async def write(self, tenant: str) -> bool:
        """One checkpoint to every sink that has not got the log's present size. True when all have it."""
        head, frontier = await self._store.read(lambda reader: reader.tree(tenant))
        if head is None or head.size == 0:
            return True
        note = sign_checkpoint(
            log_origin(self._log_name, tenant), head.size, frontier.root(), self._ring.signer
        )
        complete = True
        for number, sink in enumerate(self._sinks):
            if self._written.get((tenant, number)) == head.size:
                continue
            self._fault("checkpoint.before")
            try:
                await asyncio.to_thread(sink.append, note)
            except CheckpointError as error:
                complete = False
                _log.error("checkpoint not written", sink=str(sink.path), error=str(error))
                continue
            self._fault("checkpoint.after")
            self._written[tenant, number] = head.size
        return complete

    async def run(self, tenants: Sequence[str], interval_s: float) -> None:
        """Write every `interval_s` seconds, for ever."""
        while True:
            await asyncio.sleep(interval_s)
            for tenant in tenants:
                try:
                    await self.write(tenant)
                except StoreError as error:
                    _log.error("checkpoint not written", tenant=tenant, error=str(error))
