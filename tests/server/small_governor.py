"""A small Governor for the tests of the MCP face: real enough to be seen, hidden, slow, noisy and broken."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from comptroller_audit.vocabulary import Effect, JsonObject
from comptroller_server.call.proposal import AdvertisedTool, Answer, Proposal

__all__ = ["SECRET", "SmallGovernor"]

SECRET = "sk-not-for-any-wire"

_ANYTHING = {"type": "object"}
_HEADERED = {
    "type": "object",
    "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
}


def _tool(name: str, effect: Effect, schema: Mapping[str, Any] = _ANYTHING) -> AdvertisedTool:
    return AdvertisedTool(name, f"The {name} tool.", schema, None, effect)


_TOOLS = {
    tool.name: tool
    for tool in (
        _tool("whoami", Effect.READ),
        _tool("refund", Effect.CREATE),
        _tool("rename", Effect.UPDATE),
        _tool("erase", Effect.DELETE),
        _tool("shell", Effect.EXECUTE),
        _tool("steps", Effect.READ),
        _tool("hold", Effect.CREATE),
        _tool("noisy", Effect.EXECUTE),
        _tool("broken", Effect.CREATE),
        _tool("refused", Effect.CREATE),
        _tool("for-admins", Effect.READ, _HEADERED),
    )
}


@dataclass
class SmallGovernor:
    """Tools by name; `for-admins` is shown to role `admin` only. `release` lets `hold` end."""

    release: asyncio.Event = field(default_factory=asyncio.Event)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    seen: list[Proposal] = field(default_factory=list[Proposal])
    ended: list[str] = field(default_factory=list[str])
    listing_breaks: bool = False

    def listing(self, subject: Any) -> Sequence[AdvertisedTool]:
        if self.listing_breaks:
            raise RuntimeError(SECRET)
        return [tool for tool in _TOOLS.values() if tool.name != "for-admins" or "admin" in subject.roles]

    def input_schema(self, name: str) -> Mapping[str, Any] | None:
        tool = _TOOLS.get(name)
        return None if tool is None else tool.input_schema

    async def call(self, proposal: Proposal) -> Answer:
        self.seen.append(proposal)
        if all(tool.name != proposal.tool for tool in self.listing(proposal.subject)):
            return Answer(text=f"hidden or missing {proposal.tool}", is_error=True, unknown_tool=True)
        answer = await self._run(proposal)
        self.ended.append(proposal.tool)
        return answer

    async def _run(self, proposal: Proposal) -> Answer:
        name = proposal.tool
        if name == "steps":
            for step in (1, 2, float("nan"), 2, 3):
                await proposal.progress(step, 3, f"step {step}")
        elif name == "hold":
            self.held.set()
            await self.release.wait()
        elif name == "noisy":
            await _make_noise()
        elif name == "broken":
            raise RuntimeError(SECRET)
        elif name == "refused":
            refusal = {"class": "budget", "code": "budget_exhausted", "retry": "never", "call": "c1"}
            meta: dict[str, Any] = {"comptroller/refusal": refusal, "upstream/secret": SECRET}
            return Answer(text="No.", structured={"amount": 1}, is_error=True, meta=meta)
        subject = proposal.subject
        told: JsonObject = {
            "principal": subject.principal.id,
            "actor": subject.actor.id,
            "arguments": proposal.arguments,
        }
        return Answer(text=f"{name} done", structured=told, meta={"comptroller/receipt": {"index": 7}})


async def _make_noise() -> None:
    """What careless tools do: print, write to fd 1, read fd 0, start children that do the same."""
    print("printed by a tool")
    os.write(1, b"written to fd 1\n")
    assert sys.stdin.read(1) == ""
    await asyncio.to_thread(subprocess.run, ["sh", "-c", "echo from a child; cat"], check=True)
