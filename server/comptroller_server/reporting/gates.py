"""`--gate`: conditions on the numbers of a report, such as `success>=0.9,p99_ms<=800`. What has no data never holds."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

from comptroller_audit.report import Report, TaskEnd
from comptroller_audit.vocabulary import MICRO, JsonObject
from comptroller_server.errors import CommandError

__all__ = ["MEASURES", "Condition", "Verdict", "judged", "parsed"]

CONDITIONS_MAX = 50
_CONDITION = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(>=|<=|=|>|<)\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*")
_COMPARE: Mapping[str, Callable[[Fraction, Fraction], bool]] = MappingProxyType(
    {">=": operator.ge, "<=": operator.le, "=": operator.eq, ">": operator.gt, "<": operator.lt}
)
Number = Fraction | None


@dataclass(frozen=True, slots=True)
class Condition:
    """`measure` compared with `limit`; `text` is how it was written."""

    text: str
    measure: str
    compares: str
    limit: Fraction


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition with what was found: None is no data, and does not hold."""

    condition: Condition
    found: Number

    @property
    def holds(self) -> bool:
        if self.found is None:
            return False
        return _COMPARE[self.condition.compares](self.found, self.condition.limit)

    @property
    def found_text(self) -> str:
        return "no data" if self.found is None else format(float(self.found), ".6g")

    def as_json(self) -> JsonObject:
        return {
            "condition": self.condition.text,
            "measure": self.condition.measure,
            "found": None if self.found is None else round(float(self.found), 6),
            "holds": self.holds,
        }


def parsed(text: str) -> tuple[Condition, ...]:
    """Conditions divided by commas. Raises `CommandError`, which quotes what is wrong and lists the measures."""
    parts = text.split(",")
    if len(parts) > CONDITIONS_MAX:
        raise CommandError(f"a gate has {CONDITIONS_MAX} conditions at most, and this one {len(parts)}")
    return tuple(_condition(part) for part in parts)


def _condition(part: str) -> Condition:
    shown = repr(part.strip())[:80]
    if not part.strip():
        raise CommandError("the gate has an empty condition; write it like `success>=0.9,containment=1`")
    found = _CONDITION.fullmatch(part)
    if found is None:
        raise CommandError(
            f"{shown} is no condition; write a measure, one of >= <= = > <, and a number, like `success>=0.9`"
        )
    measure, compares, number = found.groups()
    if measure not in MEASURES:
        raise CommandError(f"{shown}: there is no measure {measure!r}; there are {', '.join(MEASURES)}")
    return Condition(part.strip(), measure, compares, Fraction(number))


def judged(conditions: Sequence[Condition], report: Report) -> list[Verdict]:
    return [Verdict(each, MEASURES[each.measure](report)) for each in conditions]


def _of_ended(end: TaskEnd) -> Callable[[Report], Number]:
    """A count of ended tasks; without any ended task there is nothing to count."""
    return lambda report: Fraction(report.tasks.ends[end]) if report.tasks.ended else None


def _percentile(percent: int) -> Callable[[Report], Number]:
    def read(report: Report) -> Number:
        found = report.calls.total.percentile(percent)
        return None if found is None else Fraction(found)

    return read


def _if_attempted(count: Callable[[Report], int]) -> Callable[[Report], Number]:
    return lambda report: None if report.calls.containment is None else Fraction(count(report))


def _if_recorded(count: Callable[[Report], int]) -> Callable[[Report], Number]:
    return lambda report: Fraction(count(report)) if report.calls.entries else None


def _cost_per_success(report: Report) -> Number:
    found = report.tasks.cost_per_success_micro
    return None if found is None else found / MICRO


def _silent_wrong(report: Report) -> Number:
    """Where no call ran and no task ended, nobody could have been wrong, and nothing was shown."""
    return Fraction(report.silent_wrong) if report.calls.ran or report.tasks.ended else None


MEASURES: Mapping[str, Callable[[Report], Number]] = MappingProxyType(
    {
        "success": lambda report: report.tasks.success,
        "containment": lambda report: report.calls.containment,
        "outside": _if_attempted(lambda report: report.calls.outside),
        "silent_wrong": _silent_wrong,
        "cost_per_success_usd": _cost_per_success,
        "p50_ms": _percentile(50),
        "p95_ms": _percentile(95),
        "p99_ms": _percentile(99),
        "succeeded": _of_ended(TaskEnd.SUCCEEDED),
        "claimed": _of_ended(TaskEnd.CLAIMED),
        "handed_off": _of_ended(TaskEnd.HANDED_OFF),
        "abandoned": _of_ended(TaskEnd.ABANDONED),
        "failed": _of_ended(TaskEnd.FAILED),
        "in_doubt": _if_recorded(lambda report: report.now.in_doubt.count),
        "approvals_waiting": _if_recorded(lambda report: report.now.approvals.count),
        "handoffs_open": _if_recorded(lambda report: report.now.handoffs.count),
        "exhausted": _if_attempted(lambda report: report.calls.exhausted.total()),
    }
)
"""Names that a gate may use. docs/report.md tells what each one counts."""
