"""A request to an upstream, in as many rounds as it asks questions back (MCP 2026-07-28 "Multi Round-Trip Requests").

The upstream's own state goes from one round to the next in memory, and never to the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import mcp_types as types

from comptroller_tools.upstream.asking import Asking
from comptroller_tools.upstream.link import NOTHING_GIVEN, Given

__all__ = ["ROUNDS_MAX", "in_rounds"]

ROUNDS_MAX = 10
"""Rounds of one request (the SDK's own clients give up after as many)."""
AGAIN_S = 0.25
"""Before a round that brings no answers, because the upstream asked nothing and only wants to be asked again."""
STATE_CHARS_MAX = 64_000

R = TypeVar("R")


async def in_rounds(
    asking: Asking | None, send: Callable[[Given], Awaitable[R | types.InputRequiredResult]]
) -> R | types.InputRequiredResult:
    """`send` until there is an answer, or a question that nobody can be asked. Raises what `send` raises."""
    given = NOTHING_GIVEN
    for _ in range(ROUNDS_MAX):
        answer = await send(given)
        if not isinstance(answer, types.InputRequiredResult) or asking is None:
            return answer
        state = answer.request_state
        if state is not None and len(state) > STATE_CHARS_MAX:
            return answer
        if not answer.input_requests:
            await asyncio.sleep(AGAIN_S)
            given = Given(None, state)
            continue
        responses = await asking.answers(answer.input_requests)
        if not responses:
            return answer
        given = Given(responses, state)
    return types.InputRequiredResult(request_state="")
