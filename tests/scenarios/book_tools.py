"""A book of entries that says how often it was read: two looks at one record, a list of them, and a change."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel

__all__ = ["audit_entry", "change_entry", "list_entries", "show_entry"]


class Entry(BaseModel):
    entry_id: str
    amount: int
    owner: str
    version: int


class Entries(BaseModel):
    entries: list[Entry]


def _book() -> dict[str, Any]:
    path = Path(os.environ["BOOK"])
    book: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"reads": 0, "entries": {}}
    return book


def _keep(book: dict[str, Any]) -> None:
    Path(os.environ["BOOK"]).write_text(json.dumps(book))


def _entry(entry_id: str) -> Entry:
    book = _book()
    _keep({**book, "reads": book["reads"] + 1})
    fresh = {"entry_id": entry_id, "amount": 10, "owner": "ann", "version": 1}
    return Entry.model_validate(book["entries"].get(entry_id, fresh))


def show_entry(entry_id: str) -> Entry:
    """Show one entry."""
    return _entry(entry_id)


def audit_entry(entry_id: str) -> Entry:
    """Show one entry to those who audit the book."""
    return _entry(entry_id)


def list_entries(entry_ids: list[str]) -> Entries:
    """Show several entries."""
    return Entries(entries=[_entry(entry_id) for entry_id in entry_ids])


def change_entry(entry_id: str, amount: int) -> Entry:
    """Change the amount of an entry."""
    book, entry = _book(), _entry(entry_id)
    changed = entry.model_copy(update={"amount": amount, "version": entry.version + 1})
    book["entries"][entry_id] = changed.model_dump()
    book["changes"] = book.get("changes", 0) + 1
    _keep(book)
    return changed
