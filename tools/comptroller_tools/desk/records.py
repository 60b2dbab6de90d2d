"""The desk's tables and the records it starts with, generated from a seed.

Money is integer US cents. Times are UTC, RFC 3339. Ids are a kind, `_` and eight characters that differ by
seed. The same seed gives the same records on every machine.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path

from comptroller_tools.desk.ids import stamp
from comptroller_tools.desk.ledger import LEDGER_SCHEMA, EffectKind, append
from comptroller_tools.desk.seeding import START, Seeding
from comptroller_tools.desk.service_records import SERVICE_SCHEMA, generate_service

__all__ = ["DESK_VERSION", "INVOICES", "generate", "status_of"]

DESK_VERSION = 2
"""The layout of the file, kept in its `user_version`."""

CUSTOMERS = 40
INVOICES = 60

_SCHEMA = """
CREATE TABLE customers (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL, plan TEXT NOT NULL, since TEXT NOT NULL
);
CREATE TABLE invoices (
    id TEXT PRIMARY KEY, customer_id TEXT NOT NULL REFERENCES customers, number TEXT NOT NULL UNIQUE,
    item TEXT NOT NULL, amount_cents INTEGER NOT NULL CHECK (amount_cents > 0),
    paid_cents INTEGER NOT NULL, refunded_cents INTEGER NOT NULL, status TEXT NOT NULL,
    issued_at TEXT NOT NULL, updated_at TEXT NOT NULL
);
CREATE TABLE payments (
    id TEXT PRIMARY KEY, invoice_id TEXT NOT NULL REFERENCES invoices, amount_cents INTEGER NOT NULL,
    method TEXT NOT NULL, card_last4 TEXT, paid_at TEXT NOT NULL
);
CREATE TABLE refunds (
    id TEXT PRIMARY KEY, invoice_id TEXT NOT NULL REFERENCES invoices, amount_cents INTEGER NOT NULL,
    reason_code TEXT NOT NULL, status TEXT NOT NULL, effect_key TEXT NOT NULL,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL
);
CREATE INDEX payments_by_invoice ON payments (invoice_id);
CREATE INDEX refunds_by_key ON refunds (effect_key);
CREATE TABLE tickets (
    id TEXT PRIMARY KEY, customer_id TEXT NOT NULL REFERENCES customers, invoice_id TEXT REFERENCES invoices,
    subject TEXT NOT NULL, body TEXT NOT NULL, status TEXT NOT NULL, priority TEXT NOT NULL,
    claimed_cents INTEGER, created_at TEXT NOT NULL, updated_at TEXT NOT NULL
);
CREATE INDEX tickets_by_time ON tickets (created_at);
"""

_FIRST = (  # noqa: SIM905 -- thirty quoted names read worse
    "Amara Priya Lukas Mei Sofia Tomasz Aisha Diego Hanna Kwame Yuki Elena Omar Ingrid Rafael Nia Pavel Leila "
    "Jonas Zainab Mateo Chloe Arjun Freya Samuel Noor Viktor Camila Ewa Tariq"
).split()
_LAST = (  # noqa: SIM905 -- as above
    "Okafor Raman Weber Chen Rossi Nowak Haddad Morales Virtanen Mensah Tanaka Petrova Farouk Larsen Silva "
    "Achebe Novak Karimi Lindqvist Bello Herrera Dubois Mehta Nielsen Abara Siddiqui Orlov Vargas Zielinska Aziz"
).split()
_ITEMS = (
    ("Team plan, monthly", 4900),
    ("Team plan, yearly", 49000),
    ("Starter plan, monthly", 1900),
    ("Extra seats", 2450),
    ("Storage add-on, 500 GB", 1275),
    ("Priority support", 9900),
    ("Onboarding workshop", 18000),
    ("Data export, large", 3580),
)
_COMPLAINTS = (
    (
        "Charged twice",
        "Hello, my card was charged twice for {item} on invoice {number}. Please return {claim} USD. {name}",
    ),
    (
        "Cancelled before renewal",
        "I cancelled before the renewal, yet invoice {number} was still collected. I ask for {claim} USD back.",
    ),
    (
        "Service was down",
        "{item} did not work for three days. Could you credit {claim} USD on invoice {number}? Thanks, {name}",
    ),
    (
        "Wrong number of seats",
        "Invoice {number} bills more seats than we use. The difference is {claim} USD, please refund it.",
    ),
)
_QUESTIONS = (
    (
        "How do I change the billing address?",
        "We moved office. Where do I change the address on our invoices? {name}",
    ),
    (
        "Receipt with VAT number",
        "Our accountant needs last month's receipt with our VAT number on it. {name}",
    ),
    (
        "Upgrade in the middle of the month",
        "If we upgrade today, what will the next invoice look like? {name}",
    ),
)


def generate(path: Path, seed: int) -> None:
    """Write a new desk with about 500 records that agree with each other. Raises `FileExistsError` if `path` is there."""
    if path.exists():
        raise FileExistsError(f"{path} is already there; remove it to start from a seed again")
    chance = random.Random(f"desk {seed}")  # noqa: S311 -- sample records, not secrets
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(f"BEGIN;{_SCHEMA}{SERVICE_SCHEMA}{LEDGER_SCHEMA}")
        desk = Seeding(connection, chance)
        customers = [_customer(desk, number) for number in range(CUSTOMERS)]
        for number in range(INVOICES):
            _invoice(desk, chance.choice(customers), number)
        for _ in range(INVOICES // 3):
            _question(desk, *chance.choice(customers))
        # After all the above, so that what is added to a desk changes no id that it had.
        generate_service(desk)
        connection.execute(f"PRAGMA user_version = {DESK_VERSION}")
        connection.execute("COMMIT")


def _customer(desk: Seeding, number: int) -> tuple[str, str]:
    first, last = desk.chance.choice(_FIRST), desk.chance.choice(_LAST)
    key, name = desk.id("cus"), f"{first} {last}"
    email = f"{first}.{last}{number}@example.com".lower()
    since = stamp(START - timedelta(days=desk.chance.randint(30, 900)))
    desk.insert("customers", key, name, email, desk.chance.choice(("starter", "team", "enterprise")), since)
    return key, name


def _invoice(desk: Seeding, customer: tuple[str, str], number: int) -> None:
    """One invoice with its payments, its earlier refund if any, and the ticket about it."""
    chance = desk.chance
    item, price_cents = chance.choice(_ITEMS)
    amount = price_cents * chance.choice((1, 1, 2, 3))
    # One in ten is still open, one in ten half paid; at least 50 dollars are paid on most of the others.
    paid = {0: 0, 1: amount // 2}.get(number % 10, amount)
    refunded = amount // 4 if paid == amount and number % 7 == 3 else 0
    issued = START + timedelta(days=number, minutes=chance.randint(0, 600))
    updated = issued + timedelta(days=2, seconds=chance.randint(0, 80_000))
    key, serial = desk.id("inv"), f"2026-{1000 + number}"
    desk.insert(
        "invoices", key, customer[0], serial, item, amount, paid, refunded,
        status_of(amount, paid, refunded), stamp(issued), stamp(updated),
    )  # fmt: skip
    for part in ((paid // 2, paid - paid // 2) if paid > 30_000 else (paid,)) if paid else ():
        card = f"{chance.randint(0, 9999):04d}"
        desk.insert("payments", desk.id("pay"), key, part, "card", card, stamp(issued + timedelta(days=1)))
    if refunded:
        _earlier_refund(desk, key, refunded, updated)
    if paid:
        _complaint(desk, customer, key, (item, serial), paid - refunded, updated)


def _earlier_refund(desk: Seeding, invoice: str, cents: int, at: datetime) -> None:
    key, effect = desk.id("ref"), desk.effect_key()
    desk.insert("refunds", key, invoice, cents, "service_issue", "issued", effect, stamp(at), stamp(at))
    append(
        desk.connection, at=stamp(at), kind=EffectKind.REFUND_ISSUED, effect_key=effect,
        record_id=key, about_id=invoice, amount_cents=cents,
    )  # fmt: skip


def _complaint(
    desk: Seeding, customer: tuple[str, str], invoice: str, what: tuple[str, str], left: int, after: datetime
) -> None:
    claim = max(100, left * desk.chance.choice((10, 20, 25, 40, 50, 100)) // 100)
    subject, body = desk.chance.choice(_COMPLAINTS)
    text = body.format(item=what[0], number=what[1], claim=f"{claim / 100:.2f}", name=customer[1])
    _ticket(desk, customer[0], invoice, (subject, text), claim, after)


def _question(desk: Seeding, customer: str, name: str) -> None:
    subject, body = desk.chance.choice(_QUESTIONS)
    after = START + timedelta(days=desk.chance.randint(0, INVOICES))
    _ticket(desk, customer, None, (subject, body.format(name=name)), None, after)


def _ticket(
    desk: Seeding,
    customer: str,
    invoice: str | None,
    text: tuple[str, str],
    claim: int | None,
    after: datetime,
) -> None:
    created = after + timedelta(hours=desk.chance.randint(1, 90), seconds=desk.chance.randint(0, 3600))
    status = desk.chance.choice(("open", "open", "open", "waiting", "closed"))
    priority = desk.chance.choice(("low", "normal", "normal", "high"))
    at = stamp(created)
    desk.insert("tickets", desk.id("tic"), customer, invoice, *text, status, priority, claim, at, at)


def status_of(amount_cents: int, paid_cents: int, refunded_cents: int) -> str:
    """The word an invoice carries: open, part_paid, paid, part_refunded or refunded."""
    if paid_cents == 0:
        return "open"
    if refunded_cents >= paid_cents:
        return "refunded"
    if refunded_cents > 0:
        return "part_refunded"
    return "paid" if paid_cents >= amount_cents else "part_paid"
