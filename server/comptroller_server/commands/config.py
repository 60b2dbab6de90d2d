"""`comptroller config`: what may stand in `comptroller.yaml`, for editors."""

from __future__ import annotations

import click

from comptroller_server.commands.invocation import options
from comptroller_server.config.editor_schema import published_schema

__all__ = ["config"]


@click.group()
def config() -> None:
    """What the configuration may say."""


@config.command()
@options()
def schema() -> None:
    """Print the JSON Schema (draft 7) of `comptroller.yaml`, which editors complete and check it with.

    Write it beside the file and begin that with `# yaml-language-server: $schema=./comptroller.schema.json`.
    """
    click.echo(published_schema(), nl=False)
