"""Draws docs/pictures/demo.svg from what the demo really prints.

FORCE_COLOR=1 comptroller demo > demo.txt && python docs/pictures/draw_demo.py demo.txt docs/pictures/demo.svg
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

COLUMNS = 122
CHARACTER_PX = 7.25
LINE_PX = 16
MARGIN_PX = 18
SHOWN = (
    ("Over the limit: refused", 5),
    ("Over HTTP (", 7),
    ("Killed again, after the desk", 4),
    ("In the canary goes wrong", 0),
    ("Another agent does nothing", 7),
    ("What a refusal looks like: each code", 12),
    ("The four failure buckets", 6),
    ("The record, checked by a verifier", 9),
)
"""The scenes of the picture: how each begins, and how many lines of it are shown."""
COLOURS = {"green": "#7ee787", "yellow": "#e3b341", "cyan": "#79c0ff", "red": "#ff7b72"}
PLAIN, DIM, PAPER = "#c9d1d9", "#8b949e", "#0d1117"


def main(words: Sequence[str]) -> None:
    source, target = words
    lines = [Text.from_ansi(line) for line in _shown(Path(source).read_text().splitlines())]
    height = len(lines) * LINE_PX + 2 * MARGIN_PX
    width = COLUMNS * CHARACTER_PX + 2 * MARGIN_PX
    drawn = "\n".join(_line(at, text) for at, text in enumerate(lines))
    Path(target).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img" '
        f'aria-label="What the demo prints, shortened">\n'
        f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>\n'
        f'<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="12" fill="{PLAIN}" '
        f'xml:space="preserve">\n{drawn}\n</g>\n</svg>\n'
    )


def _shown(lines: Sequence[str]) -> Iterator[str]:
    plain = [Text.from_ansi(line).plain for line in lines]
    for begins, count in SHOWN:
        at = next((at for at, line in enumerate(plain) if line.strip().startswith(begins)), None)
        if at is None:
            continue
        yield from lines[at : at + count]
        yield ""


def _line(at: int, text: Text) -> str:
    console = Console(width=1_000, color_system="truecolor")
    y, column, parts = MARGIN_PX + (at + 0.75) * LINE_PX, 0, []
    for segment in text.render(console):
        parts.append(_part(segment, column))
        column += len(segment.text)
    return f'<text y="{y:.0f}">{"".join(parts)}</text>'


def _part(segment: Segment, column: int) -> str:
    text = segment.text.rstrip("\n")
    if not text.strip() or column >= COLUMNS:
        return ""
    style = segment.style
    colour = COLOURS.get(style.color.name) if style is not None and style.color is not None else None
    if colour is None and style is not None and style.dim:
        colour = DIM
    fill = f' fill="{colour}"' if colour else ""
    weight = ' font-weight="bold"' if style is not None and style.bold else ""
    shown = text[: COLUMNS - column]
    blank = len(shown) - len(shown.lstrip())
    x = MARGIN_PX + (column + blank) * CHARACTER_PX
    return f'<tspan x="{x:.1f}"{fill}{weight}>{escape(shown.strip())}</tspan>'


if __name__ == "__main__":
    main(sys.argv[1:])
