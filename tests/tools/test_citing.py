"""Demands for citations: what models are told of them, and which can never be met."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_tools.citing import (
    NOTE_CHARS_MAX,
    CitationTerms,
    age,
    citation_findings,
    citation_note,
    needs_citation,
    span,
)
from comptroller_tools.declarations import ToolConfig
from comptroller_tools.records import ShownRecord, released_records

KINDS = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,63}", fullmatch=True)


def tool(name: str, *, read: bool = False, **more: Any) -> ToolConfig:
    return ToolConfig.model_validate({"name": name, "allow_actions": ["read" if read else "create"], **more})


def reads(kind: str, *, listed: bool = False) -> ToolConfig:
    id_ = "{output.items[].id}" if listed else "{output.id}"
    return tool(f"read_{kind}", read=True, records=[{"kind": kind, "id": id_}])


def found(*tools: ToolConfig, **terms: Any) -> list[str]:
    return [f.where for f in citation_findings([(one, "desk") for one in tools], CitationTerms(**terms))]


# -- demands ------------------------------------------------------------------------------------------------------


@given(st.lists(KINDS, max_size=12), st.none() | KINDS, st.booleans(), st.none() | st.integers(1, 10**9))
def test_the_note_is_short_and_there_exactly_when_citations_are_demanded(
    kinds: list[str], own: str | None, required: bool, fresh_ms: int | None
) -> None:
    config = tool("pay", cites=kinds, resource=None if own is None else f"{own}:{{input.id}}")
    terms = CitationTerms(required=required, fresh_ms=fresh_ms)
    note = citation_note(config, terms)
    assert len(note) <= NOTE_CHARS_MAX
    assert bool(note) == needs_citation(config, terms) == (required or bool(kinds))


def test_a_read_needs_no_citation() -> None:
    assert not needs_citation(tool("look", read=True), CitationTerms(required=True))


def test_a_demand_that_no_call_could_meet_is_a_finding_at_its_place() -> None:
    pay = tool("pay", cites=["invoice"], resource="invoice:{input.id}")
    assert found(pay, reads("invoice")) == []
    assert found(pay) == ["tools.pay.cites"]
    assert found(pay, reads("invoice", listed=True)) == ["tools.pay.cites"]
    assert found(pay, reads("invoice"), sources=frozenset({"wiki"})) == ["tools.pay.cites"]
    alone = tool("pay", cites=["refund"], records=[{"kind": "refund", "id": "{output.id}"}])
    assert found(alone) == ["tools.pay.cites"]
    other = tool("pay", cites=["ticket"], resource="invoice:{input.id}")
    assert found(other, reads("ticket")) == ["tools.pay.resource"]


def test_demands_in_the_wrong_place_are_findings() -> None:
    assert found(tool("look", read=True, cites=["invoice"]), reads("invoice")) == ["tools.look.cites"]
    assert found(tool("pay", cites=["invoice"], why=False), reads("invoice")) == ["tools.pay.why"]


def test_where_every_side_effect_must_cite_something_must_be_citable() -> None:
    assert found(tool("pay"), tool("look", read=True), required=True) == ["safety.require_citations"]
    assert found(tool("pay"), reads("invoice", listed=True), required=True) == ["safety.require_citations"]
    assert found(tool("pay"), reads("invoice"), required=True) == []
    assert found(tool("look", read=True), required=True) == []


@pytest.mark.parametrize(
    ("ms", "said", "ago"),
    [
        (1, "0.001 s", "less than a second"),
        (1_500, "1.5 s", "1 s"),
        (60_000, "1 minute", "1 minute"),
        (61_900, "61.9 s", "61 s"),
        (300_000, "5 minutes", "5 minutes"),
        (301_000, "301 s", "5 minutes"),
    ],
)
def test_spans_and_ages_are_said_plainly(ms: int, said: str, ago: str) -> None:
    assert (span(ms), age(ms)) == (said, ago)


# -- refs of what was released ------------------------------------------------------------------------------------


def test_only_a_record_whose_id_and_version_are_shown_as_they_are_is_released() -> None:
    rules = tool(
        "t", read=True, records=[{"kind": "c", "id": "{output.id}", "version": "{output.v}"}]
    ).records
    whole = {"id": "c1", "v": "7", "mail": "a@b.example"}
    hidden = {**whole, "mail": "[withheld: email]"}

    def shown(released: dict[str, Any]) -> tuple[ShownRecord, ...]:
        return released_records(rules, released, whole, whole, {}, lambda _: "digest")

    assert shown(hidden) == (ShownRecord("c", "c1", "7"),)
    assert shown({**hidden, "id": "[withheld: secret]"}) == ()
    assert shown({**hidden, "v": "⟦phone:1⟧"}) == ()


def test_without_a_version_the_digest_is_of_what_goes_on_record() -> None:
    rules = tool("t", read=True, records=[{"kind": "c", "id": "{output.id}"}]).records
    kept = {"id": "c1", "mail": "a@b.example"}
    (record,) = released_records(rules, {"id": "c1", "mail": "⟦email:1⟧"}, kept, {**kept}, {}, str)
    assert record.version == str(kept)
