"""A source that keeps failing is left alone for a while: calls are refused before anything is committed for them.

    closed → open (`failures` in a row) → one probe after `reset_s` → closed, or open again

Each process counts for itself; a restart begins with every source trusted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import structlog

from comptroller_audit.ambient import Clock
from comptroller_audit.vocabulary import Code, Refusal
from comptroller_tools.declarations import BreakerConfig
from comptroller_tools.source import Outcome
from comptroller_tools.upstream.source import ASKED_BACK, QUARANTINED

__all__ = ["Breakers", "SourceBreaker"]

_log = structlog.stdlib.get_logger()


@dataclass(slots=True)
class SourceBreaker:
    """One source's breaker. `open_until` is monotonic seconds, 0 while it is closed."""

    source: str
    config: BreakerConfig
    clock: Clock
    failures: int = 0
    open_until: float = 0.0

    def refusal(self, call: str | None) -> Refusal | None:
        """The refusal while the source is left alone. Whoever comes first after that is the probe."""
        if not self.open_until:
            return None
        now = self.clock.monotonic()
        if now >= self.open_until:
            self.open_until = now + self.config.reset_s  # others wait for what the probe finds
            return None
        wait_s = max(1, math.ceil(self.open_until - now))
        return Refusal(
            Code.SOURCE_DOWN,
            f"The system behind this tool has failed {self.failures} times in a row and is left alone for "
            f"{wait_s} seconds. Nothing was done.",
            retry=f"after:{wait_s}",
            call=call,
        )

    def note(self, outcome: Outcome) -> None:
        """Count what came back. A tool's own word that it did nothing is an answer, not a failure; so is a question."""
        if not _failed(outcome):
            if self.open_until:
                _log.info("a source answers again", source=self.source)
            self.failures, self.open_until = 0, 0.0
            return
        self.failures += 1
        if self.failures >= self.config.failures:
            self.open_until = self.clock.monotonic() + self.config.reset_s
            _log.warning("a source is left alone", source=self.source, failures=self.failures)


class Breakers:
    """The breakers of all sources, by name."""

    def __init__(self, clock: Clock, configs: dict[str, BreakerConfig]) -> None:
        self._clock = clock
        self._configs = configs
        self._breakers: dict[str, SourceBreaker] = {}

    def of(self, source: str) -> SourceBreaker:
        breaker = self._breakers.get(source)
        if breaker is None:
            config = self._configs.get(source, BreakerConfig())
            breaker = self._breakers[source] = SourceBreaker(source, config, self._clock)
        return breaker


def _failed(outcome: Outcome) -> bool:
    return (
        outcome.error is not None
        and outcome.told_model is None
        and not outcome.meta.get("output_invalid")
        and not outcome.meta.get("overloaded")
        and QUARANTINED not in outcome.meta
        and ASKED_BACK not in outcome.meta
    )
