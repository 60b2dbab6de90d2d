"""Values and their marks: spellings of one thing meet, lists are as trusted as their worst item, full sets know no more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.vocabulary import Json
from comptroller_policy.declarations import Aim, Origin
from comptroller_tools.errors import ProvenanceBroken
from comptroller_tools.provenance import MARKS_MAX, Marker, NoteMarks, marks_in
from comptroller_tools.wording import RESULT_CHARS_MAX, first_mentioned, forms_of, mentioned_in

MARKER = Marker(b"k" * 32, "task")
ORIGINS = (Origin.REQUEST, Origin.TRUSTED, Origin.UNTRUSTED)


def seen(**values: list[Json]) -> frozenset[str]:
    """The marks of values seen under each origin."""
    return frozenset(
        mark
        for origin, listed in values.items()
        for value in listed
        for mark in MARKER.marks(Origin(origin), mentioned_in(value))
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Write to Ann <ANN@example.com>, please.", "ann@example.com"),
        ("mailto:ann@example.com", "ann@example.com"),
        ("See https://example.com/a?b=1.", "https://example.com/a?b=1"),
        ("Pay DE89 3704 0044 0532 0130 00 today", "DE89370400440532013000"),
        ("account DE89370400440532013000", "de89 3704 0044 0532 0130 00"),
        ("The sum is $1,234.50.", 1234.5),
        (40, "40.00"),
        ("Keep /srv/docs/a.txt as it is", "/srv/docs/a.txt"),
        ("Refund inv_k3v8m2qa!", "inv_k3v8m2qa"),
        ("  Full   Name ", "full name"),
        ("\uff21\uff22@example.com", "ab@example.com"),
    ],
)
def test_a_name_is_found_in_what_mentions_it_however_it_is_spelled(text: Json, value: Json) -> None:
    assert MARKER.weigh(value, Aim.TARGET, seen(trusted=[text])) is Origin.TRUSTED


@pytest.mark.parametrize(
    "value", ["eve@example.com", "ann@example.co", "ann", "", " ", True, "ann@example.com, eve@example.com"]
)
def test_what_is_only_part_of_a_name_or_more_than_one_is_not_that_name(value: Json) -> None:
    known = seen(trusted=["Write to ann@example.com", "", True])
    assert MARKER.weigh(value, Aim.TARGET, known) is Origin.UNTRUSTED
    assert MARKER.weigh(value, Aim.VALUE, known) is Origin.NEW


def test_the_most_trusted_origin_counts_and_belongs_to_its_task() -> None:
    known = seen(untrusted=["a@b.example"], trusted=["a@b.example"])
    assert MARKER.weigh("a@b.example", Aim.TARGET, known) is Origin.TRUSTED
    assert Marker(b"k" * 32, "other").weigh("a@b.example", Aim.VALUE, known) is Origin.NEW
    assert Marker(b"l" * 32, "task").weigh("a@b.example", Aim.VALUE, known) is Origin.NEW


@given(st.lists(st.sampled_from([*ORIGINS, Origin.NEW]), min_size=1, max_size=6))
def test_a_list_is_as_trusted_as_the_worst_of_it(origins: list[Origin]) -> None:
    values: list[Json] = [f"item_{at}@x.example" for at in range(len(origins))]
    known = frozenset(
        MARKER.mark(origin, form)
        for origin, value in zip(origins, values, strict=True)
        if origin is not Origin.NEW
        for form in forms_of(value)
    )
    worst = max(origins, key=[*ORIGINS, Origin.NEW].index)
    assert MARKER.weigh(values, Aim.VALUE, known) is worst
    assert MARKER.weigh({"to": values}, Aim.VALUE, known) is worst
    bad = worst in (Origin.UNTRUSTED, Origin.NEW)
    assert MARKER.weigh(values, Aim.TARGET, known) is (Origin.UNTRUSTED if bad else worst)


def test_names_of_fields_are_weighed_where_they_could_be_values() -> None:
    known = seen(trusted=["ann@example.com"])
    assert MARKER.weigh({"ann@example.com": "ann@example.com"}, Aim.TARGET, known) is Origin.TRUSTED
    assert MARKER.weigh({"eve@example.com": "ann@example.com"}, Aim.TARGET, known) is Origin.UNTRUSTED


@pytest.mark.parametrize("value", [None, [], {}])
def test_what_is_not_there_comes_from_nowhere(value: Json) -> None:
    assert MARKER.weigh(value, Aim.TARGET, frozenset()) is Origin.ABSENT


class _State:
    """The rows that a part sees."""

    def __init__(self) -> None:
        self.rows: dict[object, object] = {}

    def get(self, relation: object, row_id: str) -> object:
        return self.rows.get((relation, row_id))

    def put(self, relation: object, row_id: str, row: object) -> None:
        self.rows[relation, row_id] = row


def test_a_full_set_takes_no_more_and_so_knows_no_more() -> None:
    state, first = _State(), [f"first_{at}" for at in range(MARKS_MAX - 1)]
    for text in (first, ["one_more@x.example", "too_many@x.example"]):
        NoteMarks("task", MARKER.marks(Origin.TRUSTED, text)).apply(state)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] -- two methods of it are used
    (row,) = state.rows.values()
    known = marks_in(row)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] -- as it was put
    assert len(known) == MARKS_MAX
    assert MARKER.weigh("one_more@x.example", Aim.VALUE, known) is Origin.TRUSTED
    assert MARKER.weigh("too_many@x.example", Aim.VALUE, known) is Origin.NEW


def test_of_a_result_without_end_only_the_beginning_is_read() -> None:
    read: list[int] = []

    def endless() -> Iterator[tuple[Json, bool]]:
        while True:
            read.append(1)
            yield "ann@example.com " * 1_000, False

    assert len(list(first_mentioned(endless()))) > 1_000
    assert len(read) * 16_000 < RESULT_CHARS_MAX + 32_000


def test_what_was_not_written_here_is_no_set_of_marks() -> None:
    assert marks_in(None) == frozenset()
    for marks in ("short", "0" * 16 * (MARKS_MAX + 1)):
        with pytest.raises(ProvenanceBroken):
            marks_in({"marks": marks, "held": True})
