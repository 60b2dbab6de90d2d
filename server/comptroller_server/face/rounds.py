"""A governed call on the wire: in a task of its own, and in as many requests as there are questions on the way.

A caller that goes away stops waiting, and nothing else stops.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import structlog
from mcp.server.context import ServerRequestContext
from mcp_types import InputRequiredResult, InputResponseRequestParams

from comptroller_audit.vocabulary import Code, JsonObject, Refusal
from comptroller_server.call.answers import META_REFUSAL
from comptroller_server.call.proposal import Answer, Governor, Proposal
from comptroller_server.face.elicitation import Pushes, is_modern
from comptroller_server.face.on_the_way import OnTheWay
from comptroller_server.face.upstream_asks import (
    Conversation,
    Conversations,
    PushedQuestions,
    heed_refusal,
    kinds_of,
    replies_of,
)
from comptroller_tools.questions import Reply

__all__ = ["Rounds", "Running", "log_error"]

_Context: TypeAlias = ServerRequestContext[Any, Any]
_UNFINISHED = Refusal(
    Code.INTERNAL,
    "This call failed because of an internal error, and it is not known here whether it took effect. "
    "Do not repeat it before a person has looked at the record of calls.",
    retry="person",
)
_log = structlog.get_logger("comptroller.protocol")


@dataclass(slots=True)
class Running:
    """A call that has not ended in the time its request had, and whoever its upstream may ask on the way."""

    task: asyncio.Task[Answer]
    way: OnTheWay
    proposal: Proposal
    waits: Conversation | None = None

    @property
    def answer(self) -> Answer | None:
        """None while it runs."""
        return _answer_of(self.task) if self.task.done() else None


class Rounds:
    """The calls that run. `may_ask` says that some upstream may ask clients something while a call runs."""

    def __init__(self, governor: Governor, pushes: Pushes, *, may_ask: bool) -> None:
        self._governor = governor
        self._pushes = pushes
        self._may_ask = may_ask
        self._conversations = Conversations()
        self._running: set[asyncio.Task[Answer]] = set()

    @property
    def in_flight(self) -> int:
        """Calls that have not ended, those whose caller has gone included."""
        return len(self._running)

    def stop_asking(self) -> None:
        """Nobody at a client will answer any more."""
        self._pushes.stop()
        self._conversations.stop()

    async def drain(self, wait_s: float) -> int:
        """Wait until every call has ended, `wait_s` seconds at most. Returns how many have not.

        What remains is not cancelled here: it is in doubt, and recovery finds it.
        """
        deadline = asyncio.get_running_loop().time() + wait_s
        while self._running:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                break
            await asyncio.wait(set(self._running), timeout=left)
        return len(self._running)

    async def answer(
        self,
        ctx: _Context,
        params: InputResponseRequestParams | None,
        proposal: Proposal,
        log_level: str | None,
        patience_s: float | None = None,
    ) -> Answer | InputRequiredResult | Running:
        """What one request gets: the call's answer, or what its upstream asks first. Raises `MCPError`.

        The request may be the first of a call, or a later one that brings what was asked. Of the 2026 era, with
        `patience_s`, it waits no longer than that, and gets the call itself.
        """
        modern = is_modern(ctx)
        if params is not None and (waits := self._conversations.again(params.request_state, ctx, proposal)):
            waits.way.resume(ctx)
            with waits.way:
                answer = await self._next(waits, proposal, replies_of(params.input_responses), patience_s)
        else:
            way = OnTheWay(ctx, log_level)
            with way:
                proposal = way.of(proposal)
                if modern and self._may_ask and kinds_of(ctx):
                    waits = self._conversations.begin(ctx, proposal, way)
                    waits.task = self._begin(replace(proposal, asker=waits))
                    answer = await self._next(waits, proposal, None, patience_s)
                elif modern and patience_s is not None:
                    answer = await self._for_a_while(proposal, way, patience_s)
                elif modern:
                    answer = await self._outlive_caller(proposal)
                else:
                    answer = await self._while_open(ctx, proposal)
        if modern and isinstance(answer, Answer):
            heed_refusal(answer, params)
        return answer

    async def _while_open(self, ctx: _Context, proposal: Proposal) -> Answer:
        """A client of the 2025 era is asked while its one request is open."""
        if self._may_ask:
            asker = PushedQuestions(ctx, self._conversations.stopped, self._pushes.wait_s)
            proposal = replace(proposal, asker=asker)
        answer = await self._outlive_caller(proposal)
        if answer.asks is not None:
            answer = await self._pushes.answered(ctx, proposal, answer, self._outlive_caller)
        return answer

    async def _next(
        self,
        waits: Conversation,
        proposal: Proposal,
        replies: Mapping[str, Reply] | None,
        patience_s: float | None,
    ) -> Answer | InputRequiredResult | Running:
        """Give the replies, if there are any, and wait for the answer or the next question."""
        assert waits.task is not None
        if replies is not None and not waits.give(replies):
            return self._conversations.question(waits)
        asked = asyncio.ensure_future(waits.asked.wait())
        try:
            await _first({waits.task, asked}, waits.way, patience_s)
        except asyncio.CancelledError:
            waits.end()
            raise
        finally:
            asked.cancel()
        if waits.task.done():
            return _answer_of(waits.task)
        if waits.asked.is_set():
            return self._conversations.question(waits)
        return Running(waits.task, waits.way, proposal, waits)

    async def _for_a_while(self, proposal: Proposal, way: OnTheWay, patience_s: float) -> Answer | Running:
        task = self._begin(proposal)
        await _first({task}, way, patience_s)
        return _answer_of(task) if task.done() else Running(task, way, proposal)

    def again(self, proposal: Proposal, way: OnTheWay) -> Running:
        """Begin a call whose request will not wait for it."""
        return Running(self._begin(proposal), way, proposal)

    async def _outlive_caller(self, proposal: Proposal) -> Answer:
        task = self._begin(proposal)
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task.add_done_callback(functools.partial(_wake, ended))
        await ended  # being cancelled here leaves the task alone
        return _answer_of(task)

    def _begin(self, proposal: Proposal) -> asyncio.Task[Answer]:
        task = asyncio.create_task(self._governor.call(proposal), name=f"call {proposal.tool[:40]}")
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Answer]) -> None:
        self._running.discard(task)
        if task.cancelled():
            _log.error("call_cancelled", task=task.get_name())
        elif (error := task.exception()) is not None:
            log_error("tools/call", error)


def log_error(method: str, error: BaseException) -> None:
    """Type and place only: the text of an exception may hold a secret."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = None if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    _log.error("unexpected_error", method=method, error=type(error).__qualname__, where=where)


async def _first(waited: set[asyncio.Future[Any]], way: OnTheWay, patience_s: float | None) -> None:
    """Until one has ended, or `patience_s` are over and the call of `way` has a name."""
    if patience_s is not None:
        named = asyncio.ensure_future(way.named())
        try:
            await asyncio.wait({*waited, named}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            named.cancel()
    await asyncio.wait(waited, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)


def _wake(waiter: asyncio.Future[None], task: asyncio.Task[Answer]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _answer_of(task: asyncio.Task[Answer]) -> Answer:
    if task.cancelled() or task.exception() is not None:
        return _unfinished()
    return task.result()


def _unfinished() -> Answer:
    refusal = _UNFINISHED
    details: JsonObject = {
        "class": refusal.failure_class.value,
        "code": refusal.code.value,
        "retry": refusal.retry,
        "call": None,
    }
    return Answer(text=refusal.text, is_error=True, meta={META_REFUSAL: details})
