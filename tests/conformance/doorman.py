"""Stands before Comptroller on loopback and shows its token, for the suite has no way to send one. Alters nothing else.

It works on bytes: what the suite sends malformed, or with odd spaces, must reach Comptroller as it was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

__all__ = ["Doorman"]

_END = b"\r\n\r\n"


class Doorman:
    """One HTTP/1.1 request a connection: it goes to `inner` (`127.0.0.1:PORT`) with the bearer `token`, its answer streams back.

    Where Host or Origin name `own`, they name `inner` to Comptroller, which answers to nothing but its own address.
    Either side that hangs up ends the other, so a caller who leaves is seen to leave.
    """

    def __init__(self, own: str, inner: str, token: str) -> None:
        self._own, self._inner = own.encode(), inner.encode()
        self._added = [b"Authorization: Bearer " + token.encode(), b"Connection: close"]

    async def answer(self, caller: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """Serve one connection, as `asyncio.start_server` wants it."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = (await caller.readuntil(_END)).removesuffix(_END)
            host, _, port = self._inner.decode().rpartition(":")
            answers, onward = await asyncio.open_connection(host, int(port))
            try:
                onward.write(self._altered(head))
                await _until_either_ends(_pass_on(caller, onward), _pass_on(answers, back))
            finally:
                onward.close()
        back.close()

    def _altered(self, head: bytes) -> bytes:
        first, *lines = head.split(b"\r\n")
        kept = [self._named(line) for line in lines if not line.lower().startswith(b"connection:")]
        return b"\r\n".join([first, *kept, *self._added]) + _END

    def _named(self, line: bytes) -> bytes:
        return (
            line.replace(self._own, self._inner) if line.lower().startswith((b"host:", b"origin:")) else line
        )


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while part := await source.read(65536):
            target.write(part)
            await target.drain()


async def _until_either_ends(*ways: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
