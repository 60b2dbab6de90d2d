"""`comptroller demo`: the whole story, played by real processes on the embedded support desk."""

from __future__ import annotations

from pathlib import Path

import click

from comptroller_server.commands.invocation import invocation_of, options

__all__ = ["demo"]


@click.command()
@click.option("--seed", type=int, default=1, show_default=True, help="Which records and amounts it works on.")
@click.option("--only", multiple=True, metavar="CHAPTER", help="Play this chapter only; may be repeated.")
@click.option("--list", "listed", is_flag=True, help="List the chapters and play nothing.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="Play in this folder and leave it behind.",
)
@options()
@click.pass_context
def demo(ctx: click.Context, seed: int, only: tuple[str, ...], listed: bool, keep: Path | None) -> None:
    """Play the whole story on the embedded support desk, by real processes.

    Refunds with limits and approvals, kills, budgets, a kill switch, tasks, citations, personal data, checks, reversals, a
    canary, every refusal there is, and the proof.
    """
    from comptroller_server.demo.play import CHAPTERS, run  # it starts processes and clients of its own

    names = [chapter.name for chapter in CHAPTERS]
    if unknown := [name for name in only if name not in names]:
        raise click.BadParameter(
            f"no chapter {unknown[0]!r}; there are {', '.join(names)}.", param_hint="--only"
        )
    if listed:
        for chapter in CHAPTERS:
            click.echo(f"{chapter.name:10}  {chapter.title}")
        return
    if keep is not None and (keep / "data").exists():
        text = f"{keep} holds the store of an earlier run; give another folder."
        raise click.BadParameter(text, param_hint="--keep")
    ctx.exit(run(seed, keep, invocation_of(ctx).as_json, only))
