"""Who is meant: principals stand in tables as keyed digests, so a name leads to them and never the other way."""

from __future__ import annotations

from sqlalchemy import bindparam, func, select

from comptroller_audit.calls import CallRow
from comptroller_audit.database import table_of
from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import Principal
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT, Installation, principal_key

__all__ = ["digests_of", "principals_of"]

_C = table_of(CallRow)
_CALLS = select(func.count()).where(
    _C.c.tenant == bindparam("tenant"), _C.c.principal == bindparam("principal")
)


def digests_of(installation: Installation, name: str) -> dict[str, str]:
    """The principals that `name` can mean, whole or as the local account's subject, and their keyed digests."""
    local = Principal(TENANT, installation.identity.principal.issuer, name)
    return {each: principal_key(installation.ring, TENANT, each) for each in (name, local.id)}


async def principals_of(installation: Installation, name: str) -> tuple[str, str]:
    """The principal that `name` means, and its digest. Raises `CommandError` when nobody of that name has called."""
    known = digests_of(installation, name)

    def called(reader: Reader) -> list[str]:
        return [
            each
            for each, digest in known.items()
            if int(reader.query(_CALLS, tenant=TENANT, principal=digest)[0][0])
        ]

    found = await installation.store.read(called)
    if not found:
        raise CommandError(
            f"nobody named {name!r} has called yet; give the whole principal as `comptroller why` shows it (issuer|subject)"
        )
    return found[0], known[found[0]]
