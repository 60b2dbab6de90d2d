"""Sends each stream what is new, one process a store, and never in the way of a call.

A cursor moves after its sink took the records. Who dies in between sends them again: at least once, never less.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from comptroller_audit.ambient import Clock
from comptroller_audit.errors import AuditError, StoreError, StoreUnavailable
from comptroller_audit.owners import OwnerLock, OwnerLocks, owner_locks
from comptroller_audit.redaction import Audience
from comptroller_audit.store import Reader
from comptroller_audit.unit import Committed, Unit
from comptroller_server.config.streams import StreamSettings
from comptroller_server.installation import TENANT, Installation
from comptroller_server.streaming.batches import Batch, read_batch
from comptroller_server.streaming.cursors import STREAMS, NotTaken, Taken, fresh
from comptroller_server.streaming.sinks import NotDelivered, Sink, sink_of

__all__ = ["Round", "Streamer", "Streams"]

RETRY_S_MIN = 0.5
LOOK_S = 2.0
"""How often a process that does not stream looks whether it has to."""

_log = structlog.stdlib.get_logger()


@dataclass(frozen=True, slots=True)
class Round:
    """What one batch came to. `error` says why it was not taken; `after_s` is when to come back."""

    delivered: int
    behind: int
    error: str = ""
    after_s: float = 0.0


class Streamer:
    """One stream. Reads on a connection and a thread of its own.

    `current` is the installation whose rules are in force: what they withhold is withheld from now on.
    """

    def __init__(self, current: Callable[[], Installation], stream: StreamSettings, sink: Sink) -> None:
        self._current = current
        self._stream = stream
        self._sink = sink
        self._most = stream.config.batch_records_max
        self._reader: Reader | None = None
        self._reading = threading.Lock()

    @property
    def _i(self) -> Installation:
        return self._current()

    async def run(self, held: Callable[[], bool]) -> None:
        """Rounds until the lock is lost; a sink that is down is asked less and less often."""
        config, failures = self._stream.config, 0
        while held():
            try:
                done = await self.round()
            except StoreError as error:
                done = Round(0, 0, f"the store cannot be read: {error}")
            if not done.error:
                failures = 0
                if not done.behind:
                    await asyncio.sleep(config.interval_s)
                continue
            failures += 1
            _log.warning("a stream is held up", stream=self._stream.name, why=done.error, failures=failures)
            pause_s = min(config.retry_s_max, RETRY_S_MIN * 2 ** min(failures, 32))
            await asyncio.sleep(max(done.after_s, pause_s * random.uniform(0.5, 1)))  # noqa: S311 -- spreads retries

    async def round(self) -> Round:
        """Deliver one batch. Raises `StoreError`; what its sink does is in the answer and in the cursor's row."""
        name, clock = self._stream.name, self._i.ambient.clock
        row = (await self._i.store.read(lambda reader: reader.row(TENANT, STREAMS, name))) or fresh()
        try:
            batch, size = await asyncio.to_thread(self._read, row["position"])
            if batch is None:
                return Round(0, 0)
            refused = await self._sink.deliver(batch)
        except StoreError:
            raise
        except (NotDelivered, AuditError) as error:
            return await self._failed(error, row["moves"])
        except Exception as error:  # noqa: BLE001 -- a defect of ours: this stream says so, the others go on
            _log.exception("defect in a stream", stream=name)
            return await self._failed(NotDelivered(f"internal error ({type(error).__name__})"), row["moves"])
        unit = Unit([Taken(name, row["moves"], batch.end, clock.now_ms(), refused)])
        moved = isinstance(await self._i.store.commit(TENANT, unit), Committed)
        if refused:
            _log.warning("a collector will not keep records", stream=name, records=refused)
        self._most = min(self._stream.config.batch_records_max, self._most * 2)
        return Round(len(batch.messages) if moved else 0, size - batch.end)

    async def _failed(self, error: NotDelivered | AuditError, moves: int) -> Round:
        after_s = error.after_s if isinstance(error, NotDelivered) else 0.0
        if isinstance(error, NotDelivered) and error.too_much:
            self._most = max(1, self._most // 2)
        told = str(self._i.release.release(str(error), Audience.PERSON).value)
        part = NotTaken(self._stream.name, moves, told, self._i.ambient.clock.now_ms())
        await self._i.store.commit(TENANT, Unit([part]))
        return Round(0, 0, told, after_s)

    def _read(self, position: int) -> tuple[Batch | None, int]:
        with self._reading:
            return self._read_alone(position)

    def _read_alone(self, position: int) -> tuple[Batch | None, int]:
        if self._reader is not None and self._reader.is_stale():
            self._reader.close()
            self._reader = None
        reader = self._reader = self._reader or Reader(self._i.store.database)
        wanted = self._stream.config.format
        try:
            return reader.at_once(lambda at: read_batch(self._i, at, position, self._most, wanted))
        except AuditError:
            raise
        except Exception as error:
            self._reader = None
            reader.close()
            raise StoreUnavailable(f"the log cannot be read ({type(error).__name__})") from error

    async def close(self) -> None:
        """Waits for a read or a write that is under way on its thread."""
        await asyncio.to_thread(self._end_reading)
        await self._sink.close()

    def _end_reading(self) -> None:
        with self._reading:
            if self._reader is not None:
                self._reader.close()
                self._reader = None


class Streams:
    """All streams of a configuration. The lock goes with the process, so another takes over however this one ends."""

    def __init__(self, current: Callable[[], Installation], clock: Clock) -> None:
        self._current = current
        self._clock = clock
        self._lock: OwnerLock | None = None

    @property
    def _i(self) -> Installation:
        return self._current()

    @property
    def configured(self) -> Mapping[str, StreamSettings]:
        return self._i.config.streams

    def take(self) -> bool:
        """Whether this process streams now. Raises nothing: who cannot take the lock waits."""
        if self._lock is not None and self._lock.held():
            return True
        self.release()
        try:
            locks: OwnerLocks = owner_locks(self._i.store.database, self._clock)
            self._lock = locks.take(f"streams-{self._i.store_id}")
        except (StoreError, OSError):
            return False
        return self._lock.held()

    def held(self) -> bool:
        return self._lock is not None and self._lock.held()

    def release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    async def run(self) -> None:
        """For the life of the process; returns at once where nothing is configured."""
        if not self.configured:
            return
        try:
            while True:
                if self.take() if self._i.store.database.is_sqlite else await asyncio.to_thread(self.take):
                    await self._all()
                await asyncio.sleep(LOOK_S)
        finally:
            self.release()

    async def _all(self) -> None:
        """Every stream beside the others, until the lock is lost."""
        streamers = self.streamers()
        try:
            async with asyncio.TaskGroup() as group:
                for streamer in streamers:
                    group.create_task(streamer.run(self.held))
        except* Exception as broken:  # noqa: BLE001 -- a defect of ours ends no serving: told, and begun anew
            _log.exception("streaming broke off", exc_info=broken)
        finally:
            for streamer in streamers:
                await streamer.close()

    def streamers(self) -> list[Streamer]:
        return [Streamer(self._current, stream, sink_of(stream)) for stream in self.configured.values()]

    async def once(self) -> dict[str, Round]:
        """Everything that is new, to every stream; what each came to. The lock is the caller's to take."""
        done: dict[str, Round] = {}
        for streamer, name in zip(self.streamers(), self.configured, strict=True):
            total, result = 0, Round(0, 0)
            try:
                while self.held():
                    result = await streamer.round()
                    total += result.delivered
                    if result.error or not result.behind:
                        break
            finally:
                await streamer.close()
            done[name] = Round(total, result.behind, result.error)
        return done
