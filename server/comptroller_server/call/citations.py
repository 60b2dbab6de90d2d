"""Citations: which refs a call may rely on (step 4), whether they still hold (step 6), which it gives (step 13).

A citation counts when its record was read and released in this very task, by a source whose reads count, not too
long ago, and was not one line of a list. When a looked-up fact shows a cited record at another version, the agent
decided from what is no longer so, and is told what changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, cast

import structlog

from comptroller_audit.ambient import Clock, Ids
from comptroller_audit.calls import CALLS, CLAIMS, log_indexes
from comptroller_audit.canonical import canonical_bytes, keyed_digest
from comptroller_audit.database import Row
from comptroller_audit.errors import KeyRingError, SealBroken
from comptroller_audit.query import entries
from comptroller_audit.redaction import Audience
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import Reader, Store
from comptroller_audit.unit import Refuse
from comptroller_audit.vocabulary import Code, Json, JsonObject, RecordType, Refusal
from comptroller_policy.engine import Bundle
from comptroller_policy.errors import ExpressionError
from comptroller_policy.expressions import render
from comptroller_server.call.case import Case, Refused
from comptroller_server.call.changes import changes
from comptroller_server.call.lookups import unavailable
from comptroller_server.call.roads import Roads
from comptroller_tools.catalogue import Catalogue, Tool
from comptroller_tools.citing import CitationTerms, age, citable_kinds, one, record_kind, span
from comptroller_tools.errors import RecordPathError
from comptroller_tools.records import ShownRecord, records_in, released_records
from comptroller_tools.refs import REFS, NewRef, cited, ref_row_id

__all__ = ["Citations", "uncited"]

_log = structlog.stdlib.get_logger()

CONTENT: Final = "content:"
"""Begins the version of a record that declares none: a keyed digest of what the tool showed of it."""
_SHOWING = frozenset({RecordType.READ, RecordType.AUDIT})
KEY_CHARS_SHOWN = 80
TOOLS_NAMED_MAX = 3


def uncited(case: Case) -> list[Refuse]:
    """The part, after the claims are taken, that refuses a proposal whose citations do not hold, unless it is a repeat.

    A repeat has stopped before this part: it gets its call's state, whatever it cites by now.
    """
    return [Refuse(case.uncited)] if case.uncited is not None and case.resumed is None else []


class Citations:
    """Reads, judges and gives refs."""

    def __init__(
        self,
        store: Store,
        ring: KeyRing,
        catalogue: Catalogue,
        bundle: Bundle,
        release: Roads,
        clock: Clock,
        ids: Ids,
        terms: CitationTerms,
    ) -> None:
        self._store = store
        self._ring = ring
        self._catalogue = catalogue
        self._bundle = bundle
        self._release = release
        self._clock = clock
        self._ids = ids
        self._terms = terms
        self._kinds = citable_kinds([(tool.config, tool.source.name) for tool in catalogue], terms)

    # -- 4: what may be relied on ---------------------------------------------------------------------------------

    async def read(self, case: Case) -> None:
        """Step 4: what was cited, as it was read. Raises `Refused`, but lets a repeat of a known call pass."""
        tool = case.tool_in_hand
        if case.resumed is not None or tool.is_read:
            return  # a stored proposal was judged when it was made; what changed since then is `recheck`'s
        refusal = await self._judged(case, tool)
        if refusal is not None:
            await self._stop(case, refusal)

    def still_enough(self, case: Case) -> None:
        """For an edited proposal: its citations were judged when it was made, and must stand for what it acts on now."""
        if (refusal := self._missing(case, case.tool_in_hand)) is not None:
            raise Refused(refusal)

    async def _judged(self, case: Case, tool: Tool) -> Refusal | None:
        wanted = [str(ref) for ref in cast("list[Json]", (case.why or {}).get("citations") or [])]
        found, now_ms = await self._rows(case, wanted) if wanted else ({}, 0)
        for ref in wanted:
            if ref not in found:
                shown = json.dumps(ref[:40])
                text = f"{shown} is no ref of this task. Read the record again and cite the ref it gives."
                return Refusal(Code.CITATION_STALE, text, "other_arguments")
        case.citations = [cited(row, ref, made_by, now_ms) for ref, (row, made_by) in found.items()]
        for citation in case.citations:
            if (refusal := self._too_old(citation) or self._elsewhere(citation)) is not None:
                return refusal
        return self._missing(case, tool)

    async def _rows(self, case: Case, wanted: list[str]) -> tuple[dict[str, tuple[Row, str]], int]:
        """The refs of this task by their id, each with the tool that gave it, and the moment they are judged at.

        That moment is never before the newest record: a clock set back makes no old ref young again.
        """
        # No ref of ours holds a control character, and some of them no database can be asked for.
        ids = {ref: ref_row_id(case.task.id, ref) for ref in wanted if ref.isprintable()}

        def load(reader: Reader) -> tuple[dict[str, Row], dict[str, Row], int]:
            rows = reader.rows(case.tenant, REFS, list(ids.values()))
            calls = reader.rows(case.tenant, CALLS, list({row["call"] for row in rows.values()}))
            head = reader.head(case.tenant)
            return rows, calls, head.record_ms if head is not None else 0

        rows, calls, newest_ms = await self._store.read(load)
        found = {
            ref: (rows[id_], str(calls[rows[id_]["call"]]["tool"]))
            for ref, id_ in ids.items()
            if id_ in rows and rows[id_]["call"] in calls
        }
        return found, max(self._clock.now_ms(), newest_ms)

    def _too_old(self, citation: JsonObject) -> Refusal | None:
        age_ms, fresh_ms = cast("int", citation["age_ms"]), self._terms.fresh_ms
        if fresh_ms is None or age_ms <= fresh_ms:
            return None
        text = (
            f"{self._named(citation)} was read {age(age_ms)} ago; here a ref can be cited for "
            f"{span(fresh_ms)}. Read the record again and cite the ref it gives."
        )
        return Refusal(Code.CITATION_STALE, text, "other_arguments")

    def _elsewhere(self, citation: JsonObject) -> Refusal | None:
        """Refs given before the configuration changed, by a tool or source that does not count any more."""
        tool = self._catalogue.find(str(citation["tool"]))
        if tool is not None and self._terms.may_cite(tool.source.name):
            return None
        text = f"{self._named(citation)} comes from where nothing can be cited here. Leave it out."
        return Refusal(Code.CITATION_MISSING, text, "other_arguments")

    def _missing(self, case: Case, tool: Tool) -> Refusal | None:
        """The kinds of record, and the record acted on, that no cited ref stands for. Lists do not count."""
        if not tool.needs_citation:
            return None
        read = [citation for citation in case.citations if not citation["listed"]]
        lacking: list[str] = []
        if case.record is not None and not any(
            _is_record(c, case.record.kind, case.record.key) for c in read
        ):
            key = self._quoted(case.record.key)
            lacking.append(f"the {case.record.kind} {key} it acts on{self._by(case, case.record.kind)}")
        own = record_kind(tool.config)
        lacking += [
            f"{one(kind)}{self._by(case, kind)}"
            for kind in dict.fromkeys(tool.config.cites)
            if kind != own and all(citation["kind"] != kind for citation in read)
        ]
        if not lacking and read:
            return None
        what = " and ".join(lacking) or "the records you rely on"
        text = (
            f"`{tool.name}` needs citations: read {what}, and cite the ref of that read in `why.citations`. Only refs "
            "given in this task count, and refs from lists do not."
        )
        return Refusal(Code.CITATION_MISSING, text, "other_arguments")

    def _by(self, case: Case, kind: str) -> str:
        """The reads that give such a ref, as far as the caller may know of them."""
        names = [name for name in self._kinds.get(kind, ()) if self._bundle.visible(case.subject, name)]
        named = " or ".join(f"`{name}`" for name in names[:TOOLS_NAMED_MAX])
        return f" (with {named})" if named else ""

    # -- 6: whether it still holds --------------------------------------------------------------------------------

    async def compare(self, case: Case) -> None:
        """After step 6: a cited record that a fact shows at another version is stale. Raises `Refused`."""
        if case.resumed is not None or case.uncited is not None or not case.citations:
            return
        tool = case.tool_in_hand
        for name, value in case.facts.items():
            fact = tool.config.facts[name]
            reader = self._catalogue.find(fact.tool)
            assert reader is not None  # it was just read
            asked = reader.shaping.filled(cast("JsonObject", render(dict(fact.arguments), case.scope)))
            for record in self._shown(case, reader, asked, value):
                for citation in case.citations:
                    if _moved(citation, record, reader.name):
                        await self._stop(case, await self._changed(case, citation, reader, value))
                        return

    def _shown(self, case: Case, reader: Tool, arguments: Any, value: Any) -> tuple[ShownRecord, ...]:
        try:
            shown = records_in(reader.config.records, value, arguments, self._digest(case.tenant))
        except (ExpressionError, RecordPathError) as error:
            raise Refused(unavailable(case, str(error))) from error
        return tuple(record for record in shown if not record.listed)

    async def _changed(self, case: Case, citation: JsonObject, reader: Tool, value: Any) -> Refusal:
        if not case.may_tell_facts():
            return unavailable(case, "a cited record changed since it was read")
        told = "; ".join(await self._what_changed(case, citation, reader, value))
        text = (
            f"{self._named(citation)} has changed since you read it{f': {told}' if told else ''}. Read it again, and "
            "cite its new ref if the call is still right."
        )
        return Refusal(Code.CITATION_STALE, text, "other_arguments", case.call)

    async def _what_changed(self, case: Case, citation: JsonObject, reader: Tool, value: Any) -> list[str]:
        """Fields before and after, from the sealed record of the read; nothing when another tool had read it."""
        if citation["tool"] != reader.name:
            return []
        call = str(citation["call"])

        def load(records: Reader) -> Json:
            row = records.row(case.tenant, CALLS, call)
            logged = entries(records, self._ring, case.tenant, log_indexes(row) if row else ())
            packets = [e.packet for e in logged if e.type in _SHOWING and e.packet is not None]
            return packets[-1].get("output") if packets else None

        try:
            before = await self._store.read(load)
        except (KeyRingError, SealBroken) as error:
            _log.warning("a cited read cannot be read again", call=call, error=type(error).__name__)
            return []
        road = self._release.output(reader.name)
        return changes(
            road.release(before, Audience.MODEL, case.book).value,
            road.release(value, Audience.MODEL, case.book).value,
        )

    # -- 13: which refs are given ---------------------------------------------------------------------------------

    def given(self, case: Case, output: Json) -> tuple[NewRef, ...]:
        """Refs of the records that the answer shows. Only released content makes a ref: `output` is what came back,
        before anything was withheld from it."""
        tool = case.tool_in_hand
        if not self._terms.may_cite(tool.source.name):
            return ()
        told, kept = case.released, case.kept
        if case.cut is not None:  # what is not told yet cannot be cited
            told = case.cut.part.lists_of(told)
        if case.cut is not None and case.taken is not None:
            kept, output = case.cut.part.lists_of(kept), case.cut.part.lists_of(output)
        try:
            shown = released_records(
                tool.config.records,
                told,
                kept,
                output,
                case.arguments,
                self._digest(case.tenant),
            )
        except RecordPathError:
            return ()  # what was withheld cannot be cited
        return tuple(
            NewRef(self._ids.short(), r.kind, r.key, r.version, r.listed)
            for r in shown
            if case.taken is None or r.listed  # the others were given with the first part
            if r.key.isprintable() and r.version.isprintable()  # no database keeps every control character
        )

    # -- parts ----------------------------------------------------------------------------------------------------

    async def _stop(self, case: Case, refusal: Refusal) -> None:
        """Refuse, but for a repeat of a call on record: that gets its call's state, and its commit sees to it."""
        held = [claim.id for claim in case.claims]
        rows = await self._store.read(lambda reader: reader.rows(case.tenant, CLAIMS, held))
        if not any(row["call"] for row in rows.values()):
            raise Refused(refusal)
        case.uncited = refusal

    def _digest(self, tenant: str) -> Callable[[Any], str]:
        """Of content whose record declares no version. Keyed: it is shown, and must not tell what was withheld."""
        return lambda shown: (
            CONTENT + keyed_digest(self._ring.claim_key(tenant), "content", canonical_bytes(shown))[:32]
        )

    def _named(self, citation: JsonObject) -> str:
        return f"{citation['kind']} {self._quoted(str(citation['key']))} (ref {citation['ref']})"

    def _quoted(self, text: str) -> str:
        return json.dumps(self._release.text(text, Audience.MODEL)[:KEY_CHARS_SHOWN])


def _is_record(citation: JsonObject, kind: str, key: str) -> bool:
    return citation["kind"] == kind and citation["key"] == key


def _moved(citation: JsonObject, record: ShownRecord, reader: str) -> bool:
    """Whether the cited record stands at another version now. Digests compare only within one tool's own output."""
    if citation["listed"] or not _is_record(citation, record.kind, record.key):
        return False
    before, now = str(citation["version"]), record.version
    if before.startswith(CONTENT) or now.startswith(CONTENT):
        return citation["tool"] == reader and before != now
    return before != now
