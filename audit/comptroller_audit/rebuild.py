"""Rebuilding one tenant's log from its envelopes, and comparing everything else with that. Part of the verifier."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import cast

from sqlalchemy.exc import SQLAlchemyError

from comptroller_audit.evidence import OpeningKeys
from comptroller_audit.findings import FindingKind, TenantReport
from comptroller_audit.snapshot import Entry, Head, Payload, Snapshot, cause_of
from comptroller_audit.switch_rows import SwitchRows

__all__ = ["Progress", "TenantCheck"]

Progress = Callable[[str, int, int], None]
"""`progress(tenant, entries checked, entries the head row tells of)`, called once a page."""

_Span = tuple[int, int]
_NODES_BAD_MAX = 10_000
_HEX_64 = re.compile(r"[0-9a-f]{64}")
_STATES = {
    "switch_set": "switch_seq",
    "switch_cleared": "switch_seq",
    "rollout_changed": "switch_seq",
    "bundle_activated": "bundle",
}
"""Records that move a column of the head row, and which: the state of the switches, the rules in force."""


class _Tree:
    """RFC 9162 §2.1 rebuilt leaf by leaf: the roots of complete subtrees as (level, hash), largest first."""

    def __init__(self) -> None:
        self.size = 0
        self.peaks: list[tuple[int, bytes]] = []

    def add(self, leaf: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Add a leaf hash; yields (level, index, hash) of each interior node it completes."""
        level, here = 0, leaf
        while self.peaks and self.peaks[-1][0] == level:
            here = sha256(b"\x01" + self.peaks.pop()[1] + here).digest()
            level += 1
            yield level, self.size >> level, here
        self.peaks.append((level, here))
        self.size += 1

    def root(self) -> bytes:
        if not self.peaks:
            return sha256(b"").digest()
        _, here = self.peaks[-1]
        for _, left in reversed(self.peaks[:-1]):
            here = sha256(b"\x01" + left + here).digest()
        return here


class TenantCheck:
    """One pass over one tenant's log."""

    def __init__(
        self,
        snapshot: Snapshot,
        tenant: str,
        checkpoints: dict[int, bytes],
        receipts: dict[int, bytes],
        keys: OpeningKeys | None,
    ) -> None:
        self.snapshot, self.tenant, self.keys = snapshot, tenant, keys
        self.checkpoints, self.receipts = checkpoints, receipts
        self.report = TenantReport(tenant, opened=0 if keys else None)
        self.tree = _Tree()
        self.next = 0  # the index expected next
        self.last_ms = 0
        self.whole = True  # no entry was missing so far: the tree can be compared
        self.changed = False  # an entry so far does not have the leaf it was stored with
        self.bad_nodes: set[tuple[int, int]] = set()
        self.missing: list[_Span] = []  # entries without a payload
        self.erased: list[_Span] = []  # what erasure entries name
        self.blank: list[_Span] = []  # entries without an envelope
        self.pruned: list[_Span] = []  # what pruning entries name
        self.good_size = 0  # size of the newest checkpoint that agreed
        self.bad_checkpoints = 0
        self.stated: dict[str, object] = {}
        """What the newest record that moved it says of a column of the head row. One that does not open says nothing."""
        self.switches = SwitchRows()

    def run(self, progress: Progress | None) -> TenantReport:
        try:
            self._run(progress)
        except SQLAlchemyError as error:
            self.report.add(
                FindingKind.STORE,
                f"the store cannot be read on from entry {self.next}: {cause_of(error)}",
                self.next,
            )
        self.report.entries = self.tree.size if self.whole else self.next
        self.report.root = self.tree.root().hex() if self.whole else ""
        if self.checkpoints:
            self.report.beyond = max(0, self.next - max(self.checkpoints))
        return self.report

    def _run(self, progress: Progress | None) -> None:
        head = self.snapshot.head(self.tenant)
        payloads = self.snapshot.payloads(self.tenant)
        payload = next(payloads, None)
        self._compare_checkpoint()
        for page in self.snapshot.entries(self.tenant):
            nodes: list[tuple[int, int, bytes]] = []
            first = self.next
            for entry in page:
                while payload is not None and payload.index < entry.index:
                    self._orphan(payload)
                    payload = next(payloads, None)
                mine = payload if payload is not None and payload.index == entry.index else None
                nodes += self._entry(entry, mine)
                payload = next(payloads, None) if mine is not None else payload
            if self.whole:
                self._compare_nodes(first, nodes)
            if progress is not None:
                progress(self.tenant, self.next, head.size if head else self.next)
        while payload is not None:
            self._orphan(payload)
            payload = next(payloads, None)
        self._compare_head(head)
        self._compare_switches()
        self._compare_node_count()
        self._compare_erasures()
        self._compare_prunings()
        self._compare_evidence_beyond()

    def _orphan(self, payload: Payload) -> None:
        first = payload.index if payload.index >= 0 else None
        self.report.add(FindingKind.PAYLOAD, f"there is a payload {payload.index} without its entry", first)

    def _entry(self, entry: Entry, payload: Payload | None) -> list[tuple[int, int, bytes]]:
        index = entry.index
        if index < self.next:
            self.report.add(
                FindingKind.ENTRY, f"an entry stands at {index} where {self.next} belongs", self.next
            )
            return []
        if index > self.next:
            self.report.add(
                FindingKind.GAP, f"entries {self.next} to {index - 1} are missing", self.next, index - 1
            )
            self.whole = False
        self.next = index + 1
        if not entry.envelope:
            return self._blank(entry, payload)
        leaf = sha256(b"\x00" + entry.envelope).digest()
        if leaf != entry.leaf:
            self.report.add(
                FindingKind.ENTRY, f"entry {index} does not have the leaf hash stored with it", index
            )
            self.changed = True
            if len(self.bad_nodes) < _NODES_BAD_MAX:
                self.bad_nodes.add((0, index))
        self._envelope(entry, payload)
        return self._placed(index, leaf)

    def _blank(self, entry: Entry, payload: Payload | None) -> list[tuple[int, int, bytes]]:
        """An entry whose envelope is gone: its leaf stands for it. Who vouches for that is looked at in the end."""
        _extend(self.blank, entry.index)
        _extend(self.missing, entry.index)
        self.stated.pop("switch_seq", None)  # it may have been a record of that
        if payload is not None:
            text = f"entry {entry.index} has a payload and no envelope"
            self.report.add(FindingKind.ENTRY, text, entry.index)
        return self._placed(entry.index, entry.leaf)

    def _placed(self, index: int, leaf: bytes) -> list[tuple[int, int, bytes]]:
        """Add a leaf to the tree, held to its receipt; the nodes that it completes."""
        if self.receipts.get(index, leaf) != leaf:
            self.report.add(
                FindingKind.RECEIPT, f"entry {index} is not the one its receipt vouches for", index
            )
        elif index in self.receipts:
            self.report.receipts += 1
        if not self.whole:
            return []
        nodes = list(self.tree.add(leaf))
        self._compare_checkpoint()
        return nodes

    def _envelope(self, entry: Entry, payload: Payload | None) -> None:
        index = entry.index
        fields = _parse(entry.envelope)
        complaint = _complaint(fields, self.tenant, index, self.last_ms)
        if complaint is not None:
            self.report.add(FindingKind.ENTRY, f"entry {index} {complaint}", index)
            return
        self.last_ms = cast("int", fields["t"])
        if fields["type"] == "erased":
            self.erased += cast("list[_Span]", fields.get("erases", []))
        elif fields["type"] == "pruned":
            self.pruned += cast("list[_Span]", fields.get("prunes", []))
        states = _STATES.get(str(fields["type"]))
        if states is not None:
            self.stated.pop(states, None)
        of_a_switch = self.switches.meet(fields["type"])
        if payload is None:
            _extend(self.missing, index)
        elif sha256(payload.sealed).hexdigest() != fields["payload"]:
            self.report.add(
                FindingKind.PAYLOAD, f"the payload of entry {index} was changed or swapped", index
            )
        elif self.keys is not None:
            packet = self.keys.opened(self.tenant, index, payload.key_id, payload.wrapped, payload.sealed)
            if isinstance(packet, str):
                self.report.add(
                    FindingKind.PAYLOAD, f"the payload of entry {index} does not open: {packet}", index
                )
                return
            self.report.opened = (self.report.opened or 0) + 1
            if states is not None:
                self.stated[states] = packet.get(states)
            if of_a_switch:
                self.switches.read(index, fields["type"], packet)

    def _compare_checkpoint(self) -> None:
        size = self.tree.size
        root = self.checkpoints.get(size)
        if root is None:
            return
        if root == self.tree.root():
            self.report.checkpoints += 1
            self.good_size = size
            return
        self.bad_checkpoints += 1
        if self.bad_checkpoints > 1:
            return  # every later one disagrees for the same reason
        text = f"the log does not continue what was signed at {size} entries"
        if self.changed:
            self.report.add(FindingKind.CHECKPOINT, f"{text}, for an entry named above was changed")
        else:
            text += f": an entry from {self.good_size} to {size - 1} was changed" if size else ""
            self.report.add(FindingKind.CHECKPOINT, text, self.good_size, max(0, size - 1))

    def _compare_nodes(self, first: int, nodes: list[tuple[int, int, bytes]]) -> None:
        """Stored interior nodes against those that the page from `first` to the tree's size completed."""
        stored: dict[tuple[int, int], bytes] = {}
        for level in range(1, self.tree.size.bit_length()):
            if first >> level < self.tree.size >> level:
                found = self.snapshot.nodes(self.tenant, level, first >> level, self.tree.size >> level)
                stored.update({(level, index): value for index, value in found.items()})
        for level, index, value in sorted(nodes):
            if stored.get((level, index)) == value or len(self.bad_nodes) >= _NODES_BAD_MAX:
                continue
            known = (level - 1, 2 * index) in self.bad_nodes or (level - 1, 2 * index + 1) in self.bad_nodes
            self.bad_nodes.add((level, index))
            if not known:
                low, high = index << level, ((index + 1) << level) - 1
                what = "is missing" if (level, index) not in stored else "is not that of its entries"
                text = f"the stored node {level}/{index}, over entries {low} to {high}, {what}"
                self.report.add(FindingKind.NODE, text, low, high)

    def _compare_node_count(self) -> None:
        expected = self.tree.size - self.tree.size.bit_count()
        if self.whole and (extra := self.snapshot.node_count(self.tenant) - expected) > 0:
            self.report.add(FindingKind.NODE, f"there are {extra} stored nodes that the tree does not have")

    def _compare_head(self, head: Head | None) -> None:
        add = self.report.add
        if head is None:
            what = "the log's head row is missing" if self.next else "the store has no log of this tenant"
            add(FindingKind.HEAD, what, 0)
            return
        if (rows := self.snapshot.head_count(self.tenant)) > 1:
            add(FindingKind.HEAD, f"the log has {rows} head rows, where one belongs")
        if head.size > self.next:
            text = f"the head row tells of {head.size} entries: those from {self.next} on are missing"
            add(FindingKind.HEAD, text, self.next, head.size - 1)
        elif head.size < self.next:
            text = (
                f"the head row tells of {head.size} entries: those from {head.size} on were added without it"
            )
            add(FindingKind.HEAD, text, head.size, self.next - 1)
        elif self.whole:
            self._compare_frontier(head.frontier)
        if head.record_ms < self.last_ms:
            add(FindingKind.HEAD, "the head row's record time is before that of the newest entry")
        if head.bundle != self.stated.get("bundle", head.bundle):
            add(FindingKind.HEAD, "the head row puts rules in force that no record did")
        if head.switch_seq != (stated := self.stated.get("switch_seq", head.switch_seq)):
            text = f"the head row counts {head.switch_seq} changes of switches, and the newest record of one says {stated}"
            add(FindingKind.HEAD, text)

    def _compare_switches(self) -> None:
        """Only with keys: which switch a record set is sealed."""
        if self.keys is None:
            return
        rows = self.snapshot.switches(self.tenant)
        for text in self.switches.wrong(rows, all_there=self.whole):
            self.report.add(FindingKind.SWITCH, text)

    def _compare_frontier(self, frontier: str) -> None:
        if frontier == "".join(value.hex() for _, value in self.tree.peaks):
            return
        stored = [frontier[at : at + 64] for at in range(0, len(frontier), 64)]
        start = 0
        for at, (level, value) in enumerate(self.tree.peaks):
            known = (level, start >> level) in self.bad_nodes
            if (stored[at] if at < len(stored) else "") != value.hex() and not known:
                # A subtree of more than one entry agrees with its stored node, so there the head row is at fault.
                where = (None, None) if level else (start, start)
                text = f"the head row's frontier does not fit entries {start} to {start + (1 << level) - 1}"
                self.report.add(FindingKind.HEAD, text, *where)
            start += 1 << level
        if len(stored) > len(self.tree.peaks):
            self.report.add(FindingKind.HEAD, "the head row's frontier is malformed")

    def _compare_erasures(self) -> None:
        missing, erased = _merge(self.missing), _merge(self.erased)
        for first, last in _subtract(missing, erased):
            text = (
                f"the payloads of entries {first} to {last} are gone, and no later erasure entry names them"
            )
            self.report.add(FindingKind.PAYLOAD, text, first, last)
        present = _subtract(erased, missing)
        for first, last in present:
            text = f"an erasure entry names the payloads {first} to {last}, but they are still there"
            self.report.add(FindingKind.PAYLOAD, text, first, last)
        self.report.erased = _count(erased) - _count(present)

    def _compare_prunings(self) -> None:
        blank, pruned = _merge(self.blank), _merge(self.pruned)
        for first, last in _subtract(blank, pruned):
            text = (
                f"the envelopes of entries {first} to {last} are gone, and no later pruning entry names them"
            )
            self.report.add(FindingKind.ENTRY, text, first, last)
        for first, last in _subtract(pruned, blank):
            text = f"a pruning entry names the envelopes {first} to {last}, but they are still there"
            self.report.add(FindingKind.ENTRY, text, first, last)
        self.report.pruned = _count(blank)
        self.report.unsigned = (
            _count(_subtract(blank, [(0, self.good_size - 1)])) if self.good_size else _count(blank)
        )

    def _compare_evidence_beyond(self) -> None:
        """Checkpoints and receipts of entries that the log no longer has."""
        if (newest := max(self.checkpoints, default=0)) > self.next:
            text = f"the log was cut: {newest} entries were signed, {self.next} are there"
            self.report.add(FindingKind.CHECKPOINT, text, self.next, newest - 1)
        for index in sorted(index for index in self.receipts if index >= self.next):
            text = f"entry {index}, which a receipt vouches for, is not there"
            self.report.add(FindingKind.RECEIPT, text, self.next, index)


def _parse(envelope: bytes) -> dict[str, object]:
    """The envelope's fields; empty when it is no JSON object or repeats a name."""
    try:
        parsed: object = json.loads(envelope, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, object]", parsed) if isinstance(parsed, dict) else {}


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name is repeated")
    return fields


def _complaint(fields: dict[str, object], tenant: str, index: int, last_ms: int) -> str | None:
    """What is wrong with an envelope at this place, as the end of a sentence."""
    time_ms, payload = fields.get("t"), fields.get("payload")
    if fields.get("v") != 1 or type(time_ms) is not int or not isinstance(fields.get("type"), str):
        return "is no envelope of version 1"
    if fields.get("i") != index or type(fields["i"]) is not int:
        return f"is the envelope of entry {fields.get('i')!r}: entries were moved"
    if fields.get("tenant") != tenant:
        return f"is the envelope of tenant {fields.get('tenant')!r}"
    if not isinstance(payload, str) or not _HEX_64.fullmatch(payload):
        return "names no payload digest"
    if time_ms < last_ms:
        return "has a record time before that of the entry in front of it"
    for name, what in (("erases", "an erasure"), ("prunes", "a pruning")):
        spans = fields.get(name, [])
        for span in cast("list[object]", spans) if isinstance(spans, list) else [spans]:
            match span:
                case [int(first), int(last)] if 0 <= first <= last < index:
                    continue
                case _:
                    return f"names {what} that is no span of earlier entries"
    return None


def _extend(spans: list[_Span], index: int) -> None:
    if spans and spans[-1][1] == index - 1:
        spans[-1] = (spans[-1][0], index)
    else:
        spans.append((index, index))


def _merge(spans: Sequence[Sequence[int]]) -> list[_Span]:
    merged: list[_Span] = []
    for first, last in sorted((span[0], span[1]) for span in spans):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _subtract(spans: list[_Span], others: list[_Span]) -> list[_Span]:
    """What of `spans` lies in none of `others`; both merged."""
    left: list[_Span] = []
    at = 0
    for first, last in spans:
        while at < len(others) and others[at][1] < first:
            at += 1
        reach = at
        while reach < len(others) and others[reach][0] <= last:
            if first < others[reach][0]:
                left.append((first, others[reach][0] - 1))
            first = others[reach][1] + 1
            reach += 1
        if first <= last:
            left.append((first, last))
    return left


def _count(spans: list[_Span]) -> int:
    return sum(last - first + 1 for first, last in spans)
