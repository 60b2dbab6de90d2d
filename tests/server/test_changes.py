"""What changed between two looks at a record, in few words."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.vocabulary import JsonObject
from comptroller_server.call.changes import CHANGES_MAX, changes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, JSON)
def test_what_changed_is_few_short_and_nothing_for_the_same_record(before: Any, now: Any) -> None:
    assert changes(now, now) == []
    told = changes(before, now)
    assert len(told) <= CHANGES_MAX + 1
    assert all(one.isascii() and one.isprintable() and len(one) < 500 for one in told)


def test_fields_are_named_with_their_values_before_and_after() -> None:
    before: JsonObject = {"paid": 10, "who": {"name": "ann", "mail": "⟦email:1⟧"}, "gone": 1, "odd name!": 1}
    now: JsonObject = {"paid": 10, "who": {"name": "bob", "mail": "⟦email:2⟧"}, "new": [1], "odd name!": 2}
    assert changes(before, now) == [
        "gone was 1 and is not there",
        "new was not there and is [1]",
        'who.name was "ann" and is "bob"',
    ]
    assert changes(None, now) == []
    assert changes({"a": "x" * 100}, {"a": ""}) == [f'a was "{"x" * 59}… and is ""']
