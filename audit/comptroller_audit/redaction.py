"""`release(value, audience)`: the only road from inside to any sink.

Field rules come first, patterns second. This version withholds secrets by value: any configured secret, plain,
base64- or URL-encoded, is replaced wherever it stands in a string or a key.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar, cast
from urllib.parse import quote

from comptroller_audit.vocabulary import Json

__all__ = ["Audience", "Release", "Released"]

J = TypeVar("J", bound=Json)
SECRET_CHARS_MIN = 6
"""Shorter secrets are not searched for: they would match by chance everywhere."""
WITHHELD = "[withheld: secret]"


class Audience(StrEnum):
    """Who will see a value. Later versions release less to some than to others."""

    MODEL = "model"
    PERSON = "person"
    RECORD = "record"
    LOG = "log"


@dataclass(frozen=True, slots=True)
class Released:
    """The value as the audience may see it, and how many places were withheld."""

    value: Json
    withheld: int


class Release:
    """The one road, knowing the configured secrets. Immutable and safe to share."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms: dict[str, None] = {}
        for secret in secrets:
            if len(secret) >= SECRET_CHARS_MIN:
                raw = secret.encode()
                for form in (secret, quote(secret, safe=""), base64.b64encode(raw).decode().rstrip("=")):
                    forms[form] = None
        self._forms = tuple(sorted(forms, key=len, reverse=True))

    def release(self, value: Json, audience: Audience) -> Released:
        """`value` for `audience`, with a count of what was withheld. Never raises."""
        if not self._forms:
            return Released(value, 0)
        return _Walk(self._forms).walk(value)

    def text(self, text: str, audience: Audience) -> str:
        return cast("str", self.release(text, audience).value)

    def finds_secret(self, value: Json) -> bool:
        """Whether a configured secret stands anywhere in `value`; arguments with one are never sent."""
        return bool(self._forms) and self.release(value, Audience.LOG).withheld > 0


class _Walk:
    def __init__(self, forms: tuple[str, ...]) -> None:
        self._forms = forms
        self._withheld = 0

    def walk(self, value: Json) -> Released:
        return Released(self._clean(value), self._withheld)

    def _clean(self, value: Json) -> Json:
        if isinstance(value, str):
            return self._clean_text(value)
        if isinstance(value, list):
            return [self._clean(item) for item in value]
        if isinstance(value, dict):
            return {self._clean_text(key): self._clean(item) for key, item in value.items()}
        return value

    def _clean_text(self, text: str) -> str:
        for form in self._forms:
            if form in text:
                self._withheld += text.count(form)
                text = text.replace(form, WITHHELD)
        return text
