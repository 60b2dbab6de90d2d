"""What models cost: prices as an operator declares them, and exact sums in millionths of a USD.

A price in USD per million tokens is, as a number, micro-USD per token; so no sum here ever leaves the decimals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from functools import cached_property

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["NO_TOKENS", "ModelPrice", "PriceSheet", "Tokens"]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens a model read (`input`) and wrote (`output`)."""

    input: int = 0
    output: int = 0

    @property
    def total(self) -> int:
        return self.input + self.output

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.input + other.input, self.output + other.output)

    def less(self, other: Tokens) -> Tokens:
        """What is left of these after `other`, never below zero."""
        return Tokens(max(0, self.input - other.input), max(0, self.output - other.output))

    def at_least(self, other: Tokens) -> Tokens:
        """The larger one, for each direction."""
        return Tokens(max(self.input, other.input), max(self.output, other.output))


NO_TOKENS = Tokens()


class ModelPrice(BaseModel):
    """One entry of `prices:`, in USD per million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input_usd_per_mtok: Decimal = Field(ge=0, max_digits=12, decimal_places=6)
    output_usd_per_mtok: Decimal = Field(ge=0, max_digits=12, decimal_places=6)


@dataclass(frozen=True)
class PriceSheet:
    """Roles and their models (`models:`), and what models cost (`prices:`). Every model of a role has a price."""

    models: Mapping[str, str] = field(default_factory=dict[str, str])
    prices: Mapping[str, ModelPrice] = field(default_factory=dict[str, ModelPrice])

    def model_of(self, name: str) -> str | None:
        """The model that a role, or a model's own name, means; None for one without a price."""
        model = self.models.get(name, name)
        return model if model in self.prices else None

    @property
    def names(self) -> list[str]:
        """What a report may name."""
        return sorted({*self.models, *self.prices})

    def cost_micro(self, reports: Mapping[str, Tokens], unnamed: Tokens) -> int:
        """What reported tokens cost, by role or model, and tokens of an unnamed model; micro-USD, rounded up.

        Tokens whose model nobody named, and reports under a name that has gone from the config, cost the most that
        a model of this config costs.
        """
        exact = self._priced(self._dearest, unnamed)
        for name, tokens in reports.items():
            model = self.model_of(name)
            exact += self._priced(self._dearest if model is None else _rates(self.prices[model]), tokens)
        return int(exact.to_integral_value(ROUND_CEILING))

    @staticmethod
    def _priced(rates: tuple[Decimal, Decimal], tokens: Tokens) -> Decimal:
        return rates[0] * tokens.input + rates[1] * tokens.output

    @cached_property
    def _dearest(self) -> tuple[Decimal, Decimal]:
        """The highest price of each direction, among the models in use, or else among all that have a price."""
        used = [self.prices[model] for model in self.models.values() if model in self.prices]
        rates = [_rates(price) for price in used or self.prices.values()]
        return (
            max((rate for rate, _ in rates), default=Decimal(0)),
            max((rate for _, rate in rates), default=Decimal(0)),
        )


def _rates(price: ModelPrice) -> tuple[Decimal, Decimal]:
    return price.input_usd_per_mtok, price.output_usd_per_mtok
