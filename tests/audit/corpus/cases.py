"""The corpus: cases made from templates and a seed, and how a released value is scored against them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from comptroller_audit.vocabulary import Json
from tests.audit.corpus.values import DISGUISES, LOOKALIKES, VALUES, Draw

__all__ = ["Case", "fingerprint", "leaked", "negatives", "positives"]

HOLE = re.compile(r"\{([a-z_0-9]+)(?:\|([a-z_0-9]+))?\}")


@dataclass(frozen=True, slots=True)
class Case:
    """A value to release. `canaries` are the spellings that must not come out; a negative has none."""

    kind: str
    value: Json
    canaries: tuple[str, ...]


def positives(templates: list[tuple[str, Json]], seed: int, rounds: int) -> list[Case]:
    """Each template filled `rounds` times. Kinds are those an operator writes."""
    draw = Draw(seed)
    return [_case(kind, template, draw) for _ in range(rounds) for kind, template in templates]


def negatives(templates: list[Json], seed: int, rounds: int) -> list[Case]:
    """Each template filled `rounds` times, those without a hole once."""
    draw = Draw(seed)
    return [
        _case("none", template, draw)
        for turn in range(rounds)
        for template in templates
        if turn == 0 or HOLE.search(json.dumps(template))
    ]


def fingerprint(cases: list[Case]) -> str:
    """Says whether a corpus is the one that was published."""
    text = json.dumps([[case.kind, case.value] for case in cases], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def leaked(case: Case, released: Json) -> bool:
    """Whether a canary is still readable in what was released."""
    texts = list(_texts(released))
    return any(canary in text for canary in case.canaries for text in texts)


def _case(kind: str, template: Json, draw: Draw) -> Case:
    canaries: list[str] = []

    def fill(match: re.Match[str]) -> str:
        name, disguise = match[1], match[2]
        make: Callable[[Draw], str] | None = VALUES.get(name) or LOOKALIKES.get(name)
        if make is None:
            return match[0]  # braces that are part of the text
        value = make(draw)
        shown = DISGUISES[disguise](value) if disguise else value
        if kind != "none":
            canaries.append(shown)
        return shown

    return Case(kind, _map(template, lambda text: HOLE.sub(fill, text)), tuple(canaries))


def _map(value: Json, change: Callable[[str], str]) -> Json:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map(item, change) for item in value]
    if isinstance(value, dict):
        return {change(key): _map(item, change) for key, item in value.items()}
    return value


def _texts(value: Json) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
