"""Ready-made checks: does a change break the rules? For what works like configuration: roles, durations, settings."""

from __future__ import annotations

from comptroller_tools.checks import CallView, CheckVerdict, DataPath, Failed, Passed, ResultView

__all__ = ["changes_only", "holds", "not_above"]


def holds(call: CallView, *, values: tuple[DataPath, ...]) -> CheckVerdict:
    """Every value is true: what must have been agreed to has been."""
    untrue = [path for path in values if call.value(path) is not True]
    return Failed(f"{' and '.join(untrue)} must be true.") if untrue else Passed()


def not_above(
    call: CallView, *, value: DataPath, limit: DataPath, order: tuple[str, ...] = ()
) -> CheckVerdict:
    """The value is no more than the limit: as numbers, or by their places in `order`, from the least to the most."""
    asked, most = call.value(value), call.value(limit)
    if order:
        within = order.index(asked) <= order.index(most)
    else:
        if any(isinstance(number, bool) or not isinstance(number, int | float) for number in (asked, most)):
            raise TypeError("one of the two is no number; give an order for words")
        within = asked <= most
    return Passed() if within else Failed(f"{value} is above {limit}.")


def changes_only(result: ResultView, *, fact: str, fields: tuple[str, ...]) -> CheckVerdict:
    """After the call nothing in the record is another but `fields`."""
    before, after = result.facts[fact], result.after[fact]
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    beyond = [name for name in changed if name not in fields]
    return Failed(f"{', '.join(beyond)} of {fact} changed too.") if beyond else Passed()
