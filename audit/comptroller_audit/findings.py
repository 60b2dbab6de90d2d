"""What the verifier found, as values and as lines for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from comptroller_audit.vocabulary import Json, JsonObject

__all__ = ["Finding", "FindingKind", "Report", "TenantReport"]

FINDINGS_MAX = 100
"""Findings kept per tenant; more are only counted."""


class FindingKind(StrEnum):
    GAP = "gap"
    ENTRY = "entry"
    PAYLOAD = "payload"
    NODE = "node"
    HEAD = "head"
    CHECKPOINT = "checkpoint"
    RECEIPT = "receipt"
    SWITCH = "switch"
    STORE = "store"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. The bad entry lies in `first`..`last` (inclusive), where it can be told."""

    kind: FindingKind
    text: str
    first: int | None = None
    last: int | None = None


def _explained(finding: Finding, exact: Sequence[int]) -> bool:
    if finding.kind not in (FindingKind.NODE, FindingKind.CHECKPOINT) or finding.first == finding.last:
        return False
    first, last = finding.first, finding.last
    return first is not None and last is not None and any(first <= index <= last for index in exact)


@dataclass(slots=True)
class TenantReport:
    """What verifying one tenant's log said. `beyond` is None when no checkpoint of this tenant was given."""

    tenant: str
    entries: int = 0
    root: str = ""
    erased: int = 0
    pruned: int = 0
    unsigned: int = 0
    """Of the pruned ones, those that no checkpoint holds which was given and agreed."""
    checkpoints: int = 0
    receipts: int = 0
    beyond: int | None = None
    opened: int | None = None
    findings: list[Finding] = field(default_factory=list[Finding])
    more: int = 0

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def first_bad(self) -> int | None:
        """The first entry that is bad, missing, or may be.

        A node or a checkpoint only says that some entry under it changed; where an exact finding lies in its
        range, that one counts instead.
        """
        exact = [f.first for f in self.findings if f.first is not None and f.first == f.last]
        return min(
            (f.first for f in self.findings if f.first is not None and not _explained(f, exact)), default=None
        )

    def add(self, kind: FindingKind, text: str, first: int | None = None, last: int | None = None) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(kind, text, first, first if last is None else last))
        else:
            self.more += 1


@dataclass(slots=True)
class Report:
    """All tenants, and what concerns none of them: notes that prove nothing, an unreadable store."""

    tenants: list[TenantReport] = field(default_factory=list[TenantReport])
    findings: list[Finding] = field(default_factory=list[Finding])
    torn: int = 0

    @property
    def ok(self) -> bool:
        return not self.findings and all(tenant.ok for tenant in self.tenants)

    def as_json(self) -> JsonObject:
        """The report for a program: `{ok, torn, findings, tenants: [{tenant, ok, first_bad, entries, …}]}`."""
        tenants: list[Json] = [
            {**asdict(one), "ok": one.ok, "first_bad": one.first_bad} for one in self.tenants
        ]
        return {
            "ok": self.ok,
            "torn": self.torn,
            "findings": [asdict(f) for f in self.findings],
            "tenants": tenants,
        }

    def lines(self) -> Iterator[str]:
        """The report for a person, one line each."""
        for finding in self.findings:
            yield f"{finding.kind}: {finding.text}"
        for one in self.tenants:
            yield from _tenant_lines(one)
        if self.torn:
            yield f"{self.torn} unfinished note(s) in the checkpoint file were passed over (a crash while writing)"
        yield "the log is whole" if self.ok else "the log is NOT whole"


def _tenant_lines(one: TenantReport) -> Iterator[str]:
    yield f"tenant {one.tenant}: {one.entries} entries, root {one.root}"
    if one.first_bad is not None:
        yield f"  first bad entry: {one.first_bad}"
    for finding in one.findings:
        yield f"  {finding.kind}: {finding.text}"
    if one.more:
        yield f"  and {one.more} more findings"
    yield f"  {one.erased} payloads erased, {one.checkpoints} checkpoints and {one.receipts} receipts agree"
    if one.pruned:
        yield f"  {one.pruned} envelopes pruned, {one.unsigned} of them beyond every checkpoint that was given"
    if one.opened is None:
        yield "  payload keys not checked: no key file was given"
    if one.beyond is None:
        yield "  no outside checkpoint: entries cut off at the end would not be noticed"
    else:
        yield f"  {one.beyond} entries lie beyond the newest outside checkpoint"
