"""Which source each server of a client becomes: one for servers that are the same, another for each that is not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import chain, count, islice
from typing import Any

from comptroller_server.errors import CommandError

__all__ = ["SourceNames"]

_AGAIN_MAX = 64
"""How many sources that differ may come from servers of one name."""


class SourceNames:
    """Gives names over several files. `used` are sources that are something else, `there` what imports wrote before."""

    def __init__(self, used: Collection[str], there: Mapping[str, Any]) -> None:
        self._used = {name.casefold() for name in used}
        self._there = {name.casefold(): (name, mcp) for name, mcp in there.items()}
        self._given: dict[str, str] = {}
        self._by_spec: dict[str, str] = {}

    def of(self, name: str, spec: Mapping[str, Any], written_as: Callable[[str], Any]) -> str:
        """The source that the server `spec` becomes; `written_as` says what is written of it under a name.

        Raises `CommandError` where an earlier import has written another server under its name.
        """
        key = json.dumps(spec, sort_keys=True)
        if (known := self._by_spec.get(key)) is not None:
            return known
        source = self._written_before(name, written_as) or self._new(name)
        self._given[source.casefold()] = key
        self._by_spec[key] = source
        return source

    def _written_before(self, name: str, written_as: Callable[[str], Any]) -> str | None:
        for candidate in islice(_candidates(name), _AGAIN_MAX):
            own, mcp = self._there.get(candidate.casefold(), ("", None))
            if own and candidate.casefold() not in self._given and mcp == written_as(own):
                return own
        return None

    def _new(self, name: str) -> str:
        for candidate in islice(_candidates(name), _AGAIN_MAX):
            folded = candidate.casefold()
            if folded in self._given or folded in self._used:
                continue
            if folded in self._there:
                raise CommandError(
                    f"source `{candidate}` is another server than `{name}` is now; rename one of the two, or change "
                    f"`sources.{candidate}` yourself"
                )
            return candidate
        raise CommandError(f"too many servers are called {name!r}; rename some")


def _candidates(name: str) -> Iterator[str]:
    plain = re.sub(r"_{2,}", "_", re.sub(r"[^A-Za-z0-9-]+", "_", name)).strip("_-")
    plain = plain if plain[:1].isalpha() else f"server_{plain}".rstrip("_")
    return chain([plain[:40].rstrip("_-")], (f"{plain[:36]}_{at}" for at in count(2)))
