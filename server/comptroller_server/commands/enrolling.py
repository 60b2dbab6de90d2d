"""Enrolling a person who may approve, for the commands that do so."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from comptroller_audit.store import Reader
from comptroller_audit.unit import Stopped, Unit
from comptroller_policy.approvers import Approver, EnrolApprover, approver_names, hashed, new_credential
from comptroller_policy.rules import REQUESTER
from comptroller_server.commands.credentials import forget_credential, identify, keep_credential
from comptroller_server.commands.invocation import Invocation
from comptroller_server.commands.opening import on_store
from comptroller_server.commands.showing import say
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT, Installation

__all__ = ["Enrolled", "checked_name", "enrol", "show_enrolled"]

SALT_BYTES = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Enrolled:
    """Who was to be enrolled. `problem` says why they were not; else `credential` is theirs, in `file` if one was named."""

    name: str
    roles: tuple[str, ...]
    credential: str
    file: Path | None
    problem: str | None

    def shown(self) -> dict[str, str]:
        """The credential, or where it lies, for a JSON document. Empty when nobody was enrolled."""
        if self.problem is not None:
            return {}
        return {"credential_file": str(self.file)} if self.file else {"credential": self.credential}


def checked_name(name: str) -> str:
    """`name`, if an approver can be called that. Raises `CommandError`."""
    if not _NAME.fullmatch(name):
        raise CommandError(f"{name!r} cannot name an approver; use letters, digits, `_` and `-`, 64 at most")
    return name


def enrol(
    invocation: Invocation, name: str, roles: Sequence[str], out: Path | None, voucher: Path | None
) -> Enrolled:
    """Enrol `name`, with a new credential that goes to the new file `out` or to the caller.

    `voucher` is the credential file of somebody who is enrolled. Raises `CommandError`.
    """
    checked_name(name)
    if wrong := [role for role in roles if not _ROLE.fullmatch(role)]:
        raise CommandError(
            f"{wrong[0]!r} cannot be a role; use letters, digits and `_`, beginning with a letter"
        )
    if REQUESTER in roles:
        raise CommandError(
            f"`{REQUESTER}` is the person a call is made for, who is asked at the client; nobody is enrolled as that"
        )
    credential = new_credential(name)
    salt = secrets.token_bytes(SALT_BYTES)
    distinct = tuple(dict.fromkeys(roles))

    async def work(installation: Installation) -> str | None:
        size, known = await installation.store.read(_enrolled)
        added_by = ""
        if known:
            voter = await identify(installation, voucher)
            if not voter.counts:
                return "An enrolled approver's credential is needed to enrol another one (--credential-file)."
            added_by = voter.name
        part = EnrolApprover(
            name, salt.hex(), hashed(credential, salt), distinct, added_by, None if known else size
        )
        if out is not None:  # before the commit: nobody is enrolled with a credential nobody has
            keep_credential(out, credential)
        outcome = await installation.store.commit(TENANT, Unit([part]))
        if isinstance(outcome, Stopped):
            if out is not None:
                forget_credential(out)
            return str(getattr(outcome.stop, "text", outcome.stop))
        return None

    return Enrolled(name, distinct, credential, out, on_store(invocation, work, may_create=True))


def show_enrolled(enrolled: Enrolled) -> None:
    """For a person: who is enrolled, and the credential, this once."""
    if enrolled.problem is not None:
        say(f"Not enrolled: {enrolled.problem}")
        return
    say(f"{enrolled.name} is enrolled as {', '.join(enrolled.roles)}.")
    if enrolled.file is not None:
        say(f"The credential is in {enrolled.file}. Keep it where the agent cannot read it.")
    else:
        say("The credential, shown only now. Keep it where the agent cannot read it:")
        say(enrolled.credential)


def _enrolled(reader: Reader) -> tuple[int, Sequence[Approver]]:
    """The log's size, read first, and who is enrolled: an enrolment in between shows in one of them."""
    head = reader.head(TENANT)
    return (head.size if head else 0), approver_names(reader, TENANT)
