"""Signs checkpoints of every tenant's log to sinks outside the database, when there is something new."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from comptroller_audit.checkpoint import (
    CheckpointFile,
    log_origin,
    open_checkpoint,
    sign_checkpoint,
    vkey_of,
)
from comptroller_audit.errors import CheckpointError, StoreError, StoreUnsuitable
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import FaultPoint, Store
from comptroller_server.installation import Installation

__all__ = ["Checkpointer", "checkpointer_of"]

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
        self._refused = False

    async def refuse_older(self, tenant: str) -> None:
        """Raises `StoreUnsuitable` when a sink holds a checkpoint of ours that the log does not reach.

        Then the database is an old copy or was cut: claims, used approvals and spent budgets would be open again.
        """
        head, frontier = await self._store.read(lambda reader: reader.tree(tenant))
        size, root = (head.size, frontier.root()) if head is not None else (0, None)
        key, origin = vkey_of(self._ring.signer), log_origin(self._log_name, tenant)
        for sink in self._sinks:
            try:
                note = await asyncio.to_thread(sink.newest, origin)
                signed = open_checkpoint(note, key) if note is not None else None
            except CheckpointError:  # unreadable, or another key's: for `audit verify` to tell
                continue
            if signed is not None and (signed.size > size or (signed.size == size and signed.root != root)):
                self._refused = (
                    True  # nothing of this store is signed: the end of the start that failed would
                )
                raise StoreUnsuitable(
                    f"the store has {size} entries, and {sink.path} holds a signed checkpoint of {signed.size} that it "
                    "does not reach or fit: it is an old copy, or was cut. What was done since could be done again. "
                    "Bring the newer store back; or go on with this one all the same: comptroller db adopt --reason …"
                )

    async def write(self, tenant: str) -> bool:
        """One checkpoint to every sink that has not got the log's present size. True when all have it."""
        if self._refused:
            return False
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


def checkpointer_of(i: Installation) -> Checkpointer:
    """To every checkpoint file that the configuration names."""
    sinks = [CheckpointFile(path) for path in i.config.store.checkpoint_files]
    return Checkpointer(i.store, i.ring, i.log_name, sinks, i.ambient.fault)
