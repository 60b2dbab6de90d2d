"""`comptroller doctor`: the machine, the disk, the files and the clients around a configuration. It changes nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click

from comptroller_server.commands.invocation import Invocation, findings, invocation_of, options
from comptroller_server.commands.logs import released_line
from comptroller_server.commands.opening import installation_of
from comptroller_server.commands.showing import emit, say
from comptroller_server.config.loading import data_directory
from comptroller_server.config.model import Config
from comptroller_server.doctor import clients, database, disk, machine, places, record, streams, upstreams
from comptroller_server.doctor.lines import Level, Line, Patient, ok, problem, warning
from comptroller_server.errors import CommandError, ConfigInvalid

__all__ = ["doctor"]

_EXAMINATIONS: Sequence[tuple[str, Callable[[Patient], Iterable[Line]]]] = (
    ("versions", machine.python),
    ("sqlite", machine.sqlite),
    ("postgres", machine.postgres),
    ("disk", disk.room),
    ("file system", disk.kind),
    ("fsync", disk.synced),
    ("database", database.whole),
    ("files", places.permissions),
    ("keys", record.keys),
    ("clock", record.clock),
    ("checkpoints", record.checkpoints),
    ("mode", record.mode),
    ("upstreams", upstreams.lock),
    ("streams", streams.delivery),
    ("clients", clients.clients),
)
_TOPIC_CHARS = 12


@click.command()
@options()
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Look at the machine, the disk, the files, the clock and the clients, and change nothing.

    Goes on where the configuration is broken. Exit code 1 with a problem; warnings alone leave it 0. `comptroller check`
    looks at what the configuration says.
    """
    invocation = invocation_of(ctx)
    lines = [_released(line) for line in _lines(invocation)]
    well = all(line.level is not Level.PROBLEM for line in lines)
    if invocation.as_json:
        emit({"ok": well, "lines": [asdict(line) for line in lines]})
    else:
        _show(lines)
    if not well:
        findings()


def _lines(invocation: Invocation) -> Iterator[Line]:
    config, told = _config(invocation)
    yield from told
    data_dir = config.data_dir if config is not None else invocation.data_dir
    patient = Patient(
        data_directory(data_dir),
        config,
        Path.home(),
        sys.platform,
        os.environ,
    )
    for topic, examine in _EXAMINATIONS:
        try:
            yield from list(examine(patient))
        except Exception as error:  # noqa: BLE001 -- whatever cannot be looked at must not hide the rest
            yield warning(
                topic,
                f"it could not be looked at ({type(error).__name__}: {error})",
                "whether all is well there is not known",
                "look at what it names, and run this again",
            )


def _config(invocation: Invocation) -> tuple[Config | None, list[Line]]:
    try:
        config = installation_of(invocation).config
    except CommandError as error:
        means = "there is nothing to serve; only what hangs on no configuration is looked at"
        return None, [problem("config", str(error), means, "`comptroller init` makes one")]
    except ConfigInvalid as error:
        means = "the server does not start; only what hangs on no configuration is looked at"
        found = [str(finding) for finding in error.findings]
        do = "correct it; `comptroller check` tells all there is"
        return None, [problem("config", text, means, do) for text in found]
    return config, [ok("config", ", ".join(str(file) for file in config.files))]


def _released(line: Line) -> Line:
    return replace(
        line, found=released_line(line.found), means=released_line(line.means), do=released_line(line.do)
    )


def _show(lines: Sequence[Line]) -> None:
    for line in lines:
        say(
            f"{line.level.value:8} {line.topic.ljust(_TOPIC_CHARS)} {line.found}",
            bold=line.level is Level.PROBLEM,
        )
        for label, text in (("means", line.means), ("do", line.do)):
            if text:
                say(f"{'':8} {'':{_TOPIC_CHARS}} {label}: {text}")
    count = {level: sum(line.level is level for line in lines) for level in Level}
    say(f"{count[Level.PROBLEM]} problems, {count[Level.WARNING]} warnings, {count[Level.OK]} ok.")
