"""The tables of `docs/tokens.md`, written and read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.tokens.lists import Part

__all__ = ["PAGE", "REFUSAL_CHARS_MAX", "Counted", "characters_of", "codes_in", "tables", "with_tables"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tokens.md"
REFUSAL_CHARS_MAX = 450
"""Of any refusal's text, with the ids and amounts of the demo."""
_BEGIN, _END = "<!-- counted -->", "<!-- end -->"


@dataclass(frozen=True, slots=True)
class Counted:
    """Of one text."""

    characters: int
    tokens: int


def tables(lists: Sequence[tuple[Part, Counted]], refusals: Mapping[str, Counted]) -> str:
    """As Markdown."""
    lines = ["| list | tools | characters | tokens |", "|---|---|---|---|"]
    lines += [
        f"| {part.name} | {part.tools} | {counted.characters} | {counted.tokens} |" for part, counted in lists
    ]
    lines += ["", "| refusal | characters | tokens |", "|---|---|---|"]
    dearest = sorted(refusals.items(), key=lambda one: -one[1].tokens)
    lines += [f"| `{code}` | {counted.characters} | {counted.tokens} |" for code, counted in dearest]
    return "\n".join(lines)


def with_tables(page: str, new: str) -> str:
    """`page` with `new` between its marks. Raises `ValueError` where it has none."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"docs/tokens.md has no place for the tables; put '{_BEGIN}' and '{_END}' into it")
    return f"{before}{begin}\n{new}\n{end}{after}"


def characters_of(page: str, name: str) -> int | None:
    """What the page says of one list; None where it says nothing."""
    found = re.search(rf"^\| {re.escape(name)} \| \d+ \| (\d+) \|", page, re.MULTILINE)
    return int(found[1]) if found else None


def codes_in(page: str) -> set[str]:
    """The refusals that the page counts."""
    return set(re.findall(r"^\| `([a-z_]+)` \| \d+ \| \d+ \|$", page, re.MULTILINE))
