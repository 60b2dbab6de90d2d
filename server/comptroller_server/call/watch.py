"""Watches the head row: switches and bundle are never staler than 50 ms, and every halt is acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

import structlog

from comptroller_audit.ambient import Clock
from comptroller_audit.errors import StoreError
from comptroller_audit.owners import Acknowledge, Owner
from comptroller_audit.store import Reader, Store
from comptroller_audit.unit import Head, Unit
from comptroller_policy.rollout import Level, Word, read_levels
from comptroller_policy.switches import Switches
from comptroller_server.call.dispatch import Counts

__all__ = ["Watch"]

FRESH_S = 0.05
"""A snapshot of the head row older than this is read again before a decision."""

_log = structlog.stdlib.get_logger()


class Watch:
    """The newest head row and switches of each tenant seen, and this process's acknowledgements."""

    def __init__(self, store: Store, clock: Clock, owner: Owner, counts: Counts) -> None:
        self._store = store
        self._clock = clock
        self._owner = owner
        self._counts = counts
        self._heads: dict[str, tuple[float, Head]] = {}
        self._switches: dict[str, Switches] = {}
        self._rollouts: dict[str, dict[str, Level]] = {}
        self._acknowledged: dict[str, tuple[str, int]] = {}

    def switches(self, tenant: str) -> Switches:
        """The switches in force, as this process knows them now."""
        return self._switches.get(tenant) or Switches()

    def rollouts(self, tenant: str) -> Mapping[str, Level]:
        """The words in force about tools' rollouts, as this process knows them now."""
        return self._rollouts.get(tenant) or {}

    async def fresh(self, tenant: str) -> Head:
        """The head row, at most `FRESH_S` old; switches are read again when their sequence moved."""
        known = self._heads.get(tenant)
        if known is not None and self._clock.monotonic() - known[0] < FRESH_S:
            return known[1]
        return await self.look(tenant)

    async def look(self, tenant: str) -> Head:
        """Read the head row now."""
        at = self._clock.monotonic()

        key = self._store.ring.claim_key(tenant)

        def read(reader: Reader) -> tuple[Head, Switches | None, dict[str, Level]]:
            head = reader.head(tenant) or Head(0, 0, 0, "")
            known = self._switches.get(tenant)
            if known is not None and known.seq == head.switch_seq:
                return head, None, {}
            return head, Switches.read(reader, tenant), read_levels(reader, tenant, key)

        head, switches, levels = await self._store.read(read)
        if switches is not None:
            self._switches[tenant] = switches
            self._follow(tenant, levels)
            head.switch_seq = switches.seq
        self._heads[tenant] = (at, head)
        return head

    def _follow(self, tenant: str, levels: dict[str, Level]) -> None:
        """Obey the words about rollouts, and tell the log of each that is new to this process."""
        known = self._rollouts.get(tenant)
        for tool, level in levels.items():
            if known is not None and known.get(tool) != level and level.word is not Word.CONFIGURED:
                tell = _log.warning if level.word is Word.DEMOTED else _log.info
                tell("rollout changed", tool=tool, word=level.word.value, percent=level.percent)
        self._rollouts[tenant] = levels

    async def acknowledge(self, tenant: str) -> None:
        """Tell the store which switch sequence this process obeys, when that has changed."""
        if self._acknowledged.get(tenant) != (self._owner.id, self.switches(tenant).seq):
            await self.write(tenant)

    async def write(self, tenant: str) -> None:
        """The same in any case: a write that changes nothing else. Raises `StoreError` where none can be made."""
        seq = self.switches(tenant).seq
        counts = self._counts
        part = Acknowledge(self._owner.id, seq, counts.waiting, counts.dispatched, counts.done)
        await self._store.commit(tenant, Unit([part]))
        self._acknowledged[tenant] = (part.owner, seq)

    async def renew(self) -> None:
        """After a lost owner lock, and once nothing is in flight: go on as a new owner. Until then nothing runs."""
        counts = self._counts
        if not self._owner.held() and counts.waiting == 0 and counts.dispatched == 0:
            former = self._owner.id
            await asyncio.to_thread(self._owner.renew)
            _log.warning(
                "the owner lock was lost; going on as a new owner", former=former, owner=self._owner.id
            )

    async def run(self, tenants: list[str], then: Callable[[str], Awaitable[None]] | None = None) -> None:
        """Look, acknowledge and do what comes `then` for ever, at most `FRESH_S` apart; for the life of the process."""
        while True:
            with contextlib.suppress(StoreError):
                await self.renew()
            for tenant in tenants:
                with contextlib.suppress(StoreError):
                    await self.look(tenant)
                    await self.acknowledge(tenant)
                    if then is not None:
                        await then(tenant)
            await asyncio.sleep(FRESH_S)
