"""Where an attempt that was answered is told to whoever watches. It never delays, changes or fails one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import structlog

from comptroller_audit.ambient import Clock, Ids
from comptroller_audit.owners import Owner
from comptroller_audit.redaction import Audience, Release
from comptroller_audit.vocabulary import Code, JsonObject
from comptroller_server import __version__
from comptroller_server.call.case import Case
from comptroller_server.call.proposal import Answer, Proposal
from comptroller_server.installation import Installation
from comptroller_server.telemetry.exporter import Exporter, Sent
from comptroller_server.telemetry.measures import Measures
from comptroller_server.telemetry.seen import CallSeen, seen_of, unreceived
from comptroller_server.telemetry.spans import export_request

__all__ = ["Telemetry", "telemetry_of"]

_log = structlog.stdlib.get_logger()


class Telemetry:
    """`exporter` and `measures` are there where they are configured; with neither nothing is gathered at all."""

    def __init__(
        self,
        release: Release,
        clock: Clock,
        ids: Ids,
        *,
        exporter: Exporter | None = None,
        share: float = 1.0,
        measures: Measures | None = None,
    ) -> None:
        self.measures = measures
        self._exporter = exporter
        self._share = share
        self._clock = clock
        self._ids = ids
        self._is_on = exporter is not None or measures is not None

        @lru_cache(maxsize=10_000)
        def released(name: str) -> str:
            return release.text(name, Audience.LOG)

        self._released = released

    @property
    def sent(self) -> Sent | None:
        """What became of spans; None where no traces are configured."""
        return self._exporter.sent if self._exporter is not None else None

    def answered(self, case: Case, answer: Answer | None) -> None:
        """`case` is over. Without an answer it was cancelled."""
        if self._is_on:
            self._tell(lambda: seen_of(case, answer))

    def unreceived(self, proposal: Proposal) -> None:
        """The store did not take the attempt."""
        if self._is_on:
            now_ms, code = self._clock.now_ms(), Code.STORE_UNAVAILABLE
            self._tell(lambda: unreceived(proposal, self._ids.uuid7(), now_ms, code))

    def close(self) -> None:
        """Blocks for as long as the exporter may; then nothing more is sent."""
        if self._exporter is not None:
            self._exporter.close()

    def _tell(self, look: Callable[[], CallSeen]) -> None:
        try:
            seen = look()
            rules = tuple(self._released(rule) for rule in seen.rules)
            seen = replace(seen, tool=self._released(seen.tool), rules=rules)
            if self.measures is not None:
                self.measures.add(seen)
            if self._exporter is not None and seen.trace.is_sampled(self._share):
                self._exporter.send(seen)
        except Exception:  # noqa: BLE001 -- whoever watches fails no call
            _log.exception("defect in telemetry")


def telemetry_of(i: Installation, owner: Owner) -> Telemetry:
    """What the configuration asks for. Starts a thread where traces are configured."""
    config, release, clock, ids = i.config.telemetry, i.roads, i.ambient.clock, i.ambient.ids
    measures = Measures() if config.metrics.prometheus else None
    if config.traces is None:
        return Telemetry(release, clock, ids, measures=measures)
    headers = {name: value.get_secret_value() for name, value in i.config.telemetry_secrets.headers.items()}
    resource = {
        "service.name": "comptroller",
        "service.version": __version__,
        "service.instance.id": owner.id,
        "deployment.environment.name": i.config.environment,
    }

    def written(calls: Sequence[CallSeen]) -> JsonObject:
        return export_request(resource, __version__, calls)

    exporter = Exporter(config.traces.endpoint, headers, written)
    return Telemetry(release, clock, ids, exporter=exporter, share=config.traces.sample, measures=measures)
