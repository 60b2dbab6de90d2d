"""`comptroller retention`: what is overdue, erasing it now, and accepting a clock that jumped."""

from __future__ import annotations

import click

from comptroller_server.commands.invocation import findings, invocation_of, options
from comptroller_server.commands.opening import account, on_store
from comptroller_server.commands.showing import at, emit, say
from comptroller_server.commands.spans import progress_shown
from comptroller_server.installation import TENANT, Installation
from comptroller_server.upkeep.retention import RetentionRound, retention_of

__all__ = ["retention"]


@click.group()
def retention() -> None:
    """Payloads that are older than `logging.retention_days`, and envelopes older than `logging.prune_days`."""


@retention.command()
@click.option("--dry-run", is_flag=True, help="Count what is overdue and erase nothing.")
@click.option("--accept-clock", is_flag=True, help="The clock had jumped and is right: go on from now.")
@options()
@click.pass_context
def run(ctx: click.Context, dry_run: bool, accept_clock: bool) -> None:
    """Erase what is overdue now. A serving process does the same every `limits.retention_interval_s`.

    Exits with 1 when a jump of the clock stops it.
    """
    invocation = invocation_of(ctx)

    async def work(installation: Installation) -> tuple[int | None, RetentionRound]:
        config = installation.config
        kept = retention_of(installation)
        if accept_clock and not dry_run:
            await kept.accept_clock(TENANT, account())
        quiet = invocation.as_json
        with (
            progress_shown(quiet=quiet, of_what="entries looked at") as progress,
            progress_shown(quiet=quiet, of_what="entries looked at for pruning") as pruning,
        ):
            done = await kept.round(TENANT, dry=dry_run, progress=progress, pruning=pruning)
        return config.logging.retention_days, done

    try:
        days, done = on_store(invocation, work)
    except KeyboardInterrupt:
        if not dry_run:
            click.echo("What was erased until now stays erased; run it again for what is left.", err=True)
        raise
    if invocation.as_json:
        emit(
            {
                "retention_days": days,
                "overdue": done.overdue,
                "erased": done.erased,
                "before_ms": done.before_ms,
                "stopped": done.stopped,
                "undelivered": done.undelivered,
                "to_prune": done.pruned.due,
                "pruned": done.pruned.pruned,
                "not_pruned": done.pruned.stopped,
                "held": dict(done.held),
            }
        )
    elif days is None:
        say("Nothing is erased: the configuration has no `logging.retention_days`.")
    elif done.stopped:
        say(f"Nothing was erased: {done.stopped}.")
    elif dry_run:
        say(f"{done.overdue} payloads from before {at(done.before_ms)} are overdue; nothing was erased.")
    else:
        say(f"{done.erased} payloads from before {at(done.before_ms)} were erased.")
    if done.undelivered and not invocation.as_json:
        say(f"{done.undelivered} of them no stream has delivered everywhere; see `comptroller streams list`.")
    if done.pruned.stopped and not invocation.as_json:
        say(f"Nothing was pruned: {done.pruned.stopped}.")
    elif done.pruned.due and not invocation.as_json:
        say(
            f"{done.pruned.due} envelopes are due and stay."
            if dry_run
            else f"{done.pruned.pruned} envelopes were pruned."
        )
    for hold, count in done.held.items():
        if not invocation.as_json:
            say(f"{count} more are kept by the legal hold {hold}; see `comptroller hold list`.")
    if done.stopped or done.pruned.stopped:
        findings()
