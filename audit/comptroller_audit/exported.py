"""Checking exported lines far from the store: each entry's leaf, and its path to the root that a checkpoint signed.

It proves that the entries stood in the log, in their places and with these envelopes. It says nothing about packets: an
export shows them released, and the log commits to the sealed bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from comptroller_audit.canonical import canonical_bytes, decimal_parts
from comptroller_audit.checkpoint import Checkpoint, open_checkpoint
from comptroller_audit.errors import CanonicalError, CheckpointError, EvidenceError
from comptroller_audit.log import HASH_BYTES, leaf_hash, verify_inclusion

__all__ = ["FORMAT", "LINE_CHARS_MAX", "ExportReport", "check_export"]

FORMAT = "comptroller/1"
LINE_CHARS_MAX = 64 * 1024 * 1024
NUMBER_CHARS_MAX = 400
"""Characters in one number; no float needs more than 330."""
ENTRIES_MAX = 2**63 - 1
"""More than any store can count."""
PATH_MAX = 64
"""Hashes in a path: more than any log can need."""
BAD_MAX = 100
"""Bad lines that are named; the others are counted."""


@dataclass(slots=True)
class ExportReport:
    """What the lines prove. `beyond` are entries after the checkpoint, which nothing proves yet; `pruned` are not in the log any more."""

    log: str
    size: int
    first: int
    end: int
    proved: int = 0
    beyond: int = 0
    pruned: int = 0
    bad: list[str] = field(default_factory=list[str])
    bad_in_all: int = 0

    @property
    def ok(self) -> bool:
        return not self.bad_in_all

    def found(self, what: str) -> None:
        self.bad_in_all += 1
        if len(self.bad) < BAD_MAX:
            self.bad.append(what)

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "log": self.log,
            "checkpoint": self.size,
            "first": self.first,
            "end": self.end,
            "proved": self.proved,
            "beyond": self.beyond,
            "pruned": self.pruned,
            "bad": self.bad,
            "bad_in_all": self.bad_in_all,
        }

    def lines(self) -> list[str]:
        told = [
            f"{self.log}: {self.proved} entries from {self.first} on are proved by the checkpoint of {self.size}",
            *([f"{self.beyond} entries lie after it, and nothing proves them yet"] if self.beyond else []),
            *([f"{self.pruned} entries were pruned, which the log itself says"] if self.pruned else []),
            *(f"WRONG {what}" for what in self.bad),
        ]
        more = self.bad_in_all - len(self.bad)
        return [*told, *([f"and {more} more"] if more else []), "OK" if self.ok else "NOT OK"]


def check_export(lines: Iterable[str], vkey: str) -> ExportReport:
    """Check exported lines, the first of which is their head, with the verifier key of the log.

    Raises EvidenceError: no head, another format, or a checkpoint that this key did not sign. Everything else that is
    wrong is in the report: a line missing, twice, changed or out of place.
    """
    rest = iter(lines)
    head = _head(next(rest, ""))
    try:
        checkpoint = open_checkpoint(str(head.get("checkpoint") or ""), vkey)
    except CheckpointError as error:
        raise EvidenceError(f"the export proves nothing: {error}") from None
    if checkpoint.origin != head["log"]:
        raise EvidenceError(f"the export is of {head['log']!r}, its checkpoint of {checkpoint.origin!r}")
    report = ExportReport(checkpoint.origin, checkpoint.size, head["first"], head["end"])
    _check_lines(rest, checkpoint, report)
    return report


def _check_lines(rest: Iterator[str], checkpoint: Checkpoint, report: ExportReport) -> None:
    expected = report.first
    missing, pruned = list[tuple[int, int]](), list[tuple[int, int]]()
    for number, line in enumerate(rest, 2):
        if not line.strip():
            continue
        entry = _members(line)
        index = entry.get("index") if entry is not None else None
        if type(index) is int and expected < index < report.end:
            missing.append((expected, index - 1))
            expected = index
        problem = _line_problem(entry, expected, checkpoint)
        if problem is None:
            report.proved += 1
            pruned += _prunes(entry)
        elif problem == "":
            report.beyond += 1
        else:
            report.found(f"line {number}: {problem}")
        expected += 1
    if expected < report.end:
        missing.append((expected, report.end - 1))
    elif expected > report.end:
        report.found(f"{expected - report.first} entries are here, the head says {report.end - report.first}")
    _judge_missing(missing, pruned, report)


def _judge_missing(
    missing: list[tuple[int, int]], pruned: list[tuple[int, int]], report: ExportReport
) -> None:
    """Only what an entry that is proved says was pruned may be missing."""
    pruned.sort()
    at = 0
    for first, last in missing:
        left = first
        while left <= last:
            while at < len(pruned) and pruned[at][1] < left:
                at += 1
            if at == len(pruned) or pruned[at][0] > left:
                break
            left = pruned[at][1] + 1
        report.pruned += min(left, last + 1) - first
        if left <= last:
            report.found(
                f"entries {left} to {last} are missing, and no proved entry says that they were pruned"
            )


def _prunes(entry: dict[str, Any] | None) -> Iterator[tuple[int, int]]:
    envelope = cast("dict[str, Any]", entry["envelope"]) if entry is not None else {}
    spans: object = envelope.get("prunes") if envelope.get("type") == "pruned" else None
    for span in cast("list[object]", spans) if isinstance(spans, list) else ():
        match span:
            case [int(first), int(last)]:
                yield first, last
            case _:
                continue


def _line_problem(entry: dict[str, Any] | None, expected: int, checkpoint: Checkpoint) -> str | None:
    """None when the line is proved, "" when it lies beyond the checkpoint, else what is wrong."""
    if entry is None:
        return "is no entry"
    index, envelope, path = entry.get("index"), entry.get("envelope"), entry.get("proof")
    if index != expected or type(index) is not int:
        return f"entry {expected} should stand here, and it says {str(index)[:20]}"
    if not isinstance(envelope, dict) or cast("dict[str, Any]", envelope).get("i") != index:
        return "its envelope is of another entry"
    try:
        leaf = leaf_hash(canonical_bytes(cast("Any", envelope)))
    except CanonicalError:
        return "its envelope is no JSON that a log holds"
    if leaf.hex() != entry.get("leaf"):
        return "its envelope was changed: the leaf is another"
    told = {"type": entry.get("type"), "t": entry.get("at_ms")}
    if any(cast("dict[str, Any]", envelope).get(name) != value for name, value in told.items()):
        return "its type or time is not what its envelope says"
    if expected >= checkpoint.size:
        return ""
    hashes = _path(path)
    if hashes is None or not verify_inclusion(leaf, expected, checkpoint.size, hashes, checkpoint.root):
        return f"it is not proved to stand in the checkpoint of {checkpoint.size} entries"
    return None


def _path(found: object) -> list[bytes] | None:
    if not isinstance(found, list) or len(cast("list[object]", found)) > PATH_MAX:
        return None
    try:
        hashes = [bytes.fromhex(str(each)) for each in cast("list[object]", found)]
    except ValueError:
        return None
    return hashes if all(len(each) == HASH_BYTES for each in hashes) else None


def _members(line: str) -> dict[str, Any] | None:
    """The object that the line is to every reader; None for what two readers may take for two things."""
    try:
        found: object = _DECODER.decode(line) if len(line) <= LINE_CHARS_MAX else None
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name stands twice: some readers take the first, others the last")
    return members


def _exact(token: str) -> float:
    """A fraction that survives as a 64-bit float, as every fraction of an export does."""
    if len(token) > NUMBER_CHARS_MAX or decimal_parts(token) != decimal_parts(repr(float(token))):
        raise ValueError("a number has more digits than some readers keep")
    return float(token)


def _no_number(token: str) -> Any:
    raise ValueError(f"{token} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_float=_exact, parse_constant=_no_number)


def _head(line: str) -> dict[str, Any]:
    head = _members(line)
    if head is None or head.get("export") != FORMAT:
        raise EvidenceError(
            f"this is no export of format {FORMAT!r}; write one with `comptroller audit export`"
        )
    spans = [head.get("first"), head.get("end")]
    if not isinstance(head.get("log"), str) or not all(
        type(n) is int and 0 <= n <= ENTRIES_MAX for n in spans
    ):
        raise EvidenceError("the export's first line does not say whose entries follow, and which")
    if head.get("checkpoint") is None:
        raise EvidenceError(
            "the export has no checkpoint, so it proves nothing; export again ten seconds after the server began"
        )
    return head
