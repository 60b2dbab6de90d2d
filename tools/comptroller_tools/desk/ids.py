"""Ids and times of the desk's records. A record's `updated_at` is its version: later with every change."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

__all__ = ["fresh_id", "new_id", "next_stamp", "stamp"]

_ALPHABET = "abcdefghjkmnpqrstvwxyz23456789"


def stamp(at: datetime) -> str:
    """UTC, RFC 3339, microseconds always written, so that text order is time order."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def next_stamp(last: str | None = None) -> str:
    """Now, and in any case later than `last`, however fast one change follows another."""
    now = datetime.now(UTC)
    return stamp(now if last is None else max(now, datetime.fromisoformat(last) + timedelta(microseconds=1)))


def new_id(kind: str, chance: random.Random) -> str:
    """`inv_k3v8m2qa`: the kind and 39 random bits."""
    return f"{kind}_{''.join(chance.choices(_ALPHABET, k=8))}"


def fresh_id(kind: str) -> str:
    """An id for a record that is written now."""
    return new_id(kind, random.SystemRandom())
