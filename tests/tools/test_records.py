"""Which records a result shows and which record a call acts on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_policy.model import Record
from comptroller_tools.declarations import RecordRule
from comptroller_tools.errors import RecordPathError
from comptroller_tools.records import (
    LISTED_MAX,
    ShownRecord,
    check_records,
    check_resource,
    records_in,
    resource_of,
)

INVOICE = RecordRule(kind="invoice", id="{output.invoice_id}", version="{output.updated_at}")
LISTED = RecordRule(kind="ticket", id="{output.tickets[].id}", version="{output.tickets[].rev}")
OUTPUT_SCHEMA = {
    "type": "object",
    "properties": {
        "invoice_id": {"type": "string"},
        "tickets": {
            "type": "array",
            "items": {"type": "object", "properties": {"id": {"type": "string"}, "rev": {"type": "integer"}}},
        },
    },
}


def test_a_record_is_its_kind_its_key_and_the_version_it_was_shown_in() -> None:
    output = {"invoice_id": "inv_1", "updated_at": "2026-11-22"}
    assert records_in([INVOICE], output, {}) == (ShownRecord("invoice", "inv_1", "2026-11-22"),)


def test_each_item_of_a_list_is_a_listed_record() -> None:
    output = {"tickets": [{"id": "t1", "rev": 1}, {"id": "t2", "rev": 7}]}
    assert records_in([LISTED], output, {}) == (
        ShownRecord("ticket", "t1", "1", listed=True),
        ShownRecord("ticket", "t2", "7", listed=True),
    )


def test_without_a_version_any_change_of_what_is_shown_is_another_version() -> None:
    rule = RecordRule(kind="invoice", id="{output.id}")
    [one] = records_in([rule], {"id": "i", "paid": 50}, {})
    [same] = records_in([rule], {"paid": 50.0, "id": "i"}, {})
    [other] = records_in([rule], {"id": "i", "paid": 51}, {})
    assert one == same
    assert one.version != other.version
    assert len(one.version) == 64


def test_a_listed_record_without_a_version_moves_only_with_its_own_item() -> None:
    rule = RecordRule(kind="t", id="{output.items[].id}")
    first, second = records_in([rule], {"items": [{"id": 1, "a": 1}, {"id": 2, "a": 1}]}, {})
    still, moved = records_in([rule], {"items": [{"id": 1, "a": 1}, {"id": 2, "a": 2}]}, {})
    assert first == still
    assert second != moved


def test_null_shows_no_record() -> None:
    rule = RecordRule(kind="refund", id="{output.refund.id}")
    assert records_in([rule], {"refund": None}, {}) == ()
    assert records_in([rule], {"refund": {"id": None}}, {}) == ()
    assert records_in([LISTED], {"tickets": None}, {}) == ()
    assert records_in([LISTED], {"tickets": []}, {}) == ()


def test_the_same_record_shown_twice_is_one() -> None:
    output = {"invoice_id": "inv_1", "updated_at": "x"}
    assert len(records_in([INVOICE, INVOICE], output, {})) == 1


@pytest.mark.parametrize(
    "output", [{}, {"invoice_id": True}, {"invoice_id": ""}, {"invoice_id": [1]}, [], "text"]
)
def test_an_output_without_a_usable_id_is_an_error(output: Any) -> None:
    with pytest.raises(RecordPathError):
        records_in([RecordRule(kind="i", id="{output.invoice_id}")], output, {})


def test_a_list_path_over_something_else_is_an_error() -> None:
    with pytest.raises(RecordPathError, match="no list"):
        records_in([LISTED], {"tickets": {"id": 1}}, {})


def test_a_long_list_shows_its_first_items() -> None:
    output = {"tickets": [{"id": f"t{n}", "rev": n} for n in range(LISTED_MAX + 50)]}
    assert len(records_in([LISTED], output, {})) == LISTED_MAX


@given(st.lists(st.text(min_size=1, max_size=20), max_size=30, unique=True))
def test_the_ids_of_a_list_come_out_whole_and_in_order(ids: list[str]) -> None:
    output = {"tickets": [{"id": key, "rev": 0} for key in ids]}
    assert [record.key for record in records_in([LISTED], output, {})] == ids


def test_the_resource_is_the_record_the_arguments_name() -> None:
    assert resource_of("invoice:{input.invoice_id}", {"invoice_id": "inv_1"}) == Record("invoice", "inv_1")
    assert resource_of("line:{input.a}/{input.b}", {"a": "x:y", "b": 2}) == Record("line", "x:y/2")
    assert resource_of(None, {}) is None


@pytest.mark.parametrize("value", [None, "", True, 1.5, [1], {"a": 1}, "x" * 257])
def test_arguments_that_name_no_record_stop_the_call(value: Any) -> None:
    with pytest.raises(RecordPathError):
        resource_of("invoice:{input.id}", {"id": value})


def test_an_absent_argument_stops_the_call() -> None:
    with pytest.raises(RecordPathError):
        resource_of("invoice:{input.id}", {})


def test_declared_paths_are_checked_at_load_with_their_field() -> None:
    good = [RecordRule(kind="t", id="{output.tickets[].id}", version="{output.tickets[].rev}")]
    assert check_records(good, {"output": OUTPUT_SCHEMA}, "tools.x") == []
    bad = [
        RecordRule(kind="t", id="{output.tickets[].idd}"),
        RecordRule(kind="t", id="fixed"),
        RecordRule(kind="t", id="{output.invoice_id}", version="{output.nope}"),
        RecordRule(kind="t", id="{output.tickets[].id}", version="{output.others[].rev}"),
    ]
    problems = check_records(bad, {"output": OUTPUT_SCHEMA}, "tools.x")
    assert [problem.split(":")[0] for problem in problems] == [
        "tools.x.records[0].id",
        "tools.x.records[1].id",
        "tools.x.records[2].version",
        "tools.x.records[3]",
        "tools.x.records[3].version",
    ]


def test_a_resource_template_is_checked_at_load() -> None:
    schema = {"type": "object", "properties": {"id": {"type": "string"}}, "additionalProperties": False}
    assert check_resource("invoice:{input.id}", schema, "tools.x") == []
    assert check_resource(None, schema, "tools.x") == []
    for bad in (
        "invoice",
        "invoice:",
        ":{input.id}",
        "{input.id}:x",
        "invoice:{input.idd}",
        "invoice:{output.id}",
    ):
        [problem] = check_resource(bad, schema, "tools.x")
        assert problem.startswith("tools.x.resource: "), bad
