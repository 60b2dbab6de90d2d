"""`release(value, audience)`: the only road from inside to any sink.

Field rules come first, patterns second, and configured secrets always. A value is searched as one text, its parts
between END characters, so that each pattern runs once and the name of a member is a cue for what stands in it; what
is found is then cut out of the parts. docs/redaction.md has the table of who sees what, and the measured figures.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, cast
from urllib.parse import quote

from comptroller_audit.disguises import base64_runs, folded, views
from comptroller_audit.fields import Audience, FieldRule, Fields
from comptroller_audit.patterns import AFTER_KEY, CREDENTIALS, END, Finder, Found, Pattern
from comptroller_audit.tokens import Scalar, TokenBook
from comptroller_audit.vocabulary import Json

__all__ = ["Audience", "FieldRule", "Pattern", "Release", "Released"]

SECRET_CHARS_MIN: Final = 6
"""Shorter secrets are not searched for: they would match by chance everywhere."""
SECRET: Final = "secret"  # noqa: S105 -- the name of a kind
UNSEARCHABLE: Final = "unsearchable"
_RANK: Final = {
    kind: i for i, kind in enumerate((SECRET, CREDENTIALS, "iban", "card_number", "national_id", "email"))
}
_ACROSS: Final = frozenset({Pattern.EMAIL, Pattern.IBAN, Pattern.API_KEY})
"""Patterns that are told from chance well enough to be looked for across two items of a list."""
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
_DIGITS_MIN: Final = 1_000
"""A smaller whole number is no card, phone, id or last four."""


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
        self._secrets = _Secrets(secrets)
        self._fields = Fields(fields)
        self._everything = Finder(patterns)
        self._credentials = Finder({CREDENTIALS} & set(patterns))
        self._across = Finder(_ACROSS & set(patterns))

    def with_fields(self, fields: Collection[FieldRule]) -> Release:
        """The same road for a tool with field rules of its own, which take the place of these."""
        other = object.__new__(Release)
        other._secrets, other._everything = self._secrets, self._everything
        other._credentials, other._across = self._credentials, self._across
        other._fields = Fields(fields)
        return other

    def release(self, value: Json, audience: Audience, book: TokenBook | None = None) -> Released:
        """`value` for `audience`. Never raises: what cannot be searched is withheld as a whole.

        MODEL and PERSON see tokens of `book` in place of personal data, or without one `[withheld: KIND]`; LOG sees
        `[withheld: KIND]` always; RECORD keeps personal data, because payloads are sealed, unless a field rule says
        otherwise. Nobody sees configured secrets or credentials. What holds nothing to withhold comes back itself.
        """
        keeps = audience is Audience.RECORD
        finder = self._credentials if keeps else self._everything
        if not (finder or self._secrets or self._fields):
            return Released(value, 0)
        try:
            parts = _Parts(value, self._fields, audience)
            found = self._find(parts, finder)
            return _Rebuilt(parts, found, None if audience is Audience.LOG else book).released(value)
        except Exception:  # noqa: BLE001 -- fail closed
            # Whatever went wrong, what was not searched is not shown. The cause may quote the value: it is dropped.
            return Released(_withheld(UNSEARCHABLE), 1, frozenset({UNSEARCHABLE}))

    def text(self, text: str, audience: Audience, book: TokenBook | None = None) -> str:
        return cast("str", self.release(text, audience, book).value)

    def finds_secret(self, value: Json) -> bool:
        """Whether a configured secret, or with Pattern.API_KEY any credential, stands in `value`.

        Arguments with one are never sent.
        """
        return bool(self.finds(value) & {SECRET, CREDENTIALS.value, UNSEARCHABLE})

    def finds(self, value: Json) -> frozenset[str]:
        """The kinds of what stands in `value`, field rules aside; for arguments on their way out."""
        if not (self._everything or self._secrets):
            return frozenset()
        return self.with_fields(()).release(value, Audience.LOG).kinds

    def _find(self, parts: _Parts, finder: Finder) -> list[Found]:
        text = parts.text()
        found = list(self._search(text, finder))
        if parts.columns:
            across = self._across if finder is self._everything else self._credentials
            found += self._split(parts, text, found, across)
        return found

    def _search(self, text: str, finder: Finder) -> Iterator[Found]:
        yield from self._secrets.find(text)
        for view in views(text):
            for start, end, kind in (*finder.find(view.text), *self._secrets.find_folded(view.text)):
                yield Found(*view.span(start, end), kind)
            for start, end, decoded in base64_runs(view.text):
                inside = [*finder.find(decoded), *self._secrets.find_folded(decoded)]
                if inside:
                    yield Found(*view.span(start, end), min(inside, key=_rank).kind)

    def _split(self, parts: _Parts, text: str, found: list[Found], finder: Finder) -> Iterator[Found]:
        """What begins in one item of a list and ends in the next, and is no more than an item that was found itself."""
        taken = {parts.at(hit.start) for hit in found}
        for column in parts.columns:
            items = [parts.span(i) for i in column]
            joined = "".join(text[start:end] for start, end in items)
            edges = [0]
            for start, end in items:
                edges.append(edges[-1] + end - start)
            for hit in self._search(joined, finder):
                first, last = bisect_right(edges, hit.start) - 1, bisect_right(edges, hit.end - 1) - 1
                own = hit.kind != SECRET and any(column[i] in taken for i in range(first, last + 1))
                if first < last and not own:
                    for i in range(first, last + 1):
                        start = items[i][0] + max(0, hit.start - edges[i])
                        yield Found(start, min(items[i][1], items[i][0] + hit.end - edges[i]), hit.kind)


class _Secrets:
    """Configured secrets, as they are and as they look in base64, percent-encoding and hexadecimal."""

    def __init__(self, secrets: Iterable[str]) -> None:
        plain, encoded, exotic = dict[str, None](), dict[str, None](), dict[str, None]()
        for secret in secrets:
            if len(secret) < SECRET_CHARS_MIN:
                continue
            raw = secret.encode()
            forms = (secret, quote(secret, safe=""), quote(secret), raw.hex(), raw.hex().upper())
            plain |= dict.fromkeys(forms)
            encoded |= dict.fromkeys(_base64_cores(raw))
            if not unicodedata.normalize("NFKC", secret).isascii():
                exotic[unicodedata.normalize("NFKC", secret)] = None
        self._plain = sorted(plain, key=len, reverse=True)
        self._encoded = tuple(encoded)
        self._exotic = tuple(exotic)
        # Folding turns foreign letters into one; such secrets would match by chance, and are compared in NFKC.
        self._folded = tuple(
            {folded(form) for form in plain if unicodedata.normalize("NFKC", form).isascii()}
        )

    def __bool__(self) -> bool:
        return bool(self._plain)

    def find(self, text: str) -> Iterator[Found]:
        for form in self._plain:
            for start in _places(text, form):
                yield Found(start, start + len(form), SECRET)
        for form in self._encoded:
            for start in _places(text, form):
                # The letters at either end hold bits of the secret too, so the whole run goes.
                while start and _BASE64.fullmatch(text[start - 1]):
                    start -= 1
                match = _BASE64.match(text, start)
                yield Found(start, match.end() if match else start + len(form), SECRET)
        if self._exotic and not text.isascii():
            yield from self._find_exotic(text)

    def find_folded(self, text: str) -> Iterator[Found]:
        for form in self._folded:
            for start in _places(text, form):
                yield Found(start, start + len(form), SECRET)

    def _find_exotic(self, text: str) -> Iterator[Found]:
        """Normalisation moves positions, so a part in which such a secret stands is withheld as a whole."""
        start = 0
        for part in text.split(END):
            normal = unicodedata.normalize("NFKC", part)
            if part and any(form in normal for form in self._exotic):
                yield Found(start, start + len(part), SECRET)
            start += len(part) + 1


def _base64_cores(raw: bytes) -> Iterator[str]:
    """What `raw` looks like in base64 at each of the three places it can begin at, in both alphabets, less the
    letters at the ends that it shares with what stands beside it."""
    for before in range(3):
        letters = base64.b64encode(bytes(before) + raw).decode()
        core = letters[(before * 8 + 5) // 6 : (before + len(raw)) * 8 // 6]
        yield core
        yield core.replace("+", "-").replace("/", "_")


def _places(text: str, form: str) -> Iterator[int]:
    at = text.find(form)
    while at >= 0:
        yield at
        at = text.find(form, at + len(form))


@dataclass(slots=True)
class _Leaf:
    """A part of the value: a text, a name or a number."""

    value: Scalar
    text: str
    rule: FieldRule | None = None
    raw: bool = False


@dataclass(slots=True)
class _Object:
    members: list[tuple[int, object]]


class _Parts:
    """A value taken apart: its texts, names and numbers in order, and a plan to put it together again."""

    def __init__(self, value: Json, fields: Fields, audience: Audience) -> None:
        self.leaves: list[_Leaf] = []
        self.columns: list[list[int]] = []
        self._fields = fields
        self._audience = audience
        self._texts: list[str] = []
        self._starts: list[int] = []
        self._length = 0
        self.plan = self._take(value, (), "", None)

    def text(self) -> str:
        return "".join(self._texts)

    def at(self, position: int) -> int:
        """The leaf that stands at a position of the text, or the one before it."""
        return bisect_right(self._starts, position) - 1

    def span(self, leaf: int) -> tuple[int, int]:
        start = self._starts[leaf]
        return start, start + len(self.leaves[leaf].text)

    def _take(self, value: object, path: tuple[str, ...], cue: str, rule: FieldRule | None) -> object:
        """The plan for a value: the number of a leaf, a list or _Object of plans, or a tuple with a value to keep.

        A tuple is searched like a list; what is no JSON at all is kept, as it cannot be read into.
        """
        if isinstance(value, str):
            return self._leaf(value, value, cue, rule)
        if value is None or (rule is None and isinstance(value, bool)):
            return (value,)
        if isinstance(value, int | float):
            if rule is None and (value != value // 1 or not _DIGITS_MIN <= value < 10**19):
                return (value,)
            return self._leaf(value, f"{value:.0f}" if isinstance(value, float) else str(value), cue, rule)
        if isinstance(value, list | tuple):
            first = len(self.leaves)
            items = [self._take(item, path, cue, rule) for item in cast("list[object]", value)]
            if len(items) > 1 and len(self.leaves) > first + 1:
                self._note_columns(items)
            return items
        if isinstance(value, dict):
            if rule is not None and self._audience not in rule.raw_for:
                return self._leaf("{}", "", "", rule)  # an object is withheld as one
            return self._take_object(cast("dict[str, object]", value), path, rule)
        return (value,)

    def _take_object(
        self, value: dict[str, object], path: tuple[str, ...], rule: FieldRule | None
    ) -> _Object:
        members: list[tuple[int, object]] = []
        for key, item in value.items():
            below = (*path, key)
            own = (self._fields.rule(below) if self._fields else None) or rule
            members.append((self._leaf(key, key, "", None), self._take(item, below, _cue(key), own)))
        return _Object(members)

    def _leaf(self, value: Scalar, text: str, cue: str, rule: FieldRule | None) -> int:
        raw = rule is not None and self._audience in rule.raw_for
        if rule is not None and not raw:
            text, cue = "", ""  # what a rule withholds need not be searched
        elif END in text or AFTER_KEY in text:
            text = text.replace(END, " ").replace(AFTER_KEY, " ")
        if cue:
            self._texts.append(cue)
            self._length += len(cue)
        self._starts.append(self._length)
        self._texts += (text, END)
        self._length += len(text) + 1
        self.leaves.append(_Leaf(value, text, None if raw else rule, raw))
        return len(self.leaves) - 1

    def _note_columns(self, items: list[object]) -> None:
        """Texts that follow one another in a list, by themselves or under the same name of its objects."""
        columns: dict[str, list[int]] = {}
        for item in items:
            if isinstance(item, int):
                columns.setdefault("", []).append(item)
            elif isinstance(item, _Object):
                for key, member in item.members:
                    if isinstance(member, int):
                        columns.setdefault(f".{self.leaves[key].value}", []).append(member)
        self.columns += (column for column in columns.values() if len(column) > 1)


@lru_cache(maxsize=4096)
def _cue(key: str) -> str:
    """A member's name as words: `cardLast4` and `card_last4` are `card last4`."""
    if len(key) > 64:
        return ""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", key).replace("_", " ").replace("-", " ").replace(".", " ")
    return words.replace(END, " ").replace(AFTER_KEY, " ") + AFTER_KEY


class _Rebuilt:
    """The value put together again without what was found."""

    def __init__(self, parts: _Parts, found: list[Found], book: TokenBook | None) -> None:
        self._parts = parts
        self._book = book
        self._withheld = 0
        self._kinds: set[str] = set()
        self._hits: dict[int, list[Found]] = {}
        for hit in found:
            self._place(hit)

    def released(self, value: Json) -> Released:
        armed = any("⟦" in leaf.text for leaf in self._parts.leaves)
        if not self._hits and not armed and not any(leaf.rule for leaf in self._parts.leaves):
            return Released(value, 0)
        return Released(self._build(self._parts.plan), self._withheld, frozenset(self._kinds))

    def _place(self, hit: Found) -> None:
        """Note a hit with the leaves it touches, from the start of each; what touches none was a cue."""
        leaf = max(0, self._parts.at(hit.start))
        while leaf < len(self._parts.leaves):
            start, end = self._parts.span(leaf)
            if start >= hit.end:
                return
            low, high = max(start, hit.start), min(end, hit.end)
            credential = hit.kind in (SECRET, CREDENTIALS)
            if low < high and (credential or not self._parts.leaves[leaf].raw):
                self._hits.setdefault(leaf, []).append(Found(low - start, high - start, hit.kind))
            leaf += 1

    def _build(self, plan: object) -> Json:
        if isinstance(plan, int):
            return self._shown(plan)
        if isinstance(plan, list):
            return [self._build(item) for item in cast("list[object]", plan)]
        if isinstance(plan, _Object):
            members: dict[str, Json] = {}
            for key, item in plan.members:
                name, twice = str(self._shown(key)), 1
                while (unique := name if twice == 1 else f"{name} ({twice})") in members:
                    twice += 1  # two names that are withheld must not become one
                members[unique] = self._build(item)
            return members
        return cast("tuple[Json]", plan)[0]

    def _shown(self, index: int) -> Json:
        leaf = self._parts.leaves[index]
        if leaf.rule is not None:
            return self._by_rule(leaf, leaf.rule)
        hits = self._hits.get(index)
        if not isinstance(leaf.value, str):
            return self._instead(min(hits, key=_rank).kind, leaf.value) if hits else leaf.value
        if not hits:
            return self._disarmed(leaf.value)
        shown, at = "", 0
        for start, end, kind in _merged(hits):
            shown += self._disarmed(leaf.value[at:start]) + self._instead(kind, leaf.value[start:end])
            at = end
        return shown + self._disarmed(leaf.value[at:])

    def _by_rule(self, leaf: _Leaf, rule: FieldRule) -> Json:
        if leaf.value == "" or (self._book and isinstance(leaf.value, str) and self._book.has(leaf.value)):
            return leaf.value
        self._withheld += 1
        self._kinds.add(rule.kind)
        whole = isinstance(leaf.value, bool) or leaf.value == "{}"
        return self._named(rule.kind, None if whole else leaf.value)

    def _instead(self, kind: str, value: Scalar) -> str:
        self._withheld += 1
        self._kinds.add(kind)
        return self._named(kind, None if kind in (SECRET, CREDENTIALS) else value)

    def _named(self, kind: str, value: Scalar | None) -> str:
        token = self._book.token(kind, value) if self._book is not None and value is not None else None
        return token or _withheld(kind)

    def _disarmed(self, text: str) -> str:
        return self._book.disarm(text) if self._book is not None and "⟦" in text else text


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
