"""Signs checkpoints of every tenant's log to sinks outside the database, when there is something new."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import structlog

from comptroller_audit.checkpoint import (
    Checkpoint,
    CheckpointFile,
    log_origin,
    open_known,
    sign_checkpoint,
)
from comptroller_audit.errors import CheckpointError, KeyRingError, StoreError, StoreUnsuitable
from comptroller_audit.keyfile import read_steady_key_file
from comptroller_audit.own_keys import demand_own_claims
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import FaultPoint, Reader, Store
from comptroller_server.installation import Installation
from comptroller_server.upkeep.inclusion import is_included, leaf_at

__all__ = ["Checkpointer", "checkpointer_of", "newest_signed"]

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

    async def demand_keys(self, tenant: str, key_file: Path) -> None:
        """Raises `KeyRingError` when this process holds other keys than the store was begun with, or the file holds by now.

        Asked again once this process can be seen: a command that changes keys looks for servers first, and is seen by
        this. What a process signs with keys that were changed counts for nothing, so then it signs nothing.
        """
        refused, self._refused = self._refused, True
        await demand_own_claims(self._store, tenant, key_file)
        now = await asyncio.to_thread(read_steady_key_file, key_file)
        if now.ids != self._ring.ids:
            raise KeyRingError(f"{key_file} was changed while this process started; start it again")
        self._refused = refused

    async def refuse_older(self, tenant: str) -> None:
        """Raises `StoreUnsuitable` when a sink holds a checkpoint of ours that the log does not continue, or one nobody can read.

        Then the database is an old copy or was cut: claims, used approvals and spent budgets would be open again.
        """
        head, _ = await self._store.read(lambda reader: reader.tree(tenant))
        size = head.size if head is not None else 0
        origin = log_origin(self._log_name, tenant)
        for sink in self._sinks:
            try:
                signed = await asyncio.to_thread(newest_signed, sink, origin, self._ring, size)
            except CheckpointError as error:
                self._refused = True
                raise StoreUnsuitable(
                    f"{sink.path} does not say how far this log was signed ({error}). The store may be an old copy. "
                    "Bring back the key file, or the checkpoint file, that belongs to it; a key that was replaced by "
                    "hand is missing from `retired` in the key file. Or go on all the same: comptroller db adopt --reason …"
                ) from None
            if signed is not None and not await self._store.read(partial(_continues, tenant, signed)):
                # Nothing of this store is signed: the end of the start that failed would.
                self._refused = True
                raise StoreUnsuitable(
                    f"the store has {size} entries, and {sink.path} holds a signed checkpoint of {signed.size} that it "
                    "does not reach or fit: it is an old copy, or was cut or changed. What was done since could be done again. "
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


def _continues(tenant: str, signed: Checkpoint, reader: Reader) -> bool:
    """Whether the log begins with what was signed. An old copy that somebody went on with may be longer than that by now."""
    head, frontier = reader.tree(tenant)
    if head is None or signed.size >= head.size:
        return head is not None and signed.size == head.size and signed.root == frontier.root()
    return signed.size == 0 or is_included(reader, signed.size - 1, leaf_at(reader, signed.size - 1), signed)


def newest_signed(sink: CheckpointFile, origin: str, ring: KeyRing, size: int) -> Checkpoint | None:
    """The newest checkpoint of a log with `size` entries. Raises CheckpointError, also where all are of other logs."""
    note = sink.newest(origin)
    if note is not None:
        return open_known(note, ring)
    if size and sink.newest() is not None:
        raise CheckpointError("it holds checkpoints of another log only")
    return None


def checkpointer_of(i: Installation) -> Checkpointer:
    """To every checkpoint file that the configuration names."""
    sinks = [CheckpointFile(path) for path in i.config.store.checkpoint_files]
    return Checkpointer(i.store, i.ring, i.log_name, sinks, i.ambient.fault)
