"""Step 10: slots, the last check, and the bounded run, again only where nothing can have happened.

The last check and the hand-over to the source happen without an await between them, so that once a halt has been
acknowledged, nothing more is dispatched.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from typing import Any, Self

from comptroller_audit.ambient import Clock
from comptroller_audit.owners import Owner
from comptroller_audit.redaction import Audience, Release
from comptroller_audit.store import FaultPoint
from comptroller_audit.vocabulary import Code, Refusal
from comptroller_policy.switches import Switches
from comptroller_server.call.bounded import ask
from comptroller_server.call.breakers import Breakers
from comptroller_server.call.case import Case, ReadAt, Refused
from comptroller_server.call.kept_reads import outcome_of
from comptroller_server.call.questions_back import asker_for
from comptroller_server.call.traces import Tracer
from comptroller_server.telemetry.trace_context import trace_of
from comptroller_tools.source import CANCELLED, Action, EffectHappened, Log, Outcome, Progress
from comptroller_tools.upstream.source import ASKED_BACK, QUARANTINED

__all__ = ["Counts", "Dispatcher", "Slot"]


@dataclass(slots=True)
class Counts:
    """Committed and not yet dispatched, dispatched and running, done since start: what `halt` is answered with."""

    waiting: int = 0
    dispatched: int = 0
    done: int = 0


@dataclass(slots=True)
class Slot:
    """One of a tool's slots; taken on entering, given back on leaving, or when what outlived its deadline ends.

    While a person is asked it is lent to other calls: the source does nothing for this one then.
    """

    dispatcher: Dispatcher
    slots: asyncio.Semaphore
    case: Case
    taken: bool = False
    left: bool = False

    async def __aenter__(self) -> Self:
        self.dispatcher.count(1)
        try:
            await self.slots.acquire()
        except BaseException:
            self.dispatcher.count(-1)
            raise
        self.taken = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.left = True
        self.give_back()
        self.dispatcher.count(-1)

    @contextlib.asynccontextmanager
    async def lent(self) -> AsyncGenerator[None]:
        """Others may have it until this is left, which waits for a slot again. It need not be had, and then is not."""
        if not self.taken:
            yield
            return
        self.taken = False
        self.slots.release()
        yield
        await self.slots.acquire()
        if self.left:  # the call ended meanwhile, and nobody would give it back
            self.slots.release()
        else:
            self.taken = True

    def give_back(self) -> None:
        """The source is done with this call, and the next one may go to it. Again, it does nothing."""
        if not self.taken:
            return
        self.taken = False
        running = self.case.outcome.running if self.case.outcome is not None else None
        if running is None or running.done():
            self.slots.release()
        else:
            running.add_done_callback(lambda _: self.slots.release())


class Dispatcher:
    """Per-tool slots and the hand-over to sources."""

    def __init__(
        self,
        clock: Clock,
        owner: Owner,
        switches: Callable[[str], Switches],
        in_flight_max: int,
        queue_max: int,
        counts: Counts,
        fault: FaultPoint,
        tracer: Tracer,
        breakers: Breakers,
        release: Release,
        trace_share: float | None,
    ) -> None:
        self._trace_share = trace_share
        self._release = release
        self._clock = clock
        self._tracer = tracer
        self._breakers = breakers
        self._owner = owner
        self._switches = switches
        self._in_flight_max = in_flight_max
        self._queue_max = queue_max
        self._fault = fault
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._in_flight = 0
        self.counts = counts

    def slot(self, case: Case) -> Slot:
        """A slot of the case's tool, for `async with`. Entering waits for one to be free.

        Raises `Refused` when too many calls are here already (overloaded), or the source keeps failing (source_down).
        """
        full = self._in_flight >= self._in_flight_max + self._queue_max
        if full and case.compensates is None:  # what is wrong is reversed, however busy it is here
            raise Refused(
                Refusal(
                    Code.OVERLOADED, "Too many calls are waiting. Try again in a second.", retry="after:1"
                )
            )
        tool = case.tool_in_hand
        if case.cached is not None:  # its source is not asked, however busy or broken it is
            return Slot(self, asyncio.Semaphore(1), case)
        if (refusal := self._breakers.of(tool.source.name).refusal(case.call)) is not None:
            raise Refused(refusal)
        slots = self._slots.get(tool.name)
        if slots is None:
            slots = self._slots[tool.name] = asyncio.Semaphore(tool.config.limits.concurrency_max)
        return Slot(self, slots, case)

    def count(self, by: int) -> None:
        """One call more, or less, that has a slot or waits for one."""
        self._in_flight += by

    async def run(self, case: Case, slot: Slot) -> Outcome:
        """Hand over; and again, where it is safe and the tool's `retries_max` allows, with growing pauses."""
        outcome = await self._try(case, slot)
        if not _may_try_again(case, outcome) or (left_s := case.deadline - self._clock.monotonic()) <= 0:
            return outcome
        import stamina  # a seventh of a second, and seldom needed

        again = stamina.retry_context(
            on=_TryAgain,
            attempts=1 + case.tool_in_hand.retries_max,
            timeout=left_s,
            wait_initial=0.1,
            wait_max=2.0,
        )
        known: Outcome | None = outcome
        with contextlib.suppress(_TryAgain):
            async for attempt in again:
                with attempt:
                    outcome, known = known or await self._try(case, slot, again=True), None
                    if _may_try_again(case, outcome):
                        raise _TryAgain
        return outcome

    async def _try(self, case: Case, slot: Slot, *, again: bool = False) -> Outcome:
        """Check once more and hand over. A refused check is an outcome without effect, with the refusal set."""
        tool = case.tool_in_hand
        if again:  # between two tries a call is committed and not dispatched
            self.counts.waiting += case.committed
        action = Action(
            tool.definition.name, case.arguments, case.call, self._released(case),
            self._released_log(case, tool.source.name), case.proposal.log_level, case.principal_key,
            # A side effect goes on when its caller is merely gone; only a word of the caller's stops it.
            case.proposal.left if tool.is_read else case.proposal.cancelled,
            asker_for(case, slot.lent, self._release, self._clock), self._traceparent(case),
        )  # fmt: skip
        refusal = self._last_check(case)
        if refusal is not None:
            case.problem = refusal
            return Outcome(EffectHappened.NONE, error=refusal.code.value)
        if case.cached is not None:
            return outcome_of(case.cached)
        case.read_at = ReadAt(self._clock.monotonic(), max(self._clock.now_ms(), case.window_ms))
        began = self._tracer.now()
        case.tries += 1
        sent = replace(action, arguments=tool.shaping.sent(case.arguments))
        outcome = await self._hand_over(case, sent)
        if CANCELLED not in outcome.meta:
            self._breakers.of(tool.source.name).note(outcome)
        self._tracer.handed_over(case.trace, action, tool.source.name, outcome, began)
        return outcome

    async def _hand_over(self, case: Case, action: Action) -> Outcome:
        self.counts.waiting -= case.committed
        self.counts.dispatched += 1
        try:
            outcome = await ask(case.tool_in_hand.source, action, case.deadline, self._clock)
            self._fault("dispatch.after")
            return outcome
        finally:
            self.counts.dispatched -= 1
            self.counts.done += 1

    def _traceparent(self, case: Case) -> str:
        """The step that runs `case`, as the parent of what its source does; empty where no traces are configured."""
        if self._trace_share is None:
            return ""
        trace = trace_of(case.proposal.meta, case.proposal.trace_header, case.attempt)
        return trace.below(len(case.took.passed), self._trace_share)

    def _released(self, case: Case) -> Progress:
        """What a tool says on the way goes through the one road too."""

        async def relay(done: float, total: float | None, message: str | None) -> None:
            text = self._release.text(message, Audience.MODEL, case.book) if message is not None else None
            await case.proposal.progress(done, total, text)

        return relay

    def _released_log(self, case: Case, source: str) -> Log:
        async def relay(level: str, data: Any) -> None:
            told = self._release.release(data, Audience.MODEL, case.book).value
            await case.proposal.log(source, level, told)

        return relay

    def _last_check(self, case: Case) -> Refusal | None:
        """Lease, switches, deadline. No await from here to the source."""
        if case.committed:
            self._fault("dispatch.before")
        refusal = self._switches(case.tenant).stops(case.tool_in_hand.name, *case.stopped_by)
        if not case.committed:
            return refusal
        if refusal is None and not self._owner.held():
            refusal = Refusal(
                Code.STORE_UNAVAILABLE, "This server lost its lease and did not act.", "after:5"
            )
        if refusal is None and self._clock.monotonic() >= case.deadline:
            refusal = Refusal(Code.TIMEOUT, "The call's time was over before it could start.", "same_call")
        if refusal is not None:
            self.counts.waiting -= 1
        return refusal


class _TryAgain(Exception):
    """The try came to nothing, certainly, and another may do better."""


def _may_try_again(case: Case, outcome: Outcome) -> bool:
    """A read may be made again; a side effect only on its source's own word that nothing happened and it may pass."""
    if case.problem is not None or outcome.error is None or case.tries > case.tool_in_hand.retries_max:
        return False
    if case.tool_in_hand.is_read:
        return (
            outcome.told_model is None
            and outcome.running is None
            and not outcome.meta.get("output_invalid")
            and QUARANTINED not in outcome.meta
            and ASKED_BACK not in outcome.meta
            and not case.questions
        )
    return outcome.effect is EffectHappened.NONE and bool(outcome.meta.get("temporary"))
