"""In place of a dead server: one tool, `comptroller_status`, that says why Comptroller did not start and what to fix.

A client shows no more of a server that ends at once than "disconnected". This one governs nothing and runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comptroller_audit.vocabulary import Code, Effect, JsonObject, Subject
from comptroller_server.call.proposal import AdvertisedTool, Answer, Proposal
from comptroller_server.face.claiming import Wire
from comptroller_server.face.identity import LocalIdentity
from comptroller_server.face.protocol import RequestContext, build_server
from comptroller_server.face.stdio import serve_stdio

__all__ = ["STATUS", "StatusOnly", "serve_status"]

STATUS = "comptroller_status"
CHARS_MAX = 8_000
"""What the answer holds at most, characters; the rest is in the client's log of this server."""
_SCHEMA: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_TEXT = "Comptroller did not start, so none of its tools can be used. This one says why, and what a person has to fix."


class StatusOnly:
    """A governor without tools. `told` is released already, and is all that it knows."""

    def __init__(self, told: str) -> None:
        shown = told if len(told) <= CHARS_MAX else told[:CHARS_MAX] + "\n… (more in the log of this server)"
        self._answer = (
            "Comptroller did not start, so none of its tools can be used. Show this to the user, who has to fix it:\n"
            f"{shown}\n"
            "`comptroller check` says the same in a terminal. Afterwards the client must start this server again."
        )

    async def call(self, proposal: Proposal) -> Answer:
        if proposal.tool == STATUS:
            return Answer(self._answer)
        details: JsonObject = {
            "class": "internal",
            "code": Code.INTERNAL.value,
            "retry": "person",
            "call": None,
        }
        text = f"Not done: Comptroller did not start, so nothing was run. Call `{STATUS}` to read why."
        return Answer(text, is_error=True, meta={"comptroller/refusal": details})

    def listing(self, subject: Subject) -> Sequence[AdvertisedTool]:
        return [AdvertisedTool(STATUS, _TEXT, _SCHEMA, None, Effect.READ)]

    def input_schema(self, name: str) -> Mapping[str, Any] | None:
        return _SCHEMA if name == STATUS else None


async def serve_status(told: str, wire: Wire, version: str) -> None:
    """Answer one client over stdio until it goes; whoever asks gets the same."""
    nobody = LocalIdentity("", "nobody", [], ["nobody"], Path()).stdio_subject("nobody")

    def subject(_: RequestContext) -> Subject:
        return nobody

    await serve_stdio(build_server(StatusOnly(told), subject_of=subject, version=version), wire=wire)
