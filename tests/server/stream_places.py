"""Places that records are sent to: real receivers on this machine, and streams that lead to them."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from comptroller_server.config.streams import StreamConfig, StreamSettings, stream_settings
from comptroller_server.config.yaml_lines import Node

__all__ = ["Hook", "Receiver", "datagrams", "hook", "receiver", "stream_to"]

SECRET = "whsec_c3RyZWFtLXRlc3Qtc2VjcmV0LW9mLW91cnM="


def stream_to(name: str, folder: Path, **written: Any) -> StreamSettings:
    """A stream as the configuration would have it. References stand for `SECRET`."""
    found, _, wrong = stream_settings(
        Node("test", 1, {}),
        {name: StreamConfig.model_validate(written)},
        folder,
        (),
        lambda text: folder / text,
        lambda text: SECRET if text.startswith("secret://") else text,
    )
    assert wrong == []
    return found[name]


@dataclass
class Receiver:
    """A syslog receiver over TCP or TLS. `breaks` lets it reset every connection when it has read it."""

    port: int
    streams: list[bytes] = field(default_factory=list[bytes])
    breaks: bool = False
    cut_off: bool = False
    """Whether its sender may have been killed while it sent."""

    def messages(self) -> list[bytes]:
        """Every message that came whole, by octet counting (RFC 6587 §3.4.1). Only a sender that was killed leaves a part of one."""
        found: list[bytes] = []
        for data in self.streams:
            while data:
                count, _, rest = data.partition(b" ")
                if not self.cut_off:
                    assert len(rest) >= int(count)
                elif not rest or len(rest) < int(count):
                    break
                found.append(rest[: int(count)])
                data = rest[int(count) :]
        return found


def _whole(connection: socket.socket) -> bytes:
    data = b""
    while chunk := connection.recv(65_536):
        data += chunk
    return data


@contextlib.contextmanager
def receiver(tls: ssl.SSLContext | None = None) -> Generator[Receiver]:
    listening = socket.create_server(("127.0.0.1", 0))
    told = Receiver(listening.getsockname()[1])

    def one(connection: socket.socket) -> None:
        if told.breaks:
            _whole(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            return
        if tls is None:
            told.streams.append(_whole(connection))
            return
        with tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as secured:
            secured.do_handshake()
            told.streams.append(_whole(secured))
            secured.unwrap()

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                one(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield told
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


@contextlib.contextmanager
def datagrams(family: socket.AddressFamily, address: Any) -> Generator[socket.socket]:
    """A bound datagram socket; what it was sent is read from its queue."""
    with socket.socket(family, socket.SOCK_DGRAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        bound.bind(address)
        bound.settimeout(5)
        yield bound


@dataclass
class Hook:
    """An HTTP server that keeps what it took, and answers `status`, `headers` and `body`."""

    url: str
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list[tuple[dict[str, str], bytes]])
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b"{}"
    lines_max: int = 1_000_000
    taken: Callable[[], None] | None = None
    """Called, on another thread, when something was taken and before anybody hears of it."""


@contextlib.contextmanager
def hook() -> Generator[Hook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = 413 if body.count(b"\n") > told.lines_max else told.status
            if status == 200:
                told.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                if told.taken is not None:
                    told.taken()
            self.send_response(status)
            for name, value in told.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(told.body)))
            self.end_headers()
            self.wfile.write(told.body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the tests look at what was got."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    told = Hook(f"http://127.0.0.1:{server.server_address[1]}/in")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
