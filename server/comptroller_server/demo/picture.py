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

__all__ = ["main"]

COLUMNS = 122
CHARACTER_PX = 7.25
LINE_PX = 16
MARGIN_PX = 18
SHOWN = (
    ("Over the limit: refused", 5),
    ("Over HTTP (", 6),
    ("Killed again, after the desk", 12),
    ("Another agent does nothing", 6),
    ("What a refusal looks like: each code", 8),
    ("tool_mismatch  ", 4),
    ("The record, checked by a verifier", 9),
)
"""The scenes of the picture: how each begins, and how many lines of it are shown. Of several the last counts."""
COLOURS = {2: "#7ee787", 3: "#e3b341", 6: "#79c0ff", 1: "#ff7b72"}
"""By their ANSI numbers."""
PLAIN, DIM, PAPER = "#c9d1d9", "#8b949e", "#0d1117"


def main(words: Sequence[str]) -> None:
    """Draw the scenes of `SHOWN` that stand in the text file `words[0]` into the SVG file `words[1]`."""
    source, target = words
    lines = [Text.from_ansi(line) for line in _shown(Path(source).read_text().splitlines())]
    height = len(lines) * LINE_PX + 2 * MARGIN_PX
    width = COLUMNS * CHARACTER_PX + 2 * MARGIN_PX
    drawn = "\n".join(_line(at, text) for at, text in enumerate(lines))
    Path(target).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img" '
        f'aria-label="What the demo prints, shortened">\n'
        f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>\n'
        f'<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="12" fill="{PLAIN}">\n{drawn}\n</g>\n</svg>\n'
    )


def _shown(lines: Sequence[str]) -> Iterator[str]:
    plain = [Text.from_ansi(line).plain for line in lines]
    for begins, count in SHOWN:
        at = next((at for at in reversed(range(len(plain))) if plain[at].strip().startswith(begins)), None)
        if at is None:
            continue
        yield from lines[at : at + count]
        yield ""


def _line(at: int, text: Text) -> str:
    console = Console(width=1_000, color_system="truecolor")
    y, column = MARGIN_PX + (at + 0.75) * LINE_PX, 0
    parts: list[str] = []
    for segment in text.render(console):
        parts.append(_part(segment, column))
        column += len(segment.text)
    return f'<text y="{y:.0f}">{"".join(parts)}</text>'


def _part(segment: Segment, column: int) -> str:
    text = segment.text.rstrip("\n")
    if not text.strip() or column >= COLUMNS:
        return ""
    style = segment.style
    colour = COLOURS.get(style.color.number or 0) if style is not None and style.color is not None else None
    if colour is None and style is not None and style.dim:
        colour = DIM
    fill = f' fill="{colour}"' if colour else ""
    weight = ' font-weight="bold"' if style is not None and style.bold else ""
    shown = text[: COLUMNS - column]
    blank = len(shown) - len(shown.lstrip())
    x = MARGIN_PX + (column + blank) * CHARACTER_PX
    return f'<tspan x="{x:.1f}"{fill}{weight}>{_spaced(shown.strip())}</tspan>'


def _spaced(text: str) -> str:
    """Spaces that no renderer folds."""
    return escape(text).replace(" ", "\u00a0")


if __name__ == "__main__":
    main(sys.argv[1:])
