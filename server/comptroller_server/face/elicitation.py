"""The MCP side of asking the person at the client: forms, in both protocol eras (MCP "Elicitation").

A client of 2026-07-28 gets the question as the result of its call and calls again with the answer and our state
("Multi Round-Trip Requests"). One of the 2025 era gets `elicitation/create` while its call is open, and a bounded
time to answer. What comes back is turned into a `Confirmation`; what it is worth, the pipeline decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias
from uuid import uuid4

import structlog
from mcp.server.context import ServerRequestContext
from mcp_types import (
    ElicitationCapability,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitRequestURLParams,
    ElicitResult,
    InputRequiredResult,
    InputResponseRequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from comptroller_server.call.proposal import Answer, Ask, Confirmation, Proposal, Reply

__all__ = [
    "ELICITATION_WAIT_S",
    "QUESTION",
    "Pushes",
    "can_ask",
    "can_open",
    "confirmation_of",
    "input_required",
    "is_modern",
    "word_of",
]

ELICITATION_WAIT_S = 50.0
"""How long a call of the 2025 era stays open for its person, seconds: clients give their calls up after 60."""

QUESTION = "comptroller.confirm"
"""The key of our question among a result's input requests; a tool's own questions would have other keys."""

_OPENS = "The page says how, and what each state means. It cannot decide, and opening it decides nothing."

_Context: TypeAlias = ServerRequestContext[Any, Any]
_log = structlog.get_logger("comptroller.elicitation")


def is_modern(ctx: _Context) -> bool:
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS


def can_ask(ctx: _Context) -> bool:
    """Whether this request's client can show its person a form, as it says itself, and our question can reach it."""
    declared = _declared(ctx)
    if declared is None or (declared.form is None and declared.url is not None):  # `{}` means forms
        return False
    return is_modern(ctx) or ctx.session.can_send_request


def can_open(ctx: _Context) -> bool:
    """Whether this request's client can have its person open a page, as it says itself, and we can ask it to."""
    declared = _declared(ctx)
    if declared is None or declared.url is None:
        return False
    return is_modern(ctx) or ctx.session.can_send_request


def _declared(ctx: _Context) -> ElicitationCapability | None:
    capabilities = ctx.session.client_capabilities
    return None if capabilities is None else capabilities.elicitation


def confirmation_of(ctx: _Context, params: InputResponseRequestParams) -> Confirmation | None:
    """What a client of the 2026 era sends back with its second call, or None for a first one."""
    if not is_modern(ctx) or (params.request_state is None and params.input_responses is None):
        return None
    given = (params.input_responses or {}).get(QUESTION)
    return word_of(params.request_state or "", given)


def word_of(state: str, given: object) -> Confirmation:
    """Anything but a form that was sent with `confirm: true` is no yes."""
    if not isinstance(given, ElicitResult):
        return Confirmation(state, Reply.CANCEL)
    return Confirmation(state, Reply(given.action), (given.content or {}).get("confirm") is True)


def input_required(ctx: _Context, ask: Ask) -> InputRequiredResult:
    """The question as the result of a call of the 2026 era."""
    request = ElicitRequest(params=_form_or_page(ctx, ask))
    return InputRequiredResult(input_requests={QUESTION: request}, request_state=ask.state)


def _form_or_page(ctx: _Context, ask: Ask) -> ElicitRequestFormParams | ElicitRequestURLParams:
    if ask.page is not None and can_open(ctx):
        return ElicitRequestURLParams(message=f"{ask.message}\n{_OPENS}", url=ask.page)
    return ElicitRequestFormParams(message=ask.message, requested_schema=ask.schema)


@dataclass
class Pushes:
    """Asks clients of the 2025 era while their calls are open. `wait_s` is for all questions of one call together."""

    wait_s: float = ELICITATION_WAIT_S
    _open: set[asyncio.Timeout] = field(default_factory=set[asyncio.Timeout])
    _stopped: bool = False

    def stop(self) -> None:
        """The client is gone or the server ends: nobody will answer any more."""
        self._stopped = True
        for limit in self._open:
            limit.reschedule(asyncio.get_running_loop().time())

    async def answered(
        self,
        ctx: _Context,
        proposal: Proposal,
        answer: Answer,
        again: Callable[[Proposal], Awaitable[Answer]],
    ) -> Answer:
        """Ask, and propose `again` with what came back, until the answer asks nothing more."""
        deadline = asyncio.get_running_loop().time() + self.wait_s
        while answer.asks is not None:
            given = await self._ask(ctx, answer.asks, deadline)
            answer = await again(replace(proposal, confirmation=given))
            if given.reply is Reply.NO_ANSWER:
                break
        return answer

    async def _ask(self, ctx: _Context, ask: Ask, deadline: float) -> Confirmation:
        session, request = ctx.session, ctx.request_id
        try:
            # Without the related id the question takes another stream, where it can be lost.
            async with asyncio.timeout_at(0 if self._stopped else deadline) as limit:
                self._open.add(limit)
                try:
                    if isinstance(params := _form_or_page(ctx, ask), ElicitRequestURLParams):
                        given = await session.elicit_url(params.message, params.url, uuid4().hex, request)
                    else:
                        given = await session.elicit_form(ask.message, ask.schema, request)
                finally:
                    self._open.discard(limit)
            return word_of(ask.state, given)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody has answered
            _log.info("nobody_answered", error=type(error).__qualname__)
            return Confirmation(ask.state, Reply.NO_ANSWER)
