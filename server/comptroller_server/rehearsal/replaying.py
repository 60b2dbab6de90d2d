"""Recorded decisions made again under a candidate configuration: what would be decided otherwise, and what cannot be told.

The log is read in ranges, each a read of its own, as the report reads it: a serving process is never held up, and memory
does not grow with the store. Nothing is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from comptroller_audit.query import Logged
from comptroller_audit.vocabulary import Json, JsonObject
from comptroller_policy.model import Decision, Verdict
from comptroller_server.errors import CannotDecide, Lack
from comptroller_server.installation import Installation
from comptroller_server.rehearsal.deciding import Rehearsal
from comptroller_server.rehearsal.recorded import DECIDED, Recorded, asked_again, lacks_roles, recorded
from comptroller_server.reporting.span import Progress, entries_of, span_since

__all__ = ["NAMED_MAX", "Flip", "Replay", "Undecided", "replay"]

NAMED_MAX = 1_000
"""Calls that are named for each change and for each lack; the rest is counted."""
MISFIT = "arguments"
"""Stands for a rule where the candidate's tool would not take the arguments at all."""

Way: TypeAlias = tuple[Verdict, Verdict]


@dataclass(frozen=True, slots=True)
class Flip:
    """A call that would be decided otherwise: by which policies then, by which under the candidate, and why."""

    call: str
    tool: str
    at_ms: int
    then: Verdict
    now: Verdict
    then_policies: tuple[str, ...]
    now_policies: tuple[str, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Undecided:
    """A call that cannot be decided again, and what is missing. Erased ones are known by their entry alone."""

    call: str
    tool: str
    lacks: Lack
    why: str


@dataclass(slots=True)
class Replay:
    """What came of it. `ways` counts decisions by (then, now); `elsewhere` are those of another bundle than today's.

    Of a call that waited for a person and ran, both decisions count: the one that asked, and the one that let it run.
    """

    decisions: int = 0
    elsewhere: int = 0
    ways: Counter[Way] = field(default_factory=Counter[Way])
    lacks: Counter[Lack] = field(default_factory=Counter[Lack])
    flips: list[Flip] = field(default_factory=list[Flip])
    undecided: list[Undecided] = field(default_factory=list[Undecided])

    @property
    def decided(self) -> int:
        """Decisions that were made again."""
        return self.ways.total()

    @property
    def changes(self) -> int:
        """How many of them came out otherwise."""
        return sum(count for (then, now), count in self.ways.items() if then is not now)

    def changed(self, then: Verdict, now: Verdict) -> int:
        """How many went from one verdict to another."""
        return self.ways[then, now]

    def take(self, flip: Flip) -> None:
        way = (flip.then, flip.now)
        self.ways[way] += 1
        if flip.then is not flip.now and self.ways[way] <= NAMED_MAX:
            self.flips.append(flip)

    def leave(self, undecided: Undecided) -> None:
        self.lacks[undecided.lacks] += 1
        if self.lacks[undecided.lacks] <= NAMED_MAX:
            self.undecided.append(undecided)

    def as_json(self, told: Callable[[str], str]) -> JsonObject:
        """`{decisions, decided, changed, other_bundles, ways, flips, undecided, lacks}`; `told` is what may be shown."""
        ways: list[Json] = [
            {"then": then.value, "now": now.value, "count": count}
            for (then, now), count in sorted(self.ways.items())
        ]
        flips: list[Json] = [
            {
                "call": each.call,
                "tool": told(each.tool),
                "at_ms": each.at_ms,
                "then": each.then.value,
                "now": each.now.value,
                "then_policies": [told(id_) for id_ in each.then_policies],
                "now_policies": [told(id_) for id_ in each.now_policies],
                "reasons": [told(reason) for reason in each.reasons],
            }
            for each in self.flips
        ]
        undecided: list[Json] = [
            {"call": each.call, "tool": told(each.tool), "lacks": each.lacks.value, "why": told(each.why)}
            for each in self.undecided
        ]
        return {
            "decisions": self.decisions,
            "decided": self.decided,
            "changed": self.changes,
            "other_bundles": self.elsewhere,
            "ways": ways,
            "flips": flips,
            "lacks": {lack.value: count for lack, count in sorted(self.lacks.items())},
            "undecided": undecided,
        }


def replay(
    now: Installation, candidate: Rehearsal, since_ms: int | None, progress: Progress | None = None
) -> Replay:
    """Every decision from `since_ms` on (None: from the first) made again. Raises `StoreError`, `KeyRingError`."""
    span = now.store.read_now(lambda reader: span_since(reader, since_ms))
    found = Replay()
    for entry in entries_of(now, span, DECIDED.keys(), progress):
        if entry.type in DECIDED:
            _again(found, entry, now, candidate)
    return found


def _again(found: Replay, entry: Logged, now: Installation, candidate: Rehearsal) -> None:
    if entry.packet is None:
        found.decisions += 1
        why = f"entry {entry.index} ({entry.type.value}) was erased"
        found.leave(Undecided(str(entry.envelope.get("call") or ""), "", Lack.ERASED, why))
        return
    then = recorded(entry)
    if then is None:
        return
    found.decisions += 1
    found.elsewhere += then.packet.get("bundle") != now.bundle_digest
    try:
        decision = _decision(then, now, candidate)
    except CannotDecide as error:
        found.leave(Undecided(then.call, then.tool, error.lacks, str(error)))
        return
    found.take(
        Flip(
            then.call,
            then.tool,
            then.at_ms,
            then.verdict,
            decision.verdict,
            then.policies,
            decision.policies,
            decision.reasons,
        )
    )


def _decision(then: Recorded, now: Installation, candidate: Rehearsal) -> Decision:
    """What the candidate decides. Raises `CannotDecide`."""
    try:
        decision = candidate.decide(asked_again(then, now, candidate)).decision
    except CannotDecide as error:
        if error.lacks is not Lack.FIT:
            raise
        return Decision(Verdict.DENY, (MISFIT,), (str(error),))
    if decision.verdict is Verdict.NEEDS_APPROVAL and lacks_roles(then):
        raise CannotDecide(Lack.APPROVALS, "in which roles people had agreed is not on record")
    missing = [error for error in decision.errors if error.startswith("facts.")]
    if missing:
        raise CannotDecide(Lack.FACTS, f"the record lacks what the candidate reads: {'; '.join(missing)}")
    return decision
