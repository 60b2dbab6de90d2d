"""Questions that an upstream of the 2025 era puts while a call is open, as the SDK's session hands them over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mcp_types as types
import structlog
from mcp.client.session import ClientRequestContext

from comptroller_tools.questions import Asks
from comptroller_tools.upstream.settings import MayAsk

if TYPE_CHECKING:
    from comptroller_tools.upstream.speaking import Speaking

__all__ = ["asked_by_server"]

_KEY = "question"
_NOBODY = types.ErrorData(code=types.INVALID_REQUEST, message="Nobody can be asked that now.")
_log = structlog.stdlib.get_logger()


def asked_by_server(may: MayAsk, speaking: Speaking) -> dict[str, Any]:
    """Callbacks for `ClientSession`; having one is what declares it to the upstream, so there is none for what is not allowed."""

    async def ask(request: types.InputRequest) -> Any:
        asking = speaking.asked_in
        if asking is None:
            _log.info("an upstream asked something that belongs to no call", method=request.method)
            return (
                types.ElicitResult(action="decline") if isinstance(request, types.ElicitRequest) else _NOBODY
            )
        return (await asking.answers({_KEY: request})).get(_KEY, _NOBODY)

    async def elicit(context: ClientRequestContext, params: types.ElicitRequestParams) -> Any:
        return await ask(types.ElicitRequest(params=params))

    async def sample(context: ClientRequestContext, params: types.CreateMessageRequestParams) -> Any:
        return await ask(types.CreateMessageRequest(params=params))

    async def roots(context: ClientRequestContext) -> Any:
        return await ask(types.ListRootsRequest())

    found: dict[str, Any] = {}
    if may.kinds & {Asks.FORM, Asks.URL}:
        found["elicitation_callback"] = elicit
    if Asks.SAMPLING in may.kinds:
        found["sampling_callback"] = sample
    if Asks.ROOTS in may.kinds:
        found["list_roots_callback"] = roots
    return found
