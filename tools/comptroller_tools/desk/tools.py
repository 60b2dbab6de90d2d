"""The support desk's tools: tickets and invoices to read, refunds to issue, cancel and find again.

The desk is as permissive as real systems are: it will refund more than was paid. It refuses only what cannot
be (an unknown invoice, a refund cancelled twice). Catching the rest is the governor's work.
"""

from __future__ import annotations

import random
import sqlite3
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, cast

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

from comptroller_tools.desk.database import desk_path, reading, writing
from comptroller_tools.desk.faults import Fault, FaultKind, Faults, Point
from comptroller_tools.desk.ledger import EffectKind, append
from comptroller_tools.desk.records import new_id, stamp, status_of
from comptroller_tools.errors import NotDone
from comptroller_tools.functions import EffectKey

__all__ = ["cancel_refund", "find_refund", "get_ticket", "issue_refund", "lookup_invoice", "search_tickets"]

_CENT = Decimal("0.01")

Usd = Annotated[
    Decimal,
    PlainSerializer(float, return_type=float),
    WithJsonSchema({"type": "number", "multipleOf": 0.01}, mode="serialization"),
]
"""US dollars, exact to the cent; a JSON number outside."""

InvoiceId = Annotated[
    str, Field(pattern=r"^inv_[a-z0-9]{1,32}$", description="An invoice id, as in inv_k3v8m2qa")
]
TicketId = Annotated[
    str, Field(pattern=r"^tic_[a-z0-9]{1,32}$", description="A ticket id, as in tic_k3v8m2qa")
]
RefundId = Annotated[
    str, Field(pattern=r"^ref_[a-z0-9]{1,32}$", description="A refund id, as in ref_k3v8m2qa")
]


class ReasonCode(StrEnum):
    DUPLICATE_CHARGE = "duplicate_charge"
    CANCELLED = "cancelled"
    SERVICE_ISSUE = "service_issue"
    BILLING_ERROR = "billing_error"
    GOODWILL = "goodwill"


class TicketStatus(StrEnum):
    OPEN = "open"
    WAITING = "waiting"
    CLOSED = "closed"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TicketRequest(_Model):
    ticket_id: TicketId


class InvoiceLookup(_Model):
    invoice_id: InvoiceId


class RefundRequest(_Model):
    invoice_id: InvoiceId
    amount_usd: Decimal = Field(
        gt=0,
        le=1_000_000,
        decimal_places=2,
        description="US dollars, whole cents",
        json_schema_extra={"multipleOf": 0.01},
    )
    reason_code: ReasonCode


class RefundCancel(_Model):
    refund_id: RefundId


class Ticket(_Model):
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


class TicketSummary(_Model):
    ticket_id: str
    subject: str
    status: TicketStatus
    invoice_id: str | None
    claimed_usd: Usd | None
    updated_at: str


class TicketList(_Model):
    tickets: list[TicketSummary]
    total: int


class Payment(_Model):
    payment_id: str
    amount_usd: Usd
    method: str
    card_last4: str | None
    paid_at: str


class Invoice(_Model):
    invoice_id: str
    number: str
    customer_id: str
    item: str
    amount_usd: Usd
    paid_usd: Usd
    refunded_usd: Usd
    status: str
    issued_at: str
    updated_at: str
    payments: list[Payment]


class Refund(_Model):
    refund_id: str
    invoice_id: str
    amount_usd: Usd
    reason_code: ReasonCode
    status: str
    note: str
    created_at: str
    updated_at: str


class FoundRefund(_Model):
    found: bool
    count: int
    refund: Refund | None


def get_ticket(request: TicketRequest) -> Ticket:
    """Read one support ticket: what the customer wrote, its status, and the invoice it is about."""
    path = desk_path()
    faults = Faults(path, "get_ticket", request.model_dump(mode="json"))
    faults.at(Point.BEFORE_WRITE)
    wrong = faults.find(FaultKind.WRONG_RECORD)
    key = wrong.other if wrong else request.ticket_id
    with reading(path) as connection:
        row = connection.execute(
            "SELECT t.*, c.name, c.email FROM tickets t JOIN customers c ON c.id = t.customer_id WHERE t.id = ?",
            (key,),
        ).fetchone()
    if row is None:
        raise NotDone(f"There is no ticket {key}. Find tickets with search_tickets.")
    if faults.find(FaultKind.LIE):
        return cast("Ticket", "a ticket")
    return Ticket(
        **_summary(row).model_dump(),
        body=row["body"] + _flood(faults),
        priority=row["priority"],
        customer_id=row["customer_id"],
        customer_name=row["name"],
        customer_email=row["email"],
        created_at=row["created_at"],
    )


def search_tickets(
    query: Annotated[str, Field(max_length=100, description="Words to look for in subject and body")] = "",
    status: TicketStatus | None = None,
    limit: Annotated[int, Field(ge=1, le=50)] = 20,
) -> TicketList:
    """Find support tickets, newest first. Read one in full with get_ticket."""
    path = desk_path()
    faults = Faults(path, "search_tickets", {"query": query, "status": status, "limit": limit})
    faults.at(Point.BEFORE_WRITE)
    words = query.split()
    wanted = " AND ".join(
        ["(?1 IS NULL OR status = ?1)", *["instr(lower(subject || ' ' || body), ?) > 0"] * len(words)]
    )
    values = (status, *(word.lower() for word in words))
    with reading(path) as connection:
        total = connection.execute(f"SELECT count(*) FROM tickets WHERE {wanted}", values).fetchone()[0]  # noqa: S608 -- placeholders only
        rows = connection.execute(
            f"SELECT * FROM tickets WHERE {wanted} ORDER BY created_at DESC, id LIMIT {limit:d}",  # noqa: S608 -- placeholders and an int
            values,
        ).fetchall()
    return TicketList(tickets=[_summary(row) for row in rows], total=total)


def lookup_invoice(request: InvoiceLookup) -> Invoice:
    """Read one invoice: what was billed, paid and refunded, and its payments. `updated_at` changes with each change."""
    path = desk_path()
    faults = Faults(path, "lookup_invoice", request.model_dump(mode="json"))
    faults.at(Point.BEFORE_WRITE)
    wrong = faults.find(FaultKind.WRONG_RECORD)
    key = (wrong.other if wrong else None) or request.invoice_id
    with reading(path) as connection:
        row = _invoice_row(connection, key)
        payments = connection.execute(
            "SELECT * FROM payments WHERE invoice_id = ? ORDER BY paid_at, id", (key,)
        ).fetchall()
    if faults.find(FaultKind.LIE):
        return cast("Invoice", {"invoice_id": 7})
    return Invoice(
        invoice_id=row["id"],
        number=row["number"],
        customer_id=row["customer_id"],
        item=row["item"] + _flood(faults),
        amount_usd=_usd(row["amount_cents"]),
        paid_usd=_usd(row["paid_cents"]),
        refunded_usd=_usd(row["refunded_cents"]),
        status=row["status"],
        issued_at=row["issued_at"],
        updated_at=row["updated_at"],
        payments=[
            Payment(
                payment_id=part["id"],
                amount_usd=_usd(part["amount_cents"]),
                method=part["method"],
                card_last4=part["card_last4"],
                paid_at=part["paid_at"],
            )
            for part in payments
        ],
    )


def issue_refund(request: RefundRequest, effect_key: Annotated[str, EffectKey]) -> Refund:
    """Pay money back on an invoice. `reason_code` says why."""
    path = desk_path()
    faults = Faults(path, "issue_refund", request.model_dump(mode="json"))
    faults.at(Point.BEFORE_WRITE)
    cents = int(request.amount_usd / _CENT)
    refund_id = new_id("ref", random.SystemRandom())
    short, wrong = faults.find(FaultKind.SHORT), faults.find(FaultKind.WRONG_INVOICE)
    booked_on = (wrong.other if wrong else None) or request.invoice_id
    booked_cents = cents - (short.cents if short else 0)
    if faults.find(FaultKind.NOT_WRITTEN):
        at = stamp(datetime.now(UTC))
    else:
        with writing(path) as connection:
            at = _change_refunded(connection, booked_on, booked_cents)
            connection.execute(
                "INSERT INTO refunds VALUES (?, ?, ?, ?, 'issued', ?, ?, ?)",
                (refund_id, booked_on, booked_cents, request.reason_code.value, effect_key, at, at),
            )
            append(
                connection, at=at, kind=EffectKind.REFUND_ISSUED, effect_key=effect_key,
                refund_id=refund_id, invoice_id=booked_on, amount_cents=booked_cents,
            )  # fmt: skip
            faults.at(Point.IN_WRITE)
    faults.at(Point.AFTER_WRITE)
    if faults.find(FaultKind.LIE):
        return cast("Refund", "refunded")
    return Refund(
        refund_id=refund_id,
        invoice_id=request.invoice_id,
        amount_usd=_usd(cents),
        reason_code=request.reason_code,
        status="issued",
        note=_flood(faults),
        created_at=at,
        updated_at=at,
    )


def cancel_refund(request: RefundCancel, effect_key: Annotated[str, EffectKey]) -> Refund:
    """Take back a refund that was issued. The money counts as paid again."""
    path = desk_path()
    faults = Faults(path, "cancel_refund", request.model_dump(mode="json"))
    faults.at(Point.BEFORE_WRITE)
    with writing(path) as connection:
        row = connection.execute("SELECT * FROM refunds WHERE id = ?", (request.refund_id,)).fetchone()
        if row is None:
            raise NotDone(f"There is no refund {request.refund_id}.")
        if row["status"] != "issued":
            raise NotDone(f"Refund {request.refund_id} is already cancelled.")
        at = _change_refunded(connection, row["invoice_id"], -row["amount_cents"])
        connection.execute(
            "UPDATE refunds SET status = 'cancelled', updated_at = ? WHERE id = ?", (at, request.refund_id)
        )
        append(
            connection, at=at, kind=EffectKind.REFUND_CANCELLED, effect_key=effect_key,
            refund_id=row["id"], invoice_id=row["invoice_id"], amount_cents=row["amount_cents"],
        )  # fmt: skip
        row = connection.execute("SELECT * FROM refunds WHERE id = ?", (request.refund_id,)).fetchone()
        faults.at(Point.IN_WRITE)
    faults.at(Point.AFTER_WRITE)
    return _refund(row)


def find_refund(effect_key: Annotated[str, Field(min_length=1, max_length=200)]) -> FoundRefund:
    """Find the refund that one call issued, by the key the call carried. `found` is false when there is none."""
    path = desk_path()
    faults = Faults(path, "find_refund", {"effect_key": effect_key})
    faults.at(Point.BEFORE_WRITE)
    with reading(path) as connection:
        rows = connection.execute(
            "SELECT * FROM refunds WHERE effect_key = ? ORDER BY created_at, id", (effect_key,)
        ).fetchall()
    return FoundRefund(found=bool(rows), count=len(rows), refund=_refund(rows[0]) if rows else None)


def _usd(cents: int) -> Decimal:
    return Decimal(cents) * _CENT


def _flood(faults: Faults) -> str:
    fault: Fault | None = faults.find(FaultKind.FLOOD)
    return "A" * fault.bytes if fault else ""


def _summary(row: sqlite3.Row) -> TicketSummary:
    return TicketSummary(
        ticket_id=row["id"],
        subject=row["subject"],
        status=TicketStatus(row["status"]),
        invoice_id=row["invoice_id"],
        claimed_usd=None if row["claimed_cents"] is None else _usd(row["claimed_cents"]),
        updated_at=row["updated_at"],
    )


def _refund(row: sqlite3.Row) -> Refund:
    return Refund(
        refund_id=row["id"],
        invoice_id=row["invoice_id"],
        amount_usd=_usd(row["amount_cents"]),
        reason_code=ReasonCode(row["reason_code"]),
        status=row["status"],
        note="",
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _invoice_row(connection: sqlite3.Connection, key: str) -> sqlite3.Row:
    row = cast(
        "sqlite3.Row | None", connection.execute("SELECT * FROM invoices WHERE id = ?", (key,)).fetchone()
    )
    if row is None:
        raise NotDone(f"There is no invoice {key}. A ticket names the invoice it is about.")
    return row


def _change_refunded(connection: sqlite3.Connection, invoice: str, cents: int) -> str:
    """Add `cents` to what is refunded on the invoice; the new `updated_at`, always later than the last."""
    row = _invoice_row(connection, invoice)
    last = datetime.fromisoformat(row["updated_at"])
    at = stamp(max(datetime.now(UTC), last + timedelta(microseconds=1)))
    refunded = row["refunded_cents"] + cents
    connection.execute(
        "UPDATE invoices SET refunded_cents = ?, status = ?, updated_at = ? WHERE id = ?",
        (refunded, status_of(row["amount_cents"], row["paid_cents"], refunded), at, invoice),
    )
    return at
