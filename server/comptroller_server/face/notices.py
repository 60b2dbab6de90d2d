"""What clients are told unasked: that a list of theirs changed, and that a resource they subscribed to did.

A client of the 2025 era hears on its session. A later one opens streams (`subscriptions/listen`), and hears there what it
named and nothing else. Each is told of its own lists only when these really changed: a notice must not say that
something happened to a tool that this principal is not shown. What waits for a client is a set, never a queue.
(MCP 2025-11-25 and 2026-07-28, "Resources", "Tools", "Subscriptions".)
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import structlog
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.session import ServerSession
from mcp.server.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import (
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
    event_to_notification,
)
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LOG_LEVEL_META_KEY,
    EmptyResult,
    NotificationParams,
    SetLevelRequestParams,
    SubscribeRequestParams,
    SubscriptionFilter,
    SubscriptionsAcknowledgedNotification,
    SubscriptionsAcknowledgedNotificationParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    UnsubscribeRequestParams,
)

from comptroller_audit.vocabulary import Json, Subject
from comptroller_server.call.proposal import Governor
from comptroller_server.face.elicitation import is_modern
from comptroller_server.face.logs import log_message
from comptroller_server.upstreams.news import News
from comptroller_server.upstreams.offers import Reading
from comptroller_tools.upstream.news import LEVELS, is_at_least

__all__ = ["ADDRESSES_MAX", "STREAMS_MAX", "Notices"]

ADDRESSES_MAX = 100
"""Resources that one session or one stream may be subscribed to."""
STREAMS_MAX = 32
"""Streams that one client may have open for one principal at a time."""
LOGS_WAITING_MAX = 32
"""Log messages outside of any call that wait for one session; then the oldest is forgotten."""
LEAST = "info"
"""The least severe log messages of a session that has not said which it wants."""
PAUSE_S = 0.2
"""Between two rounds of notices to one client."""
TELL_WAIT_S = 5.0
"""How long a notice may wait for a client that does not read. Then it is dropped."""

_LISTS: Mapping[str, ServerEvent] = {
    "tools": ToolsListChanged(),
    "resources": ResourcesListChanged(),
    "prompts": PromptsListChanged(),
}
_EAR = "comptroller.ear"

RequestContext: TypeAlias = ServerRequestContext[Any, Any]
Allowed: TypeAlias = Callable[[RequestContext, str], Awaitable[Reading]]
"""Makes one governed reading of a resource and forgets what it says. Raises `MCPError` where it is refused."""

_log = structlog.get_logger("comptroller.notices")


@dataclass(eq=False)
class _Ear:
    """One session of the 2025 era, or one stream of the later one."""

    subject: Subject
    lists: frozenset[str]
    addresses: dict[str, Reading] = field(default_factory=dict[str, Reading])
    seen: Mapping[str, Hashable] = field(default_factory=dict[str, Hashable])
    waiting: dict[ServerEvent, None] = field(default_factory=dict[ServerEvent, None])
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    logs: deque[tuple[str, str, Json]] = field(default_factory=lambda: deque(maxlen=LOGS_WAITING_MAX))
    least: str = LEAST
    is_session: bool = False
    closed: bool = False

    def put(self, event: ServerEvent) -> None:
        self.waiting[event] = None
        self.woken.set()

    def close(self) -> None:
        self.closed = True
        self.woken.set()

    async def next(self) -> list[ServerEvent]:
        """What has come since; nothing once it is closed."""
        await self.woken.wait()
        self.woken.clear()
        found = list(self.waiting)
        self.waiting.clear()
        return found


class Notices:
    """Who listens, and what they are told. Handlers for the SDK's server."""

    def __init__(
        self,
        governor: Governor,
        news: News,
        subject_of: Callable[[RequestContext], Subject],
        allowed: Allowed,
    ) -> None:
        self._governor = governor
        self._news = news
        self._subject_of = subject_of
        self._allowed = allowed
        self._ears: set[_Ear] = set()
        self._streams = Counter[tuple[str, str]]()
        self._comparing: asyncio.Task[None] | None = None
        self._moved = False
        self._closed = False
        news.hear(self)

    def register(self, server: Server[Any]) -> None:
        """Have the SDK's server ask here, and say that it can be asked."""
        add = server.add_request_handler
        add("subscriptions/listen", SubscriptionsListenRequestParams, self.listen)
        if server.get_request_handler("resources/read") is not None:
            add("resources/subscribe", SubscribeRequestParams, self.subscribe)
            add("resources/unsubscribe", UnsubscribeRequestParams, self.unsubscribe)
        add("logging/setLevel", SetLevelRequestParams, self.set_level)
        server.add_notification_handler("notifications/initialized", NotificationParams, self.joined)

    def close(self) -> None:
        """The server ends: open streams are ended in order, and nobody is told anything more."""
        self._closed = True
        for ear in self._ears:
            ear.close()

    # -- news -----------------------------------------------------------------------------------------------------

    def lists_moved(self) -> None:
        """Compare what each principal is offered with what it was: once for all news that came together."""
        self._moved = True
        if self._ears and self._comparing is None and not self._closed:
            self._comparing = asyncio.get_running_loop().create_task(self._compare(), name="notices")

    def updated(self, source: str, address: str) -> None:
        for ear in self._ears:
            for offered, reading in ear.addresses.items():
                if self._news.is_of(reading, source, address):
                    ear.put(ResourceUpdated(uri=offered))

    def said(self, source: str, whom: str, level: str, data: Json) -> None:
        for ear in self._ears:
            if (
                ear.is_session
                and is_at_least(level, ear.least)
                and self._news.concerns(ear.subject, source, whom)
            ):
                ear.logs.append((source, level, data))
                ear.woken.set()

    async def _compare(self) -> None:
        try:
            while self._moved:
                self._moved = False
                known: dict[Subject, Mapping[str, Hashable]] = {}
                for ear in list(self._ears):
                    if ear.subject not in known:
                        known[ear.subject] = self._offered(ear.subject)
                        await asyncio.sleep(0)
                    now, before = known[ear.subject], ear.seen
                    ear.seen = now
                    for kind in ear.lists:
                        if now[kind] != before[kind]:
                            ear.put(_LISTS[kind])
        except Exception as error:  # noqa: BLE001 -- no news is better than no server
            _log.error("lists_not_compared", error=type(error).__qualname__)
        finally:
            self._comparing = None

    def _offered(self, subject: Subject) -> Mapping[str, Hashable]:
        tools = tuple((tool.name, tool.description) for tool in self._governor.listing(subject))
        return {"tools": tools, **self._news.offered(subject)}

    # -- the 2025 era ---------------------------------------------------------------------------------------------

    async def joined(self, ctx: RequestContext, _: NotificationParams | None) -> None:
        """`notifications/initialized`: from now on the session is told."""
        if not is_modern(ctx):
            self._ear_of(ctx)

    async def subscribe(self, ctx: RequestContext, params: SubscribeRequestParams) -> EmptyResult:
        ear = self._ear_of(ctx)
        if params.uri not in ear.addresses:
            if len(ear.addresses) >= ADDRESSES_MAX:
                text = f"This session has {ADDRESSES_MAX} subscriptions; end one before the next."
                raise MCPError(INVALID_PARAMS, text)
            reading = await self._granted(ctx, params.uri)
            if ear.closed or ear.addresses.setdefault(params.uri, reading) is not reading:
                self._news.leave(reading)
        return EmptyResult()

    async def unsubscribe(self, ctx: RequestContext, params: UnsubscribeRequestParams) -> EmptyResult:
        reading = self._ear_of(ctx).addresses.pop(params.uri, None)
        if reading is not None:
            self._news.leave(reading)
        return EmptyResult()

    def _ear_of(self, ctx: RequestContext) -> _Ear:
        # The SDK has no other way to know a session again, and when it ends.
        connection = ctx.session._connection  # pyright: ignore[reportPrivateUsage]
        ear: _Ear | None = connection.state.get(_EAR)
        if ear is None:
            ear = connection.state[_EAR] = self._begin(self._subject_of(ctx), frozenset(_LISTS))
            ear.is_session = True
            telling = asyncio.get_running_loop().create_task(self._tell(ear, ctx.session))
            connection.exit_stack.callback(telling.cancel)
            connection.exit_stack.callback(self._end, ear)
        return ear

    async def _tell(self, ear: _Ear, session: ServerSession) -> None:
        while not ear.closed:
            events = await ear.next()
            said = [log_message(*ear.logs.popleft()) for _ in range(len(ear.logs))]
            heard = [event_to_notification(event, {}) for event in events if self._may_hear(ear, event)]
            for notification in (*heard, *said):
                try:
                    async with asyncio.timeout(TELL_WAIT_S):
                        await session.send_notification(notification)
                except Exception as error:  # noqa: BLE001 -- it is gone or does not read
                    _log.info("client_not_told", error=type(error).__qualname__)
            await asyncio.sleep(PAUSE_S)

    async def set_level(self, ctx: RequestContext, params: SetLevelRequestParams) -> EmptyResult:
        """`logging/setLevel` of the 2025 era; later each request says what it wants."""
        self._ear_of(ctx).least = params.level
        return EmptyResult()

    def level_of(self, ctx: RequestContext) -> str | None:
        """The least severe log messages that this request's client wants to hear, or None for none."""
        if not is_modern(ctx):
            return self._ear_of(ctx).least
        wanted = (ctx.params or {}).get("_meta", {}).get(LOG_LEVEL_META_KEY)
        return wanted if wanted in LEVELS else None

    # -- the 2026 era ---------------------------------------------------------------------------------------------

    async def listen(
        self, ctx: RequestContext, params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        """One stream, until its client goes or the server ends. What is agreed to is said first."""
        subject, request = self._subject_of(ctx), ctx.request_id
        if request is None:
            raise MCPError(INVALID_REQUEST, "subscriptions/listen needs a request id.")
        # By client too, so that one of a person leaves the others theirs.
        who = (subject.principal.id, subject.actor.id)
        if self._closed or self._streams[who] >= STREAMS_MAX:
            text = f"No more streams now: {STREAMS_MAX} at a time. End one before the next."
            raise MCPError(INTERNAL_ERROR, text)
        self._streams[who] += 1
        wanted = params.notifications
        flags = {
            "tools": wanted.tools_list_changed,
            "resources": wanted.resources_list_changed,
            "prompts": wanted.prompts_list_changed,
        }
        ear = self._begin(subject, frozenset(kind for kind, asked in flags.items() if asked))
        try:
            await self._subscribe_all(ctx, ear, wanted.resource_subscriptions or ())
            meta = {SUBSCRIPTION_ID_META_KEY: request}
            await ctx.session.send_notification(_acknowledged(ear, meta), related_request_id=request)
            while not ear.closed:
                for event in await ear.next():
                    if self._may_hear(ear, event):
                        await ctx.session.send_notification(event_to_notification(event, meta), request)
                if not ear.closed:
                    await asyncio.sleep(PAUSE_S)
            return SubscriptionsListenResult(_meta=meta)
        finally:
            self._end(ear)
            self._streams[who] -= 1
            if not self._streams[who]:
                del self._streams[who]

    async def _subscribe_all(self, ctx: RequestContext, ear: _Ear, addresses: Any) -> None:
        """Those that are refused are left out of what is agreed to."""
        for address in list(dict.fromkeys(addresses))[:ADDRESSES_MAX]:
            try:
                ear.addresses[address] = await self._granted(ctx, address)
            except MCPError:
                continue

    # -- both -----------------------------------------------------------------------------------------------------

    def _begin(self, subject: Subject, lists: frozenset[str]) -> _Ear:
        ear = _Ear(subject, lists, seen=self._offered(subject), closed=self._closed)
        self._ears.add(ear)
        return ear

    def _end(self, ear: _Ear) -> None:
        ear.close()
        self._ears.discard(ear)
        while ear.addresses:
            self._news.leave(ear.addresses.popitem()[1])

    async def _granted(self, ctx: RequestContext, address: str) -> Reading:
        """A subscription: decided and recorded as a reading, then asked for upstream. Raises `MCPError`."""
        reading = await self._allowed(ctx, address)
        if not self._news.can_tell(reading):
            text = "No news is given of this resource: whether you may read it is looked up each time. Read it again."
            raise MCPError(INVALID_PARAMS, text)
        if not await self._news.watch(reading):
            raise MCPError(INVALID_PARAMS, "The server of this resource gives no news of it. Read it again.")
        return reading

    def _may_hear(self, ear: _Ear, event: ServerEvent) -> bool:
        """Asked at each notice: what may be read can have changed since the subscription."""
        if not isinstance(event, ResourceUpdated):
            return True
        reading = ear.addresses.get(event.uri)
        return reading is not None and self._news.may_read(ear.subject, reading)


def _acknowledged(ear: _Ear, meta: dict[str, Any]) -> SubscriptionsAcknowledgedNotification:
    honored = SubscriptionFilter(
        tools_list_changed="tools" in ear.lists or None,
        resources_list_changed="resources" in ear.lists or None,
        prompts_list_changed="prompts" in ear.lists or None,
        resource_subscriptions=list(ear.addresses) or None,
    )
    params = SubscriptionsAcknowledgedNotificationParams(notifications=honored, _meta=meta)
    return SubscriptionsAcknowledgedNotification(params=params)
