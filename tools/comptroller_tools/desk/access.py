"""Access requests of employees, and the accesses that were given for them.

The desk gives any role for any time, whether or not a manager agreed, and also to people who left: it is the
system of record, not the rule. It refuses only what cannot be, such as a second access for one request.
"""

from __future__ import annotations

import sqlite3
from enum import StrEnum
from typing import Annotated, cast

from pydantic import Field

from comptroller_tools.desk.calls import Shape, begin, containing
from comptroller_tools.desk.faults import FaultKind
from comptroller_tools.desk.ids import fresh_id, next_stamp
from comptroller_tools.desk.ledger import EffectKind, append
from comptroller_tools.errors import NotDone
from comptroller_tools.functions import EffectKey

__all__ = [
    "Access",
    "AccessGrant",
    "AccessLookup",
    "AccessRequest",
    "AccessRequestList",
    "AccessRequestLookup",
    "AccessRequestSummary",
    "AccessRevoke",
    "AccessRole",
    "AccessStatus",
    "FoundAccess",
    "RequestStatus",
    "Sensitivity",
    "find_access",
    "get_access",
    "get_access_request",
    "grant_access",
    "revoke_access",
    "search_access_requests",
]

RequestId = Annotated[
    str, Field(pattern=r"^req_[a-z0-9]{1,32}$", description="An access request's id, as in req_k3v8m2qa")
]
AccessId = Annotated[
    str, Field(pattern=r"^acc_[a-z0-9]{1,32}$", description="An access's id, as in acc_k3v8m2qa")
]


class AccessRole(StrEnum):
    VIEWER = "viewer"
    EDITOR = "editor"
    ADMIN = "admin"


class RequestStatus(StrEnum):
    PENDING = "pending"
    GRANTED = "granted"
    REJECTED = "rejected"
    REVOKED = "revoked"


class AccessStatus(StrEnum):
    ACTIVE = "active"
    REVOKED = "revoked"


class Sensitivity(StrEnum):
    LOW = "low"
    HIGH = "high"


class AccessRequestLookup(Shape):
    request_id: RequestId


class AccessGrant(Shape):
    request_id: RequestId
    role: AccessRole
    days: int = Field(ge=1, le=365, description="How long the access lasts")


class AccessRevoke(Shape):
    access_id: AccessId


class AccessLookup(Shape):
    access_id: AccessId


class AccessRequestSummary(Shape):
    request_id: str
    requester_name: str
    resource: str
    role: AccessRole
    status: RequestStatus
    updated_at: str


class AccessRequestList(Shape):
    requests: list[AccessRequestSummary]
    total: int


class AccessRequest(Shape):
    request_id: str
    requester_id: str
    requester_name: str
    requester_email: str = Field(json_schema_extra={"format": "email"})
    requester_team: str
    requester_active: bool
    resource: str
    sensitivity: Sensitivity
    days_max: int
    role: AccessRole
    days: int
    reason: str
    manager_agreed: bool
    status: RequestStatus
    access_id: str | None
    granted_role: AccessRole | None
    granted_days: int | None
    created_at: str
    updated_at: str


class Access(Shape):
    access_id: str
    request_id: str
    holder_id: str
    resource: str
    role: AccessRole
    days: int
    status: AccessStatus
    note: str
    created_at: str
    updated_at: str


class FoundAccess(Shape):
    found: bool
    count: int
    access: Access | None


def search_access_requests(
    query: Annotated[str, Field(max_length=100, description="Words in name, resource or reason")] = "",
    status: RequestStatus | None = None,
    limit: Annotated[int, Field(ge=1, le=50)] = 20,
) -> AccessRequestList:
    """Find access requests, newest first. Read one in full with get_access_request."""
    call = begin("search_access_requests", {"query": query, "status": status, "limit": limit})
    words, values = containing("e.name || ' ' || q.resource || ' ' || q.reason", query)
    wanted = (
        "FROM access_requests q JOIN employees e ON e.id = q.requester_id "
        f"WHERE (? IS NULL OR q.status = ?) AND {words}"
    )
    with call.reading() as connection:
        total = connection.execute(f"SELECT count(*) {wanted}", (status, status, *values)).fetchone()[0]
        rows = connection.execute(
            f"SELECT q.*, e.name {wanted} ORDER BY q.created_at DESC, q.id LIMIT {limit:d}",
            (status, status, *values),
        ).fetchall()
    found = [
        AccessRequestSummary(
            request_id=row["id"],
            requester_name=row["name"],
            resource=row["resource"],
            role=AccessRole(row["role"]),
            status=RequestStatus(row["status"]),
            updated_at=row["updated_at"],
        )
        for row in rows
    ]
    return call.told(AccessRequestList(requests=found, total=total))


def get_access_request(request: AccessRequestLookup) -> AccessRequest:
    """Read one access request: who wants which role on what, whether the manager agreed, and what was given."""
    call = begin("get_access_request", request)
    with call.reading() as connection:
        row = _request_row(connection, call.instead(FaultKind.WRONG_RECORD, request.request_id))
    found = AccessRequest(
        request_id=row["id"],
        requester_id=row["requester_id"],
        requester_name=row["name"],
        requester_email=row["email"],
        requester_team=row["team"],
        requester_active=bool(row["active"]),
        resource=row["resource"],
        sensitivity=Sensitivity(row["sensitivity"]),
        days_max=row["days_max"],
        role=AccessRole(row["role"]),
        days=row["days"],
        reason=row["reason"] + call.flood(),
        manager_agreed=bool(row["manager_agreed"]),
        status=RequestStatus(row["status"]),
        access_id=row["access_id"],
        granted_role=row["granted_role"] and AccessRole(row["granted_role"]),
        granted_days=row["granted_days"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
    return call.told(found)


def grant_access(request: AccessGrant, effect_key: Annotated[str, EffectKey]) -> Access:
    """Give the requester a role on the resource of their access request, for a number of days."""
    call = begin("grant_access", request)
    request_id = call.instead(FaultKind.WRONG_TARGET, request.request_id)
    role = AccessRole(call.instead(FaultKind.ALTERED, request.role))
    access_id = fresh_id("acc")
    with call.writing() as connection:
        row = _request_row(connection, request_id)
        if row["access_id"] is not None:
            raise NotDone(f"Request {request_id} has the access {row['access_id']} already.")
        at = _set_request(connection, row, RequestStatus.GRANTED)
        connection.execute(
            "INSERT INTO accesses VALUES (?, ?, ?, ?, ?, ?, 'active', ?, NULL, ?, ?)",
            (
                access_id,
                request_id,
                row["requester_id"],
                row["resource"],
                role,
                request.days,
                effect_key,
                at,
                at,
            ),
        )
        append(
            connection, at=at, kind=EffectKind.ACCESS_GRANTED, effect_key=effect_key,
            record_id=access_id, about_id=request_id, detail=role.value,
        )  # fmt: skip
        access = _access(_access_row(connection, access_id), call.flood())
    return call.told(access.model_copy(update={"request_id": request.request_id, "role": request.role}))


def revoke_access(request: AccessRevoke, effect_key: Annotated[str, EffectKey]) -> Access:
    """Take an access away, at once. Its request then says revoked, and could be granted again."""
    call = begin("revoke_access", request)
    access_id = call.instead(FaultKind.WRONG_TARGET, request.access_id)
    with call.writing() as connection:
        row = _access_row(connection, access_id)
        if row["status"] != AccessStatus.ACTIVE:
            raise NotDone(f"Access {access_id} is revoked already.")
        at = _set_request(connection, _request_row(connection, row["request_id"]), RequestStatus.REVOKED)
        connection.execute(
            "UPDATE accesses SET status = 'revoked', revoked_by_key = ?, updated_at = ? WHERE id = ?",
            (effect_key, at, access_id),
        )
        append(
            connection, at=at, kind=EffectKind.ACCESS_REVOKED, effect_key=effect_key,
            record_id=access_id, about_id=row["request_id"], detail=row["role"],
        )  # fmt: skip
        access = _access(_access_row(connection, access_id), call.flood())
    return call.told(access.model_copy(update={"access_id": request.access_id}))


def get_access(request: AccessLookup) -> Access:
    """Read one access: who holds which role on what, and whether it is in force."""
    call = begin("get_access", request)
    with call.reading() as connection:
        row = _access_row(connection, call.instead(FaultKind.WRONG_RECORD, request.access_id))
    return call.told(_access(row, call.flood()))


def find_access(effect_key: Annotated[str, Field(min_length=1, max_length=200)]) -> FoundAccess:
    """Find the access that one call granted or revoked, by the key the call carried."""
    call = begin("find_access", {"effect_key": effect_key})
    with call.reading() as connection:
        rows = connection.execute(
            "SELECT * FROM accesses WHERE granted_by_key = :key OR revoked_by_key = :key ORDER BY rowid",
            {"key": effect_key},
        ).fetchall()
    found = FoundAccess(
        found=bool(rows), count=len(rows), access=_access(rows[0], call.flood()) if rows else None
    )
    return call.told(found)


def _request_row(connection: sqlite3.Connection, key: str) -> sqlite3.Row:
    """The request with its requester, its resource and the access in force."""
    row = cast(
        "sqlite3.Row | None",
        connection.execute(
            "SELECT q.*, e.name, e.email, e.team, e.active, s.sensitivity, s.days_max, a.id AS access_id, "
            "a.role AS granted_role, a.days AS granted_days FROM access_requests q "
            "JOIN employees e ON e.id = q.requester_id JOIN resources s ON s.id = q.resource "
            "LEFT JOIN accesses a ON a.request_id = q.id AND a.status = 'active' WHERE q.id = ?",
            (key,),
        ).fetchone(),
    )
    if row is None:
        raise NotDone(f"There is no access request {key}. Find them with search_access_requests.")
    return row


def _access_row(connection: sqlite3.Connection, key: str) -> sqlite3.Row:
    row = cast(
        "sqlite3.Row | None", connection.execute("SELECT * FROM accesses WHERE id = ?", (key,)).fetchone()
    )
    if row is None:
        raise NotDone(f"There is no access {key}. Its request names it, see get_access_request.")
    return row


def _set_request(connection: sqlite3.Connection, row: sqlite3.Row, status: RequestStatus) -> str:
    """Write the request's status; its new `updated_at`."""
    at = next_stamp(row["updated_at"])
    connection.execute(
        "UPDATE access_requests SET status = ?, updated_at = ? WHERE id = ?", (status, at, row["id"])
    )
    return at


def _access(row: sqlite3.Row, note: str) -> Access:
    return Access(
        access_id=row["id"],
        request_id=row["request_id"],
        holder_id=row["holder_id"],
        resource=row["resource"],
        role=AccessRole(row["role"]),
        days=row["days"],
        status=AccessStatus(row["status"]),
        note=note,
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
