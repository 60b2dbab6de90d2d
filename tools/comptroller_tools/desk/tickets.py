"""Tickets: to read, to find, to set their status, and to take such a change back."""

from __future__ import annotations

import sqlite3
from enum import StrEnum
from typing import Annotated, cast

from pydantic import Field

from comptroller_tools.desk.calls import Shape, begin, containing
from comptroller_tools.desk.faults import FaultKind
from comptroller_tools.desk.ids import fresh_id, next_stamp
from comptroller_tools.desk.ledger import EffectKind, append
from comptroller_tools.desk.money import Usd, cents_as_usd
from comptroller_tools.errors import NotDone
from comptroller_tools.functions import EffectKey

__all__ = [
    "FoundStatusChange",
    "StatusChange",
    "Ticket",
    "TicketId",
    "TicketList",
    "TicketRequest",
    "TicketStatus",
    "TicketStatusRequest",
    "TicketStatusUndo",
    "TicketSummary",
    "find_status_change",
    "get_ticket",
    "search_tickets",
    "set_ticket_status",
    "undo_status_change",
]

TicketId = Annotated[
    str, Field(pattern=r"^tic_[a-z0-9]{1,32}$", description="A ticket id, as in tic_k3v8m2qa")
]
ChangeId = Annotated[
    str, Field(pattern=r"^chg_[a-z0-9]{1,32}$", description="A status change's id, as in chg_k3v8m2qa")
]


class TicketStatus(StrEnum):
    OPEN = "open"
    WAITING = "waiting"
    CLOSED = "closed"


_ALLOWED = {
    TicketStatus.OPEN: {TicketStatus.WAITING, TicketStatus.CLOSED},
    TicketStatus.WAITING: {TicketStatus.OPEN, TicketStatus.CLOSED},
    TicketStatus.CLOSED: {TicketStatus.OPEN},
}


class TicketRequest(Shape):
    ticket_id: TicketId


class TicketStatusRequest(Shape):
    ticket_id: TicketId
    status: TicketStatus = Field(
        description="An open or waiting ticket may go to either other status, a closed one to open only"
    )


class TicketStatusUndo(Shape):
    change_id: ChangeId


class Ticket(Shape):
    ticket_id: str
    subject: str
    body: str
    status: TicketStatus
    priority: str
    customer_id: str
    customer_name: str
    customer_email: str
    invoice_id: str | None
    claimed_usd: Usd | None
    created_at: str
    updated_at: str


class TicketSummary(Shape):
    ticket_id: str
    subject: str
    status: TicketStatus
    invoice_id: str | None
    claimed_usd: Usd | None
    updated_at: str


class TicketList(Shape):
    tickets: list[TicketSummary]
    total: int


class StatusChange(Shape):
    change_id: str
    ticket_id: str
    previous_status: TicketStatus
    status: TicketStatus
    undone: bool
    note: str
    created_at: str
    updated_at: str


class FoundStatusChange(Shape):
    found: bool
    count: int
    change: StatusChange | None


def get_ticket(request: TicketRequest) -> Ticket:
    """Read one support ticket: what the customer wrote, its status, and the invoice it is about."""
    call = begin("get_ticket", request)
    key = call.instead(FaultKind.WRONG_RECORD, request.ticket_id)
    with call.reading() as connection:
        row = connection.execute(
            "SELECT t.*, c.name, c.email FROM tickets t JOIN customers c ON c.id = t.customer_id WHERE t.id = ?",
            (key,),
        ).fetchone()
    if row is None:
        raise NotDone(f"There is no ticket {key}. Find tickets with search_tickets.")
    ticket = Ticket(
        **_summary(row).model_dump(),
        body=row["body"] + call.flood(),
        priority=row["priority"],
        customer_id=row["customer_id"],
        customer_name=row["name"],
        customer_email=row["email"],
        created_at=row["created_at"],
    )
    return call.told(ticket)


def search_tickets(
    query: Annotated[str, Field(max_length=100, description="Words to look for in subject and body")] = "",
    status: TicketStatus | None = None,
    limit: Annotated[int, Field(ge=1, le=50)] = 20,
) -> TicketList:
    """Find support tickets, newest first. Read one in full with get_ticket."""
    call = begin("search_tickets", {"query": query, "status": status, "limit": limit})
    words, values = containing("subject || ' ' || body", query)
    wanted = f"(? IS NULL OR status = ?) AND {words}"
    with call.reading() as connection:
        total = connection.execute(
            f"SELECT count(*) FROM tickets WHERE {wanted}",  # noqa: S608 -- placeholders only
            (status, status, *values),
        ).fetchone()[0]
        rows = connection.execute(
            f"SELECT * FROM tickets WHERE {wanted} ORDER BY created_at DESC, id LIMIT {limit:d}",  # noqa: S608 -- placeholders and an int
            (status, status, *values),
        ).fetchall()
    return call.told(TicketList(tickets=[_summary(row) for row in rows], total=total))


def set_ticket_status(request: TicketStatusRequest, effect_key: Annotated[str, EffectKey]) -> StatusChange:
    """Set a ticket's status: open, waiting (for the customer) or closed. A closed ticket can only be opened again."""
    call = begin("set_ticket_status", request)
    ticket_id = call.instead(FaultKind.WRONG_TARGET, request.ticket_id)
    stored = TicketStatus(call.instead(FaultKind.ALTERED, request.status))
    change_id = fresh_id("chg")
    with call.writing() as connection:
        row = _ticket_row(connection, ticket_id)
        before = TicketStatus(row["status"])
        if stored is before:
            raise NotDone(f"Ticket {ticket_id} is {before} already.")
        if stored not in _ALLOWED[before]:
            raise NotDone(f"A {before} ticket cannot become {stored}; set {ticket_id} to open first.")
        at = _set_status(connection, row, stored)
        connection.execute(
            "INSERT INTO status_changes VALUES (?, ?, ?, ?, ?, NULL, ?, ?)",
            (change_id, ticket_id, before, stored, effect_key, at, at),
        )
        append(
            connection, at=at, kind=EffectKind.TICKET_STATUS_SET, effect_key=effect_key,
            record_id=change_id, about_id=ticket_id, detail=f"{before}>{stored}",
        )  # fmt: skip
    change = StatusChange(
        change_id=change_id,
        ticket_id=request.ticket_id,
        previous_status=before,
        status=request.status,
        undone=False,
        note=call.flood(),
        created_at=at,
        updated_at=at,
    )
    return call.told(change)


def undo_status_change(request: TicketStatusUndo, effect_key: Annotated[str, EffectKey]) -> StatusChange:
    """Take back a ticket's last status change: the ticket gets the status it had before, a closed one reopens."""
    call = begin("undo_status_change", request)
    with call.writing() as connection:
        change = connection.execute(
            "SELECT * FROM status_changes WHERE id = ?",
            (call.instead(FaultKind.WRONG_TARGET, request.change_id),),
        ).fetchone()
        if change is None:
            raise NotDone(f"There is no status change {request.change_id}.")
        last = connection.execute(
            "SELECT id FROM status_changes WHERE ticket_id = ? AND undone_by_key IS NULL "
            "ORDER BY rowid DESC LIMIT 1",
            (change["ticket_id"],),
        ).fetchone()
        if change["undone_by_key"] is not None or last["id"] != change["id"]:
            raise NotDone(
                f"{request.change_id} is not the ticket's last change any more. Read the ticket again."
            )
        at = _set_status(
            connection, _ticket_row(connection, change["ticket_id"]), TicketStatus(change["from_status"])
        )
        connection.execute(
            "UPDATE status_changes SET undone_by_key = ?, updated_at = ? WHERE id = ?",
            (effect_key, at, change["id"]),
        )
        append(
            connection, at=at, kind=EffectKind.TICKET_STATUS_UNDONE, effect_key=effect_key,
            record_id=change["id"], about_id=change["ticket_id"],
            detail=f"{change['to_status']}>{change['from_status']}",
        )  # fmt: skip
        change = connection.execute("SELECT * FROM status_changes WHERE id = ?", (change["id"],)).fetchone()
    answer = _change(change, call.flood())
    return call.told(answer.model_copy(update={"change_id": request.change_id}))


def find_status_change(
    effect_key: Annotated[str, Field(min_length=1, max_length=200)],
) -> FoundStatusChange:
    """Find the status change that one call made or took back, by the key the call carried."""
    call = begin("find_status_change", {"effect_key": effect_key})
    with call.reading() as connection:
        rows = connection.execute(
            "SELECT * FROM status_changes WHERE effect_key = :key OR undone_by_key = :key ORDER BY rowid",
            {"key": effect_key},
        ).fetchall()
    found = FoundStatusChange(
        found=bool(rows), count=len(rows), change=_change(rows[0], call.flood()) if rows else None
    )
    return call.told(found)


def _summary(row: sqlite3.Row) -> TicketSummary:
    return TicketSummary(
        ticket_id=row["id"],
        subject=row["subject"],
        status=TicketStatus(row["status"]),
        invoice_id=row["invoice_id"],
        claimed_usd=None if row["claimed_cents"] is None else cents_as_usd(row["claimed_cents"]),
        updated_at=row["updated_at"],
    )


def _change(row: sqlite3.Row, note: str) -> StatusChange:
    return StatusChange(
        change_id=row["id"],
        ticket_id=row["ticket_id"],
        previous_status=TicketStatus(row["from_status"]),
        status=TicketStatus(row["to_status"]),
        undone=row["undone_by_key"] is not None,
        note=note,
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _ticket_row(connection: sqlite3.Connection, key: str) -> sqlite3.Row:
    row = cast(
        "sqlite3.Row | None", connection.execute("SELECT * FROM tickets WHERE id = ?", (key,)).fetchone()
    )
    if row is None:
        raise NotDone(f"There is no ticket {key}. Find tickets with search_tickets.")
    return row


def _set_status(connection: sqlite3.Connection, ticket: sqlite3.Row, status: TicketStatus) -> str:
    """Write it; the ticket's new `updated_at`."""
    at = next_stamp(ticket["updated_at"])
    connection.execute(
        "UPDATE tickets SET status = ?, updated_at = ? WHERE id = ?", (status, at, ticket["id"])
    )
    return at
