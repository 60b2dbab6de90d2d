"""An MCP server of somebody else as a source: what it offers is pinned, what it says is untrusted.

What `UpstreamSource.call` knows about the effect:

    NONE     not connected, too busy here, quarantined, or turned away before its tool ran
    DONE     the tool answered; with `error` set when the answer is not what it declared
    UNKNOWN  anything else once the request was handed over: silence, a lost connection, an answer nobody can read,
             a question back, and an error of the tool unless the config says what errors of this upstream mean
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from comptroller_audit.ambient import Clock, SystemClock
from comptroller_tools.errors import SourceInvalid
from comptroller_tools.questions import Patience
from comptroller_tools.source import CANCELLED, Action, EffectHappened, Outcome, ToolDefinition
from comptroller_tools.upstream.addresses import Addresses
from comptroller_tools.upstream.definitions import (
    PINNED_KEYS,
    Kind,
    Unusable,
    Written,
    names_problems,
    offered,
)
from comptroller_tools.upstream.relayed import COMPLETIONS, RESOURCES, argument_names, definitions_of
from comptroller_tools.upstream.settings import HttpEndpoint, UpstreamSettings

if TYPE_CHECKING:
    from comptroller_tools.upstream.asking import Asking
    from comptroller_tools.upstream.children import HeadStarts
    from comptroller_tools.upstream.link import Link, Listing
    from comptroller_tools.upstream.news import Hearer
    from comptroller_tools.upstream.tokens import Tokens
    from comptroller_tools.upstream.watching import Watching

__all__ = ["ASKED_BACK", "NEEDS", "QUARANTINED", "UpstreamSource"]

QUARANTINED = "quarantined"
"""The key in `Outcome.meta` of a call that was not sent because its definition is not the pinned one."""
ASKED_BACK = "asked_back"
"""In an outcome's `meta`: the upstream works, but wants something of the client first. Asking again brings the same."""
NEEDS = "needs_capabilities"
"""In an outcome's `meta`: what the client would have to be able to be asked, as it would declare it."""
IN_FLIGHT_MAX = 64
"""Calls to one upstream at once; nothing queues."""
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 60.0
CANCEL_GRACE_S = 0.5
STAY_PAUSE_S = 1.0
"""Between a connection that ended and the next, where somebody waits for news."""

_log = structlog.stdlib.get_logger()


class UpstreamSource:
    """One upstream. `pins` are the definitions a person accepted; nothing else of it is ever offered."""

    def __init__(
        self,
        name: str,
        settings: UpstreamSettings,
        pins: Mapping[str, Written],
        *,
        clock: Clock | None = None,
        head_starts: HeadStarts | None = None,
    ) -> None:
        """Raises `SourceInvalid` for a pinned definition that cannot be offered. Starts nothing."""
        self._name = name
        self._head_starts = head_starts
        self._settings = settings
        self._pins = dict(pins)
        self._clock: Clock = clock or SystemClock()
        self._definitions = _definitions(name, self._pins)
        self._kinds = {pin.kind for pin in self._pins.values()} or set(Kind)
        self.addresses = Addresses(self._pins)
        self._listing: Listing | None = None
        self._link: Link | None = None
        self._calls: set[asyncio.Task[Outcome]] = set()
        self._failures = 0
        self._not_before = 0.0
        self._closed = False
        self._watching: Watching | None = None
        self._tokens: Tokens | None = None
        self._staying: asyncio.Task[None] | None = None
        self.hearer: Hearer | None = None
        """Who is told what the upstream says unasked."""

    @property
    def name(self) -> str:
        return self._name

    @property
    def identity(self) -> Mapping[str, Any]:
        """How it is started or reached, as written: another command or endpoint is another source."""
        return self._settings.identity

    def definitions(self) -> Mapping[str, ToolDefinition]:
        return self._definitions

    @property
    def pins(self) -> Mapping[str, Written]:
        return self._pins

    def pin_of(self, tool: str, arguments: Mapping[str, Any]) -> Written | None:
        """What was accepted that a call of `tool` uses; None where nobody has accepted that."""
        if tool == RESOURCES:
            return self.addresses.find(str(arguments.get("uri")))
        if tool == COMPLETIONS:
            pin = self._pins.get(str(arguments.get("accepted")))
            return pin if pin is not None and arguments.get("argument") in argument_names(pin) else None
        return self._pins.get(tool)

    def quarantine(self, tool: str) -> str | None:
        """Why a tool, or another pin, is not used now, in words of ours alone; None while nothing speaks against it."""
        if self._listing is None or tool in (RESOURCES, COMPLETIONS):  # what they are for stands for itself
            return None
        pinned, now = self._pins.get(tool), self._listing.tools.get(tool)
        if pinned is None:
            return "nobody has accepted it"
        if now is None:
            return "its server lists it no longer, or not in a way that can be read"
        if now.digest == pinned.digest:
            return None
        parts = [
            key for key in PINNED_KEYS[pinned.kind] if now.definition.get(key) != pinned.definition.get(key)
        ]
        return f"its server now defines it otherwise ({', '.join(parts) or 'its spelling'})"

    @property
    def up(self) -> bool:
        """Whether there is a connection now that was negotiated and listed."""
        return self._link is not None and self._link.settled and self._link.alive

    def start(self) -> None:
        """Connect without waiting, so that the first call finds it ready."""
        if self._link is None and not self._closed:
            self._connect()

    async def listing(self) -> Listing:
        """What the upstream lists now. Raises `Unreachable`."""
        await (await self._up()).ready()
        assert self._listing is not None
        return self._listing

    async def watch(self, address: str) -> bool:
        """Have `hearer` told of changes of a resource until `unwatch`; False where the upstream gives no such news."""
        from comptroller_tools.upstream.link import Unreachable

        try:
            await self._up()
        except Unreachable:
            return False
        assert self._watching is not None
        if not await self._watching.add(address) or self._closed:
            return False
        if self._staying is None or self._staying.done():
            self._staying = asyncio.get_running_loop().create_task(self._stay_up(self._watching))
        return True

    def unwatch(self, address: str) -> None:
        """End a `watch`."""
        if self._watching is not None:
            self._watching.drop(address)

    async def call(self, action: Action, deadline: float) -> Outcome:
        """Run `action.tool` until `deadline` (monotonic seconds). Raises nothing but `CancelledError`."""
        if action.tool not in self._definitions:
            return _nothing(f"source `{self._name}` has no pinned tool `{action.tool}`")
        if self._closed:
            return _nothing(f"source `{self._name}` is closed")
        if deadline - self._clock.monotonic() <= 0:
            return _nothing("the deadline had passed before anything was sent")
        if len(self._calls) >= IN_FLIGHT_MAX:
            error = f"{IN_FLIGHT_MAX} calls to `{self._name}` are running; nothing was sent"
            return Outcome(EffectHappened.NONE, error=error, meta={"overloaded": True})
        given_up = action.given_up
        if given_up is not None and given_up.done():
            return _cancelled(EffectHappened.NONE, "nothing was sent")
        sent = [False]
        task = asyncio.get_running_loop().create_task(self._call(action, sent))
        waiting: list[asyncio.Future[Any]] = [task] if given_up is None else [task, given_up]
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        try:
            await self._first_of(waiting, deadline, action.asker.patience)
            if not task.done():
                task.cancel()  # the upstream is told, where it still listens
                await asyncio.wait([task], timeout=CANCEL_GRACE_S)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.done() and not task.cancelled():
            return task.result()
        if given_up is not None and given_up.done():
            if not sent[0]:
                return _cancelled(EffectHappened.NONE, "nothing was sent")
            return _cancelled(EffectHappened.UNKNOWN, "the upstream was told, and may have done it by then")
        if not sent[0]:
            return _nothing("it was not connected by the deadline; nothing was sent", temporary=True)
        error = "the upstream had not answered by the deadline; it may still be at it"
        return Outcome(EffectHappened.UNKNOWN, error=error, meta={"timeout": True})

    async def _first_of(
        self, waiting: list[asyncio.Future[Any]], deadline: float, patience: Patience | None
    ) -> None:
        """Wait until one is done, or `deadline` has passed; while somebody is asked, it does not come nearer."""
        left_s = max(0.0, deadline - self._clock.monotonic())
        if patience is None:
            await _first_or_late(waiting, left_s)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left_s) as limit:
                with patience.moves(limit):
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    async def close(self) -> None:
        """End what is running, then the connection; a child gets a moment to end by itself."""
        self._closed = True
        if self._staying is not None:
            self._staying.cancel()
            await asyncio.gather(self._staying, return_exceptions=True)
        for task in set(self._calls):
            task.cancel()
        if self._calls:
            await asyncio.wait(set(self._calls), timeout=CANCEL_GRACE_S)
        if self._link is not None:
            await self._link.close()
            self._link = None

    # -- inside ---------------------------------------------------------------------------------------------------

    async def _call(self, action: Action, sent: list[bool]) -> Outcome:
        from comptroller_tools.upstream.calling import call_tool
        from comptroller_tools.upstream.link import Unreachable
        from comptroller_tools.upstream.reading import ask_for

        try:
            link = await self._up()
        except Unreachable as error:
            return _nothing(str(error), temporary=True)
        pin = self.pin_of(action.tool, action.arguments)
        if pin is None:
            return _nothing("nobody has accepted what it is for; nothing was sent")
        if (why := self.quarantine(pin.name)) is not None:
            return Outcome(
                EffectHappened.NONE, error=f"`{pin.name}` is quarantined: {why}", meta={QUARANTINED: why}
            )
        if action.traceparent and not self._settings.trace:
            action = replace(action, traceparent="")
        sent[0] = True
        errors, media = self._settings.errors_mean, self._settings.media
        asking = self._asking(action)
        if action.log_level is not None:
            await link.listen(action.log_level)
        with link.during(action, asking):
            if pin.kind is Kind.TOOL:
                structured = "outputSchema" in pin.definition
                outcome = await call_tool(self._name, link, action, structured, errors, media, asking)
            else:
                outcome = await ask_for(self._name, link, action, media, asking)
        if self._tokens is not None:
            outcome = self._tokens.without(outcome)
        if outcome.error is None or outcome.told_model is not None:
            self._failures = 0
        return outcome

    def _asking(self, action: Action) -> Asking | None:
        """The questions of one call, where this upstream may ask any."""
        if not self._settings.may_ask.kinds:
            return None
        from comptroller_tools.upstream.asking import Asking

        return Asking(self._name, self._settings.may_ask, action)

    async def _up(self) -> Link:
        """A connection that can be used. Raises `Unreachable`; after failures, at once and for a growing while."""
        from comptroller_tools.upstream.link import Unreachable

        link = self._link
        if link is not None and link.settled and not link.alive:
            await self._drop(link)
            link = self._link
        if link is None:
            if self._clock.monotonic() < self._not_before:
                raise Unreachable(f"`{self._name}` failed and is left alone for a moment")
            link = self._connect()
        try:
            await link.ready()
        except Unreachable:
            await self._drop(link)
            raise
        return link

    def _connect(self) -> Link:
        from comptroller_tools.upstream.link import Link
        from comptroller_tools.upstream.watching import Watching

        if self._watching is None:
            self._watching = Watching(self._name, self._updated)
        reached = self._settings.transport
        if self._tokens is None and isinstance(reached, HttpEndpoint) and reached.oauth is not None:
            from comptroller_tools.upstream.tokens import Tokens

            self._tokens = Tokens(reached.oauth, reached.url)
        self._link = Link(
            self._name,
            self._settings,
            self._kinds,
            self._listed,
            self._watching,
            self._said,
            self._tokens,
            self._head_starts,
        )
        return self._link

    async def _stay_up(self, watching: Watching) -> None:
        """Connect again whenever the connection ends, for as long as something is watched."""
        from comptroller_tools.upstream.link import Unreachable

        while watching:
            with contextlib.suppress(Unreachable):
                await (await self._up()).ended()
            await asyncio.sleep(max(STAY_PAUSE_S, self._not_before - self._clock.monotonic()))

    async def _drop(self, link: Link) -> None:
        """Give up a connection that ended; the next may be tried after a pause that grows with every failure."""
        if self._link is not link:
            return
        self._link = None
        self._failures += 1
        pause_s = (
            min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (self._failures - 1)) if self._failures > 1 else 0.0
        )
        self._not_before = self._clock.monotonic() + pause_s
        _log.warning("an upstream ended", source=self._name, why=link.why_ended, pause_s=pause_s)
        await link.close()

    def _listed(self, listing: Listing) -> None:
        before, self._listing = self._listing, listing
        for tool in self._pins:
            why = self.quarantine(tool)
            if why is not None and (before is None or before.tools.get(tool) != listing.tools.get(tool)):
                _log.warning("an upstream tool is quarantined", source=self._name, tool=tool, why=why)
        if self.hearer is not None:
            self.hearer.listed(self._name)

    def _said(self, whom: str, level: str, data: Any) -> None:
        if self.hearer is not None:
            self.hearer.said(self._name, whom, level, data)

    def _updated(self, address: str) -> None:
        if self.hearer is not None:
            self.hearer.updated(self._name, address)


def _definitions(source: str, pins: Mapping[str, Written]) -> dict[str, ToolDefinition]:
    found, problems = definitions_of(pins)
    for name, pin in pins.items():
        if pin.kind is not Kind.TOOL:
            continue
        try:
            definition = offered(pin)
        except Unusable as unusable:
            problems.append(f"its pinned tool `{name[:80]}` cannot be offered: {unusable}")
            continue
        problems += names_problems(definition)
        found[name] = definition
    if problems:
        raise SourceInvalid(
            "\n".join(f"{problem}; run `comptroller classify {source}`" for problem in problems)
        )
    return found


async def _first_or_late(waiting: list[asyncio.Future[Any]], left_s: float) -> None:
    """As `asyncio.wait(waiting, timeout=left_s, return_when=FIRST_COMPLETED)`, at half its price."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def end(_: object = None) -> None:
        if not over.done():
            over.set_result(None)

    timer = loop.call_later(left_s, end)
    for one in waiting:
        one.add_done_callback(end)
    try:
        await over
    finally:
        timer.cancel()
        for one in waiting:
            one.remove_done_callback(end)


def _cancelled(effect: EffectHappened, what: str) -> Outcome:
    return Outcome(effect, error=f"its client cancelled it; {what}", meta={CANCELLED: True})


def _nothing(error: str, *, temporary: bool = False) -> Outcome:
    return Outcome(EffectHappened.NONE, error=error, meta={"temporary": True} if temporary else {})
