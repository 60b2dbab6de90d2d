"""An answer over HTTP leaves in one piece, at once: of two, a client that delays acknowledgements gets the second 40 ms later."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest

from comptroller_server.face.http import build_app, serve_http, subject_of
from comptroller_server.face.identity import LocalIdentity
from comptroller_server.face.protocol import build_server
from comptroller_server.face.wire import GuardedProtocol
from tests.server.small_governor import SmallGovernor

pytestmark = pytest.mark.anyio


class Noted:
    """A transport that notes what is written to it."""

    def __init__(self, transport: Any, written: list[bytes]) -> None:
        self._transport = transport
        self._written = written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        kept = self._transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert kept, "what is small waits for an acknowledgement of what went before"
        self._written.append(data)
        self._transport.write(data)


async def test_an_answer_is_not_held_back_until_the_client_acknowledges_its_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    made = GuardedProtocol.connection_made

    def noting(self: GuardedProtocol, transport: asyncio.Transport) -> None:
        made(self, cast("asyncio.Transport", Noted(transport, written)))

    monkeypatch.setattr(GuardedProtocol, "connection_made", noting)
    identity = LocalIdentity("test", "ana", [], ["bot"], tmp_path / "tokens")
    app = build_app(build_server(SmallGovernor(), subject_of=subject_of, version="1"), identity)
    stop, url = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve_http(app, "127.0.0.1", 0, ready=url.set_result, stop=stop, drain_s=2))
    port = urlsplit(str(await url)).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(3):
        writer.write(f"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n".encode())
        await reader.readuntil(b"ok\n")
    writer.close()
    await writer.wait_closed()
    stop.set()
    await serving
    assert [(one[:13], one[-7:]) for one in written] == [(b"HTTP/1.1 200 ", b"\r\n\r\nok\n")] * 3
