"""Records over HTTP: signed JSON lines for a webhook (standardwebhooks.com), and OTLP logs for a collector.

Both go through the screened transport of MCP servers: a name leads nowhere that the config does not allow, redirects are
not followed, and the environment's proxies are not used.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from comptroller_server import __version__
from comptroller_server.config.streams import StreamSettings
from comptroller_server.streaming.batches import Batch
from comptroller_server.streaming.otlp import otlp_body
from comptroller_server.streaming.sinks import NotDelivered
from comptroller_tools.upstream.reaching import reach_of, transport_to
from comptroller_tools.upstream.settings import HttpEndpoint

__all__ = ["OtlpSink", "WebhookSink", "signature"]

ANSWER_BYTES_MAX = 65_536
RETRY_AFTER_S_MAX = 3_600.0
Now = Callable[[], float]


def signature(secret: str, identity: str, at_s: int, body: bytes) -> str:
    """`v1,BASE64`: HMAC-SHA-256 over `ID.TIMESTAMP.BODY`. A secret that begins with `whsec_` is base64 after it."""
    key = secret.encode()
    if secret.startswith("whsec_"):
        try:
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            key = secret.encode()
    made = hmac.new(key, f"{identity}.{at_s}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(made).decode()}"


class _HttpSink:
    def __init__(self, stream: StreamSettings, now: Now) -> None:
        config = stream.config
        assert config.url is not None
        self._stream = stream
        self._url = config.url
        self._now = now
        self._client: httpx2.AsyncClient | None = None

    async def _post(self, content: bytes, headers: dict[str, str]) -> bytes:
        """The answer's body. Raises `NotDelivered` for anything but a 2xx that came whole and in time."""
        try:
            # The whole of it: a receiver that answers a byte now and then would hold the stream for ever.
            async with asyncio.timeout(self._stream.config.timeout_s):
                response, answer = await self._answered(content, headers)
        except (httpx2.HTTPError, OSError) as error:
            raise NotDelivered(f"{self._stream.place} was not reached: {_why(error)}") from error
        if not 200 <= response.status_code < 300:
            raise NotDelivered(
                f"{self._stream.place} answered HTTP {response.status_code}",
                after_s=_retry_after(response.headers.get("retry-after"), self._now()),
                too_much=response.status_code == 413,
            )
        return answer

    async def _answered(self, content: bytes, headers: dict[str, str]) -> tuple[httpx2.Response, bytes]:
        client = self._client = self._client or self._opened()
        request = client.build_request("POST", self._url, content=content, headers=headers)
        response = await client.send(request, stream=True)
        try:
            return response, await _bounded(response)
        finally:
            await response.aclose()

    def _opened(self) -> httpx2.AsyncClient:
        config = self._stream.config
        endpoint = HttpEndpoint(self._url, {}, self._stream.ca_file, config.private_network)
        headers = {
            **self._stream.headers,
            "user-agent": f"comptroller/{__version__}",
            "accept-encoding": "identity",
        }
        return httpx2.AsyncClient(
            transport=transport_to(reach_of(endpoint)),
            headers=headers,
            timeout=config.timeout_s,
            trust_env=False,
            follow_redirects=False,
        )

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None


class WebhookSink(_HttpSink):
    """Posts JSON lines. The same entries have the same `webhook-id`, however often they come."""

    def __init__(self, stream: StreamSettings, now: Now = time.time) -> None:
        super().__init__(stream, now)

    async def deliver(self, batch: Batch) -> int:
        body, identity, at_s = batch.lines, batch.id, int(self._now())
        await self._post(
            body,
            {
                "content-type": "application/x-ndjson",
                "webhook-id": identity,
                "webhook-timestamp": str(at_s),
                "webhook-signature": signature(self._stream.secret.get_secret_value(), identity, at_s, body),
                "idempotency-key": identity,
            },
        )
        return 0


class OtlpSink(_HttpSink):
    """Posts OTLP. What a collector says it will not keep is counted; it must not be sent again (the spec's word)."""

    def __init__(self, stream: StreamSettings, now: Now = time.time) -> None:
        super().__init__(stream, now)

    async def deliver(self, batch: Batch) -> int:
        answer = await self._post(otlp_body(batch), {"content-type": "application/json"})
        return min(_rejected(answer), len(batch.messages))


def _rejected(answer: bytes) -> int:
    try:
        told: Any = json.loads(answer)
        return max(0, int(told["partialSuccess"]["rejectedLogRecords"]))
    except (ValueError, KeyError, TypeError):  # nothing was left out, or the answer says nothing
        return 0


async def _bounded(response: httpx2.Response) -> bytes:
    answer = b""
    async for chunk in response.aiter_raw():
        answer += chunk
        if len(answer) > ANSWER_BYTES_MAX:
            break
    return answer


def _retry_after(value: str | None, now_s: float) -> float:
    """Seconds to wait, from a number or a date; 0 where neither is said."""
    if not value:
        return 0.0
    try:
        seconds = (
            float(value) if value.strip().isdigit() else parsedate_to_datetime(value).timestamp() - now_s
        )
    except (ValueError, OverflowError):
        return 0.0
    return min(max(0.0, seconds), RETRY_AFTER_S_MAX)


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    return str(error) or type(error).__name__
