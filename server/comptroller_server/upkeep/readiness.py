"""Whether this process can act now, for whoever sends it traffic: `/readyz`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from comptroller_audit.errors import StoreError
from comptroller_audit.owners import Owner
from comptroller_server.call.watch import Watch
from comptroller_server.upkeep.following import Following
from comptroller_tools.upstream.source import UpstreamSource

__all__ = ["Readiness"]


@dataclass(frozen=True, slots=True)
class Readiness:
    """It is ready while it holds its lock, reads its store and has the rules in force. An upstream that is down keeps nothing else from working."""

    owner: Owner
    watch: Watch
    tenant: str
    upstreams: Collection[UpstreamSource]
    rules: Following

    async def look(self) -> tuple[bool, str]:
        """Ready or not, and lines that name nothing of the configuration: anybody on this machine may ask."""
        try:
            head = await self.watch.fresh(self.tenant)
        except StoreError:
            return False, "not ready: the store cannot be read"
        if not self.owner.held():
            return False, "not ready: the owner lock is lost"
        if self.rules.is_behind(head.bundle):
            return False, "not ready: other rules are in force than this process can serve"
        up = sum(source.up for source in self.upstreams)
        return True, f"ready\nupstreams up: {up} of {len(self.upstreams)}" if self.upstreams else "ready"
