"""What the simulation owns: the clock and the ids. Everything that asks the time or mints an id asks here.

Wall time is integer milliseconds since the Unix epoch; durations are monotonic seconds.
"""

from __future__ import annotations

import secrets
import time
import uuid
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

    def monotonic(self) -> float:
        return time.monotonic()


_ALPHABET = "abcdefghjkmnpqrstvwxyz0123456789"


class RandomIds:
    """Ids from the operating system's randomness, or from an injected source for the simulation."""

    def __init__(self, clock: Clock, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self._clock = clock
        self._random_bytes = random_bytes

    def uuid7(self) -> str:
        raw = bytearray(self._clock.now_ms().to_bytes(6, "big") + self._random_bytes(10))
        raw[6] = 0x70 | (raw[6] & 0x0F)
        raw[8] = 0x80 | (raw[8] & 0x3F)
        return str(uuid.UUID(bytes=bytes(raw)))

    def short(self) -> str:
        bits = int.from_bytes(self._random_bytes(5), "big")
        return "".join(_ALPHABET[bits >> shift & 31] for shift in range(0, 40, 5))

    def random_bytes(self, count: int) -> bytes:
        return self._random_bytes(count)
