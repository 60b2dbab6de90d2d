"""`python -m tests.benchmarks.redaction`: what searching texts costs, beside writing the same texts as JSON.

CPU of the fastest of many rounds, µs per KiB, and how many times what `json.dumps` takes for them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial

from comptroller_audit.redaction import Audience, Pattern, Release
from comptroller_audit.vocabulary import Json

__all__ = ["TEXTS", "main"]

ROUNDS = 60
_PROSE = "Customer Ann wrote about order 123456 placed on 2026-11-20; total 49.99 USD; see https://shop.example.com/o/1. "
TEXTS: dict[str, Json] = {
    "prose, 1 KiB": (_PROSE * 10)[:1000] + " ann.lee@example.com",
    "prose, 10 KiB": (_PROSE * 100)[: 10 * 1024 - 20] + " ann.lee@example.com",
    "records of short fields": [
        {"id": at, "to": f"ann{at}@example.com", "state": "open", "n": at} for at in range(100)
    ],
    "full of escapes": "".join(f"%{byte:02x}" for byte in (_PROSE * 30).encode()),
}
RELEASES: dict[str, Release] = {
    "all patterns": Release(patterns=list(Pattern)),
    "three secrets": Release(tuple(f"not-a-real-secret-{at}" for at in range(3))),
    "nothing": Release(),
}


def main(rounds: int = ROUNDS) -> Sequence[tuple[str, str, float, float]]:
    """Rows of (text, release, µs per KiB, times `json.dumps`); printed as a table too."""
    rows: list[tuple[str, str, float, float]] = []
    print("| text | looked for | µs per KiB | times json.dumps |\n|---|---|---|---|")
    for name, value in TEXTS.items():
        kib = len(json.dumps(value)) / 1024
        plain_us = _fastest_us(partial(json.dumps, value), rounds)
        for of, release in RELEASES.items():
            took_us = _fastest_us(partial(release.release, value, Audience.MODEL), rounds)
            rows.append((name, of, took_us / kib, took_us / plain_us))
            print(f"| {name} | {of} | {took_us / kib:.1f} | {took_us / plain_us:.1f} |")
    return rows


def _fastest_us(work: Callable[[], object], rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time_ns()
        work()
        best = min(best, (time.process_time_ns() - began) / 1000)
    return best


if __name__ == "__main__":
    main()
