"""What takes records: one method, and an error that says whether to come back, when, and with how much."""

from __future__ import annotations

from typing import Protocol

from comptroller_server.config.streams import StreamSettings, StreamSink
from comptroller_server.errors import ServerError
from comptroller_server.streaming.batches import Batch

__all__ = ["NotDelivered", "Sink", "sink_of"]


class NotDelivered(ServerError):
    """The sink did not take the batch, or nobody knows. `after_s` is how long it asked us to wait.

    `too_much`: less of it at once might be taken.
    """

    def __init__(self, message: str, *, after_s: float = 0.0, too_much: bool = False) -> None:
        self.after_s = after_s
        self.too_much = too_much
        super().__init__(message)


class Sink(Protocol):
    """A place that records go to."""

    async def deliver(self, batch: Batch) -> int:
        """Return when the place has the whole batch; how many of its records it said it would not keep.

        Raises `NotDelivered`: then it is sent again, and may come twice.
        """
        ...

    async def close(self) -> None: ...


def sink_of(stream: StreamSettings) -> Sink:
    """The sink of a stream. Nothing is opened or reached yet."""
    match stream.config.to:
        case StreamSink.FILE:
            from comptroller_server.streaming.to_file import FileSink

            return FileSink(stream)
        case StreamSink.SYSLOG:
            from comptroller_server.streaming.to_syslog import SyslogSink

            return SyslogSink(stream)
        case StreamSink.WEBHOOK:
            from comptroller_server.streaming.to_http import WebhookSink

            return WebhookSink(stream)
        case StreamSink.OTLP:
            from comptroller_server.streaming.to_http import OtlpSink

            return OtlpSink(stream)
