"""`comptroller audit export` and `audit check-export`: the record for other programs, and its proof without the store."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TextIO

import click

from comptroller_audit.checkpoint import log_origin
from comptroller_audit.exported import LINE_CHARS_MAX, check_export
from comptroller_audit.files import is_special
from comptroller_server.commands.invocation import findings, invocation_of, options
from comptroller_server.commands.opening import on_store
from comptroller_server.commands.showing import emit, say
from comptroller_server.commands.spans import progress_shown, since_from, since_option
from comptroller_server.errors import CommandError
from comptroller_server.exporting.events import event_line
from comptroller_server.exporting.lines import head_line, proved_line
from comptroller_server.exporting.records import Exported, exported
from comptroller_server.exporting.rows import COLUMNS, row_of, written
from comptroller_server.installation import TENANT, Installation
from comptroller_server.reporting.span import Progress, span_since
from comptroller_server.upkeep.inclusion import newest_checkpoint

__all__ = ["check", "export"]


class Format(StrEnum):
    """What an export is written as."""

    JSONL = "jsonl"
    CSV = "csv"
    OCSF = "ocsf"


@click.command()
@click.option(
    "--format",
    "as_format",
    type=click.Choice([each.value for each in Format]),
    default=Format.JSONL.value,
    show_default=True,
    help="JSON lines with proofs; rows for a spreadsheet; OCSF 1.5 events, one a line.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write. [default: standard output]"
)
@since_option("all")
@options()
@click.pass_context
def export(ctx: click.Context, as_format: str, out: Path | None, since: str) -> None:
    """Write the record for other programs, with what `safety` withholds withheld.

    It only reads, beside a serving process if there is one. A file appears when it is whole.
    """
    invocation = invocation_of(ctx)

    async def work(installation: Installation) -> int:
        now_ms = installation.ambient.clock.now_ms()
        since_ms = since_from(since, now_ms)
        span = installation.store.read_now(lambda reader: span_since(reader, since_ms))
        with progress_shown(quiet=invocation.as_json or out is None) as progress, _writing(out) as file:
            count = -1 if Format(as_format) is not Format.OCSF else 0  # the first line is a head
            for line in _lines(installation, Format(as_format), span, progress):
                file.write(line + "\n")
                count += 1
        return count

    since_from(since, 0)
    count = on_store(invocation, work)
    if out is not None and invocation.as_json:
        emit({"file": str(out), "format": as_format, "entries": count})
    elif out is not None:
        say(f"{count} entries are in {out}.")


def _lines(
    installation: Installation, wanted: Format, span: tuple[int, int], progress: Progress | None
) -> Iterator[str]:
    """The lines of an export, the head first where the format has one."""
    line: Callable[[Exported], str]
    if wanted is Format.JSONL:
        found, problem = newest_checkpoint(installation)
        if problem:
            click.echo(
                f"A checkpoint file proves nothing here: {problem}; run `comptroller audit verify`.", err=True
            )
        note, checkpoint = found if found is not None else (None, None)
        yield head_line(installation, span, note, installation.ambient.clock.now_ms())
        line = partial(proved_line, installation, checkpoint=checkpoint)
    elif wanted is Format.CSV:
        yield written(list(COLUMNS))
        line = _cells
    else:
        line = partial(event_line, log=log_origin(installation.log_name, TENANT))
    for each in exported(installation, span, progress):
        yield line(each)


def _cells(each: Exported) -> str:
    return written(row_of(each))


@contextlib.contextmanager
def _writing(out: Path | None) -> Generator[TextIO]:
    """Standard output, or a file for this user alone that takes its name once it is whole. Raises `CommandError`."""
    if out is None:
        yield sys.stdout
        return
    if is_special(out):
        with out.open("w", encoding="utf-8", newline="") as through:
            yield through
        return
    try:
        handle, made = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
    except OSError as error:
        raise CommandError(f"the export cannot be written to {out}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(made).replace(out)
    except BaseException as error:
        Path(made).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise CommandError(f"the export cannot be written to {out}: {error.strerror}") from error
        raise


@click.command("check-export")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--vkey", required=True, help="The log's key, as `comptroller audit vkey` printed it, kept elsewhere."
)
@options()
@click.pass_context
def check(ctx: click.Context, file: Path, vkey: str) -> None:
    """Check exported JSON lines without the store. Exit code 1 when anything is wrong.

    It proves that the entries stood in the log that the key signs, in their places and with these envelopes.
    """
    invocation = invocation_of(ctx)
    try:
        with file.open(encoding="utf-8") as lines:
            report = check_export(iter(lambda: lines.readline(LINE_CHARS_MAX + 1), ""), vkey)
    except UnicodeDecodeError:
        raise CommandError(f"{file} is no export: it is not UTF-8") from None
    if invocation.as_json:
        emit(report.as_json())
    else:
        for line in report.lines():
            say(line)
    if not report.ok:
        findings()
