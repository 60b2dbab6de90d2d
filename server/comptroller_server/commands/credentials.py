"""Who decides: an enrolled person with a credential that the agent does not hold, or merely this account."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from comptroller_policy.approvals import Assurance
from comptroller_policy.approvers import approver_by_credential, approver_names
from comptroller_server.commands.opening import account
from comptroller_server.commands.showing import plain
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT, Installation

__all__ = [
    "NOBODY",
    "Voter",
    "by_credential",
    "entitled",
    "forget_credential",
    "identify",
    "keep_credential",
]

_CREDENTIAL_BYTES_MAX = 512

by_credential = click.option(
    "--credential-file", type=click.Path(path_type=Path), help="Your approver credential."
)
"""Gives a command `credential_file`, for `identify`."""


@dataclass(frozen=True, slots=True)
class Voter:
    """Who is deciding and how surely. Without `credential` assurance nothing they agree to counts."""

    name: str
    roles: tuple[str, ...]
    assurance: Assurance

    @property
    def counts(self) -> bool:
        return self.assurance is Assurance.CREDENTIAL


NOBODY = Voter("", (), Assurance.SAME_UID)
"""Who decided when nothing came to be decided."""


async def identify(installation: Installation, file: Path | None) -> Voter:
    """The person behind a credential from `file`, or asked on the terminal; without one, this account.

    A file that this very user owns proves no more than the account does, since whatever runs as that user can read
    it, unless `approvals.allow_same_uid_file` says that this is accepted. Raises `CommandError`.
    """
    assurance = Assurance.CREDENTIAL
    if file is not None:
        credential, owner = _read(file)
        if owner == os.geteuid() and not installation.config.approvals.allow_same_uid_file:
            assurance = Assurance.SAME_UID
            _say_it_is_ours(file)
    else:
        credential = _ask()
    if not credential:
        return Voter(account(), (), Assurance.SAME_UID)
    known = await installation.store.read(lambda reader: approver_by_credential(reader, TENANT, credential))
    if known is None:
        raise CommandError("this credential belongs to no enrolled approver; see `comptroller approver list`")
    return Voter(known.name, known.roles, assurance)


async def entitled(installation: Installation, file: Path | None) -> str | None:
    """Who undoes what keeps a store safe: an approver where anybody is enrolled, else this account. None: nobody who may.

    Raises `CommandError` as `identify` does.
    """
    if not await installation.store.read(lambda reader: approver_names(reader, TENANT)):
        return account()
    voter = await identify(installation, file)
    return voter.name if voter.counts else None


def _say_it_is_ours(file: Path) -> None:
    """To standard error, because what the command then says only asks for what was just given."""
    click.echo(
        f"comptroller: {plain(str(file))} belongs to this very account, so whatever runs as it could have used it, and it "
        "does not count. Leave --credential-file out and type the credential, give a file of another user, or set "
        "`approvals.allow_same_uid_file`.",
        err=True,
    )


def _ask() -> str:
    """Asked only of a terminal, never shown; empty when nobody can be asked."""
    if not sys.stdin.isatty():
        return ""
    asked: str = click.prompt(
        "Approver credential (empty for none)", hide_input=True, default="", show_default=False, err=True
    )
    return asked.strip()


def _read(file: Path) -> tuple[str, int]:
    """The credential in `file` and the uid that owns it. Raises `CommandError` for a file that others can read."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise CommandError(f"the credential file {file} cannot be read ({error.strerror})") from error
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise CommandError(f"the credential file {file} is not a regular file")
        # A file of another user must be readable to us somehow, but never to everybody.
        if facts.st_mode & (0o077 if facts.st_uid == os.geteuid() else 0o007):
            mode = stat.S_IMODE(facts.st_mode)
            raise CommandError(
                f"the credential file {file} is open to others (mode {mode:04o}); run `chmod 600 {file}`"
            )
        text = os.read(handle, _CREDENTIAL_BYTES_MAX).decode("ascii", "replace").strip()
    finally:
        os.close(handle)
    if not text:
        raise CommandError(f"the credential file {file} is empty")
    return text, facts.st_uid


def keep_credential(file: Path, credential: str) -> None:
    """Write a new file (mode 0600) that holds the credential; never over another. Raises `CommandError`."""
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CommandError(
            f"the credential file {file} cannot be made ({error.strerror}); name a new file"
        ) from error
    with os.fdopen(handle, "w", encoding="ascii") as opened:
        opened.write(credential + "\n")
        opened.flush()
        os.fsync(handle)


def forget_credential(file: Path) -> None:
    """Remove a file that `keep_credential` made for somebody who was not enrolled after all."""
    with contextlib.suppress(OSError):
        file.unlink()
