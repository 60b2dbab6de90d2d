"""`python -m release.site.architecture` draws docs/pictures/architecture.svg from the imports in the code.

A row for each folder that imports, a column for each that is imported, from the top layer to the lowest. What lies right of the
diagonal points down; a dot left of it is two folders of one layer that know each other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

__all__ = ["PICTURE", "drawn", "imports"]

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "pictures" / "architecture.svg"
LAYERS = ("server", "tools", "policy", "budgets", "audit")
_COLOURS = {
    "server": "#4c78a8",
    "tools": "#54a24b",
    "policy": "#b279a2",
    "budgets": "#e08a2e",
    "audit": "#7f7f7f",
}
_CELL, _LEFT, _TOP = 22, 150, 150


def imports() -> dict[str, set[str]]:
    """Every folder (`server/call`, `tools`) and the other folders that its modules import."""
    found: dict[str, set[str]] = {}
    for layer in LAYERS:
        package = ROOT / layer / f"comptroller_{layer}"
        for path in sorted(package.rglob("*.py")):
            own = _folder(path.relative_to(ROOT / layer).with_suffix("").parts)
            known = found.setdefault(own, set())
            known |= {_folder(tuple(name.split("."))) for name in _imported(path)} - {own}
    return {name: {one for one in used if one in found} for name, used in found.items()}


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        yield from (name for name in names if name.startswith("comptroller_"))


def _folder(parts: tuple[str, ...]) -> str:
    """`comptroller_server.call.case` lies in `server/call`; what lies in the package itself is `server`."""
    layer = parts[0].removeprefix("comptroller_")
    below = parts[1] if len(parts) > 2 or (len(parts) > 1 and _is_folder(layer, parts[1])) else ""
    return f"{layer}/{below}" if below else layer


def _is_folder(layer: str, name: str) -> bool:
    return (ROOT / layer / f"comptroller_{layer}" / name).is_dir()


def drawn() -> str:
    """The picture, as SVG."""
    used = imports()
    # A layer's own modules come first, then who is known by least, so that most dots point down.
    known_by = {name: sum(name in each for each in used.values()) for name in used}
    names = sorted(
        used, key=lambda name: (LAYERS.index(name.partition("/")[0]), "/" in name, known_by[name], name)
    )
    size = len(names) * _CELL
    wide, high = _LEFT + size + 90, _TOP + size + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="sans-serif" font-size="12">',
        "<title>Which folder imports which: rows import, columns are imported</title>",
        f'<rect width="{wide}" height="{high}" fill="#ffffff"/>',
    ]
    for at, name in enumerate(names):
        colour = _COLOURS[name.partition("/")[0]]
        middle = at * _CELL + _CELL / 2
        across, down = _LEFT + middle + 4, _TOP + at * _CELL
        faint = 0.10 if at % 2 else 0.04
        parts += [
            f'<rect x="{_LEFT}" y="{down}" width="{size}" height="{_CELL}" fill="{colour}" fill-opacity="{faint}"/>',
            f'<rect x="{_LEFT + at * _CELL}" y="{down}" width="{_CELL}" height="{_CELL}" fill="{colour}"/>',
            f'<text x="{_LEFT - 8}" y="{_TOP + middle + 4}" text-anchor="end">{escape(name)}</text>',
            f'<text transform="translate({across} {_TOP - 8}) rotate(-60)">{escape(name)}</text>',
        ]
        parts += [
            f'<circle cx="{_LEFT + names.index(one) * _CELL + _CELL / 2}" cy="{_TOP + middle}" r="5" fill="{colour}"/>'
            for one in sorted(used[name])
        ]
    told = "A dot: the row's folder imports the column's. Right of the diagonal is down. Drawn from the code."
    return "\n".join([*parts, f'<text x="8" y="{_TOP + size + 30}" fill="#444">{told}</text>', "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(drawn(), encoding="utf-8")
