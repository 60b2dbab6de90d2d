"""`comptroller classify`: what MCP servers offer, what nobody has accepted yet, and accepting it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import click

from comptroller_audit.vocabulary import Effect
from comptroller_server.commands.invocation import findings, invocation_of, options
from comptroller_server.commands.opening import installation_of
from comptroller_server.commands.showing import cut, emit, say, table
from comptroller_server.config.model import Config
from comptroller_server.config.yaml_lines import read_yaml
from comptroller_server.errors import CommandError, ConfigInvalid
from comptroller_server.installation import Installation
from comptroller_server.upstreams.accepting import ROLE, Accepted, accept, open_to_accept
from comptroller_server.upstreams.asking import Asked, ask
from comptroller_server.upstreams.standing import Seen, Standing
from comptroller_tools.upstream.definitions import Kind, kind_of

__all__ = ["choose", "classify", "show_answers", "show_written", "written_problems"]

SKIP = "skip"
Chosen = dict[str, dict[str, tuple[Seen, Effect]]]


@click.command()
@click.argument("sources", nargs=-1, metavar="[SOURCE]…")
@click.option(
    "--accept", "file", type=click.Path(path_type=Path, dir_okay=False),
    help="A YAML file `SOURCE: {TOOL: EFFECT}`; what it does not name is left as it is.",
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
    wanted = choose(answers, file, yes=yes, quiet=invocation.as_json)
    accepted = accept(config, wanted) if wanted else None
    problems = written_problems(config) if accepted is not None else []
    if invocation.as_json:
        emit(_as_json(answers, accepted, wanted, problems))
    elif accepted is not None:
        show_written(accepted, wanted, problems)
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


# -- choosing ---------------------------------------------------------------------------------------------------------


def choose(answers: Sequence[Asked], file: Path | None, *, yes: bool, quiet: bool = False) -> Chosen:
    """What a person accepts: by a file, all of it, or asked on the terminal. Raises `CommandError`, `ConfigInvalid`."""
    if file is not None:
        return _from_file(file, answers)
    return _all(answers) if yes else _asked_for(answers, quiet=quiet)


def _open(answers: Sequence[Asked]) -> list[tuple[str, Seen]]:
    return [(one.source, seen) for one in answers for seen in one.seen if open_to_accept(seen)]


def _all(answers: Sequence[Asked]) -> Chosen:
    chosen: Chosen = {}
    for source, seen in _open(answers):
        chosen.setdefault(source, {})[seen.name] = seen, seen.effect or seen.proposed
    return chosen


def _asked_for(answers: Sequence[Asked], *, quiet: bool) -> Chosen:
    """The reads with one key, the rest one by one; nothing where nobody can be asked."""
    waiting = _open(answers)
    if quiet or not waiting or not (sys.stdin.isatty() and sys.stdout.isatty()):
        if waiting and not quiet:
            say("Nothing was written: accept with --accept FILE or --yes, or run this on a terminal.")
        return {}
    chosen: Chosen = {}
    reads = [(source, seen) for source, seen in waiting if (seen.effect or seen.proposed) is Effect.READ]
    if reads and click.confirm(f"Accept the {len(reads)} proposed reads as reads?", default=False):
        for source, seen in reads:
            chosen.setdefault(source, {})[seen.name] = seen, Effect.READ
    options_ = [effect.value for effect in Effect] + [SKIP]
    for source, seen in waiting:
        if seen.name in chosen.get(source, {}):
            continue
        say()
        say(f"{source}: {seen.name}", bold=True)
        say(f"  {cut(' '.join(seen.description.split()))}")
        fitting = options_ if kind_of(seen.name) is Kind.TOOL else [Effect.READ.value, SKIP]
        word = click.prompt("  It is", type=click.Choice(fitting), default=SKIP)
        if word != SKIP:
            chosen.setdefault(source, {})[seen.name] = seen, Effect(word)
    return chosen


def _from_file(path: Path, answers: Sequence[Asked]) -> Chosen:
    tree, wrong = read_yaml(path, str(path))
    if wrong:
        raise ConfigInvalid(wrong)
    plain: Any = tree.plain() if tree is not None else {}
    waiting = {(source, seen.name): seen for source, seen in _open(answers)}
    known = {(one.source, seen.name) for one in answers for seen in one.seen}
    chosen: Chosen = {}
    if not isinstance(plain, Mapping):
        raise CommandError(f"{path} must be `SOURCE: {{TOOL: EFFECT}}`")
    for source, tools in cast("Mapping[str, Any]", plain).items():
        if not isinstance(tools, Mapping):
            raise CommandError(f"{path}: `{source}` must be `{{TOOL: EFFECT}}`")
        for name, word in cast("Mapping[str, Any]", tools).items():
            if word == SKIP:
                continue
            if word not in [effect.value for effect in Effect]:
                raise CommandError(f"{path}: `{source}.{name}` must be one of {', '.join(Effect)} or {SKIP}")
            if kind_of(name) is not Kind.TOOL and word != Effect.READ:
                raise CommandError(f"{path}: `{source}.{name}` can only be read; write read or {SKIP}")
            if (source, name) not in known:
                raise CommandError(f"{path}: `{source}` lists no `{name}` now; nothing was written")
            seen = waiting.get((source, name))
            if seen is not None and seen.effect not in (None, Effect(word)):
                raise CommandError(
                    f"{path}: `{name}` is `{seen.effect}` in the configuration; change it there"
                )
            if seen is not None:
                chosen.setdefault(source, {})[name] = seen, Effect(word)
    return chosen


# -- showing ----------------------------------------------------------------------------------------------------------


def show_answers(answers: Sequence[Asked]) -> None:
    for one in answers:
        say(one.source, bold=True)
        if one.unreachable is not None:
            say(f"  cannot be asked: {one.unreachable}")
            continue
        rows = [
            (
                seen.name,
                seen.standing.value,
                seen.effect.value if seen.effect is not None else "not offered",
                seen.proposed.value if open_to_accept(seen) else "",
                ", ".join(seen.hints),
                cut(" ".join(seen.description.split()), 100),
            )
            for seen in one.seen
        ]
        table(["tool", "stands", "is", "proposed", "claims (untrusted)", "says (untrusted)"], rows)
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
