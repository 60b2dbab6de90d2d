"""Replies to customers: drafted first, then sent to an address, or recalled while unsent.

The desk sends a draft to whatever address it is told, as mail systems do, and to tickets in any status. It refuses
only what cannot be: an address without a domain, a reply sent twice, the recall of one that is gone.
"""

from __future__ import annotations

import re
import sqlite3
from enum import StrEnum
from typing import Annotated, cast

from pydantic import Field

from comptroller_tools.desk.calls import DeskCall, Shape, begin
from comptroller_tools.desk.faults import FaultKind
from comptroller_tools.desk.ids import fresh_id, next_stamp
from comptroller_tools.desk.ledger import EffectKind, append
from comptroller_tools.desk.tickets import TicketId
from comptroller_tools.errors import NotDone
from comptroller_tools.functions import EffectKey

__all__ = [
    "DraftRecall",
    "FoundReply",
    "Reply",
    "ReplyDraft",
    "ReplyLookup",
    "ReplySend",
    "ReplyStatus",
    "draft_reply",
    "find_reply",
    "get_reply",
    "recall_draft",
    "send_reply",
]

ReplyId = Annotated[
    str, Field(pattern=r"^rep_[a-z0-9]{1,32}$", description="A reply's id, as in rep_k3v8m2qa")
]

_is_address = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+").fullmatch


class ReplyStatus(StrEnum):
    DRAFT = "draft"
    SENT = "sent"
    RECALLED = "recalled"


class ReplyDraft(Shape):
    ticket_id: TicketId
    body: str = Field(
        min_length=1, max_length=4_000, pattern=r"\S", description="The whole text to the customer"
    )


class ReplySend(Shape):
    reply_id: ReplyId
    to: str = Field(
        min_length=3,
        max_length=254,
        description="The e-mail address it goes to; the customer's is in the ticket",
        json_schema_extra={"format": "email"},
    )


class DraftRecall(Shape):
    reply_id: ReplyId


class ReplyLookup(Shape):
    reply_id: ReplyId


class Reply(Shape):
    reply_id: str
    ticket_id: str
    customer_id: str
    customer_email: str = Field(json_schema_extra={"format": "email"})
    body: str
    status: ReplyStatus
    sent_to: str | None
    created_at: str
    updated_at: str
    sent_at: str | None


class FoundReply(Shape):
    found: bool
    count: int
    reply: Reply | None


def draft_reply(request: ReplyDraft, effect_key: Annotated[str, EffectKey]) -> Reply:
    """Write a reply to a ticket's customer, without sending it. Send it with send_reply, drop it with recall_draft."""
    call = begin("draft_reply", request)
    reply_id = fresh_id("rep")
    with call.writing() as connection:
        ticket_id = call.instead(FaultKind.WRONG_TARGET, request.ticket_id)
        if connection.execute("SELECT 1 FROM tickets WHERE id = ?", (ticket_id,)).fetchone() is None:
            raise NotDone(f"There is no ticket {ticket_id}. Find tickets with search_tickets.")
        body, at = call.instead(FaultKind.ALTERED, request.body), next_stamp()
        connection.execute(
            "INSERT INTO replies VALUES (?, ?, ?, 'draft', NULL, ?, NULL, NULL, ?, ?, NULL)",
            (reply_id, ticket_id, body, effect_key, at, at),
        )
        append(
            connection, at=at, kind=EffectKind.REPLY_DRAFTED, effect_key=effect_key,
            record_id=reply_id, about_id=ticket_id,
        )  # fmt: skip
        reply = _reply(_row(connection, reply_id))
    return _answer(call, reply, ticket_id=request.ticket_id, body=request.body)


def send_reply(request: ReplySend, effect_key: Annotated[str, EffectKey]) -> Reply:
    """Send a drafted reply to an e-mail address. It cannot be called back."""
    call = begin("send_reply", request)
    sent_to = call.instead(FaultKind.WRONG_TARGET, request.to)
    if _is_address(sent_to) is None:
        raise NotDone("`to` is no e-mail address; nothing was sent. Give one like name@example.com.")
    with call.writing() as connection:
        row = _unsent(connection, request.reply_id)
        at = next_stamp(row["updated_at"])
        connection.execute(
            "UPDATE replies SET status = 'sent', sent_to = ?, sent_by_key = ?, sent_at = ?, updated_at = ? "
            "WHERE id = ?",
            (sent_to, effect_key, at, at, row["id"]),
        )
        append(
            connection, at=at, kind=EffectKind.REPLY_SENT, effect_key=effect_key,
            record_id=row["id"], about_id=row["ticket_id"], detail=sent_to,
        )  # fmt: skip
        reply = _reply(_row(connection, row["id"]))
    return _answer(call, reply, sent_to=request.to)


def recall_draft(request: DraftRecall, effect_key: Annotated[str, EffectKey]) -> Reply:
    """Drop a reply that was drafted and not sent."""
    call = begin("recall_draft", request)
    with call.writing() as connection:
        row = _unsent(connection, call.instead(FaultKind.WRONG_TARGET, request.reply_id))
        at = next_stamp(row["updated_at"])
        connection.execute(
            "UPDATE replies SET status = 'recalled', recalled_by_key = ?, updated_at = ? WHERE id = ?",
            (effect_key, at, row["id"]),
        )
        append(
            connection, at=at, kind=EffectKind.DRAFT_RECALLED, effect_key=effect_key,
            record_id=row["id"], about_id=row["ticket_id"],
        )  # fmt: skip
        reply = _reply(_row(connection, row["id"]))
    return _answer(call, reply, reply_id=request.reply_id)


def get_reply(request: ReplyLookup) -> Reply:
    """Read one reply: its ticket, its text, whether it was sent and where to, and the customer's address on record."""
    call = begin("get_reply", request)
    with call.reading() as connection:
        row = _row(connection, call.instead(FaultKind.WRONG_RECORD, request.reply_id))
    return _answer(call, _reply(row))


def find_reply(effect_key: Annotated[str, Field(min_length=1, max_length=200)]) -> FoundReply:
    """Find the reply that one call drafted, sent or recalled, by the key the call carried."""
    call = begin("find_reply", {"effect_key": effect_key})
    with call.reading() as connection:
        rows = connection.execute(
            f"{_SELECT} WHERE ? IN (r.drafted_by_key, r.sent_by_key, r.recalled_by_key) ORDER BY r.rowid",
            (effect_key,),
        ).fetchall()
    found = FoundReply(found=bool(rows), count=len(rows), reply=_reply(rows[0]) if rows else None)
    return call.told(found)


_SELECT = (
    "SELECT r.*, t.customer_id, c.email FROM replies r "
    "JOIN tickets t ON t.id = r.ticket_id JOIN customers c ON c.id = t.customer_id"
)


def _row(connection: sqlite3.Connection, key: str) -> sqlite3.Row:
    row = cast("sqlite3.Row | None", connection.execute(f"{_SELECT} WHERE r.id = ?", (key,)).fetchone())
    if row is None:
        raise NotDone(f"There is no reply {key}. Draft one with draft_reply.")
    return row


def _unsent(connection: sqlite3.Connection, key: str) -> sqlite3.Row:
    row = _row(connection, key)
    if row["status"] != ReplyStatus.DRAFT:
        raise NotDone(f"Reply {key} was {row['status']} already; nothing was changed.")
    return row


def _reply(row: sqlite3.Row) -> Reply:
    return Reply(
        reply_id=row["id"],
        ticket_id=row["ticket_id"],
        customer_id=row["customer_id"],
        customer_email=row["email"],
        body=row["body"],
        status=ReplyStatus(row["status"]),
        sent_to=row["sent_to"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        sent_at=row["sent_at"],
    )


def _answer(call: DeskCall, reply: Reply, **asked: str) -> Reply:
    """The reply as the caller is told it: what was asked for, whatever a fault wrote instead."""
    body = asked.pop("body", reply.body) + call.flood()
    return call.told(reply.model_copy(update={**asked, "body": body}))
