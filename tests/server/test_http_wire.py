"""What a client without a token can do to the HTTP server before its request is whole: not much, and not for long."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from comptroller_server.face import wire
from tests.server.test_http import Running, running

pytestmark = pytest.mark.anyio


async def connected(on: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = on.authority.split(":")
    return await asyncio.open_connection(host, int(port))


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What the server said before it hung up."""
    said = b""
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(65_536):
                said += part
    return said


@pytest.mark.parametrize("begin", [b"GET /", b"GET /healthz HTTP/1.1\r\nX-More: "])
async def test_a_head_that_does_not_end_is_cut_off(tmp_path: Path, begin: bytes) -> None:
    async with running(tmp_path) as on:
        _, writer = await connected(on)
        writer.write(begin)
        sent = 0
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                while sent < 50_000_000:
                    writer.write(b"a" * 65_536)
                    await writer.drain()
                    sent += 65_536
        assert sent < 50_000_000
        writer.close()


async def test_a_head_that_is_too_large_is_told_so(tmp_path: Path) -> None:
    async with running(tmp_path) as on:
        reader, writer = await connected(on)
        writer.write(b"GET /healthz HTTP/1.1\r\nX-More: " + b"a" * wire.HEAD_BYTES_MAX)
        assert (await ended(reader)).startswith(b"HTTP/1.1 431 ")
        writer.close()


async def test_blanks_around_a_header_value_are_no_part_of_it(tmp_path: Path) -> None:
    async with running(tmp_path) as on:
        reader, writer = await connected(on)
        host = on.authority.encode()
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: \t" + host + b" \t\r\nConnection: close\r\n\r\n")
        assert (await ended(reader)).startswith(b"HTTP/1.1 200 ")
        writer.close()


@pytest.mark.parametrize("begin", [b"", b"GET /heal"])
async def test_a_client_that_does_not_go_on_is_let_go(
    tmp_path: Path, begin: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "HEAD_WAIT_S", 0.05)
    async with running(tmp_path) as on:
        reader, writer = await connected(on)
        writer.write(begin)
        await ended(reader)
        writer.close()


async def test_a_client_that_goes_on_after_its_refusal_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "HEAD_WAIT_S", 0.05)
    async with running(tmp_path) as on:
        reader, writer = await connected(on)
        writer.write(
            b"POST /mcp HTTP/1.1\r\nHost: %s\r\nContent-Length: 99999999999\r\n\r\n" % on.authority.encode()
        )
        async with asyncio.timeout(5):
            assert b" 401 " in await reader.readline()
            with contextlib.suppress(ConnectionError):
                while not writer.is_closing():
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(0)
        writer.close()


async def test_a_client_that_keeps_its_connection_is_served_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "HEAD_BYTES_MAX", 200)
    request = b"GET /healthz HTTP/1.1\r\nHost: %s\r\nX-More: " + b"a" * 100 + b"\r\n\r\n"
    async with running(tmp_path) as on:
        reader, writer = await connected(on)
        async with asyncio.timeout(20):
            for _ in range(4):
                writer.write(request % on.authority.encode())
                assert b" 200 " in await reader.readline()
                await reader.readuntil(b"ok\n")
        writer.close()


class Written(asyncio.Transport):
    """Keeps what is written, a list entry for each write, and `closed` where it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    def close(self) -> None:
        self.sent.append(b"closed")


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ((b"HTTP/1.1 200 OK\r\n\r\n", b"body", b"more"), [b"HTTP/1.1 200 OK\r\n\r\nbody", b"more"]),
        ((b"HTTP/1.1 200 OK\r\n\r\n", None), [b"HTTP/1.1 200 OK\r\n\r\n", b"closed"]),
        ((b"HTTP/1.1 100 Continue\r\n\r\n", b"body"), [b"HTTP/1.1 100 Continue\r\n\r\n", b"body"]),
        (
            (b"HTTP/1.1 200 OK\r\n\r\n", b"a", b"HTTP/1.1 204 No Content\r\n\r\n"),
            [b"HTTP/1.1 200 OK\r\n\r\na", b"HTTP/1.1 204 No Content\r\n\r\n"],
        ),
    ],
)
async def test_a_head_is_sent_with_its_body_and_never_held_longer_than_a_turn(
    said: tuple[bytes | None, ...], sent: list[bytes]
) -> None:
    beneath = Written()
    transport = wire.JoinedWrites(beneath, asyncio.get_running_loop())
    for data in said:
        transport.close() if data is None else transport.write(data)
    await asyncio.sleep(0)
    assert beneath.sent == sent
