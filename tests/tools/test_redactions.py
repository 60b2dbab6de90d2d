"""Which fields of a tool are withheld, and what is wrong with rules that would withhold nothing, or an id."""

from __future__ import annotations

from typing import Any

import pytest

from comptroller_audit.redaction import Audience, Pattern, Release
from comptroller_audit.vocabulary import Json
from comptroller_tools.declarations import ToolConfig
from comptroller_tools.redactions import redactions_of

INPUT: dict[str, Any] = {
    "type": "object",
    "properties": {"ticket_id": {"type": "string"}, "message": {"$ref": "#/$defs/Message"}},
    "$defs": {
        "Message": {
            "type": "object",
            "properties": {"to": {"type": "string", "format": "email"}, "body": {"type": "string"}},
        }
    },
}
OUTPUT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "ticket_id": {"type": "string"},
        "account": {"type": "string", "x-comptroller-redact": True},
        "customer": {
            "type": "object",
            "properties": {"email": {"type": "string", "format": "email"}, "id": {"type": "string"}},
        },
        "lines": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"sku": {"type": "string"}, "iban": {"type": "string"}},
            },
        },
    },
}


def found(
    emails: bool = True, output: dict[str, Any] | None = OUTPUT, **written: Any
) -> list[tuple[str, str]]:
    config = ToolConfig.model_validate({"name": "t", **written})
    return redactions_of(config, INPUT, output, emails=emails)[1]


def shown(value: Json, audience: Audience = Audience.MODEL, *, emails: bool = True, **written: Any) -> Json:
    config = ToolConfig.model_validate({"name": "t", **written})
    rules, problems = redactions_of(config, INPUT, OUTPUT, emails=emails)
    assert problems == []
    return Release().with_fields(rules.output).release(value, audience).value


def test_a_rule_withholds_its_field_by_name_anywhere_or_by_path_from_the_root() -> None:
    value: Json = {"email": "x", "customer": {"email": "y", "id": "c1"}, "lines": [{"iban": "z", "sku": "s"}]}
    named = shown(value, emails=False, redact=[{"path": "email"}, {"path": "iban", "as": "account"}])
    assert named == {
        "email": "[withheld: email]",
        "customer": {"email": "[withheld: email]", "id": "c1"},
        "lines": [{"iban": "[withheld: account]", "sku": "s"}],
    }
    rooted = shown(
        value, emails=False, redact=[{"path": "customer.email"}, {"path": "$.lines.*", "as": "line"}]
    )
    assert rooted == {
        "email": "x",
        "customer": {"email": "[withheld: email]", "id": "c1"},
        "lines": [{"iban": "[withheld: line]", "sku": "[withheld: line]"}],
    }


def test_schemas_mark_fields_and_addresses_only_where_addresses_are_looked_for() -> None:
    value: Json = {"account": "a", "customer": {"email": "y"}}
    assert shown(value) == {"account": "[withheld: account]", "customer": {"email": "[withheld: email]"}}
    assert shown(value, emails=False) == {"account": "[withheld: account]", "customer": {"email": "y"}}


@pytest.mark.parametrize("audience", [Audience.MODEL, Audience.PERSON])
def test_visible_to_shows_a_field_to_those_it_names_and_to_no_log(audience: Audience) -> None:
    rule = {"path": "account", "visible_to": [audience.value]}
    others = {Audience.MODEL, Audience.PERSON, Audience.LOG} - {audience}
    assert shown({"account": "a"}, audience, redact=[rule]) == {"account": "a"}
    assert shown({"account": "a"}, Audience.RECORD, redact=[rule]) == {"account": "a"}
    for other in others:
        assert shown({"account": "a"}, other, redact=[rule]) == {"account": "[withheld: account]"}


@pytest.mark.parametrize("path", ["acount", "customer.mail", "$.email", "lines.customer", "message.cc"])
def test_a_path_that_names_nothing_is_a_finding(path: str) -> None:
    ((field, problem),) = found(redact=[{"path": path}])
    assert field == "redact[0].path"
    assert "no field" in problem


@pytest.mark.parametrize(
    "path", ["account", "customer.email", "$.lines.*", "message.to", "lines.iban", "body"]
)
def test_a_path_that_names_a_field_of_arguments_or_output_is_none(path: str) -> None:
    assert found(redact=[{"path": path}]) == []


@pytest.mark.parametrize(
    "schema", [None, {"type": "object"}, {"type": "object", "additionalProperties": True}]
)
def test_where_the_schema_says_nothing_any_path_may_be_meant(schema: dict[str, Any] | None) -> None:
    assert found(output=schema, redact=[{"path": "whatever.there"}]) == []


def test_tokens_are_taken_by_arguments_only() -> None:
    assert found(takes_tokens=["message.to", "ticket_id"]) == []
    for path in ("to", "account", "message.cc", "a..b"):
        ((field, _),) = found(takes_tokens=[path])
        assert field == "takes_tokens[0]"


@pytest.mark.parametrize(
    "written",
    [
        {"redact": [{"path": "ticket_id"}]},
        {"redact": [{"path": "$.*"}]},
        {"resource": "customer:{input.message.to}"},
        {"redact": [{"path": "customer"}], "records": [{"kind": "c", "id": "{output.customer.id}"}]},
        {"records": [{"kind": "line", "id": "{output.lines[].iban}"}], "redact": [{"path": "iban"}]},
        {"records": [{"kind": "customer", "id": "{output.customer.email}"}]},
    ],
)
def test_an_id_that_would_be_withheld_is_a_finding(written: dict[str, Any]) -> None:
    records = [{"kind": "ticket", "id": "{output.ticket_id}"}]
    config = ToolConfig.model_validate({"name": "t", "records": records, **written})
    _, problems = redactions_of(config, INPUT, OUTPUT, emails=True)
    assert problems
    assert "names as an id" in problems[0][1]


def test_declared_ids_stay_as_they_are_whatever_they_look_like() -> None:
    records = [{"kind": "ticket", "id": "{output.ticket_id}"}, {"kind": "line", "id": "{output.lines[].sku}"}]
    config = ToolConfig.model_validate({"name": "t", "records": records})
    rules, _ = redactions_of(config, INPUT, OUTPUT, emails=False)
    value: Json = {"ticket_id": "+442079460958", "lines": [{"sku": "+442079460958", "iban": "+442079460958"}]}
    released = Release((), set(Pattern)).with_fields(rules.output).release(value, Audience.MODEL).value
    assert released == {
        "ticket_id": "+442079460958",
        "lines": [{"sku": "+442079460958", "iban": "[withheld: phone]"}],
    }
