"""Ready-made checks: do the totals reconcile? Sums are exact, in decimals."""

from __future__ import annotations

from decimal import Decimal

from comptroller_tools.checks import CallView, CheckVerdict, DataPath, Failed, Frozen, Passed

__all__ = ["lines_sum_to", "sum_within"]


def sum_within(call: CallView, *, parts: tuple[DataPath, ...], most: DataPath) -> CheckVerdict:
    """The parts together are at most `most`: what is refunded and what is asked for, within what was paid."""
    total = sum((_number(call.value(part)) for part in parts), Decimal())
    limit = _number(call.value(most))
    if total <= limit:
        return Passed()
    return Failed(f"{' and '.join(parts)} come to more than {most}.")


def lines_sum_to(call: CallView, *, lines: DataPath, field: str, total: DataPath) -> CheckVerdict:
    """The amounts of a record's lines, or payments, come to its total."""
    found = sum((_number(line[field]) for line in call.value(lines)), Decimal())
    wanted = _number(call.value(total))
    if found == wanted:
        return Passed()
    return Failed(f"{field} of all {lines} does not come to {total}.")


def _number(value: Frozen) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("an amount is no number")
    return Decimal(repr(value))
