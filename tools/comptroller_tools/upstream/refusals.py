"""What was certainly never taken by an upstream over HTTP, and what is known of its session."""

from __future__ import annotations

import json
import secrets
from typing import Any

import httpx2
from mcp.shared.exceptions import MCPError

__all__ = ["REFUSED", "Refusals"]

REFUSED = frozenset({401, 403, 404, 405, 406, 413, 415, 421, 429})
"""Statuses with which a server says that it did not take a request."""
_NOT_SENT = -32_098
_LOST = -32_099


class Refusals:
    """Tells what was never taken from what an upstream merely says was not: it cannot know the mark."""

    def __init__(self) -> None:
        self._mark = secrets.token_hex(16)
        self.session_lost = False
        self.session: str | None = None
        """The id that the SDK's transport sends with its requests."""
        self.redirected = False

    def answer(self, request: httpx2.Request, why: str, *, taken: bool = False) -> httpx2.Response:
        """An error answer in the upstream's place."""
        error = self.lost(why) if taken else self.refused(why)
        said = error.error.model_dump(mode="json")
        body = json.dumps({"jsonrpc": "2.0", "id": None, "error": said})
        headers = {"content-type": "application/json"}
        return httpx2.Response(503, headers=headers, content=body.encode(), request=request)

    def refused(self, why: str) -> MCPError:
        """An error that says the request was not taken."""
        return MCPError(code=_NOT_SENT, message=why, data=self._mark)

    def lost(self, why: str) -> MCPError:
        """An error of ours that leaves the effect open."""
        return MCPError(code=_LOST, message=why)

    def not_taken(self, data: Any) -> bool:
        """Whether an error's data is our mark: the request had no effect."""
        return isinstance(data, str) and secrets.compare_digest(data.encode(), self._mark.encode())
