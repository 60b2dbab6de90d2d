"""How long a call took, and which of its steps took it: one look at the monotonic clock per step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from comptroller_audit.unit import Key, State, Stop
from comptroller_audit.vocabulary import Json, JsonObject

__all__ = ["TOTAL", "Step", "Took", "WriteTook"]

TOTAL = "total"


class Step:
    """Names of steps, as packets hold them. Plain text: they are written once a step of every call."""

    VALIDATE = "validate"
    LOOK_UP = "look_up"
    DECIDE = "decide"
    WAIT = "wait"
    COMMIT = "commit"
    RUN = "run"
    VERIFY = "verify"
    RELEASE = "release"
    RECORD = "record"


@dataclass(slots=True)
class Took:
    """Seconds by step, of one attempt. What lies between two marks belongs to the later one."""

    now: Callable[[], float]
    began: float = field(init=False)
    last: float = field(init=False)
    steps: dict[str, float] = field(default_factory=dict[str, float])
    passed: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    """Each mark, in order, and when it was made."""

    def __post_init__(self) -> None:
        self.began = self.last = self.now()

    def mark(self, step: str) -> None:
        """`step` is over. One that comes again is added to."""
        now = self.now()
        self.steps[step] = self.steps.get(step, 0.0) + now - self.last
        self.last = now
        self.passed.append((step, now))

    def in_packet(self, last: str = "") -> JsonObject:
        """Milliseconds from receipt to now, in all and by step; what came after the last mark is `last`'s, if named."""
        now = self.now()
        told: dict[str, Json] = {TOTAL: round((now - self.began) * 1000, 3)}
        for step, seconds in self.steps.items():
            told[step] = round(seconds * 1000, 3)
        if last:
            told[last] = round((now - self.last) * 1000, 3)
        return told


@dataclass(frozen=True, slots=True)
class WriteTook:
    """Part: `packet` says how long the call took until its last commit had its turn; the store's own write comes on top."""

    took: Took
    packet: JsonObject

    def keys(self) -> Iterable[Key]:
        return ()

    def apply(self, state: State) -> Stop | None:
        self.packet["took_ms"] = self.took.in_packet(Step.RECORD)
        return None
