"""`python release/site/cli_reference.py FILE`: every command of `comptroller` with its help, as one page, from the code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from comptroller_server.cli import cli

__all__ = ["page"]


def page() -> str:
    """The page, in Markdown."""
    parts = ["# Command line", "", "Made from the code. `comptroller COMMAND --help` says the same."]
    for words, command, context in _commands("comptroller", cli, None):
        parts += [
            "",
            f"{'#' * min(4, 1 + len(words.split()))} `{words}`",
            "",
            "```text",
            command.get_help(context),
            "```",
        ]
    return "\n".join(parts) + "\n"


def _commands(
    words: str, command: click.Command, parent: click.Context | None
) -> Iterator[tuple[str, click.Command, click.Context]]:
    context = click.Context(command, info_name=words.rpartition(" ")[2], parent=parent, max_content_width=100)
    yield words, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None:
                yield from _commands(f"{words} {name}", found, context)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(), encoding="utf-8")
