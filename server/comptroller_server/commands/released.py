"""Records as a person may see them: every packet is released again for whoever looks at it.

The ids, digests and counts of a packet are ours and stay; what agents, tools and upstreams said goes through the one
road, by the configuration's rules and by those that the packet noted of its tool's schemas.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from comptroller_audit.calls import CALLS, log_indexes
from comptroller_audit.query import Logged, entries
from comptroller_audit.redaction import Audience
from comptroller_audit.store import Reader
from comptroller_audit.tokens import TokenBook
from comptroller_audit.vocabulary import Json, JsonObject
from comptroller_server.call.books import read_book
from comptroller_server.call.roads import Roads, is_our_id, roads_by_config
from comptroller_server.commands.record import CallRecord, read_call
from comptroller_server.installation import TENANT, Installation

__all__ = ["Reading", "shown_call"]

_OURS = frozenset(
    {
        "v", "call", "attempt", "task", "step", "principal", "principal_roles", "actor", "bundle", "tool", "source",
        "effect", "definition", "record", "citations", "refs", "redact", "history", "basis", "approval", "approval_digests", "roles", "claims", "approvals", "counted", "holds",
        "deadline_s", "effect_key", "state", "withheld", "action", "original", "owner", "recovered_by", "refusals",
        "switch_seq", "tokens_used", "derived", "provenance", "evidence", "cause", "took_ms",
    }
)  # fmt: skip
"""Members that we make ourselves, out of ids, names of the configuration, numbers and words of the vocabulary."""
WITHHELD = "[withheld: unsearchable]"
CALLS_MAX = 1_000
"""Calls whose way of reading is kept while a log is followed."""
_is_digest = re.compile(r"[0-9a-f]{64}").fullmatch
_NEVER = "tokens_given"
"""The values behind tokens: nobody is shown those."""


class Reading:
    """Packets of one call, or of a whole log, for the person at this terminal."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._calls: dict[str, _Packets] = {}

    def book(self, reader: Reader, task: str) -> TokenBook | None:
        """The tokens of a task, so that a person reads the very words the agent read."""
        return read_book(reader, self._installation.ring, TENANT, task)

    def call(self, reader: Reader, record: CallRecord) -> CallRecord:
        """A call's record with every packet released."""
        book = self.book(reader, record.row["task"])
        return replace(record, logged=self.released(str(record.row["tool"]), record.logged, book))

    def released(self, tool: str, logged: Sequence[Logged], book: TokenBook | None) -> list[Logged]:
        """The entries of one call."""
        packets = self.of(tool, (entry.packet for entry in logged))
        return [packets.entry(entry, book) for entry in logged]

    def entry(self, reader: Reader, entry: Logged) -> Logged:
        """One entry of the whole log. There are no tokens in it: it is of many tasks."""
        call = str(entry.envelope.get("call") or "")
        if call not in self._calls:
            if len(self._calls) >= CALLS_MAX:
                self._calls.clear()
            row = reader.row(TENANT, CALLS, call) if call else None
            logged = entries(reader, self._installation.ring, TENANT, log_indexes(row)) if row else []
            self._calls[call] = self.of(str(row["tool"]) if row else "", (each.packet for each in logged))
        return self._calls[call].entry(entry, None)

    def packet(self, packet: JsonObject, book: TokenBook | None) -> JsonObject:
        """A packet that names its own tool, or none."""
        return self.of(str(packet.get("tool") or ""), [packet]).packet(packet, book)

    def of(self, tool: str, packets: Iterable[JsonObject | None]) -> _Packets:
        """How to read the packets of a call: by its tool, and by what one of them noted of the tool's schemas."""
        config = self._installation.config
        noted = (packet.get("redact") for packet in packets if packet is not None)
        marked: JsonObject = next((each for each in noted if isinstance(each, dict)), dict[str, Json]())
        roads = roads_by_config(
            self._installation.release,
            config.tools,
            config.safety.patterns,
            cast("Mapping[str, str]", marked),
            tool,
        )
        known = config.tool(tool)
        return _Packets(self, roads, tool, known.recover.tool if known and known.recover else None)


@dataclass(frozen=True, slots=True)
class _Packets:
    """Releases packets of calls of `tool`. `found_by` is the tool that recovery looks with."""

    reading: Reading
    roads: Roads
    tool: str
    found_by: str | None

    def entry(self, entry: Logged, book: TokenBook | None) -> Logged:
        return entry if entry.packet is None else replace(entry, packet=self.packet(entry.packet, book))

    def packet(self, packet: JsonObject, book: TokenBook | None) -> JsonObject:
        return {name: self._member(name, value, book) for name, value in packet.items() if name != _NEVER}

    def _member(self, name: str, value: Json, book: TokenBook | None) -> Json:
        """What stands under a name, wherever in the packet that is: several records hold arguments and facts."""
        roads, person = self.roads, Audience.PERSON
        if name == "step" and isinstance(value, dict):  # of a hand-off: a call of another tool
            return self.reading.packet(value, book)
        if name in _OURS:
            return value
        if name in ("arguments", "input"):
            return roads.arguments(self.tool).release(value, person, book).value
        if name == "output":
            if self.found_by is not None:  # then it may have the fields of what recovery found
                value = roads.output(self.found_by).release(value, person, book).value
            return roads.output(self.tool).release(value, person, book).value
        if isinstance(value, dict):
            if name in ("facts", "after"):
                return roads.facts(self.tool, value, person, book)
            return self._members(value, book)
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            return [
                self._proved(item)
                if name == "proof" and isinstance(item, dict)
                else self._member("", item, book)
                for item in value
            ]
        if isinstance(value, str) and (is_our_id(value) or _is_digest(value)):
            return value
        shown = roads.release({name: value}, person, book).value
        return shown[name] if isinstance(shown, dict) and name in shown else WITHHELD

    def _members(self, members: JsonObject, book: TokenBook | None) -> JsonObject:
        fact, path, read_by = (members.get(key) for key in ("fact", "path", "tool"))
        shown: JsonObject = {}
        for name, value in members.items():
            if name in ("expected", "found") and isinstance(fact, str):
                if isinstance(path, str):
                    shown[name] = self.roads.at(self.tool, fact, path, value, Audience.PERSON, book)
                else:
                    road = self.roads.output(str(read_by))
                    shown[name] = road.release(value, Audience.PERSON, book).value
            else:
                shown[name] = self._member(name, value, book)
        return shown

    def _proved(self, condition: JsonObject) -> JsonObject:
        """A condition of success, with the fields of the tool it was looked up with."""
        tool, checks = str(condition.get("tool")), condition.get("checks")
        found = checks if isinstance(checks, list) else []
        return {
            **condition,
            "checks": [self._side(tool, check) for check in found if isinstance(check, dict)],
        }

    def _side(self, tool: str, check: JsonObject) -> JsonObject:
        path = str(check.get("path"))
        sides = {
            side: self.roads.output_at(tool, path, check.get(side), Audience.PERSON)
            for side in ("expected", "found")
        }
        return {**check, **sides}


def shown_call(reader: Reader, installation: Installation, wanted: str) -> CallRecord:
    """`read_call` for a person's eyes. Raises what that raises."""
    return Reading(installation).call(reader, read_call(reader, installation.ring, wanted))
