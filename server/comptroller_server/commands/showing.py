"""How commands show things: every line escaped, tables, times, and one JSON document.

What agents, tools and upstreams said ends up on a person's terminal, so nothing is written there unescaped: no
control characters, no terminal sequences, nothing that turns the direction of text around.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

__all__ = ["Card", "at", "compact", "cut", "emit", "plain", "say", "show_list", "table"]

_LABEL_CHARS = 11
_GAP = 3
"""Columns of a terminal between those of a table."""


_unseen = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
).match
"""Letters and marks without a shape: fillers, joiners, variation selectors (Unicode, Default_Ignorable_Code_Point)."""


def plain(text: str) -> str:
    """One line that is safe on a terminal: what is not printable (controls, bidi, line ends) becomes `\\uXXXX`.

    So does what counts as printable and shows nothing, with which two ids or amounts can be made to look alike.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() and not _unseen(c) else _escaped(ord(c)) for c in text)


def _escaped(code: int) -> str:
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def compact(value: Any) -> str:
    """A JSON value on one line, safe on a terminal."""
    return plain(json.dumps(value, ensure_ascii=False, separators=(", ", ": "), default=str))


def cut(text: str, most: int = 300) -> str:
    """At most `most` characters, saying how many were left out."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most} characters more; see --json)"


def at(ms: int) -> str:
    """A record time (milliseconds since the epoch) in UTC, to the second."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def say(line: str = "", *, bold: bool = False) -> None:
    """One line to standard output, escaped."""
    click.echo(click.style(plain(line), bold=True) if bold else plain(line), color=_color())


def emit(document: Any) -> None:
    """The JSON document of a command. ASCII only, so nothing in it acts on a terminal."""
    click.echo(json.dumps(document, indent=2, default=str).replace("\x7f", "\\u007f"))


def _color() -> bool | None:
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows under headers: pretty on a terminal, plain aligned columns elsewhere. Nothing is cut off."""
    cells = [[plain(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _pretty(headers, cells)
        return
    widths = [max(len(row[at_]) for row in [list(headers), *cells]) for at_ in range(len(headers))]
    for row in [list(headers), *cells]:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def show_list(
    as_json: bool,
    document: Mapping[str, Any],
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    nothing: str,
) -> None:
    """What every `list` command prints: the document for a program, else the rows, else that there is nothing."""
    if as_json:
        emit(document)
    elif rows:
        table(headers, rows)
    else:
        say(nothing)


def _pretty(headers: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Columns, or one record below the other where a terminal is so narrow that ids would be broken apart."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False)
    widths = _widths([*zip(headers, *cells, strict=True)], console.width)
    if widths is None:
        label = max(map(len, headers))
        for number, row in enumerate(cells):
            if number:
                console.print()
            for header, cell in zip(headers, row, strict=True):
                if cell:  # broken by the terminal alone, so that what is copied is whole
                    console.print(Text(f"{header.ljust(label)}  {cell}"), soft_wrap=True)
        return
    shown = Table(box=SIMPLE, pad_edge=False)
    for header, width in zip(headers, widths, strict=True):
        shown.add_column(header, overflow="fold", width=width)
    for row in cells:
        shown.add_row(*(Text(cell) for cell in row))
    console.print(shown)


def _widths(columns: Sequence[Sequence[str]], whole: int) -> list[int] | None:
    """How wide each column is on a terminal of `whole`, none less than its longest word; None where they have no room."""
    widths = [max((len(word) for text in column for word in text.split()), default=0) for column in columns]
    left = whole - sum(widths) - _GAP * len(widths)
    if left < 0:
        return None
    for number, column in enumerate(columns):
        more = min(left, max(map(len, column)) - widths[number])
        widths[number] += more
        left -= more
    return widths


class Card:
    """Labelled lines: a title, then `label  text`; a label is written once for several lines."""

    def __init__(self, title: str) -> None:
        say(title, bold=True)
        self._last = ""

    def line(self, label: str, text: str) -> None:
        shown = "" if label == self._last else label
        self._last = label
        say(f"  {shown.ljust(_LABEL_CHARS)} {text}")
