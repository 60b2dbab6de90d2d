"""Step 6 and the commits: where a call's arguments come from, and what its answer lets the task see.

Only where some policy asks (`Reads.provenance`); then for every read and write, because what is not noted is new.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from comptroller_audit.canonical import keyed_digest
from comptroller_audit.fields import field_path
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import Store
from comptroller_audit.unit import Part
from comptroller_audit.vocabulary import CallState, Json
from comptroller_policy.declarations import Aim, Origin
from comptroller_policy.engine import Bundle
from comptroller_policy.expressions import paths_in
from comptroller_policy.model import Record
from comptroller_policy.paths import json_types
from comptroller_policy.schema import enum_of
from comptroller_server.call.case import Case, Refused
from comptroller_server.call.lookups import unavailable
from comptroller_server.config.model import SourceConfig
from comptroller_server.config.trust import is_trusted
from comptroller_tools.catalogue import Catalogue, Tool
from comptroller_tools.errors import ProvenanceBroken, RecordPathError
from comptroller_tools.provenance import PROVENANCE, Doubt, Marker, NoteMarks, marks_in
from comptroller_tools.records import LISTED_MAX, records_in
from comptroller_tools.wording import first_mentioned, leaves, mentioned_in

__all__ = ["Provenance", "request_marks"]

_TOKEN_LIKE = re.compile("\u27e6")


class Provenance:
    """Weighs arguments, and notes what a task sees. `sources` say whose reads are trusted."""

    def __init__(
        self,
        store: Store,
        ring: KeyRing,
        catalogue: Catalogue,
        bundle: Bundle,
        sources: Mapping[str, SourceConfig],
    ) -> None:
        self._store = store
        self._ring = ring
        self._bundle = bundle
        self._trusted = {tool.name for tool in catalogue if is_trusted(tool, sources)}
        self._written = {tool.name: _written_arguments(tool) for tool in catalogue if not tool.is_read}
        self._apart = {tool.name: [field_path(path) for path in tool.config.untrusted] for tool in catalogue}
        self.in_use = any(bundle.reads(tool.name).provenance for tool in catalogue)

    async def weigh(self, case: Case) -> None:
        """Where the arguments that policy asks about come from, and whether what the call writes is to be doubted.

        Raises `Refused` when what the task has seen cannot be read, `StoreError`.
        """
        tool = case.tool_in_hand
        asked = self._bundle.reads(tool.name).provenance
        if case.compensates is not None:
            # What puts things back takes its arguments from the record of the call that it reverses.
            case.provenance, case.doubtful = dict.fromkeys(sorted(asked), Origin.TRUSTED), False
            return
        written = self._written.get(tool.name, ()) if self.in_use and not tool.config.trusted else ()
        case.provenance, case.doubtful = {}, False
        if not asked and not written:
            return
        row = await self._store.read(lambda reader: reader.row(case.tenant, PROVENANCE, case.task.id))
        try:
            known = marks_in(row)
        except ProvenanceBroken as error:
            raise Refused(unavailable(case, str(error))) from error
        marker, given = self._marker(case), case.arguments
        aims = tool.config.provenance
        case.provenance = {name: marker.weigh(given.get(name), aims[name], known) for name in sorted(asked)}
        found = (marker.weigh(given.get(name), Aim.VALUE, known) for name in written)
        case.doubtful = any(origin in (Origin.UNTRUSTED, Origin.NEW) for origin in found)

    def begins(self, case: Case) -> list[Part]:
        """Step 9: the record that is about to be written, if it is to be doubted. Before the effect, so none is missed."""
        if not self.in_use or not case.doubtful or case.tool_in_hand.is_read or case.record is None:
            return []
        return [Doubt(self._records(case, [case.record]))]

    def ends(self, case: Case) -> list[Part]:
        """Step 14: what a read lets the task see, or the records that a write has made."""
        if not self.in_use or case.state is not CallState.DONE:
            return []
        if case.tool_in_hand.is_read:
            return [self._seen(case)]
        return [Doubt(self._records(case, self._shown(case)))] if case.doubtful else []

    # -- parts ----------------------------------------------------------------------------------------------------

    def _seen(self, case: Case) -> NoteMarks:
        """What was told, as far as it can be believed. What its own arguments held it does not make more trusted: a
        source that repeats the question is no witness."""
        tool, marker = case.tool_in_hand, self._marker(case)
        asked = {form for leaf, _ in leaves(case.arguments) for form in mentioned_in(leaf)}
        records = self._shown(case)
        # A longer list has records that nobody has looked at.
        trusted = tool.name in self._trusted and 0 < len(records) < LISTED_MAX
        believed: dict[str, None] = {}
        others: dict[str, None] = {}
        for form, apart in first_mentioned(leaves(_opened(case), self._apart[tool.name])):
            if form not in asked:
                (others if apart or not trusted else believed)[form] = None
        return NoteMarks(
            case.task.id,
            marker.marks(Origin.TRUSTED, believed),
            marker.marks(Origin.UNTRUSTED, others),
            marker.marks(Origin.UNTRUSTED, believed),
            self._records(case, records) if trusted else (),
        )

    def _shown(self, case: Case) -> list[Record]:
        """The records of a result, and the one that was asked for; none when they cannot be told."""
        value = case.outcome.value if case.outcome is not None else None
        try:
            shown = records_in(case.tool_in_hand.config.records, value, case.arguments, _no_digest)
        except RecordPathError:
            return []
        named = [case.record] if case.record is not None else []
        return [*named, *(Record(record.kind, record.key) for record in shown)]

    def _records(self, case: Case, records: Iterable[Record]) -> tuple[str, ...]:
        key, source = self._ring.claim_key(case.tenant), case.tool_in_hand.source.name.encode()
        parts = ((source, record.kind.encode(), record.key.encode()) for record in records)
        return tuple(dict.fromkeys(keyed_digest(key, "doubted/v1", *part)[:32] for part in parts))

    def _marker(self, case: Case) -> Marker:
        return Marker(self._ring.claim_key(case.tenant), case.task.id)


def request_marks(ring: KeyRing, tenant: str, task: str, request: str) -> NoteMarks:
    """Part: what a trusted request names. One that is JSON counts by its values, else as text."""
    try:
        value: Json = json.loads(request)
    except ValueError:
        value = request
    marks = Marker(ring.claim_key(tenant), task).of_request([request, value])
    return NoteMarks(task, marks)


def _written_arguments(tool: Tool) -> tuple[str, ...]:
    """Arguments that may end up in a record: not those that say which one, nor those that the schema closes."""
    names = {path.split(".")[1] for path in paths_in(tool.config.resource or "") if path.startswith("input.")}
    properties: Any = tool.own_input.get("properties", {})
    return tuple(
        name
        for name, schema in properties.items()
        if name not in names
        and enum_of(tool.own_input, name) is None
        and json_types(schema, tool.own_input) != frozenset({"boolean"})
    )


def _opened(case: Case) -> Json:
    """What the model was told, with values in place of the tokens it was shown."""
    told = case.cut.part.shown if case.cut is not None else case.released
    book = case.book
    if book is None or not _TOKEN_LIKE.search(json.dumps(told, ensure_ascii=False)):
        return told

    def opened(value: Json) -> Json:
        if isinstance(value, str):
            return book.opened(value)
        if isinstance(value, list):
            return [opened(item) for item in value]
        if isinstance(value, dict):
            return {name: opened(item) for name, item in value.items()}
        return value

    return opened(told)


def _no_digest(shown: Any) -> str:
    """Versions are nothing to provenance."""
    del shown
    return ""
