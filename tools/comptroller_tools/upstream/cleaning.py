"""Text from an upstream, made fit to be read by a model: nothing unseen, no markup, no more than is needed.

It does not make the text true or harmless; a person reads every definition before it is pinned.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any, cast

__all__ = ["DESCRIPTION_CHARS_MAX", "HIDDEN", "clean", "cleaned_schema", "hidden_in", "seen", "shown"]

DESCRIPTION_CHARS_MAX = 2_000
SCHEMA_TEXT_CHARS_MAX = 500
SHOWN_CHARS_MAX = 1_000
"""Of an error text, as it is quoted to a model."""

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_TAG = re.compile(r"</?[A-Za-z!?][^<>]{0,2000}>")
_SPACES = re.compile(r"[ \t]{3,}")
_LINES = re.compile(r"\n{3,}")
_UNSEEN = re.compile(
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2028\u2029\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)
_TEXT_KEYS = frozenset({"description", "title"})
_DROPPED_KEYS = frozenset({"$comment", "examples", "example", "markdownDescription", "deprecationMessage"})
_NAMED_KEYS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})


def clean(text: str, chars_max: int = DESCRIPTION_CHARS_MAX) -> str:
    """Without controls, zero-width, direction and tag characters, comments and markup; cut where it is too long."""
    text = _without_hidden(text.replace("\r\n", "\n"))
    for _ in range(3):  # what was taken out may have hidden more of the same
        text = _TAG.sub("", _COMMENT.sub("", text))
    text = _LINES.sub("\n\n", _SPACES.sub("  ", text)).strip()
    return text if len(text) <= chars_max else f"{text[:chars_max].rstrip()}…"


def seen(text: str) -> str:
    """All of a text that can be seen, line ends included, with markup and layout as they are."""
    return _without_hidden(text.replace("\r\n", "\n"))


def hidden_in(text: str) -> bool:
    """Whether a text holds what nobody sees."""
    return _without_hidden(text) != text


def _without_hidden(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c for c in text if c in "\n\t" or (unicodedata.category(c) not in HIDDEN and not _UNSEEN.match(c))
    )


HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
"""Controls, formats (zero-width, direction, tags), surrogates, private use and what is not assigned."""


def shown(text: str) -> str:
    """A text of an upstream as one quoted, capped piece of a sentence of ours."""
    return " ".join(clean(text, SHOWN_CHARS_MAX).split())


def cleaned_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema with clean texts and without what only readers use. What it accepts stays the same.

    Raises ValueError for hidden characters where they decide something: in names, `enum`, `const`, `default`.
    """
    cleaned = _cleaned(dict(schema))
    assert isinstance(cleaned, dict)
    return cast("dict[str, Any]", cleaned)


def _cleaned(part: Any) -> Any:
    if isinstance(part, list):
        return [_cleaned(item) for item in cast("list[object]", part)]
    if not isinstance(part, dict):
        return part
    found: dict[str, Any] = {}
    for key, inner in cast("dict[str, Any]", part).items():
        if hidden_in(key):
            raise ValueError("a name in its schema holds characters that cannot be seen")
        if key in _DROPPED_KEYS:
            continue
        if key in _NAMED_KEYS and isinstance(inner, dict):
            members = cast("dict[str, Any]", inner)
            if any(hidden_in(name) for name in members):
                raise ValueError("a name in its schema holds characters that cannot be seen")
            found[key] = {name: _cleaned(each) for name, each in members.items()}
        elif key in _TEXT_KEYS and isinstance(inner, str):
            found[key] = clean(inner, SCHEMA_TEXT_CHARS_MAX)
        elif key in ("enum", "const", "default"):
            if _any_hidden(inner):
                raise ValueError(f"`{key}` in its schema holds characters that cannot be seen")
            found[key] = inner
        else:
            found[key] = _cleaned(inner)
    return found


def _any_hidden(value: Any) -> bool:
    if isinstance(value, str):
        return hidden_in(value)
    if isinstance(value, list):
        return any(_any_hidden(item) for item in cast("list[object]", value))
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return any(hidden_in(name) or _any_hidden(inner) for name, inner in members.items())
    return False
