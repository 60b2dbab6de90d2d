"""The desk's money: invoices to read, refunds to issue, cancel and find again.

As permissive as real systems are: it will refund more than was paid. It refuses only what cannot be (an unknown
invoice, a refund cancelled twice).
"""

from __future__ import annotations

import sqlite3
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, cast

from pydantic import Field

from comptroller_tools.desk.calls import Shape, begin
from comptroller_tools.desk.faults import FaultKind
from comptroller_tools.desk.ids import fresh_id, next_stamp
from comptroller_tools.desk.ledger import EffectKind, append
from comptroller_tools.desk.money import CENT, Usd, cents_as_usd
from comptroller_tools.desk.records import status_of
from comptroller_tools.errors import NotDone
from comptroller_tools.functions import EffectKey

__all__ = [
    "FoundRefund",
    "Invoice",
    "InvoiceId",
    "InvoiceLookup",
    "Payment",
    "ReasonCode",
    "Refund",
    "RefundCancel",
    "RefundLookup",
    "RefundRequest",
    "cancel_refund",
    "find_cancelled_refund",
    "find_refund",
    "get_refund",
    "issue_refund",
    "lookup_invoice",
]

InvoiceId = Annotated[
    str, Field(pattern=r"^inv_[a-z0-9]{1,32}$", description="An invoice id, as in inv_k3v8m2qa")
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


class InvoiceLookup(Shape):
    invoice_id: InvoiceId


class RefundRequest(Shape):
    invoice_id: InvoiceId
    amount_usd: Decimal = Field(
        gt=0,
        le=1_000_000,
        decimal_places=2,
        description="US dollars, whole cents",
        json_schema_extra={"multipleOf": 0.01},
    )
    reason_code: ReasonCode


class RefundCancel(Shape):
    refund_id: RefundId


class RefundLookup(Shape):
    refund_id: RefundId


class Payment(Shape):
    payment_id: str
    amount_usd: Usd
    method: str
    card_last4: str | None
    paid_at: str


class Invoice(Shape):
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


class Refund(Shape):
    refund_id: str
    invoice_id: str
    amount_usd: Usd
    reason_code: ReasonCode
    status: str
    note: str
    created_at: str
    updated_at: str


class FoundRefund(Shape):
    found: bool
    count: int
    refund: Refund | None


def lookup_invoice(request: InvoiceLookup) -> Invoice:
    """Read one invoice: what was billed, paid and refunded, and its payments. `updated_at` changes with each change."""
    call = begin("lookup_invoice", request)
    key = call.instead(FaultKind.WRONG_RECORD, request.invoice_id)
    with call.reading() as connection:
        row = _invoice_row(connection, key)
        payments = connection.execute(
            "SELECT * FROM payments WHERE invoice_id = ? ORDER BY paid_at, id", (key,)
        ).fetchall()
    invoice = Invoice(
        invoice_id=row["id"],
        number=row["number"],
        customer_id=row["customer_id"],
        item=row["item"] + call.flood(),
        amount_usd=cents_as_usd(row["amount_cents"]),
        paid_usd=cents_as_usd(row["paid_cents"]),
        refunded_usd=cents_as_usd(row["refunded_cents"]),
        status=row["status"],
        issued_at=row["issued_at"],
        updated_at=row["updated_at"],
        payments=[
            Payment(
                payment_id=part["id"],
                amount_usd=cents_as_usd(part["amount_cents"]),
                method=part["method"],
                card_last4=part["card_last4"],
                paid_at=part["paid_at"],
            )
            for part in payments
        ],
    )
    return call.told(invoice)


def issue_refund(request: RefundRequest, effect_key: Annotated[str, EffectKey]) -> Refund:
    """Pay money back on an invoice. `reason_code` says why."""
    call = begin("issue_refund", request)
    cents = int(request.amount_usd / CENT)
    refund_id = fresh_id("ref")
    short = call.faults.find(FaultKind.SHORT)
    booked_on = call.instead(FaultKind.WRONG_INVOICE, request.invoice_id)
    booked_cents = cents - (short.cents if short else 0)
    with call.writing() as connection:
        at = _change_refunded(connection, booked_on, booked_cents)
        connection.execute(
            "INSERT INTO refunds VALUES (?, ?, ?, ?, 'issued', ?, ?, ?)",
            (refund_id, booked_on, booked_cents, request.reason_code.value, effect_key, at, at),
        )
        append(
            connection, at=at, kind=EffectKind.REFUND_ISSUED, effect_key=effect_key,
            record_id=refund_id, about_id=booked_on, amount_cents=booked_cents,
        )  # fmt: skip
    refund = Refund(
        refund_id=refund_id,
        invoice_id=request.invoice_id,
        amount_usd=cents_as_usd(cents),
        reason_code=request.reason_code,
        status="issued",
        note=call.flood(),
        created_at=at,
        updated_at=at,
    )
    return call.told(refund)


def cancel_refund(request: RefundCancel, effect_key: Annotated[str, EffectKey]) -> Refund:
    """Take back a refund that was issued. The money counts as paid again."""
    call = begin("cancel_refund", request)
    with call.writing() as connection:
        row = _refund_row(connection, call.instead(FaultKind.WRONG_TARGET, request.refund_id))
        if row["status"] != "issued":
            raise NotDone(f"Refund {row['id']} is already cancelled.")
        at = _change_refunded(connection, row["invoice_id"], -row["amount_cents"])
        connection.execute(
            "UPDATE refunds SET status = 'cancelled', updated_at = ? WHERE id = ?", (at, row["id"])
        )
        connection.execute("INSERT INTO refund_cancellations VALUES (?, ?, ?)", (row["id"], effect_key, at))
        append(
            connection, at=at, kind=EffectKind.REFUND_CANCELLED, effect_key=effect_key,
            record_id=row["id"], about_id=row["invoice_id"], amount_cents=row["amount_cents"],
        )  # fmt: skip
        refund = _refund(_refund_row(connection, row["id"]), call.flood())
    return call.told(refund.model_copy(update={"refund_id": request.refund_id}))


def get_refund(request: RefundLookup) -> Refund:
    """Read one refund: its invoice, its amount, and whether it is issued or cancelled."""
    call = begin("get_refund", request)
    with call.reading() as connection:
        row = _refund_row(connection, call.instead(FaultKind.WRONG_RECORD, request.refund_id))
    return call.told(_refund(row, call.flood()))


def find_refund(effect_key: Annotated[str, Field(min_length=1, max_length=200)]) -> FoundRefund:
    """Find the refund that one call issued, by the key the call carried. `found` is false when there is none."""
    call = begin("find_refund", {"effect_key": effect_key})
    with call.reading() as connection:
        rows = connection.execute(
            "SELECT * FROM refunds WHERE effect_key = ? ORDER BY created_at, id", (effect_key,)
        ).fetchall()
    return call.told(
        FoundRefund(found=bool(rows), count=len(rows), refund=_refund(rows[0]) if rows else None)
    )


def find_cancelled_refund(effect_key: Annotated[str, Field(min_length=1, max_length=200)]) -> FoundRefund:
    """Find the refund that one call cancelled, by the key the call carried. `found` is false when there is none."""
    call = begin("find_cancelled_refund", {"effect_key": effect_key})
    with call.reading() as connection:
        rows = connection.execute(
            "SELECT r.* FROM refunds r JOIN refund_cancellations c ON c.refund_id = r.id "
            "WHERE c.effect_key = ? ORDER BY c.created_at, r.id",
            (effect_key,),
        ).fetchall()
    return call.told(
        FoundRefund(found=bool(rows), count=len(rows), refund=_refund(rows[0]) if rows else None)
    )


def _refund(row: sqlite3.Row, note: str = "") -> Refund:
    return Refund(
        refund_id=row["id"],
        invoice_id=row["invoice_id"],
        amount_usd=cents_as_usd(row["amount_cents"]),
        reason_code=ReasonCode(row["reason_code"]),
        status=row["status"],
        note=note,
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _refund_row(connection: sqlite3.Connection, key: str) -> sqlite3.Row:
    row = cast(
        "sqlite3.Row | None", connection.execute("SELECT * FROM refunds WHERE id = ?", (key,)).fetchone()
    )
    if row is None:
        raise NotDone(f"There is no refund {key}.")
    return row


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
    at = next_stamp(row["updated_at"])
    refunded = row["refunded_cents"] + cents
    connection.execute(
        "UPDATE invoices SET refunded_cents = ?, status = ?, updated_at = ? WHERE id = ?",
        (refunded, status_of(row["amount_cents"], row["paid_cents"], refunded), at, invoice),
    )
    return at
