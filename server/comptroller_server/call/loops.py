"""The identical-call breaker: an agent that makes the same call over and over gets the same outcome no more.

What counts is the tool, its arguments, what it cites, and the outcome, within one task. Each serving process counts for
itself; an hour's quiet forgets.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from comptroller_audit.ambient import Clock
from comptroller_audit.canonical import canonical_bytes
from comptroller_audit.errors import CanonicalError
from comptroller_audit.vocabulary import Code, Json, Refusal, RefusalClass
from comptroller_server.call.case import Case, Refused
from comptroller_server.call.intake import META_KEY
from comptroller_server.call.proposal import Proposal

__all__ = ["Loops"]

LOOPERS_MAX: Final = 10_000
"""Tasks watched at once; the one that was quiet longest is forgotten first."""
CALLS_MAX: Final = 256
"""Different calls remembered for each."""
FORGET_S: Final = 3_600.0
_COUNTED: Final = frozenset(
    {
        RefusalClass.TOOL_MISMATCH,
        RefusalClass.STALE_CONTEXT,
        RefusalClass.POLICY_VIOLATION,
        RefusalClass.SILENT_WRONG,
    }
)
"""Refusals that trying again cannot change. Waiting for a person, a budget or a source is no loop."""


@dataclass(slots=True)
class _Same:
    outcome: bytes
    times: int = 1


@dataclass(slots=True)
class _Looper:
    touched: float
    calls: OrderedDict[bytes, _Same] = field(default_factory=OrderedDict[bytes, _Same])


class Loops:
    """Counts outcomes that repeat; `most` is how often the same one is given."""

    def __init__(self, clock: Clock, most: int) -> None:
        self._clock = clock
        self._most = most
        self._loopers: OrderedDict[tuple[str, str], _Looper] = OrderedDict()

    def check(self, case: Case) -> None:
        """Raises `Refused` when this call has had the same outcome `most` times already."""
        if _has_key(case):
            return
        looper = self._loopers.get(_who(case))
        same = looper.calls.get(_digest(case)) if looper is not None and looper.calls else None
        if looper is None or same is None or same.times < self._most:
            return
        if self._clock.monotonic() - looper.touched > FORGET_S:
            self._loopers.pop(_who(case))
            return
        raise Refused(
            Refusal(
                Code.IDENTICAL_CALLS,
                f"This very call has had the same outcome {same.times} times, and it was not made again. Use what you "
                "have, change the arguments, or hand the task to a person with `hand_off`.",
                retry="person",
            )
        )

    def note(self, case: Case, refusal: Refusal | None) -> None:
        """The call was answered: with what its output says, or with a refusal."""
        uncounted = refusal is not None and (
            refusal.code is Code.IDENTICAL_CALLS or refusal.failure_class not in _COUNTED
        )
        if uncounted or _has_key(case) or case.tool is None:  # Comptroller's own tools make no loop
            return
        outcome = refusal.code.value.encode() if refusal is not None else _output(case)
        who, now = _who(case), self._clock.monotonic()
        looper = self._loopers.pop(who, None)
        if looper is None or now - looper.touched > FORGET_S:
            looper = _Looper(now)
        looper.touched = now
        self._loopers[who] = looper
        while len(self._loopers) > LOOPERS_MAX:
            self._loopers.popitem(last=False)
        digest = _digest(case)
        same = looper.calls.pop(digest, None)
        if same is not None and same.outcome == outcome:
            same.times += 1
        else:
            same = _Same(outcome)
        looper.calls[digest] = same
        while len(looper.calls) > CALLS_MAX:
            looper.calls.popitem(last=False)


def _who(case: Case) -> tuple[str, str]:
    return case.tenant, case.task.id


def _has_key(case: Case) -> bool:
    """An explicit key says that the call is meant to be the same one, and gets its recorded answer always."""
    return META_KEY in case.proposal.meta


def _digest(case: Case) -> bytes:
    """What this call is known by. A resumed call takes up another proposal in between, and is another call then."""
    if case.likeness is None or case.likeness[0] is not case.proposal:
        case.likeness = (case.proposal, _digest_of(case.proposal))
    return case.likeness[1]


def _digest_of(proposal: Proposal) -> bytes:
    arguments: dict[str, Json] = dict(proposal.arguments)
    why = arguments.pop("why", None)
    if isinstance(why, dict):  # other words make no other call, other evidence does
        arguments["citations"] = why.get("citations")
    try:
        spelled = canonical_bytes(arguments)
    except CanonicalError:
        spelled = repr(arguments).encode(errors="replace")
    return sha256(proposal.tool.encode(errors="replace") + b"\0" + spelled).digest()


def _output(case: Case) -> bytes:
    return sha256(case.output_bytes or b"").digest()
