"""Configured secrets, found by value: as they are, and as they look in base64, percent-encoding and hexadecimal."""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import quote

from comptroller_audit.disguises import folded

__all__ = ["SECRET_CHARS_MIN", "KnownSecrets"]

SECRET_CHARS_MIN: Final = 6
"""Shorter secrets are not searched for: they would match by chance everywhere."""

_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")


class KnownSecrets:
    """Where configured secrets stand in a text. Immutable and safe to share."""

    def __init__(self, secrets: Iterable[str]) -> None:
        plain, encoded, foreign = dict[str, None](), dict[str, None](), dict[str, None]()
        for secret in secrets:
            if len(secret) < SECRET_CHARS_MIN:
                continue
            raw = secret.encode()
            forms = (secret, quote(secret, safe=""), quote(secret), raw.hex(), raw.hex().upper())
            plain |= dict.fromkeys(forms)
            encoded |= dict.fromkeys(_base64_cores(raw))
            normal = unicodedata.normalize("NFKC", secret)
            if not normal.isascii():
                foreign[normal] = None
        self._plain = sorted(plain, key=len, reverse=True)
        self._encoded = tuple(encoded)
        # Folding makes one letter of all foreign ones, so such secrets would match by chance: they are compared in NFKC.
        self._foreign = tuple(foreign)
        self._folded = tuple(
            {folded(form) for form in plain if unicodedata.normalize("NFKC", form).isascii()}
        )

    def __bool__(self) -> bool:
        return bool(self._plain)

    def find(self, text: str, end: str) -> Iterator[tuple[int, int]]:
        """In a text as it came, whose parts stand between `end` characters."""
        for form in self._plain:
            if form in text:
                yield from _places(text, form)
        for form in self._encoded:
            if form in text:
                for start, stop in _places(text, form):
                    # The letters at either end of it hold bits of the secret too, so the whole run goes.
                    while start and _BASE64.fullmatch(text[start - 1]):
                        start -= 1
                    match = _BASE64.match(text, start)
                    yield start, match.end() if match else stop
        if self._foreign and not text.isascii():
            yield from self._find_foreign(text, end)

    def find_folded(self, text: str) -> Iterator[tuple[int, int]]:
        """In a text that was folded to ASCII, or decoded."""
        for form in self._folded:
            if form in text:
                yield from _places(text, form)

    def _find_foreign(self, text: str, end: str) -> Iterator[tuple[int, int]]:
        """Normalisation moves positions, so a part in which such a secret stands is withheld as a whole."""
        start = 0
        for part in text.split(end):
            normal = unicodedata.normalize("NFKC", part)
            if any(form in normal for form in self._foreign):
                yield start, start + len(part)
            start += len(part) + len(end)


def _base64_cores(raw: bytes) -> Iterator[str]:
    """What `raw` looks like in base64 at each of the three places it can begin at, in both alphabets, less the
    letters at the ends that it shares with what stands beside it."""
    for before in range(3):
        letters = base64.b64encode(bytes(before) + raw).decode()
        core = letters[(before * 8 + 5) // 6 : (before + len(raw)) * 8 // 6]
        yield core
        yield core.replace("+", "-").replace("/", "_")


def _places(text: str, form: str) -> Iterator[tuple[int, int]]:
    at = text.find(form)
    while at >= 0:
        yield at, at + len(form)
        at = text.find(form, at + len(form))
