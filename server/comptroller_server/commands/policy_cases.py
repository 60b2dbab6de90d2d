"""`comptroller policy test`: the operator's cases, decided by the bundle that would serve. Nothing is called or written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from comptroller_audit.vocabulary import Json, JsonObject
from comptroller_policy.errors import Finding
from comptroller_server.commands.invocation import EXIT_FAILED, findings, invocation_of, options
from comptroller_server.commands.opening import installation_of, quiet_stdout
from comptroller_server.commands.results import Told, write_results
from comptroller_server.commands.showing import emit, say, table
from comptroller_server.errors import CommandError
from comptroller_server.installation import Installation
from comptroller_server.rehearsal.cases import CASES_PATTERN, Cases, read_cases
from comptroller_server.rehearsal.deciding import Rehearsal
from comptroller_server.rehearsal.junit import junit_xml
from comptroller_server.rehearsal.trying import CaseEnd, Cover, Tried, cover_of, try_case

__all__ = ["try_cases"]


@click.command("test")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--cover", is_flag=True, help="Fail when a rule is decided by in no case.")
@click.option(
    "--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write the results as JUnit XML."
)
@options()
@click.pass_context
def try_cases(ctx: click.Context, files: tuple[Path, ...], cover: bool, junit: Path | None) -> None:
    """Decide the cases in FILES and compare. [default: policies/*.test.yaml beside the configuration]

    No source is called, no store is opened. Exit code 1 when a case fails, 2 when one cannot be decided at all.
    """
    invocation = invocation_of(ctx)
    installation = installation_of(invocation)
    read = _read(installation, files)
    with quiet_stdout():
        rehearsal = Rehearsal(installation)
        tried = [try_case(rehearsal, case) for one in read for case in one.cases]
    covered = cover_of(rehearsal, tried, {id_: found for one in read for id_, found in one.uncovered.items()})
    wrong = [found for one in read for found in one.findings]
    # A case that could not be decided may be the one that the excuse is wrong about.
    wrong += [] if wrong or any(one.end is CaseEnd.UNUSABLE for one in tried) else covered.findings
    told = _Told(installation)
    if junit is not None:
        write_results(junit, junit_xml(tried, wrong, told))
    if invocation.as_json:
        emit(told.document(tried, covered, wrong))
    else:
        _show(told, tried, covered, wrong, named=cover)
    if wrong or any(one.end is CaseEnd.UNUSABLE for one in tried):
        ctx.exit(EXIT_FAILED)
    if any(one.end is CaseEnd.FAILED for one in tried) or (cover and covered.never):
        findings()


def _read(installation: Installation, files: Sequence[Path]) -> list[Cases]:
    """What all files hold. Raises `CommandError` where there is none."""
    base = installation.config.base_dir
    chosen = list(files) or sorted(base.glob(CASES_PATTERN))
    if not chosen:
        raise CommandError(
            f"there are no cases: no file matches {base / CASES_PATTERN}; write one, or name FILES"
        )
    return [read_cases(file, _shown(file)) for file in dict.fromkeys(chosen)]


def _shown(file: Path) -> str:
    here = Path.cwd()
    return str(file.relative_to(here)) if file.is_absolute() and file.is_relative_to(here) else str(file)


class _Told(Told):
    """The same for whole documents."""

    def document(self, tried: Sequence[Tried], covered: Cover, wrong: Sequence[Finding]) -> JsonObject:
        """`{ok, cases, findings, cover}` for a program."""
        listed: list[Json] = [self._texts(one.as_json()) for one in tried]
        found: list[Json] = [{"where": self(each.where), "message": self(each.message)} for each in wrong]
        ok = not wrong and all(one.end is CaseEnd.PASSED for one in tried)
        return {"ok": ok, "cases": listed, "findings": found, "cover": covered.as_json()}

    def _texts(self, members: JsonObject) -> JsonObject:
        return {
            name: self(value)
            if isinstance(value, str)
            else [self(str(each)) for each in value]
            if isinstance(value, list)
            else value
            for name, value in members.items()
        }


def _show(
    told: _Told, tried: Sequence[Tried], covered: Cover, wrong: Sequence[Finding], *, named: bool
) -> None:
    for finding in wrong:
        say(told(str(finding)))
    rows = [
        (
            one.end.value,
            told(one.case.text.name),
            str(one.case.given.tool),
            one.case.text.expect.value,
            one.was.value if one.was is not None else "",
            told(", ".join(one.policies)),
        )
        for one in tried
    ]
    if rows:
        table(("CASE", "NAME", "TOOL", "EXPECTED", "WAS", "BY"), rows)
        say()
    for one in tried:
        if one.end is CaseEnd.FAILED:
            say(told(f"{one.case.where}: {one.case.text.name}: {one.because}"))
        for finding in one.findings:
            say(told(f"{finding.where}: {one.case.text.name}: {finding.message}"))
    ends = Counter(one.end for one in tried)
    counts = ", ".join(f"{ends[end]} {end.value}" for end in CaseEnd if ends[end]) or "no case was decided"
    excused = f", {len(covered.excused)} need none" if covered.excused else ""
    more = "" if named or not covered.never else " (--cover names the others)"
    say(f"{counts}; {covered.seen} of {covered.rules} rules decided some case{excused}{more}.")
    for id_, where in covered.never.items() if named else ():
        say(told(f"{where}: {id_} decided no case"))
