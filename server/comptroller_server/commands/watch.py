"""`comptroller watch`: what goes on now, looked at again and again; it only reads."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from comptroller_audit.database import Row
from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import CallState, JsonObject
from comptroller_budgets.ledger import amount_text
from comptroller_policy.approvals import OPEN
from comptroller_server.commands.approvals import all_requests
from comptroller_server.commands.budgets import Found, bar, budgets_json, limits_of
from comptroller_server.commands.calls import newest_calls
from comptroller_server.commands.invocation import invocation_of, options
from comptroller_server.commands.opening import on_store
from comptroller_server.commands.record import call_summary
from comptroller_server.commands.requests import needs
from comptroller_server.commands.showing import at, plain, say, table
from comptroller_server.installation import Installation

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Look", "look_at", "picture", "watch"]

EVERY_S = 1.0
WAITING_MAX = 20
LIMITS_MAX = 20
WIDE = 100
"""Columns of a terminal from which on everything is shown."""
WHOLE_IDS = 130
ID_WIDTH = 19
"""Of a call, on a narrower terminal; fewer say no more than the minute, and commands take the beginning of an id."""
ROWS_MIN = 2

Section = tuple[str, Sequence[str], Sequence[Sequence[str]], str]
"""A heading, the columns, the rows, and what is said where there are none."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the store: requests that are open, calls in doubt, the newest calls, and how the limits stand."""

    now_ms: int
    requests: Sequence[dict[str, Any]]
    in_doubt: Sequence[tuple[str, Row]]
    calls: Sequence[tuple[str, Row]]
    limits: Found

    def as_json(self) -> JsonObject:
        return {
            "at_ms": self.now_ms,
            "approvals": list(self.requests),
            "in_doubt": [call_summary(call, row) for call, row in self.in_doubt],
            "calls": [call_summary(call, row) for call, row in self.calls],
            "budgets": budgets_json(self.limits),
        }

    @property
    def sections(self) -> list[Section]:
        """The same for people; every cell is text that may have come from anywhere."""
        waiting = [
            ("approval", one["call"], one["tool"], needs(one), f"until {at(one['expires_ms'])}")
            for one in self.requests[:WAITING_MAX]
        ]
        waiting += [
            ("in doubt", call, row["tool"], "somebody who looks", f"since {at(row['created_ms'])}")
            for call, row in self.in_doubt
        ]
        calls = [
            (at(row["created_ms"]), call, row["state"], row["tool"], row["code"], row["actor"])
            for call, row in self.calls
        ]
        standings = [("", one) for one in self.limits.windows]
        standings += [(task[:8], one) for task, (found, _) in self.limits.tasks.items() for one in found]
        # What is nearest to its end is what a person wants to see.
        standings.sort(key=lambda pair: pair[1].left_micro / max(1, pair[1].max_micro))
        limits = [
            (one.limit.id, task, bar(one), amount_text(one.left_micro), amount_text(one.max_micro))
            for task, one in standings[:LIMITS_MAX]
        ]
        return [
            ("Waits for a person", ("WHAT", "CALL", "TOOL", "NEEDS", "TIME"), waiting, "Nothing."),
            ("Calls", ("AT", "CALL", "STATE", "TOOL", "CODE", "ACTOR"), calls, "None yet."),
            ("Budgets", ("LIMIT", "TASK", "SPENT", "LEFT", "MAX"), limits, "No limits."),
        ]


@click.command()
@click.option("--task", default=None, help="Only calls of one task, by its id or the beginning of it.")
@click.option(
    "-n", "count", type=click.IntRange(1, 200), default=12, show_default=True, help="So many calls."
)
@click.option(
    "--every",
    type=click.FloatRange(0.2, 3600),
    default=EVERY_S,
    show_default=True,
    help="Seconds between looks.",
)
@click.option("--once", is_flag=True, help="Look once, and end.")
@options()
@click.pass_context
def watch(ctx: click.Context, task: str | None, count: int, every: float, once: bool) -> None:
    """What waits for a person, the newest calls, and the limits nearest to their end, until interrupted.

    On a terminal the picture is renewed in place; elsewhere (and where TERM is `dumb`), and with --json, a look is printed whenever it differs from
    the one before. For example: comptroller watch --task 019a
    """
    invocation = invocation_of(ctx)

    async def go_on(installation: Installation) -> None:
        if _redraws() and not invocation.as_json and not once:
            await _live(installation, task, count, every)
            return
        last = ""
        while True:
            look = await look_at(installation, task, count)
            document = look.as_json()
            now = json.dumps({**document, "at_ms": 0}, default=str, sort_keys=True)
            if now != last:
                _print(look, document, as_json=invocation.as_json)
            last = now
            if once:
                return
            await asyncio.sleep(every)

    # An interrupt is how it is meant to end, so it ends well.
    with contextlib.suppress(KeyboardInterrupt):
        on_store(invocation, go_on)


def _redraws() -> bool:
    """Whether standard output is a terminal that can go back to where it has written."""
    from rich.console import Console

    return sys.stdout.isatty() and not Console().is_dumb_terminal


async def look_at(installation: Installation, task: str | None, count: int) -> Look:
    """Look once; `count` of the newest calls, of the task whose id begins with `task`."""
    clock = installation.ambient.clock

    def read(reader: Reader) -> Look:
        now_ms = clock.now_ms()
        return Look(
            now_ms,
            [one for one in all_requests(reader, now_ms) if one["state"] in OPEN],
            newest_calls(reader, CallState.IN_DOUBT.value, task, WAITING_MAX),
            newest_calls(reader, None, task, count),
            limits_of(reader, installation, None),
        )

    return await installation.store.read(read)


def _print(look: Look, document: JsonObject, *, as_json: bool) -> None:
    if as_json:
        # One look a line, for programs that read as it comes.
        click.echo(json.dumps(document, default=str).replace("\x7f", "\\u007f"))
        sys.stdout.flush()
        return
    say(f"{at(look.now_ms)}", bold=True)
    for heading, columns, rows, nothing in look.sections:
        say(heading, bold=True)
        if rows:
            table(columns, rows)
        else:
            say(nothing)
        say()
    sys.stdout.flush()


async def _live(installation: Installation, task: str | None, count: int, every: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    loop = asyncio.get_running_loop()
    with Live(console=console, screen=True, auto_refresh=False) as live:

        def aside() -> None:
            """Ctrl-Z: whoever gets the terminal gets its own screen and cursor; after `fg` it is ours again."""
            live.stop()
            loop.remove_signal_handler(signal.SIGTSTP)
            os.kill(os.getpid(), signal.SIGTSTP)  # returns when the process is continued
            loop.add_signal_handler(signal.SIGTSTP, aside)
            live.start(refresh=True)

        loop.add_signal_handler(signal.SIGTSTP, aside)
        while True:
            look = await look_at(installation, task, count)
            live.update(picture(look, console.width, console.height), refresh=True)
            await asyncio.sleep(every)


def picture(look: Look, width: int, height: int) -> RenderableType:
    """One look as it is drawn on a terminal of so many columns and lines.

    States are words, so that it reads the same without colours. What has no room is left out: columns that can be
    looked up elsewhere, rows at the end of a section, which then says how many, and then whole sections from the last on,
    of which one line is left.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Column, Table
    from rich.text import Text

    now = at(look.now_ms)
    today = now[: now.index(" ") + 1]
    heading = f"comptroller  {now}  (Ctrl-C ends)"
    parts: list[RenderableType] = [Text(heading, style="bold", no_wrap=True, overflow="ellipsis")]
    sections = look.sections
    most = _rows_each(height, [len(rows) for _, _, rows, _ in sections])
    left = height - 1
    for place, (title, columns, rows, nothing) in enumerate(sections):
        lines = _FRAME_LINES + min(most, len(rows)) if rows else 2
        if lines > left - (len(sections) - place - 1):  # a line for each that follows
            parts.append(Text(f"{title}: {len(rows)}; no room here", no_wrap=True, overflow="ellipsis"))
            left -= 1
            continue
        left -= lines
        kept = [number for number, name in enumerate(columns) if width >= WIDE or name not in _WIDE_ONLY]
        ids = ID_WIDTH if width < WHOLE_IDS else None
        named = [
            Column(
                columns[number],
                no_wrap=True,
                min_width=_MORE_WIDTH if number == kept[0] else None,
                max_width=ids if columns[number] == "CALL" else None,
            )
            for number in kept
        ]
        shown = Table(
            *named,
            title=title,
            title_justify="left",
            title_style="bold",
            box=SIMPLE_HEAD,
            show_edge=False,
            expand=True,
        )
        fits = rows if len(rows) <= most else rows[: most - 1]
        for row in fits:
            # The heading has the date, and what happened today needs no other.
            cells = [
                (row[number].removeprefix(today) if columns[number] == "AT" else row[number])
                for number in kept
            ]
            shown.add_row(*(Text(plain(cell), style=_STYLES.get(cell, "")) for cell in cells))
        if len(fits) < len(rows):
            shown.add_row(Text(f"… {len(rows) - len(fits)} more", style="dim"))
        parts += [shown] if rows else [Text(title, style="bold"), Text(f"  {nothing}")]
    return Group(*parts)


def _rows_each(height: int, needed: Sequence[int]) -> int:
    """How many rows a section may have so that all of them fit; two at least."""
    left = height - 1 - _FRAME_LINES * len(needed)
    most = max(needed, default=0)
    while most > ROWS_MIN and sum(min(most, rows) for rows in needed) > left:
        most -= 1
    return max(most, ROWS_MIN)


_FRAME_LINES = 3
"""Of a section: its heading, its columns and the rule below them."""
_MORE_WIDTH = len("… 19 more")
_WIDE_ONLY = frozenset({"AT", "CODE", "ACTOR", "NEEDS", "TIME", "TASK", "MAX"})
_STYLES = {
    CallState.DONE.value: "green",
    CallState.IN_DOUBT.value: "bold red",
    "in doubt": "bold red",
    CallState.PENDING.value: "yellow",
    "approval": "yellow",
    CallState.REFUSED.value: "magenta",
    CallState.DENIED.value: "magenta",
}
