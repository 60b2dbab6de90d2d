"""`comptroller eval`: scenarios played end to end in a sandbox, and scenarios made of recorded calls."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from comptroller_audit.report import Report
from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import Json, JsonObject
from comptroller_policy.errors import Finding
from comptroller_server.commands.config_files import config_file
from comptroller_server.commands.invocation import EXIT_FAILED, Invocation, findings, invocation_of, options
from comptroller_server.commands.opening import call_named, installation_of, on_store
from comptroller_server.commands.results import Told, write_results
from comptroller_server.commands.showing import emit, say, table
from comptroller_server.errors import CommandError
from comptroller_server.evaluating.playing import Played, stage
from comptroller_server.evaluating.recording import scenario_of, tasks_calls, written_file
from comptroller_server.evaluating.scenarios import PATTERN, Scenario, read_scenarios
from comptroller_server.installation import Installation
from comptroller_server.rehearsal.junit import junit_xml
from comptroller_server.rehearsal.trying import CaseEnd
from comptroller_server.reporting.gates import Verdict, judged, parsed

__all__ = ["evaluate"]


@click.group()
def evaluate() -> None:
    """Scenarios: what an agent proposes, and what must come of it."""


@evaluate.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--gate", metavar="CONDITIONS", help="As `comptroller report --gate`, over all that was played."
)
@click.option(
    "--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write the results as JUnit XML."
)
@options()
@click.pass_context
def run(ctx: click.Context, files: tuple[Path, ...], gate: str | None, junit: Path | None) -> None:
    """Play the scenarios in FILES on the configuration's sources. [default: evals/*.eval.yaml beside it]

    It acts: give the configuration of a sandbox, whose `environment` the files name. The record is kept in a folder
    that is gone afterwards. Exit code 1 when a scenario fails, 2 when one cannot be played.
    """
    invocation = invocation_of(ctx)
    conditions = parsed(gate) if gate is not None else ()
    config = config_file(invocation.config)
    installation = installation_of(invocation)
    read = [read_scenarios(file, str(file)) for file in _chosen(files, config)]
    wrong = [finding for _, found in read for finding in found]
    played: list[Played] = []
    verdicts: list[Verdict] = []
    for scenarios, _ in read if not wrong else ():
        done, report = asyncio.run(_played(config, scenarios, quiet=invocation.as_json))
        played += done
        verdicts += judged(conditions, report)
    told = Told(installation)
    if junit is not None:
        write_results(junit, junit_xml(played, wrong, told, "comptroller eval"))
    _show(invocation, told, played, wrong, verdicts)
    if wrong or any(one.end is CaseEnd.UNUSABLE for one in played):
        ctx.exit(EXIT_FAILED)
    if any(one.end is CaseEnd.FAILED for one in played) or not all(each.holds for each in verdicts):
        findings()


def _chosen(files: Sequence[Path], config: Path) -> list[Path]:
    chosen = list(dict.fromkeys(files)) or sorted(config.absolute().parent.glob(PATTERN))
    if not chosen:
        raise CommandError(
            f"there are no scenarios: no file matches {config.absolute().parent / PATTERN}; write one, name FILES, or make "
            "one of recorded calls: comptroller eval record CALL"
        )
    return chosen


async def _played(config: Path, scenarios: Sequence[Scenario], *, quiet: bool) -> tuple[list[Played], Report]:
    """One file's scenarios, in a sandbox that is gone afterwards."""
    of = scenarios[0].of
    with tempfile.TemporaryDirectory(prefix="comptroller-eval-") as folder:
        async with stage(config, Path(folder), of.environment, of.env) as ready:
            played: list[Played] = []
            for number, scenario in enumerate(scenarios, 1):
                if not quiet and sys.stderr.isatty():
                    click.echo(f"\r{number} of {len(scenarios)} ", nl=False, err=True)
                played.append(await ready.play(number, scenario))
            return played, ready.report()


def _show(
    invocation: Invocation,
    told: Told,
    played: Sequence[Played],
    wrong: Sequence[Finding],
    verdicts: Sequence[Verdict],
) -> None:
    if invocation.as_json:
        emit(_document(told, played, wrong, verdicts))
        return
    for finding in wrong:
        say(told(str(finding)))
    rows = [
        (
            one.end.value,
            told(one.name),
            str(len(one.calls)),
            f"{one.took_s * 1000:.0f}",
            told(one.because)[:120],
        )
        for one in played
    ]
    if rows:
        table(("SCENARIO", "NAME", "CALLS", "MS", "BECAUSE"), rows)
        say()
    for one in played:
        if one.end is not CaseEnd.PASSED:
            say(told(f"{one.where}: {one.name}: {one.because}"))
    for verdict in verdicts:
        said = "holds" if verdict.holds else "BREACH"
        say(f"gate {said}: {verdict.condition.text} (found {verdict.found_text})")
    ends = Counter(one.end for one in played)
    say((", ".join(f"{ends[end]} {end.value}" for end in CaseEnd if ends[end]) or "nothing was played") + ".")


def _document(
    told: Told, played: Sequence[Played], wrong: Sequence[Finding], verdicts: Sequence[Verdict]
) -> JsonObject:
    listed: list[Json] = [
        {
            "name": told(one.name),
            "where": told(one.where),
            "end": one.end.value,
            "because": told(one.because),
            "calls": list(one.calls),
            "ms": round(one.took_s * 1000, 1),
        }
        for one in played
    ]
    found: list[Json] = [{"where": told(each.where), "message": told(each.message)} for each in wrong]
    gates: list[Json] = [each.as_json() for each in verdicts]
    ok = not wrong and all(one.end is CaseEnd.PASSED for one in played) and all(v.holds for v in verdicts)
    return {"ok": ok, "scenarios": listed, "findings": found, "gate": gates}


@evaluate.command()
@click.argument("calls", nargs=-1, required=True, metavar="CALL...")
@click.option(
    "--environment", default="sandbox", show_default=True, help="Where the scenarios may be played."
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="A new file. [default: standard output]"
)
@options()
@click.pass_context
def record(ctx: click.Context, calls: tuple[str, ...], environment: str, out: Path | None) -> None:
    """Make scenarios of the tasks that each CALL is of: every call of such a task, in order, with what came of it.

    What people are not shown is withheld in them too, and is to be replaced by values of the sandbox.
    """
    if out is not None and out.exists():
        raise CommandError(f"{out} is there already; name a new file")

    async def work(installation: Installation) -> list[JsonObject]:
        def read(reader: Reader) -> list[JsonObject]:
            named = [call_named(reader, call) for call in calls]
            tasks = dict.fromkeys(str(row["task"]) for _, row in named)
            return [scenario_of(f"task {task}", tasks_calls(reader, installation, task)) for task in tasks]

        return await installation.store.read(read)

    invocation = invocation_of(ctx)
    scenarios = on_store(invocation, work)
    text = written_file(environment, scenarios)
    if invocation.as_json:
        if out is not None:
            write_results(out, text)
        listed: list[Json] = [*scenarios]
        emit({"file": str(out) if out else None, "environment": environment, "scenarios": listed})
        return
    if out is None:
        click.echo(text, nl=False)
        return
    write_results(out, text)
    say(f"Written to {out}. Play it with: comptroller eval run {out} --config SANDBOX")
