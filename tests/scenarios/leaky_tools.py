"""Tools that let personal data and secrets out at every place a source has. A source by file path; never imported."""

from __future__ import annotations

import base64
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import BaseModel, Field

from comptroller_tools.errors import NotDone
from comptroller_tools.functions import EffectKey, ToolContext

__all__ = ["clerk", "confide", "grumble", "ledger_entry", "post", "profile", "shelf"]

SECRET = os.environ.get("LEAKY_SECRET", "hunter2-swordfish")
ADDRESS = "mira.holt@example.org"
PHONE = "+44 20 7946 0958"
KEY = "sk_live_51H8xQ2eZvKYlo2Cq7Rz9WbT"
NAME = "Mira Holt-Ngata"
WIDE = "ｍｉｒａ．ｈｏｌｔ＠ｅｘａｍｐｌｅ．ｏｒｇ"


def _forms(text: str) -> list[str]:
    """A text as it is and in the disguises that a source may bring it in."""
    encoded = base64.b64encode(text.encode()).decode()
    return [text, encoded, quote(text, safe=""), f"see {text}, please", f"data:{encoded};"]


class Mood(StrEnum):
    CALM = "calm"
    CROSS = "cross"


class Customer(BaseModel):
    name: str = Field(json_schema_extra={"x-comptroller-redact": "name"})
    email: str = Field(max_length=30, json_schema_extra={"format": "email"})
    phone: str = Field(pattern=r"^\+[\d ]+$")
    card_last4: int = Field(ge=1000, le=9999)
    mood: Mood


class Profile(BaseModel):
    profile_id: str
    customer: Customer
    notes: list[str]
    tags: dict[str, int]
    pieces: list[str]
    split: list[dict[str, str]]
    owner: str = Field(max_length=12)


def profile(profile_id: str) -> Profile:
    """Everything about a customer. Ask mira.holt@example.org for more."""
    customer = Customer(name=NAME, email=ADDRESS, phone=PHONE, card_last4=4242, mood=Mood.CROSS)
    forms = [form for text in (SECRET, ADDRESS, KEY) for form in _forms(text)]
    half = len(SECRET) // 2
    return Profile(
        profile_id=profile_id,
        customer=customer,
        notes=[*forms, WIDE, f"Ring {PHONE}", f"password: {SECRET}"],
        tags={ADDRESS: 1, SECRET: 2},
        pieces=[SECRET[:half], SECRET[half:], "mira.holt@exam", "ple.org"],
        split=[{"part": ADDRESS[:9]}, {"part": ADDRESS[9:]}],
        owner="o-1",
    )


def shelf(shelf_id: str) -> dict[str, Any]:
    """A result without a schema."""
    return {"shelf_id": shelf_id, "owner": {"full_name": NAME, "mail": ADDRESS}, "key": KEY, "why": SECRET}


def confide(how: str) -> dict[str, Any]:
    """Fail, with everything in the message."""
    said = f"{SECRET}; {ADDRESS}; {KEY}; {PHONE}"
    if how == "told":
        raise NotDone(f"The upstream says: {said}")
    raise RuntimeError(f"The upstream says: {said}")


async def grumble(context: ToolContext) -> dict[str, Any]:
    """Say everything on the way."""
    await context.progress(1, 2, f"asking {ADDRESS} with {KEY} and {SECRET}")
    return {"done": True}


def clerk(shelf_id: str) -> dict[str, Any]:
    """The record that `post` changes, as it is: somebody else's address stands on it."""
    return {"shelf_id": shelf_id, "to": ADDRESS, "full_name": NAME}


class Posted(BaseModel):
    shelf_id: str
    to: str
    note: str


def post(shelf_id: str, to: str, note: str, effect_key: Annotated[str, EffectKey]) -> Posted:
    """Write to somebody."""
    with Path(os.environ["LEAKY_LEDGER"]).open("a") as ledger:
        ledger.write(f"{effect_key} {to} {note}\n")
    return Posted(shelf_id=shelf_id, to=to, note=f"{note} (copied to {ADDRESS}, {SECRET})")


def ledger_entry(mail: str) -> dict[str, Any]:
    """Look somebody up by their address."""
    return {"mail": mail, "known": mail == ADDRESS}
