"""What the simulation owns: the clock and the ids. Everything that asks the time or mints an id asks here.

Wall time is integer milliseconds since the Unix epoch; durations are monotonic seconds.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["Clock", "Ids", "RandomIds", "SystemClock"]


class Clock(Protocol):
    def now_ms(self) -> int:
        """Wall time, milliseconds since the Unix epoch (UTC)."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; only differences mean anything."""
        ...


class Ids(Protocol):
    def uuid7(self) -> str:
        """A UUIDv7 (RFC 9562 §5.7): 36 characters, sorts by creation time."""
        ...

    def short(self) -> str:
        """A short random id a model can repeat without error: 8 characters of base 32, 40 bits."""
        ...

    def random_bytes(self, count: int) -> bytes:
        """Key material, salts and nonces."""
        ...


class SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    monotonic = staticmethod(time.monotonic)


POOL_BYTES = 4_096
"""Random bytes fetched at once."""
_ALPHABET = "abcdefghjkmnpqrstvwxyz0123456789"


class RandomIds:
    """Ids from the operating system's randomness, or from an injected source for the simulation."""

    def __init__(self, clock: Clock, random_bytes: Callable[[int], bytes] | None = None) -> None:
        self._clock = clock
        self._random_bytes = random_bytes or _Pool().take

    def uuid7(self) -> str:
        raw = bytearray(self._clock.now_ms().to_bytes(6, "big") + self._random_bytes(10))
        raw[6] = 0x70 | (raw[6] & 0x0F)
        raw[8] = 0x80 | (raw[8] & 0x3F)
        digits = raw.hex()
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def short(self) -> str:
        bits = int.from_bytes(self._random_bytes(5), "big")
        return "".join(_ALPHABET[bits >> shift & 31] for shift in range(0, 40, 5))

    def random_bytes(self, count: int) -> bytes:
        return self._random_bytes(count)


class _Pool:
    """The operating system's randomness, fetched in large pieces. Every byte is handed out once.

    Each request to the system gives up the interpreter's lock, and under load getting it back takes longer than the
    bytes do. Threads share a pool; processes must not, and ours are spawned, never forked.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        with self._lock:
            end = self._at + count
            if end > len(self._bytes):
                self._bytes, self._at, end = secrets.token_bytes(max(count, POOL_BYTES)), 0, count
            taken = self._bytes[self._at : end]
            self._at = end
            return taken
