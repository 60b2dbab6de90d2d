"""Entries of `tools` for the functions of a person's own, for them to judge: from names and signatures alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from comptroller_audit.vocabulary import Effect
from comptroller_server.errors import CommandError
from comptroller_server.setting_up.answers import Answers, source_name
from comptroller_server.upstreams.standing import effect_by_name, words_of
from comptroller_tools.errors import SourceInvalid
from comptroller_tools.functions import FunctionSource

__all__ = ["Proposed", "proposed_tools"]


@dataclass(frozen=True, slots=True)
class Proposed:
    """A function, what it is taken for, and its argument that moves money, if one looks like it."""

    name: str
    effect: Effect
    money: str | None

    @property
    def is_read(self) -> bool:
        return self.effect is Effect.READ


def proposed_tools(answers: Answers, folder: Path) -> list[Proposed]:
    """Load the functions and judge each. `folder` is where the configuration will lie. Raises `CommandError`."""
    assert answers.target is not None
    try:
        source = FunctionSource(source_name(answers), answers.target, base_dir=folder)
    except SourceInvalid as error:
        raise CommandError(f"{error}; nothing was written") from error
    found: list[Proposed] = []
    for name, definition in source.definitions().items():
        effect = effect_by_name(name)
        money = None if effect is Effect.READ else _money(definition.input_schema, answers.limits.unit)
        found.append(Proposed(name, effect, money))
    return found


def _money(schema: Mapping[str, Any], unit: str) -> str | None:
    """The first number among the arguments that is called an amount, or by the unit."""
    wanted = {"amount", *words_of(unit)}
    for name, written in cast("Mapping[str, Any]", schema.get("properties", {})).items():
        kinds = [written, *written.get("anyOf", ())]
        if wanted & words_of(name) and any(kind.get("type") in ("number", "integer") for kind in kinds):
            return name
    return None
