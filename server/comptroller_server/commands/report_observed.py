"""`comptroller report --observe`: what observe mode let pass, and what a configuration for it could be."""

from __future__ import annotations

from dataclasses import dataclass

import click

from comptroller_server.commands.invocation import Invocation
from comptroller_server.commands.opening import on_store
from comptroller_server.commands.showing import emit, say, table
from comptroller_server.commands.spans import progress_shown, since_from
from comptroller_server.commands.suggest import read_suggestion
from comptroller_server.installation import TENANT, Installation
from comptroller_server.reporting.observed import OBSERVED_IN, Observations, observing_in
from comptroller_server.reporting.span import entries_of, span_since
from comptroller_server.reporting.suggesting import Suggestion

__all__ = ["tell_observed"]


@dataclass(frozen=True, slots=True)
class _Told:
    found: Observations
    stands: str | None
    suggestion: Suggestion


def tell_observed(invocation: Invocation, since: str) -> None:
    """Print what would have been denied, by rule and tool, and the least that would have let all of it through."""

    async def read(installation: Installation) -> _Told:
        now_ms = installation.ambient.clock.now_ms()
        since_ms = since_from(since, now_ms)
        store, mode, found = installation.store, installation.config.mode, Observations()
        stands = store.read_now(lambda reader: observing_in(mode, reader, TENANT, now_ms))
        span = store.read_now(lambda reader: span_since(reader, since_ms))
        with progress_shown(quiet=invocation.as_json) as progress:
            for entry in entries_of(installation, span, OBSERVED_IN, progress):
                if entry.packet is not None and entry.type in OBSERVED_IN:
                    found.take(entry)
        return _Told(found, stands, read_suggestion(installation, since_ms, None))

    told = on_store(invocation, read)
    if invocation.as_json:
        document = told.found.as_json()
        emit({**document, "mode": told.stands, "suggestion": told.suggestion.as_json()})
        return
    if told.stands is not None:
        say(told.stands)
    if told.found.calls:
        say(f"{told.found.calls} calls ran that a rule would have stopped:")
        rows = [
            (one.rule, one.tool, one.verdict, str(one.calls), one.last_call) for one in told.found.stopped
        ]
        table(("RULE", "TOOL", "WOULD BE", "CALLS", "LAST CALL"), rows)
    else:
        say("No call ran in this time that a rule would have stopped.")
    say()
    click.echo(told.suggestion.text(), nl=False)
