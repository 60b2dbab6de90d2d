"""Records as RFC 5424 messages: over UDP, TCP or TLS (octet counting, RFC 6587 and 5425), or to a local socket.

Syslog has no acknowledgement. Over TCP and TLS each batch is a connection of its own: after the last message we say that
no more comes and wait for the receiver to end it, which it does once it has read everything. Datagrams cannot be asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import ssl
import time
from datetime import UTC, datetime

from comptroller_audit.vocabulary import RecordType
from comptroller_server import __version__
from comptroller_server.config.streams import StreamSettings
from comptroller_server.streaming.batches import Batch, Message
from comptroller_server.streaming.sinks import NotDelivered
from comptroller_tools.upstream.reaching import NOT_PUBLIC, allowed

__all__ = ["SyslogSink", "syslog_message"]

DATAGRAM_BYTES_MAX = 60_000
"""A longer message goes without its packet: a datagram holds no more."""
NOTICE, WARNING = 5, 4
_SEQUENCE = 2**31 - 1
_WARNED = frozenset({RecordType.REFUSED, RecordType.SWITCH_SET, RecordType.LATE_OUTCOME})


def syslog_message(message: Message, *, facility: int, host: str, process: str, short: bool = False) -> bytes:
    """One RFC 5424 message. `meta sequenceId` counts with the log, so a gap shows; the JSON has the place itself."""
    entry = message.entry
    severity = WARNING if entry.type in _WARNED else NOTICE
    moment = datetime.fromtimestamp(entry.at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    origin = f'[origin software="Comptroller" swVersion="{__version__}"]'
    sequence = f'[meta sequenceId="{entry.index % _SEQUENCE + 1}"]'
    head = f"<{facility * 8 + severity}>1 {moment} {host} comptroller {process} {entry.type.value[:32]}"
    return f"{head} {origin}{sequence} {message.short if short else message.text}".encode("ascii")


class SyslogSink:
    """Delivers on a thread: a receiver that hangs costs `timeout_s` there and nothing here."""

    def __init__(self, stream: StreamSettings) -> None:
        self._stream = stream
        self._timeout_s = stream.config.timeout_s
        self._until = 0.0
        self._host = _ascii_name(socket.gethostname())
        self._process = str(os.getpid())

    async def deliver(self, batch: Batch) -> int:
        try:
            await asyncio.to_thread(self._send, batch)
        except ssl.SSLError as error:
            raise NotDelivered(f"TLS with the syslog receiver failed: {error.reason or error}") from error
        except OSError as error:
            raise NotDelivered(f"the syslog receiver did not take it: {error.strerror or error}") from error
        return 0

    async def close(self) -> None:
        """Nothing stays open between two batches."""

    def _send(self, batch: Batch) -> None:
        self._until = time.monotonic() + self._timeout_s
        if self._stream.scheme == "unix":
            self._send_local(batch)
            return
        kind = socket.SOCK_DGRAM if self._stream.scheme == "udp" else socket.SOCK_STREAM
        with self._connected(kind) as connection:
            if kind == socket.SOCK_DGRAM:
                self._send_datagrams(connection, batch)
            else:
                self._send_stream(connection, batch)

    def _connected(self, kind: socket.SocketKind) -> socket.socket:
        """A socket to the first address that may be talked to and answers. Raises OSError."""
        stream = self._stream
        try:
            found = socket.getaddrinfo(stream.host, stream.port, type=kind)
        except OSError:
            raise OSError(f"the name {stream.host} is not known") from None
        last: OSError = OSError(NOT_PUBLIC)
        for family, _, protocol, _, address in found:
            if not _may(stream, str(address[0])):
                continue
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(self._left_s())
                connection.connect(address)
            except OSError as error:
                connection.close()
                last = error
                continue
            return connection
        raise last

    def _send_local(self, batch: Batch) -> None:
        path = str(self._stream.socket)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.settimeout(self._timeout_s)
            try:
                connection.connect(path)
            except OSError as error:
                if error.errno != errno.EPROTOTYPE:
                    raise
            else:
                self._send_datagrams(connection, batch)
                return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(self._timeout_s)
            connection.connect(path)
            self._send_stream(connection, batch)

    def _send_datagrams(self, connection: socket.socket, batch: Batch) -> None:
        for message in batch.messages:
            data = self._message(message)
            if len(data) > DATAGRAM_BYTES_MAX:
                data = self._message(message, short=True)
            connection.send(data)

    def _send_stream(self, connection: socket.socket, batch: Batch) -> None:
        framed = b"".join(
            f"{len(data)} ".encode() + data for data in (self._message(message) for message in batch.messages)
        )
        if self._stream.scheme == "tls":
            context = ssl.create_default_context(cafile=_text(self._stream.ca_file))
            with context.wrap_socket(connection, server_hostname=self._stream.host) as secured:
                secured.sendall(framed)
                _ended_by_peer(secured)
            return
        connection.sendall(framed)
        connection.shutdown(socket.SHUT_WR)
        self._read_to_end(connection)

    def _read_to_end(self, connection: socket.socket) -> None:
        """Raises OSError when the connection breaks, TimeoutError when the receiver does not end it, whatever it says."""
        connection.settimeout(self._left_s())
        while connection.recv(4096):
            connection.settimeout(self._left_s())

    def _left_s(self) -> float:
        """Of the time for one batch. Raises TimeoutError."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("it did not answer in time")
        return left

    def _message(self, message: Message, *, short: bool = False) -> bytes:
        facility = self._stream.config.facility
        return syslog_message(message, facility=facility, host=self._host, process=self._process, short=short)


def _ended_by_peer(connection: ssl.SSLSocket) -> None:
    """Say over TLS that no more comes, and wait until the receiver ends it too. Raises OSError when it breaks off."""
    with contextlib.suppress(ssl.SSLEOFError):  # many end the connection without the goodbye of TLS
        connection.unwrap()


def _may(stream: StreamSettings, text: str) -> bool:
    """An address that stands in the config may be talked to; a name may lead to public ones, or as it says."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if stream.host == "localhost":
        return address.is_loopback
    return stream.host == text or allowed(address, stream.config.private_network)


def _ascii_name(name: str) -> str:
    shown = "".join(letter for letter in name if letter.isascii() and letter.isprintable() and letter != " ")
    return shown[:255] or "-"


def _text(path: object) -> str | None:
    return str(path) if path is not None else None
