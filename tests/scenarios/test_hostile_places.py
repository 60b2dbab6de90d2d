"""Receivers of the record that answer a byte now and then, for ever: what they hold up."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from comptroller_server.streaming.sinks import sink_of
from comptroller_server.streaming.streamer import Streamer
from tests.scenarios.kit import opened
from tests.server.stream_places import stream_to

pytestmark = pytest.mark.anyio
BYTE_S = 0.02
"""Between two bytes: far less than the time that a delivery has."""
BYTES = 150
"""Far more than fit into that time, and an end for a test that fails."""


@contextlib.contextmanager
def dripping(first: bytes) -> Generator[int]:
    """A receiver that takes one connection and goes on answering; its port."""
    listening, over = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listening.accept()
            with connection:
                connection.sendall(first)
                for _ in range(BYTES):
                    if over.wait(BYTE_S):
                        break
                    connection.sendall(b"x")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        over.set()
        thread.join()
        listening.close()


@pytest.mark.parametrize("kind", ["webhook", "syslog"])
async def test_a_receiver_that_never_stops_answering_has_not_taken_it_in_time(
    tmp_path: Path, kind: str
) -> None:
    first = b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n" if kind == "webhook" else b"x"
    async with opened(tmp_path) as shop:
        await shop.refund(shop.paid()[0], 5)
        with dripping(first) as port:
            place = (
                {"url": f"http://127.0.0.1:{port}/", "secret": "secret://x"}
                if kind == "webhook"
                else {"address": f"tcp://127.0.0.1:{port}"}
            )
            stream = stream_to("slow", tmp_path, to=kind, timeout_s=0.3, **place)
            streamer = Streamer(lambda: shop.service.installation, stream, sink_of(stream))
            done = await streamer.round()
            await streamer.close()  # and nothing that still waits holds up the end
    assert done.delivered == 0
    assert "time" in done.error
