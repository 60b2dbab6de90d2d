"""Resources of one upstream that somebody wants news of, asked for in the way of its era on each connection.

In the 2025 era each is subscribed to. Later one `subscriptions/listen` stream names all of them, so a change of the
set opens a new stream before the old one is left: nothing is missed between them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

import mcp_types as types
import structlog
from mcp.client.session import ClientSession
from mcp.client.subscriptions import ResourceUpdated, listen
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

__all__ = ["WATCHED_MAX", "Watching"]

WATCHED_MAX = 1_000
"""Addresses of one upstream that are watched at a time."""
ANSWER_S = 10.0
"""How long the upstream may take to agree."""
RELISTEN_S = 1.0
"""Between two streams, where the upstream ended one."""

_log = structlog.stdlib.get_logger()


class Watching:
    """Lives as long as the source; `keep` runs on each of its connections."""

    def __init__(self, name: str, told: Callable[[str], None]) -> None:
        self._name = name
        self._told = told
        self._wanted: dict[str, asyncio.Future[bool]] = {}
        self._moved = asyncio.Event()

    def __bool__(self) -> bool:
        return bool(self._wanted)

    async def add(self, address: str) -> bool:
        """Watch `address` from now on. False where the upstream does not agree in time; then it is not watched."""
        agreed = self._wanted.get(address)
        if agreed is None:
            if len(self._wanted) >= WATCHED_MAX:
                return False
            agreed = self._wanted[address] = asyncio.get_running_loop().create_future()
            self._moved.set()
        try:
            async with asyncio.timeout(ANSWER_S):
                if await asyncio.shield(agreed):
                    return True
        except TimeoutError:
            pass
        if self._wanted.get(address) is agreed:
            self.drop(address)
        return False

    def drop(self, address: str) -> None:
        """Watch it no longer."""
        agreed = self._wanted.pop(address, None)
        if agreed is not None and not agreed.done():
            agreed.set_result(False)
        self._moved.set()

    def heard(self, address: str) -> None:
        """The upstream says that `address` changed: told of what was asked for, and of nothing else.

        It may name a part of what is watched (MCP "Resources").
        """
        for wanted in list(self._wanted):
            if address == wanted or address.startswith(f"{wanted.rstrip('/')}/"):
                self._told(wanted)

    async def keep(self, session: ClientSession) -> None:
        """Have the upstream tell of what is wanted, for as long as the connection is there.

        What was watched on an earlier connection may have changed unseen, and is told of at once.
        """
        again = [address for address, agreed in self._wanted.items() if agreed.done()]
        modern = session.protocol_version in MODERN_PROTOCOL_VERSIONS
        way = _Stream(session, self.heard) if modern else _Subscribed(session)
        try:
            while True:
                self._moved.clear()
                wanted = list(self._wanted)
                taken = await way.want(wanted)
                self._settle(wanted, taken)
                while again:
                    if (address := again.pop()) in taken:
                        self._told(address)
                await self._moved.wait()
        finally:
            await way.leave()

    def _settle(self, wanted: Iterable[str], taken: frozenset[str]) -> None:
        for address in wanted:
            agreed = self._wanted.get(address)
            if agreed is not None and not agreed.done():
                agreed.set_result(address in taken)
            elif agreed is not None and address not in taken:
                _log.warning("an upstream gives no more news of a resource", source=self._name)


class _Subscribed:
    def __init__(self, session: ClientSession) -> None:
        self._session = session
        has = session.server_capabilities
        self._can = has is not None and has.resources is not None and bool(has.resources.subscribe)
        self._held: set[str] = set()

    async def want(self, wanted: list[str]) -> frozenset[str]:
        if not self._can:
            return frozenset()
        for address in self._held - set(wanted):
            params = types.UnsubscribeRequestParams(uri=address)
            with contextlib.suppress(MCPError, ValidationError):
                await self._session.send_request(types.UnsubscribeRequest(params=params), types.EmptyResult)
            self._held.discard(address)
        for address in wanted:
            if address in self._held:
                continue
            request = types.SubscribeRequest(params=types.SubscribeRequestParams(uri=address))
            with contextlib.suppress(MCPError, ValidationError):
                await self._session.send_request(request, types.EmptyResult)
                self._held.add(address)
        return frozenset(self._held)

    async def leave(self) -> None:
        """The connection ends, and its subscriptions with it."""


class _Stream:
    def __init__(self, session: ClientSession, heard: Callable[[str], None]) -> None:
        self._session = session
        self._heard = heard
        self._reading: asyncio.Task[None] | None = None
        self._named: set[str] = set()
        self._honored: frozenset[str] = frozenset()

    async def want(self, wanted: list[str]) -> frozenset[str]:
        if set(wanted) == self._named:
            return self._honored
        before, self._reading, self._named, self._honored = self._reading, None, set(wanted), frozenset()
        if wanted:
            begun: asyncio.Future[frozenset[str]] = asyncio.get_running_loop().create_future()
            self._reading = asyncio.create_task(self._read(wanted, begun))
            self._honored = await begun
        await _ended(before)
        return self._honored

    async def _read(self, wanted: list[str], begun: asyncio.Future[frozenset[str]]) -> None:
        try:
            while True:
                if not await self._one(wanted, begun):
                    return
                await asyncio.sleep(RELISTEN_S)
        finally:
            if not begun.done():
                begun.set_result(frozenset())

    async def _one(self, wanted: list[str], begun: asyncio.Future[frozenset[str]]) -> bool:
        """One stream to its end. Whether another may do better: not where the first is refused."""
        try:
            async with listen(self._session, resource_subscriptions=wanted) as events:
                if begun.done():  # what changed between two streams was not told
                    for address in events.honored.resource_subscriptions or ():
                        self._heard(address)
                else:
                    begun.set_result(frozenset(events.honored.resource_subscriptions or ()))
                async for event in events:
                    if isinstance(event, ResourceUpdated):
                        self._heard(event.uri)
        except Exception as error:  # noqa: BLE001 -- refused, lost, or the SDK's own: there is no news on this stream
            _log.info("a stream of news ended", error=type(error).__name__)
        return begun.done()

    async def leave(self) -> None:
        await _ended(self._reading)


async def _ended(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
