"""`comptroller evidence`: what an auditor asks for about a period, a file a topic, with a manifest of digests."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

import click

from comptroller_audit.files import write_private
from comptroller_audit.retention import first_at
from comptroller_audit.store import Reader
from comptroller_audit.verify import verify
from comptroller_server.commands.invocation import findings, invocation_of, options
from comptroller_server.commands.opening import on_store
from comptroller_server.commands.showing import emit, say
from comptroller_server.commands.spans import checked, progress_shown
from comptroller_server.errors import CommandError
from comptroller_server.exporting.controls import CONTROLS, Topic, topics_of, unreadable
from comptroller_server.exporting.lines import head_line, proved_line, vkey_for
from comptroller_server.exporting.periods import Period, period_from
from comptroller_server.exporting.records import exported
from comptroller_server.installation import TENANT, Installation
from comptroller_server.reporting.span import Progress
from comptroller_server.upkeep.inclusion import newest_checkpoint

__all__ = ["evidence"]

_RECORD, _CHECKPOINT, _VERIFIED, _MANIFEST = "record.jsonl", "checkpoint.txt", "verify.json", "manifest.json"


@click.command()
@click.option(
    "--period",
    required=True,
    help="2026-Q3, 2026-07, 2026, or 2026-07-01..2026-09-30 (UTC, last day included).",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder to make. [default: evidence-PERIOD in this one]"
)
@options()
@click.pass_context
def evidence(ctx: click.Context, period: str, out: Path | None) -> None:
    """Write the evidence for each control of SOC 2 and ISO 27001 (docs/controls.md) as files with digests.

    Example: comptroller evidence --period 2026-Q3 --out q3

    It only reads; what `safety` withholds is withheld. Exit code 1 when the log does not verify; the files are written.
    """
    invocation = invocation_of(ctx)
    meant = period_from(period)
    folder = out or Path(f"evidence-{meant.name}")
    if folder.exists():
        raise CommandError(f"there is something at {folder} already; name another folder with --out")

    async def work(installation: Installation) -> dict[str, Any]:
        return _written(installation, meant, folder, quiet=invocation.as_json)

    manifest = on_store(invocation, work)
    if invocation.as_json:
        emit({"folder": str(folder), **manifest})
    else:
        for line in _told(manifest, folder):
            say(line)
    if not manifest["verified"]:
        findings()


def _written(installation: Installation, period: Period, folder: Path, *, quiet: bool) -> dict[str, Any]:
    """Make the folder beside its place, private, and give it its name when it is whole. Raises `CommandError`."""
    try:
        made = Path(tempfile.mkdtemp(dir=folder.absolute().parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise CommandError(f"the evidence cannot be written to {folder}: {error.strerror}") from error
    try:
        manifest = _filled(installation, period, made, quiet=quiet)
        made.rename(folder)
    except BaseException as error:
        shutil.rmtree(made, ignore_errors=True)
        if isinstance(error, OSError):
            raise CommandError(f"the evidence cannot be written to {folder}: {error.strerror}") from error
        raise
    return manifest


def _filled(installation: Installation, period: Period, made: Path, *, quiet: bool) -> dict[str, Any]:
    """Every file, the manifest last; what the manifest says."""
    reports = _verified(installation, quiet=quiet)
    _write_json(made / _VERIFIED, reports)
    newest, _ = newest_checkpoint(installation)
    if newest is not None:
        write_private(made / _CHECKPOINT, newest[0].encode())
    span = installation.store.read_now(lambda reader: _span(reader, period))
    with progress_shown(quiet=quiet) as progress:
        counted, erased = _sorted_out(installation, span, made, progress)
    now_ms = installation.ambient.clock.now_ms()
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(made.iterdir())}
    manifest = {
        "period": {"name": period.name, "first_ms": period.first_ms, "end_ms": period.end_ms},
        "over": now_ms >= period.end_ms,
        "at_ms": now_ms,
        "vkey": vkey_for(installation, newest[0] if newest is not None else None),
        "entries": {"first": span[0], "end": span[1]},
        "verified": all(report["ok"] for report in reports),
        "records": {topic.value: counted[topic] for topic in Topic},
        "payloads_erased": erased,
        "controls": [
            {"id": each.id, "title": each.title, "files": _files_of(each.topics, files, log=each.log)}
            for each in CONTROLS
        ],
        "sha256": files,
    }
    _write_json(made / _MANIFEST, manifest)
    return manifest


def _files_of(topics: tuple[Topic, ...], files: dict[str, str], *, log: bool) -> list[str]:
    wanted = [f"{topic.value}.jsonl" for topic in topics]
    return [*wanted, *(name for name in (_RECORD, _CHECKPOINT, _VERIFIED) if log and name in files)]


def _span(reader: Reader, period: Period) -> tuple[int, int]:
    return first_at(reader, TENANT, period.first_ms), first_at(reader, TENANT, period.end_ms)


def _verified(installation: Installation, *, quiet: bool) -> list[dict[str, Any]]:
    """The whole log against every checkpoint file, as `audit verify` does."""
    store = installation.config.store
    ring = store.keys_file if store.keys_file.exists() else None
    files: list[Path | None] = [*filter(Path.exists, store.checkpoint_files)]
    reports: list[dict[str, Any]] = []
    for file in files or [None]:
        with progress_shown(quiet=quiet, of_what="entries checked") as progress:
            url = store.url.get_secret_value()
            found = verify(url, checkpoints=file, ring=ring, progress=checked(progress))
        reports.append({"checkpoints": file.name if file else None} | found.as_json())
    return reports


def _sorted_out(
    installation: Installation, span: tuple[int, int], made: Path, progress: Progress | None
) -> tuple[Counter[Topic], int]:
    """The whole record of the span, and each entry again under its topics; how many of each, and what nobody can say."""
    found, _ = newest_checkpoint(installation)
    note, checkpoint = found if found is not None else (None, None)
    counted, erased = Counter[Topic](), 0
    with contextlib.ExitStack() as stack:
        record = stack.enter_context(_opened(made / _RECORD))
        files = {topic: stack.enter_context(_opened(made / f"{topic.value}.jsonl")) for topic in Topic}
        record.write(head_line(installation, span, note, installation.ambient.clock.now_ms()) + "\n")
        for each in exported(installation, span, progress):
            line = proved_line(installation, each, checkpoint) + "\n"
            record.write(line)
            erased += unreadable(each)
            for topic in topics_of(each):
                files[topic].write(line)
                counted[topic] += 1
    return counted, erased


def _opened(path: Path) -> TextIO:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    return os.fdopen(handle, "w", encoding="utf-8", newline="")


def _write_json(path: Path, value: object) -> None:
    write_private(path, (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode())


def _told(manifest: dict[str, Any], folder: Path) -> list[str]:
    span = manifest["entries"]
    told = [f"{topic.ljust(24)} {count}" for topic, count in manifest["records"].items()]
    told.append(f"{span['end'] - span['first']} entries are in {folder}; its manifest lists the digests.")
    if manifest["payloads_erased"]:
        told.append(
            f"Of {manifest['payloads_erased']} calls the payload was erased: nobody can say if they verified."
        )
    if not manifest["over"]:
        told.append("The period is not over: what comes later is not in these files.")
    told.append("The log verifies." if manifest["verified"] else "The log does NOT verify; see verify.json.")
    return told
