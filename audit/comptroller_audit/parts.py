"""A value taken apart into one text to search, and put together again around what was found.

The parts (texts, numbers, and each member's name once) stand between END characters. Before a value stands the name
of its member, as words: a cue for patterns, never cut itself.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Container, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Final

from comptroller_audit.fields import Audience, FieldRule, Fields
from comptroller_audit.patterns import AFTER_KEY, END
from comptroller_audit.vocabulary import Json

__all__ = ["Parts"]

NUMBER_MIN: Final = 1_000
NUMBER_MAX: Final = 10**19
"""Whole numbers outside of these are no card, phone, id or last four."""
NAME_CHARS_MAX: Final = 64
"""A longer name is no cue."""
_WORD_ENDS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[_\-.]")
_MARKS: Final = str.maketrans({END: " ", AFTER_KEY: " "})


class Parts:
    """The parts of one value. `rules` has the field rule of each part that is withheld, `raw` those a rule shows."""

    def __init__(self, value: Json, fields: Fields, audience: Audience) -> None:
        self.rules: dict[int, FieldRule] = {}
        self.raw: set[int] = set()
        self.columns: list[list[int]] = []
        self._value = value
        self.fields = fields
        self._has_fields = bool(fields)
        self.audience = audience
        self._segments: list[str] = []
        self._cues: list[int] = []
        self.names: dict[str, int] = {}
        self._starts: list[int] = []
        self._take(value, "", (), None)
        self.text = END.join(self._segments)
        if self.text.count(END) >= max(1, len(self._segments)) or (
            AFTER_KEY in self.text and self._has_marks()
        ):
            self._segments = [self._without_marks(part) for part in range(len(self._segments))]
            self.text = END.join(self._segments)

    def __len__(self) -> int:
        return len(self._segments)

    def span(self, part: int) -> tuple[int, int]:
        """Where a part stands in `text`, without its cue."""
        starts = self._starts
        if not starts:
            starts += (0, *accumulate(len(segment) + 1 for segment in self._segments))
        return self._starts[part] + self._cues[part], self._starts[part + 1] - 1

    def at(self, position: int) -> int:
        """The part at a position of `text`; its cue and the END behind it count as its own."""
        if not self._starts:
            self.span(0)
        return min(bisect_right(self._starts, position), len(self._segments)) - 1

    def rebuilt(self, touched: Container[int], shown: Callable[[int, Json], Json]) -> Json:
        """The value with `shown(part, what stood there)` in place of each part that is `touched`."""
        return _Rebuilding(self, touched, shown).put(self._value, (), None)

    def _take(
        self,
        value: Json,
        cue: str,
        path: tuple[str, ...],
        rule: FieldRule | None,
        column: list[int] | None = None,
    ) -> None:
        """Note the parts of a value. A tuple is read like a list; what is no JSON at all cannot be read into and stays."""
        if isinstance(value, list | tuple):
            self._take_items(value, cue, path, rule)
        elif rule is not None and self.audience not in rule.raw_for:
            if value is not None:
                self.rules[len(self._segments)] = rule
                self._note("", "")
        elif isinstance(value, dict):
            self._take_members(value, path, rule, None)
        elif isinstance(value, str) or _is_number(value):
            if rule is not None:
                self.raw.add(len(self._segments))
            if column is not None and isinstance(value, str):
                column.append(len(self._segments))
            self._note(value if isinstance(value, str) else f"{value:.0f}", cue)

    def _take_members(
        self,
        value: dict[str, Json],
        path: tuple[str, ...],
        rule: FieldRule | None,
        columns: dict[str, list[int]] | None,
    ) -> None:
        names, segments, cues, has_fields = self.names, self._segments, self._cues, self._has_fields
        for key, item in value.items():
            if key not in names:
                names[key] = len(segments)
                segments.append(key)
                cues.append(0)
            if (item is None or item is True or item is False) and not has_fields:
                continue  # nothing to search, and no rule that would withhold it
            cue = _cue(key)
            column = None if columns is None else columns.setdefault(key, [])
            if has_fields:
                below = (*path, key)
                self._take(item, cue, below, self.fields.rule(below) or rule, column)
            elif type(item) is str and rule is None:  # most members, without another call
                if column is not None:
                    column.append(len(segments))
                segments.append(cue + item)
                cues.append(len(cue))
            else:
                self._take(item, cue, path, rule, column)

    def _take_items(
        self, value: Sequence[Json], cue: str, path: tuple[str, ...], rule: FieldRule | None
    ) -> None:
        """Texts that follow one another in a list, by themselves or under one name of its objects, are columns."""
        own: list[int] = []
        columns: dict[str, list[int]] = {}
        for item in value:
            if isinstance(item, dict) and (rule is None or self.audience in rule.raw_for):
                self._take_members(item, path, rule, columns)
            else:
                self._take(item, cue, path, rule, own)
        self.columns += (column for column in (own, *columns.values()) if len(column) > 1)

    def _note(self, text: str, cue: str) -> None:
        self._segments.append(cue + text)
        self._cues.append(len(cue))

    def _has_marks(self) -> bool:
        return self.text.count(AFTER_KEY) > len(self._cues) - self._cues.count(0)

    def _without_marks(self, part: int) -> str:
        cue = self._cues[part]
        return self._segments[part][:cue] + self._segments[part][cue:].translate(_MARKS)


class _Rebuilding:
    """Walks as `Parts._take` does, so that the numbers of the parts agree."""

    def __init__(self, parts: Parts, touched: Container[int], shown: Callable[[int, Json], Json]) -> None:
        self._fields, self._names, self._audience = parts.fields, parts.names, parts.audience
        self._touched = touched
        self._shown = shown
        self._next = 0

    def put(self, value: Json, path: tuple[str, ...], rule: FieldRule | None) -> Json:
        if isinstance(value, list | tuple):
            return [self.put(item, path, rule) for item in value]
        if rule is not None and self._audience not in rule.raw_for:
            if value is None:
                return None
        elif isinstance(value, dict):
            return self._members(value, path, rule)
        elif not isinstance(value, str) and not _is_number(value):
            return value
        part = self._next
        self._next += 1
        return self._shown(part, value) if part in self._touched else value

    def _members(self, value: dict[str, Json], path: tuple[str, ...], rule: FieldRule | None) -> Json:
        members: dict[str, Json] = {}
        names, touched, fields = self._names, self._touched, self._fields
        for key, item in value.items():
            name, part = key, names[key]
            if part == self._next:
                self._next += 1  # a name is noted where it first stands
            if part in touched:
                name = str(self._shown(part, key))
            if name in members:
                name = _unused(name, members)
            if fields:
                below = (*path, key)
                members[name] = self.put(item, below, fields.rule(below) or rule)
            else:
                members[name] = self.put(item, path, rule)
        return members


def _is_number(value: Json) -> bool:
    """Whether it is a whole number that could be somebody's."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return NUMBER_MIN <= value < NUMBER_MAX and value == int(value)


def _unused(name: str, members: dict[str, Json]) -> str:
    """Two names that are withheld must not become one member."""
    tried, again = name, 1
    while tried in members:
        again += 1
        tried = f"{name} ({again})"
    return tried


@lru_cache(maxsize=4096)
def _cue(key: str) -> str:
    """A member's name as words: `cardLast4` and `card_last4` are `card last4`."""
    return _WORD_ENDS.sub(" ", key).translate(_MARKS) + AFTER_KEY if len(key) <= NAME_CHARS_MAX else ""
