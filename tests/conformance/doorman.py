"""Stands before Comptroller on loopback and shows its token, for the suite has no way to send one. Alters nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from typing import Any

import httpx

__all__ = ["Doorman"]

_Message = MutableMapping[str, Any]
_HOP = frozenset(
    {b"connection", b"keep-alive", b"transfer-encoding", b"te", b"trailer", b"upgrade", b"content-length"}
)


class Doorman:
    """An ASGI app at `own` (`127.0.0.1:PORT`): every request goes to `inner` with the bearer `token`, its answer streams back.

    Where Host or Origin name `own`, they name `inner` to Comptroller, which answers to nothing but its own address.
    """

    def __init__(self, own: str, inner: str, token: str) -> None:
        self._ports = own.rpartition(":")[2].encode(), inner.rpartition(":")[2].encode()
        self._url = f"http://{inner}"
        self._token = token
        self._client = httpx.AsyncClient(timeout=None, trust_env=False)  # noqa: S113 -- streams stay open

    async def __call__(
        self,
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            return
        body = await _whole(receive)
        headers = [(name, self._inner(name, value)) for name, value in scope["headers"] if name not in _HOP]
        headers.append((b"authorization", f"Bearer {self._token}".encode()))
        request = self._client.build_request(
            scope["method"], self._url + scope["path"], headers=headers, content=body
        )
        answer = await self._client.send(request, stream=True)
        async with contextlib.aclosing(_left(answer)) as parts:
            kept = [(name, value) for name, value in answer.headers.raw if name.lower() not in _HOP]
            await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    def _inner(self, name: bytes, value: bytes) -> bytes:
        own, inner = self._ports
        return value.replace(b":" + own, b":" + inner) if name in (b"host", b"origin") else value


async def _left(answer: httpx.Response) -> AsyncGenerator[bytes]:
    try:
        async for part in answer.aiter_raw():
            yield part
    finally:
        await answer.aclose()


async def _whole(receive: Callable[[], Awaitable[_Message]]) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)
