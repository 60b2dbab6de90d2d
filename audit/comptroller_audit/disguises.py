"""Other spellings of the same text, with the way back: what is found in a plain view is cut out of the source.

A view has ASCII letters and digits where the source has their compatibility forms (NFKC, UAX #15), no zero-width
characters or accents, and the characters that percent-encoding (RFC 3986 §2.1), HTML references or JSON escapes
stand for. Base64 (RFC 4648 §4 and §5) is decoded run by run.
"""

from __future__ import annotations

import re
import unicodedata
from binascii import Error as BinasciiError
from binascii import a2b_base64
from collections.abc import Iterator, Sequence
from typing import Final

from comptroller_audit.linear import SHORT_CHARS_MAX, expression

__all__ = ["View", "base64_runs", "folded", "is_plain", "views"]

UNESCAPE_ROUNDS_MAX: Final = 3
"""Escapes inside escapes: `%2540` is `%40` is `@`."""
BASE64_CHARS_MIN: Final = 16
"""Shorter runs are words; twelve bytes is less than an address has."""

_ESCAPES: Final = re.compile(
    r"((?:%[0-9A-Fa-f]{2})+)|&#(\d{1,7});|&#[xX]([0-9A-Fa-f]{1,6});|&(commat|period|lowbar|hyphen);|\\u([0-9A-Fa-f]{4})"
)
_NAMED: Final = {"commat": "@", "period": ".", "lowbar": "_", "hyphen": "-"}
_RUN: Final = rf"[A-Za-z0-9+/_-]{{{BASE64_CHARS_MIN},}}(?:\r?\n[A-Za-z0-9+/_-]+)*={{0,2}}"
_ANY_RUN: Final = expression(_RUN)
_SHORT_RUN: Final = re.compile(_RUN)
"""Python's own engine takes linear time for this one too: a start that fails is given up after BASE64_CHARS_MIN characters."""
_DASHES: Final = "\u00ad\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
_DOTS: Final = "\u2022\u00b7\u25cf\u2219\u2731\u22c5\u2027\u30fb\u25aa\u2217\u204e\u26ab\u26aa\u25cb\u25e6"
_SPACELESS: Final = "\x1a"
"""Stands for a letter of a script that is written without spaces; it ends words and addresses."""


class _Fold(dict[int, str]):
    """What each character counts as, worked out when it is first seen. ASCII stays."""

    def __missing__(self, code: int) -> str:
        found = _fold_char(chr(code))
        if len(self) < 0x10000:  # the table stays small whatever is sent
            self[code] = found
        return found


def _fold_char(char: str) -> str:
    if char < "\x80":
        return char
    if char in _DASHES:
        return "-" if char != "\u00ad" else ""
    if char in _DOTS:
        return "*"
    if char == "\u3002":
        return "."
    out = "".join(map(_fold_plain, unicodedata.normalize("NFKD", char)))
    return out.replace("\x1e", " ").replace("\x1f", " ")


def _fold_plain(char: str) -> str:
    if char < "\x80":
        return char
    if char in _DASHES:
        return "-"
    category = unicodedata.category(char)
    if category == "Nd":
        return str(unicodedata.digit(char))
    if category in ("Mn", "Me", "Cf"):
        return ""
    if category == "Lo":
        return _SPACELESS
    if category in ("Lu", "Ll", "Lt", "Lm"):
        return "x"
    return " " if category.startswith("Z") else "\x7f"


_FOLD: Final = _Fold()


def folded(text: str) -> str:
    """`text` in ASCII: one view of it for searching, never for showing."""
    return text if text.isascii() else text.translate(_FOLD)


class View:
    """`text` reads plainly; `span` says which stretch of the source a stretch of it comes from."""

    __slots__ = ("_ends", "_source", "_starts", "text")

    def __init__(
        self, text: str, starts: Sequence[int], ends: Sequence[int], source: str | None = None
    ) -> None:
        """Character `i` of `text` comes from `starts[i]:ends[i]`. With `source`, that is worked out when first asked."""
        self.text = text
        self._starts, self._ends, self._source = starts, ends, source

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The stretch of the source that `text[start:end]`, which is not empty, comes from."""
        starts, ends = self.origins()
        return starts[start], ends[end - 1]

    def origins(self) -> tuple[Sequence[int], Sequence[int]]:
        if self._source is not None:
            starts = [i for i, char in enumerate(self._source) for _ in _FOLD[ord(char)]]
            self._starts, self._ends, self._source = starts, [start + 1 for start in starts], None
        return self._starts, self._ends


def views(source: str) -> Iterator[View]:
    """The source as it is (in ASCII), then without its escapes if it has any."""
    plain = _fold_view(source)
    yield plain
    for _ in range(UNESCAPE_ROUNDS_MAX):
        if not _has_escapes(plain.text):
            return
        unescaped = _unescape_view(plain)
        if unescaped is None:
            return
        plain = unescaped
        yield plain


def is_plain(source: str) -> bool:
    """Whether the source is its only view, each character standing for itself."""
    return source.isascii() and not _has_escapes(source)


def _has_escapes(text: str) -> bool:
    return "%" in text or "&" in text or "\\u" in text


def _fold_view(source: str) -> View:
    if source.isascii():
        return View(source, range(len(source)), range(1, len(source) + 1))
    return View(source.translate(_FOLD), (), (), source)


def _unescape_view(view: View) -> View | None:
    """The view with each escape replaced by what it stands for, or None when there is nothing to replace."""
    matches = list(_ESCAPES.finditer(view.text))
    if not matches:
        return None
    old_starts, old_ends = view.origins()
    parts, starts, ends, at = list[str](), list[int](), list[int](), 0
    for match in matches:
        decoded = _decode(match)
        if decoded is None:
            continue
        start, end = match.span()
        parts += (view.text[at:start], decoded)
        starts += old_starts[at:start]
        starts += [old_starts[start]] * len(decoded)
        ends += old_ends[at:start]
        ends += [old_ends[end - 1]] * len(decoded)
        at = end
    if not parts:
        return None
    parts.append(view.text[at:])
    starts += old_starts[at:]
    ends += old_ends[at:]
    return View("".join(parts), starts, ends)


def _decode(match: re.Match[str]) -> str | None:
    percent, decimal, hexadecimal, name, unicode = match.groups()
    if percent:
        return folded(bytes.fromhex(percent.replace("%", "")).decode(errors="replace")) or None
    if name:
        return _NAMED[name]
    code = int(decimal) if decimal else int(hexadecimal or unicode, 16)
    return folded(chr(code)) or None if code <= 0x10FFFF else None


def base64_runs(text: str) -> Iterator[tuple[int, int, str]]:
    """`(start, end, decoded)` of each run of base64 in an ASCII text that decodes to text. Folded to ASCII too."""
    if _ANY_RUN.is_missing(text):
        return
    for match in _SHORT_RUN.finditer(text) if len(text) <= SHORT_CHARS_MAX else _ANY_RUN.finditer(text):
        at, end = match.span()
        whole = text[at:end]
        parts = [whole] if "\n" not in whole else [whole, *whole.split("\n")]
        for i, part in enumerate(parts):
            decoded = _decode_base64(part)
            if decoded is not None:
                yield at, at + len(part), decoded
                if i == 0:
                    break
            if i:
                at += len(part) + 1


def _decode_base64(run: str) -> str | None:
    compact = ("".join(run.split()) if "\n" in run else run).rstrip("=").replace("-", "+").replace("_", "/")
    if len(compact) % 4 == 1:
        return None
    try:
        return folded(a2b_base64(compact + "=" * (-len(compact) % 4)).decode())
    except (BinasciiError, UnicodeDecodeError):
        return None
