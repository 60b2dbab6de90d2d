"""`comptroller classify`: what MCP servers offer, what nobody has accepted yet, and accepting it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from comptroller_server.commands.choosing import Choice, Chosen, choose
from comptroller_server.commands.invocation import findings, invocation_of, options
from comptroller_server.commands.opening import installation_of
from comptroller_server.commands.showing import cut, emit, say, table
from comptroller_server.config.model import Config
from comptroller_server.errors import CommandError, ConfigInvalid
from comptroller_server.installation import Installation
from comptroller_server.upstreams.accepting import ROLE, Accepted, accept, open_to_accept
from comptroller_server.upstreams.asking import Asked, ask
from comptroller_server.upstreams.standing import Standing

__all__ = ["classify", "show_answers", "show_left", "show_written", "written_problems"]


@click.command()
@click.argument("sources", nargs=-1, metavar="[SOURCE]…")
@click.option(
    "--accept", "file", type=click.Path(path_type=Path, dir_okay=False),
    help="A YAML file `SOURCE: {TOOL: EFFECT}`; what it does not name, and what changed, is left as it is.",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="Accept everything that is shown, as it is proposed.")
@options()
@click.pass_context
def classify(ctx: click.Context, sources: tuple[str, ...], file: Path | None, yes: bool) -> None:
    """Show the tools of MCP servers, and accept them: their definitions are pinned, new ones get an entry.

    Starts or reaches each server and lists its tools; calls none. Descriptions and hints are the server's own words.
    Nothing is written without a yes, `--yes` or `--accept`. Exit code 1 while something that was accepted has changed,
    is gone, or cannot be reached.
    """
    if file is not None and yes:
        raise click.UsageError("--accept and --yes say two different things; give one")
    invocation = invocation_of(ctx)
    config = installation_of(invocation).config
    answers = asyncio.run(ask(config, _named(config, sources)))
    if not invocation.as_json:
        show_answers(answers)
    choice = choose(answers, file, yes=yes, quiet=invocation.as_json)
    wanted = choice.chosen
    accepted = accept(config, wanted) if wanted else None
    problems = written_problems(config) if accepted is not None else []
    if invocation.as_json:
        emit(_as_json(answers, accepted, wanted, problems))
    elif accepted is not None:
        show_written(accepted, wanted, problems)
    if not invocation.as_json:
        show_left(choice)
    if problems or _left(answers, wanted):
        findings()


def _named(config: Config, sources: Sequence[str]) -> list[str]:
    known = list(config.upstreams)
    if not known:
        raise CommandError(
            "no source of this configuration is an MCP server; add `sources: {NAME: {mcp: …}}`"
        )
    for name in sources:
        if name not in known:
            raise CommandError(
                f"{name!r} is no MCP server of this configuration; there are {', '.join(known)}"
            )
    return list(dict.fromkeys(sources)) or known


# -- showing ----------------------------------------------------------------------------------------------------------


def show_answers(answers: Sequence[Asked]) -> None:
    """One table of everything that is listed; what is wrong with what below it."""
    rows = [
        (
            one.source,
            seen.name,
            seen.standing.value,
            seen.effect.value if seen.effect is not None else "not offered",
            seen.proposed.value if open_to_accept(seen) else "",
            ", ".join(seen.hints),
            cut(" ".join(seen.description.split()), 100),
        )
        for one in answers
        for seen in one.seen
    ]
    if rows:
        table(["source", "tool", "stands", "is", "proposed", "claims (untrusted)", "says (untrusted)"], rows)
    for one in answers:
        if one.unreachable is not None:
            say(f"{one.source} cannot be asked: {one.unreachable}")
        for seen in one.seen:
            for note in seen.notes:
                say(f"  {seen.name}: {note}")
        for problem in one.wrong:
            say(f"  left out: {problem}")
    say()


def show_written(accepted: Accepted, chosen: Chosen, problems: Sequence[str]) -> None:
    count = sum(len(tools) for tools in chosen.values())
    say(f"Pinned {count} definition{'s' if count != 1 else ''} in {accepted.lock}.")
    for path in accepted.files:
        say(f"Wrote {path}; what is `execute` or `delete` there waits for a person with role {ROLE}.")
    for problem in problems:
        say(problem)
    say("Review both, commit them, and restart `comptroller serve`.")


def show_left(choice: Choice) -> None:
    """What a file of decisions said nothing of, where somebody reads it."""
    for line in choice.left:
        say(line)


def written_problems(config: Config) -> list[str]:
    """What keeps the configuration from loading now that it was written."""
    from comptroller_server.config.loading import load_config

    try:
        Installation(load_config(config.path, data_dir=config.data_dir)).check()
    except ConfigInvalid as error:
        return [str(finding) for finding in error.findings]
    return []


def _left(answers: Sequence[Asked], chosen: Chosen) -> bool:
    return any(
        one.unreachable is not None
        or any(
            (
                seen.standing in (Standing.CHANGED, Standing.GONE)
                or (seen.standing is Standing.UNUSABLE and seen.effect)
            )
            and seen.name not in chosen.get(one.source, {})
            for seen in one.seen
        )
        for one in answers
    )


def _as_json(
    answers: Sequence[Asked], accepted: Accepted | None, chosen: Chosen, problems: Sequence[str]
) -> dict[str, Any]:
    return {
        "sources": [
            {
                "source": one.source,
                "unreachable": one.unreachable,
                "left_out": list(one.wrong),
                "tools": [
                    {
                        "name": seen.name,
                        "standing": seen.standing.value,
                        "effect": seen.effect.value if seen.effect is not None else None,
                        "proposed": seen.proposed.value,
                        "claims": list(seen.hints),
                        "says": seen.description,
                        "notes": list(seen.notes),
                        "accepted": seen.name in chosen.get(one.source, {}),
                    }
                    for seen in one.seen
                ],
            }
            for one in answers
        ],
        "lock": str(accepted.lock) if accepted is not None else None,
        "files": [str(path) for path in accepted.files] if accepted is not None else [],
        "problems": list(problems),
    }
