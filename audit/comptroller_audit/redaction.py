"""`release(value, audience)`: the only road from inside to any sink.

Field rules come first, patterns second, and configured secrets always. A value is searched as one text, its parts
between END characters, so that each pattern runs once and the name of a member is a cue for what stands in it; what
is found is then cut out of the parts. docs/redaction.md has the table of who sees what, and the measured figures.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Container, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Final, cast

from comptroller_audit.disguises import base64_runs, is_plain, views
from comptroller_audit.fields import Audience, FieldRule, Fields
from comptroller_audit.known_secrets import KnownSecrets
from comptroller_audit.parts import Parts
from comptroller_audit.patterns import AFTER_KEY, CREDENTIALS, END, Finder, Found, Pattern
from comptroller_audit.tokens import TokenBook
from comptroller_audit.vocabulary import Json

__all__ = ["Audience", "FieldRule", "Pattern", "Release", "Released"]

SECRET: Final = "secret"  # noqa: S105 -- the name of a kind
UNSEARCHABLE: Final = "unsearchable"
_RANK: Final = {
    kind: i for i, kind in enumerate((SECRET, CREDENTIALS, "iban", "card_number", "national_id", "email"))
}
_ACROSS: Final = frozenset({Pattern.EMAIL, Pattern.IBAN, Pattern.API_KEY})
"""Patterns that are told from chance well enough to be looked for across two items of a list."""
_NEVER_SHOWN: Final = frozenset({SECRET, CREDENTIALS.value})
_NO_FIELDS: Final = Fields(())
_MARKS: Final = (END, AFTER_KEY, "⟦")


@dataclass(frozen=True, slots=True)
class Released:
    """The value as the audience may see it, how many places were withheld, and the kinds of what was."""

    value: Json
    withheld: int
    kinds: frozenset[str] = frozenset()


class Release:
    """The one road, knowing the configured secrets, patterns and field rules. Immutable and safe to share."""

    def __init__(
        self,
        secrets: Iterable[str] = (),
        patterns: Collection[Pattern] = (),
        fields: Collection[FieldRule] = (),
    ) -> None:
        self._secrets = KnownSecrets(secrets)
        self._fields = Fields(fields)
        self._of_records = self._fields if self._fields.hides_from(Audience.RECORD) else _NO_FIELDS
        self._everything = Finder(patterns)
        self._credentials = Finder({CREDENTIALS} & set(patterns))
        self._across = Finder(_ACROSS & set(patterns))

    def with_fields(self, fields: Collection[FieldRule]) -> Release:
        """The same road for a tool with field rules of its own, which take the place of these."""
        other = object.__new__(Release)
        other._become(self)
        other._fields = Fields(fields)
        other._of_records = other._fields if other._fields.hides_from(Audience.RECORD) else _NO_FIELDS
        return other

    def _become(self, other: Release) -> None:
        self._secrets, self._fields, self._of_records = other._secrets, other._fields, other._of_records
        self._everything, self._credentials, self._across = (
            other._everything,
            other._credentials,
            other._across,
        )

    def release(self, value: Json, audience: Audience, book: TokenBook | None = None) -> Released:
        """`value` for `audience`. Never raises: what cannot be searched is withheld as a whole.

        MODEL and PERSON see tokens of `book` in place of personal data, or without one `[withheld: KIND]`; LOG sees
        `[withheld: KIND]` always; RECORD keeps personal data, because payloads are sealed, unless a field rule says
        otherwise. Nobody sees configured secrets or credentials. What holds nothing to withhold comes back itself.
        """
        if value is None or value == "" or value == [] or value == {}:
            return Released(value, 0)
        keeps = audience is Audience.RECORD
        finder = self._credentials if keeps else self._everything
        # Fields that records show change nothing there: credentials are withheld in them all the same.
        fields = self._of_records if keeps else self._fields
        if not (finder or self._secrets or fields):
            return Released(value, 0)
        try:
            if isinstance(value, str) and not fields and not any(mark in value for mark in _MARKS):
                # A bare text is its own one part, which is taken apart only when there is something to cut.
                found = list(self._search(value, finder))
                parts = Parts(value, fields, audience) if found else None
            else:
                parts = Parts(value, fields, audience)
                found = self._find(parts, finder)
            if parts is None or not (found or parts.rules or "⟦" in parts.text):
                return Released(value, 0)
            return _Cut(parts, found, None if audience is Audience.LOG else book).released()
        except Exception:  # noqa: BLE001 -- fail closed
            # Whatever went wrong, what was not searched is not shown. The cause may quote the value: it is dropped.
            return Released(_withheld(UNSEARCHABLE), 1, frozenset({UNSEARCHABLE}))

    def text(self, text: str, audience: Audience, book: TokenBook | None = None) -> str:
        return cast("str", self.release(text, audience, book).value)

    @cached_property
    def keeps_all(self) -> bool:
        """Whether records hold just what models see: nothing but secrets and credentials is looked for."""
        same = self._everything.kinds == self._credentials.kinds
        return same and not self._fields.hides_from(Audience.MODEL) and not self._of_records

    def finds_secret(self, value: Json) -> bool:
        """Whether a configured secret, or with Pattern.API_KEY any credential, stands in `value`.

        Arguments with one are never sent.
        """
        return bool(self.secrets_in(value))

    def secrets_in(self, value: Json) -> frozenset[str]:
        """What keeps `value` from being sent: `secret`, `api_key`, `unsearchable`; personal data is not looked for."""
        return self._without_fields().release(value, Audience.RECORD).kinds

    def finds(self, value: Json) -> frozenset[str]:
        """The kinds of what stands in `value`, field rules aside; for arguments on their way out."""
        if not (self._everything or self._secrets):
            return frozenset()
        return self._without_fields().release(value, Audience.LOG).kinds

    def _without_fields(self) -> Release:
        return self.with_fields(()) if self._fields else self

    def _find(self, parts: Parts, finder: Finder) -> list[Found]:
        found = list(self._search(parts.text, finder))
        if parts.columns:
            across = self._across if finder is self._everything else self._credentials
            if across or self._secrets:
                found += self._split(parts, found, across)
        return found

    def _search(self, text: str, finder: Finder) -> Iterator[Found]:
        if self._secrets:
            for start, end in self._secrets.find(text, END):
                yield Found(start, end, SECRET)
        if is_plain(text):  # nearly always: no other view of it, and no way back to work out
            yield from finder.find(text)
            for start, end, decoded in base64_runs(text):
                if (kind := self._inside(decoded, finder)) is not None:
                    yield Found(start, end, kind)
            return
        plain = text.isascii()
        for number, view in enumerate(views(text)):
            for hit in finder.find(view.text):
                yield Found(*view.span(hit.start, hit.end), hit.kind)
            if number or not plain:
                for start, end in self._secrets.find_folded(view.text):
                    yield Found(*view.span(start, end), SECRET)
            for start, end, decoded in base64_runs(view.text):
                if (kind := self._inside(decoded, finder)) is not None:
                    yield Found(*view.span(start, end), kind)

    def _inside(self, decoded: str, finder: Finder) -> str | None:
        """The most telling kind of what stands in a text that was decoded."""
        if any(self._secrets.find_folded(decoded)):
            return SECRET
        return min(inside, key=_rank).kind if (inside := finder.find(decoded)) else None

    def _split(self, parts: Parts, found: list[Found], finder: Finder) -> Iterator[Found]:
        """What begins in one item of a list and ends in a later one. Items with finds of their own are left to those."""
        items = [[parts.span(part) for part in column] for column in parts.columns]
        joined = END.join("".join(parts.text[start:end] for start, end in column) for column in items)
        taken = {parts.at(hit.start) for hit in found}
        edges, pieces, at = list[int](), list[tuple[int, int, int]](), 0
        for numbers, column in zip(parts.columns, items, strict=True):
            for part, (start, end) in zip(numbers, column, strict=True):
                edges.append(at)
                pieces.append((part, start, end))
                at += end - start
            at += len(END)
        for hit in self._search(joined, finder):
            first, last = bisect_right(edges, hit.start) - 1, bisect_right(edges, hit.end - 1) - 1
            touched = pieces[first : last + 1]
            if first < last and (hit.kind == SECRET or not any(part in taken for part, _, _ in touched)):
                for edge, (_, start, end) in zip(edges[first : last + 1], touched, strict=True):
                    yield Found(start + max(0, hit.start - edge), min(end, start + hit.end - edge), hit.kind)


class _Cut:
    """The value without what was found."""

    def __init__(self, parts: Parts, found: list[Found], book: TokenBook | None) -> None:
        self._parts = parts
        self._book = book
        self._withheld = 0
        self._kinds: set[str] = set()
        self._hits: dict[int, list[Found]] = {}
        tokens = book.places(parts.text) if book is not None and "⟦" in parts.text else []
        for hit in found:
            if hit.kind == SECRET or not _is_within(hit, tokens):
                self._place(hit)

    def released(self) -> Released:
        touched: Container[int] = self._hits.keys() | self._parts.rules.keys()
        if self._book is not None and "⟦" in self._parts.text:
            touched = range(len(self._parts))
        value = self._parts.rebuilt(touched, self._shown)
        return Released(value, self._withheld, frozenset(self._kinds))

    def _place(self, hit: Found) -> None:
        """Note a hit with each part it touches, counted from the start of that; what touches none was a cue."""
        for part in range(self._parts.at(hit.start), len(self._parts)):
            start, end = self._parts.span(part)
            if start >= hit.end:
                return
            low, high = max(start, hit.start), min(end, hit.end)
            if low < high and (hit.kind in _NEVER_SHOWN or part not in self._parts.raw):
                self._hits.setdefault(part, []).append(Found(low - start, high - start, hit.kind))

    def _shown(self, part: int, value: Json) -> Json:
        rule = self._parts.rules.get(part)
        if rule is not None:
            return self._by_rule(rule, value)
        hits = self._hits.get(part)
        if not isinstance(value, str):
            return self._instead(min(hits, key=_rank).kind, value) if hits else value
        if not hits:
            return self._disarmed(value)
        shown, at = "", 0
        for start, end, kind in _merged(hits):
            shown += self._disarmed(value[at:start]) + self._instead(kind, value[start:end])
            at = end
        return shown + self._disarmed(value[at:])

    def _by_rule(self, rule: FieldRule, value: Json) -> Json:
        if value == "" or (self._book is not None and isinstance(value, str) and self._book.has(value)):
            return value
        return self._instead(rule.kind, value)

    def _instead(self, kind: str, value: Json) -> str:
        self._withheld += 1
        self._kinds.add(kind)
        if self._book is None or kind in _NEVER_SHOWN or isinstance(value, bool):
            return _withheld(kind)
        token = self._book.token(kind, value) if isinstance(value, str | int | float) else None
        if token is not None:
            return token
        return _withheld(kind)

    def _disarmed(self, text: str) -> str:
        return self._book.disarm(text) if self._book is not None and "⟦" in text else text


def _is_within(hit: Found, places: list[tuple[int, int]]) -> bool:
    at = bisect_right(places, hit.start, key=itemgetter(0)) - 1
    return at >= 0 and hit.end <= places[at][1]


def _merged(hits: list[Found]) -> list[Found]:
    """In order, those that overlap as one, of the most telling kind."""
    merged: list[Found] = []
    for hit in sorted(hits):
        if merged and hit.start < merged[-1].end:
            last = merged[-1]
            merged[-1] = Found(last.start, max(last.end, hit.end), min(last, hit, key=_rank).kind)
        else:
            merged.append(hit)
    return merged


def _rank(hit: Found) -> int:
    return _RANK.get(hit.kind, len(_RANK))


def _withheld(kind: str) -> str:
    return f"[withheld: {kind}]"
