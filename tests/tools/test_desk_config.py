"""The desk's own configuration: it loads, its paths exist, its policies compile, and they decide as they read."""

from __future__ import annotations

from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.vocabulary import Actor, Effect, Principal, Subject
from comptroller_policy.bundle import compile_bundle
from comptroller_policy.engine import Bundle
from comptroller_policy.model import Question, Record, ToolFacts, Verdict
from comptroller_server.config.loading import Config, load_config
from comptroller_tools.functions import FunctionSource
from comptroller_tools.records import check_records, check_resource
from comptroller_tools.source import ToolDefinition
from comptroller_tools.validation import screen
from comptroller_tools.verification import compile_expectations

CONFIG = Path(str(files("comptroller_tools.desk") / "comptroller.yaml"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return load_config(CONFIG, data_dir=tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def offered() -> dict[str, ToolDefinition]:
    return dict(FunctionSource("desk", "comptroller_tools.desk.tools").definitions())


@pytest.fixture(scope="module")
def bundle(config: Config, offered: dict[str, ToolDefinition]) -> Bundle:
    tools = [
        ToolFacts(
            name=tool.name,
            source="desk",
            effect=tool.effect,
            input_schema=offered[tool.name].input_schema,
            output_schema=offered[tool.name].output_schema,
            rules=tool,
            resource_kind=tool.resource.partition(":")[0] if tool.resource else None,
            fact_schemas={name: offered[fact.tool].output_schema or {} for name, fact in tool.facts.items()},
        )
        for tool in config.tools
    ]
    return compile_bundle(tools, list(config.policies), config.rollout.mode)


def test_every_configured_tool_is_there_and_fits_its_schema(
    config: Config, offered: dict[str, ToolDefinition]
) -> None:
    assert {tool.name for tool in config.tools} <= set(offered)
    for tool in config.tools:
        definition = offered[tool.name]
        assert tool.schema_name in (None, definition.input_schema["title"])
        assert screen(definition, tool.effect) == []


def test_every_declared_path_exists(config: Config, offered: dict[str, ToolDefinition]) -> None:
    for tool in config.tools:
        definition = offered[tool.name]
        schemas: dict[str, Any] = {"input": definition.input_schema, "output": definition.output_schema}
        schemas |= {f"facts.{name}": offered[fact.tool].output_schema for name, fact in tool.facts.items()}
        assert check_records(tool.records, schemas, tool.name) == []
        assert check_resource(tool.resource, definition.input_schema, tool.name) == []
        assert len(compile_expectations(tool.verify, schemas, tool.name)) == len(tool.verify)


def test_what_writes_stores_the_key_of_its_call_and_needs_a_person_unless_it_creates(
    config: Config, offered: dict[str, ToolDefinition]
) -> None:
    for tool in config.tools:
        if tool.effect not in (Effect.READ, Effect.CREATE):
            assert any(rule.when is None for rule in tool.approval), tool.name
        assert offered[tool.name].stores_effect_key == (tool.effect is not Effect.READ)


@pytest.mark.parametrize(
    ("usd", "paid", "roles", "verdict", "policy"),
    [
        (20, 100, {"support_agent"}, Verdict.ALLOW, None),
        (20.01, 100, {"support_agent"}, Verdict.NEEDS_APPROVAL, None),
        (50.01, 100, {"support_agent"}, Verdict.DENY, "issue_refund.max_amount_usd"),
        (15, 10, {"support_agent"}, Verdict.DENY, "refund-within-paid"),
        (5, 100, set[str](), Verdict.DENY, None),
    ],
)
def test_the_rules_of_the_desk_decide_as_they_read(
    bundle: Bundle, usd: float, paid: float, roles: set[str], verdict: Verdict, policy: str | None
) -> None:
    subject = Subject(Principal("local", "local:x", "501"), Actor("triage-bot"), frozenset(roles))
    question = Question(
        tool="issue_refund",
        subject=subject,
        input={"invoice_id": "inv_1", "amount_usd": usd, "reason_code": "goodwill"},
        now_ms=1_795_000_000_000,
        record=Record("invoice", "inv_1"),
        derived={"remaining_usd": Decimal(str(paid))},
        history={"principal.refunds_today": 0},
        facts={},
    )
    decision = bundle.decide(question)
    assert decision.verdict is verdict, decision
    if policy:
        assert policy in decision.policies
