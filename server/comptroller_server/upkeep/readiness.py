"""Whether this process can act now, for whoever sends it traffic: `/readyz`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from comptroller_audit.ailments import room_of
from comptroller_audit.ambient import Clock
from comptroller_audit.errors import StoreError
from comptroller_audit.owners import Owner
from comptroller_audit.store import Store
from comptroller_server.call.watch import Watch
from comptroller_server.config.streams import StreamSettings
from comptroller_server.streaming.status import stream_states, trouble
from comptroller_server.upkeep.following import Following
from comptroller_server.upkeep.steady_clock import SteadyClock
from comptroller_tools.upstream.source import UpstreamSource

__all__ = ["Readiness"]

UNPROVED_S = 10.0
"""After so long without a write a look makes one: a disk that only reads would be found by the next caller."""
ROOM_BYTES_MIN = 1024 * 1024
"""After a write that failed: a call's commits take 200 KiB, and one small write that fits says nothing about them."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """It is ready while it holds its lock, reads and writes its store and has the rules in force. An upstream or a
    stream that is down keeps nothing else from working."""

    owner: Owner
    watch: Watch
    tenant: str
    upstreams: Collection[UpstreamSource]
    rules: Following
    store: Store
    streams: Mapping[str, StreamSettings]
    clock: Clock

    async def look(self) -> tuple[bool, str]:
        """Ready or not, and lines that name nothing of the configuration: anybody on this machine may ask."""
        try:
            return await self._look()
        except StoreError:
            return False, "not ready: the store cannot be read"

    async def _look(self) -> tuple[bool, str]:
        head = await self.watch.fresh(self.tenant)
        if self.store.health.is_damaged:
            return False, "not ready: the store is damaged; `comptroller doctor` tells more"
        health = self.store.health
        unproved = health.fails or self.clock.monotonic() - health.wrote_s > UNPROVED_S
        if unproved and not await self._writes():
            return False, "not ready: the store cannot be written; `comptroller doctor` tells more"
        if not self.owner.held():
            return False, "not ready: the owner lock is lost"
        if self.rules.is_behind(head.bundle):
            return False, "not ready: other rules are in force than this process can serve"
        lines = ["ready"]
        if isinstance(self.clock, SteadyClock) and self.clock.is_ahead:
            lines.append("the clock leapt ahead and is not followed")
        if self.upstreams:
            up = sum(source.up for source in self.upstreams)
            lines.append(f"upstreams up: {up} of {len(self.upstreams)}")
        if self.streams:
            states = await self.store.read(lambda reader: stream_states(reader, self.streams))
            held_up = sum(trouble(state) is not None for state in states)
            lines.append(f"streams held up: {held_up} of {len(states)}")
        return True, "\n".join(lines)

    async def _writes(self) -> bool:
        """Whether it takes writes again. Nobody sends calls to a server that is not ready, so nothing else would tell."""
        database = self.store.database
        if database.is_sqlite and room_of(database.path) < ROOM_BYTES_MIN:
            return False
        try:
            await self.watch.write(self.tenant)
        except StoreError:
            return False
        self.store.health.fails = False
        return True
