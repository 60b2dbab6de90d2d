"""What an upstream tells of how far it is comes to the caller, and no flood of it holds anything up."""

from __future__ import annotations

import asyncio

import pytest

from comptroller_tools.source import Action
from comptroller_tools.upstream.progress import PROGRESS_MAX, handed_on

WAIT_S_MAX = 5
pytestmark = pytest.mark.anyio


async def test_so_many_notes_of_one_request_are_handed_on_and_no_more() -> None:
    told: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append(progress)

    relay = handed_on(Action("look", {}, "key", progress=note))
    for at in range(PROGRESS_MAX + 2):
        await relay(at, None, None)
    assert told == list(range(PROGRESS_MAX))


async def test_what_comes_while_a_note_is_on_its_way_is_dropped_and_does_not_wait() -> None:
    told: list[str | None] = []
    begun, read = asyncio.Event(), asyncio.Event()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)
        begun.set()
        await read.wait()

    relay = handed_on(Action("look", {}, "key", progress=note))
    first = asyncio.create_task(relay(1, 3, "one\u200b"))
    await begun.wait()
    async with asyncio.timeout(WAIT_S_MAX):
        await relay(2, 3, "two")
    read.set()
    await first
    await relay(3, 3, "three")
    assert told == ["one", "three"]
