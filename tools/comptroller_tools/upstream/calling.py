"""One `tools/call` to an upstream, and what its end says of the effect."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace

import structlog
from mcp.shared.exceptions import MCPError
from mcp_types import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    UNSUPPORTED_PROTOCOL_VERSION,
    CallToolResult,
)
from pydantic import ValidationError

from comptroller_tools.source import Action, EffectHappened, Outcome
from comptroller_tools.upstream.asking import Asking
from comptroller_tools.upstream.link import Link
from comptroller_tools.upstream.progress import handed_on
from comptroller_tools.upstream.results import UNTRUSTED, failed, outcome_of
from comptroller_tools.upstream.rounds import in_rounds
from comptroller_tools.upstream.settings import ErrorsMean
from comptroller_tools.upstream.source import ASKED_BACK, NEEDS

__all__ = ["call_tool"]

_NOT_RUN = frozenset(
    {
        METHOD_NOT_FOUND,
        HEADER_MISMATCH,
        MISSING_REQUIRED_CLIENT_CAPABILITY,
        UNSUPPORTED_PROTOCOL_VERSION,
    }
)
"""Protocol errors that come instead of running a tool. The upstream's word, as any result is."""

_log = structlog.stdlib.get_logger()


async def call_tool(
    upstream: str,
    link: Link,
    action: Action,
    structured: bool,
    errors: ErrorsMean,
    media: Collection[str],
    asking: Asking | None = None,
) -> Outcome:
    """One call in all its rounds. `media` are types that are let through unsearched. Raises nothing but cancellation. From here on only the upstream, or the transport, can say that nothing happened."""
    try:
        relay = handed_on(action)
        result = await in_rounds(asking, lambda given: link.call(action.tool, action.arguments, relay, given))
    except MCPError as error:
        if link.not_taken(error):
            return Outcome(
                EffectHappened.NONE, error=f"`{upstream}`: {error.error.message}", meta={"temporary": True}
            )
        await asyncio.sleep(0)  # a connection that ended says so after its calls did
        if not link.alive:
            return Outcome(EffectHappened.UNKNOWN, error=f"`{upstream}` went away: {link.why_ended}")
        # Frameworks answer what fails inside a tool with "invalid params" too.
        not_run = error.code in _NOT_RUN or (error.code == INVALID_PARAMS and errors is ErrorsMean.NOT_DONE)
        effect = EffectHappened.NONE if not_run else EffectHappened.UNKNOWN
        outcome = failed(upstream, effect, error.error.message)
        if error.code == MISSING_REQUIRED_CLIENT_CAPABILITY and asking is not None:
            return replace(outcome, meta={**outcome.meta, NEEDS: asking.lacking(error.error.data)})
        return outcome
    except ValidationError:
        return Outcome(
            EffectHappened.UNKNOWN,
            error="the upstream's answer is not of the protocol",
            meta={UNTRUSTED: upstream},
        )
    except Exception as error:  # noqa: BLE001 -- the SDK's own; its text may quote anything
        _log.warning("a call to an upstream broke", source=upstream, error=type(error).__name__)
        return Outcome(
            EffectHappened.UNKNOWN, error=f"the connection to `{upstream}` broke ({type(error).__name__})"
        )
    if not isinstance(result, CallToolResult):
        asked = "the upstream asked a question back that nobody answered"
        return Outcome(EffectHappened.UNKNOWN, error=asked, meta={ASKED_BACK: True})
    return outcome_of(upstream, result, structured, errors, media)
