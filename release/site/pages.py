"""What mkdocs shows beside docs/: the README as the first page, the changelog, the command line; and where links lead.

A link to a file outside docs/ leads to that file in the repository.
"""

from __future__ import annotations

import posixpath
import re
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "https://github.com/comptroller-mcp/comptroller/blob/main/"
_LINK = re.compile(r"(?P<start>!?\[[^\]]*\]\()(?P<to>[^)\s#]+)(?P<end>(?:#[^)\s]*)?\))")


def on_config(config: Any) -> Any:
    """The decisions are listed by themselves, in their order."""
    numbered = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    listed = ["decisions/README.md", *(f"decisions/{name}" for name in numbered)]
    config.nav.append({"Decisions": listed})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made of files elsewhere."""
    made: Any = import_module("mkdocs.structure.files")  # mkdocs has an environment of its own

    for page, source in (
        ("index.md", ROOT / "README.md"),
        ("changelog.md", ROOT / "CHANGELOG.md"),
        ("reference/cli.md", ROOT / "build" / "cli.md"),
    ):
        text = source.read_text(encoding="utf-8")
        files.append(
            made.File.generated(config, page, content=led(text, source.relative_to(ROOT).as_posix(), page))
        )
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links of pages that lie in docs/."""
    at = page.file.src_uri
    if page.file.generated_by:
        return markdown
    return led(markdown, f"docs/{at}", at)


def led(text: str, source: str, page: str) -> str:
    """`text` of the file `source`, with links as they lead from `page` of the site."""

    def lead(found: re.Match[str]) -> str:
        to = found["to"]
        if re.match(r"[a-z]+:", to):
            return found[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), to))
        own = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}.get(target)
        inside = own or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        if inside is None or not (own or (ROOT / target).is_file()):
            return f"{found['start']}{REPOSITORY}{target}{found['end']}"
        return f"{found['start']}{posixpath.relpath(inside, posixpath.dirname(page) or '.')}{found['end']}"

    return _LINK.sub(lead, text)
