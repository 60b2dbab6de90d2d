"""Tokens: what a model sees instead of a redacted value, and the way back for the same task alone.

`⟦email:1-kxqdmw⟧` names the kind, a number for the reader's sake, and a tag: an HMAC over task, kind and value. So
the same value has the same token throughout a task, whichever process made it; a token of another task, or one made
up by whoever wrote the text, resolves to nothing; and books of one task can simply be merged.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, TypeAlias

from comptroller_audit.canonical import canonical_bytes, keyed_digest
from comptroller_audit.errors import CanonicalError, TokenBookError
from comptroller_audit.fields import KIND_SHAPE, field_path
from comptroller_audit.vocabulary import Json, JsonObject

__all__ = ["TOKENS_MAX", "TOKEN_VALUE_CHARS_MAX", "Resolved", "Scalar", "TokenBook", "Unresolved"]

Scalar: TypeAlias = str | int | float

TOKENS_MAX: Final = 999
"""Values in one task's book. Further ones are withheld without a token."""
TOKEN_VALUE_CHARS_MAX: Final = 4096
"""A longer value is withheld without a token."""

_TAG_CHARS: Final = 6
_LETTERS: Final = "abcdefghijkmnpqrstuvwxyz"
"""No digits, so that no pattern finds anything in a token, and no `l` or `o` to misread."""
_TOKEN: Final = re.compile(r"⟦([a-z][a-z0-9_]{0,31}):(\d{1,3})-([a-z]{6,12})⟧")
_TOKEN_LIKE: Final = re.compile(r"⟦([^⟦⟧]{1,64})⟧")


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A token that was not resolved: where it stands, and why, in a sentence for the agent."""

    path: str
    token: str
    why: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """Arguments with values in place of tokens. With anything `unresolved` they must not be sent."""

    arguments: JsonObject
    used: tuple[str, ...]
    unresolved: tuple[Unresolved, ...]


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: str
    number: int
    tag: str
    value: Scalar

    @property
    def token(self) -> str:
        return f"⟦{self.kind}:{self.number}-{self.tag}⟧"


class TokenBook:
    """The tokens of one task. It holds the values themselves: store what it has `given` sealed, and never log it."""

    def __init__(self, key: bytes, task: str) -> None:
        """`key` is secret and the same for all processes, 16 bytes at least. Raises KeyRingError for a shorter one."""
        self._key = key
        self._task = task
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._given: dict[tuple[str, str], _Entry] = {}
        self._binding = keyed_digest(key, "token-book/v1", task.encode())

    def __len__(self) -> int:
        return len(self._entries)

    def token(self, kind: str, value: Scalar) -> str | None:
        """The token of `value`, new or known. None when the book is full or the value too long: withhold it."""
        if not KIND_SHAPE.fullmatch(kind) or (isinstance(value, str) and len(value) > TOKEN_VALUE_CHARS_MAX):
            return None
        try:
            letters = self._letters(kind, value)
        except (CanonicalError, UnicodeEncodeError):
            return None
        for length in range(_TAG_CHARS, 2 * _TAG_CHARS + 1):  # longer where two values share a tag
            known = self._entries.get((kind, letters[:length]))
            if known is None:
                break
            if _same(known.value, value):
                self._given[kind, known.tag] = known
                return known.token
        else:
            return None
        if len(self._entries) >= TOKENS_MAX:
            return None
        number = 1 + sum(entry.kind == kind for entry in self._entries.values())
        entry = _Entry(kind, number, letters[:length], value)
        self._entries[kind, entry.tag] = self._given[kind, entry.tag] = entry
        return entry.token

    def view(self) -> TokenBook:
        """The same book under another name: what is given through the view is the book's, and the view's `given`."""
        view = object.__new__(TokenBook)
        view._key, view._task, view._binding = self._key, self._task, self._binding
        view._entries, view._given = self._entries, {}
        return view

    @property
    def given(self) -> list[Json]:
        """The tokens given here so far, as `[kind, number, tag, value]`: to be stored sealed, for `take`."""
        return [[e.kind, e.number, e.tag, e.value] for e in self._given.values()]

    def take(self, rows: Json) -> None:
        """Take in tokens that a view of this task's book has `given`. Raises TokenBookError for any other."""
        for row in rows if isinstance(rows, list) else [rows]:
            entry = self._checked(row)
            if len(self._entries) < TOKENS_MAX:
                self._entries.setdefault((entry.kind, entry.tag), entry)

    def has(self, token: str) -> bool:
        match = _TOKEN.fullmatch(token)
        return match is not None and (match[1], match[3]) in self._entries

    def places(self, text: str) -> list[tuple[int, int]]:
        """Where tokens of this book stand in `text`, in order."""
        return [match.span() for match in _TOKEN.finditer(text) if self.has(match[0])]

    def disarm(self, text: str) -> str:
        """`text` with brackets of its own around what looks like a token and is none of this book's."""
        return _TOKEN_LIKE.sub(lambda match: match[0] if self.has(match[0]) else f"[{match[1]}]", text)

    def opened(self, text: str) -> str:
        """`text` with values in place of this book's tokens: for what is compared and never shown."""
        return _TOKEN.sub(lambda match: self._value(match[0], match[1], match[3]), text)

    def _value(self, token: str, kind: str, tag: str) -> str:
        entry = self._entries.get((kind, tag))
        return token if entry is None else str(entry.value)

    def resolve(self, arguments: JsonObject, allowed: Collection[str]) -> Resolved:
        """`arguments` with values in place of tokens, at the paths in `allowed` and nowhere else.

        Paths are rooted (`to`, `$.message.to`; lists are passed through). A whole argument that is a token becomes
        the value with its type; inside a text, the value as text. Raises FieldRuleError for a path that is none.
        """
        walk = _Resolving(self._entries, {field_path(path) for path in allowed})
        value = walk.walk(arguments, (), "$")
        assert isinstance(value, dict)
        return Resolved(value, tuple(dict.fromkeys(walk.used)), tuple(walk.unresolved))

    def merge(self, other: TokenBook) -> None:
        """Take in the tokens of a book of the same task, as another process wrote it. Raises TokenBookError else."""
        if other._binding != self._binding:
            raise TokenBookError(
                "two token books of different tasks or keys were to be merged; load each for its own"
            )
        for key, entry in other._entries.items():
            if len(self._entries) >= TOKENS_MAX:
                return
            self._entries.setdefault(key, entry)

    def _checked(self, row: Json) -> _Entry:
        match row:
            case [str(kind), int(number), str(tag), (str() | int() | float()) as value]:
                entry = _Entry(kind, number, tag, value)
                if _TOKEN.fullmatch(entry.token) and self._letters(kind, value).startswith(tag):
                    return entry
            case _:
                pass
        raise TokenBookError("a stored token is not what was written for this task; begin an empty book")

    def _letters(self, kind: str, value: Scalar) -> str:
        digest = int(
            keyed_digest(self._key, "token/v1", self._task.encode(), kind.encode(), canonical_bytes(value)),
            16,
        )
        letters = ""
        for _ in range(2 * _TAG_CHARS):
            digest, at = divmod(digest, len(_LETTERS))
            letters += _LETTERS[at]
        return letters


def _same(one: Scalar, other: Scalar) -> bool:
    return one == other and isinstance(one, str) == isinstance(other, str)


class _Resolving:
    def __init__(self, entries: dict[tuple[str, str], _Entry], allowed: set[tuple[str, ...]]) -> None:
        self._entries = entries
        self._allowed = allowed
        self.used: list[str] = []
        self.unresolved: list[Unresolved] = []

    def walk(self, value: Json, names: tuple[str, ...], shown: str) -> Json:
        if isinstance(value, str):
            return self._text(value, names, shown) if "⟦" in value else value
        if isinstance(value, list):
            return [self.walk(item, names, f"{shown}[{i}]") for i, item in enumerate(value)]
        if isinstance(value, dict):
            for key in value:
                for match in _TOKEN_LIKE.finditer(key):
                    self._refuse(shown, match[0], "a name cannot be a token")
            return {key: self.walk(item, (*names, key), f"{shown}.{key}") for key, item in value.items()}
        return value

    def _text(self, text: str, names: tuple[str, ...], shown: str) -> Json:
        whole = self._entry(text, names, shown) if _TOKEN_LIKE.fullmatch(text) else None
        if whole is not None:
            return whole.value
        if _TOKEN_LIKE.fullmatch(text):
            return text
        return _TOKEN_LIKE.sub(lambda match: self._inside(match[0], names, shown), text)

    def _inside(self, token: str, names: tuple[str, ...], shown: str) -> str:
        entry = self._entry(token, names, shown)
        return token if entry is None else str(entry.value)

    def _entry(self, token: str, names: tuple[str, ...], shown: str) -> _Entry | None:
        match = _TOKEN.fullmatch(token)
        entry = self._entries.get((match[1], match[3])) if match else None
        if names not in self._allowed:
            self._refuse(shown, token, "this argument does not take tokens")
        elif entry is None:
            self._refuse(shown, token, "it is no token of this task; copy one exactly as it was shown")
        else:
            self.used.append(entry.token)
            return entry
        return None

    def _refuse(self, shown: str, token: str, why: str) -> None:
        self.unresolved.append(Unresolved(shown, token, why))
