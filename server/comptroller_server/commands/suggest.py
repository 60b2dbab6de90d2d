"""`comptroller suggest`: recorded calls as the least of a configuration, to be reviewed. It reads, and changes nothing."""

from __future__ import annotations

import json

import click

from comptroller_audit.redaction import Audience, Release
from comptroller_audit.vocabulary import Json
from comptroller_server.call.roads import roads_by_config
from comptroller_server.commands.invocation import invocation_of, options
from comptroller_server.commands.opening import on_store
from comptroller_server.commands.showing import emit
from comptroller_server.commands.spans import progress_shown, since_from, since_option
from comptroller_server.installation import Installation
from comptroller_server.reporting.span import Progress, entries_of, span_since
from comptroller_server.reporting.suggesting import WANTED, Suggestion

__all__ = ["read_suggestion", "suggest"]


@click.command()
@since_option("7d")
@click.option("--task", metavar="TASK", help="Only the calls of this task (its whole id).")
@options()
@click.pass_context
def suggest(ctx: click.Context, since: str, task: str | None) -> None:
    """What the calls that ran used: tools, roles, arguments and counts, as a fragment of a configuration.

    Read it before you take anything of it: it shows what happened, not what is right.
    """
    invocation = invocation_of(ctx)

    async def read(installation: Installation) -> Suggestion:
        since_ms = since_from(since, installation.ambient.clock.now_ms())
        with progress_shown(quiet=invocation.as_json) as progress:
            return read_suggestion(installation, since_ms, task, progress)

    since_from(since, 0)  # what is wrong with it is told before the store is opened
    found = on_store(invocation, read)
    if invocation.as_json:
        emit(found.as_json())
    else:
        click.echo(found.text(), nl=False)


def read_suggestion(
    installation: Installation, since_ms: int | None, task: str | None, progress: Progress | None = None
) -> Suggestion:
    """From `since_ms` (None: from the first record) until now, a page at a time. Raises `StoreError`, `KeyRingError`."""
    config, store = installation.config, installation.store
    given = {
        tool.name: frozenset(name for name, rule in tool.arguments.items() if rule.default is None)
        for tool in config.tools
        if not tool.hidden
    }
    found, roads = Suggestion(given, task), dict[str, Release]()

    span = store.read_now(lambda reader: span_since(reader, since_ms))
    for entry in entries_of(installation, span, WANTED, progress):
        packet = entry.packet
        if packet is None or entry.type not in WANTED or not found.wants(packet):
            continue
        marked, tool = packet.get("redact"), str(packet["tool"])
        marks = {k: str(v) for k, v in marked.items()} if isinstance(marked, dict) else {}
        key = json.dumps([tool, marks], sort_keys=True)
        if key not in roads:
            whole = roads_by_config(installation.release, config.tools, config.safety.patterns, marks, tool)
            roads[key] = whole.arguments(tool)
        given_arguments: Json = packet.get("arguments")
        found.take(entry, roads[key].release(given_arguments, Audience.MODEL).value)
    return found
