"""`comptroller report`: what all calls and tasks come to, a gate on it for pipelines, and a page of it for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from comptroller_audit.files import replace_file
from comptroller_audit.latency import Latency
from comptroller_audit.report import Report, TaskEnd, usd_text
from comptroller_audit.report_calls import CallEnd
from comptroller_audit.vocabulary import JsonObject
from comptroller_server.commands.invocation import findings, invocation_of, options
from comptroller_server.commands.opening import on_store
from comptroller_server.commands.report_observed import tell_observed
from comptroller_server.commands.showing import Card, at, emit, say, table
from comptroller_server.commands.spans import progress_shown, since_from, since_option
from comptroller_server.errors import CommandError
from comptroller_server.installation import Installation
from comptroller_server.reporting.gates import Condition, Verdict, judged, parsed
from comptroller_server.reporting.reading import read_report
from comptroller_server.reporting.words import containment_lines, share, waiting_rows

__all__ = ["report"]

PAGE_MODE = 0o644
"""A page is there to be read, by people and by whatever serves it."""


@click.command()
@since_option("7d")
@click.option(
    "--gate",
    metavar="CONDITIONS",
    help="Like 'success>=0.9,containment=1,p99_ms<=800': exit 1 unless all of them hold. No data never holds.",
)
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the report as one page.")
@click.option(
    "--observe", is_flag=True, help="What observe mode let pass, by rule and tool, and what would allow it."
)
@options()
@click.pass_context
def report(ctx: click.Context, since: str, gate: str | None, html: Path | None, observe: bool) -> None:
    """Tasks by outcome, cost per success, containment, failures, latency, and what waits for a person.

    It only reads, beside a serving process if there is one.
    """
    invocation = invocation_of(ctx)
    if observe:
        if gate is not None or html is not None:
            raise click.UsageError("--observe is a report of its own; leave out --gate and --html")
        since_from(since, 0)
        tell_observed(invocation, since)
        return
    conditions: Sequence[Condition] = parsed(gate) if gate is not None else ()

    async def read(installation: Installation) -> Report:
        since_ms = since_from(since, installation.ambient.clock.now_ms())
        with progress_shown(quiet=invocation.as_json) as progress:
            return read_report(installation, since_ms, progress)

    since_from(since, 0)  # what is wrong with it is told before the store is opened
    found = on_store(invocation, read)
    verdicts = judged(conditions, found)
    if html is not None:
        _write(html, found, verdicts)
    if invocation.as_json:
        told: JsonObject = found.as_json()
        if gate is not None:
            told["gate"] = {
                "ok": all(each.holds for each in verdicts),
                "conditions": [each.as_json() for each in verdicts],
            }
        emit(told)
    else:
        _tell(found)
        _tell_gate(verdicts)
        if html is not None:
            say(f"The page is at {html}.")
    if not all(each.holds for each in verdicts):
        findings()


def _write(path: Path, found: Report, verdicts: Sequence[Verdict]) -> None:
    """The page, in one piece: whoever reads the file sees the old one or the new one. Raises `CommandError`."""
    from comptroller_server.reporting.page import page_of  # only where a page is wanted

    try:
        replace_file(path, page_of(found, verdicts).encode(), PAGE_MODE)
    except OSError as error:
        raise CommandError(f"the page cannot be written to {path}: {error.strerror}") from error


# -- for a person ---------------------------------------------------------------------------------------------------


def _tell(found: Report) -> None:
    calls, tasks = found.calls, found.tasks
    card = Card(f"report from {at(found.since_ms)} to {at(found.until_ms)}: {calls.entries.total()} records")
    by_end = [f"{tasks.ends[end]} {end.value}" for end in TaskEnd if tasks.ends[end]]
    card.line("tasks", ", ".join(by_end) or "none began in this time")
    if tasks.success is not None:
        card.line("success", f"{share(tasks.success)} of {tasks.ended} that ended")
    card.line("cost", _cost_line(found))
    for line in containment_lines(found):
        card.line("containment", line)
    ends = [f"{count} {_told(end)}" for end, count in sorted(calls.ends.items())]
    card.line("calls", ", ".join(ends) or "none")
    for name, counted in (
        ("exhausted", calls.exhausted),
        ("reversed", calls.reversed),
        ("recovered", calls.recovered),
        ("resolved", calls.resolved),
        ("handed off", calls.handed_off),
    ):
        if counted:
            card.line(name, ", ".join(f"{count} {what}" for what, count in sorted(counted.items())))
    for what, waits in waiting_rows(found):
        if waits.count:
            card.line("waiting", f"{what}: {waits.count}, the oldest since {at(waits.oldest_ms or 0)}")
    if calls.erased:
        card.line("erased", f"{calls.erased} records whose contents are gone are counted by type only")
    _tables(found)


def _told(end: CallEnd) -> str:
    """An attempt that was told to wait is counted as such for good, while its call may be long done."""
    return "told to wait" if end is CallEnd.WAITING else end.value


def _tables(found: Report) -> None:
    failures = [
        (name, str(codes.total()), ", ".join(f"{code} {n}" for code, n in codes.most_common()))
        for name, codes in found.calls.failures().items()
        if codes
    ]
    if failures:
        say()
        table(("FAILURES", "COUNT", "CODES"), failures)
    if found.calls.total.count:
        say()
        rows = [("all tools", found.calls.total), *sorted(found.calls.by_tool.items())]
        table(("LATENCY", "CALLS", "P50 MS", "P95 MS", "P99 MS", "MAX MS"), [_times(*row) for row in rows])
        say()
        steps = [_times(*row) for row in found.calls.steps()]
        table(("STEP", "CALLS", "P50 MS", "P95 MS", "P99 MS", "MAX MS"), steps)


def _times(name: str, latency: Latency) -> tuple[str, ...]:
    found = (*(latency.percentile(percent) or 0.0 for percent in (50, 95, 99)), latency.max_ms)
    return (name, str(latency.count), *(f"{ms:.1f}" for ms in found))


def _cost_line(found: Report) -> str:
    tasks = found.tasks
    each = usd_text(tasks.cost_per_success_micro)
    per_success = f"{each} USD for each that succeeded" if each is not None else "none succeeded"
    return (
        f"{usd_text(tasks.cost_micro)} USD, {per_success}; tools {usd_text(tasks.tool_cost_micro)} USD, models "
        f"{usd_text(tasks.model_cost_micro)} USD for {tasks.tokens} tokens ({tasks.estimated_tokens} estimated)"
    )


def _tell_gate(verdicts: Sequence[Verdict]) -> None:
    if verdicts:
        say()
    for each in verdicts:
        said = "holds" if each.holds else "BREACH"
        say(f"gate {said}: {each.condition.text} (found {each.found_text})")
