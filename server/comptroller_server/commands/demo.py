"""`comptroller demo`: the main job, played by real processes on the embedded support desk."""

from __future__ import annotations

from pathlib import Path

import click

from comptroller_server.commands.invocation import invocation_of, options

__all__ = ["demo"]


@click.command()
@click.option("--seed", type=int, default=1, show_default=True, help="Which records and amounts it works on.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="Play in this folder and leave it behind.",
)
@options()
@click.pass_context
def demo(ctx: click.Context, seed: int, keep: Path | None) -> None:
    """Play the main job on the embedded support desk: reads, refunds, an approval, kills, and the proof."""
    from comptroller_server.demo.play import run  # it starts processes and clients of its own

    ctx.exit(run(seed, keep, invocation_of(ctx).as_json))
