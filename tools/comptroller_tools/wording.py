"""Values as they are compared for provenance: their normal form, and the names of things that a text mentions.

A name is an e-mail address, a URL, an IBAN, a number, a path, or a word with a digit or `_` in it, as ids have. Two
spellings of one thing (upper case, full-width letters, `40.0`, an IBAN in groups) have the same form.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from decimal import Decimal, InvalidOperation

from comptroller_audit.fields import ANY
from comptroller_audit.vocabulary import Json

__all__ = ["RESULT_CHARS_MAX", "TEXT_CHARS_MAX", "first_mentioned", "forms_of", "leaves", "mentioned_in"]

TEXT_CHARS_MAX = 200_000
"""Of one text; what stands behind that is not read, and so is new."""
RESULT_CHARS_MAX = 500_000
"""Of one result; likewise."""
NUMBER_CHARS_MAX = 40

_WORDS = re.compile(r"[^\s\"'<>()\[\]{},;|`]+")
_NUMBER = re.compile(r"(?<![\w.,-])-?[0-9][0-9,]*(?:\.[0-9]+)?(?!\w)")
_GROUPED = re.compile(r"-?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_IBAN = re.compile(r"\b[a-z]{2}[0-9]{2}(?: ?[a-z0-9]{4}){2,7}(?: ?[a-z0-9]{1,3})?\b")
_NAMES = re.compile(r"[@/\\_0-9]")
_FIELD = re.compile(r"[A-Za-z_]{1,64}")
_AROUND = ".:!?*"


def leaves(
    value: Json, apart: Collection[tuple[str, ...]] = (), at: tuple[str, ...] = ()
) -> Iterator[tuple[Json, bool]]:
    """Every text and number below `value`, and whether it stands under one of the paths `apart` (lists are passed)."""
    if isinstance(value, dict):
        for name, item in value.items():
            if not _FIELD.fullmatch(name):  # no name of a field, so a value in the place of one
                yield name, any(_covers(path, at) for path in apart)
            yield from leaves(item, apart, (*at, name))
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item, apart, at)
    elif isinstance(value, str) or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        yield value, any(_covers(path, at) for path in apart)


def _covers(path: tuple[str, ...], at: tuple[str, ...]) -> bool:
    """Whether `at` is `path` or below it; `*` is any name."""
    return len(at) >= len(path) and all(one in (ANY, name) for one, name in zip(path, at, strict=False))


def forms_of(leaf: Json) -> tuple[str, ...]:
    """The normal forms of one whole value; it is known when one of them is. Nothing for what is no text or number."""
    if isinstance(leaf, bool) or not isinstance(leaf, (str, int, float)):
        return ()
    if not isinstance(leaf, str):
        found = _number(repr(leaf))
        return (found,) if found is not None else ()
    text = _normal(leaf)
    if not text:
        return ()
    compact = text.replace(" ", "")
    if _IBAN.fullmatch(text) or _IBAN.fullmatch(compact):
        return (compact,)
    number = _number(text)
    return (text, number) if number is not None else (text,)


def mentioned_in(leaf: Json) -> Iterator[str]:
    """The forms of a value, and of every name that it mentions."""
    yield from forms_of(leaf)
    if not isinstance(leaf, str):
        return
    text = _normal(leaf[:TEXT_CHARS_MAX])
    for match in _IBAN.finditer(text):
        yield match[0].replace(" ", "")
    for match in _NUMBER.finditer(text):
        if (number := _number(match[0])) is not None:
            yield number
    for match in _WORDS.finditer(text):
        word = match[0].strip(_AROUND).removeprefix("mailto:")
        if word and _NAMES.search(word) and word != text:
            yield word


def first_mentioned(leaves: Iterable[tuple[Json, bool]]) -> Iterator[tuple[str, bool]]:
    """What values mention, each with the mark of its value, until so much was read that nobody keeps the rest."""
    read = 0
    for leaf, mark in leaves:
        read += len(leaf) if isinstance(leaf, str) else 1
        for form in mentioned_in(leaf):
            yield form, mark
        if read > RESULT_CHARS_MAX:
            return


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _number(text: str) -> str | None:
    """`number 40.5` for `40.50`, `1,234.5` without its commas; None for what is no number of a sane length."""
    if len(text) > NUMBER_CHARS_MAX or not _NUMBER.fullmatch(text):
        return None if not _is_exponent(text) else _exact(text)
    if "," in text:
        if not _GROUPED.fullmatch(text):
            return None
        text = text.replace(",", "")
    return _exact(text)


def _is_exponent(text: str) -> bool:
    return len(text) <= NUMBER_CHARS_MAX and re.fullmatch(r"-?[0-9.]+e[-+]?[0-9]{1,3}", text) is not None


def _exact(text: str) -> str | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return f"number {number.normalize() + 0:e}" if number.is_finite() else None
