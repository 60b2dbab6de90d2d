"""An MCP server of somebody else: accepted by a person, told as its words, set aside once it redefines its tool."""

from __future__ import annotations

import anyio

from comptroller_audit.vocabulary import Code
from comptroller_server.demo.setups import NEIGHBOUR
from comptroller_server.demo.story import Story

__all__ = ["play"]

TRIES_MAX = 40
PAUSE_S = 0.1


async def play(story: Story) -> None:
    stage = story.stage
    await stage.use(NEIGHBOUR)
    story.scene(
        "Somebody else's MCP server (a part of this demo) tells where parcels are. A person has looked at its tool, "
        "says that it is a read, and its definition is pinned from then on."
    )
    accepted = stage.folder / "accepted.yaml"
    accepted.write_text("neighbour: {get_parcel: read}\n")
    printed = await stage.command("classify", "--accept", str(accepted))
    story.quote("classify --accept accepted.yaml", printed, 8)
    server = await stage.served(NEIGHBOUR)
    async with server.agent("parcel-bot") as agent:
        for _ in range(TRIES_MAX):  # it is connected while the server starts
            if any(tool.name == "get_parcel" for tool in (await agent.client.list_tools()).tools):
                break
            await anyio.sleep(PAUSE_S)
        first = await story.read(agent, "first", "get_parcel", parcel="P-1")
        story.must(
            not first.is_error and len(first.text.splitlines()) == 2,
            "its answer is told as data, on one line that nothing in it can end",
        )
        story.scene("After its first answer the server gives its tool another description.")
        reply = first
        for number in range(2, TRIES_MAX):
            reply = await agent.call("get_parcel", parcel=f"P-{number}")
            if reply.code:
                break
            await anyio.sleep(PAUSE_S)
        story.tell("set_aside", "get_parcel, again", reply)
        story.must(
            reply.code == Code.TOOL_QUARANTINED, "the tool is set aside until a person has looked again"
        )
