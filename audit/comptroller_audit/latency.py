"""Percentiles of many durations in little memory."""

from __future__ import annotations

from comptroller_audit.vocabulary import JsonObject

__all__ = ["Latency"]

EXACT = 2_048
"""Microseconds below which each value is kept as it is; above, values share a bucket of 1/1024 of their size at most."""
_BITS = EXACT.bit_length() - 1


class Latency:
    """Durations in milliseconds, kept as counts by size: however many are added, a few thousand numbers at most."""

    __slots__ = ("_counts", "count", "max_ms")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.max_ms = 0.0

    def add(self, ms: float) -> None:
        """One more duration. A negative one counts as none at all."""
        micros = round(ms * 1000) if ms > 0 else 0
        if micros >= EXACT:  # the smallest number that is kept in the same bucket
            shift = micros.bit_length() - _BITS
            micros = micros >> shift << shift
        self._counts[micros] = self._counts.get(micros, 0) + 1
        self.count += 1
        self.max_ms = max(self.max_ms, ms)

    def percentile(self, percent: float) -> float | None:
        """Milliseconds that `percent` of the durations stay below, between neighbours in proportion; None without any.

        The rule is that of `statistics.quantiles(method="inclusive")`; the result is off by a thousandth at most.
        """
        if not self.count:
            return None
        place = (self.count - 1) * percent / 100
        below = int(place)
        low, high = self._at(below), self._at(min(below + 1, self.count - 1))
        return min((low + (high - low) * (place - below)) / 1000, self.max_ms)

    def _at(self, place: int) -> float:
        """The duration at `place` in ascending order, in microseconds."""
        passed = 0
        for bucket in sorted(self._counts):
            passed += self._counts[bucket]
            if passed > place:
                return _middle(bucket)
        raise IndexError(place)

    def as_json(self) -> JsonObject:
        """`{count, p50_ms, p95_ms, p99_ms, max_ms}`, rounded to microseconds; null without any duration."""
        shown: JsonObject = {"count": self.count}
        for percent in (50, 95, 99):
            found = self.percentile(percent)
            shown[f"p{percent}_ms"] = None if found is None else round(found, 3)
        shown["max_ms"] = round(self.max_ms, 3) if self.count else None
        return shown


def _middle(bucket: int) -> float:
    shift = max(0, bucket.bit_length() - _BITS)
    return bucket + ((1 << shift) - 1) / 2
