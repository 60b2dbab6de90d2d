"""What a person accepts of upstreams: by a file, all of it, or key by key at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import click

from comptroller_audit.vocabulary import Effect
from comptroller_server.commands.showing import cut, plain, say
from comptroller_server.config.yaml_lines import read_yaml
from comptroller_server.errors import CommandError, ConfigInvalid
from comptroller_server.upstreams.accepting import open_to_accept
from comptroller_server.upstreams.asking import Asked
from comptroller_server.upstreams.standing import Seen, Standing
from comptroller_tools.upstream.definitions import Kind, kind_of

__all__ = ["Choice", "Chosen", "at_a_terminal", "choose"]

SKIP = "skip"
REST = "*"
"""In a file: what it does not name."""
Chosen = dict[str, dict[str, tuple[Seen, Effect]]]
_KEYS = {
    "r": Effect.READ.value,
    "c": Effect.CREATE.value,
    "u": Effect.UPDATE.value,
    "d": Effect.DELETE.value,
    "e": Effect.EXECUTE.value,
    "s": SKIP,
}


@dataclass(slots=True)
class Choice:
    """What is accepted, and what a file of decisions said nothing of: one line each."""

    chosen: Chosen = field(default_factory=dict[str, dict[str, tuple[Seen, Effect]]])
    left: list[str] = field(default_factory=list[str])

    def take(self, source: str, seen: Seen, effect: Effect) -> None:
        self.chosen.setdefault(source, {})[seen.name] = seen, effect

    def has(self, source: str, seen: Seen) -> bool:
        return seen.name in self.chosen.get(source, {})


def at_a_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def choose(answers: Sequence[Asked], file: Path | None, *, yes: bool, quiet: bool = False) -> Choice:
    """What a person accepts. Nothing where nobody can be asked. Raises `CommandError`, `ConfigInvalid`."""
    if file is not None:
        return _from_file(file, answers)
    waiting = _open(answers)
    if yes:
        choice = Choice()
        for source, seen in waiting:
            choice.take(source, seen, seen.effect or seen.proposed)
        return choice
    if quiet or not waiting or not at_a_terminal():
        if waiting and not quiet:
            say("Nothing was written: accept with --accept FILE or --yes, or run this on a terminal.")
        return Choice()
    return _asked_for(waiting)


def _open(answers: Sequence[Asked]) -> list[tuple[str, Seen]]:
    return [(one.source, seen) for one in answers for seen in one.seen if open_to_accept(seen)]


# -- at a terminal ----------------------------------------------------------------------------------------------------


def _asked_for(waiting: Sequence[tuple[str, Seen]]) -> Choice:
    """New reads with one key; of the rest each by itself, or all behind an approval. What changed is never in a heap."""
    choice = Choice()
    reads = [(source, seen) for source, seen in waiting if _is_new_read(seen)]
    if (
        reads
        and _key(f"Accept the {len(reads)} proposed reads as reads?", {"y": "yes", "n": "no"}, "n") == "y"
    ):
        for source, seen in reads:
            choice.take(source, seen, Effect.READ)
    rest = [(source, seen) for source, seen in waiting if not choice.has(source, seen)]
    new = [(source, seen) for source, seen in rest if _goes_behind_approval(seen)]
    if new:
        ways = {"o": "one by one", "e": "all as `execute` behind an approval", "s": "leave them out"}
        way = _key(f"What else is new ({len(new)}):", ways, "o")
        for source, seen in new if way == "e" else ():
            choice.take(source, seen, seen.proposed if seen.proposed is Effect.DELETE else Effect.EXECUTE)
        rest = rest if way == "o" else [one for one in rest if one not in new]
    for source, seen in rest:
        if (effect := _asked_about(source, seen)) is not None:
            choice.take(source, seen, effect)
    return choice


def _is_new_read(seen: Seen) -> bool:
    return seen.standing is Standing.NEW and (seen.effect or seen.proposed) is Effect.READ


def _goes_behind_approval(seen: Seen) -> bool:
    return seen.standing is Standing.NEW and seen.effect is None and kind_of(seen.name) is Kind.TOOL


def _asked_about(source: str, seen: Seen) -> Effect | None:
    say()
    say(f"{source}: {seen.name}", bold=True)
    if seen.hints:
        say(f"  It claims (untrusted): {', '.join(seen.hints)}")
    say(f"  It says (untrusted): {cut(' '.join(seen.description.split())) or 'nothing'}")
    for note in seen.notes:
        say(f"  {note}")
    if seen.effect is not None:
        again = {"a": f"accept it as `{seen.effect.value}`", "s": SKIP}
        return seen.effect if _key("  It is", again, "s") == "a" else None
    fitting = _KEYS if kind_of(seen.name) is Kind.TOOL else {"r": Effect.READ.value, "s": SKIP}
    word = fitting[_key("  It is", fitting, "s")]
    return Effect(word) if word != SKIP else None


def _key(question: str, meanings: Mapping[str, str], default: str) -> str:
    """One key of `meanings`; the Enter key is the default. Raises `click.Abort`."""
    told = ", ".join(f"[{key}] {meaning}" for key, meaning in meanings.items())
    click.echo(f"{plain(question)}  {told}  (Enter: {meanings[default]}) ", nl=False)
    while True:
        try:
            pressed = click.getchar()
        except (EOFError, KeyboardInterrupt):
            raise click.Abort from None
        if pressed in ("", "\x03", "\x04"):
            raise click.Abort
        key = default if pressed in ("\r", "\n") else pressed.lower()
        if key in meanings:
            click.echo(meanings[key])
            return key


# -- by a file --------------------------------------------------------------------------------------------------------


def _from_file(path: Path, answers: Sequence[Asked]) -> Choice:
    """A file of decisions speaks of what is new. What changed since it was accepted, only a person looks at."""
    waiting = {(source, seen.name): seen for source, seen in _open(answers)}
    known = {(one.source, seen.name): seen for one in answers for seen in one.seen}
    decided = {(source, name): word for source, name, word in _decisions(path)}
    choice = Choice()
    for (source, name), word in decided.items():
        if name == REST:
            continue
        if (source, name) not in known:
            raise CommandError(f"{path}: `{source}` lists no `{name}` now; nothing was written")
        effect = known[source, name].effect
        if word != SKIP and effect not in (None, Effect(word)):
            raise CommandError(f"{path}: `{name}` is `{effect}` in the configuration; change it there")
    for (source, name), seen in waiting.items():
        said = decided.get((source, name)) or decided.get((source, REST))
        for_all = (source, name) not in decided and kind_of(name) is not Kind.TOOL
        given = SKIP if said is not None and for_all else said
        if given is None:
            choice.left.append(f"{source}: {name} is not named in {path}; write its effect or {SKIP}")
        elif seen.standing is Standing.CHANGED and given != SKIP:
            choice.left.append(
                f"{source}: {name} changed since it was accepted, so no file accepts it; look at it with `comptroller classify`"
            )
        elif given != SKIP:
            choice.take(source, seen, Effect(given))
    return choice


def _decisions(path: Path) -> Iterator[tuple[str, str, str]]:
    tree, wrong = read_yaml(path, str(path))
    if wrong:
        raise ConfigInvalid(wrong)
    whole: Any = tree.plain() if tree is not None else {}
    if not isinstance(whole, Mapping):
        raise CommandError(f"{path} must be `SOURCE: {{TOOL: EFFECT}}`")
    for source, tools in cast("Mapping[str, Any]", whole).items():
        if not isinstance(tools, Mapping):
            raise CommandError(f"{path}: `{source}` must be `{{TOOL: EFFECT}}`")
        for name, word in cast("Mapping[str, Any]", tools).items():
            if word not in [*(effect.value for effect in Effect), SKIP]:
                raise CommandError(f"{path}: `{source}.{name}` must be one of {', '.join(Effect)} or {SKIP}")
            if name == REST and word not in (Effect.EXECUTE.value, SKIP):
                raise CommandError(f"{path}: `{source}.{REST}` can only be {Effect.EXECUTE} or {SKIP}")
            if kind_of(name) is not Kind.TOOL and word not in (Effect.READ.value, SKIP):
                raise CommandError(f"{path}: `{source}.{name}` can only be read; write read or {SKIP}")
            yield source, name, str(word)
