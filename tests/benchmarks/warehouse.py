"""The system of record that both servers of the benchmark work on: a warehouse in memory, one item per id."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

__all__ = ["Item", "Moved", "move_stock", "read_item"]

ON_HAND = 1_000_000


class Item(BaseModel):
    """One item as the warehouse holds it."""

    item_id: str
    name: str
    on_hand: int
    on_hold: bool
    updated_at: str


class Moved(BaseModel):
    """What a move did."""

    item_id: str
    quantity: int
    on_hand: int


async def read_item(item_id: str) -> Item:
    """Read one item."""
    return Item(
        item_id=item_id, name="bolt M8", on_hand=ON_HAND, on_hold=False, updated_at="2026-11-22T10:00:00Z"
    )


async def move_stock(item_id: str, quantity: int, reason_code: Literal["sold", "damaged", "count"]) -> Moved:
    """Take items out of the stock."""
    return Moved(item_id=item_id, quantity=quantity, on_hand=ON_HAND - quantity)
