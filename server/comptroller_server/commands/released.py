"""Records as a person may see them: every packet is released again for whoever looks at it.

The ids, digests and counts of a packet are ours and stay; what agents, tools and upstreams said goes through the one
road, by the configuration's rules and by those that the packet noted of its tool's schemas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from comptroller_audit.query import Logged
from comptroller_audit.redaction import Audience
from comptroller_audit.store import Reader
from comptroller_audit.tokens import TokenBook
from comptroller_audit.vocabulary import Json, JsonObject
from comptroller_server.books import read_book
from comptroller_server.commands.record import CallRecord, read_call
from comptroller_server.installation import TENANT, Installation
from comptroller_server.roads import Roads, is_our_id, roads_by_config

__all__ = ["Reading", "shown_call"]

_OURS = frozenset(
    {
        "v", "call", "attempt", "task", "step", "principal", "principal_roles", "actor", "bundle", "tool", "source",
        "effect", "definition", "record", "citations", "refs", "redact", "history", "basis", "approval", "approval_digests", "roles", "claims", "approvals", "counted", "holds",
        "deadline_s", "effect_key", "state", "withheld", "action", "original", "owner", "recovered_by", "refusals",
        "switch_seq", "tokens_used", "before", "derived", "evidence", "cause",
    }
)  # fmt: skip
"""Members that we make ourselves, out of ids, names of the configuration, numbers and words of the vocabulary."""
_NEVER = "tokens"
"""The values behind tokens: nobody is shown those."""


class Reading:
    """Packets of one call, or of a whole log, for the person at this terminal."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation

    def book(self, reader: Reader, task: str) -> TokenBook | None:
        """The tokens of a task, so that a person reads the very words the agent read."""
        book = read_book(reader, self._installation.ring, TENANT, task)
        return book if len(book) else None

    def call(self, reader: Reader, record: CallRecord) -> CallRecord:
        """A call's record with every packet released."""
        book, tool = self.book(reader, record.row["task"]), str(record.row["tool"])
        return replace(record, logged=[self.entry(entry, book, tool) for entry in record.logged])

    def entry(self, entry: Logged, book: TokenBook | None, tool: str = "") -> Logged:
        """A log entry with its packet released."""
        packet = entry.packet
        return entry if packet is None else replace(entry, packet=self.packet(packet, book, tool))

    def packet(self, packet: JsonObject, book: TokenBook | None, tool: str = "") -> JsonObject:
        """`packet` for a person. `tool` is that of its call, for packets that do not name one."""
        tool = str(packet.get("tool") or tool)
        marked = packet.get("redact")
        roads = self._roads(tool, cast("Mapping[str, str]", marked if isinstance(marked, dict) else {}))
        return {
            name: self._member(roads, tool, name, value, book)
            for name, value in packet.items()
            if name != _NEVER
        }

    def _roads(self, tool: str, marked: Mapping[str, str]) -> Roads:
        config = self._installation.config
        patterns = config.safety.patterns
        return roads_by_config(self._installation.release, config.tools, patterns, marked, tool)

    def _member(self, roads: Roads, tool: str, name: str, value: Json, book: TokenBook | None) -> Json:
        if name == "step" and isinstance(value, dict):  # of a hand-off: a call of another tool
            return self.packet(value, book)
        if name in _OURS:
            return value
        if name == "arguments":
            return roads.arguments(tool).release(value, Audience.PERSON, book).value
        if name == "output":
            return self._output(roads, tool, value, book)
        if name == "facts" and isinstance(value, dict):
            return roads.facts(tool, value, Audience.PERSON, book)
        if name in ("shown", "bound") and isinstance(value, dict):
            return {
                inner: item if inner in ("definition", "source", "record", "shown") and name == "bound"
                else self._member(roads, tool, inner, item, book)
                for inner, item in value.items()
            }  # fmt: skip
        if name == "proof":
            return self._proof(roads, value)
        if name == "verification" and isinstance(value, dict):
            return {**value, "checks": self._checks(roads, tool, value.get("checks"), book)}
        if isinstance(value, str) and is_our_id(value):
            return value
        return roads.release(value, Audience.PERSON, book).value

    def _proof(self, roads: Roads, proof: Json) -> Json:
        """Conditions of success, each with the fields of the tool it was looked up with."""
        shown: list[Json] = []
        for one in proof if isinstance(proof, list) else []:
            if isinstance(one, dict):
                tool, checks = str(one.get("tool")), one.get("checks")
                shown.append(
                    {
                        **one,
                        "checks": [_side(roads, tool, c) for c in checks or [] if isinstance(c, dict)]
                        if isinstance(checks, list)
                        else [],
                    }
                )
        return shown

    def _output(self, roads: Roads, tool: str, value: Json, book: TokenBook | None) -> Json:
        """What recovery found has the fields of the tool it looked with."""
        config = self._installation.config.tool(tool)
        if config is not None and config.recover is not None:
            value = roads.output(config.recover.tool).release(value, Audience.PERSON, book).value
        return roads.output(tool).release(value, Audience.PERSON, book).value

    def _checks(self, roads: Roads, tool: str, checks: Json, book: TokenBook | None) -> Json:
        shown: list[Json] = []
        for check in checks if isinstance(checks, list) else []:
            if isinstance(check, dict):
                fact, path = str(check.get("fact")), str(check.get("path"))
                sides = {
                    side: roads.at(tool, fact, path, check.get(side), Audience.PERSON, book)
                    for side in ("expected", "found")
                }
                shown.append({**check, **sides})
        return shown


def _side(roads: Roads, tool: str, check: JsonObject) -> JsonObject:
    path = str(check.get("path"))
    sides = {
        side: roads.output_at(tool, path, check.get(side), Audience.PERSON) for side in ("expected", "found")
    }
    return {**check, **sides}


def shown_call(reader: Reader, installation: Installation, wanted: str) -> CallRecord:
    """`read_call` for a person's eyes. Raises what that raises."""
    return Reading(installation).call(reader, read_call(reader, installation.ring, wanted))
