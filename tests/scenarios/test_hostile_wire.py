"""An upstream that attacks with the shape of what it sends: framing, lines, parts; and who else would pay for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.shared.exceptions import MCPError

from comptroller_tools.source import EffectHappened
from comptroller_tools.upstream import events as reading
from comptroller_tools.upstream import over_http, posting
from comptroller_tools.upstream.bounds import PARTS_MAX, TooManyParts, check_parts
from comptroller_tools.upstream.events import Events, TooLong
from comptroller_tools.upstream.over_http import Paced
from tests.scenarios.upstream_kit import LOOK, Upstream
from tests.tools.test_upstream_http import open_server
from tests.tools.test_upstream_posting import EVENTS, ask, chunk, event, head, result, wired
from tests.tools.test_upstream_source import call, reached
from tests.tools.test_upstream_tokens import Guarded, governed
from tests.tools.test_upstream_tokens import call as token_call

pytestmark = pytest.mark.anyio


# -- bytes that are no part of a body ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"0\r\n", b"x: y\r\n" * 1_000),  # trailers, each of a new line
        (b"0\r\nx: ", b"y" * 6_000),  # one trailer
        (b"5;x=", b"y" * 6_000),  # an extension of a chunk
    ],
    ids=["trailers", "a trailer", "an extension"],
)
async def test_what_is_no_part_of_an_answer_and_does_not_end_is_not_kept(begin: bytes, more: bytes) -> None:
    sent = 0

    async def answer(message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(head(transfer_encoding="chunked") + chunk(b'{"jsonrpc":') + begin)
        with contextlib.suppress(ConnectionError):
            while sent < 100_000_000:
                writer.write(more)
                sent += len(more)
                await writer.drain()

    async with wired() as (wire, posts):
        wire.answer = answer
        with pytest.raises(MCPError, match="have no end") as caught:
            await asyncio.wait_for(ask(posts), 10)
        assert not wire.refusals.not_taken(caught.value.error.data)
    assert sent < 100_000_000


async def test_a_trailer_changes_nothing_of_the_answer_before_it() -> None:
    async def answer(message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        trailers = b"0\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n\r\n"
        writer.write(
            head(transfer_encoding="chunked") + chunk(json.dumps(result(1, n=1)).encode()) + trailers
        )

    async with wired() as (wire, posts):
        wire.answer = answer
        assert await ask(posts) == {"n": 1}


# -- lines --------------------------------------------------------------------------------------------------------------


class Counted:
    """In place of a pace: counts instead of waiting."""

    made: list[Counted] = []  # noqa: RUF012 -- emptied by each test that uses it

    def __init__(self) -> None:
        self.messages = 0
        self.made.append(self)

    async def keep(self, messages: int = 1) -> None:
        self.messages += messages


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Counted]:
    Counted.made.clear()
    monkeypatch.setattr(posting, "Pace", Counted)
    monkeypatch.setattr(over_http, "Pace", Counted)
    return Counted.made


@pytest.mark.parametrize("line", [b"\n", b":\n", b": still here\r\n\r\n", b"nothing: known\n"])
async def test_lines_that_say_nothing_are_read_no_faster_than_messages(
    counted: list[Counted], line: bytes
) -> None:
    async def answer(message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        lines = line * (posting.SLICE_BYTES // len(line) + 1)
        writer.write(EVENTS + chunk(lines) + chunk(event(result(1, n=1))) + b"0\r\n\r\n")

    async with wired() as (wire, posts):
        wire.answer = answer
        assert await ask(posts) == {"n": 1}
    assert counted[0].messages >= posting.SLICE_BYTES // len(line)


async def test_blank_lines_on_the_streams_of_the_session_are_paced_too(counted: list[Counted]) -> None:
    class Blank(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"\n" * 8_000

    assert [part async for part in Paced(Blank())] == [b"\n" * 8_000]
    assert counted[0].messages == 1_000


def test_a_line_that_comes_byte_by_byte_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[bytes] = []

    class Looking:
        def split(self, data: bytes) -> list[bytes]:
            looked_at.append(data)
            return ends.split(data)

    ends = reading.LINE_END
    monkeypatch.setattr(reading, "LINE_END", Looking())
    events = Events(1_000)
    line = b"data: " + b"x" * 900
    for at in range(len(line)):
        assert events.feed(line[at : at + 1]) == []
    (told,) = events.feed(b"\r\n\r\n")
    assert told.data == "x" * 900
    assert looked_at == [line + b"\r\n\r\n"]
    with pytest.raises(TooLong):
        for _ in range(1_001):
            events.feed(b"y")


# -- parts --------------------------------------------------------------------------------------------------------------

MANY: list[Any] = [{}] * (PARTS_MAX + 1)


def test_parts_are_counted_at_any_depth_and_not_in_what_no_model_reads() -> None:
    check_parts({"content": MANY[3:], "isError": False})
    check_parts({"structuredContent": MANY}, "structuredContent")
    for message in ({"content": MANY}, [[[{"a": MANY}]]], {"a": {"structuredContent": MANY}}):
        with pytest.raises(TooManyParts):
            check_parts(message, "structuredContent")


async def test_a_message_of_very_many_parts_is_not_read_into_models(tmp_path: Path) -> None:
    """The oracle is the SDK's own reading: it would take seconds and gigabytes, and is never reached."""
    upstream = Upstream(tmp_path / "files")
    upstream.does("look", content=MANY)
    sampling = {"method": "sampling/createMessage", "id": "q", "params": {"messages": MANY, "maxTokens": 1}}
    note = {"method": "notifications/progress", "params": {"progressToken": 1, "progress": MANY}}
    upstream.does("write", "tell", notes=[note, sampling])
    async with reached(upstream, message_bytes_max=8_000_000) as source:
        looked = await call(source, "look")
        assert looked.effect is EffectHappened.UNKNOWN
        assert looked.told_model is not None
        assert f"more than {PARTS_MAX} parts" in looked.told_model
        assert (await call(source, "write")).effect is EffectHappened.DONE
        upstream.does("look", text="fine")
        assert (await call(source, "look")).value == {"text": "fine"}
    refused = [one for one in upstream.received if one.get("id") == "q"]
    assert [f"more than {PARTS_MAX} parts" in one["error"]["message"] for one in refused] == [True]
    assert upstream.pid


async def test_a_token_that_lives_longer_than_numbers_go_is_a_token() -> None:
    guarded = Guarded()
    guarded.life = 10**400
    async with open_server(guarded), governed(guarded) as source:
        assert (await token_call(source)).effect is EffectHappened.DONE
        assert (await token_call(source)).effect is EffectHappened.DONE
    assert len(guarded.asked) == 2  # one for the listing, one for both calls


async def test_a_listing_of_very_many_parts_is_no_listing(tmp_path: Path) -> None:
    upstream = Upstream(tmp_path / "files")
    upstream.lists(LOOK, {**LOOK, "name": "other", "icons": MANY})
    async with reached(upstream, message_bytes_max=8_000_000) as source:
        outcome = await call(source, "look")
    assert outcome.effect is EffectHappened.NONE
    assert upstream.ran == []
