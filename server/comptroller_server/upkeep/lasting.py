"""What of a serving process stays as it is when other rules are taken over."""

from __future__ import annotations

from dataclasses import dataclass

from comptroller_audit.owners import Owner
from comptroller_budgets.metering import Metered
from comptroller_server.call.breakers import Breakers
from comptroller_server.call.dispatch import Counts
from comptroller_server.call.loops import Loops
from comptroller_server.call.quotas import Quotas
from comptroller_server.call.watch import Watch
from comptroller_server.installation import Installation
from comptroller_server.people.pages import DecisionPages
from comptroller_server.tasks.taskbook import TaskBook
from comptroller_server.telemetry.watching import Telemetry, telemetry_of
from comptroller_server.upkeep.checkpoints import Checkpointer, checkpointer_of
from comptroller_server.upkeep.retention import Retention, retention_of

__all__ = ["Lasting"]


@dataclass(frozen=True, slots=True)
class Lasting:
    """The parts of a process that other rules leave as they are: what it has counted, seen and holds."""

    watch: Watch
    counts: Counts
    quotas: Quotas
    loops: Loops
    breakers: Breakers
    checkpointer: Checkpointer
    retention: Retention
    pages: DecisionPages
    taskbook: TaskBook
    telemetry: Telemetry
    reversing: set[str]
    """Calls that are being reversed in this process: no recovery of it hands them over meanwhile."""
    waiting: dict[tuple[str, str], Metered]
    declined: dict[tuple[str, str], int]

    @classmethod
    def of(cls, i: Installation, owner: Owner) -> Lasting:
        config, clock, limits, counts = i.config, i.ambient.clock, i.config.limits, Counts()
        return cls(
            Watch(i.store, clock, owner, counts),
            counts,
            Quotas(clock, limits.attempts_per_minute_max, limits.refusal_records_per_minute_max),
            Loops(clock, limits.identical_calls_max),
            Breakers(clock, {name: source.breaker for name, source in config.sources.items()}),
            checkpointer_of(i),
            retention_of(i),
            DecisionPages(config.http.public_url),
            TaskBook(i.store, owner, clock, i.ambient.ids, config.budgets),
            telemetry_of(i, owner),
            set(),
            {},
            {},
        )
