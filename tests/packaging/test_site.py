"""The documentation's site: no page is left out of it, and links that leave docs/ lead to the repository."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from release.site.architecture import PICTURE, drawn, imports

ROOT = Path(__file__).parents[2]
SITE = ROOT / "release" / "site"


def pages() -> Any:
    """The hooks of mkdocs, which live beside its configuration."""
    spec = spec_from_file_location("site_pages", SITE / "pages.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page() -> None:
    listed = re.findall(r"^      - (\S+\.md)$", (SITE / "mkdocs.yml").read_text(), re.MULTILINE)
    made = {"index.md", "changelog.md", "reference/cli.md"}
    written = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert sorted(listed) == sorted(made | written)
    beside = {path.relative_to(ROOT / "docs").parts[0] for path in (ROOT / "docs").glob("*/**/*.md")}
    assert beside <= {"decisions", "examples"}


@pytest.mark.parametrize(
    ("text", "source", "page", "expected"),
    [
        ("[a](docs/tools.md#x)", "README.md", "index.md", "[a](tools.md#x)"),
        ("[a](LICENSE)", "README.md", "index.md", "[a](REPO/LICENSE)"),
        ("[a](../README.md#limits)", "docs/tools.md", "tools.md", "[a](index.md#limits)"),
        ("[a](../laws.md)", "docs/decisions/0001-x.md", "decisions/0001-x.md", "[a](../laws.md)"),
        ("[a](https://example.com/x)", "README.md", "index.md", "[a](https://example.com/x)"),
        ("[a](#here)", "README.md", "index.md", "[a](#here)"),
    ],
)
def test_links_lead_where_they_led_in_the_repository(
    text: str, source: str, page: str, expected: str
) -> None:
    module = pages()
    assert module.led(text, source, page) == expected.replace("REPO/", module.REPOSITORY)


def test_the_picture_of_the_architecture_is_that_of_the_code() -> None:
    assert PICTURE.read_text(encoding="utf-8") == drawn(), "run `python -m release.site.architecture`"
    used = imports()
    assert "server/call" in used["server"]
    assert not any(
        one.startswith(("server", "tools")) for one in used["policy"] | used["budgets"] | used["audit"]
    )


def test_the_page_of_commands_has_every_command() -> None:
    spec = spec_from_file_location("site_commands", SITE / "cli_reference.py")
    assert spec is not None and spec.loader is not None
    module: Any = module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.page()
    for words in (
        "comptroller serve",
        "comptroller bundle rollback",
        "comptroller db restore",
        "comptroller watch",
    ):
        assert f"`{words}`\n\n```text\nUsage: {words} " in text
