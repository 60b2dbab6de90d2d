"""Long results of reads, a part at a time: the first in the answer of the read, the others with `result_more`.

Each part is a call of the read itself whose source is not asked again: decided, checked, released and recorded like any
other. The whole is released first and cut then. What is still to be told is kept in memory, for a while, and is one
person's, at one client, in one task.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from comptroller_audit.ambient import Clock, Ids
from comptroller_audit.vocabulary import Code, JsonObject, Refusal
from comptroller_server.call.case import Cached, Case, Cut, Refused, Taken
from comptroller_server.call.fitting import fitted
from comptroller_server.call.upstream_words import check_quarantine
from comptroller_tools.catalogue import Catalogue, Tool
from comptroller_tools.parts import CannotCut, Place, part_from
from comptroller_tools.validation import Validator, compile_schema

__all__ = ["MORE", "MORE_SCHEMA", "MORE_TEXT", "Parts"]

MORE: Final = "result_more"
MORE_TEXT: Final = (
    "The next part of a result that was too long for one answer. Give the `more` of the part before it."
)
MORE_SCHEMA: Final[JsonObject] = {
    "type": "object",
    "properties": {"more": {"type": "string", "minLength": 1, "maxLength": 64}},
    "required": ["more"],
    "additionalProperties": False,
}
ENTRY_BYTES: Final = 1_024
"""What a result takes beside its text, roughly."""

_GIVEN = compile_schema(MORE_SCHEMA)
_Owner = tuple[str, str, str, str]


@dataclass(slots=True)
class _Entry:
    """A result that is told in parts. `starts` says of each part that may be asked for where it begins."""

    owner: _Owner
    tool: str
    definition: str
    arguments: JsonObject
    text: str
    call: str
    read_ms: int
    at: float
    starts: dict[int, Mapping[Place, int]] = field(default_factory=dict[int, Mapping[Place, int]])

    @property
    def bytes(self) -> int:
        return len(self.text) + ENTRY_BYTES


class Parts:
    """What one process still has to tell: for `lives_s` seconds after it was read, `bytes_max` in all."""

    def __init__(self, catalogue: Catalogue, clock: Clock, ids: Ids, lives_s: float, bytes_max: int) -> None:
        self._catalogue = catalogue
        self._clock = clock
        self._ids = ids
        self._lives_s = lives_s
        self._bytes_max = bytes_max
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._bytes = 0
        self._advertised: dict[str, Validator] = {
            tool.name: compile_schema(tool.advertised_output)
            for tool in catalogue
            if tool.parts is not None and tool.advertised_output is not None
        }

    def take_up(self, case: Case) -> None:
        """In step 3: a `result_more` becomes a call of its read. Raises `Refused`; unknown, foreign and old answer alike."""
        fitted(MORE, _GIVEN, case.proposal.arguments)
        self._forget_old()
        name, _, number = str(case.proposal.arguments["more"]).rpartition("-")
        entry = self._entries.get(name)
        tool = self._catalogue.find(entry.tool) if entry is not None else None
        if entry is None or tool is None or entry.owner != _owner(case) or not number.isascii():
            raise Refused(_gone())
        part = int(number) if number.isdigit() and len(number) < 9 else 0
        if part not in entry.starts or tool.definition.digest != entry.definition:
            raise Refused(_gone())
        check_quarantine(tool, case.call)
        age_s = round(self._clock.monotonic() - entry.at, 3)
        case.tool, case.arguments = tool, entry.arguments
        case.taken = Taken(name, part, entry.starts[part])
        case.cached = Cached(entry.text, entry.call, entry.read_ms, age_s)

    def cut(self, case: Case) -> Refusal | None:
        """In step 13: set what of the released output this answer tells. A refusal where it cannot be cut."""
        case.cut = None
        tool, value = case.tool_in_hand, case.released
        if tool.parts is None or not isinstance(value, dict):
            return None
        taken = case.taken
        try:
            part = part_from(value, tool.parts, taken.starts if taken is not None else None)
        except CannotCut:
            return _too_long(tool, case.call)
        if part is None:
            return None
        handle = taken.name if taken is not None else self._ids.short()
        number = taken.number if taken is not None else 0
        case.cut = Cut(part, handle, number, self._lives_s)
        advertised = self._advertised.get(tool.name)
        if taken is None and advertised is not None and advertised.check(case.cut.told):
            return _too_long(tool, case.call)
        return None

    def keep(self, case: Case) -> None:
        """After step 14: what is still to be told, now that this part of it is on record."""
        cut, outcome = case.cut, case.outcome
        if cut is None or outcome is None or not cut.part.left:
            return
        if case.taken is not None:
            if (known := self._entries.get(case.taken.name)) is not None:
                known.starts[cut.number + 1] = cut.part.ends
            return
        age_s = case.cached.age_s if case.cached is not None else 0.0
        entry = _Entry(
            _owner(case),
            case.tool_in_hand.name,
            case.tool_in_hand.definition.digest,
            case.arguments,
            json.dumps(outcome.value),
            case.cached.call if case.cached is not None else case.call,
            case.cached.read_ms if case.cached is not None else max(case.received_ms, case.window_ms),
            self._clock.monotonic() - age_s,
        )
        entry.starts[1] = cut.part.ends
        self._forget_old()
        self._entries[cut.handle] = entry
        self._bytes += entry.bytes
        while self._bytes > self._bytes_max:
            self._drop(self._oldest_of_whom_has_most())

    def _forget_old(self) -> None:
        now = self._clock.monotonic()
        for name, entry in list(self._entries.items()):
            if now - entry.at >= self._lives_s:
                self._drop(name)

    def _oldest_of_whom_has_most(self) -> str:
        """So that whoever reads a lot pushes out their own."""
        held = Counter[tuple[str, str]]()
        for entry in self._entries.values():
            held[entry.owner[:2]] += entry.bytes
        whose = max(held, key=held.__getitem__)
        return next(name for name, entry in self._entries.items() if entry.owner[:2] == whose)

    def _drop(self, name: str) -> None:
        self._bytes -= self._entries.pop(name).bytes


def _owner(case: Case) -> _Owner:
    return case.tenant, case.subject.principal.id, case.subject.actor.id, case.task.id


def _gone() -> Refusal:
    text = (
        "There is no such part to read: it belongs to another task, or it was kept long enough and is gone. Make the read "
        "again, and narrow it where you can."
    )
    return Refusal(Code.RESULT_GONE, text, "other_arguments")


def _too_long(tool: Tool, call: str) -> Refusal:
    text = (
        f"What `{tool.name}` returned is too long for one answer and cannot be told in parts, so it is withheld. Ask for "
        "less of it."
    )
    return Refusal(Code.OUTPUT_INVALID, text, "other_arguments", call)
