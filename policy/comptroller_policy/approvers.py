"""Approvers: people enrolled with a credential that the agent does not hold. Stored as scrypt hashes, with roles."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import BigInteger, bindparam, select
from sqlmodel import Field, SQLModel

from comptroller_audit.database import Relation, table_of
from comptroller_audit.packets import LogRecord
from comptroller_audit.store import Reader
from comptroller_audit.unit import Key, State, Stop
from comptroller_audit.vocabulary import Code, RecordType, Refusal

__all__ = [
    "APPROVERS",
    "NO_FIRST_ANY_MORE",
    "Approver",
    "ApproverRow",
    "EnrolApprover",
    "approver_by_credential",
    "new_credential",
]

NO_FIRST_ANY_MORE = (
    "this store has served with nobody enrolled, and takes no first approver any more; begin again with another "
    "--data-dir, and enrol somebody there before the first `serve`:"
)
"""What to do where a first approver comes too late; the command follows."""

_SCRYPT = {"n": 1 << 14, "r": 8, "p": 1, "dklen": 32}


class ApproverRow(SQLModel, table=True):
    """`id` is the person's name; `roles` is JSON; the credential itself is nowhere."""

    __tablename__ = "approvers"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    salt: str
    scrypt: str
    roles: str
    added_by: str
    at_ms: int = Field(sa_type=BigInteger)


APPROVERS = Relation(ApproverRow)


@dataclass(frozen=True, slots=True)
class Approver:
    name: str
    roles: tuple[str, ...]


def new_credential(name: str) -> str:
    """A fresh credential, `name.<43 random characters>` (256 bits). Shown once."""
    return f"{name}.{secrets.token_urlsafe(32)}"


def hashed(credential: str, salt: bytes) -> str:
    return hashlib.scrypt(credential.encode(), salt=salt, **_SCRYPT).hex()


def approver_by_credential(reader: Reader, tenant: str, credential: str) -> Approver | None:
    """The person a credential belongs to, compared in constant time; None for anything else."""
    name = credential.strip().rpartition(".")[0]
    row = reader.row(tenant, APPROVERS, name) if name else None
    if row is None:
        return None
    expected = hashed(credential.strip(), bytes.fromhex(row["salt"]))
    if not hmac.compare_digest(expected, row["scrypt"]):
        return None
    return Approver(name, tuple(json.loads(row["roles"])))


def approver_names(reader: Reader, tenant: str) -> list[Approver]:
    table = table_of(ApproverRow)
    rows = reader.query(
        select(table.c.id, table.c.roles).where(table.c.tenant == bindparam("tenant")), tenant=tenant
    )
    return [Approver(str(name), tuple(json.loads(roles))) for name, roles in rows]


@dataclass(frozen=True, slots=True)
class EnrolApprover:
    """Part: enrol `name`. `added_by` is an enrolled approver's name, or empty for the first.

    The first is taken only before the store's first `serve` (no bundle has been active) and while nobody is enrolled:
    `log_size` is the size of the log, read before nobody was found enrolled, and no record may have come since.
    """

    name: str
    salt: str
    scrypt: str
    roles: tuple[str, ...]
    added_by: str
    log_size: int | None

    def keys(self) -> Iterable[Key]:
        return [(APPROVERS, self.name), *([(APPROVERS, self.added_by)] if self.added_by else [])]

    def apply(self, state: State) -> Stop | None:
        if not self.added_by and self.log_size is None:
            return Refusal(
                Code.DENIED,
                "An enrolled approver's credential is needed to enrol another one (--credential-file).",
            )
        if not self.added_by and state.head.bundle:
            return Refusal(
                Code.DENIED,
                f"{NO_FIRST_ANY_MORE} `comptroller approver add {self.name} --role {self.roles[0]}`",
            )
        if not self.added_by and state.head.size + len(state.records) != self.log_size:
            return Refusal(
                Code.DENIED,
                "Somebody changed this store at the same moment, so nobody was enrolled. Look at "
                "`comptroller approver list`, then try again.",
            )
        if self.added_by and state.get(APPROVERS, self.added_by) is None:
            return Refusal(Code.DENIED, f"{self.added_by} is not an enrolled approver of this store.")
        if state.get(APPROVERS, self.name) is not None:
            return Refusal(
                Code.KEY_CONFLICT, f"An approver named {self.name} is enrolled already; choose another name."
            )
        state.put(
            APPROVERS,
            self.name,
            {
                "salt": self.salt,
                "scrypt": self.scrypt,
                "roles": json.dumps(list(self.roles)),
                "added_by": self.added_by,
                "at_ms": state.now_ms,
            },
        )
        state.append(
            LogRecord(
                RecordType.APPROVER_ADDED,
                {"v": 1, "approver": self.name, "roles": list(self.roles), "added_by": self.added_by},
            )
        )
        return None
