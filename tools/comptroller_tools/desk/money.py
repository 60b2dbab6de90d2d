"""Money on the desk: integer US cents in tables, exact dollars in answers."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import PlainSerializer, WithJsonSchema

__all__ = ["CENT", "Usd", "cents_as_usd"]

CENT = Decimal("0.01")

Usd = Annotated[
    Decimal,
    PlainSerializer(float, return_type=float),
    WithJsonSchema({"type": "number", "multipleOf": 0.01}, mode="serialization"),
]
"""US dollars, exact to the cent; a JSON number outside."""


def cents_as_usd(cents: int) -> Decimal:
    return Decimal(cents) * CENT
