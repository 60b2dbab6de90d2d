"""What is exported: the entries of a span, each with its packet as a person may see it and the call it is of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from comptroller_audit.calls import CALLS
from comptroller_audit.database import Row
from comptroller_audit.query import Logged, page
from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import JsonObject, RecordType
from comptroller_server.commands.released import Reading
from comptroller_server.installation import TENANT, Installation
from comptroller_server.reporting.span import PAGE_ENTRIES, Progress

__all__ = ["Exported", "exported"]


@dataclass(frozen=True, slots=True)
class Exported:
    """One entry. `call` is the row of its call, None where it is of none or of one that is gone."""

    entry: Logged
    call: Row | None

    @property
    def packet(self) -> JsonObject:
        """Empty when the payload was erased."""
        return self.entry.packet or {}

    @property
    def call_id(self) -> str:
        return str(self.entry.envelope.get("call") or "")

    @property
    def code(self) -> str:
        """The refusal's code that the packet tells, or none."""
        refusal = self.packet.get("refusal")
        return str(refusal.get("code") or "") if isinstance(refusal, dict) else ""

    def of_call(self, name: str) -> str:
        """A member that the packet says itself, or else its call's row: tool, effect, actor, task."""
        found = self.packet.get(name) or (self.call or {}).get(name) or self.entry.envelope.get(name)
        return str(found) if found is not None else ""

    @property
    def principal(self) -> JsonObject:
        """`{tenant, issuer, subject, kind}`, empty where the packet names nobody."""
        found = self.packet.get("principal")
        return found if isinstance(found, dict) else {}


def exported(
    installation: Installation, span: tuple[int, int], progress: Progress | None = None
) -> Iterator[Exported]:
    """The entries of a span in order, read in ranges beside a serving process; packets are released for a person."""
    reading, every = Reading(installation), frozenset(RecordType)
    first, end = span

    def look(reader: Reader, start: int, stop: int) -> list[Exported]:
        found = page(reader, installation.ring, TENANT, start, stop, every)
        return [Exported(reading.entry(reader, entry), _call_of(reader, entry)) for entry in found]

    for start in range(first, end, PAGE_ENTRIES):
        stop = min(end, start + PAGE_ENTRIES)
        yield from installation.store.read_now(partial(look, start=start, stop=stop))
        if progress is not None:
            progress(stop - first, end - first)


def _call_of(reader: Reader, entry: Logged) -> Row | None:
    call = str(entry.envelope.get("call") or "")
    return reader.row(TENANT, CALLS, call) if call else None
