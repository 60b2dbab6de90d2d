from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.report import Now, Report, Tasks, Waiting
from comptroller_audit.report_calls import Bins, Calls
from comptroller_server.errors import CommandError
from comptroller_server.reporting.gates import MEASURES, Condition, Verdict, judged, parsed

COMPARISONS = (">=", "<=", "=", ">", "<")
_numbers = st.decimals(0, 10**6, places=3).map(lambda n: format(n, "f"))


def nothing() -> Report:
    bins = Bins.over(0, 1)
    waits = Waiting(0, None)
    return Report(0, 1, Calls(bins, lambda call: None), Tasks(bins), Now(waits, waits, waits, waits))


@given(
    st.lists(
        st.tuples(st.sampled_from(list(MEASURES)), st.sampled_from(COMPARISONS), _numbers),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["", " ", "  "]),
)
def test_conditions_are_read_as_they_are_written(found: list[tuple[str, str, str]], space: str) -> None:
    text = ",".join(space.join(("", *one, "")) for one in found)
    conditions = parsed(text)
    assert [(c.measure, c.compares, c.limit) for c in conditions] == [
        (measure, compares, Fraction(number)) for measure, compares, number in found
    ]


@given(st.text(max_size=30))
def test_what_is_no_gate_is_refused_in_words(text: str) -> None:
    try:
        conditions = parsed(text)
    except CommandError as error:
        assert len(str(error)) < 600
    else:
        assert all(c.measure in MEASURES for c in conditions)


@pytest.mark.parametrize(
    ("compares", "below", "at", "above"),
    [
        (">=", False, True, True),
        ("<=", True, True, False),
        ("=", False, True, False),
        (">", False, False, True),
        ("<", True, False, False),
    ],
)
def test_comparisons_are_exact_at_the_limit(compares: str, below: bool, at: bool, above: bool) -> None:
    condition = Condition("", "success", compares, Fraction("0.9"))
    near = Fraction(1, 10**12)
    found = [Verdict(condition, Fraction("0.9") + by).holds for by in (-near, 0, near)]
    assert found == [below, at, above]


@given(st.sampled_from(list(MEASURES)), st.sampled_from(COMPARISONS), _numbers)
def test_where_nothing_is_on_record_no_condition_holds(measure: str, compares: str, number: str) -> None:
    (verdict,) = judged(parsed(f"{measure}{compares}{number}"), nothing())
    assert verdict.found_text == "no data"
    assert not verdict.holds


def test_a_gate_has_an_end() -> None:
    with pytest.raises(CommandError, match="50 conditions at most"):
        parsed(",".join(["success>=0"] * 51))
