"""`comptroller db`: back the store up, bring it back, and go on with one that is older than what was signed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Generator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
from sqlalchemy import bindparam, select

from comptroller_audit.checkpoint import Checkpoint
from comptroller_audit.database import table_of
from comptroller_audit.errors import StoreError, StoreUnsuitable
from comptroller_audit.files import make_private
from comptroller_audit.findings import Report
from comptroller_audit.own_keys import demand_own_claims
from comptroller_audit.owners import LEASE_S, OwnerRow, owner_locks
from comptroller_audit.redaction import Audience
from comptroller_audit.unit import Committed, Unit
from comptroller_audit.verify import verify
from comptroller_server.commands.credentials import by_credential, entitled
from comptroller_server.commands.invocation import Invocation, findings, invocation_of, options
from comptroller_server.commands.opening import installation_of, on_store
from comptroller_server.commands.showing import emit, say
from comptroller_server.commands.spans import checked, progress_shown
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT, Installation
from comptroller_server.reporting.span import Progress
from comptroller_server.upkeep.adoption import Adopt, free_name, set_aside, void_approvals
from comptroller_server.upkeep.checkpoints import checkpointer_of
from comptroller_server.upkeep.inclusion import newest_checkpoint

__all__ = ["db", "nobody_serves"]

PAGES_AT_ONCE = 1_000
"""Database pages in one step of a backup: a writer waits no longer than that takes."""
LOOK_EVERY_S = 0.25
_OWNERS = table_of(OwnerRow)
_ALL_OWNERS = select(_OWNERS.c.id).where(_OWNERS.c.tenant == bindparam("tenant"))
_BESIDE = ("-wal", "-shm")


@click.group()
def db() -> None:
    """The store's database."""


@db.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@options()
@click.pass_context
def backup(ctx: click.Context, file: Path) -> None:
    """Copy the database to a new FILE, while a server goes on, and verify the copy, signed checkpoints included.

    The keys are not in it: without `keys.json` the contents of a backup cannot be read, so keep a copy of that file too,
    somewhere else.
    """
    invocation = invocation_of(ctx)
    installation = installation_of(invocation)
    database = _sqlite(installation, f"pg_dump --format=custom --file={file} DATABASE")
    if not database.exists():
        raise CommandError(f"there is no store at {database} yet, so there is nothing to back up")
    if file.exists():
        raise CommandError(f"{file} is there already; name a new file")
    with _whole(file) as beside:
        # As they are now: what is signed while pages are copied may lie beyond the copy.
        signed = [sink.read_bytes() for sink in installation.config.store.checkpoint_files if sink.exists()]
        with progress_shown(quiet=invocation.as_json, of_what="pages copied") as progress:
            _copy(database, beside, progress)
        report = _demand_whole(invocation, beside, installation.config.store.keys_file, signed, database)
    entries = sum(one.entries for one in report.tenants)
    keys = installation.config.store.keys_file
    if invocation.as_json:
        emit({"file": str(file), "entries": entries, "verified": True, "keys": str(keys)})
        return
    say(f"{entries} entries are in {file}, and verify.")
    say(f"The keys are not: keep a copy of {keys} as well, somewhere else.")


def _demand_whole(
    invocation: Invocation, copy: Path, keys: Path, signed: Sequence[bytes], database: Path
) -> Report:
    """What verifying the copy against each checkpoint file found. Raises `CommandError` where anything is wrong."""
    reports: list[Report] = []
    with tempfile.TemporaryDirectory() as place:
        notes = Path(place) / "checkpoints.log"
        contents: Sequence[bytes | None] = signed or [None]
        for content in contents:
            if content is not None:
                notes.write_bytes(content)
            reports.append(_verified(invocation, copy, keys, notes if signed else None))
    for report in reports:
        if not report.ok:
            for line in report.lines():
                say(line)
            raise CommandError(
                f"the copy does not verify, and was not kept; run `comptroller audit verify` on {database}"
            )
    return reports[0]


def _verified(
    invocation: Invocation, file: Path, keys: Path | None, checkpoints: Path | None = None
) -> Report:
    with progress_shown(quiet=invocation.as_json, of_what="entries checked") as progress:
        return verify(f"sqlite:///{file}", ring=keys, checkpoints=checkpoints, progress=checked(progress))


@db.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--server-stopped", is_flag=True, help="Your word for it, where the store is too damaged to tell."
)
@options()
@click.pass_context
def restore(ctx: click.Context, file: Path, server_stopped: bool) -> None:
    """Put the backup FILE in the database's place. What stands there is kept beside it.

    No server may run. If the log was signed after the backup, serving is refused until `comptroller db adopt`.
    """
    invocation = invocation_of(ctx)
    installation = installation_of(invocation)
    database = _sqlite(installation, "pg_restore --clean --dbname=DATABASE FILE")
    keys = installation.config.store.keys_file
    report = _verified(invocation, file.resolve(), keys if keys.exists() else None)
    if not report.ok:
        for line in report.lines():
            say(line)
        raise CommandError(f"{file} does not verify, so nothing was changed")
    if database.exists() and not server_stopped:
        _demand_no_server(invocation, database)
    make_private(database.parent)
    with _whole(database) as beside:
        with progress_shown(quiet=invocation.as_json, of_what="pages copied") as progress:
            _copy(file, beside, progress)
        _sync(beside)  # which takes long, and nothing may stand in the database's place for long
        kept = _kept(database)
    entries = sum(one.entries for one in report.tenants)
    if invocation.as_json:
        emit({"database": str(database), "entries": entries, "kept": str(kept) if kept else None})
        return
    say(f"{database} has the {entries} entries of {file}.")
    if kept is not None:
        say(f"What stood there is {kept}.")
    say("Start the server. If it says that the store is an old copy: comptroller db adopt")


@db.command()
@click.option(
    "--reason", required=True, help="Why the newer store cannot be brought back; it stands in the record."
)
@by_credential
@options()
@click.pass_context
def adopt(ctx: click.Context, reason: str, credential_file: Path | None) -> None:
    """Go on with a store that is older than its newest signed checkpoint.

    What was done since is on no record. So everything is halted until `comptroller resume`, what people had agreed to is
    void, and the checkpoint files are set aside. Where approvers are enrolled it needs the credential of one.
    """
    invocation = invocation_of(ctx)

    async def work(installation: Installation) -> tuple[int, list[Path]] | None:
        await nobody_serves(installation)
        await demand_own_claims(installation.store, TENANT, installation.config.store.keys_file)
        if not await _is_older(installation):
            raise CommandError("the store is not older than its newest checkpoint, so nothing was changed")
        by = await entitled(installation, credential_file)
        return None if by is None else await _adopted(installation, by, reason)

    done = on_store(invocation, work)
    if done is None:
        _tell_refused(invocation)
        findings()
    voided, aside = done or (0, [])
    if invocation.as_json:
        emit({"ok": True, "voided": voided, "set_aside": [str(file) for file in aside], "halted": True})
        return
    say(f"Adopted, and recorded. {voided} calls that waited for a person are void.")
    for file in aside:
        say(f"  evidence of what was signed before: {file}")
    say(
        "Everything is halted. Compare what your sources did since the backup, then: comptroller resume --reason …"
    )


async def _adopted(installation: Installation, by: str, reason: str) -> tuple[int, list[Path]]:
    """The halt first: whatever fails after it, nothing runs."""
    found, _ = newest_checkpoint(installation)
    # Signed with a key that nobody has any more: how much that was, nobody can say.
    signed = found[1] if found is not None else Checkpoint(installation.log_name, 0, b"")
    told = installation.release.text(reason, Audience.RECORD)
    outcome = await installation.store.commit(TENANT, Unit([Adopt(by, told, signed)]))
    if not isinstance(outcome, Committed):
        raise CommandError("the store did not take the record of it, so nothing was changed; try again")
    voided = await void_approvals(installation.store, TENANT, installation.config.budgets)
    stamp = datetime.fromtimestamp(installation.ambient.clock.now_ms() / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    return voided, set_aside(installation.config.store.checkpoint_files, stamp)


def _tell_refused(invocation: Invocation) -> None:
    problem = "adopting an old copy needs an approver's credential (--credential-file)."
    if invocation.as_json:
        emit({"ok": False, "problem": problem})
    else:
        say(f"Nothing was changed: {problem}")


async def _is_older(installation: Installation) -> bool:
    try:
        await checkpointer_of(installation).refuse_older(TENANT)
    except StoreUnsuitable:
        return True
    return False


def _demand_no_server(invocation: Invocation, database: Path) -> None:
    try:
        on_store(invocation, nobody_serves)
    except StoreError as error:
        raise CommandError(
            f"{database} cannot be read ({error}), so it cannot tell whether a server runs on it; stop it, and say so "
            "with --server-stopped"
        ) from error


async def nobody_serves(installation: Installation) -> None:
    """Raises `CommandError` while a server runs on this store."""
    store = installation.store
    locks = owner_locks(store.database, installation.ambient.clock)
    owners = await store.read(
        lambda reader: [str(row[0]) for row in reader.query(_ALL_OWNERS, tenant=TENANT)]
    )
    # On Postgres only a lease without a lock shows that an owner which left its row behind is no more.
    wait_s = 0.0 if store.database.is_sqlite else LEASE_S + 0.5
    until = asyncio.get_running_loop().time() + wait_s
    alive = owners
    while alive := [owner for owner in alive if not await asyncio.to_thread(locks.is_free, owner)]:
        if asyncio.get_running_loop().time() >= until:
            break
        await asyncio.sleep(LOOK_EVERY_S)
    if alive:
        raise CommandError(f"a server runs on this store ({alive[0]}), so nothing was changed; stop it first")


# -- files ------------------------------------------------------------------------------------------------------------


def _sqlite(installation: Installation, instead: str) -> Path:
    database = installation.config.store.database
    if database is None:
        raise CommandError(f"the store is on Postgres; its own tools do this: {instead}")
    return database


def _copy(database: Path, to: Path, progress: Progress | None) -> None:
    """A consistent copy (SQLite's online backup), whoever writes meanwhile. Raises `CommandError`."""

    def step(_status: int, left: int, pages: int) -> None:
        if progress is not None:
            progress(pages - left, pages)

    try:
        with (
            contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as source,
            contextlib.closing(sqlite3.connect(to)) as copy,
        ):
            source.backup(copy, pages=PAGES_AT_ONCE, progress=step)
            copy.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.Error as error:
        raise CommandError(f"{database} cannot be copied: {error}") from error


@contextlib.contextmanager
def _whole(file: Path) -> Generator[Path]:
    """A private file beside `file` that takes its name, durably, once what is done with it succeeds."""
    try:
        handle, made = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    except OSError as error:
        raise CommandError(f"nothing can be written beside {file}: {error.strerror}") from error
    beside = Path(made)
    try:
        os.close(handle)
        yield beside
        _sync(beside)
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _sync(file: Path) -> None:
    with file.open("rb") as written:
        os.fsync(written.fileno())


def _kept(database: Path) -> Path | None:
    """Move what stands in the database's place, its unfolded writes included, to a name beside it. None: nothing did."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    kept = free_name(database, stamp)
    for tail in (*_BESIDE, ""):  # the database last: writes without it would be folded into what comes
        part = database.with_name(database.name + tail)
        if part.exists():
            part.rename(kept.with_name(kept.name + tail))
    return kept if kept.exists() else None
