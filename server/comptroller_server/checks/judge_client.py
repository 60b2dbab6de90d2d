"""One bounded request to an OpenAI-compatible endpoint. No redirects, no proxies from the environment, no retries."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from comptroller_audit.vocabulary import JsonObject

if TYPE_CHECKING:
    import httpx

__all__ = ["Completion", "JudgeClient", "NoAnswer"]

RESPONSE_BYTES_MAX = 65_536
CONNECTIONS_MAX = 32
QUIET_S_MAX = 60.0
"""For any single wait on the network; `timeout_s` bounds them all together."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What came back: the one message's text, or None without one, and the tokens it is said to have cost."""

    content: str | None
    input_tokens: int | None = None
    output_tokens: int | None = None


class NoAnswer(Exception):
    """The endpoint gave no answer. The message is ours and says why; `was_sent` is whether the prompt left."""

    def __init__(self, why: str, *, was_sent: bool = True) -> None:
        super().__init__(why)
        self.was_sent = was_sent


class JudgeClient:
    """The product's own client for judges; made when the first one is asked."""

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None

    async def complete(self, url: str, key: str | None, body: bytes, timeout_s: float) -> Completion:
        """POST `body` to `url`/chat/completions. Raises `NoAnswer` for whatever is not a usable response in time."""
        import httpx  # only where a judge is configured

        headers = {
            "content-type": "application/json",
            "accept": "application/json",
            "accept-encoding": "identity",
        }
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        try:
            async with asyncio.timeout(timeout_s):
                return _completion(await self._bytes(f"{url.rstrip('/')}/chat/completions", headers, body))
        except TimeoutError:
            raise NoAnswer(f"it gave no answer within {timeout_s:g} seconds") from None
        except httpx.ConnectError:
            raise NoAnswer("it could not be reached", was_sent=False) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NoAnswer(f"the connection failed ({type(error).__name__})") from None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def _bytes(self, url: str, headers: dict[str, str], body: bytes) -> bytes:
        if self._client is None:
            import httpx

            limits = httpx.Limits(max_connections=CONNECTIONS_MAX)
            # `asyncio.timeout` bounds the whole; a proxy named by the environment is no place for what is judged.
            self._client = httpx.AsyncClient(
                follow_redirects=False, trust_env=False, timeout=QUIET_S_MAX, limits=limits, verify=True
            )
        async with self._client.stream("POST", url, headers=headers, content=body) as response:
            if response.status_code != HTTPStatus.OK:
                raise NoAnswer(f"it answered with status {response.status_code}")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise NoAnswer("its answer is compressed, which was not asked for")
            received = bytearray()
            async for chunk in response.aiter_raw():
                received += chunk
                if len(received) > RESPONSE_BYTES_MAX:
                    raise NoAnswer(f"its answer is larger than {RESPONSE_BYTES_MAX} bytes")
        return bytes(received)


def _completion(received: bytes) -> Completion:
    try:
        answer: Any = json.loads(received)
        (choice,) = answer["choices"]
        content: Any = choice["message"]["content"]
        whole = choice.get("finish_reason") in ("stop", None)
        usage: Any = answer.get("usage")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise NoAnswer("its answer is not a chat completion") from None
    counts = cast("JsonObject", usage) if isinstance(usage, dict) else {}
    return Completion(
        content if isinstance(content, str) and whole else None,
        _count(counts.get("prompt_tokens")),
        _count(counts.get("completion_tokens")),
    )


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    return value if is_count else None
