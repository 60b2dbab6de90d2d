"""Whether a key ring is the one a store was written with: with another, claims and approvals would be open again."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sqlalchemy import bindparam, select
from sqlmodel import Field, SQLModel

from comptroller_audit.canonical import keyed_digest
from comptroller_audit.database import Database, Relation, is_driver_error, table_of
from comptroller_audit.errors import KeyRingError, SealBroken, StoreUnavailable
from comptroller_audit.log import LogPayload
from comptroller_audit.sealing import KeyRing, Sealed
from comptroller_audit.store import Reader, Store
from comptroller_audit.unit import Key, State, Unit

__all__ = [
    "Newest",
    "OwnKeyRow",
    "demand_claim_key",
    "demand_opens",
    "demand_own_claims",
    "demand_own_keys",
    "remember_claim_key",
]

Newest: TypeAlias = tuple[int, str, bytes, bytes]
"""Index, key id, wrapped key and ciphertext of the newest payload."""
_P = table_of(LogPayload)
_NEWEST = (
    select(_P.c.idx, _P.c.key_id, _P.c.wrapped, _P.c.sealed)
    .where(_P.c.tenant == bindparam("tenant"))
    .order_by(_P.c.idx.desc())
    .limit(1)
)


class OwnKeyRow(SQLModel, table=True):
    """By what a store knows its claim key again: a digest made with that key. `id` is always the same."""

    __tablename__ = "own_keys"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    claim: str


_OWN_KEYS = Relation(OwnKeyRow)
_ID = "claim"


@dataclass(frozen=True, slots=True)
class _Remember:
    """Part: from now on the store knows its claim key again. The first to say so is right."""

    claim: str

    def keys(self) -> Iterable[Key]:
        return [(_OWN_KEYS, _ID)]

    def apply(self, state: State) -> None:
        if state.get(_OWN_KEYS, _ID) is None:
            state.put(_OWN_KEYS, _ID, {"claim": self.claim})


async def demand_own_claims(store: Store, tenant: str, path: Path) -> None:
    """Raises `KeyRingError` where the store was begun with another claim key. Changes nothing.

    Whoever serves asks this first. Reading, halting and verifying need no claim key.
    """
    known = await store.read(lambda reader: reader.row(tenant, _OWN_KEYS, _ID))
    if known is not None:
        demand_claim_key(str(known["claim"]), tenant, path, store.ring)


async def remember_claim_key(store: Store, tenant: str) -> None:
    """From its first start on a store knows its claim key again."""
    if await store.read(lambda reader: reader.row(tenant, _OWN_KEYS, _ID)) is None:
        await store.commit(tenant, Unit([_Remember(_digest_of(store.ring, tenant))]))


def demand_claim_key(known: str, tenant: str, path: Path, ring: KeyRing) -> None:
    """The same, with what the store remembers. Raises `KeyRingError`."""
    if not hmac.compare_digest(known, _digest_of(ring, tenant)):
        raise KeyRingError(
            f"the `claim` key in {path} is not the one that this store was begun with: every call that was made would be "
            "new again, and could be done twice. Bring the right key file back (docs/operations.md); no other key will do"
        )


def _digest_of(ring: KeyRing, tenant: str) -> str:
    return keyed_digest(ring.claim_key(tenant), "own-claim-key")


def demand_own_keys(url: str, tenant: str, path: Path, ring: KeyRing | None) -> None:
    """Raises `KeyRingError` unless `ring` opens the newest payload there is; None stands for a missing key file.

    Raises `StoreUnavailable` and `StoreUnsuitable` where the store cannot be read. A store without payloads fits any ring.
    """
    newest = _newest(Database(url), tenant)
    if newest is not None:
        demand_opens(newest, tenant, path, ring)


def demand_opens(newest: Newest, tenant: str, path: Path, ring: KeyRing | None) -> None:
    """The same for a payload that was read already."""
    if ring is None:
        raise KeyRingError(
            f"the key file {path} is missing, and there is a store that was written with one: bring it back from where you "
            "keep a copy; no new one is made, because with it nothing that was done would be known again"
        )
    index, key_id, wrapped, sealed = newest
    try:
        ring.unseal(tenant, index, Sealed(key_id, bytes(wrapped), bytes(sealed)))
    except (SealBroken, KeyRingError) as error:
        raise KeyRingError(
            f"the key file {path} does not open the newest record of the store: it is damaged or another store's, or the "
            "record is damaged. Bring the right file back, or a backup (docs/operations.md); `comptroller audit verify` "
            "says which entries do not open"
        ) from error


def _newest(database: Database, tenant: str) -> Newest | None:
    reader = Reader(database)
    try:
        rows = reader.query(_NEWEST, tenant=tenant)
    except Exception as error:
        if not is_driver_error(error):
            raise
        if getattr(error, "sqlstate", None) == "42P01" or "no such table" in str(error):
            return None  # nobody has served it yet
        raise StoreUnavailable(
            f"The store cannot be read ({type(error).__name__}: {str(error)[:120]})."
        ) from error
    finally:
        database.close(reader.connection)
    return (int(rows[0][0]), str(rows[0][1]), rows[0][2], rows[0][3]) if rows else None
