"""`comptroller replay`: recorded decisions made again under a candidate configuration, and a gate on what would change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from comptroller_audit.redaction import Audience
from comptroller_audit.vocabulary import Json, JsonObject
from comptroller_policy.model import Verdict
from comptroller_server.commands.config_files import CONFIG_NAME
from comptroller_server.commands.invocation import findings, invocation_of, options
from comptroller_server.commands.opening import on_store, quiet_stdout
from comptroller_server.commands.showing import at, cut, emit, say, table
from comptroller_server.commands.spans import progress_shown, since_from, since_option
from comptroller_server.config.loading import load_config
from comptroller_server.errors import CommandError
from comptroller_server.installation import Installation
from comptroller_server.rehearsal.deciding import Rehearsal
from comptroller_server.rehearsal.replaying import NAMED_MAX, Replay
from comptroller_server.rehearsal.replaying import replay as replayed

__all__ = ["replay"]

SHOWN_MAX = 50
"""Calls on the screen for each change; the document names up to `NAMED_MAX`."""
_COUNT = click.IntRange(min=0)


@click.command()
@click.option(
    "--policy",
    "candidate",
    type=click.Path(path_type=Path),
    required=True,
    metavar="CANDIDATE",
    help="The configuration to try, with its policies; or the folder it lies in.",
)
@since_option("30d")
@click.option(
    "--max-allow-to-deny", type=_COUNT, help="Exit 1 when more calls than this would be denied now."
)
@click.option(
    "--max-deny-to-allow", type=_COUNT, help="Exit 1 when more calls than this would be allowed now."
)
@click.option("--max-undecided", type=_COUNT, help="Exit 1 when more than this cannot be decided again.")
@options()
@click.pass_context
def replay(
    ctx: click.Context,
    candidate: Path,
    since: str,
    max_allow_to_deny: int | None,
    max_deny_to_allow: int | None,
    max_undecided: int | None,
) -> None:
    """Decide recorded calls again, as they were, under another configuration.

    It only reads, beside a serving process if there is one. What the record does not hold is counted and never guessed.
    """
    invocation = invocation_of(ctx)
    since_from(since, 0)  # what is wrong with it is told before the store is opened
    if candidate.is_dir():
        candidate = candidate / CONFIG_NAME
    if not candidate.is_file():
        raise CommandError(f"there is no configuration at {candidate}; name another with --policy")

    async def work(installation: Installation) -> tuple[Replay, Callable[[str], str]]:
        other = Installation(load_config(candidate, data_dir=installation.config.data_dir))
        with quiet_stdout():
            rehearsal = Rehearsal(other)
            _ = installation.bundle_digest  # loads the sources of today's configuration
        since_ms = since_from(since, installation.ambient.clock.now_ms())
        with progress_shown(quiet=invocation.as_json) as progress:
            found = replayed(installation, rehearsal, since_ms, progress)
        return found, _road(installation, other)

    found, told = on_store(invocation, work)
    thresholds = (
        ("allow to deny", found.changed(Verdict.ALLOW, Verdict.DENY), max_allow_to_deny),
        ("deny to allow", found.changed(Verdict.DENY, Verdict.ALLOW), max_deny_to_allow),
        ("undecided", found.lacks.total(), max_undecided),
    )
    given = [(what, count, most) for what, count, most in thresholds if most is not None]
    breaches = [f"{count} {what}, {most} at most" for what, count, most in given if count > most]
    if given and not found.decided:  # what has no data never holds
        breaches = ["nothing was decided again, so no threshold holds"]
    if invocation.as_json:
        listed: list[Json] = [*breaches]
        document: JsonObject = {"ok": not breaches, **found.as_json(told), "breaches": listed}
        emit(document)
    else:
        _show(found, told)
        for breach in breaches:
            say(f"BREACH: {breach}")
    if breaches:
        findings()


def _road(*installations: Installation) -> Callable[[str], str]:
    """What of a text a person may see, by the secrets and patterns of every configuration in hand."""

    def told(text: str) -> str:
        for installation in installations:
            text = installation.release.text(text, Audience.PERSON)
        return text

    return told


def _show(found: Replay, told: Callable[[str], str]) -> None:
    ways = [
        (then.value, now.value, str(count), "" if then is now else "changed")
        for (then, now), count in sorted(found.ways.items())
    ]
    if ways:
        table(("THEN", "NOW", "DECISIONS", ""), ways)
        say()
    for then, now in sorted({(flip.then, flip.now) for flip in found.flips}):
        flips = [flip for flip in found.flips if (flip.then, flip.now) == (then, now)]
        say(f"{then.value} to {now.value}", bold=True)
        for flip in flips[:SHOWN_MAX]:
            by = told(", ".join(flip.now_policies) or "no policy")
            before = told(", ".join(flip.then_policies) or "no policy")
            say(
                f"  {flip.call}  {at(flip.at_ms)}  {told(flip.tool)}: {before} -> {by}: {_why(flip.reasons, told)}"
            )
        _more(found.ways[then, now], len(flips))
    if found.undecided:
        say("cannot be decided again", bold=True)
        for lack in sorted({each.lacks for each in found.undecided}):
            lacking = [each for each in found.undecided if each.lacks is lack]
            say(f"  {lack.value}: {found.lacks[lack]}")
            for each in lacking[:SHOWN_MAX]:
                say(f"    {each.call or 'an unnamed call'}  {told(each.tool)}  {cut(told(each.why))}")
            _more(found.lacks[lack], len(lacking))
    if found.elsewhere:
        say(
            f"{found.elsewhere} were decided under another bundle than today's; look-ups and counts of the same name are "
            "taken for the same."
        )
    say(f"{found.decided} of {found.decisions} decisions made again, {found.changes} otherwise.")


def _why(reasons: tuple[str, ...], told: Callable[[str], str]) -> str:
    return cut(told(" ".join(reasons)) or "no reason was given")


def _more(count: int, named: int) -> None:
    if count > min(SHOWN_MAX, named):
        say(f"  and {count - min(SHOWN_MAX, named)} more; --json names up to {NAMED_MAX}")
