"""Sending spans away, on a thread of its own: a collector that is slow or down costs spans and nothing else."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog

from comptroller_audit.vocabulary import JsonObject
from comptroller_server.telemetry.seen import CallSeen

if TYPE_CHECKING:
    import httpx

__all__ = ["BATCH_CALLS_MAX", "CLOSE_S_MAX", "QUEUE_CALLS_MAX", "SEND_S_MAX", "Exporter", "Sent"]

QUEUE_CALLS_MAX = 2_048
"""Attempts that wait to be sent; one more is dropped and counted."""
BATCH_CALLS_MAX = 128
"""Attempts in one request, with about ten spans each."""
SEND_S_MAX = 5.0
"""How long the collector may keep quiet, seconds."""
CLOSE_S_MAX = 3.0
"""How long an ending process waits for what is not sent yet, seconds."""
ANSWER_BYTES_MAX = 65_536

_log = structlog.stdlib.get_logger()


@dataclass(slots=True)
class Sent:
    """Attempts by what became of their spans: taken by the collector, refused or unanswered, never tried."""

    taken: int = 0
    failed: int = 0
    dropped: int = 0


class Exporter:
    """Posts OTLP to one endpoint. `send` never waits and never raises; `written` makes the request of a batch."""

    def __init__(
        self,
        endpoint: str,
        headers: Mapping[str, str],
        written: Callable[[Sequence[CallSeen]], JsonObject],
        queue_max: int = QUEUE_CALLS_MAX,
    ) -> None:
        self.sent = Sent()
        self._endpoint = endpoint
        self._headers = {**headers, "content-type": "application/json", "accept-encoding": "identity"}
        self._written = written
        self._queue: queue.Queue[CallSeen | None] = queue.Queue(queue_max)
        self._closing = threading.Event()
        self._is_up = True
        self._thread = threading.Thread(target=self._work, name="comptroller-spans", daemon=True)
        self._thread.start()

    def send(self, seen: CallSeen) -> None:
        """Hand one attempt over, or drop it where too many wait."""
        if self._closing.is_set():
            self.sent.dropped += 1
            return
        try:
            self._queue.put_nowait(seen)
        except queue.Full:
            self.sent.dropped += 1

    def close(self) -> None:
        """Send what waits, for `CLOSE_S_MAX` seconds at most; the rest is dropped."""
        self._closing.set()
        until = time.monotonic() + CLOSE_S_MAX
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=CLOSE_S_MAX)
        self._thread.join(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        import httpx  # only where traces are configured

        # A proxy or a certificate named by the environment is no part of the configuration.
        with httpx.Client(follow_redirects=False, trust_env=False, timeout=SEND_S_MAX, verify=True) as client:
            ending = False
            while not ending:
                batch, ending = self._gather()
                if batch:
                    self._note(self._post(client, batch), len(batch))

    def _gather(self) -> tuple[list[CallSeen], bool]:
        """What waits, once there is something; what arrives while a request is on its way makes up the next."""
        first = self._queue.get()
        batch = [first] if first is not None else []
        while first is not None and len(batch) < BATCH_CALLS_MAX:
            try:
                following = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
            if following is None:
                return batch, True
            batch.append(following)
        return batch, first is None

    def _post(self, client: httpx.Client, batch: Sequence[CallSeen]) -> str:
        """Why the collector has not taken it, or nothing. What it says is not repeated anywhere."""
        try:
            body = json.dumps(self._written(batch), separators=(",", ":")).encode()
            with client.stream("POST", self._endpoint, headers=self._headers, content=body) as response:
                received = 0
                for chunk in response.iter_raw():  # read, so that the connection can be used again
                    received += len(chunk)
                    if received > ANSWER_BYTES_MAX:
                        break
        except Exception as error:  # noqa: BLE001 -- whatever it is, calls and later spans go on
            return type(error).__name__
        return "" if response.status_code == HTTPStatus.OK else f"status {response.status_code}"

    def _note(self, why: str, calls: int) -> None:
        if why:
            self.sent.failed += calls
        else:
            self.sent.taken += calls
        if why and self._is_up:
            _log.warning("the collector of traces does not take spans; they are lost and counted", why=why)
        elif not why and not self._is_up:
            _log.info("the collector of traces takes spans again")
        self._is_up = not why
